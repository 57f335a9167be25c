"""The queries of the pages of models, spectra and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from filterdb.errors import not_found
from filterdb.explorer.data import Cursor, Shown, kernels

SAMPLES, FEWER, MANY = 8, 4, 24
"""Kernels of each layer on a model's page, evenly over its channels; fewer where there are many layers."""
LAYERS = 200
"""Layers of a model that are listed with samples."""
WIDTHS = (0.001, 0.02)
"""Of the parts of the curve that are searched before all of it."""
_COUNTED = "cells JOIN layers ON number = layer_number"


@dataclass
class LayerRow:
    """A layer on a model's page."""

    facts: dict[str, Any]
    dead: int = 0
    bands: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    samples: list[Shown] = field(default_factory=list)


def models(cur: Cursor) -> list[dict[str, Any]]:
    """Every model with its layers, kernels, dead kernels and sizes, by name."""
    return _dicts(cur.execute(
        "SELECT model, any_value(family) AS family, any_value(dataset) AS dataset, count(DISTINCT number) AS layers, "
        "sum(filters)::BIGINT AS filters, coalesce(sum(filters) FILTER (dead), 0)::BIGINT AS dead, "
        "list_sort(list(DISTINCT size)) AS sizes "
        f"FROM {_COUNTED} WHERE classifier = 0 GROUP BY model ORDER BY model"
    ))  # fmt: skip


def names(cur: Cursor) -> list[str]:
    """The names of all models."""
    return [row[0] for row in cur.execute("SELECT DISTINCT model FROM layers ORDER BY model").fetchall()]


def check_model(cur: Cursor, model: str) -> None:
    """An unknown model is an error that names the near misses."""
    if not cur.execute("SELECT 1 FROM layers WHERE model = ? LIMIT 1", [model]).fetchall():
        raise not_found("model", model, names(cur))


def facts(cur: Cursor, model: str) -> dict[str, Any]:
    """The row of ``models``."""
    return _dicts(cur.execute("SELECT * FROM models WHERE model = ?", [model]))[0]


def layers(cur: Cursor, model: str, number: int) -> list[LayerRow]:
    """The layers of a model from input to output, with shares of words and of a classifier's classes, and sample kernels."""
    rows = {row["number"]: LayerRow(row) for row in _dicts(cur.execute(
        "SELECT * FROM layers WHERE model = ? ORDER BY depth", [model]
    ))}  # fmt: skip
    if not rows:
        return []
    where = "WHERE layer_number BETWEEN ? AND ? AND classifier = ?"
    for layer, dead, band, count in cur.execute(
        f"SELECT layer_number, dead, band, sum(filters)::BIGINT FROM cells {where} GROUP BY ALL", [min(rows), max(rows), 0],
    ).fetchall():  # fmt: skip
        rows[layer].dead += count if dead else 0
        rows[layer].bands[band] = rows[layer].bands.get(band, 0) + count
    for layer, name, count in cur.execute(
        f"SELECT layer_number, class, sum(filters)::BIGINT FROM cells {where} GROUP BY ALL", [min(rows), max(rows), number],
    ).fetchall() if number else []:  # fmt: skip
        rows[layer].classes[name] = count
    samples = SAMPLES if len(rows) <= MANY else FEWER
    places: dict[int, int] = {}
    for row in list(rows.values())[:LAYERS]:
        n, channels = row.facts["start"], row.facts["out_channels"]
        places |= {n + channels * i // min(samples, channels): row.facts["number"] for i in range(min(samples, channels))}
    for place, shown in zip(sorted(places), kernels(cur, sorted(places)), strict=True):
        rows[places[place]].samples.append(shown)
    return list(rows.values())


def _span(cur: Cursor, model: str) -> list[int]:
    """The first and last number of a model's layers: they are consecutive, so what is not between them need not be read."""
    return list(cur.execute("SELECT min(number), max(number) FROM layers WHERE model = ?", [model]).fetchall()[0])


def totals(cur: Cursor, model: str, number: int) -> dict[str, dict[str, int]]:
    """Kernels of a model by size, word and class."""
    found: dict[str, dict[str, int]] = {}
    span = _span(cur, model)
    for column, classifier in (("size", 0), ("band", 0), ("class", number)):
        rows = cur.execute(
            f"SELECT c.{column}, sum(filters)::BIGINT AS n FROM (FROM {_COUNTED}) AS c "
            "WHERE layer_number BETWEEN ? AND ? AND classifier = ? GROUP BY 1 ORDER BY n DESC, 1", [*span, classifier],
        ).fetchall()  # fmt: skip
        found[column] = dict(rows) if column != "class" or number else {}
    return found


def told_by(cur: Cursor, model: str) -> list[str]:
    """The classifiers that have classified kernels of a model, those with the most kernels first."""
    return [row[0] for row in cur.execute(
        "SELECT k.classifier FROM cells AS c JOIN classifiers AS k ON c.classifier = k.number "
        "WHERE layer_number BETWEEN ? AND ? AND class NOT IN ('(unclassified)', '(dead)') "
        "GROUP BY 1 ORDER BY sum(filters) DESC, 1", _span(cur, model)
    ).fetchall()]  # fmt: skip


def nearest_to_code(cur: Cursor, number: int, code: float, count: int, every: bool) -> list[tuple[Shown, Mapping[str, Any]]]:
    """The real kernels with the codes nearest to a code, ties by dissimilarity, with their classes.

    Only those that are clustered, or every one.
    """
    clustered = "" if every else f"AND clustered_{number}"
    for width in (*WIDTHS, None):  # a narrow part of the curve has enough in a large database, and is quickly sorted
        near = "" if width is None else f"AND code_{number} BETWEEN ? AND ?"
        bounds = [] if width is None else [code - width, code + width]
        rows = _dicts(cur.execute(
            f"SELECT n, code_{number} AS code, class_{number} AS class, dissimilarity_{number} AS dissimilarity FROM rows "
            f"WHERE code_{number} IS NOT NULL {clustered} {near} "
            f"ORDER BY abs(code_{number}::DOUBLE - ?), dissimilarity_{number}, n LIMIT ?", [*bounds, code, count]
        ))  # fmt: skip
        if len(rows) == count:
            break
    by_id = kernels(cur, [row["n"] for row in rows])
    return list(zip(by_id, rows, strict=True))


def _dicts(cur: Cursor) -> list[dict[str, Any]]:
    names = [column[0] for column in cur.description or []]
    return [dict(zip(names, row, strict=True)) for row in cur.fetchall()]
