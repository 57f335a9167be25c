"""The first layers of a network get the depthwise kernels of another network, which may be of another architecture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from filterdb.errors import InvalidArgument
from filterdb.frozen.layer import Parts
from filterdb.kernels.sizes import Pair, size_name
from filterdb.sources import resolve
from filterdb.training.initialise import depthwise

Kernels = NDArray[np.float32]


def transferred(module: nn.Module, source: str, count: int, seed: int) -> dict[str, Parts]:
    """The kernels of the first depthwise layers of a network, taken from another one.

    A layer takes its kernels from one layer of the source, of the same kernel size. Where both networks have as many layers of
    that size, these are the layers of the same place; otherwise layer i of n takes from layer i·m // n of the source's m. Where
    both layers have as many channels, the kernels are copied channel by channel. Otherwise they are drawn at random, none
    twice while they last, and scaled together to the length of the kernels they replace.

    Args:
        module: the network, which is not changed.
        source: what ``filterdb ingest`` can read, of one model.
        count: the number of layers.
        seed: of the draw.

    Raises:
        InvalidArgument: more layers than the network has, a source of several models, or one without kernels of a size.
    """
    mine = depthwise(module)
    if count > len(mine):
        raise InvalidArgument(
            f"transfer_layers is {count}, and the network has {len(mine)} depthwise layers. Transfer at most {len(mine)}."
        )
    if count == 0:
        return {}
    theirs = _by_size(source)
    rng = np.random.default_rng(seed)
    totals: dict[Pair, int] = {}
    for conv in mine.values():
        totals[_size(conv)] = totals.get(_size(conv), 0) + 1
    seen: dict[Pair, int] = {}
    parts = {}
    for name, conv in list(mine.items())[:count]:
        size = _size(conv)
        if size not in theirs:
            there = ", ".join(size_name(*one) for one in sorted(theirs)) or "no depthwise kernels"
            raise InvalidArgument(
                f"{source} has no {size_name(*size)} kernels for the layer {name}; it has {there}. Take filters of that size."
            )
        place = seen[size] = seen.get(size, -1) + 1
        parts[name] = _parts(conv, theirs[size][place * len(theirs[size]) // totals[size]], rng)
    return parts


def _by_size(source: str) -> dict[Pair, list[Kernels]]:
    """The kernels of the source's layers in their order, by kernel size."""
    found = resolve(source)
    if len(found) != 1:
        raise InvalidArgument(f"{source} stands for {len(found)} models: name one whose kernels to transfer.")
    kernels: dict[Pair, list[Kernels]] = {}
    with found[0].open(None) as model:
        for layer, values in zip(model.layers, model.read(), strict=True):
            if layer.ndim == 2 and layer.kind == "depthwise":
                kernels.setdefault((layer.kernel_h, layer.kernel_w), []).append(np.array(values, np.float32))
    return kernels


def _parts(conv: nn.Conv2d, kernels: Kernels, rng: np.random.Generator) -> Parts:
    channels = len(conv.weight)
    if len(kernels) == channels:
        return Parts(kernels, np.arange(channels))
    turns = [rng.permutation(len(kernels)) for _ in range(-(-channels // len(kernels)))]
    drawn = kernels[np.concatenate(turns)[:channels]]
    with torch.no_grad():
        length = float(conv.weight.square().sum().sqrt())
    norm = float(np.linalg.norm(drawn))
    return Parts(drawn * np.float32(length / norm if norm > 0 else 1), np.arange(channels))


def _size(conv: nn.Conv2d) -> Pair:
    return conv.kernel_size[0], conv.kernel_size[1]
