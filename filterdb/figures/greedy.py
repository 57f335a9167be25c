"""The curve of a greedy search, with the templates that remain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from filterdb.banks import Bank
from filterdb.errors import NotFound, not_found
from filterdb.figures import style
from filterdb.figures.registry import Asked, picture
from filterdb.figures.sheet import centred
from filterdb.figures.style import PAGE, Figure, Look, drawn

if TYPE_CHECKING:
    from filterdb.frozen.greedy import Greedy

MEASURES = {
    "energy_kept": "share of the energy kept", "top1": "top-1 accuracy", "agreement": "agreement with the original",
    "kl": "KL from the original, nats",
}  # fmt: skip
SURVIVORS = 16
"""Templates drawn at most."""


@dataclass(frozen=True)
class Curve:
    """What the picture shows."""

    measure: str
    left: Sequence[int]
    """Templates left, from the whole bank down."""
    values: Sequence[float]
    elbow: int | None
    survivors: Sequence[str]
    """The longest to survive first."""
    bank: Bank | None
    """Where the search began; None where it is not known any more."""
    original: Mapping[str, float] = field(default_factory=dict)


def draw_greedy(found: Greedy, count: int | None = None, *, title: str = "", look: Look = PAGE) -> Figure:
    """The curve of a greedy search with its elbow, and below it the templates in the order in which they survive.

    Args:
        found: what ``Database.greedy`` returns.
        count: how many templates are chosen, marked by a frame; by default as many as at the elbow.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    left, values = [step.templates for step in found.steps], [step.values[found.measure] for step in found.steps]
    curve = Curve(found.measure, left, values, found.elbow, found.survivors, found.start, found.original)
    return draw_curve(curve, count, title=title, look=look)


@drawn
def draw_curve(curve: Curve, count: int | None = None, *, title: str = "", look: Look = PAGE) -> Any:
    """The picture of a curve; see ``draw_greedy``."""
    shown = curve.survivors[:SURVIVORS] if curve.bank else []
    side = (look.inches - 0.1) / SURVIVORS
    figure = style.chart(look, (2.3 if look.wide else 1.9) + (side + 0.25 if shown else 0), title)
    grid = figure.subplots(1 + bool(shown), 1, squeeze=False, height_ratios=[2.1, side + 0.02][: 1 + bool(shown)])[:, 0]
    _line(grid[0], curve, look)
    if curve.bank is not None and shown:
        _survivors(grid[1], curve.bank, shown, count or curve.elbow or 0, 0.85 * look.inches)
    return figure


def _line(axes: Any, curve: Curve, look: Look) -> None:
    left, values = curve.left, curve.values
    axes.plot([left[0], left[-1]], [values[0], values[-1]], color=style.GREY, linewidth=0.7, linestyle=":", label="straight line")
    axes.plot(left, values, color=style.BLUE, marker="o", markersize=2.5)
    if curve.measure in curve.original:
        axes.axhline(curve.original[curve.measure], color=style.GREY, linewidth=0.7, linestyle="--", label="as it was")
    if curve.elbow is not None:
        height = values[list(left).index(curve.elbow)]
        axes.plot(curve.elbow, height, "o", markersize=8, markerfacecolor="none", color=style.RED)
        # Templates left fall to the right, so there is room below the curve on its left, or above it for what falls.
        down = values[0] > values[-1]
        axes.annotate(
            f"elbow: {curve.elbow} templates, {height:.3f}", (curve.elbow, height), (-8, -12 if down else 12),
            textcoords="offset points", color=style.RED, ha="right", va="center",
        )  # fmt: skip
    axes.set_xlim(left[0] + 0.5, left[-1] - 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("templates left")
    axes.set_ylabel(MEASURES[curve.measure])
    axes.grid(axis="y")
    axes.legend(loc="lower left" if values[0] > values[-1] else "upper left")


def _survivors(axes: Any, bank: Bank, shown: Sequence[str], chosen: int, room: float) -> None:
    from filterdb.kernels import heat_map

    axes.set_title(
        style.fitted(f"the last {len(shown)}, the longest to survive on the left; framed: {chosen} kept", room, style.SMALL),
        loc="left",
        fontsize=style.SMALL,
        pad=3,
    )
    for place, name in enumerate(shown):
        kernel = centred(bank.templates[bank.names.index(name)])
        inset = axes.inset_axes((place / SURVIVORS, 0, 0.9 / SURVIVORS, 1))
        inset.imshow(heat_map.rgb(kernel))
        inset.set_xticks([])
        inset.set_yticks([])
        inset.spines[:].set_visible(True)
        inset.spines[:].set(color=style.RED if place < chosen else style.GREY, linewidth=1.4 if place < chosen else 0.4)
    axes.set_axis_off()


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("runs", "metrics")
def greedy(db: Asked, look: Look, *, run: Annotated[str | None, "the search's run_id; by default the latest"] = None) -> Figure:
    """The curve of a greedy search with its elbow, and the templates that survived."""
    rows = db.sql(
        "SELECT run_id, bank, mode, images, coalesce(model, source), settings FROM runs WHERE kind = 'greedy' "
        "ORDER BY started_at DESC, run_id"
    ).fetchall()
    if not rows:
        raise NotFound("No greedy search is kept here: run filterdb greedy --bank BANK --model MODEL")
    found = {row[0]: row for row in rows}
    if run is not None and run not in found:
        raise not_found("greedy search", run, found)
    run_id, bank, objective, images, source, text = found[run] if run else rows[0]
    on = f", {images:,} images" if images else ""
    title = f"{bank} for {source}: greedy search by {objective}{on}"
    return draw_curve(_kept(db, run_id, bank, objective, json.loads(text)), title=title, look=look)


def _kept(db: Asked, run_id: str, bank: str, objective: str, settings: Mapping[str, Any]) -> Curve:
    """A search as the tables have it."""
    from filterdb.frozen.greedy import MEASURES as MEASURED
    from filterdb.frozen.greedy import elbow

    measure = MEASURED[objective][0]
    rows = db.sql(
        "SELECT step, value FROM metrics WHERE run_id = $run AND metric = $metric ORDER BY step DESC", run=run_id, metric=measure
    ).fetchall()
    left, values = [int(row[0]) for row in rows], [float(row[1]) for row in rows]
    try:
        start = db.bank(bank, size=settings["size"])
    except NotFound:
        start = None  # it was a bank in memory, or was removed: the curve stands without its templates
    order = settings["order"]
    survivors = [name for name in (start.names if start else []) if name not in set(order)] + order[::-1]
    return Curve(measure, left, values, elbow(list(zip(left, values)), measure), survivors, start, settings["original"])
