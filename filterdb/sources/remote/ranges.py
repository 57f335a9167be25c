"""Safetensors on a hub: only the header and the requested tensors are transferred."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Any

from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.sources.options import Progress
from filterdb.sources.remote.http import Remote
from filterdb.sources.safetensors import Place, decode, header_length, parse_header

FIRST = 16 * 2**10
"""Bytes of the first request: the header of a small network, or the start of it."""
WASTE = 0.02
"""Share of the kernels' bytes that may be moved for nothing, to save requests."""
AT_ONCE = 4
"""Requests in flight for one model."""

Span = tuple[int, int]


def coalesce(spans: Sequence[Span], waste: float = WASTE) -> list[Span]:
    """Spans joined across the smallest gaps, as long as the bytes moved for nothing stay below a share of the rest.

    >>> coalesce([(0, 500), (500, 900), (905, 1000), (5000, 6000)])
    [(0, 1000), (5000, 6000)]
    """
    ordered = sorted(set(spans))
    allowed = waste * sum(stop - start for start, stop in ordered)
    closed: set[int] = set()
    ends = list(accumulate((stop for _, stop in ordered), max))
    for gap, i in sorted((ordered[i + 1][0] - ends[i], i) for i in range(len(ordered) - 1)):
        allowed -= max(gap, 0)
        if allowed < 0:
            break
        closed.add(i)
    joined: list[Span] = []
    for i, (start, stop) in enumerate(ordered):
        if joined and i - 1 in closed:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined


class HubSafetensors:
    """One safetensors file of a hub, or all shards of one checkpoint."""

    def __init__(self, remotes: Mapping[str, Remote], what: str, progress: Progress | None = None) -> None:
        self.what, self.progress = what, progress
        self.remotes = dict(remotes)
        self.places: dict[str, Place] = {}
        self.metadata: dict[str, str] = {}
        self._starts: dict[str, bytes] = {}
        self._total: int | None = None
        self._done = 0
        self._lock = threading.Lock()
        for name, remote in self.remotes.items():
            self._read_header(name, remote)

    @property
    def tree(self) -> Mapping[Any, Any]:
        """The tensors of all shards by their keys."""
        return self.places

    def cost(self, leaves: Sequence[Place]) -> int:
        """Headers, tensors, and the gaps between them that are moved along."""
        return sum(map(len, self._starts.values())) + sum(stop - start for _, start, stop in self._plan(leaves))

    def read(self, leaves: Sequence[Place]) -> Iterator[NDArray[Any]]:
        """The tensors, fetched in a few ranges."""
        self._total = self.cost(leaves)
        plan = self._plan(leaves)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            fetched: list[tuple[str, int, int, Future[bytes]]] = [
                (file, start, stop, pool.submit(self._fetch, file, start, stop)) for file, start, stop in plan
            ]
            try:
                for leaf in leaves:
                    yield decode(self._find(leaf, fetched), leaf)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def count(self, moved: int) -> None:
        """Told by the remotes of every piece that arrives."""
        with self._lock:
            self._done += moved
            if self.progress:
                self.progress(self._done, self._total)

    def _read_header(self, name: str, remote: Remote) -> None:
        remote.moved = self.count
        what = self.what if len(self.remotes) == 1 else f"{self.what} ({name})"
        start = remote.fetch(0, FIRST)
        length = header_length(start, what, remote.size)
        if 8 + length > len(start):
            start += remote.fetch(len(start), 8 + length)
        places, metadata = parse_header(start[8 : 8 + length], what, remote.size)
        twice = next((key for key in places if key in self.places), None)
        if twice:
            raise SourceError(f"{self.what}: {twice} is in two shards. Give a checkpoint that was saved once.")
        self._starts[name] = start
        self.metadata |= metadata
        self.places |= {key: Place(key, place.dtype, place.shape, place.start, place.stop, name) for key, place in places.items()}

    def _plan(self, leaves: Sequence[Place]) -> list[tuple[str, int, int]]:
        """What is still to be fetched, as file, start and stop."""
        plan: list[tuple[str, int, int]] = []
        for name, start in self._starts.items():
            have = len(start)  # small networks arrive with the header
            spans = [(max(leaf.start, have), leaf.stop) for leaf in leaves if leaf.file == name and leaf.stop > have]
            plan += [(name, first, last) for first, last in coalesce(spans)]
        return plan

    def _fetch(self, file: str, start: int, stop: int) -> bytes:
        return self.remotes[file].fetch(start, stop)

    def _find(self, leaf: Place, fetched: Sequence[tuple[str, int, int, Future[bytes]]]) -> bytes:
        """The bytes of a tensor: from the start of the file, from a range, or from both."""
        start = self._starts[leaf.file]
        data = start[leaf.start : leaf.stop]
        if leaf.stop <= len(start):
            return data
        first = max(leaf.start, len(start))
        for file, low, high, future in fetched:
            if file == leaf.file and low <= first and leaf.stop <= high:
                return data + future.result()[first - low : leaf.stop - low]
        raise SourceError(f"{self.what}: {leaf.key} was not fetched. Please report this.")
