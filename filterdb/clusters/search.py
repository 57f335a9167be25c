"""Exact nearest code: which of 10,000 decoded kernels is most like each of millions of real ones.

The decoded kernels are points along a curve on the sphere, and neighbours are nearly equal. The curve is cut into segments that
lie within a small distance, the bulge, of the chord between their ends. For a unit kernel f and a decoded kernel g of a segment
with ends a and b,

    <f, g>  <=  max(<f, a>, <f, b>) + bulge,

so the inner products with the ends alone, some hundred, say where the best code can be. Around each end lies its neighbourhood,
the segments on either side of it. The neighbourhood of the best end is searched for all kernels; that of another end only for the
kernels whose product with it comes within the bulge of the best code found so far.

The end a beside the best end c would almost always come that near. But the segment beyond it, from a to b, bends away from c: its
points are a + u (b - a) + v (c - a) with v <= 0, but for a small distance from that plane. As <f, c> is the largest of the three,

    <f, g>  <=  max(<f, a>, <f, b>) + distance.

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

BULGE = 8e-3
"""How far a segment may lie from its chord. Larger: fewer ends to compare with, and more codes to search around each."""
LONGEST = 256
"""Codes of a segment at most."""
SLACK = 1e-6
"""Rounding of a float32 inner product of unit vectors: what is this close counts as a tie."""
BLOCK = 2**18
"""Kernels worked on at a time, all threads together."""
CHUNK = 8_192
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
        with threadpool_limits(limits=1, user_api="blas"):  # the matrices are small: threads would only wait for each other
            self._build(np.asarray(prototypes, np.float64))

    def _build(self, points: NDArray[np.float64]) -> None:
        self._kept = _thin(points)
        points = points[self._kept]
        cuts, bulge = [0], 0.0
        while cuts[-1] < len(points) - 1:
            stop, own = _reach(points, cuts[-1])
            cuts.append(stop)
            bulge = max(bulge, own)
        self._ends = np.ascontiguousarray(points[cuts], np.float32)
        self._margin = np.float32(bulge + 2 * SLACK)
        last = len(cuts) - 1
        spans = [(cuts[max(0, i - 1)], cuts[min(last, i + 1)] + 1) for i in range(last + 1)]
        with ThreadPoolExecutor(_cores()) as pool:
            self._around = list(pool.map(lambda span: _neighbourhood(points, *span), spans))
        # Of the segment beyond end a, seen from the end c before it: step 1 forwards, -1 backwards along the curve.
        self._beside = {step: np.full(last + 1, -np.inf, np.float32) for step in (1, -1)}
        for step, margins in self._beside.items():
            for a in range(last + 1):
                c, b = a - step, a + step
                if 0 <= c <= last and 0 <= b <= last:
                    margins[a] = _bend(points, cuts[c], cuts[a], cuts[b]) + 2 * SLACK

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
                found, score[part] = self._block(unit[part], pool)
                index[part] = self._kept[found]
        return index, score

    def _block(self, unit: NDArray[np.float32], pool: ThreadPoolExecutor) -> Found:
        """The answer for a block. Threads work on large pieces: numpy lets go of the interpreter only while it computes."""

        scratch = _Scratch()

        def compare(start: int) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
            """The best end of each kernel; and kernels and other ends, with what the codes around these can reach at most."""
            kernels = unit[start : start + CHUNK]
            ends = np.matmul(kernels, self._ends.T, out=scratch.array("ends", (len(kernels), len(self._ends))))
            rows, last = np.arange(len(ends)), len(self._ends) - 1
            best = ends.argmax(axis=1)
            top = ends[rows, best]
            near = ends >= (top - self._margin)[:, None]
            near[rows, best] = False
            found = []
            for step, margins in self._beside.items():
                beside = np.clip(best + step, 0, last)
                near[rows, beside] = False
                reach = ends[rows, beside] + margins[beside]
                able = np.flatnonzero((reach >= top) & (beside != best))
                found.append((able, beside[able], reach[able]))
            places = np.flatnonzero(near)  # several times as fast as nonzero() of the two-dimensional array
            found.append((*np.divmod(places, last + 1), ends.ravel()[places] + self._margin))
            far, which, reach = (np.concatenate(column) for column in zip(*found, strict=True))
            return best, far + start, which, reach

        parts = list(pool.map(compare, range(0, len(unit), CHUNK)))
        best_end, far, which, reach = (np.concatenate(column) for column in zip(*parts, strict=True))
        del parts

        def home(piece: tuple[int, NDArray[np.intp]]) -> tuple[NDArray[np.intp], *Found]:
            return piece[1], *self._around[piece[0]].best(unit, piece[1], scratch)

        order, codes, products = map(np.concatenate, zip(*pool.map(home, _pieces(best_end, len(self._ends))), strict=True))
        index, score = np.empty(len(unit), np.int64), np.empty(len(unit), np.float32)
        index[order], score[order] = codes, products
        able = reach >= score[far]
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


def _thin(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """The points without those that lie as good as on the straight line between their neighbours.

    What such a point gives, one of its neighbours gives but for less than ``SLACK``: a tie.
    """
    kept = np.arange(len(points))
    for _ in range(4):  # each time every second one may go
        before, here, after = (points[kept[i : len(kept) - 2 + i : 2]] for i in range(3))
        off = np.linalg.norm(here - (before + after) / 2, axis=1)
        kept = np.delete(kept, 1 + 2 * np.flatnonzero(off <= SLACK / 4))
    return kept


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


def _bend(points: NDArray[np.float64], c: int, a: int, b: int) -> float:
    """How far the points from a to b lie at most from the plane through the points c, a and b, on the side of the chord that is
    away from c; points on its other side count with their distance from the chord."""
    inside = points[min(a, b) : max(a, b) + 1] - points[a]
    plane = np.stack([points[b] - points[a], points[c] - points[a]], axis=1)
    along, towards = np.linalg.pinv(plane.T @ plane) @ (inside @ plane).T
    on_chord = (towards > 0) | (along < 0) | (along + towards > 1)
    along = np.where(on_chord, np.clip(inside @ plane[:, 0] / max(plane[:, 0] @ plane[:, 0], 1e-300), 0, 1), along)
    towards = np.where(on_chord, 0, towards)
    return float(np.sqrt(((inside - np.outer(along, plane[:, 0]) - np.outer(towards, plane[:, 1])) ** 2).sum(axis=1)).max())


def _neighbourhood(points: NDArray[np.float64], start: int, stop: int) -> _Neighbourhood:
    codes = points[start:stop]
    # The directions of an SVD, by the small matrix of inner products: some 50 x 50 numbers whatever the number of codes.
    values, directions = np.linalg.eigh(codes.T @ codes)
    kept = max(1, int((values > (SLACK / 10) ** 2 * values[-1]).sum()))
    span = directions[:, -kept:]
    return _Neighbourhood(start, span.astype(np.float32), np.ascontiguousarray((codes @ span).T, np.float32))
