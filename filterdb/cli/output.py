"""Printing rows: as a table for people, as CSV, JSON or Parquet for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filterdb.cli.progress import Bar
from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

PIPED_WIDTH = 1000


class Format(StrEnum):
    """How rows are written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def console() -> Console:
    """The console for people: as wide as the terminal; wide enough not to wrap where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, soft_wrap=False)


def write_rows(reader: pa.RecordBatchReader, form: Format, out: Path | None, limit: int) -> None:
    """Write rows as they come; only the table stops, after ``limit`` rows."""
    if out is not None and form is Format.table and (suffix := out.suffix.lstrip(".")) in [*map(str, Format)]:
        form = Format(suffix)
    if out is None:
        if form is Format.parquet:
            raise InvalidArgument("Parquet is binary: name a file with --out FILE.parquet.")
        return _write_text(reader.schema.names, reader, form, sys.stdout, limit)
    # Write to a partial file first, so that an interrupted command leaves no incomplete file under the final name.
    partial = out.with_name(out.name + ".partial")
    try:
        if form is Format.parquet:
            _write_parquet(reader, partial)
        else:
            with partial.open("w", encoding="utf-8", newline="") as file:
                _write_text(reader.schema.names, _counted(reader, quiet=form is Format.json), form, file, limit)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _counted(reader: pa.RecordBatchReader, *, quiet: bool = False) -> Iterator[pa.RecordBatch]:
    """The batches, and on standard error how many rows went by."""
    rows = 0
    with Bar(quiet=quiet) as bar:
        for batch in reader:
            yield batch
            rows += batch.num_rows
            bar("writing rows", rows, 0)


def _write_parquet(reader: pa.RecordBatchReader, path: Path) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in _counted(reader):
            writer.write_batch(batch)


def _write_text(names: list[str], batches: Iterable[pa.RecordBatch], form: Format, file: IO[str], limit: int) -> None:
    rows = (_floats(row) for batch in batches for row in batch.to_pylist())
    if form is Format.json:
        _write_json(rows, file)
    elif form is Format.csv:
        import csv

        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([json.dumps(row[n]) if isinstance(row[n], list) else row[n] for n in names] for row in rows)
    else:
        _write_table(names, rows, file, limit)


def _write_json(rows: Iterable[dict[str, Any]], file: IO[str]) -> None:
    """An array with one object to a line, written as the rows come."""
    separator = "[\n"
    for row in rows:
        file.write(separator + json.dumps(_plain(row), default=str))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def _floats(row: dict[str, Any]) -> dict[str, Any]:
    """SQL's decimals, such as the literal 1.5, as the numbers that JSON and people know."""
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()}


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _write_table(names: list[str], rows: Iterator[dict[str, Any]], file: IO[str], limit: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown: list[dict[str, Any]] = []
    more = False
    for row in rows:
        if len(shown) == limit:
            more = True
            break
        shown.append(row)
    for name in names:
        numbers = all(
            isinstance(row[name], (int, float)) and not isinstance(row[name], bool) for row in shown if row[name] is not None
        )
        table.add_column(name, justify="right" if numbers and shown else "left", overflow="fold")
    for row in shown:
        # Text, not str: a model named "[red]" is data, not markup.
        table.add_row(*(Text(cell(row[name])) for name in names))
    target = console()
    target.file = file
    target.print(table)
    if more:
        target.print(
            f"The first {limit} rows. For all: --limit N, or --format csv, json or parquet with --out FILE.", style="dim"
        )


def cell(value: Any) -> str:
    """A value for display."""
    if value is None:
        return "·"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and len(value) > 4:
        return "[" + ", ".join(cell(item) for item in value[:3]) + f", … {len(value)}]"
    return str(value)


def print_json(value: Any) -> None:
    """One JSON document for programs."""
    print(json.dumps(_plain(value), default=str, indent=2))
