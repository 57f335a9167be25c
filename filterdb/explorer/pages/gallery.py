"""The gallery: kernels as heat maps, chosen by facets, in any order."""

from __future__ import annotations

import dataclasses
from itertools import groupby

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from filterdb.clusters.classifier import shipped
from filterdb.explorer import data
from filterdb.explorer.choice import FACETS, LAST_SORTED_PAGE, PAGE, RANDOM, Choice, sort_groups
from filterdb.explorer.desk import Desk
from filterdb.explorer.looks import words

TITLES = {
    "model": "Model", "family": "Family", "size": "Size", "dataset": "Data set", "class": "Class", "band": "Signal processing",
    "dead": "Dead",
}  # fmt: skip
FIRST = 8
"""Values of a facet that are visible at first."""
MOST = 60
"""Maximum number of values in the list of a facet."""


def page(desk: Desk, request: Request) -> Response:
    """``/``"""
    choice = Choice.of(request.query_params.multi_items())
    if len(request.query_params.multi_items()) != len(choice.pairs()):
        return RedirectResponse(choice.url, 303)  # a form sends its empty fields too; the shared address is the short one
    status = desk.status()
    cur = desk.cursor()
    number = data.check(cur, choice)
    counts = desk.kept(("counts", number, choice.narrowed), lambda: data.counts(cur, choice, number))
    shown = data.page(cur, choice, number)
    pages = -(-counts.total // PAGE)
    classifiers = data.classifiers(cur)
    facets = [
        {
            "name": name, "title": TITLES[name], "chosen": choice.values(name), "first": FIRST,
            "values": [(one, words(one.value) if name == "class" else one.value) for one in counts.facets[name][:MOST]],
            "more": max(0, len(counts.facets[name]) - MOST),
        }
        for name in FACETS if name in counts.facets
    ]  # fmt: skip
    return desk.html(
        "gallery.html", status=status, title="Gallery", choice=choice, but=choice.but, shown=shown, total=counts.total,
        facets=facets, classifiers=list(classifiers), shipped=shipped(), groups=sort_groups(bool(number), data.fits(cur)),
        pages=min(pages, LAST_SORTED_PAGE) if choice.sort else pages, cut=bool(choice.sort) and pages > LAST_SORTED_PAGE,
        groups_of=[(("", ""), shown)] if choice.sort else [(of, list(ones)) for of, ones in groupby(shown, data.Shown.of)],
        random=choice.sort == RANDOM, known_models=[v.value for v in counts.facets["model"]],
        sorted_by=None if choice.sort in ("", RANDOM) else choice.sort, turn=dataclasses.replace,
        empty=not status.total,
    )  # fmt: skip
