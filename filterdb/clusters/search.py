"""Exact nearest code: which of 10,000 decoded kernels is most like each of millions of real ones.

The decoded kernels are points along a curve on the sphere, and neighbours are nearly equal. The curve is cut into segments that
lie within a small distance, the bulge, of the chord between their ends. For a unit kernel f and a decoded kernel g of a segment
with ends a and b,

    <f, g>  <=  max(<f, a>, <f, b>) + bulge,

so the inner products with the ends alone, some two hundred, say where the best code can be. Around each end lies its
neighbourhood, two segments on either side. The neighbourhood of the best end is searched for all kernels; that of another end
only for the kernels whose product with it comes within the bulge of the best code found so far, and whose best end is not beside
it.
The codes of a neighbourhood span few dimensions, so that a product with all of them is short.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

BULGE = 2e-3
"""How far a segment may lie from its chord. Larger: fewer ends to compare with, and more codes to search around each."""
LONGEST = 128
"""Codes of a segment at most."""
SIDE = 2
"""Segments of a neighbourhood on either side of its end: with two, the segments of the ends next to it are inside."""
SLACK = 1e-6
"""Rounding of a float32 inner product of unit vectors: what is this close counts as a tie."""
BLOCK = 262_144
"""Kernels worked on at a time, all threads together."""
CHUNK = 4_096
"""Kernels of a block that a thread compares with the ends at a time: the products stay in its cache."""

Found = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True)
class _Neighbourhood:
    start: int
    """The first of its codes."""
    span: NDArray[np.float32]
    """(d, r): orthonormal directions that its decoded kernels span, but for rounding."""
    inside: NDArray[np.float32]
    """(r, codes): the decoded kernels in those directions."""

    def best(self, unit: NDArray[np.float32], rows: NDArray[np.intp], scratch: _Scratch) -> Found:
        """The best of its codes for some of the kernels."""
        chosen = unit.take(rows, axis=0, out=scratch.array("chosen", (len(rows), unit.shape[1])), mode="clip")
        inner = np.matmul(chosen @ self.span, self.inside, out=scratch.array("inner", (len(rows), self.inside.shape[1])))
        best = inner.argmax(axis=1)
        return best + self.start, inner[np.arange(len(best)), best]


class _Scratch(threading.local):
    """Memory that a thread uses again and again: fresh memory costs about as much as the products that go into it."""

    def array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array of any content."""
        size = math.prod(shape)
        held: NDArray[np.float32] | None = getattr(self, name, None)
        if held is None or held.size < size:
            held = np.empty(size, np.float32)
            setattr(self, name, held)
        return held[:size].reshape(shape)


class CodeSearch:
    """The nearest of many prototypes whose neighbours are alike. Exact for any prototypes, fast for those along a curve."""

    def __init__(self, prototypes: NDArray[np.float32]):
        """
        Args:
            prototypes: (m, d) unit kernels in the order of the curve.
        """
        points = np.asarray(prototypes, np.float64)
        cuts, bulge = [0], 0.0
        while cuts[-1] < len(points) - 1:
            stop, own = _reach(points, cuts[-1])
            cuts.append(stop)
            bulge = max(bulge, own)
        self._ends = np.ascontiguousarray(points[cuts], np.float32)
        self._margin = np.float32(bulge + 2 * SLACK)
        last = len(cuts) - 1
        self._around = [_neighbourhood(points, cuts[max(0, i - SIDE)], cuts[min(last, i + SIDE)] + 1) for i in range(len(cuts))]

    def nearest(self, unit: NDArray[np.float32], threads: int | None = None) -> Found:
        """The prototype with the largest inner product for each kernel.

        Args:
            unit: (n, d) centred unit kernels.
            threads: by default as many as the process may use.

        Returns:
            index (n,) and similarity (n,), as a search through all prototypes gives them up to ties within ``SLACK``.
        """
        index, score = np.empty(len(unit), np.int64), np.empty(len(unit), np.float32)
        with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(threads or _cores()) as pool:
            for start in range(0, len(unit), BLOCK):
                part = slice(start, start + BLOCK)
                index[part], score[part] = self._block(unit[part], pool)
        return index, score

    def _block(self, unit: NDArray[np.float32], pool: ThreadPoolExecutor) -> Found:
        """The answer for a block. Threads work on large pieces: numpy lets go of the interpreter only while it computes."""

        scratch = _Scratch()

        def compare(start: int) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
            """The best end of each kernel; and kernels, ends and products where a far end is as good but for the bulge."""
            kernels = unit[start : start + CHUNK]
            ends = np.matmul(kernels, self._ends.T, out=scratch.array("ends", (len(kernels), len(self._ends))))
            rows = np.arange(len(ends))
            best = ends.argmax(axis=1)
            near = ends >= (ends[rows, best] - self._margin)[:, None]
            for offset in range(1 - SIDE, SIDE):
                near[rows, np.clip(best + offset, 0, len(self._ends) - 1)] = False
            places = np.flatnonzero(near)  # several times as fast as nonzero() of the two-dimensional array
            far, which = np.divmod(places, len(self._ends))
            return best, far + start, which, ends.ravel()[places]

        parts = list(pool.map(compare, range(0, len(unit), CHUNK)))
        best_end, far, which, product = (np.concatenate(column) for column in zip(*parts, strict=True))
        index, score = np.empty(len(unit), np.int64), np.empty(len(unit), np.float32)

        def home(piece: tuple[int, NDArray[np.intp]]) -> None:
            end, rows = piece  # pieces share no row, so threads may write side by side
            index[rows], score[rows] = self._around[end].best(unit, rows, scratch)

        list(pool.map(home, _pieces(best_end, len(self._ends))))
        able = product + self._margin >= score[far]
        far, which = far[able], which[able]

        def abroad(piece: tuple[int, NDArray[np.intp]]) -> tuple[NDArray[np.intp], *Found]:
            rows = far[piece[1]]
            return rows, *self._around[piece[0]].best(unit, rows, scratch)

        for rows, code, similarity in pool.map(abroad, _pieces(which, len(self._ends))):
            better = similarity > score[rows]
            index[rows[better]], score[rows[better]] = code[better], similarity[better]
        return index, score


def _pieces(ends: NDArray[np.integer], count: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each end that occurs, and where it does."""
    order = ends.astype(np.int16 if count < 2**15 else np.int64).argsort(kind="stable")  # 16 bits: a radix sort
    bounds = np.concatenate([[0], np.bincount(ends, minlength=count).cumsum()])
    return ((end, order[bounds[end] : bounds[end + 1]]) for end in range(count) if bounds[end] < bounds[end + 1])


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reach(points: NDArray[np.float64], start: int) -> tuple[int, float]:
    """The last point of the segment that begins at ``start``, and how far the segment bulges from its chord."""
    low, high = start + 1, min(start + LONGEST, len(points) - 1)
    best = 0.0
    while low < high:
        middle = (low + high + 1) // 2
        bulge = _bulge(points[start : middle + 1])
        if bulge <= BULGE:
            low, best = middle, bulge
        else:
            high = middle - 1
    return low, best


def _bulge(points: NDArray[np.float64]) -> float:
    """The largest distance of points from the straight line between the first and the last of them."""
    first, chord = points[0], points[-1] - points[0]
    length = chord @ chord
    along = np.clip((points - first) @ chord / length, 0, 1) if length > 0 else np.zeros(len(points))
    return float(np.sqrt((((points - first) - along[:, None] * chord) ** 2).sum(axis=1)).max())


def _neighbourhood(points: NDArray[np.float64], start: int, stop: int) -> _Neighbourhood:
    codes = points[start:stop]
    # The directions of an SVD, by the small matrix of inner products: some 50 x 50 numbers whatever the number of codes.
    values, directions = np.linalg.eigh(codes.T @ codes)
    kept = max(1, int((values > (SLACK / 10) ** 2 * values[-1]).sum()))
    span = directions[:, -kept:]
    return _Neighbourhood(start, span.astype(np.float32), np.ascontiguousarray((codes @ span).T, np.float32))
