"""Two models side by side: sizes, words, classes, and the shift between their kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from filterdb.errors import NotFound
from filterdb.explorer import data, data_models, looks
from filterdb.explorer.desk import Desk

if TYPE_CHECKING:
    from filterdb.comparison.compare import Comparison

NOVEL = 12


def page(desk: Desk, request: Request) -> Response:
    """``/compare?a=MODEL&b=MODEL&size=7x7``"""
    status, cur = desk.status(), desk.cursor()
    a, b = (request.query_params.get(name) or "" for name in "ab")
    models = data_models.names(cur)
    values: dict[str, Any] = {"status": status, "title": "Compare", "a": a, "b": b, "models": models, "sides": [], "sizes": []}
    if not (a and b):
        return desk.html("compare.html", **values)
    for model in (a, b):
        data_models.check_model(cur, model)
    told = [data_models.told_by(cur, model) for model in (a, b)]
    both = [name for name in told[0] if name in told[1]]
    classifier = request.query_params.get("classifier") or (both[0] if both else "")
    number = data.check(cur, data.Choice(classifier=classifier))
    totals = [data_models.totals(cur, model, number) for model in (a, b)]
    sizes = [size for size in totals[0]["size"] if size in totals[1]["size"]]
    size = request.query_params.get("size") or (sizes[0] if sizes else "")
    if size and size not in sizes:
        raise NotFound(f'"{a}" and "{b}" do not both have kernels of size {size}. Common sizes: {", ".join(sizes) or "none"}.')
    basis = f"pca-{size}"
    there = bool(size) and basis in desk.db.bases()
    shift = desk.work(("compare", a, b, size), lambda: _compared(desk, a, b, size)) if there and a != b else None
    novel = data.of_ids(cur, [one.filter_id for one in shift.value.novel if one.filter_id]) if shift and shift.value else {}
    return desk.html(
        "compare.html", **values | {"sizes": sizes}, size=size, basis=basis, there=there, shift=shift, novel=novel, both=both,
        classifier=classifier, sides_of=[
            {"model": model, "sizes": total["size"], "bands": looks.band_bar(total["band"]),
             "classes": looks.bar(total["class"]) if number else [], "filters": sum(total["size"].values())}
            for model, total in zip((a, b), totals, strict=True)
        ],
    )  # fmt: skip


def _compared(desk: Desk, a: str, b: str, size: str) -> Comparison:
    # a basis is there, so nothing is stored
    return desk.db.compare(a, b, size=size, novel=NOVEL)
