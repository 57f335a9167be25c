"""A filter's page: its values, words, fit, templates, neighbours and frequency response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from filterdb import banks
from filterdb.explorer import data, looks
from filterdb.explorer.choice import path
from filterdb.explorer.desk import Desk
from filterdb.kernels import descriptors

if TYPE_CHECKING:
    from filterdb.fields.describing import FilterDescription

NEIGHBOURS = 24
BANK = "greedy8"
_WORDS = ("band", "band_confidence", "derivative_order", "direction", "isotropic", "reason")


def page(desk: Desk, request: Request) -> Response:
    """``/filter/ID``, and ``/filter/MODEL:LAYER:CHANNEL``, which leads there."""
    status, cur = desk.status(), desk.cursor()
    text, bank = request.path_params["what"], request.query_params.get("bank") or BANK
    found = data.place(cur, text)
    [shown] = data.kernels(cur, [found.n])
    if text != str(shown.filter_id):
        return RedirectResponse(path("filter", shown.filter_id), 303)
    known = data.facts(cur, found.n)
    chosen = desk.db.bank(bank)
    search = (("similar", shown.filter_id), lambda: _similar(desk, shown))
    if not known["dead"]:
        desk.begin(*search, kind="similar")
    told = desk.work(("describe", shown.filter_id, bank), lambda: _described(desk, shown, bank))
    similar = None if known["dead"] else desk.work(*search, kind="similar", wait=0.05)
    columns = ("class", "code", "dissimilarity", "template_score")
    classes = [
        {"classifier": name} | {column: known[f"{column}_{number}"] for column in columns}
        for name, number in data.classifiers(cur).items() if known[f"class_{number}"]
    ]  # fmt: skip
    rows = similar.value or [] if similar else []
    neighbours = data.of_ids(cur, [row[1] for row in rows])
    return desk.html(
        "filter.html", status=status, title=shown.name, shown=shown, known=known, told=told, classes=classes, bank=chosen,
        banks=desk.db.banks(), ink=looks.ink(shown.kernel), unit=looks.unit(shown.kernel), similar=similar,
        response=None if shown.solid else looks.response(shown.kernel),
        nearby=[(neighbours[row[1]], row[5]) for row in rows if row[1] in neighbours],
        channels=_channels(found, known), numbers=[name for name in descriptors.COLUMNS if name not in _WORDS],
        templates=_templates(chosen, told.value, shown) if told.value else [],
    )  # fmt: skip


def _described(desk: Desk, shown: data.Shown, bank: str) -> FilterDescription:
    # by its numbers, so that no table is searched for it again
    return cast("FilterDescription", desk.db.describe(shown.whole, bank=bank))


def _similar(desk: Desk, shown: data.Shown) -> list[tuple[Any, ...]]:
    rows = desk.db.similar(shown.whole, NEIGHBOURS + 1).fetchall()
    return [row for row in rows if row[1] != shown.filter_id][:NEIGHBOURS]


def _templates(bank: banks.Bank, told: FilterDescription, shown: data.Shown) -> list[dict[str, Any]]:
    """The nearest templates at the kernel's size; their sign is that of the kernel."""
    if not told.nearest:
        return []
    scaled = bank.at(shown.size)
    kernels = dict(zip(scaled.names, scaled.templates, strict=True))
    return [row | {"kernel": np.asarray(kernels[row["template"]])} for row in told.nearest]


def _channels(found: data.Found, known: dict[str, Any]) -> dict[str, str | None]:
    """Links to the channels beside it."""

    def to(channel: int) -> str | None:
        there = 0 <= channel < known["out_channels"]
        return path("filter", f"{found.model}:{found.layer}:{channel}") if there else None

    return {"before": to(found.channel - 1), "after": to(found.channel + 1)}
