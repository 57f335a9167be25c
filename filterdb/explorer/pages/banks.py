"""All banks, and a bank's page: its templates and the kernels that match them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from filterdb import banks
from filterdb.banks import Bank
from filterdb.explorer import data
from filterdb.explorer.desk import Desk

EXEMPLARS = 10
"""Real kernels beside each template."""


@dataclass
class Matched:
    """The kernels that are closest to a template, of either sign."""

    filters: int = 0
    similarity: float = 0.0
    """The sum of |similarity|."""
    inverted: int = 0
    best: list[tuple[float, int]] = field(default_factory=list)
    """(similarity, filter_id), the largest |similarity| first."""

    def add(self, similarity: NDArray[np.floating], best: list[tuple[float, int]]) -> None:
        """Some more kernels."""
        self.filters += len(similarity)
        self.similarity += float(np.abs(similarity).sum())
        self.inverted += int((similarity < 0).sum())
        self.best = sorted([*self.best, *best], key=lambda one: (-abs(one[0]), one[1]))[:EXEMPLARS]


def every(desk: Desk, request: Request) -> Response:
    """``/banks``"""
    every = [desk.db.bank(name) for name in desk.db.banks()]
    return desk.html("banks.html", status=desk.status(), title="Banks", banks=every)


def page(desk: Desk, request: Request) -> Response:
    """``/bank/NAME``; ``?size=5x5`` scales it to another kernel size."""
    status = desk.status()
    size = request.query_params.get("size") or None
    bank = desk.db.bank(request.path_params["name"], size=size)
    sizes = [row[0] for row in desk.cursor().execute("SELECT DISTINCT size FROM layers ORDER BY 1").fetchall()]
    there = bank.size in sizes
    matched = desk.work(("nearest", bank.name, bank.size), lambda: _matched(desk, bank)) if there else None
    found: dict[str, Matched] = (matched and matched.value) or {}
    shown = data.of_ids(desk.cursor(), [filter_id for one in found.values() for _, filter_id in one.best])
    return desk.html(
        "bank.html", status=status, title=bank.name, bank=bank, sizes=sizes, matched=matched, found=found, there=there,
        total=sum(one.filters for one in found.values()), scalable=bank.name in banks.shipped(),
        nearest={name: [(shown[i], rho) for rho, i in one.best if i in shown] for name, one in found.items()},
    )  # fmt: skip


def _matched(desk: Desk, bank: Bank) -> dict[str, Matched]:
    """The kernels that match each template, in one pass that keeps only the best."""
    found = {name: Matched() for name in bank.names}
    for batch in desk.db.nearest_batches(bank):
        template, similarity = batch["template"], batch["similarity"].to_numpy(zero_copy_only=False)
        which, ids = template.indices.to_numpy(zero_copy_only=False), batch["filter_id"].to_numpy()
        for number, name in enumerate(bank.names):
            rows = np.flatnonzero(which == number)
            best = rows[np.argsort(-np.abs(similarity[rows]), kind="stable")[:EXEMPLARS]]
            found[name].add(similarity[rows], [(float(similarity[i]), int(ids[i])) for i in best])
    return found
