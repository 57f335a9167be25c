"""The SQL box: a statement or a named query, its rows as a table or as kernels, and as a file."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from filterdb.errors import FilterdbError, QueryError, not_found
from filterdb.explorer import data
from filterdb.explorer.desk import Desk
from filterdb.explorer.sql_box import DOWNLOADED, Result, parameters_of
from filterdb.store import named_queries

EXAMPLE = """SELECT filter_id, model, layer, channel, band, band_confidence
FROM descriptors JOIN filters USING (filter_id)
WHERE band = 'differential' AND size = '7x7'
ORDER BY band_confidence DESC
LIMIT 48"""
SHOWN = 200
"""Rows of a table, and kernels, on the page."""
TABLES = "SELECT table_name, column_name, data_type FROM information_schema.columns ORDER BY table_name, ordinal_position"


def page(desk: Desk, request: Request) -> Response:
    """``/sql?q=…``, or ``/sql?name=depth&p.size=7x7``; ``&view=kernels`` shows kernels."""
    query = request.query_params
    name, text = query.get("name") or "", query.get("q") or ""
    question = named_queries.load(name) if name else None
    given = parameters_of(query)
    found, error = None, ""
    missing = question is not None and any(one.default is None and one.name not in given for one in question.parameters)
    if (text or question) and not missing:
        try:
            found = _rows(desk, request, SHOWN)
        except FilterdbError as problem:
            error = " ".join(str(problem).split())
    names = found.table.column_names if found else []
    pictures = "kernel" in names or "filter_id" in names
    view = query.get("view") or ("kernels" if pictures and found and found.table.num_rows else "table")
    schema = desk.work("schema", lambda: tables(desk))
    return desk.html(
        "sql.html", 400 if error else 200, title="SQL", text=text, name=name, question=question, given=given, found=found,
        error=error, view=view if pictures else "table", pictures=pictures, names=names, example=EXAMPLE, shown=SHOWN,
        questions=[named_queries.load(one) for one in named_queries.names()], schema=schema,
        kernels=_kernels(desk, found) if found and pictures and view == "kernels" else [],
        rows=[list(row.values()) for row in found.table.to_pylist()] if found else [],
        keep=[(key, value) for key, value in query.multi_items() if key != "view" and value], limit=DOWNLOADED,
        seconds=desk.sql.seconds, missing=missing,
    )  # fmt: skip


def download(desk: Desk, request: Request) -> Response:
    """``/sql.csv`` and ``/sql.parquet`` with the query of the page."""
    form = request.path_params["form"]
    if form not in ("csv", "parquet"):
        raise not_found("file format", form, ("csv", "parquet"))
    found = _rows(desk, request, DOWNLOADED)
    body, kind = (
        (_csv(found.table), "text/csv; charset=utf-8")
        if form == "csv"
        else (_parquet(found.table), "application/vnd.apache.parquet")
    )
    name = "".join(one for one in request.query_params.get("name") or "query" if one.isalnum() or one == "_")
    return Response(body, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}.{form}"'})


def _rows(desk: Desk, request: Request, rows: int) -> Result:
    query = request.query_params
    text, name, given = query.get("q") or "", query.get("name") or "", parameters_of(query)
    if name:
        return desk.sql.run(lambda db: db.query(name, **given), rows)
    if not text.strip():
        raise QueryError("There is no statement. Write one, such as SELECT count(*) FROM filters.")
    return desk.sql.run(lambda db: db.sql(text), rows)


def tables(desk: Desk) -> dict[str, list[tuple[str, str]]]:
    """The columns of every table."""
    tables: dict[str, list[tuple[str, str]]] = {}
    for row in desk.sql.run(lambda db: db.sql(TABLES), 10_000).table.to_pylist():
        tables.setdefault(row["table_name"], []).append((row["column_name"], row["data_type"]))
    return tables


def _kernels(desk: Desk, found: Result) -> list[dict[str, Any]]:
    """The rows as kernels: of the database where they have a filter_id, else of the column ``kernel``."""
    rows = found.table.slice(0, SHOWN).to_pylist()
    ids = [row.get("filter_id") for row in rows]
    known = data.of_ids(desk.cursor(), [one for one in ids if isinstance(one, int)])
    made = []
    for row, filter_id in zip(rows, ids, strict=True):
        shown = known.get(filter_id)
        kernel = shown.kernel if shown else _square(row)
        if kernel is not None:
            about = {key: value for key, value in row.items() if key not in ("kernel", "filter_id", "model", "layer", "channel")}
            name = (
                shown.name
                if shown
                else " ".join(str(row[key]) for key in ("model", "layer", "template", "class") if row.get(key))
            )
            made.append({"kernel": kernel, "shown": shown, "name": name or "a kernel", "about": about})
    return made


def _square(row: dict[str, Any]) -> NDArray[np.float32] | None:
    """A kernel given as numbers, of the size that the row says or that is square."""
    values = row.get("kernel")
    if not isinstance(values, list) or not values or not all(isinstance(one, int | float) for one in values):
        return None
    w = row.get("kernel_w")
    if not (isinstance(w, int) and w > 0 and len(values) % w == 0):
        w = round(len(values) ** 0.5)
    array = np.array(values, np.float32)
    return array.reshape(-1, w) if len(values) % w == 0 and np.isfinite(array).all() else None


def _csv(table: pa.Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        writer.writerow([json.dumps(value) if isinstance(value, list | dict) else value for value in row.values()])
    return text.getvalue().encode()


def _parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()
