"""``filterdb freeze`` and ``filterdb bank create``: banks out of the database, and networks of their templates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filterdb.cli.output import Format, cell, print_json, write_rows
from filterdb.cli.progress import Bar
from filterdb.cli.runs import Architecture, BatchSize, Device, Part, Seed, Split, Workers, images_of
from filterdb.cli.shared import Db, Json, Models, Size, open_database

if TYPE_CHECKING:
    from filterdb.frozen.report import Report


def bank_create(
    name: Annotated[str, typer.Argument(help="The new bank's name.")],
    classifier: Annotated[str | None, typer.Option(help="Of the codes of this classifier: --count of them, uniform.")] = None,
    kmeans: Annotated[int | None, typer.Option(help="Of so many medoids of k-means up to sign over the kernels.")] = None,
    sql: Annotated[str | None, typer.Option(help='Of the rows of a query, or "-": columns kernel, name, label.')] = None,
    bank: Annotated[str | None, typer.Option(help="Of another bank, at another --size or with --idealise.")] = None,
    count: Annotated[int | None, typer.Option(help="Codes of the classifier: 10, 25, 50 or 100 in the paper.")] = None,
    centres: Annotated[bool, typer.Option("--centres", help="k-means: the centres, not real kernels.")] = False,
    model: Models = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="Of k-means.")] = 0,
    idealise: Annotated[
        bool, typer.Option("--idealise", help="Put the best scale-space fit in the place of each template.")
    ] = False,
    family: Annotated[list[str] | None, typer.Option(help="--idealise: only this family. Repeatable. Default: all.")] = None,
    device: Device = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Make a bank out of the database: of a classifier, k-means, a query, or another bank."""
    from filterdb.errors import InvalidArgument
    from filterdb.frozen.make_bank import KMeans

    if centres and kmeans is None:
        raise InvalidArgument("--centres has no meaning without --kmeans. Leave it out.")
    if family and not idealise:
        raise InvalidArgument("--family says which scale-space models may stand in. Add --idealise, or leave it out.")
    query = sys.stdin.read() if sql == "-" else sql
    with Bar(quiet=as_json) as bar:
        made = open_database(db).create_bank(
            name, classifier=classifier, kmeans=None if kmeans is None else KMeans(kmeans, centres, seed), sql=query, bank=bank,
            count=count, model=model, size=size, idealise=(family or True) if idealise else False, device=device, progress=bar,
        )  # fmt: skip
    if as_json:
        return print_json({"name": made.name, "size": made.size, "templates": len(made), "made_by": made.made_by})
    print(f"made {made.name}: {len(made)} template{'s'[: len(made) != 1]} of {made.size}\nmade by: {made.made_by}")
    return None


def freeze(
    source: Annotated[str, typer.Argument(help="A checkpoint file, timm:NAME, hf:OWNER/NAME, or demo.")],
    out: Annotated[Path, typer.Option(help="The file to write: of the source's format, else .safetensors.")],
    bank: Annotated[
        list[str] | None, typer.Option(help="A bank; or WHERE=BANK for a size or a layer (glob). Repeatable. Default: greedy8.")
    ] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Only positive gains count.")] = False,
    layers: Annotated[list[str] | None, typer.Option("--layers", help="Only layers of this name or glob. Repeatable.")] = None,
    resize: Annotated[
        str, typer.Option(help="Kernels of sizes that the bank lacks: none (they stay), formula, or crop (smaller ones).")
    ] = "none",
    mix: Annotated[
        float, typer.Option(help="Two templates for kernels of whose energy one keeps less than this share.", min=0, max=1)
    ] = 0.0,
    match: Annotated[str, typer.Option(help="Templates by weights, as nearest says, or by what layers see: inputs.")] = "weights",
    repair: Annotated[
        list[str] | None,
        typer.Option(help="Afterwards, on images: recalibrate, correct or pointwise. Repeatable."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Unlabelled images for --repair and --match inputs.")] = None,
    split: Split = None, part: Part = None,
    limit: Annotated[int, typer.Option(help="Unlabelled images at most, drawn at random.", min=1)] = 512,
    seed: Seed = 0, batch_size: BatchSize = 64, workers: Workers = 0, architecture: Architecture = None, device: Device = None,
    db: Db = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Replace each depthwise kernel of a network by its closest gain * template + offset."""
    from filterdb.frozen.choices import Matching

    database = open_database(db)
    with Bar(quiet=as_json) as bar:
        report = database.freeze(
            source, out, _banks(bank or ["greedy8"], database.banks()),
            matching=Matching(match, signed, layers, resize, mix), repair=repair,  # type: ignore[arg-type]
            data=None if data is None else images_of(data, split, part, limit, seed, batch_size, workers),
            architecture=architecture, device=device, progress=bar,
        )  # fmt: skip
    if as_json:
        return print_json(report.to_dict())
    _print(report)
    return None


def _banks(said: list[str], known: list[str]) -> Any:
    """One bank by its name, or WHERE=BANK pairs; a bank may have an = in its name."""
    from filterdb.errors import InvalidArgument

    chosen: dict[str, str] = {}
    for text in said:
        where, _, bank = ("", "", text) if text in known or "=" not in text else text.partition("=")
        if where in chosen:
            raise InvalidArgument(f"Two banks for {where or 'everything'}: {chosen[where]} and {bank}. Say WHERE=BANK for one.")
        chosen[where] = bank
    return chosen


def _print(report: Report) -> None:
    import pyarrow as pa

    columns = (
        "layer", "size", "bank", "kernels", "replaced", "dead", "unique_before", "unique_after", "energy_kept", "raw_energy_kept",
        "similarity", *["two"] * any(one.two for one in report.layers),
    )  # fmt: skip
    rows = [{name: getattr(one, name) for name in columns} for one in report.layers]
    write_rows(pa.Table.from_pylist(rows).to_reader(), Format.table, None, 1000)
    found = report.totals()
    kept = f", {found['kept']:,} stay" if found["kept"] else ""
    print(f"{found['replaced']:,} of {found['kernels']:,} kernels replaced, {found['dead']:,} constant{kept}")
    for reason, kernels in _reasons(report).items():
        print(f"  {kernels:,} stay: {reason}")
    print(
        f"different kernels: {found['unique_before']:,} before, {found['unique_after']:,} after; mean energy kept "
        f"{cell(found['energy_kept'])} ({cell(found['raw_energy_kept'])} of the raw), mean |similarity| "
        f"{cell(found['similarity'])}"
    )
    for note in report.notes:
        print(note)
    print(f"wrote {report.written}")


def _reasons(report: Report) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in report.layers:
        if one.reason:
            found[one.reason] = found.get(one.reason, 0) + one.kernels
    return found
