"""Kernels that a checkpoint holds in parts: the leaves they are computed from, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Computed:
    """A tensor made of others."""

    shape: tuple[int, ...]
    parts: tuple[Any, ...]
    """Leaves of the checkpoint, or other computed ones."""
    formula: Callable[..., Array]
    """From the numbers of the parts, float64 each, to those of the tensor."""
    how: str
    """What a note says of it: weight_norm, quantised …"""
    dtype: str = "F32"


def _stored(leaf: Any) -> list[Any]:
    return [one for part in leaf.parts for one in _stored(part)] if isinstance(leaf, Computed) else [leaf]


def cost(checkpoint: Any, leaves: Sequence[Any]) -> int | None:
    """Bytes moved when these leaves are read, with the parts of those that are computed."""
    found: int | None = checkpoint.cost([one for leaf in leaves for one in _stored(leaf)])
    return found


def read(checkpoint: Any, leaves: Sequence[Any]) -> Iterator[Array]:
    """The numbers of these leaves, in order: float32, or float64 where that is how they are stored."""
    arrays = checkpoint.read([one for leaf in leaves for one in _stored(leaf)])
    for leaf in leaves:
        made = _make(leaf, arrays)
        yield made.astype(np.float32) if isinstance(leaf, Computed) and leaf.dtype != "F64" else made


def _make(leaf: Any, arrays: Iterator[Array]) -> Array:
    if not isinstance(leaf, Computed):
        return next(arrays)
    with np.errstate(all="ignore"):  # what is divided by zero is no longer finite, and is refused as such
        return leaf.formula(*[np.asarray(_make(part, arrays), np.float64) for part in leaf.parts])


def said(leaves: Sequence[Any]) -> list[str]:
    """What the user should know of computed leaves, one note for each way."""
    ways: dict[str, int] = {}
    for leaf in leaves:
        if isinstance(leaf, Computed):
            ways[leaf.how] = ways.get(leaf.how, 0) + 1
    return [f"{count} {'layer' if count == 1 else 'layers'} with {way}" for way, count in ways.items()]


def ways(leaves: Iterable[Any]) -> set[str]:
    """All ways in which these leaves, and the parts that they are made of, are computed."""
    made = [leaf for leaf in leaves if isinstance(leaf, Computed)]
    return {leaf.how for leaf in made} | {way for leaf in made for way in ways(leaf.parts)}
