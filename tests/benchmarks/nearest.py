"""nearest(greedy8) over millions of kernels: against reading the column, numpy in memory, and SQL."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.measure import Clock, Row, in_turns, say

BATCH = 65_536

SQL = {
    "joined": """
        SELECT filter_id, arg_max(template, abs(similarity)) AS template, max(abs(similarity)) AS similarity
        FROM (SELECT filter_id, template, array_inner_product(kernel::FLOAT[49], direction)
                     / sqrt(greatest(norm * norm - 49 * mean * mean, 1e-30)) AS similarity
              FROM read_parquet($files), templates)
        GROUP BY filter_id""",
    "unrolled": """
        SELECT filter_id, list_position(scores, list_max(scores)) - 1 AS template,
               list_max(scores) / sqrt(greatest(norm * norm - 49 * mean * mean, 1e-30)) AS similarity
        FROM (SELECT filter_id, norm, mean, list_value({products}) AS scores FROM read_parquet($files))""",
}
"""A centred template's inner product with a raw kernel is that with the centred kernel, and ``norm`` and ``mean`` are stored."""


def benchmark(folder: Path, small: bool) -> list[Row]:
    """Time against the three others, and memory against ten times fewer kernels."""
    rows: list[Row] = []
    memory: dict[int, float] = {}
    for models in (1, 4) if small else (20, 200):
        path = data.database(folder, models)
        n = models * data.PER_MODEL
        say(f"    {n:,} kernels")
        in_sql, what = models <= 20, f"nearest, {n:,} kernels: time"
        tasks = {name: partial(task, path=str(path)) for name, task in (("ours", ours), ("parquet", parquet), ("numpy", numpy))}
        if in_sql:
            tasks |= {f"duckdb {form}": partial(duckdb, path=str(path), form=form) for form in SQL}
        found = in_turns(tasks, 5 if in_sql else 3)
        for name, measured in found.items():
            if measured.value != n:
                raise RuntimeError(f"{name} saw {measured.value} of {n} kernels.")
        seconds, memory[n] = found["ours"].seconds, found["ours"].memory
        rows += [
            Row(what, seconds, "s", "reading the column from Parquet", found["parquet"].seconds, most=2),
            Row(what, seconds, "s", "numpy on memory already loaded", found["numpy"].seconds),
        ]
        if in_sql:
            rows += [
                Row(what, seconds, "s", "DuckDB, templates joined, arg_max", found["duckdb joined"].seconds),
                Row(what, seconds, "s", "DuckDB, one product a template written out", found["duckdb unrolled"].seconds),
            ]
        rows.append(Row(f"nearest, {n:,} kernels: memory", memory[n], "B", "reading the column", found["parquet"].memory))
    few, many = memory
    rows.append(Row(f"nearest, memory at {many:,} kernels", memory[many], "B", f"at {few:,}", memory[few], most=1.2))
    return rows


def _files(path: str) -> list[Path]:
    from filterdb import Database

    db = Database(path)
    return [db.path / file for file in db._models.files("filters", db._snapshot())]


def ours(clock: Clock, path: str) -> int:
    """Every batch of the answer, all its columns, made and dropped."""
    from filterdb import Database
    from filterdb.search import nearest  # noqa: F401

    db = Database(path)
    db.models  # noqa: B018 (opens the session)
    with clock:
        return sum(batch.num_rows for batch in db.nearest_batches("greedy8"))


def parquet(clock: Clock, path: str) -> int:
    """The column ``kernel`` of the same files, a row group at a time."""
    import pyarrow.parquet as pq

    files, rows = _files(path), 0
    with clock:
        for name in files:
            file = pq.ParquetFile(name, memory_map=True)
            for group in range(file.num_row_groups):
                rows += file.read_row_group(group, columns=["kernel"]).num_rows
    return rows


def _templates() -> Any:
    """Centred, of unit length, (m, 49)."""
    from filterdb import banks

    templates = banks.load("greedy8").templates.reshape(-1, 49).astype("float32")
    templates = templates - templates.mean(axis=1, keepdims=True)
    return templates / (templates**2).sum(axis=1, keepdims=True) ** 0.5


def numpy(clock: Clock, path: str) -> int:
    """Only the template and its similarity, for kernels that lie in memory."""
    import numpy as np
    import pyarrow.parquet as pq

    templates = _templates()
    columns = [pq.ParquetFile(file).read(["kernel"])["kernel"].combine_chunks() for file in _files(path)]
    kernels = np.concatenate([column.flatten().to_numpy().reshape(-1, 49) for column in columns])
    del columns
    rows = 0
    with clock:
        for start in range(0, len(kernels), BATCH):
            batch = kernels[start : start + BATCH]
            centred = batch - batch.mean(axis=1, keepdims=True)
            centred /= np.linalg.norm(centred, axis=1, keepdims=True)
            rho = centred @ templates.T
            template = np.abs(rho).argmax(axis=1)
            rows += len(np.take_along_axis(rho, template[:, None], 1))
    return rows


def duckdb(clock: Clock, path: str, form: str) -> int:
    """Only the template and its similarity, in SQL over the same files, the answer streamed."""
    import duckdb as engine

    templates = _templates()
    products = ", ".join(f"abs(array_inner_product(kernel::FLOAT[49], {[float(x) for x in t]}::FLOAT[49]))" for t in templates)
    with engine.connect() as con:
        con.execute("CREATE TABLE templates (template INTEGER, direction FLOAT[49])")
        con.executemany("INSERT INTO templates VALUES (?, ?)", [[i, t.tolist()] for i, t in enumerate(templates)])
        files = [str(file) for file in _files(path)]
        with clock:
            answer = con.sql(SQL[form].replace("{products}", products), params={"files": files})
            return sum(batch.num_rows for batch in answer.to_arrow_reader(BATCH))
