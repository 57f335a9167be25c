"""The labelled spectrum of a classifier: the kernels along its code, and which stretch of it is which class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filterdb.figures import style
from filterdb.figures.colours import class_colours, ordered, words
from filterdb.figures.registry import Asked, ClassifierName, chosen, picture
from filterdb.figures.sheet import MARGIN, Sheet
from filterdb.figures.style import PAGE, Figure, Look, drawn
from filterdb.kernels.shapes import OTHER

if TYPE_CHECKING:
    from filterdb.clusters import Classifier

BAR, LINE = 0.16, 0.115
"""Inches: of the coloured bar, and of a line of labels."""
LINES = 6
"""Of labels, at most."""
TRIES = 3000
"""Places that are tried for labels before it counts as impossible."""


@drawn
def draw_spectrum(classifier: Classifier, *, title: str = "", count: int | None = None, look: Look = PAGE) -> Any:
    """Kernels along the code, below them the stretches of the classes, and their words, each under its stretch.

    Args:
        classifier: an autoencoder's codes lie evenly; of k-means each centre has its place.
        title: a line above the picture.
        count: kernels in the strip; by default as many as can be seen.
        look: see ``filterdb.figures.style.Look``.
    """
    codes, kernels = classifier.spectrum()
    count = min(count or (30 if look.wide else 15), len(codes))
    shown = np.unique(np.linspace(0, len(codes) - 1, count).round().astype(int))
    width = look.inches - 2 * MARGIN
    cell = width / len(shown)
    named = [stretch for stretch in classifier.stretches if stretch.name != OTHER]
    places = _places([((one.start + one.stop) / 2 / classifier.last * width, words(one.name)) for one in named], width)
    if not look.wide or None in places:  # too narrow for words under the stretches: a legend names the colours
        return _with_legend(classifier, kernels[shown], cell, title, look)
    lines = 1 + max([0, *(place[1] for place in places if place)])
    sheet, top = _strip(classifier, kernels[shown], cell, 0.02 + lines * LINE, title, look)
    for stretch, place in zip(named, places, strict=True):
        if place is not None:
            middle = MARGIN + (stretch.start + stretch.stop) / 2 / classifier.last * width
            y = top + BAR + 0.08 + place[1] * LINE
            sheet.axes.plot([middle, middle], [top + BAR, y - 0.015], color=style.GREY, linewidth=0.5, solid_capstyle="butt")
            sheet.text(MARGIN + place[0] + 0.025, y, words(stretch.name), size=style.SMALL, va="top")
    return sheet.figure


def _with_legend(classifier: Classifier, kernels: NDArray[np.floating], cell: float, title: str, look: Look) -> Any:
    """The strip, and below it each class with its colour."""
    names = ordered([stretch.name for stretch in classifier.stretches], class_colours(()))
    colours = class_colours(names)
    columns = 5 if look.wide else 3
    across = (look.inches - 2 * MARGIN) / columns
    sheet, top = _strip(classifier, kernels, cell, -(-len(names) // columns) * 1.15 * LINE, title, look)
    for number, name in enumerate(names):
        x, y = MARGIN + number % columns * across, top + BAR + 0.07 + number // columns * 1.15 * LINE
        _box(sheet, x, x + 0.09, y, 0.08, colours[name])
        sheet.text(x + 0.13, y + 0.04, style.fitted(words(name), across - 0.15, style.SMALL), size=style.SMALL)
    return sheet.figure


def _strip(
    classifier: Classifier, kernels: NDArray[np.floating], cell: float, below: float, title: str, look: Look
) -> tuple[Sheet, float]:  # fmt: skip
    """A sheet with the kernels and the bar of classes, room below them, and where the bar begins."""
    sheet = Sheet(look.inches, cell + 0.04 + BAR + 0.08 + below + MARGIN, look, title)
    for number, kernel in enumerate(kernels):
        sheet.kernel(kernel, MARGIN + (number + 0.04) * cell, sheet.top, 0.92 * cell)
    top, scale = sheet.top + cell + 0.04, (look.inches - 2 * MARGIN) / classifier.last
    colours = class_colours(stretch.name for stretch in classifier.stretches)
    for stretch in classifier.stretches:
        _box(sheet, MARGIN + stretch.start * scale, MARGIN + stretch.stop * scale, top, BAR, colours[stretch.name])
    return sheet, top


def _box(sheet: Sheet, left: float, right: float, top: float, height: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    sheet.axes.add_patch(
        Rectangle((left, top), right - left, height, facecolor=colour, edgecolor=sheet.look.paper, linewidth=0.4)
    )  # fmt: skip


def _places(labels: Sequence[tuple[float, str]], width: float) -> list[tuple[float, int] | None]:
    """Where each label stands: its left edge and its line from the top; None for those of narrow stretches that find no room.

    A label lies under its stem, the line that comes down to it. No label covers another, and no stem runs through a label. Of
    all ways to do that, one with the fewest lines is taken.

    Args:
        labels: middle of the stretch, and its words, from left to right.
        width: inches that there are.
    """
    breadths = [style.breadth(words, style.SMALL) + 0.05 for _, words in labels]
    there = list(range(len(labels)))
    while there:
        for lines in range(1, LINES + 1):
            found = _fit([labels[i][0] for i in there], [breadths[i] for i in there], lines, width)
            if found:
                placed: dict[int, tuple[float, int]] = dict(zip(there, found, strict=True))
                return [placed.get(i) for i in range(len(labels))]
        gaps = {i: min(abs(labels[i][0] - labels[j][0]) for j in there if j != i) for i in there}
        there.remove(min(there, key=lambda i: (gaps[i], i)))  # the one that stands closest to another
    return [None] * len(labels)


def _fit(stems: Sequence[float], breadths: Sequence[float], lines: int, width: float) -> list[tuple[float, int]] | None:
    """Left edges and lines of all labels on so many lines, found by trying; None where there is none, or none was found soon."""
    placed: list[tuple[float, float, float, int]] = []  # stem, left, right, line
    tries = 0

    def extend() -> bool:
        nonlocal tries
        if len(placed) == len(stems):
            return True
        stem, breadth = stems[len(placed)], breadths[len(placed)]
        for line in range(lines):
            for share in (0.5, 0.25, 0.75, 0.05, 0.95):
                left = min(max(stem - share * breadth, 0.0), width - breadth)
                right = left + breadth
                if all(_clear((stem, left, right, line), other) for other in placed):
                    tries += 1
                    placed.append((stem, left, right, line))
                    if extend():
                        return True
                    placed.pop()
                    if tries > TRIES:
                        return False
        return False

    return [(left, line) for _, left, _, line in placed] if extend() else None


def _clear(a: tuple[float, float, float, int], b: tuple[float, float, float, int]) -> bool:
    """Whether two labels do not overlap, and neither's stem runs through the other."""
    if a[3] == b[3]:
        return a[2] <= b[1] or b[2] <= a[1]
    upper, lower = (a, b) if a[3] < b[3] else (b, a)
    return not upper[1] - 0.02 < lower[0] < upper[2] + 0.02


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("classifiers", "spectrum")
def spectrum(db: Asked, look: Look, *, classifier: ClassifierName = None) -> Figure:
    """The labelled spectrum of a classifier: the kernels along its code, and which stretch is which class."""
    found = db.classifier(chosen(db, classifier))
    return draw_spectrum(found, title=heading(found), look=look)


def heading(classifier: Classifier) -> str:
    """What a classifier is, in a line."""
    kernels = classifier.facts.get("kernels")
    return f"{classifier.name}: {classifier.method}" + (f" on {kernels:,} {classifier.size} kernels" if kernels else "")
