"""Total activation, the sum of a kernel's weights: box plots by layer of a model, and by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from filterdb.errors import InvalidArgument, NotFound, not_found
from filterdb.figures import style
from filterdb.figures.colours import CLASS_COLOURS, class_colours, ordered, words
from filterdb.figures.registry import Asked, Models, chosen, classified, picture
from filterdb.figures.style import PAGE, Figure, Look, drawn

LONG = 40
"""Times as far as a box usually reaches: a whisker as long needs a logarithmic axis."""


@dataclass(frozen=True)
class Box:
    """What is drawn of some kernels."""

    name: str
    q05: float
    q25: float
    median: float
    q75: float
    q95: float
    colour: str


@drawn
def draw_boxes(
    boxes: Sequence[Box], *, along: str, title: str = "", note: str = "", lying: bool = False, look: Look = PAGE
) -> Any:
    """Boxes from quartile to quartile with a line at the median, whiskers from the 5th to the 95th percentile.

    Args:
        boxes: in their order.
        along: what they are of.
        title: a line above the picture.
        note: what else a reader must know, in small letters.
        lying: boxes lie, with their names on the left.
        look: see ``filterdb.figures.style.Look``.
    """
    from matplotlib.ticker import NullLocator

    figure = style.chart(look, (0.2 * len(boxes) + 0.6) if lying else (2.3 if look.wide else 2.0), title)
    axes = figure.subplots()
    axes.set_title(note, loc="right", fontsize=style.SMALL)
    stats = [
        {"label": box.name, "med": box.median, "q1": box.q25, "q3": box.q75, "whislo": box.q05, "whishi": box.q95}
        for box in boxes
    ]
    parts = axes.bxp(
        stats, positions=range(len(boxes)), widths=0.66, showfliers=False, patch_artist=True,
        orientation="horizontal" if lying else "vertical", capwidths=0.25,
    )  # fmt: skip
    for patch, box in zip(parts["boxes"], boxes, strict=True):
        patch.set(facecolor=box.colour, edgecolor=look.ink, linewidth=0.5)
    for line in (*parts["whiskers"], *parts["caps"]):
        line.set(color=look.ink, linewidth=0.5)
    for line, box in zip(parts["medians"], boxes, strict=True):
        line.set(color=style.contrast(box.colour), linewidth=1.2)
    quantity, linear = "sum of a kernel's weights", _linear(boxes)
    if linear:
        getattr(axes, "set_xscale" if lying else "set_yscale")("symlog", linthresh=linear, linscale=1.5)
        axis = axes.xaxis if lying else axes.yaxis
        axis.get_major_locator().set_params(numticks=9 if look.wide else 5)
        axis.set_major_formatter(lambda value, _: f"{value:,g}".replace("-", "−"))
        axis.set_minor_locator(NullLocator())
        quantity += f" (logarithmic beyond ±{linear:g})"
    if lying:
        axes.set_ylim(len(boxes) - 0.5, -0.5)
        axes.set_yticks(range(len(boxes)), [style.fitted(box.name, look.inches * 0.35, style.SMALL) for box in boxes])
        axes.axvline(0, color=style.GREY, linewidth=0.6, zorder=0)
        axes.set_xlabel(quantity)
        axes.set_ylabel(along)
    else:
        step = -(-len(boxes) // (24 if look.wide else 12))
        axes.set_xticks(range(0, len(boxes), step), [box.name for box in boxes][::step])
        axes.axhline(0, color=style.GREY, linewidth=0.6, zorder=0)
        axes.set_ylabel(quantity)
        axes.set_xlabel(along)
    return figure


def _linear(boxes: Sequence[Box]) -> float | None:
    """Up to where the axis is linear, a power of ten: where a few long whiskers would press all boxes flat. None: all of it."""
    reach = max(max(abs(box.q05), abs(box.q95)) for box in boxes)
    middle = float(np.median([max(abs(box.q25), abs(box.q75)) for box in boxes]))
    return None if middle == 0 or reach < LONG * middle else float(10 ** np.round(np.log10(middle)))


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("filters")
def total(
    db: Asked, look: Look, *, model: Annotated[str | None, "the model whose layers are shown"] = None,
    classifier: Annotated[str | None, "instead of a model: the classifier whose classes are shown"] = None,
    models: Models = "*",
) -> Figure:  # fmt: skip
    """Total activation (sum of the weights): box plots by layer of a model, or by class (with --classifier)."""
    if (model is None) == (classifier is None):
        raise InvalidArgument("Total activation is by layer of a --model, or by class of a --classifier: give one of the two.")
    if classifier is not None:
        name = chosen(db, classifier)
        found = {row[0]: row for row in db.query("class_totals", classifier=name, models=models).fetchall()}
        classified(list(found), name, f'models "{models}"')
        colours = class_colours(found)
        order = ordered(found, CLASS_COLOURS)
        boxes = [_box(f"{words(cls)} ({found[cls][1]:,})", found[cls][2:5], found[cls][6:8], colours[cls]) for cls in order]
        return draw_boxes(boxes, along="", title=f"Total activation by class ({name})", lying=True, look=look)
    if models != "*":
        raise InvalidArgument("--models goes with --classifier; of one model, --model shows the layers.")
    if model not in db.models:
        raise not_found("model", str(model), db.models)
    rows = db.query("total", model=model).fetchall()
    if not rows:
        raise NotFound(f"No filters of {model}: run filterdb ingest")
    boxes = [_box(str(row[0]), row[4:7], row[8:10], style.RED if row[5] > 0 else style.BLUE) for row in rows]
    note = "red: median above 0, blue: below"
    return draw_boxes(boxes, along="depthwise layer", title=f"{model}: total activation", note=note, look=look)


def _box(name: str, quartiles: Sequence[float], ends: Sequence[float], colour: str) -> Box:
    q25, median, q75 = quartiles
    return Box(name, ends[0], q25, median, q75, ends[1], colour)
