"""Pictures of kernels: matplotlib, a diverging map that is blue below zero, white at zero and red above."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filterdb.banks import Bank
from filterdb.errors import InvalidArgument
from filterdb.shapes import OTHER, SHAPES

if TYPE_CHECKING:
    from filterdb.clusters import Classifier
    from filterdb.describing import FilterDescription, GroupDescription
    from filterdb.frozen.greedy import Greedy

COLOURS = "RdBu_r"
PICTURES = (".png", ".svg", ".pdf")


def draw_kernel(axes: Any, kernel: NDArray[np.floating], limit: float | None = None) -> None:
    """One kernel as a heat map, scaled to a limit or its own largest absolute value, zero in white; row 0 on top."""
    limit = limit or float(np.abs(kernel).max()) or 1.0
    axes.imshow(kernel, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)


def nearest_picture(bank: Bank, exemplars: Mapping[str, NDArray[np.floating]], path: Path, *, title: str = "") -> None:
    """Each template of a bank beside the real kernels closest to it.

    Args:
        bank: the templates.
        exemplars: template name to (n, kernel_h, kernel_w) kernels, closest first; see ``Database.exemplars``.
        path: .png, .svg or .pdf.
        title: a line above the picture.
    """
    columns = max((len(kernels) for kernels in exemplars.values()), default=0)
    # A narrow empty column sets the template apart from the real kernels.
    widths = [1.0, 0.25] + [1.0] * columns
    height = 0.72 * len(bank) + 0.6
    figure = _figure(2.0 + 0.72 * sum(widths), height)
    grid = figure.subplots(len(bank), len(widths), squeeze=False, width_ratios=widths)
    for row, name in enumerate(bank.names):
        for axes in grid[row]:
            axes.set_axis_off()
        kernels = [bank.templates[row], None, *exemplars.get(name, [])]
        for axes, kernel in zip(grid[row], kernels, strict=False):
            if kernel is not None:
                axes.set_axis_on()
                draw_kernel(axes, kernel - kernel.mean())
        grid[row][0].set_ylabel(bank.labels[row] or name, rotation=0, ha="right", va="center", fontsize=8)
    grid[0][0].set_title("template", fontsize=8)
    if columns:
        grid[0][2].set_title("closest trained kernels", fontsize=8, loc="left")
    _save(figure, path, title)


CLASS_COLOURS: dict[str, str] = {
    "on_centre": "#D55E00", "on_cross": "#E69F00", "on_square": "#F5C98A", "off_centre": "#0072B2", "off_cross": "#56B4E9",
    "off_square": "#B3DDF2", "dx_plus": "#00664A", "dx_minus": "#009E73", "dy_plus": "#5CCBA8", "dy_minus": "#B5E6D5",
    "first_derivative": "#009E73", "second_derivative": "#CC79A7", "other": "#D9D9D9", "(dead)": "#7F7F7F",
}  # fmt: skip
"""Okabe and Ito's colours, which the colour-blind can tell apart, and tints: a hue for each kind, a tint for each sign."""
SPARE_COLOURS = ("#F0E442", "#8C6D31", "#A55194", "#393B79", "#637939")
"""For classes that a person named."""


def class_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each class."""
    unknown = [name for name in dict.fromkeys(names) if name not in CLASS_COLOURS]
    return {**CLASS_COLOURS, **{name: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, name in enumerate(unknown)}}


def spectrum_picture(classifier: Classifier, path: Path, *, title: str = "", count: int = 36) -> None:
    """The labelled spectrum: kernels along the code, and below them which stretch is which class."""
    codes, kernels = classifier.spectrum()
    shown = np.unique(np.linspace(0, len(codes) - 1, count).round().astype(int))
    limits = np.abs(kernels[shown]).max(axis=(1, 2), keepdims=True)
    gap = np.full((classifier.kernel_h, 1), np.nan)
    strip = np.hstack([np.hstack([kernel, gap]) for kernel in kernels[shown] / np.where(limits > 0, limits, 1)])
    figure = _figure(11, 1.45)
    grid = figure.subplots(2, 1, height_ratios=[1, 2.2])
    grid[0].imshow(strip, cmap=COLOURS, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    grid[0].set_axis_off()
    colours = class_colours(stretch.name for stretch in classifier.stretches)
    named = [stretch for stretch in classifier.stretches if stretch.name != OTHER]
    for stretch in classifier.stretches:
        width = stretch.stop - stretch.start
        grid[1].barh(0, width, left=stretch.start, height=1, color=colours[stretch.name], edgecolor="white", linewidth=0.5)
    for number, stretch in enumerate(named):  # in three rows, so that the words of narrow stretches stand side by side
        middle = (stretch.start + stretch.stop) / 2
        grid[1].text(middle, -0.7 - 0.75 * (number % 3), _words(stretch.name), ha="center", va="top", fontsize=7)
        grid[1].plot([middle, middle], [-0.5, -0.65 - 0.75 * (number % 3)], color="#999999", linewidth=0.5)
    grid[1].set_xlim(0, classifier.last)
    grid[1].set_ylim(-3.1, 0.5)
    grid[1].set_yticks([])
    grid[1].set_xticks([])
    for spine in grid[1].spines.values():
        spine.set_visible(False)
    _save(figure, path, title)


def class_samples_picture(
    samples: Mapping[str, NDArray[np.floating]], path: Path, *, title: str = "", centred: bool = True
) -> None:
    """A row of kernels for each class.

    Args:
        samples: class name to (n, kernel_h, kernel_w).
        path: .png, .svg or .pdf.
        title: a line above the picture.
        centred: draw each kernel less its mean, as classes see it; False draws the raw weights.
    """
    columns = max((len(kernels) for kernels in samples.values()), default=1)
    figure = _figure(1.3 + 0.5 * columns, 0.52 * len(samples) + 0.4)
    grid = figure.subplots(max(1, len(samples)), columns, squeeze=False)
    for row, (name, kernels) in zip(grid, samples.items(), strict=False):
        for axes, i in zip(row, range(columns), strict=True):
            axes.set_axis_off()
            if i < len(kernels):
                axes.set_axis_on()
                draw_kernel(axes, kernels[i] - kernels[i].mean() if centred else kernels[i])
        row[0].set_axis_on()
        row[0].set_xticks([])
        row[0].set_yticks([])
        row[0].set_ylabel(_words(name), rotation=0, ha="right", va="center", fontsize=7)
    _save(figure, path, title)


def proportions_picture(
    panels: Mapping[str, Sequence[tuple[float, str, float]]], path: Path, *, title: str = "", along: str = "depth",
    columns: int = 3, colours: Mapping[str, str] = CLASS_COLOURS,
) -> None:  # fmt: skip
    """Stacked class proportions, a panel for each model.

    Args:
        panels: model name to rows (position, class, percent); positions of a panel are its layers, or training steps.
        path: .png, .svg or .pdf.
        title: a line above the picture.
        along: what the positions are.
        columns: panels side by side.
        colours: of the classes, from the bottom of a bar to its top.
    """
    columns = max(1, min(columns, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = _figure(3.1 * columns + 1.2, 1.75 * lines + 0.7)
    grid = figure.subplots(lines, columns, squeeze=False)
    names = [name for rows in panels.values() for _, name, _ in rows]
    order = [name for name in colours if name in set(names)]
    order += [name for name in dict.fromkeys(names) if name not in colours]
    order.sort(key=lambda name: name in ("other", "(dead)", "(zero)"))  # what has no class lies on top
    colours = {**class_colours(order), **colours}
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (model, rows) in zip(grid.flat, panels.items(), strict=False):
        axes.set_axis_on()
        positions = sorted({position for position, _, _ in rows})
        place = {position: i for i, position in enumerate(positions)}
        bottom = np.zeros(len(positions))
        for name in order:
            heights = np.zeros(len(positions))
            for position, cls, percent in rows:
                heights[place[position]] += percent if cls == name else 0
            axes.bar(range(len(positions)), heights, bottom=bottom, width=1, color=colours[name], linewidth=0, label=name)
            bottom += heights
        axes.set_title(model, fontsize=7)
        axes.set_ylim(0, 100)
        axes.set_xlim(-0.5, len(positions) - 0.5)
        ticks = np.unique(np.linspace(0, len(positions) - 1, min(6, len(positions))).round().astype(int))
        axes.set_xticks(ticks, [f"{positions[i]:g}" for i in ticks])
        axes.tick_params(labelsize=6)
        axes.set_xlabel(along, fontsize=6)
        axes.set_ylabel("% of kernels", fontsize=6)
    handles, words = grid.flat[0].get_legend_handles_labels()
    figure.legend(
        handles[::-1], [_words(word) for word in words[::-1]], loc="outside right center", fontsize=6, frameon=False
    )  # fmt: skip
    _save(figure, path, title)


BAND_COLOURS: dict[str, str] = {
    "lowpass": "#D55E00", "identity": "#E69F00", "sharpening": "#F0E442", "highpass": "#CC79A7", "bandpass": "#0072B2",
    "differential": "#009E73", "other": "#D9D9D9", "(zero)": "#7F7F7F",
}  # fmt: skip
"""The signal-processing words, in Okabe and Ito's colours."""


def description_picture(found: FilterDescription | GroupDescription, path: Path) -> None:
    """A filter: kernel, fitted model, residual and frequency response. A layer or a model: shares of the words.

    Args:
        found: what ``Database.describe`` returns.
        path: .png, .svg or .pdf.
    """
    from filterdb.describing import FilterDescription

    if isinstance(found, FilterDescription):
        return _filter_picture(found, path)
    rows = [
        (float(row["depth"] if "depth" in row else found.identity["depth"]), row["band"], row["percent"]) for row in found.bands
    ]
    proportions_picture({found.identity["model"]: rows}, path, along="layer", columns=1, colours=BAND_COLOURS)
    return None


def bands_picture(rows: Sequence[tuple[str, str, float]], path: Path, *, along: str) -> None:
    """Shares of the words as horizontal bars, one for each group.

    Args:
        rows: (group, band, percent), the groups in the order of the bars from the top.
        path: .png, .svg or .pdf.
        along: what the groups are.
    """
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    bands = [band for band in BAND_COLOURS if any(row[1] == band for row in rows)]
    figure = _figure(6.4, 0.34 * len(groups) + 1.1)
    axes = figure.subplots()
    left = np.zeros(len(groups))
    for band in bands:
        widths = np.array([sum(percent for one, name, percent in rows if (one, name) == (group, band)) for group in groups])
        axes.barh(groups, widths, left=left, height=0.8, color=BAND_COLOURS[band], label=band)
        for at, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width >= 5:
                dark = band in ("lowpass", "bandpass", "differential")
                axes.text(start + width / 2, at, f"{width:.0f}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
        left += widths
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of kernels", fontsize=7)
    axes.set_ylabel(along, fontsize=7)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(bands), fontsize=7, frameon=False, handlelength=1, columnspacing=1)
    _save(figure, path, "")


MEASURES = {
    "energy_kept": "share of the energy kept", "top1": "top-1 accuracy", "agreement": "agreement with the original",
    "kl": "KL from the original, nats",
}  # fmt: skip
SURVIVORS = 16
"""Templates drawn at most."""


def greedy_picture(found: Greedy, path: Path, count: int | None = None, *, title: str = "") -> None:
    """The curve of a greedy search with its elbow, and below it the templates in the order in which they survive.

    Args:
        found: what ``Database.greedy`` returns.
        path: .png, .svg or .pdf.
        count: how many templates are chosen, told by a frame; by default as many as at the elbow.
        title: a line above the picture.
    """
    measure, elbow = found.measure, found.elbow
    left = [step.templates for step in found.steps]
    values = [step.values[measure] for step in found.steps]
    shown = found.survivors[:SURVIVORS]
    figure = _figure(7.2, 4.2)
    grid = figure.subplots(2, 1, height_ratios=[5, 1])
    axes = grid[0]
    axes.plot([left[0], left[-1]], [values[0], values[-1]], color="#BBBBBB", linewidth=0.8, label="chord")
    axes.plot(left, values, color="#0072B2", linewidth=1.4, marker="o", markersize=3)
    if measure in found.original:
        axes.axhline(found.original[measure], color="#7F7F7F", linewidth=0.8, linestyle="--", label="as it was")
    if elbow is not None:
        height = values[left.index(elbow)]
        axes.plot(elbow, height, "o", markersize=9, markerfacecolor="none", color="#D55E00")
        axes.annotate(
            f"elbow: {elbow} templates, {height:.3f}", (elbow, height), (6, 8), textcoords="offset points", fontsize=8,
            color="#D55E00",
        )  # fmt: skip
    axes.set_xlim(left[0] + 0.5, left[-1] - 0.5)
    axes.set_xlabel("templates left", fontsize=7)
    axes.set_ylabel(MEASURES[measure], fontsize=7)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, frameon=False, loc="lower left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    grid[1].set_axis_off()
    grid[1].set_title(f"the last {len(shown)} templates, the one that survived longest on the left", fontsize=7, loc="left")
    chosen = count or elbow or 0
    for place, name in enumerate(shown):
        kernel = found.start.templates[found.start.names.index(name)]
        inset = grid[1].inset_axes((place / SURVIVORS, 0.1, 0.92 / SURVIVORS, 0.85))
        draw_kernel(inset, kernel - kernel.mean())
        if place < chosen:
            for spine in inset.spines.values():
                spine.set(color="#D55E00", linewidth=1.5)
    _save(figure, path, title)


def _filter_picture(found: FilterDescription, path: Path) -> None:
    from filterdb.descriptors import frequency_response

    panels = [("kernel", found.kernel.astype(np.float64))]
    if found.model is not None:
        panels += [(f"model: {found.fits[0]['family']}", found.model), ("residual", found.kernel - found.model)]
    limit = float(np.abs(found.kernel).max()) or 1.0
    figure = _figure(2.1 * len(panels) + 2.6, 3.3)
    grid = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
    for axes, (title, kernel) in zip(grid, panels, strict=False):
        draw_kernel(axes, kernel, limit)
        axes.set_title(title, fontsize=8)
    gain = np.abs(frequency_response(found.kernel, 65))
    image = grid[-1].imshow(gain, cmap="magma", vmin=0, extent=(-0.5, 0.5, -0.5, 0.5), interpolation="nearest")
    grid[-1].set_title("gain |H(u, v)|", fontsize=8)
    grid[-1].set_xlabel("u, cycles/px", fontsize=6)
    grid[-1].set_ylabel("v, cycles/px", fontsize=6)
    grid[-1].tick_params(labelsize=6)
    figure.colorbar(image, ax=grid[-1], shrink=0.8).ax.tick_params(labelsize=6)
    place = found.identity
    name = f"{place['model']}:{place['layer']}:{place['channel']}\n" if "model" in place else ""
    _save(figure, path, name + fill(found.sentence, 100))


def _words(name: str) -> str:
    return SHAPES.get(name, name.replace("_", " "))


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path, title: str) -> None:
    if path.suffix.lower() not in PICTURES:
        raise InvalidArgument(f"A picture is a file with one of the endings {', '.join(PICTURES)}, got {path.name}.")
    if title:
        figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)
