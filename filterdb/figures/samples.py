"""Kernels drawn at random: of each class, or of the filters that a query gives; and those most like one kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument, NotFound
from filterdb.figures import style
from filterdb.figures.colours import CLASS_COLOURS, class_colours, ordered, words
from filterdb.figures.registry import Asked, ClassifierName, Models, Seed, chosen, classified, picture
from filterdb.figures.sheet import GAP, MARGIN, Kernels, Sheet, centred, rows_of_kernels
from filterdb.figures.style import PAGE, Figure, Look, drawn

MOST_ROWS = 60
"""Groups of a query; more would be higher than a page."""


@drawn
def draw_samples(
    samples: Mapping[str, Kernels], *, title: str = "", less_mean: bool = True, coloured: bool = False,
    look: Look = PAGE,
) -> Any:  # fmt: skip
    """A row of kernels for each class.

    Args:
        samples: class name to kernels (kernel_h, kernel_w).
        title: a line above the picture.
        less_mean: draw each kernel less its mean, as classes see it; False draws the raw weights.
        coloured: a bar of the colour of its class beside each row.
        look: see ``filterdb.figures.style.Look``.
    """
    kernels = {name: [centred(one) if less_mean else one for one in some] for name, some in samples.items()}
    colours = class_colours(kernels) if coloured else None
    named = {words(name): some for name, some in kernels.items()}
    return rows_of_kernels(named, look, title=title, colours=colours and {words(name): colours[name] for name in kernels})


@drawn
def draw_captioned(
    kernels: Kernels,
    captions: Sequence[str],
    *,
    title: str = "",
    columns: int | None = None,
    look: Look = PAGE,
) -> Any:
    """Kernels with lines of text below each, in rows.

    Args:
        kernels: each (kernel_h, kernel_w).
        captions: one for each, of a line or more, all of as many.
        title: a line above the picture.
        columns: kernels in a row.
        look: see ``filterdb.figures.style.Look``.
    """
    columns = min(columns or (10 if look.wide else 5), max(1, len(kernels)))
    cell = (look.inches - 2 * MARGIN) / max(columns, 5)
    side = cell / (1 + GAP)
    lines = max([0, *(caption.count("\n") + 1 for caption in captions)])
    row = side + 0.05 + 0.105 * lines + 0.06
    sheet = Sheet(look.inches if title else columns * cell + 2 * MARGIN, -(-len(kernels) // columns) * row + MARGIN, look, title)
    for number, (kernel, caption) in enumerate(zip(kernels, captions, strict=True)):
        x, y = MARGIN + number % columns * cell, sheet.top + number // columns * row
        sheet.kernel(kernel, x, y, side)
        for at, line in enumerate(caption.split("\n")):
            words_ = style.fitted(line, cell - 0.03, style.SMALL)
            sheet.text(x + side / 2, y + side + 0.115 + 0.105 * at, words_, size=style.SMALL, ha="center", va="baseline")
    return sheet.figure


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("filters", "classes")
def samples(
    db: Asked, look: Look, *, classifier: ClassifierName = None,
    sql: Annotated[str | None, "instead of classes: a query that gives filter_id, and beside it names of rows, if any"] = None,
    rows: Annotated[Any, "in Python, instead of sql: what db.sql, db.similar … gave, or any list of filter_ids"] = None,
    models: Models = "*", count: Annotated[int | None, "kernels in a row"] = None, seed: Seed = 0,
    centred: Annotated[bool | None, "less the mean; by default classes are, and a query's kernels are raw"] = None,
) -> Figure:  # fmt: skip
    """Kernels drawn at random from each class of a classifier, or from what a query gives."""
    across = count if count is not None else 14 if look.wide else 7
    if across < 1:
        raise InvalidArgument(f"--count is the number of kernels in a row: at least 1, got {across}.")
    if sql is not None or rows is not None:
        if classifier is not None or (sql is not None and rows is not None):
            raise InvalidArgument("A classifier, sql or rows: samples are of one of the three. Leave the others out.")
        if sql is not None and models != "*":
            raise InvalidArgument("--models goes with classes; a query chooses its models itself.")
        groups = _groups(db.sql(sql) if sql is not None else rows)
        found = _of_ids(db, groups, across, seed)
        shown, whole = (sum(map(len, some)) for some in (found.values(), groups.values()))
        title = f"{shown:,} kernels" + (f" drawn at random from {whole:,}" if whole > shown else "")
        return draw_samples(found, title=title, less_mean=bool(centred), look=look)
    name = chosen(db, classifier)
    found = _of_classes(db, name, models, across, seed)
    classified(list(found), name, f'models "{models}"')
    less_mean = centred is None or centred
    title = f"Kernels drawn at random from each class ({name})"
    return draw_samples(found, title=title, less_mean=less_mean, coloured=True, look=look)


_OF_CLASSES = """
SELECT class, kernel, kernel_w FROM filters JOIN (
    SELECT filter_id, coalesce(class, '(dead)') AS class,
           row_number() OVER (PARTITION BY class ORDER BY hash(filter_id + $seed)) AS place
    FROM classes JOIN filters USING (filter_id)
    WHERE classifier = $classifier AND model GLOB $models) USING (filter_id)
WHERE place <= $count AND class <> '(dead)'
ORDER BY class, place
"""


def _of_classes(db: Asked, classifier: str, models: str, count: int, seed: int) -> dict[str, list[NDArray[np.float32]]]:
    found: dict[str, list[NDArray[np.float32]]] = {}
    for cls, kernel, w in db.sql(_OF_CLASSES, classifier=classifier, models=models, count=count, seed=seed).fetchall():
        found.setdefault(cls, []).append(np.array(kernel, np.float32).reshape(-1, w))
    return {name: found[name] for name in ordered(found, CLASS_COLOURS)}


def _groups(rows: Any) -> dict[str, list[int]]:
    """filter_ids, by the name in the column beside them, if there is one."""
    if not hasattr(rows, "to_arrow_table"):
        return {"": [int(one) for one in rows]}
    table = rows.to_arrow_table()
    if "filter_id" not in table.column_names:
        raise InvalidArgument(f"The query gives {', '.join(table.column_names)}: kernels are drawn where it gives filter_id.")
    # Of two columns the other one is the name, if it is a text; rows of more columns are results of a search, in their order.
    others = [name for name in table.column_names if name != "filter_id"] if table.num_columns == 2 else []
    names = [name for name in others if "string" in str(table[name].type)]
    groups: dict[str, list[int]] = {}
    keys = table[names[0]].to_pylist() if names else [""] * len(table)
    for key, filter_id in zip(keys, table["filter_id"].to_pylist(), strict=True):
        groups.setdefault("(null)" if key is None else key, []).append(filter_id)
    return groups


def _of_ids(db: Asked, groups: Mapping[str, Sequence[int]], across: int, seed: int) -> dict[str, list[NDArray[np.float32]]]:
    """Kernels of filters; of many a sample, in the order of the ids' hash; a few stand in the order they came in."""
    if not any(groups.values()):
        raise NotFound("The query gives no filters, so there is nothing to draw. Try it first: filterdb sql QUERY")
    if len(groups) > MOST_ROWS:
        raise InvalidArgument(f"The query names {len(groups)} groups of kernels: a picture has room for {MOST_ROWS} rows.")
    limit = across if len(groups) > 1 else across * (6 if len(groups) == 1 else 1)
    chosen_ids: dict[str, list[int]] = {}
    for name, ids in groups.items():
        drawn_ = [
            row[0] for row in db.sql(
                "SELECT id FROM (SELECT DISTINCT unnest($ids::BIGINT[]) AS id) ORDER BY hash(id + $seed) LIMIT $limit",
                ids=list(ids), seed=seed, limit=limit,
            ).fetchall()
        ] if len(ids) > limit else list(ids)  # fmt: skip
        chosen_ids[name] = drawn_
    wanted = [one for ids in chosen_ids.values() for one in ids]
    kernels = _kernels(db, wanted)
    if missing := [one for one in wanted if one not in kernels]:
        raise NotFound(f"No filter {missing[0]} here: the query gives filter_ids that are not in the table filters.")
    if len(chosen_ids) > 1:
        return {name: [kernels[one] for one in ids] for name, ids in chosen_ids.items()}
    [(name, ids)] = chosen_ids.items()
    lines = [[kernels[one] for one in ids[start : start + across]] for start in range(0, len(ids), across)]
    return {(name if i == 0 else " " * i): line for i, line in enumerate(lines)}


def _kernels(db: Asked, ids: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """The kernels (kernel_h, kernel_w) of filters, those that there are."""
    rows = db.sql(
        "SELECT filter_id, kernel, kernel_w FROM filters WHERE filter_id IN (SELECT unnest($ids::BIGINT[]))",
        ids=list(ids),
    ).fetchall()
    return {filter_id: np.array(taps, np.float32).reshape(-1, w) for filter_id, taps, w in rows}


@picture("filters")
def similar(
    db: Asked, look: Look, *, filter: Annotated[str, "a filter_id, or MODEL:LAYER:CHANNEL"],
    k: Annotated[int, "how many neighbours"] = 19, models: Annotated[str | None, "only models of this name or glob"] = None,
) -> Figure:  # fmt: skip
    """A kernel, and those of all models that are most like it."""
    found = db.similar(filter, k, model=models).fetchall()
    kernel = db.kernel(filter)
    ids = [row[1] for row in found]
    kernels = _kernels(db, ids)
    captions = ["this one\n\n", *(_caption(db, row) for row in found)]
    shown = [centred(kernel), *(centred(kernels[one]) for one in ids)]
    title = f"Most like {filter}"
    return draw_captioned(shown, captions, title=title, look=look)


def _caption(db: Asked, row: Sequence[Any]) -> str:
    [(depth,)] = db.sql("SELECT depth FROM layers WHERE model = $model AND layer = $layer", model=row[2], layer=row[3]).fetchall()
    return f"{row[2]}\nlayer {depth}\n{row[5]:.3f}"
