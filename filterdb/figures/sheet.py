"""A sheet of kernels. Positions are in inches from the left and from the top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.figures import style
from filterdb.figures.style import Look
from filterdb.kernels import heat_map

Kernels = Sequence[NDArray[np.floating]] | NDArray[np.floating]
"""Kernels (kernel_h, kernel_w), several sizes or one."""
GAP = 0.12
"""Between kernels, of their side."""
MARGIN = 0.05
HEADING = 0.22
"""Inches that a title takes."""


class Sheet:
    """A figure that is drawn on in inches."""

    def __init__(self, width: float, height: float, look: Look, title: str = ""):
        title = look.heading(title)
        self.top = HEADING if title else MARGIN
        """Where what is below the title may begin."""
        self.look, self.width, self.height = look, width, height + self.top
        self.figure = style.blank(width, self.height)
        self.axes = axes = self.figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(self.height, 0)
        axes.set_autoscale_on(False)
        axes.set_axis_off()
        if title:
            self.text(MARGIN, HEADING / 2, style.fitted(title, width - 2 * MARGIN, style.HEAD), size=style.HEAD)

    def kernel(
        self, kernel: NDArray[np.floating], x: float, y: float, side: float, limit: float | None = None,
        frame: str | None = None, line: float = 0.3,
    ) -> None:  # fmt: skip
        """A kernel in a square, scaled to a limit or its own largest absolute value; one that is not square in its middle.

        Args:
            kernel: (h, w).
            x, y: the square's upper left corner.
            side: of the square.
            limit: as in ``heat_map.rgb``.
            frame: its colour; grey if none is said.
            line: of the frame, points.
        """
        from matplotlib.patches import Rectangle

        h, w = (taps * side / max(kernel.shape) for taps in kernel.shape)
        left, top = x + (side - w) / 2, y + (side - h) / 2
        self.axes.imshow(heat_map.rgb(kernel, limit), extent=(left, left + w, top + h, top), aspect="auto")
        self.axes.add_patch(Rectangle((left, top), w, h, fill=False, linewidth=line, edgecolor=frame or style.GREY))

    def text(
        self, x: float, y: float, words: str, *, size: float = style.TEXT, ha: str = "left", va: str = "center", **more: Any
    ) -> None:
        """A line, or several, of text."""
        self.axes.text(x, y, words, fontsize=size, ha=ha, va=va, **more)


def rows_of_kernels(
    rows: Mapping[str, Kernels], look: Look, *, title: str = "", largest: float = 0.55,
    colours: Mapping[str, str] | None = None,
) -> Any:  # fmt: skip
    """A sheet with a row of kernels for each name, the name on the left.

    Args:
        rows: name to kernels; the widest row decides how large they are.
        look: the width is the most that the sheet takes.
        title: above.
        largest: side of a kernel at most, inches.
        colours: of a bar beside each name.
    """
    columns = max([1, *(len(kernels) for kernels in rows.values())])
    space = look.inches * 0.4
    labels = [style.fitted(name, space) for name in rows]
    bar = 0.1 if colours else 0.0
    left = MARGIN + max([0.0, *(style.breadth(label) for label in labels)]) + bar + (0.07 if any(labels) else 0)
    cell = min(largest * (1 + GAP), (look.inches - left - MARGIN) / (columns - GAP / (1 + GAP)))
    side = cell / (1 + GAP)
    width = left + columns * cell - side * GAP + MARGIN
    if heading := look.heading(title):  # a short row of kernels may not be as wide as what stands above it
        width = min(look.inches, max(width, style.breadth(heading, style.HEAD) + 3 * MARGIN))
    sheet = Sheet(width, len(rows) * cell - side * GAP + MARGIN, look, title)
    for row, (name, label) in enumerate(zip(rows, labels, strict=True)):
        y = sheet.top + row * cell
        sheet.text(left - bar - 0.05, y + side / 2, label, ha="right")
        if colours:
            sheet.axes.axvspan(
                left - bar,
                left - bar + 0.06,
                1 - y / sheet.height,
                1 - (y + side) / sheet.height,
                color=colours[name],
                linewidth=0,
            )
        for column, kernel in enumerate(rows[name]):
            sheet.kernel(kernel, left + column * cell, y, side)
    return sheet.figure


def centred(kernel: NDArray[np.floating]) -> NDArray[np.floating]:
    """Less its mean, as classes and templates see it."""
    return kernel - kernel.mean()
