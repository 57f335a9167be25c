"""Shares of classes and words: by layer, across models, over training, from input to output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

import numpy as np

from filterdb.errors import InvalidArgument, NotFound, not_found
from filterdb.figures import style
from filterdb.figures.colours import BAND_COLOURS, CLASS_COLOURS, ON_DARK, class_colours, ordered, words
from filterdb.figures.registry import Asked, ClassifierName, Merge, Models, chosen, classified, merging, picture
from filterdb.figures.style import PAGE, Figure, Look, drawn

PANELS = 12
"""Maximum number of models side by side."""
FEW = 24
"""Up to this many bars, thin lines separate them."""
GROUPS = ("task", "model", "dataset", "size", "stride", "depth")


@drawn
def draw_proportions(
    panels: Mapping[str, Sequence[tuple[float, str, float]]], *, title: str = "", along: str = "layer", columns: int = 3,
    colours: Mapping[str, str] = CLASS_COLOURS, look: Look = PAGE,
) -> Any:  # fmt: skip
    """Stacked proportions, a panel for each model.

    Args:
        panels: model name to rows (position, class, percent); positions of a panel are its layers, or training steps.
        title: a line above the picture.
        along: what the positions are.
        columns: panels side by side, on a page.
        colours: of the classes, from the bottom of a bar to its top.
        look: see ``filterdb.figures.style.Look``.
    """
    columns = max(1, min(columns if look.wide else 1, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    order = ordered([name for rows in panels.values() for _, name, _ in rows], colours)
    colours = {**class_colours(order), **colours, **(ON_DARK if look.dark else {})}
    figure = style.chart(look, (2.3 if lines == 1 else 1.55) * lines + (0.25 if look.wide else 0.75), title)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for number, (axes, (model, rows)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        stack(axes, rows, order, colours, look)
        axes.set_title(style.fitted(model, look.inches / columns * (0.68 if look.wide else 0.8), style.TEXT))
        if number + columns >= len(panels):
            axes.set_xlabel(along)
        if number % columns == 0:
            axes.set_ylabel("% of kernels")
    legend(figure, order, colours, look)
    return figure


def stack(
    axes: Any, rows: Sequence[tuple[float, str, float]], order: Sequence[str], colours: Mapping[str, str], look: Look
) -> None:  # fmt: skip
    """One panel: a bar for each position."""
    positions = sorted({position for position, _, _ in rows})
    place = {position: i for i, position in enumerate(positions)}
    bottom = np.zeros(len(positions))
    line = 0.4 if len(positions) <= FEW else 0.0
    for name in order:
        heights = np.zeros(len(positions))
        for position, cls, percent in rows:
            heights[place[position]] += percent if cls == name else 0
        axes.bar(
            range(len(positions)), heights, bottom=bottom, width=1, color=colours[name], linewidth=line, edgecolor=look.paper,
            label=name,
        )  # fmt: skip
        bottom += heights
    axes.set_ylim(0, 100)
    axes.set_xlim(-0.5, len(positions) - 0.5)
    ticks = range(0, len(positions), -(-len(positions) // 12))
    axes.set_xticks(ticks, [f"{positions[i]:g}" for i in ticks])


def legend(figure: Any, order: Sequence[str], colours: Mapping[str, str], look: Look) -> None:
    """The colours, in the order in which they lie upon each other; on the right of a page, below a column."""
    from matplotlib.patches import Patch

    if look.wide:
        handles = [Patch(color=colours[name], label=words(name)) for name in reversed(order)]
        figure.legend(handles=handles, loc="outside right center", borderaxespad=0.2)
    else:
        handles = [Patch(color=colours[name], label=words(name)) for name in order]
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(order) > 4 else 4, borderaxespad=0.2)


@drawn
def draw_shares(
    rows: Sequence[tuple[str, str, float]], *, along: str, title: str = "", colours: Mapping[str, str] = BAND_COLOURS,
    look: Look = PAGE,
) -> Any:  # fmt: skip
    """Shares as horizontal bars, one for each group; shares of 5 % and more with their number.

    Args:
        rows: (group, name, percent), the groups in the order of the bars from the top.
        along: what the groups are.
        title: a line above the picture.
        colours: of the names, from the left of a bar to its right.
        look: see ``filterdb.figures.style.Look``.
    """
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    order = ordered([name for _, name, _ in rows], colours)
    colours = {**class_colours(order), **colours, **(ON_DARK if look.dark else {})}
    lines = 1 if look.wide else -(-len(order) // 2)
    figure = style.chart(look, 0.2 * len(groups) + 0.7 + 0.14 * lines, title)
    axes = figure.subplots()
    left = np.zeros(len(groups))
    room = look.inches * 0.6 / 100
    for name in order:
        widths = np.array([sum(percent for one, cls, percent in rows if (one, cls) == (group, name)) for group in groups])
        axes.barh(
            range(len(groups)),
            widths,
            left=left,
            height=0.84,
            color=colours[name],
            linewidth=0.4,
            edgecolor=look.paper,
            label=name,
        )
        for at, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width >= 5 and width * room > style.breadth(f"{width:.0f}", style.SMALL) + 0.04:
                axes.text(
                    start + width / 2, at, f"{width:.0f}", ha="center", va="center_baseline", fontsize=style.SMALL,
                    color=style.contrast(colours[name]),
                )  # fmt: skip
        left += widths
    axes.set_yticks(range(len(groups)), [style.fitted(group, look.inches * 0.38, style.SMALL) for group in groups])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of kernels")
    axes.set_ylabel(along)
    axes.spines["left"].set_visible(False)
    from matplotlib.patches import Patch

    handles = [Patch(color=colours[name], label=words(name)) for name in order]
    columns = min(len(order), 8) if look.wide else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, borderaxespad=0.2)
    return figure


# -- of a database -------------------------------------------------------------------------------------------------------------


def _meant(db: Asked, model: str) -> list[str]:
    """The models of a name or glob. A glob excludes checkpoints of training runs, unless it matches nothing else."""
    if model in db.models:
        return [model]
    found = [one for one in db.models if fnmatchcase(one, model)]
    if not found:
        raise not_found("model", model, db.models)
    runs = {one for (one,) in db.sql("SELECT model FROM models WHERE run IS NOT NULL").fetchall()}
    return [one for one in found if one not in runs] or found


@picture("classes")
def class_layers(
    db: Asked, look: Look, *, model: Annotated[str, "the model, or a glob: a panel for each, twelve at most"],
    classifier: ClassifierName = None, merge: Merge = "derivatives",
) -> Figure:  # fmt: skip
    """Shares of the classes in each layer, from input to output.

    Layers with other kernel sizes than the classifier's are excluded. A glob also excludes checkpoints of training runs.
    """
    name = chosen(db, classifier)
    models = _meant(db, model)
    found = {one: db.query("class_layers", model=one, classifier=name, merge=merging(merge)).fetchall() for one in models}
    panels = {one: [(depth, cls, percent) for depth, _, cls, _, percent in rows] for one, rows in found.items() if rows}
    classified(list(panels), name, f'the model "{model}"')
    shown = {one: panels[one] for one in list(panels)[:PANELS]}
    of = f", the first {PANELS} of {len(panels)} models" if len(panels) > PANELS else ""
    return draw_proportions(shown, title=f"Classes by layer ({name}){of}", along="depthwise layer", look=look)


@picture("classes")
def class_models(
    db: Asked, look: Look, *, classifier: ClassifierName = None, models: Models = "*", merge: Merge = "derivatives"
) -> Figure:  # fmt: skip
    """Shares of the classes in each model, the model with the most clustered kernels first.

    Checkpoints of training runs are excluded, unless --models matches nothing else.
    """
    name = chosen(db, classifier)
    rows = db.query("class_models", classifier=name, models=models, merge=merging(merge)).fetchall()
    classified(rows, name, f'models "{models}"')
    ranks = [row[0] for row in db.query("clustered", classifier=name, models=models).fetchall()]
    meant = _meant(db, models)
    rows = sorted((row for row in rows if row[0] in meant), key=lambda row: ranks.index(row[0]))
    shares = [(model, cls, percent) for model, cls, _, percent in rows]
    return draw_shares(shares, along="", title=f"Classes of models ({name})", colours=CLASS_COLOURS, look=look)


@picture("descriptors")
def bands(
    db: Asked, look: Look, *, by: Annotated[str, "depth, task, model, dataset, size or stride"] = "depth", models: Models = "*",
    size: Annotated[str, "kernel size, or * for all; by depth only"] = "*",
) -> Figure:  # fmt: skip
    """Shares of the signal-processing words (lowpass, differential …), by depth, or by task, model, dataset or size."""
    if by not in GROUPS:
        raise not_found("way to group kernels", by, GROUPS)
    if by == "depth":
        found = db.query("band_depth", models=models, size=size).fetchall()
        rows = [(f"{depth:g}–{depth + 0.1:g}", band, percent) for depth, band, _, percent in found]
        along = "depth, from input (0) to output (1)"
    else:
        if size != "*":
            raise InvalidArgument("--size goes with --by depth alone. Leave one of the two out.")
        found = db.query("bands", by=by, models=models).fetchall()
        if by == "model" and found:  # a run's checkpoints would be as many bars
            meant = _meant(db, models)
            found = [row for row in found if row[0] in meant]
        rows, along = [(name, band, percent) for name, band, _, percent, _ in found], "" if by == "model" else by
    if not rows:
        raise NotFound(f'No descriptors of models "{models}": ingest one, or run filterdb verify --repair')
    return draw_shares(rows, along=along, title=f"What kernels do, by {by}", look=look)
