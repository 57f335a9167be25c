"""What networks keep of their accuracy: each evaluation with its bank and mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Any

from filterdb.errors import NotFound, not_found
from filterdb.figures import style
from filterdb.figures.registry import Asked, Models, picture
from filterdb.figures.style import PAGE, Figure, Look, drawn

METRICS = {"top1": "top-1 accuracy, %", "top5": "top-5 accuracy, %", "agreement": "agreement with the original, %"}


@dataclass(frozen=True)
class Measured:
    """One evaluation."""

    model: str
    how: str
    """Bank and mode, in words."""
    data: str
    percent: float
    images: int

    @property
    def error(self) -> float:
        """Standard error of a share of so many images, in percent."""
        share = self.percent / 100
        return 100 * sqrt(max(0.0, share * (1 - share)) / max(1, self.images))


@drawn
def draw_evaluations(rows: Sequence[Measured], *, metric: str = "top1", title: str = "", look: Look = PAGE) -> Any:
    """A bar for each evaluation, those of one model on one data set together, with standard errors and numbers.

    Args:
        rows: in the order of the bars from the top.
        metric: top1, top5 or agreement.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    groups = list(dict.fromkeys((row.data, row.model) for row in rows))
    datas = list(dict.fromkeys(row.data for row in rows))
    colours = {data: style.CYCLE[i % len(style.CYCLE)] for i, data in enumerate(datas)}
    figure = style.chart(look, 0.19 * len(rows) + 0.24 * len(groups) + 0.5 + (0.2 if len(datas) > 1 else 0), title)
    axes = figure.subplots()
    at, places = 0.0, []
    for group in groups:
        axes.text(
            0, at, style.fitted(group[1], look.inches * 0.5), ha="left", va="center", fontweight="bold", fontsize=style.SMALL
        )
        at += 0.95
        for row in (row for row in rows if (row.data, row.model) == group):
            axes.barh(at, row.percent, height=0.78, color=colours[row.data])
            axes.errorbar(row.percent, at, xerr=row.error, color=look.ink, linewidth=0.7, capsize=1.5, capthick=0.7)
            axes.annotate(
                f"{row.percent:.1f}",
                (row.percent + row.error, at),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=style.SMALL,
            )
            places.append((at, row.how))
            at += 1
        at += 0.15
    axes.set_yticks([place for place, _ in places], [style.fitted(how, look.inches * 0.4, style.SMALL) for _, how in places])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(at - 0.5, -0.6)
    axes.set_xlim(0, min(100.0, 1.12 * max(row.percent + row.error for row in rows)) or 1)
    axes.set_xlabel(METRICS[metric])
    if len(datas) > 1:
        from matplotlib.patches import Patch

        handles = [Patch(color=colours[data], label=style.fitted(data, look.inches * 0.8, style.SMALL)) for data in datas]
        figure.legend(handles=handles, loc="outside lower center", ncols=2 if look.wide else 1)
    else:
        axes.set_title(f"on {style.fitted(datas[0], look.inches * 0.6, style.SMALL)}", loc="right", fontsize=style.SMALL)
    return figure


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("runs", "metrics")
def evaluations(
    db: Asked, look: Look, *, models: Models = "*", data: Annotated[str, "only data of this name or glob"] = "*",
    metric: Annotated[str, "top1, top5 or agreement"] = "top1",
) -> Figure:  # fmt: skip
    """What networks keep of their accuracy: a bar for each evaluation, by model, bank and mode, with standard errors."""
    if metric not in METRICS:
        raise not_found("number of an evaluation", metric, METRICS)
    found = db.query("evaluations", models=models, data=data)
    names = found.columns
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    if not rows:
        raise NotFound(f'No evaluation of models "{models}" is kept here: run filterdb evaluate MODEL --data IMAGES')
    shown = [
        Measured(row["model"] or "", _how(row), row["data"] or "", row[metric], row["images"] or 0)
        for row in rows if row[metric] is not None
    ]  # fmt: skip
    if not shown:
        raise NotFound(f"None of the {len(rows)} evaluations measured {metric}. Choose another --metric: {', '.join(METRICS)}.")
    return draw_evaluations(shown, metric=metric, title="Evaluations", look=look)


def _how(row: dict[str, Any]) -> str:
    """Bank and mode of an evaluation; a network as it was trained has neither."""
    said = [row["bank"], row["mode"], f"part {row['part']}" if row["part"] else None]
    return ", ".join(one for one in said if one) or "as trained"
