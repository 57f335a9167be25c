"""How classes emerge while a network trains, with the kernels of a few channels on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import NotFound, not_found
from filterdb.figures import style
from filterdb.figures.colours import CLASS_COLOURS, ON_DARK, class_colours, ordered, words
from filterdb.figures.proportions import legend, stack
from filterdb.figures.registry import Asked, ClassifierName, Merge, chosen, classified, merging, picture
from filterdb.figures.sheet import centred
from filterdb.figures.style import PAGE, Figure, Look, drawn
from filterdb.kernels import heat_map

Rows = Sequence[tuple[float, str, float]]
Channel = Sequence[NDArray[np.floating] | None]
"""The kernel of one channel at each step."""


@drawn
def draw_steps(rows: Rows, channels: Mapping[str, Channel] | None = None, *, title: str = "", look: Look = PAGE) -> Any:
    """Stacked proportions at each step, and below each bar the kernels of some channels at that step.

    Args:
        rows: (step, class, percent).
        channels: a name, such as the class that its last kernel has, to one kernel for each step, None where there is none.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    steps = sorted({step for step, _, _ in rows})
    order = ordered([name for _, name, _ in rows], CLASS_COLOURS)
    colours = class_colours(order) | (ON_DARK if look.dark else {})
    strip = list((channels or {}).items())
    cell = (look.inches - (2.1 if look.wide else 1.1)) / max(1, len(steps))
    cell = min(cell, 0.42)
    figure = style.chart(look, 1.9 + len(strip) * cell + (0.35 if look.wide else 0.9), title)
    grid = figure.subplots(
        1 + bool(strip), 1, squeeze=False, height_ratios=[1.8, max(0.1, len(strip) * cell)][: 1 + bool(strip)], sharex=True
    )[:, 0]
    stack(grid[0], rows, order, colours, look)
    grid[0].set_xticks(range(len(steps)), [f"{step:g}" for step in steps], rotation=90 if len(steps) > 14 else 0)
    grid[0].set_ylabel("% of kernels")
    grid[-1].set_xlabel("training step")
    if strip:
        _film(grid[1], strip, len(steps))
        grid[0].tick_params(labelbottom=False)
    legend(figure, order, colours, look)
    return figure


def _film(axes: Any, strip: Sequence[tuple[str, Channel]], steps: int) -> None:
    """A row of kernels for each channel, below the bars of their steps."""
    for row, (_, kernels) in enumerate(strip):
        for column, kernel in enumerate(kernels):
            if kernel is not None:
                extent = (column - 0.45, column + 0.45, row + 0.45, row - 0.45)
                axes.imshow(heat_map.rgb(kernel), extent=extent, aspect="auto")
    axes.set_xlim(-0.5, steps - 0.5)
    axes.set_ylim(len(strip) - 0.5, -0.5)
    axes.set_yticks(range(len(strip)), [style.fitted(words(name), 1.0, style.SMALL) for name, _ in strip])
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("classes", "models")
def steps(
    db: Asked, look: Look, *, run: Annotated[str | None, "the training run; needed where there are several"] = None,
    classifier: ClassifierName = None, merge: Merge = "derivatives",
    channels: Annotated[int, "channels whose kernels are followed below the bars"] = 4,
) -> Figure:  # fmt: skip
    """How the classes emerge over the steps of a training run, and the kernels of some channels on the way."""
    name = chosen(db, classifier)
    runs = [one for (one,) in db.sql("SELECT DISTINCT run FROM models WHERE run IS NOT NULL ORDER BY run").fetchall()]
    if not runs:
        raise NotFound("There is no training run here: run filterdb ingest run:FOLDER, or filterdb ingest demo_run")
    if run is None and len(runs) > 1:
        raise NotFound(f"There are several training runs: {', '.join(runs)}. Choose one with --run.")
    if run is not None and run not in runs:
        raise not_found("training run", run, runs)
    asked = run or runs[0]
    found = db.query("class_steps", run=asked, classifier=name, merge=merging(merge)).fetchall()
    classified(found, name, f'the run "{asked}"')
    rows = [(step, cls, percent) for step, cls, _, percent, _ in found]
    return draw_steps(rows, _followed(db, asked, name, channels), title=f"{asked}: classes over training ({name})", look=look)


_LAST = """
SELECT class, layer, channel
FROM (SELECT class, layer, channel, row_number() OVER (PARTITION BY class ORDER BY template_score DESC, layer, channel) AS place,
             count(*) OVER (PARTITION BY class) AS members
      FROM classes JOIN filters USING (filter_id) JOIN models USING (model)
      WHERE classifier = $classifier AND run = $run AND clustered AND step = (
          SELECT max(step) FROM classes JOIN filters USING (filter_id) JOIN models USING (model)
          WHERE classifier = $classifier AND run = $run))
WHERE place = 1
ORDER BY members DESC, class
LIMIT $count
"""
"""Of each frequent class, the kernel of the last step that is most like its ideal form."""

_WAY = """
SELECT step, kernel, kernel_w FROM filters JOIN models USING (model)
WHERE run = $run AND layer = $layer AND channel = $channel
"""


def _followed(db: Asked, run: str, classifier: str, count: int) -> dict[str, Channel]:
    """The kernels of some channels at every step that was classified."""
    steps = sorted({row[0] for row in db.query("class_steps", run=run, classifier=classifier).fetchall()})
    found: dict[str, Channel] = {}
    for cls, layer, channel in db.sql(_LAST, classifier=classifier, run=run, count=count).fetchall():
        kernels = {
            step: centred(np.array(kernel, np.float32).reshape(-1, w))
            for step, kernel, w in db.sql(_WAY, run=run, layer=layer, channel=channel).fetchall()
        }
        found[cls] = [kernels.get(step) for step in steps]
    return found
