"""Pictures of kernels: matplotlib, a diverging map that is blue below zero, white at zero and red above."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.banks import Bank

COLOURS = "RdBu_r"


def draw_kernel(axes: Any, kernel: NDArray[np.floating]) -> None:
    """One kernel as a heat map, scaled to its own largest absolute value, zero in white; row 0 on top."""
    limit = float(np.abs(kernel).max()) or 1.0
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max((len(kernels) for kernels in exemplars.values()), default=0)
    # A narrow empty column sets the template apart from the real kernels.
    widths = [1.0, 0.25] + [1.0] * columns
    height = 0.72 * len(bank) + 0.6
    figure = Figure(figsize=(2.0 + 0.72 * sum(widths), height), layout="constrained")
    FigureCanvasAgg(figure)
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
    if title:
        figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)
