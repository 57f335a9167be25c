"""The FAISS index, which finds the most similar kernels of one size. It is stored with the tables and always up to date.

The rule: up to 200,000 kernels the index is flat, so exact; above, an inverted file of 2 sqrt(N) lists of which a search looks
into one in ten, which keeps recall@10 at .99 on kernels (tests/benchmarks has the figures). Scalar and product quantisation lose
these kernels, so vectors stay float32.

An index records the editions of the models that it holds. Before each search it is compared with the snapshot: new editions are
added and old ones removed. It is trained again when its size has doubled. The ids are filter_ids.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray

from filterdb.errors import StoreError
from filterdb.kernels import centred_unit
from filterdb.kernels.sizes import size_name
from filterdb.store import KernelBatch

FLAT_LIMIT = 200_000
LISTS_PER_PROBE = 10
TRAINING_POINTS_PER_LIST = 40

SCHEMA = pa.schema(
    [
        ("rank", pa.int32()), ("filter_id", pa.int64()), ("model", pa.string()), ("layer", pa.string()), ("channel", pa.int32()),
        ("similarity", pa.float32()),
    ]
)  # fmt: skip
"""The answer of ``db.similar``."""


@dataclass
class _Stamp:
    """What an index file holds."""

    file: str = ""
    editions: dict[str, str] = field(default_factory=dict)
    trained_on: int = 0
    """Kernels there were when the inverted lists were trained; 0 for a flat index."""


class KernelIndex:
    """The index of one kernel size of one database."""

    def __init__(self, folder: Path, kernel_h: int, kernel_w: int):
        self._folder = folder / size_name(kernel_h, kernel_w)
        self.dimension = kernel_h * kernel_w
        self._stamp = _Stamp()
        self._one_thread = Lock()
        self._index: Any = None

    def update(self, editions: Mapping[str, str], batches: Callable[[Sequence[str]], Iterable[KernelBatch]]) -> None:
        """Bring the index to a snapshot.

        Args:
            editions: slug to edition of every model that has kernels of this size.
            batches: given slugs, yields their kernel batches with the column ``filter_id``.
        """
        with self._one_thread:
            if self._index is not None and self._stamp.editions == editions:
                return
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self._folder / "lock")
                lock.acquire()
            except OSError:  # a database that one may only read: the index stays in memory
                self._build(editions, batches)
                return
            try:
                self._load()
                if self._stamp.editions != editions:
                    self._extend(editions, batches)
                    self._save()
            finally:
                lock.release()

    def search(self, directions: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Inner products and filter_ids of the k best, (n, k) each, best first; -1 pads what there is not."""
        if self._index is None:
            raise StoreError("The index was not built: call update first.")
        return self._index.search(np.ascontiguousarray(directions, np.float32), k)

    def direction(self, filter_id: int) -> NDArray[np.float32] | None:
        """The centred unit kernel (taps,) of a filter, from memory; None where it is constant, for those are not in the index."""
        if self._index is None:
            raise StoreError("The index was not built: call update first.")
        with self._one_thread:
            if not self.exact and (places := self._index.direct_map).type == places.NoMap:
                self._index.set_direct_map_type(places.Hashtable)  # a third of a second for a million kernels, once
        try:
            return self._index.reconstruct(filter_id)
        except RuntimeError:
            return None

    @property
    def exact(self) -> bool:
        """Whether searching this index is exact."""
        return self._stamp.trained_on == 0

    def __len__(self) -> int:
        return 0 if self._index is None else self._index.ntotal

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        import faiss

        stamp_file = self._folder / "index.json"
        try:
            stamp = _Stamp(**json.loads(stamp_file.read_text()))
            index = faiss.read_index(str(self._folder / stamp.file))
        except (FileNotFoundError, ValueError, TypeError, RuntimeError):
            stamp, index = _Stamp(), None  # none yet, or damaged: it is rebuilt from the tables
        self._stamp, self._index = stamp, index

    def _save(self) -> None:
        """Write a new file, then point the stamp at it: a reader sees the old pair or the new one."""
        import faiss

        if not self.exact:
            self._index.set_direct_map_type(self._index.direct_map.NoMap)  # only some processes need it, so no file has it
        self._stamp.file = f"{uuid.uuid4().hex}.faiss"
        faiss.write_index(self._index, str(self._folder / self._stamp.file))
        partial = self._folder / "index.partial"
        partial.write_text(json.dumps(asdict(self._stamp)))
        os.replace(partial, self._folder / "index.json")
        for file in self._folder.glob("*.faiss"):
            if file.name != self._stamp.file:
                file.unlink(missing_ok=True)

    def _extend(self, editions: Mapping[str, str], batches: Callable[[Sequence[str]], Iterable[KernelBatch]]) -> None:
        have = self._stamp.editions
        gone = [slug for slug, edition in have.items() if editions.get(slug) != edition]
        fresh = [slug for slug, edition in editions.items() if have.get(slug) != edition]
        # A flat index is rebuilt in a second. A trained one cannot tell which ids a vanished edition had without its file, so
        # it is rebuilt too: removal and replacement are rare, arrival is what happens every day.
        if self._index is None or gone:
            return self._build(editions, batches)
        ids, vectors = _gather(batches(fresh), self.dimension)
        total = self._index.ntotal + len(ids)
        if total > FLAT_LIMIT and total > 2 * self._stamp.trained_on:
            return self._build(editions, batches)
        self._index.add_with_ids(vectors, ids)
        self._stamp.editions = dict(editions)

    def _build(self, editions: Mapping[str, str], batches: Callable[[Sequence[str]], Iterable[KernelBatch]]) -> None:
        import faiss

        ids, vectors = _gather(batches(list(editions)), self.dimension)
        flat = faiss.IndexFlatIP(self.dimension)
        if len(ids) <= FLAT_LIMIT:
            index: Any = faiss.IndexIDMap2(flat)
            trained_on = 0
        else:
            lists = round(2 * math.sqrt(len(ids)))
            index = faiss.IndexIVFFlat(flat, self.dimension, lists, faiss.METRIC_INNER_PRODUCT)
            trained_on = len(ids)
            sample = np.random.default_rng(0).choice(len(ids), min(len(ids), lists * TRAINING_POINTS_PER_LIST), replace=False)
            index.cp.niter = 10
            index.train(vectors[np.sort(sample)])
            index.nprobe = lists // LISTS_PER_PROBE
        index.add_with_ids(vectors, ids)
        self._index, self._stamp = index, _Stamp(self._stamp.file, dict(editions), trained_on)


def _gather(batches: Iterable[KernelBatch], dimension: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and centred unit vectors of all kernels that have a direction."""
    ids, vectors = [np.empty(0, np.int64)], [np.empty((0, dimension), np.float32)]
    for batch in batches:
        parts = centred_unit(batch.kernels)
        alive = ~parts.dead
        ids.append(batch.table["filter_id"].to_numpy()[alive])
        vectors.append(parts.unit[alive])
    return np.concatenate(ids), np.concatenate(vectors)


def brute_force(
    batches: Iterable[KernelBatch], directions: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The exact k best by one streamed pass over the kernels, in memory that does not grow with them."""
    n = len(directions)
    best = np.full((n, k), -np.inf, np.float32)
    best_ids = np.full((n, k), -1, np.int64)
    for batch in batches:
        parts = centred_unit(batch.kernels)
        score = np.where(parts.dead, -np.inf, directions @ parts.unit.T)
        ids = batch.table["filter_id"].to_numpy()
        if len(ids) > k:
            chosen = np.argpartition(-score, k - 1, axis=1)[:, :k]
            score, found = np.take_along_axis(score, chosen, 1), ids[chosen]
        else:
            found = np.broadcast_to(ids, score.shape)
        all_scores, all_ids = np.concatenate([best, score], 1), np.concatenate([best_ids, found], 1)
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
        best, best_ids = np.take_along_axis(all_scores, order, 1), np.take_along_axis(all_ids, order, 1)
    best_ids[~np.isfinite(best)] = -1
    return best, best_ids
