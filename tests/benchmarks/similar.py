"""similar, k = 10: recall and latency of the index against brute force by FAISS and DuckDB; building and extending it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.measure import Clock, Row, median, once, say

K = 10
QUERIES = 400
NOISE = 0.1
"""Of a query's own length."""


def benchmark(folder: Path, small: bool) -> list[Row]:
    """All of it in one process: what is compared takes turns, query by query."""
    models = 5 if small else 20
    source = data.database(folder, models)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "filters"
        shutil.copytree(source, path, ignore=lambda _, names: {"index"} & set(names))
        say("    index, queries, extension …")
        found: dict[str, Any] = once(measure, path=path, models=models).value
    n, latency = models * data.PER_MODEL, found["latency"]
    what, raw = f"{n:,} kernels", n * 49 * 4
    ours = latency["index"]
    return [
        Row(f"similar, {what}: recall@{K} of the index, ties counted", found["recall"], "", least=0.99),
        Row("similar: one search of the warm index", ours, "s", "FAISS flat", latency["flat"]),
        Row("similar: one search of the warm index", ours, "s", "DuckDB, table FLOAT[49] in memory", latency["duckdb"]),
        Row("db.similar(kernel), the whole call", latency["call"], "s", "FAISS flat, search alone", latency["flat"]),
        Row("db.similar(kernel), the whole call", latency["call"], "s", "10 ms", 0.010, most=1),
        Row("db.similar(filter_id), the whole call", latency["call by id"], "s", "FAISS flat, search alone", latency["flat"]),
        Row("db.similar(filter_id), the whole call", latency["call by id"], "s", "10 ms", 0.010, most=1),
        Row(f"index of {what}: building", found["build"], "s", "filling FAISS flat, kernels loaded", found["build flat"]),
        Row(f"index of {what}: file", found["bytes"], "B", "raw float32", raw),
        Row("index: loading it in a new process's first call", found["load"], "s", "building", found["build"]),
        Row(f"index: extending by a model of {data.PER_MODEL:,}", found["extend"], "s", "building anew", found["rebuild"]),
    ]  # fmt: skip


def measure(clock: Clock, path: str, models: int) -> dict[str, Any]:
    """A task, on a copy of the database that it may change."""
    import duckdb
    import faiss
    import numpy as np
    import pyarrow as pa

    from filterdb import Database
    from filterdb.search import index

    db = Database(path)
    db.models  # noqa: B018 (opens the session)
    ids, vectors = index._gather(db._view().batches(7, 7, ["filter_id"]), 49)
    flat = faiss.IndexFlatIP(49)
    found: dict[str, Any] = {"build flat": timed(lambda: flat.add(vectors))}

    with clock:
        found["build"] = timed(lambda: db._index(db._view(), 7, 7))
    found["bytes"] = index_bytes(path)
    found["load"] = timed(lambda: open_index(path))
    built = db._index(db._view(), 7, 7)

    random = np.random.default_rng(1)
    chosen = random.choice(len(ids), QUERIES, replace=False)
    queries = vectors[chosen] + random.standard_normal((QUERIES, 49)).astype(np.float32) * np.float32(NOISE / 7)
    queries -= queries.mean(axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    kernels = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 49)
    con = duckdb.connect()
    con.register("incoming", pa.table({"filter_id": ids, "direction": kernels}))
    con.execute("CREATE TABLE kernels AS FROM incoming")
    sql = f"SELECT filter_id, array_inner_product(direction, $1::FLOAT[49]) AS s FROM kernels ORDER BY s DESC LIMIT {K}"

    ways: dict[str, Callable[[int], Any]] = {
        "index": lambda i: built.search(queries[i : i + 1], K),
        "flat": lambda i: flat.search(queries[i : i + 1], K),
        "duckdb": lambda i: con.execute(sql, [queries[i].tolist()]).fetchall(),
        "call": lambda i: db.similar(queries[i].reshape(7, 7), K).fetchall(),
        "call by id": lambda i: db.similar(int(ids[chosen[i]]), K).fetchall(),
    }
    for way in ways.values():
        way(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(QUERIES):
        for name, way in ways.items():
            if i < QUERIES // 10 or not name.startswith("call"):
                seconds[name].append(timed(partial(way, i)))
    found["latency"] = {name: median(values) for name, values in seconds.items()}

    scores, best = built.search(queries, K)[0], flat.search(queries, K)[0]
    found["recall"] = float((scores >= best[:, -1:] - 1e-6).mean())  # as good as the true tenth: one of the ten, up to ties

    data.put_synthetic(db, models)
    found["extend"] = timed(lambda: db._index(db._view(), 7, 7))
    shutil.rmtree(Path(path) / "index")
    found["rebuild"] = timed(lambda: open_index(path))
    return found


def open_index(path: str) -> Any:
    """The index as a process finds it that has just opened the database."""
    from filterdb import Database

    db = Database(path)
    return db._index(db._view(), 7, 7)


def timed(action: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def index_bytes(path: str) -> int:
    """Of the index's files."""
    return sum(file.stat().st_size for file in (Path(path) / "index").rglob("*") if file.is_file())
