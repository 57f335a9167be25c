"""Results in notebooks: a relation is a table with a heat map in each row, everything else a picture.

Relations are DuckDB's, so they cannot be given a method, and the rooms below this one draw nothing. IPython is told how to show
both instead. Rows with neither a kernel nor a filter_id are shown as DuckDB shows them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

import duckdb
import numpy as np
from numpy.typing import NDArray

from filterdb.kernels import heat_map

ROWS = 20
"""Shown at most: a page of a notebook."""
SIDE = 42
"""Pixels of a kernel's longer side."""


DRAWN = (
    ("filterdb.clusters.classifier", "Classifier"), ("filterdb.fields.describing", "FilterDescription"),
    ("filterdb.fields.describing", "GroupDescription"), ("filterdb.frozen.greedy", "Greedy"),
)  # fmt: skip
"""What ``draw`` draws, by module and name: nothing of it is imported before there is such a result."""


def register() -> None:
    """Where Python runs in a notebook, tell it how to show results. Elsewhere nothing happens, and nothing is imported."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type(duckdb.DuckDBPyRelation, html)
    for module, name in DRAWN:
        formatters["image/png"].for_type_by_name(module, name, png)


def png(result: Any) -> bytes:
    """The picture of a result, at the size and sharpness of a notebook's cell."""
    from filterdb.figures.results import draw

    return draw(result).to_bytes(dpi=150)


def html(relation: duckdb.DuckDBPyRelation) -> str | None:
    """The first rows as an HTML table with their kernels as heat maps; None where they have none.

    A row's kernel is its column ``kernel`` or, where it has only a ``filter_id``, that filter's. Each kernel has its own scale:
    the largest absolute value is darkest. All that stands in the table is text, never markup.
    """
    few, names = relation.limit(ROWS + 1), relation.columns
    if not {"kernel", "filter_id"}.intersection(names):
        return None
    rows = [dict(zip(names, row, strict=True)) for row in few.fetchall()]
    kernels = [_own(row) for row in rows] if "kernel" in names else _of_filters(few, rows)
    if kernels is None:
        return None
    shown = [name for name in names if name != "kernel"]
    head = "".join(f"<th>{escape(name)}</th>" for name in ["", *shown])
    lines = [
        f"<tr><td>{_image(kernel)}</td>{''.join(f'<td>{escape(_cell(row[name]))}</td>' for name in shown)}</tr>"
        for row, kernel in zip(rows[:ROWS], kernels, strict=False)
    ]
    more = f"<p>The first {ROWS} rows.</p>" if len(rows) > ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"


class Totals(Protocol):
    """What is shown of a database as a whole; ``filterdb.database.Info`` is one."""

    @property
    def path(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def models(self) -> int: ...
    @property
    def filters(self) -> int: ...


def database(info: Totals, models: Sequence[Sequence[Any]]) -> str:
    """A database: where it is, how much there is, and its first models (model, dataset, layers, filters, sizes)."""
    head = "".join(f"<th>{name}</th>" for name in ("model", "dataset", "layers", "filters", "sizes"))
    rows = "".join(f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row)}</tr>" for row in models[:ROWS])
    more = f"<p>The first {ROWS} models.</p>" if len(models) > ROWS else ""
    counts = f"{info.filters:,} filters of {info.models:,} models, version {info.version}"
    return (
        f"<p><b>filterdb</b> {escape(info.path)}: {counts}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"
    )


def _own(row: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """The kernel in a row, in its shape: as the row says, or square."""
    taps = np.asarray([] if row["kernel"] is None else row["kernel"], np.float64)
    side = round(len(taps) ** 0.5)
    w = row.get("kernel_w") or side
    return taps.reshape(-1, w) if len(taps) and len(taps) % w == 0 else None


def _of_filters(
    few: duckdb.DuckDBPyRelation, rows: Sequence[Mapping[str, Any]]
) -> list[NDArray[np.float64] | None] | None:  # fmt: skip
    """The kernels of rows that have a filter_id; None where that is a column of something else than our tables."""
    try:
        answer = few.query("result", _FILTERS)
        found = answer.fetchall() if answer is not None else []
    except duckdb.Error:
        return None
    kernels = {filter_id: np.array(taps, np.float64).reshape(-1, w) for filter_id, taps, w in found}
    return [kernels.get(row["filter_id"]) for row in rows]


_FILTERS = "SELECT filter_id, kernel, kernel_w FROM filters WHERE filter_id IN (SELECT filter_id FROM result)"


def _image(kernel: NDArray[np.float64] | None) -> str:
    if kernel is None:
        return ""
    w, h = (round(SIDE * taps / max(kernel.shape)) for taps in kernel.shape[::-1])
    return f'<img src="{heat_map.data_uri(kernel)}" alt="kernel" width="{w}" height="{h}" style="image-rendering:pixelated">'


def _cell(value: Any) -> str:
    """A value for display."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and len(value) > 4:
        return "[" + ", ".join(map(_cell, value[:3])) + f", … {len(value)}]"
    return "" if value is None else str(value)
