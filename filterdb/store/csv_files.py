"""Tables as CSV files, for reports."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb


def relation_csv(relation: duckdb.DuckDBPyRelation, path: Path) -> Path:
    """Write the rows of a relation. Returns the file."""
    return write_csv(path, relation.columns, relation.fetchall())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write rows below a header. Returns the file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path
