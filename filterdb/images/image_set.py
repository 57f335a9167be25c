"""A set of labelled images, decoded one by one when they are asked for, so that the workers of a loader do it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch.utils.data import Dataset

from filterdb.errors import DataError, InvalidArgument

UNLABELLED = -1
"""The label of an image that has none, as the Hugging Face hub writes it."""


class Pictures(Protocol):
    """Where pictures come from. It must be cheap to pickle: workers get a copy."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, i: int) -> Image.Image:
        """Picture i, decoded, as RGB; a DataError that names it where it is broken."""


class ImageSet(Dataset[tuple[Image.Image, int]]):
    """Images and their labels, or a selection of them."""

    def __init__(
        self,
        name: str,
        pictures: Pictures,
        labels: ArrayLike | None,
        classes: Sequence[str] | None = None,
        *,
        unlabelled: str = "it has no labels",
        rows: NDArray[np.int64] | None = None,
    ):
        """
        Args:
            name: as one would type it.
            pictures: where they come from.
            labels: (n,) integers, one for each picture, ``UNLABELLED`` for none; None where no picture has one.
            classes: the name of each label, where that is known.
            unlabelled: why there are no labels, for the error that says so.
            rows: which pictures these are; all by default.
        """
        self.name, self.classes, self.unlabelled = name, None if classes is None else list(classes), unlabelled
        self._pictures, self._all = pictures, None if labels is None else np.asarray(labels, np.int64)
        if self._all is not None and (len(self._all) == 0 or self._all.max() == UNLABELLED):
            self._all, self.unlabelled = None, "all its labels are -1"
        self.rows = np.arange(len(pictures)) if rows is None else rows
        """Which of the pictures of the whole set these are."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(n,), or None where the set has none. Not every class need occur."""
        return None if self._all is None else self._all[self.rows]

    @property
    def num_classes(self) -> int | None:
        """How many classes the whole set has: as many as have names, else one more than the largest label."""
        if self.classes is not None:
            return len(self.classes)
        return None if self._all is None else int(self._all.max()) + 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        row = int(self.rows[i])
        return self._pictures.read(row), UNLABELLED if self._all is None else int(self._all[row])

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images, {self.num_classes} classes)"

    def labelled(self, purpose: str) -> NDArray[np.int64]:
        """The labels, where every image must have one.

        Raises:
            DataError: they have none, or not all of them.
        """
        labels = self.labels
        if labels is None:
            raise DataError(f"{self.name}: {purpose} needs labels, but {self.unlabelled}.")
        if missing := int((labels < 0).sum()):
            raise DataError(
                f"{self.name}: {purpose} needs labels, and {missing} of {len(labels)} images have none. Leave them out."
            )
        return labels

    # -- selections --------------------------------------------------------------------------------------------------------

    def subset(self, indices: ArrayLike) -> ImageSet:
        """These images of the set, in this order, counted from 0."""
        chosen = np.asarray(indices, np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise InvalidArgument(f"{self.name} has {len(self)} images: {chosen.min()} to {chosen.max()} are not all among them.")
        return ImageSet(
            self.name, self._pictures, self._all, self.classes, unlabelled=self.unlabelled, rows=self.rows[chosen]
        )  # fmt: skip

    def part(self, which: int, of: int, *, seed: int = 0) -> ImageSet:
        """One of ``of`` parts of equal size (up to one image), counted from 0, drawn at random by ``seed``.

        The parts of one seed are disjoint and make up the whole. The order of the set is kept.
        """
        if of < 1 or not 0 <= which < of:
            raise InvalidArgument(f"There is no part {which} of {of}: parts are counted from 0, such as 0/2 and 1/2.")
        return self.subset(np.sort(np.array_split(self._shuffled(seed), of)[which]))

    def half(self, which: int, *, seed: int = 0) -> ImageSet:
        """The one half (0) or the other (1), drawn at random by ``seed``."""
        return self.part(which, 2, seed=seed)

    def limit(self, images: int, *, seed: int = 0) -> ImageSet:
        """That many images at most, drawn at random by ``seed``, in the order of the set. More of them hold those of fewer."""
        if images < 1:
            raise InvalidArgument(f"{images} images are none. Take at least one.")
        return self if images >= len(self) else self.subset(np.sort(self._shuffled(seed)[:images]))

    def _shuffled(self, seed: int) -> NDArray[np.int64]:
        return np.random.default_rng(seed).permutation(len(self))


def decode(content: bytes | IO[bytes], what: str) -> Image.Image:
    """A picture's file as RGB.

    Raises:
        DataError: it is no picture, or a broken one.
    """
    try:
        return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content).convert("RGB")
    except Exception as error:  # a broken file makes PIL's decoders raise anything at all
        reason = " ".join(str(error).split())
        reason = "it is no picture that PIL knows" if "cannot identify image file" in reason else reason
        raise DataError(f"{what} is broken: {reason or type(error).__name__}. Fix it or leave it out.") from error


def parse_part(part: Any) -> tuple[int, int]:
    """``1/4`` as (1, 4): the second of four parts."""
    numbers = str(part).split("/")
    if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
        return int(numbers[0]), int(numbers[1])
    raise InvalidArgument(f'"{part}" is not a part. Write K/N, counted from 0, such as 0/2 for the first half.')
