"""The share of a model's kernels that a classifier clusters, against the model's accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from filterdb.errors import NotFound
from filterdb.figures import style
from filterdb.figures.registry import Asked, ClassifierName, Models, chosen, classified, picture
from filterdb.figures.style import PAGE, Figure, Look, drawn


@drawn
def draw_clustered(points: Sequence[tuple[str, str, float, float]], *, title: str = "", look: Look = PAGE) -> Any:
    """A point for each model, with its name where it has room; rank correlation where there are five and more.

    Args:
        points: (model, data set, top-1 in percent, percent clustered).
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    from matplotlib.lines import Line2D

    groups = list(dict.fromkeys(group for _, group, _, _ in sorted(points, key=lambda point: (point[1], point[0]))))
    figure = style.chart(look, 3.4 if look.wide else 2.9, title)
    axes = figure.subplots()
    marks = {group: (style.CYCLE[i % 8], style.MARKERS[i % 8]) for i, group in enumerate(groups)}
    for _, group, top1, share in points:
        colour, form = marks[group]
        axes.plot(top1, share, form, color=colour, markersize=4.5, markeredgecolor=look.paper, markeredgewidth=0.4)
    axes.set_xlabel("top-1 accuracy, %")
    axes.set_ylabel("kernels clustered, %")
    axes.margins(0.12)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -4), min(high, 104))
    axes.grid()
    handles = [
        Line2D([], [], linestyle="", marker=form, color=colour, label=style.fitted(group, 1.6, style.SMALL))
        for group, (colour, form) in marks.items()
    ]
    axes.legend(handles=handles, loc="best", title="data set", title_fontsize=style.SMALL) if len(groups) > 1 else None
    if len(points) >= 5:
        from scipy.stats import spearmanr

        rho = float(spearmanr([point[2] for point in points], [point[3] for point in points]).statistic)
        axes.set_title(f"Spearman's ρ = {rho:.2f}, {len(points)} models", loc="right", fontsize=style.SMALL)
    _names(figure, axes, points, look)
    return figure


def _names(figure: Any, axes: Any, points: Sequence[tuple[str, str, float, float]], look: Look) -> None:
    """The name of each model beside its point, where it covers no other point and no other name; left out elsewhere."""
    figure.draw_without_rendering()
    scale = figure.dpi
    places = axes.transData.transform([(point[2], point[3]) for point in points]) / scale
    inside = axes.bbox.bounds
    left, bottom, right, top = (
        inside[0] / scale,
        inside[1] / scale,
        (inside[0] + inside[2]) / scale,
        (inside[1] + inside[3]) / scale,
    )
    legend = axes.get_legend()
    taken = [(x - 0.04, y - 0.04, x + 0.04, y + 0.04) for x, y in places]
    if legend is not None:
        taken.append(tuple(part / scale for part in legend.get_window_extent().extents))
    height = 0.1
    for (model, _, top1, share), (x, y) in zip(points, places, strict=True):
        label = style.fitted(model, 1.5 if look.wide else 1.0, style.SMALL)
        width = style.breadth(label, style.SMALL) + 0.02
        for ha, va, dx, dy in (
            ("left", "center", 0.07, 0),
            ("right", "center", -0.07, 0),
            ("center", "bottom", 0, 0.06),
            ("center", "top", 0, -0.06),
        ):
            x0 = x + dx - {"left": 0, "center": width / 2, "right": width}[ha]
            y0 = y + dy - {"bottom": 0, "center": height / 2, "top": height}[va]
            box = (x0, y0, x0 + width, y0 + height)
            if left <= box[0] and box[2] <= right and bottom <= box[1] and box[3] <= top and not any(
                box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
                for other in taken if not (other[0] < x < other[2] and other[1] < y < other[3])
            ):  # fmt: skip
                taken.append(box)
                axes.annotate(
                    label, (top1, share), (dx * 72, dy * 72), textcoords="offset points", ha=ha, va=va, fontsize=style.SMALL,
                )  # fmt: skip
                break


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("classes", "models")
def clustered(db: Asked, look: Look, *, classifier: ClassifierName = None, models: Models = "*") -> Figure:
    """The share of a model's kernels that is clustered, against its accuracy (top1); models without one are left out."""
    name = chosen(db, classifier)
    rows = db.query("clustered", classifier=name, models=models).fetchall()
    classified(rows, name, f'models "{models}"')
    points = [(row[0], row[1] or "not said", float(row[6]), float(row[3])) for row in rows if row[6] is not None]
    if not points:
        raise NotFound(
            f"None of the {len(rows)} models that {name} has classified has an accuracy. Give it at ingest: "
            "filterdb ingest FILE --top1 PERCENT"
        )
    return draw_clustered(points, title=f"Kernels clustered ({name}) and accuracy", look=look)
