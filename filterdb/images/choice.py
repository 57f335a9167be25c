"""The choice of images: a source, the images in it, and how they are read. Every method that reads images takes this."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from filterdb.errors import InvalidArgument
from filterdb.images.image_set import ImageSet, parse_part
from filterdb.images.open import open_images


@dataclass(frozen=True)
class Images:
    """A choice of images, not yet opened. ``Images("photos/", limit=512)``."""

    data: str | os.PathLike[str] | ImageSet
    """A source of ``open_images``, or an open set."""
    split: str | None = None
    """Which split of the source, where it has several."""
    part: str | None = None
    """``K/N``, counted from 0: one of N disjoint parts, drawn at random by ``seed``; 0/2 is a half."""
    limit: int | None = None
    """Maximum number of images, drawn at random by ``seed`` (from the part). None: the method's default, or all."""
    seed: int = 0
    """Of part and limit."""
    batch_size: int | None = None
    """Images per batch. None: the method's default."""
    workers: int = 0
    """Processes that decode images; 0 decodes in this one."""
    preprocessing: Mapping[str, Any] | None = None
    """How images are prepared (input_size, interpolation, mean, std, crop_pct, crop_mode), where it differs from the model's own.
    A module that timm did not build needs it."""

    @classmethod
    def of(cls, data: str | os.PathLike[str] | ImageSet | Images) -> Images:
        """The argument of a method, as ``Images``."""
        return data if isinstance(data, Images) else cls(data)

    def open(self, limit: int | None = None) -> ImageSet:
        """The chosen set.

        Args:
            limit: the verb's own, where these images say none.

        Raises:
            DataError, NotFound: as ``open_images``.
            InvalidArgument: a split of an open set, or a part or limit that makes no sense.
        """
        if isinstance(self.data, ImageSet):
            if self.split is not None:
                raise InvalidArgument(f"{self.data.name} is an open set of images. Choose the split where you open it.")
            images = self.data
        else:
            images = open_images(os.fspath(self.data), split=self.split)
        if self.part is not None:
            images = images.part(*parse_part(self.part), seed=self.seed)
        most = limit if self.limit is None else self.limit
        return images if most is None else images.limit(most, seed=self.seed)
