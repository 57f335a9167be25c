"""classify: the nearest of an autoencoder's 10,000 codes for every kernel, exactly, against FAISS flat on the same codes."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.measure import Clock, Row, in_turns, once, say

WARM = 300_000
"""Kernels that either search sees before it is timed: threads are started and memory is touched."""
TIE = 4e-6
"""Similarities nearer than this are a tie: the rounding of two float32 inner products of unit vectors."""


def benchmark(folder: Path, small: bool) -> list[Row]:
    """The same kernels and codes for both; the answers must agree before their times are compared."""
    n = 100_000 if small else 1_000_000
    classifier = folder / "classify.safetensors"
    if not classifier.exists():
        say("    training an autoencoder …")
        once(make_classifier, path=classifier)
    same = once(agree, path=classifier, n=min(n, 200_000)).value
    if same["worst"] > TIE:
        raise RuntimeError(f"the answers differ by {same['worst']}")
    tasks = {name: partial(task, path=str(classifier), n=n) for name, task in (("ours", ours), ("faiss", faiss_flat))}
    found = in_turns(tasks, 3)
    path = data.database(folder, 2 if small else 20)
    whole = once(classify_database, path=path, classifier=classifier)
    return [
        Row(
            f"nearest of 10,000 codes, {n:,} kernels", found["ours"].seconds, "s", "FAISS flat", found["faiss"].seconds,
            most=1 / 20,
        ),
        Row("building the search, once for a classifier", found["ours"].value, "s", "FAISS flat", found["faiss"].value),
        Row("kernels with the very code that FAISS finds; the others are ties", same["share"], ""),
        Row(
            f"db.classify of {whole.value:,} kernels, read, scored and stored", whole.seconds, "s", "FAISS flat, search alone",
            found["faiss"].seconds * whole.value / n,
        ),
    ]  # fmt: skip


def make_classifier(clock: Clock, path: str) -> None:
    """A task: a classifier of synthetic kernels, trained briefly."""
    from filterdb.clusters import make, write

    kernels = make.gather([data.synthetic(20_000, 999).reshape(20_000, -1)], 0)
    with clock:
        write(make.train(kernels, name="benchmark", size="7x7", epochs=40, restarts=4), Path(path))


def _kernels(n: int) -> Any:
    import numpy as np

    from filterdb.kernels import centred_unit

    parts = [data.synthetic(data.PER_MODEL, seed).reshape(-1, 49) for seed in range(n // data.PER_MODEL)]
    return np.ascontiguousarray(centred_unit(np.concatenate(parts)).unit)


def ours(clock: Clock, path: str, n: int) -> float:
    """Warm, as in a classification of many models; returns the seconds that building it took, once for each classifier."""
    from filterdb.clusters import read
    from filterdb.clusters.search import CodeSearch

    unit, prototypes = _kernels(n), read(Path(path)).prototypes
    start = time.perf_counter()
    search = CodeSearch(prototypes)
    built = time.perf_counter() - start
    search.nearest(unit[:WARM])
    with clock:
        search.nearest(unit)
    return built


def faiss_flat(clock: Clock, path: str, n: int) -> float:
    """The search with all of FAISS's threads; returns the seconds of adding the codes."""
    import faiss

    from filterdb.clusters import read

    unit, prototypes = _kernels(n), read(Path(path)).prototypes
    start = time.perf_counter()
    index = faiss.IndexFlatIP(prototypes.shape[1])
    index.add(prototypes)
    built = time.perf_counter() - start
    index.search(unit[:WARM], 1)
    with clock:
        index.search(unit, 1)
    return built


def agree(clock: Clock, path: str, n: int) -> dict[str, float]:
    """The largest difference of the similarities that both report, and the share of equal codes."""
    import faiss
    import numpy as np

    from filterdb.clusters import read
    from filterdb.clusters.search import CodeSearch

    unit, prototypes = _kernels(n), read(Path(path)).prototypes
    index = faiss.IndexFlatIP(prototypes.shape[1])
    index.add(prototypes)
    with clock:
        best, similarity = CodeSearch(prototypes).nearest(unit)
        theirs, codes = index.search(unit, 1)
    exact = np.einsum("ij,ij->i", unit, prototypes[best], dtype=np.float64)
    rounding = float(np.abs(exact - similarity).max())
    return {"worst": max(rounding, float(np.abs(theirs[:, 0] - exact).max())), "share": float((codes[:, 0] == best).mean())}


def classify_database(clock: Clock, path: str, classifier: str) -> int:
    """The whole call on a database."""
    from filterdb import Database

    db = Database(path)
    db.import_classifier(classifier, name="benchmark")
    with clock:
        db.classify("benchmark")
    count: int = db.sql("SELECT count(*) FROM classes").fetchall()[0][0]
    db.remove_classifier("benchmark")
    return count
