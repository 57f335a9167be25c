"""``filterdb freeze`` and ``filterdb bank create``: banks made from the database, and networks with their templates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filterdb.cli.output import Format, cell, print_json, write_rows
from filterdb.cli.progress import Bar
from filterdb.cli.runs import (
    Architecture,
    BatchSize,
    CropPct,
    Device,
    InputSize,
    Part,
    Preprocessing,
    Seed,
    Split,
    Workers,
    images_of,
    preprocessing_of,
)
from filterdb.cli.shared import Db, Json, MatchKeys, Models, Size, open_database

if TYPE_CHECKING:
    from filterdb.frozen.report import Report


def bank_create(
    name: Annotated[str, typer.Argument(help="Name of the new bank.")],
    classifier: Annotated[
        str | None, typer.Option(help="Make templates from --count evenly spaced codes of this classifier.")
    ] = None,
    kmeans: Annotated[
        int | None, typer.Option(help="Make this many templates by k-means over the kernels, up to sign. They are medoids.")
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option(help='Make a template of each row of a query with columns kernel, name, label. "-" reads it from stdin.'),
    ] = None,
    bank: Annotated[
        str | None, typer.Option(help="Make templates from another bank, at another --size or with --idealise.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Number of codes of the classifier. The paper has 10, 25, 50 and 100.")
    ] = None,
    centres: Annotated[bool, typer.Option("--centres", help="Take the centres of k-means instead of the medoids.")] = False,
    model: Models = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="Seed of k-means.")] = 0,
    idealise: Annotated[bool, typer.Option("--idealise", help="Replace each template by its best scale-space fit.")] = False,
    family: Annotated[list[str] | None, typer.Option(help="Family of models for --idealise. Repeatable. Default: all.")] = None,
    device: Device = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Create a bank from a classifier, k-means, a query or another bank."""
    from filterdb.errors import InvalidArgument
    from filterdb.frozen.make_bank import KMeans

    if centres and kmeans is None:
        raise InvalidArgument("--centres has no meaning without --kmeans. Leave it out.")
    if family and not idealise:
        raise InvalidArgument("--family says which scale-space models --idealise may use. Add --idealise, or omit --family.")
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
    out: Annotated[Path, typer.Option(help="File to write, in the source's format or as .safetensors.")],
    bank: Annotated[
        list[str] | None, typer.Option(help="A bank, or WHERE=BANK for a size or a layer (glob). Repeatable. Default: greedy8.")
    ] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Allow only positive gains.")] = False,
    layers: Annotated[
        list[str] | None, typer.Option("--layers", help="Replace only layers of this name or glob. Repeatable.")
    ] = None,
    resize: Annotated[
        str, typer.Option(help="What to do at kernel sizes the bank lacks: none (keep them), formula, or crop (smaller sizes).")
    ] = "none",
    mix: Annotated[
        float, typer.Option(help="Use two templates where one keeps less than this share of a kernel's energy.", min=0, max=1)
    ] = 0.0,
    match: Annotated[
        str, typer.Option(help="Match templates by weights (as filterdb nearest) or by inputs (by what layers see).")
    ] = "weights",
    repair: Annotated[
        list[str] | None,
        typer.Option(help="Repair on images afterwards: recalibrate, reestimate, correct or pointwise. Repeatable."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Unlabelled images for --repair and --match inputs.")] = None,
    split: Split = None, part: Part = None,
    limit: Annotated[int, typer.Option(help="Maximum number of unlabelled images, drawn at random.", min=1)] = 512,
    seed: Seed = 0, batch_size: BatchSize = 64, workers: Workers = 0, architecture: Architecture = None, device: Device = None,
    match_keys: MatchKeys = "name", input_size: InputSize = None, crop_pct: CropPct = None, preprocessing: Preprocessing = None,
    db: Db = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Replace each depthwise kernel of a network by a bank's template.

    A kernel becomes the closest gain * template + offset."""
    from filterdb.frozen.choices import Matching

    database, said = open_database(db), preprocessing_of(input_size, crop_pct, preprocessing)
    with Bar(quiet=as_json) as bar:
        report = database.freeze(
            source, out, _banks(bank or ["greedy8"], database.banks()),
            matching=Matching(match, signed, layers, resize, mix), repair=repair,  # type: ignore[arg-type]
            data=None if data is None else images_of(data, split, part, limit, seed, batch_size, workers),
            architecture=architecture, match_keys=match_keys, preprocessing=said, device=device, progress=bar,  # type: ignore[arg-type]
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
