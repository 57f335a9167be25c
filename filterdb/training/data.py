"""The batches of a training. They depend only on the seed, not on the number of workers or the first step."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from filterdb.errors import DataError, FilterdbError, InvalidArgument
from filterdb.images import ImageSet
from filterdb.images.batches import collate
from filterdb.training.settings import Settings


class Batches:
    """Training batches of one process of a training.

    Each epoch is a permutation drawn from the seed and the epoch, and the augmentation of an image is drawn from the seed, the
    epoch and the image. Neither the workers nor an interruption changes what a step sees. A killed run is resumed with
    the same batches.
    """

    def __init__(
        self, images: ImageSet, preprocessing: Mapping[str, Any], settings: Settings, *, workers: int = 0, rank: int = 0,
        world: int = 1,
    ):  # fmt: skip
        from timm.data import create_transform

        self._images, self._settings, self._workers, self._rank, self._world = images, settings, workers, rank, world
        self._transform = create_transform(
            tuple(preprocessing["input_size"]), is_training=True, scale=settings.scale, hflip=settings.hflip,
            color_jitter=0.0 if settings.aa is None else 0.4, auto_augment=settings.aa, re_prob=settings.reprob,
            interpolation=preprocessing["interpolation"], mean=preprocessing["mean"], std=preprocessing["std"],
        )  # fmt: skip
        each = settings.batch_size * world
        if len(images) < each:
            raise InvalidArgument(f"{len(images)} training images do not fill a batch of {each}. Lower --batch-size.")
        self.steps = len(images) // each
        """Batches of an epoch. The images of an incomplete last batch are skipped, different ones in each epoch."""

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from a step on: float32 (n, 3, h, w) and int64 (n,)."""
        size, seed = self._settings.batch_size, self._settings.seed
        order = np.random.default_rng((seed, epoch)).permutation(len(self._images))
        mine = order[: self.steps * size * self._world].reshape(self.steps, size, self._world)[first:, :, self._rank]
        loader: Any = DataLoader(
            _Augmented(self._images, self._transform, seed, epoch), batch_sampler=mine.tolist(), num_workers=self._workers,
            collate_fn=collate,
        )  # fmt: skip
        for batch in loader:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch


class _Augmented(Dataset[Any]):
    def __init__(self, images: ImageSet, transform: Any, seed: int, epoch: int):
        self.images, self.transform, self.seed, self.epoch = images, transform, seed, epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | FilterdbError:
        try:
            image, label = self.images[i]
        except FilterdbError as error:
            return error
        own = np.random.SeedSequence((self.seed, self.epoch, int(i))).generate_state(2)
        # timm's transforms draw from all three; in the training's own process its random numbers must continue as they were
        states = random.getstate(), np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng(devices=[]):
            random.seed(int(own[0]))
            np.random.seed(int(own[0]))  # noqa: NPY002
            torch.manual_seed(int(own[1]))
            x = self.transform(image)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        return x, label


def some_of_each(images: ImageSet, count: int, seed: int) -> ImageSet:
    """That many images, as many of each class as can be. Fewer of a seed are among more of it."""
    labels = images.labelled("a training")
    if count > len(images):
        raise InvalidArgument(f"{images.name} has {len(images)} images, not {count}. Lower --train-images.")
    order = np.random.default_rng(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    turn = np.empty(len(labels), np.int64)  # the how-manieth of its class an image is
    for i in order:
        turn[i] = seen[int(labels[i])] = seen.get(int(labels[i]), -1) + 1
    chosen = order[np.argsort(turn[order], kind="stable")][:count]
    return images.subset(np.sort(chosen))
