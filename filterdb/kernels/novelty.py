"""The most novel kernels: those with the weakest best match among others, exactly, without comparing all pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Others = Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Blocks of other kernels: their ids (n,), and their centred unit kernels (n, d)."""

SCORES = 2**21
"""Correlations of a block in float32, 8 MB: larger ones leave the cache."""
ROUNDING = 1e-5
"""Of a correlation in float32, with a margin."""


def most_novel(
    unit: NDArray[np.float32], count: int, sample: Others, others: Callable[[], Others] | None
) -> list[tuple[int, float, int]]:
    """The ``count`` kernels with the least best match: (row, its correlation, its id), the least first.

    The best match of a kernel only grows as more others are seen. So a few kernels that match the sample badly are searched
    for in all others first; a kernel that matched anything better than the best of those can be no answer, and the search of
    the rest continues with ever fewer.

    Args:
        unit: (n, d) centred unit kernels; only these are held in memory.
        count: how many.
        sample: some of the others, drawn at random.
        others: gives all others, every time from the start; None if the sample has them all.
    """
    best, ids = np.full(len(unit), -np.inf, np.float32), np.full(len(unit), -1, np.int64)
    _search(unit, np.arange(len(unit)), sample, best, ids, np.inf)
    if others is not None:
        first = np.argsort(best, kind="stable")[:count]
        _search(unit, first, others(), best, ids, np.inf)
        bound = best[first].max() + ROUNDING
        rest = np.setdiff1d(np.flatnonzero(best <= bound), first)
        if len(rest):
            _search(unit, rest, others(), best, ids, bound)
    order = np.argsort(best, kind="stable")[:count]
    return [(int(row), float(np.clip(best[row], -1, 1)), int(ids[row])) for row in order]


def _search(
    unit: NDArray[np.float32], rows: NDArray[np.int64], others: Others, best: NDArray[np.float32], ids: NDArray[np.int64],
    bound: float,
) -> None:  # fmt: skip
    """Raise ``best`` and ``ids`` of some rows by what the others have; a row is given up once its best is above the bound."""
    for other_ids, other in others:
        step = max(1, SCORES // max(1, len(other)))
        for start in range(0, len(rows) if len(other) else 0, step):
            part = rows[start : start + step]
            score = unit[part] @ other.T
            top = score.argmax(axis=1)
            found = score[np.arange(len(part)), top]
            better = found > best[part]
            best[part[better]], ids[part[better]] = found[better], other_ids[top[better]]
        rows = rows[best[rows] <= bound]
        if not len(rows):
            return
