"""Charts of the experiments: the CSV files that ``filterdb.experiments`` writes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

from filterdb.errors import InvalidArgument
from filterdb.figures import style
from filterdb.figures.registry import Asked, picture
from filterdb.figures.style import PAGE, Figure, Look, drawn

TRAINING = {"way", "images", "seed", "top1"}
REPLACEMENT = {"network", "layers", "bank", "templates", "steps", "top1", "error"}
TRANSFER = {"source", "transfer_layers", "seed", "top1", "error"}
"""Columns by which a file is known."""
NOTHING = "none"
"""The source of the runs without transferred layers, where each curve begins."""
Row = Mapping[str, Any]


@drawn
def draw_training(rows: Sequence[Row], *, title: str = "", look: Look = PAGE) -> Any:
    """Top-1 of each way to train: a small point for each seed, a large one for their mean, a bar of one standard deviation.

    Args:
        rows: with way, images, seed and top1 (a share), as ``filterdb.experiments.training`` writes them.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    ways = list(dict.fromkeys(row["way"] for row in rows))
    counts = sorted({int(row["images"]) for row in rows})
    figure = style.chart(look, 0.3 * len(ways) + 0.75, title)
    axes = figure.subplots()
    _stripes(axes, len(ways), look)
    for number, count in enumerate(counts):
        colour, form = style.CYCLE[number % 8], style.MARKERS[number % 8]
        for at, way in enumerate(ways):
            values = [100 * float(row["top1"]) for row in rows if row["way"] == way and int(row["images"]) == count]
            if values:
                y = at + _spread(number, len(counts))
                axes.plot(values, [y] * len(values), "o", color=colour, markersize=2, alpha=0.5, markeredgewidth=0)
                deviation = stdev(values) if len(values) > 1 else 0.0
                axes.errorbar(
                    mean(values), y, xerr=deviation or None, fmt=form, color=colour, markersize=4.5, capsize=2, linewidth=0.9,
                    markeredgecolor=look.paper, markeredgewidth=0.4,
                )  # fmt: skip
    _names(axes, ways, look)
    axes.set_xlabel("top-1 accuracy, %")
    marks = [(f"{count:,} images", style.CYCLE[i % 8], style.MARKERS[i % 8]) for i, count in enumerate(counts)]
    _marks(figure, marks, 4 if look.wide else 2)
    return figure


@drawn
def draw_transfer(rows: Sequence[Row], *, title: str = "", look: Look = PAGE) -> Any:
    """Top-1 by the number of transferred layers: a curve for each source, with small points for the seeds.

    A bar is one standard error of comparisons between points; see ``transfer_points``.

    Args:
        rows: with source, transfer_layers, seed, top1 and error (shares), as ``filterdb.experiments.transfer`` writes them. The
            runs of the source "none" begin each curve.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    points = transfer_points(rows)
    sources = list(dict.fromkeys(row["source"] for row in rows if row["source"] != NOTHING))
    figure = style.chart(look, 2.7, title)
    axes = figure.subplots()
    if (NOTHING, 0) in points:
        axes.axhline(points[NOTHING, 0][0], color=look.ink, linewidth=0.8, linestyle="--", zorder=1)
    for number, source in enumerate(sources):
        colour, form = style.CYCLE[number % 8], style.MARKERS[number % 8]
        some = {layers: point for (name, layers), point in points.items() if name in (source, NOTHING)}
        at = sorted(some)
        shift = 0.0 if len(sources) < 2 else (number - (len(sources) - 1) / 2) * 0.12
        axes.errorbar(
            [layers + (shift if layers else 0) for layers in at], [some[layers][0] for layers in at],
            yerr=[some[layers][1] for layers in at], fmt=form, linestyle="-", color=colour, markersize=4.5, capsize=2,
            linewidth=1, markeredgecolor=look.paper, markeredgewidth=0.4, zorder=3,
        )  # fmt: skip
        for layers, (_, _, tops) in some.items():
            if layers and len(tops) > 1:
                axes.plot(
                    [layers + shift] * len(tops), tops, "o", color=colour, markersize=1.8, alpha=0.5, markeredgewidth=0, zorder=2
                )
    axes.set_xticks(sorted({layers for _, layers in points}))
    axes.set_xlabel("depthwise layers with frozen kernels of another network")
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(axis="y")
    marks = [(source, style.CYCLE[i % 8], style.MARKERS[i % 8]) for i, source in enumerate(sources)]
    _marks(figure, marks, 4 if look.wide else 1, look.ink, "all layers trained")
    return figure


def transfer_points(rows: Sequence[Row]) -> dict[tuple[str, int], tuple[float, float, list[float]]]:
    """By source and number of layers: mean top-1, its standard error, and each seed's top-1, all in percent.

    Runs of one seed share their start and their batches, and a seed is better or worse than others as a whole. That level is
    taken out of the seeds' values and of the error, which is that of comparisons between points. The error comes from all points
    that have every seed. Where there is but one seed, it is the error that the run states.
    """
    found: dict[tuple[str, int], dict[str, float]] = {}
    stated: dict[tuple[str, int], float] = {}
    for row in rows:
        key = row["source"], int(row["transfer_layers"])
        found.setdefault(key, {})[str(row["seed"])] = 100 * float(row["top1"])
        stated[key] = 100 * float(row["error"])
    seeds = {seed for tops in found.values() for seed in tops}
    whole = [tops for tops in found.values() if set(tops) == seeds]
    if len(seeds) < 2 or len(whole) < 2:
        return {key: (mean(tops.values()), stated[key], [*tops.values()]) for key, tops in found.items()}
    level = {seed: mean(tops[seed] - mean(tops.values()) for tops in whole) for seed in seeds}
    squares = sum((tops[seed] - level[seed] - mean(tops.values())) ** 2 for tops in whole for seed in seeds)
    spread = (squares / ((len(whole) - 1) * (len(seeds) - 1))) ** 0.5
    levelled = {key: [top - level[seed] for seed, top in tops.items()] for key, tops in found.items()}
    return {
        key: (mean(tops), spread / len(tops) ** 0.5 if len(tops) > 1 else stated[key], tops) for key, tops in levelled.items()
    }


@drawn
def draw_replacement(rows: Sequence[Row], *, title: str = "", look: Look = PAGE) -> Any:
    """Top-1 after kernels were replaced, by bank and by what was done then: a panel for each network and each set of layers.

    Args:
        rows: with network, layers, bank, templates, seed, steps, top1 and error (shares), as
            ``filterdb.experiments.replacement`` writes them; several seeds are averaged. Rows without a bank are of the
            network as it was.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    # one mark for the two: what is recalibrated where there is batch normalisation is corrected where there is none
    rows = [{**row, "steps": row["steps"].replace("corrected", "recalibrated")} for row in rows]
    panels = list(dict.fromkeys((row["network"], row["layers"]) for row in rows if row["bank"]))
    if not panels:
        raise InvalidArgument("Nothing is replaced in these rows yet: each has an empty bank.")
    steps = list(dict.fromkeys(row["steps"] for row in rows if row["bank"]))
    columns = min(2 if look.wide else 1, len(panels))
    lines = -(-len(panels) // columns)
    banks = {
        one: list(dict.fromkeys(row["bank"] for row in rows if (row["network"], row["layers"]) == one and row["bank"]))
        for one in panels
    }
    tall = [max(len(banks[one]) for one in panels[line * columns : (line + 1) * columns]) for line in range(lines)]
    across = 3 if look.wide else 2
    legend = -(-(len(steps) + 1) // across)
    row = max(0.24, 0.045 * len(steps))
    figure = style.chart(look, sum(row * high + 0.45 for high in tall) + 0.25 + 0.13 * legend, title)
    grid = figure.subplots(lines, columns, squeeze=False, height_ratios=tall).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, one in zip(grid, panels, strict=False):
        _panel(axes, [row for row in rows if (row["network"], row["layers"]) == one], banks[one], steps, look)
        whole = [
            100 * float(row["top1"])
            for row in rows
            if row["network"] == one[0] and not row["bank"] and row["steps"] == "replaced"
        ]
        if whole:
            axes.axvline(whole[0], color=look.ink, linewidth=0.8, linestyle="--", zorder=1)
        axes.set_xlim(left=0)
        layers = "all depthwise layers" if one[1] == "all" else f"the {one[1]} layers"
        axes.set_title(f"{one[0]}, {layers}", loc="left")
        axes.set_xlabel("top-1 accuracy, %")
    names = [f"{step} (or corrected)" if step == "recalibrated" else step for step in steps]
    marks = [(name, style.CYCLE[i % 8], style.MARKERS[i % 8]) for i, name in enumerate(names)]
    _marks(figure, marks, across, look.ink)
    return figure


def _panel(axes: Any, rows: Sequence[Row], banks: Sequence[str], steps: Sequence[str], look: Look) -> None:
    _stripes(axes, len(banks), look)
    for number, step in enumerate(steps):
        for at, bank in enumerate(banks):
            some = [row for row in rows if (row["bank"], row["steps"]) == (bank, step)]
            if some:
                values = [100 * float(row["top1"]) for row in some]
                axes.errorbar(
                    mean(values), at + _spread(number, len(steps)), xerr=100 * mean(float(row["error"]) for row in some),
                    fmt=style.MARKERS[number % 8], color=style.CYCLE[number % 8], markersize=3.5, linewidth=0.7, zorder=3,
                    markeredgecolor=look.paper, markeredgewidth=0.3,
                )  # fmt: skip
    templates = {row["bank"]: row["templates"] for row in rows}
    _names(axes, [bank if bank.endswith(str(templates[bank])) else f"{bank} ({templates[bank]})" for bank in banks], look)


def _spread(number: int, count: int) -> float:
    """Where the marks of one row lie, so that none hides another."""
    return 0.0 if count < 2 else (number - (count - 1) / 2) * min(0.34, 0.7 / (count - 1))


def _stripes(axes: Any, rows: int, look: Look) -> None:
    """Every other row on a ground of its own."""
    for row in range(0, rows, 2):
        axes.axhspan(row - 0.5, row + 0.5, color=look.rule, alpha=0.35, linewidth=0, zorder=0)


def _names(axes: Any, names: Sequence[str], look: Look) -> None:
    axes.set_yticks(range(len(names)), [style.fitted(name, look.inches * 0.36, style.SMALL) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x")


def _marks(
    figure: Any, marks: Sequence[tuple[str, str, str]], columns: int, original: str | None = None, what: str = "as it was"
) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linestyle="", marker=form, color=colour, label=name) for name, colour, form in marks]
    if original:
        handles.append(Line2D([], [], linestyle="--", linewidth=0.8, color=original, label=what))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(columns, len(handles)), borderaxespad=0.2, handlelength=1.6
    )


# -- of a file -----------------------------------------------------------------------------------------------------------------


@picture()
def experiment(
    db: Asked | None, look: Look, *, csv: Annotated[str, "what filterdb.experiments.replacement, .training or .transfer wrote"],
) -> Figure:  # fmt: skip
    """The table of an experiment as a chart: ways to train, kernels replaced and networks repaired, or layers transferred."""
    rows = read(Path(csv))
    if set(rows[0]) >= TRANSFER:
        return draw_transfer(rows, title="Accuracy by the number of transferred layers", look=look)
    if set(rows[0]) >= TRAINING:
        return draw_training(rows, title="Accuracy by how kernels were trained", look=look)
    return draw_replacement(rows, title="Accuracy after kernels were replaced", look=look)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of an experiment.

    Raises:
        InvalidArgument: it cannot be read, has no rows, lacks the columns, or has numbers that are none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument(f"{path} cannot be read as CSV: {getattr(error, 'strerror', None) or error}.") from error
    there = set(rows[0]) if rows else set()
    kind = next((columns for columns in (TRANSFER, TRAINING, REPLACEMENT) if columns <= there), None)
    if kind is None:
        has = f"has the columns {', '.join(map(str, rows[0]))}" if rows else "has no rows"
        raise InvalidArgument(
            f"{path.name} {has}; an experiment of filterdb writes {', '.join(sorted(TRAINING))}, or "
            f"{', '.join(sorted(REPLACEMENT))}, or {', '.join(sorted(TRANSFER))}."
        )
    for number, row in enumerate(rows, start=2):
        for column in kind & {"images", "top1", "error", "transfer_layers"}:
            try:
                float(row[column])
            except (TypeError, ValueError):
                raise InvalidArgument(f'{path.name}, line {number}: {column} is not a number, got "{row[column]}".') from None
    return rows
