"""Bytes on disk against the kernels as raw float32."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.measure import ROOT, Clock, Row, once, say

TABLES = ("models", "layers", "filters")
WEIGHTS = ROOT.parent / "shared" / "data" / "weights"


def benchmark(folder: Path, small: bool) -> list[Row]:
    """Synthetic kernels, and those real checkpoints that have 7x7 kernels, where they are at hand."""
    path = data.database(folder, 1 if small else 20)
    found = once(measure, path=path).value
    rows = [_row(f"{found['filters']:,} synthetic 7x7 kernels, all tables and their logs", found["bytes"], found["raw"])]
    if not WEIGHTS.is_dir():
        say("    the real checkpoints are not here: left out")
        return rows
    found = once(real, folder=folder).value
    for name, one in found["each"].items():
        rows.append(_row(f"{name}: its {one['count']:,} 7x7 kernels with their columns", one["bytes"], one["raw"]))
    total = found["all"]
    rows.append(_row(f"the {len(found['each'])} checkpoints, kernels of every size, all tables and their logs",
                     total["bytes"], total["raw"], False))  # fmt: skip
    return rows


def _row(what: str, stored: int, raw: int, goal: bool = True) -> Row:
    return Row(what, stored, "B", "raw float32", raw, most=0.87 if goal else None)


def measure(clock: Clock, path: str) -> dict[str, int]:
    """The bytes of all files of the three tables, those of their logs included, and of the kernels in memory."""
    from filterdb import Database

    with clock:
        filters, raw = Database(path).sql("SELECT count(*), sum(4 * kernel_h * kernel_w) FROM filters").fetchall()[0]
        files = [file for table in TABLES for file in (Path(path) / table).rglob("*") if file.is_file()]
        return {"bytes": sum(file.stat().st_size for file in files), "filters": filters, "raw": int(raw)}


def real(clock: Clock, folder: str) -> dict[str, Any]:
    """The same for real checkpoints, and the compressed bytes of the row groups of 7x7 kernels (all columns) of each."""
    import json

    from filterdb import Database, FilterdbError

    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    names = [entry["file"] for entry in manifest if "7" in (entry.get("depthwise_kernels") or {})]
    with clock, tempfile.TemporaryDirectory(dir=folder) as path:
        db, each = Database(path), {}
        for name in names:
            try:
                (outcome,) = db.ingest(WEIGHTS / name)
            except FilterdbError as error:
                say(f"    left out: {error}")
            else:
                each[name] = row_groups(db, str(outcome.model))
        return {"each": {name: one for name, one in each.items() if one["count"]}, "all": measure(Clock(), path)}


def row_groups(db: Any, model: str) -> dict[str, int]:
    """Kernels, stored and raw bytes of the 7x7 row groups of a model."""
    import pyarrow.parquet as pq

    from filterdb.store.collection import slug

    (file,) = db._models.files("filters", db._snapshot(), [slug(model)])
    meta = pq.read_metadata(db.path / file)
    column = {meta.schema.column(i).path: i for i in range(meta.num_columns)}
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    chosen = [g for g in groups if all(g.column(column[name]).statistics.min == 7 for name in ("kernel_h", "kernel_w"))]
    count = sum(group.num_rows for group in chosen)
    stored = sum(group.column(i).total_compressed_size for group in chosen for i in range(meta.num_columns))
    return {"count": count, "bytes": stored, "raw": count * 49 * 4}
