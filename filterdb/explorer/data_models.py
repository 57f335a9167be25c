"""What the pages of models, of the spectrum and of comparisons ask of the shelf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from filterdb.errors import not_found
from filterdb.explorer.data import Cursor, Shown, kernels

SAMPLES = 8
"""Kernels of each layer on a model's page, evenly over its channels."""
LAYERS = 200
"""Layers of a model that are listed with samples."""
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
    where = "WHERE model = ? AND classifier = ?"
    for layer, dead, band, count in cur.execute(
        f"SELECT layer_number, dead, band, sum(filters)::BIGINT FROM {_COUNTED} {where} GROUP BY ALL", [model, 0],
    ).fetchall():  # fmt: skip
        rows[layer].dead += count if dead else 0
        rows[layer].bands[band] = rows[layer].bands.get(band, 0) + count
    for layer, name, count in cur.execute(
        f"SELECT layer_number, class, sum(filters)::BIGINT FROM {_COUNTED} {where} GROUP BY ALL", [model, number],
    ).fetchall() if number else []:  # fmt: skip
        rows[layer].classes[name] = count
    places: dict[int, int] = {}
    for row in list(rows.values())[:LAYERS]:
        n, channels = row.facts["start"], row.facts["out_channels"]
        places |= {n + channels * i // min(SAMPLES, channels): row.facts["number"] for i in range(min(SAMPLES, channels))}
    for place, shown in zip(sorted(places), kernels(cur, sorted(places)), strict=True):
        rows[places[place]].samples.append(shown)
    return list(rows.values())


def totals(cur: Cursor, model: str, number: int) -> dict[str, dict[str, int]]:
    """Kernels of a model by size, word and class."""
    found: dict[str, dict[str, int]] = {}
    for column, classifier in (("size", 0), ("band", 0), ("class", number)):
        rows = cur.execute(
            f"SELECT cells_or_layers.{column}, sum(filters)::BIGINT AS n FROM (FROM {_COUNTED}) "
            "AS cells_or_layers WHERE model = ? AND classifier = ? GROUP BY 1 ORDER BY n DESC, 1", [model, classifier],
        ).fetchall()  # fmt: skip
        found[column] = dict(rows) if column != "class" or number else {}
    return found


def told_by(cur: Cursor, model: str) -> list[str]:
    """The classifiers that told kernels of a model, who told most first."""
    return [row[0] for row in cur.execute(
        f"SELECT k.classifier FROM {_COUNTED} JOIN classifiers AS k ON cells.classifier = k.number "
        "WHERE model = ? AND class NOT IN ('(not told)', '(dead)') GROUP BY 1 ORDER BY sum(filters) DESC, 1", [model]
    ).fetchall()]  # fmt: skip


def nearest_to_code(cur: Cursor, number: int, code: float, count: int, every: bool) -> list[tuple[Shown, Mapping[str, Any]]]:
    """The real kernels whose codes are nearest to a code, of equals the least dissimilar first, with what was told of them.

    Only those that are clustered, or every one.
    """
    rows = _dicts(cur.execute(
        f"SELECT n, code_{number} AS code, class_{number} AS class, dissimilarity_{number} AS dissimilarity FROM rows "
        f"WHERE code_{number} IS NOT NULL {'' if every else f'AND clustered_{number}'} "
        f"ORDER BY abs(code_{number}::DOUBLE - ?), dissimilarity_{number}, n LIMIT ?", [code, count]
    ))  # fmt: skip
    by_id = kernels(cur, [row["n"] for row in rows])
    return list(zip(by_id, rows, strict=True))


def _dicts(cur: Cursor) -> list[dict[str, Any]]:
    names = [column[0] for column in cur.description or []]
    return [dict(zip(names, row, strict=True)) for row in cur.fetchall()]
