"""``filterdb greedy``: drop the templates of a bank that contribute least."""

from __future__ import annotations

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
    Limit,
    Part,
    Preprocessing,
    Seed,
    Split,
    Workers,
    images_of,
    preprocessing_of,
)  # fmt: skip
from filterdb.cli.shared import Db, Json, MatchKeys, Models, Size, open_database

if TYPE_CHECKING:
    from filterdb.frozen.greedy import Greedy


def greedy(
    bank: Annotated[str, typer.Option(help="Bank to start from, for example of 50 templates.")],
    source: Annotated[
        str | None, typer.Argument(help="A checkpoint file, timm:NAME, hf:OWNER/NAME or demo. Default: --model of the database.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="energy (needs no images), accuracy (needs labels), agreement or kl (with the original network).")
    ] = "energy",
    data: Annotated[
        str | None, typer.Option(help="Images: a folder, Parquet files or torchvision:NAME@FOLDER. energy needs none.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Store the remaining templates as a bank of this name.")] = None,
    count: Annotated[
        int | None, typer.Option(help="Number of templates in --name and --picture. Default: at the elbow of the curve.")
    ] = None,
    stop: Annotated[int, typer.Option(help="Stop at this number of templates.", min=1)] = 1,
    per: Annotated[
        str, typer.Option(help="Weighting of energy: layer or kernel (each counts the same), or network (by its energy).")
    ] = "layer",
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Try only likely candidates. Much faster, with nearly the same result.")
    ] = False,
    model: Models = None,
    size: Size = None,
    layers: Annotated[
        list[str] | None, typer.Option("--layers", help="Use only layers of this name or glob. Repeatable.")
    ] = None,
    resize: Annotated[
        str, typer.Option(help="What to do at kernel sizes the bank lacks: none (keep them), formula, or crop (smaller sizes).")
    ] = "none",
    signed: Annotated[bool, typer.Option("--signed", help="Allow only positive gains.")] = False,
    architecture: Architecture = None, split: Split = None, part: Part = None, limit: Limit = None, seed: Seed = 0,
    batch_size: BatchSize = 8, workers: Workers = 0, device: Device = None,
    match_keys: MatchKeys = "name",
    input_size: InputSize = None, crop_pct: CropPct = None, preprocessing: Preprocessing = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the curve and the templates to this file: .png, .svg or .pdf.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Store the search in the tables runs and metrics.")] = True,
    db: Db = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Shrink a bank by dropping the least useful template repeatedly.

    The same command resumes an interrupted search."""
    from filterdb.errors import InvalidArgument
    from filterdb.frozen.choices import Matching
    from filterdb.frozen.greedy import Search

    database, said = open_database(db), preprocessing_of(input_size, crop_pct, preprocessing)
    if count is not None and name is None and picture is None:
        raise InvalidArgument("--count is of the bank that is kept or drawn: give it a --name, or ask for a --picture.")
    with Bar(quiet=as_json) as bar:
        found = database.greedy(
            _ordered(source, architecture) if match_keys == "order" else source,
            bank=bank if size is None else database.bank(bank, size=size), objective=objective,
            search=Search(stop, per, lazy), models=model, architecture=architecture,
            matching=Matching(signed=signed, layers=layers, resize=resize), device=device, keep=keep, progress=bar,
            data=None if data is None
            else images_of(data, split, part, limit, seed, batch_size, workers, said),
        )  # fmt: skip
    if not as_json and found.settings.get("warning"):
        print(found.settings["warning"])
    chosen = count or found.elbow
    made = None
    if name is not None:
        if chosen is None:
            raise InvalidArgument("The curve has no elbow, so the number of templates to keep is unknown. Give it with --count.")
        made = database.import_bank(found.bank(chosen, name))
    if picture is not None:
        from filterdb.figures import draw_greedy

        on = f" on {found.images:,} images" if found.images else ""
        draw_greedy(found, chosen, title=f"{found.start.name}: greedy search by {objective}{on}").save(picture)
    if as_json:
        return print_json(found.to_dict() | {"made": made.name if made else None})
    _print(found)
    if made is not None:
        print(f"made {made.name}: {len(made)} templates of {made.size}, {', '.join(made.names)}")
    if picture is not None:
        print(f"wrote {picture}")
    return None


def _ordered(source: str | None, architecture: str | None) -> Any:
    """A network whose tensors match those of its file by their order."""
    from filterdb.errors import InvalidArgument
    from filterdb.networks import load

    if source is None or architecture is None:
        raise InvalidArgument("--match-keys order matches the tensors of a file with an --architecture: give both.")
    return load(source, architecture=architecture, match_keys="order")


def _print(found: Greedy) -> None:
    """The curve from the whole bank down, and the cost of the search."""
    import pyarrow as pa

    trials = ["tried", "stopped"] if found.images else []
    rows = [
        {"templates": step.templates, "dropped": step.dropped, **step.values, "moved": step.moved}
        | {word: getattr(step, word) for word in trials}
        for step in found.steps
    ]
    write_rows(pa.Table.from_pylist(rows).to_reader(), Format.table, None, 1000)
    if found.original:
        print("the network as it was: " + ", ".join(f"{word} {cell(value)}" for word, value in found.original.items()))
    elbow = next((step for step in found.steps if step.templates == found.elbow), None)
    if elbow is None:
        print("no elbow: the curve is nowhere better than the straight line between its ends")
    else:
        values = ", ".join(f"{word} {cell(value)}" for word, value in elbow.values.items())
        print(f"elbow at {elbow.templates} templates ({values}), farthest from the straight line between the curve's ends")
    work = found.evaluations
    if found.images:
        print(
            f"{work['made']:,} evaluations where trying each template at each step takes {work['naive']:,}: {work['saved']:,} "
            f"saved; {work['stopped']:,} were stopped early; {found.seen:,} images run, not {work['naive'] * found.images:,}"
        )
    else:
        print(f"no evaluation: all {work['naive']:,} costs came out of one table of {found.kernels:,} kernels by templates")
    print(f"{f'kept as {found.run_id}, ' if found.run_id else ''}{found.seconds:.3g} s")
