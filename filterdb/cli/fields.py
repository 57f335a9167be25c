"""``filterdb describe``, ``filterdb fit`` and ``filterdb bank fit``: kernels as receptive fields."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from filterdb.cli.output import Format, cell, console, print_json, write_rows
from filterdb.cli.progress import Bar
from filterdb.cli.shared import AsOf, Db, Form, Json, Limit, Models, Out, Size, existing, open_database

if TYPE_CHECKING:
    from filterdb.database import Database
    from filterdb.fields.describing import FilterDescription, GroupDescription

Device = Annotated[str | None, typer.Option(help="torch device, such as cpu or cuda. Default: the GPU if there is one.")]


FIT_COLUMNS = (
    "family", "rho", "bic", "parameters", "sigma_x", "sigma_y", "sigma_x2", "sigma_y2", "orders", "shift", "amplitude",
    "at_bound",
)  # fmt: skip

SUMMARY = """
family, count(*) AS filters, round(100.0 * count(*) / sum(count(*)) OVER (), 2) AS percent,
round(avg(rho::DOUBLE), 4) AS mean_rho, round(median(rho::DOUBLE), 4) AS median_rho,
round(100.0 * count(*) FILTER (rho >= 0.9) / count(*), 2) AS percent_above_90,
round(100.0 * count(*) FILTER (at_bound) / count(*), 2) AS percent_at_bound
"""
"""The columns of the query families, for the selected models."""

SHOWN_FITS = 2


def fit(
    size: Size = None,
    model: Models = None,
    family: Annotated[list[str] | None, typer.Option(help="Fit only this family of models. Repeatable. Default: all.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Fit kernels again that were fitted before.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Print one row per family instead of one per kernel.")] = False,
    device: Device = None,
    db: Db = None, form: Form = Format.table, as_json: Json = False, out: Out = None, limit: Limit = 20,
) -> None:  # fmt: skip
    """Fit scale-space models to kernels. All fits are kept in the table fits, the best of each kernel marked."""
    database = existing(db)
    with Bar(quiet=as_json) as bar:
        relation = database.fit(size, model=model, family=family, again=again, device=device, progress=bar)
    if summary:
        relation = relation.filter("best").aggregate(SUMMARY).order("filters DESC, family")
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, limit)


def bank_fit(
    name: Annotated[str, typer.Argument(help="Name of the bank.")],
    forms: Annotated[
        str, typer.Option(help="Form of each template, separated by commas: T, dx, dx+, dx-, dy, dy+, dy- or sharpening.")
    ],
    method: Annotated[
        list[str] | None, typer.Option(help="Method: A or B (variance), C1 or C2 (l1), D1 or D2 (l2). Repeatable. Default: all.")
    ] = None,
    db: Db = None, form: Form = Format.table, as_json: Json = False, out: Out = None,
) -> None:  # fmt: skip
    """Fit idealised receptive fields to the templates of a bank.

    The methods are those of arXiv 2509.12746."""
    relation = open_database(db).fit_bank(name, [one.strip() for one in forms.split(",")], method)
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, 1000)


def describe(
    what: Annotated[
        str | None, typer.Argument(help="A filter_id, MODEL:LAYER:CHANNEL, MODEL:LAYER or MODEL. Default: the whole database.")
    ] = None,
    bank: Annotated[str, typer.Option(help="Bank to compare with.")] = "greedy8",
    picture: Annotated[Path | None, typer.Option(help="Also draw it to this file: .png, .svg or .pdf.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write tables and pictures of the whole database to this folder.")
    ] = None,
    device: Device = None, db: Db = None, as_json: Json = False, as_of: AsOf = None,
) -> None:  # fmt: skip
    """Describe a filter, a layer, a model or the whole database."""
    from filterdb.fields.describing import FilterDescription

    database = existing(db, as_of)
    if what is None:
        return _database(database, report, as_json)
    if report:
        raise typer.BadParameter("--report is of the whole database: leave WHAT out, or ask for a --picture of it.")
    found = database.describe(what, bank=bank, device=device)
    if picture:
        from filterdb.figures import draw_description

        draw_description(found).save(picture)
    if as_json:
        return print_json(found.to_dict())
    if isinstance(found, FilterDescription):
        _filter(found)
    else:
        _group(found)
    if found.reason:
        print(f"\nno description: {found.reason}")
    if picture:
        print(f"\nwrote {picture}")
    return None


def _database(database: Database, report: Path | None, as_json: bool) -> None:
    """The words of all filters by task and by depth."""
    written = database.field_report(report) if report else []
    tables = {name: database.query(name).to_arrow_table() for name in ("bands", "band_depth", "directions")}
    if as_json:
        return print_json(
            {name: table.to_pylist() for name, table in tables.items()} | {"report": [str(path) for path in written]}
        )
    for title, name, group in (("task", "bands", "name"), ("depth, from input (0) to output (1)", "band_depth", "depth_from")):
        rows = tables[name].to_pylist()
        _rows(f"percent of the filters, by {title}", _pivoted(rows, (group,)))
    for path in written:
        print(f"wrote {path}")
    return None


def _filter(found: FilterDescription) -> None:
    place = found.identity
    if "model" in place:
        print(f"{place['model']}:{place['layer']}:{place['channel']} (filter_id {place['filter_id']})")
        trained = f", trained on {place['dataset']}" if place["dataset"] else ""
        print(f"{place['size']} kernel of layer {place['depth']} ({place['depth_norm']:.2f} of the way){trained}")
    print(f"\n{found.sentence}\n")
    _pictures(found)
    _numbers(found.words | found.numbers)
    _rows("nearest templates", found.nearest)
    rows = [{name: row[name] for name in FIT_COLUMNS} for row in found.fits[:SHOWN_FITS]]
    _rows(f"the best models of {len(found.fits)} (bic charges for parameters; --json has all)", rows)


def _group(found: GroupDescription) -> None:
    place = found.identity
    print(f"{place['model']}:{place['layer']}" if "layer" in place else place["model"])
    facts = {name: value for name, value in place.items() if name not in ("model", "layer") and value is not None}
    print(", ".join(f"{name} {cell(value)}" for name, value in facts.items()))
    print(f"\n{found.sentence}\n")
    if "layer" in place:
        _rows("words", found.bands)
    else:
        _rows("words, percent of each layer's filters", _pivoted(found.bands, ("depth", "layer", "size")))
    _rows("derivatives among the differential filters", found.orders)
    _rows("nearest templates", found.nearest)
    _rows("best models", found.families)
    _numbers(found.numbers, "means")


def _pivoted(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Shares of the words: one row for each group (named by ``keys``), one column for each word, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["band"]] = counts.get(row["band"], 0) + row["filters"]
    names = sorted(counts, key=lambda band: -counts[band])
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        group = tuple(row[key] for key in keys)
        found.setdefault(group, dict(zip(keys, group, strict=True)) | dict.fromkeys(names))[row["band"]] = row["percent"]
    return [*found.values()]


def _pictures(found: FilterDescription) -> None:
    """Kernel, model and residual side by side, in percent of the largest weight."""
    scale = 100 / (float(np.abs(found.kernel).max()) or 1.0)
    sheet = found.kernel.reshape(-1, found.kernel.shape[-1])
    panels: list[tuple[str, NDArray[Any]]] = [("kernel", sheet)]
    if found.model is not None:
        panels += [("model", found.model), ("what is left", found.kernel - found.model)]
    width = 5 * sheet.shape[1]
    print("   ".join(title.rjust(width) for title, _ in panels))
    for row in range(len(sheet)):
        print("   ".join("".join(f"{round(float(tap) * scale):5d}" for tap in panel[row]) for _, panel in panels))
    print("(percent of the largest weight)\n")


def _numbers(values: dict[str, Any], title: str = "numbers") -> None:
    from rich.columns import Columns
    from rich.text import Text

    shown = [Text(f"{name} {cell(value)}") for name, value in values.items() if value is not None]
    if not shown:
        return
    print(f"{title}:")
    screen = console()
    screen.width = min(screen.width, 130)
    screen.print(Columns(shown, padding=(0, 3)))


def _rows(title: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        import pyarrow as pa

        print(f"\n{title}:")
        write_rows(pa.Table.from_pylist(rows).to_reader(), Format.table, None, 60)
