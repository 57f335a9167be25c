"""The queries of the pages: all SQL over the shelf is here and in data_models. Values are passed as parameters, never as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument, NotFound, not_found
from filterdb.explorer.choice import CLASS_COLUMNS, FACETS, PAGE, RANDOM, Choice
from filterdb.explorer.shelf_rows import DEAD, UNCLASSIFIED, WORDLESS
from filterdb.kernels.sizes import parse_size, shape_of
from filterdb.store import schema

Cursor = duckdb.DuckDBPyConnection
Clause = tuple[list[str], list[Any]]
_LAYER_FACETS = ("model", "family", "size", "dataset")


@dataclass(frozen=True)
class Shown:
    """One kernel on a page."""

    filter_id: int
    model: str
    layer: str
    channel: int
    size: str
    kernel: NDArray[np.float32]
    """(kernel_h, kernel_w); of one in three dimensions a sheet of its slices."""
    value: Any = None
    """Of the column it is sorted by, where there is one."""

    @property
    def solid(self) -> bool:
        """Whether the kernel has three dimensions."""
        return self.size.count("x") == 2

    @property
    def whole(self) -> NDArray[np.float32]:
        """The kernel in its own shape."""
        return self.kernel.reshape(shape_of(*parse_size(self.size)))

    def of(self) -> tuple[str, str]:
        """Model and layer."""
        return self.model, self.layer

    @property
    def name(self) -> str:
        """MODEL:LAYER:CHANNEL."""
        return f"{self.model}:{self.layer}:{self.channel}"


class Value(NamedTuple):
    """A value of a facet, and how many kernels have it beside all that is chosen of the other facets."""

    value: str
    filters: int


@dataclass(frozen=True)
class Counts:
    """How many kernels a choice has, and the values of the facets."""

    total: int
    facets: dict[str, list[Value]]


class Found(NamedTuple):
    """The place of a filter on the shelf."""

    n: int
    model: str
    layer: str
    channel: int


# -- choosing ------------------------------------------------------------------------------------------------------------


def classifiers(cur: Cursor) -> dict[str, int]:
    """The classifiers that have classified kernels, each with the number of its columns on the shelf."""
    return dict(cur.execute("SELECT classifier, number FROM classifiers ORDER BY classifier").fetchall())


def check(cur: Cursor, choice: Choice) -> int:
    """The number of the classifier that is chosen, 0 without one.

    Raises:
        NotFound: a model, family, size, data set or classifier that no kernel has; the message lists near misses.
    """
    for facet in _LAYER_FACETS:
        for value in choice.values(facet):
            if not cur.execute(f"SELECT 1 FROM layers WHERE {facet} = ? LIMIT 1", [value]).fetchall():
                known = [row[0] for row in cur.execute(f"SELECT DISTINCT {facet} FROM layers").fetchall()]
                raise not_found("data set" if facet == "dataset" else facet, value, known)
    if not choice.classifier:
        return 0
    numbers = classifiers(cur)
    if choice.classifier not in numbers:
        raise not_found("classifier", choice.classifier, numbers, advice="Classify kernels first: filterdb classify.")
    return numbers[choice.classifier]


def _of_layers(choice: Choice, but: str = "") -> Clause:
    """The conditions of a choice on layers, but those of one facet."""
    where: list[str] = []
    values: list[Any] = []
    for facet in _LAYER_FACETS:
        if facet != but and choice.values(facet):
            where.append(f"{facet} IN (SELECT unnest(?::VARCHAR[]))")
            values.append(list(choice.values(facet)))
    if choice.layer:
        where.append("(layer = ? OR layer GLOB ?)")
        values += [choice.layer, choice.layer]
    if (choice.depth_from, choice.depth_to) != (0, 1):
        where.append("depth_norm BETWEEN ? AND ?")
        values += [choice.depth_from, choice.depth_to]
    return where, values


def _of_filters(choice: Choice, columns: dict[str, str], but: str = "") -> Clause:
    """The conditions of a choice on single filters; ``columns`` says how class and band are called."""
    where: list[str] = []
    values: list[Any] = []
    for facet in ("class", "band"):
        if facet != but and choice.values(facet):
            # a column and plain values, where that is all: DuckDB then skips whole blocks
            said = [_SAID[one].format(columns[facet]) for one in choice.values(facet) if columns is not _CELLS and one in _SAID]
            plain = [one for one in choice.values(facet) if columns is _CELLS or one not in _SAID]
            values += plain
            said += [f"{columns[facet]} IN ({', '.join('?' * len(plain))})"] if plain else []
            where.append(f"({' OR '.join(said)})")
    if but != "dead" and len(choice.dead) == 1:
        where.append("dead" if choice.dead == ("yes",) else "NOT dead")
    return where, values


def _where(*clauses: Clause) -> tuple[str, list[Any]]:
    conditions = [one for where, _ in clauses for one in where]
    return ("WHERE " + " AND ".join(conditions) if conditions else ""), [value for _, values in clauses for value in values]


_CELLS = {"class": "class", "band": "band"}
_SAID = {WORDLESS: "{} IS NULL", DEAD: "({} IS NULL AND dead)", UNCLASSIFIED: "({} IS NULL AND NOT dead)"}
"""What the cells say where the rows have null."""


def _columns(number: int) -> dict[str, str]:
    """How class and band are called in the rows."""
    return {"class": f"class_{number}", "band": "band"}


# -- counts --------------------------------------------------------------------------------------------------------------


def counts(cur: Cursor, choice: Choice, number: int) -> Counts:
    """Kernels of a choice, and the values of every facet with their kernels, most first.

    They come from the table ``cells``, which counts each layer's kernels by class, band and dead: no kernel is looked at. A facet
    of which something is chosen counts beside the other facets' choices only, so that one sees what else there is.
    """
    shown = [facet for facet in FACETS if facet != "class" or number]
    free = [facet for facet in shown if not choice.values(facet)]
    found: dict[str, list[Value]] = {facet: [] for facet in shown}
    total = 0
    for but, facets in [("", free), *((facet, [facet]) for facet in shown if facet not in free)]:
        where, values = _where((["classifier = ?"], [number]), _of_layers(choice, but), _of_filters(choice, _CELLS, but))
        sets = ", ".join([*(f"({facet})" for facet in facets), *(["()"] if not but else [])])
        names = ", ".join(facets)
        rows = cur.execute(
            f"SELECT {names}{',' if names else ''} grouping_id({names or 'classifier'}) AS which, sum(filters)::BIGINT AS found "
            f"FROM cells JOIN layers ON number = layer_number {where} GROUP BY GROUPING SETS ({sets})"
            if names else f"SELECT 0, sum(filters)::BIGINT FROM cells JOIN layers ON number = layer_number {where}",
            values,
        ).fetchall()  # fmt: skip
        every = 2 ** len(facets) - 1
        for *cells, which, count in rows:
            for i, facet in enumerate(facets):
                if which == every - 2 ** (len(facets) - 1 - i):  # a bit is 0 where the set has the column
                    text = ("yes" if cells[i] else "no") if facet == "dead" else str(cells[i])
                    found[facet].append(Value(text, count))
            if not but and which == every:
                total = count or 0
    order = {
        facet: sorted(values, key=lambda one: (one.value == UNCLASSIFIED, -one.filters, one.value))
        for facet, values in found.items()
    }
    return Counts(total, order)


# -- pages ---------------------------------------------------------------------------------------------------------------


def page(cur: Cursor, choice: Choice, number: int, count: int = PAGE) -> list[Shown]:
    """The kernels of a page, in its order: by model, depth and channel, by a column, or at random by a seed."""
    ns = _in_order(cur, choice, number, count) if not choice.sort else _sorted(cur, choice, number, count)
    value = None if choice.sort in ("", RANDOM) else _sort_column(choice.sort, number)
    return kernels(cur, ns, value)


def _in_order(cur: Cursor, choice: Choice, number: int, count: int) -> list[int]:
    """The cells show which layers are on a page. Only the rows of these layers are read."""
    start = (choice.page - 1) * count
    where, values = _where((["classifier = ?"], [number]), _of_layers(choice), _of_filters(choice, _CELLS))
    layers = cur.execute(
        f"""
        WITH each AS (
            SELECT number, model, depth, sum(filters)::BIGINT AS has FROM cells JOIN layers ON number = layer_number {where}
            GROUP BY number, model, depth
        ), placed AS (SELECT *, sum(has) OVER (ORDER BY model, depth, number)::BIGINT AS until FROM each)
        SELECT number, until - has FROM placed WHERE until > ? AND until - has < ? ORDER BY until
        """, [*values, start, start + count],
    ).fetchall()  # fmt: skip
    if not layers:
        return []
    order = [row[0] for row in layers]
    where, values = _where((["layer_number IN (SELECT unnest(?::INTEGER[]))"], [order]), _of_filters(choice, _columns(number)))
    rows = cur.execute(
        f"SELECT n FROM rows {where} ORDER BY list_position(?::INTEGER[], layer_number), n LIMIT ? OFFSET ?",
        [*values, order, count, start - layers[0][1]],
    ).fetchall()
    return [row[0] for row in rows]


def _sorted(cur: Cursor, choice: Choice, number: int, count: int) -> list[int]:
    layers, values = _where(_of_layers(choice))
    chosen: Clause = ([f"layer_number IN (SELECT number FROM layers {layers})"], values) if layers else ([], [])
    clauses = [chosen, _of_filters(choice, _columns(number))]
    if choice.sort == RANDOM:
        order, seeds = "hash(filter_id, ?)", [choice.seed]
    else:
        column = _sort_column(choice.sort, number)
        clauses.append(([f"{column} IS NOT NULL"], []))
        order, seeds = f"{column} {'ASC' if choice.order == 'asc' else 'DESC'}, n", []
    where, values = _where(*clauses)
    rows = cur.execute(
        f"SELECT n FROM rows {where} ORDER BY {order} LIMIT ? OFFSET ?", [*values, *seeds, count, (choice.page - 1) * count]
    ).fetchall()
    return [row[0] for row in rows]


def _sort_column(name: str, number: int) -> str:
    """A column of the shelf; ``Choice`` has checked that there is one of that name."""
    return f'"{name}_{number}"' if name in CLASS_COLUMNS else f'"{name}"'


def kernels(cur: Cursor, ns: Sequence[int], value: str | None = None) -> list[Shown]:
    """The kernels at these places, in this order."""
    # between, too: then DuckDB looks only into the blocks that can have them
    rows = cur.execute(
        f"SELECT n, filter_id, model, layer, channel, size, kernel_h, kernel_w, kernel, {value or 'NULL'} "
        "FROM rows JOIN layers ON number = layer_number WHERE n IN (SELECT unnest(?::BIGINT[])) AND n BETWEEN ? AND ?",
        [list(ns), min(ns, default=0), max(ns, default=0)],
    ).fetchall()
    by_place = {
        row[0]: Shown(row[1], row[2], row[3], row[4], row[5], np.array(row[8], np.float32).reshape(-1, row[7]), row[9])
        for row in rows
    }
    return [by_place[n] for n in ns if n in by_place]


# -- one filter ----------------------------------------------------------------------------------------------------------


def find(cur: Cursor, filter_id: int) -> Found | None:
    """The place of a filter. The ids of a layer are consecutive, so the table of layers is enough to find it."""
    if not 0 <= filter_id < schema.ID_RANGE:
        return None
    rows = cur.execute(
        "SELECT start, model, layer, ((?::HUGEINT - first_id + ?::HUGEINT) % ?::HUGEINT)::BIGINT AS channel FROM layers "
        "WHERE (?::HUGEINT - first_id + ?::HUGEINT) % ?::HUGEINT < out_channels",
        [filter_id, schema.ID_RANGE, schema.ID_RANGE] * 2,
    ).fetchall()
    return Found(rows[0][0] + rows[0][3], *rows[0][1:]) if rows else None


def place(cur: Cursor, text: str) -> Found:
    """The filter that a filter_id or MODEL:LAYER:CHANNEL means.

    Raises:
        InvalidArgument: neither of these.
        NotFound: no such filter.
    """
    if text.isdecimal():
        found = find(cur, int(text)) if len(text) < 20 else None
        if found:
            return found
    start, _, channel = text.rpartition(":")
    if channel.isdecimal() and ":" in start:
        rows = cur.execute(
            "SELECT start + ?::BIGINT, model, layer, ?::BIGINT FROM layers "
            "WHERE concat(model, ':', layer) = ? AND out_channels > ?",
            [channel, channel, start, channel],
        ).fetchall() if len(channel) < 10 else []  # fmt: skip
        if rows:
            return Found(*rows[0])
    elif not text.isdecimal():
        raise InvalidArgument(f'"{text}" is not a filter. Write a filter_id or MODEL:LAYER:CHANNEL.')
    raise NotFound(f'No filter "{text}" in this database. The gallery shows what there is.')


def facts(cur: Cursor, n: int) -> dict[str, Any]:
    """All that the shelf has of a filter and its layer, by column."""
    cur.execute(
        "SELECT r.* EXCLUDE (n, kernel), l.* EXCLUDE (number, start, first_id) FROM rows AS r "
        "JOIN layers AS l ON number = layer_number WHERE n = ?", [n],
    )  # fmt: skip
    names = [column[0] for column in cur.description or []]
    row = cur.fetchone()
    if row is None:
        raise NotFound("This filter was just replaced: its model was ingested again. Reload the page.")
    return dict(zip(names, row, strict=True))


def of_ids(cur: Cursor, filter_ids: Iterable[int]) -> dict[int, Shown]:
    """Filters by id, those that are on the shelf."""
    wanted = [one for one in dict.fromkeys(filter_ids) if 0 <= one < schema.ID_RANGE]
    # the layer that begins last before an id is its own, if the id is not beyond its end
    rows = cur.execute(
        "SELECT start + (id - first_id) FROM (SELECT unnest(?::BIGINT[]) AS id) ASOF JOIN layers ON id >= first_id "
        "WHERE id - first_id < out_channels", [wanted],
    ).fetchall()  # fmt: skip
    found = {one.filter_id: one for one in kernels(cur, [row[0] for row in rows])}
    if len(found) < len(wanted):  # the ids of one layer of all may wrap around to 0
        [(wraps,)] = cur.execute(
            "SELECT count(*) FROM layers WHERE first_id::HUGEINT + out_channels > ?", [schema.ID_RANGE]
        ).fetchall()
        places = [one.n for filter_id in wanted if wraps and filter_id not in found and (one := find(cur, filter_id))]
        found |= {one.filter_id: one for one in kernels(cur, places)}
    return found


def fits(cur: Cursor) -> bool:
    """Whether any kernel has a fit."""
    return bool(cur.execute("SELECT 1 FROM rows WHERE rho IS NOT NULL LIMIT 1").fetchall())
