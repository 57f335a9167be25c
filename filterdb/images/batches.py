"""Batches of images for a network: timm's evaluation transform, in any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from filterdb.errors import DataError, FilterdbError, InvalidArgument
from filterdb.images.image_set import ImageSet

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[str, int, int], None]

_CONFIG = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
"""Of timm's data configuration, what makes its evaluation transform."""


def transform(preprocessing: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform for a data configuration: from a picture to float32 (3, h, w)."""
    from timm.data import create_transform

    made: Callable[[Image.Image], Tensor] = create_transform(
        **{key: preprocessing[key] for key in _CONFIG if preprocessing.get(key) is not None}, is_training=False
    )
    return made


class _Transformed(Dataset[Any]):
    """A set through a transform. A broken image is handed on as its error: raised in a worker, it would come as a traceback."""

    def __init__(self, images: ImageSet, change: Callable[[Image.Image], Tensor]):
        self.images, self.change = images, change

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | FilterdbError:
        try:
            image, label = self.images[i]
        except FilterdbError as error:
            return error
        return self.change(image), label


def collate(items: list[Any]) -> tuple[Tensor, Tensor] | str:
    """A batch; or what is wrong with one of its images, for a worker's exception would come as a traceback."""
    broken = next((item for item in items if isinstance(item, FilterdbError)), None)
    if broken is not None:
        return str(broken)
    return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])


def batches(
    images: ImageSet,
    preprocessing: Mapping[str, Any],
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in their order, through timm's evaluation transform.

    Args:
        images: which.
        preprocessing: timm's data configuration: input_size (3, h, w), interpolation, mean, std, crop_pct, crop_mode.
        batch_size: images at a time; the last batch may be smaller.
        workers: processes that decode; 0 for this one.
        device: where the batches go; by default they stay on the CPU.
        progress: called with the current step, the images done, and the total.

    Yields:
        float32 (n, 3, h, w) and int64 (n,), ``UNLABELLED`` for images without a label.

    Raises:
        DataError: a broken image, by name, or a worker that died.
    """
    if batch_size < 1 or workers < 0:
        raise InvalidArgument(f"Batches of {batch_size} in {workers} workers cannot be. Take at least 1 image and 0 workers.")
    on_gpu = device is not None and torch.device(device).type == "cuda"
    loader: Any = DataLoader(
        _Transformed(images, transform(preprocessing)), batch_size, num_workers=workers, collate_fn=collate, pin_memory=on_gpu
    )
    done = 0
    if progress:
        progress(images.name, 0, len(images))
    for batch in _all(loader):
        if isinstance(batch, str):
            raise DataError(batch)
        x, y = batch
        yield x.to(device, non_blocking=on_gpu), y.to(device, non_blocking=on_gpu)
        done += len(y)
        if progress:
            progress(images.name, done, len(images))


def _all(loader: Any) -> Iterator[Any]:
    """The batches of a loader; a killed worker is one line."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"A worker that decodes images died ({' '.join(str(error).split())[:120]}). Take fewer workers or smaller batches."
        ) from error
