"""The commands of filterdb. Heavy libraries are imported inside the commands: ``--help`` loads none of them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filterdb.cli.cluster import classify, cluster_app
from filterdb.cli.compare import compare, metrics
from filterdb.cli.fields import bank_fit, describe, fit
from filterdb.cli.frozen import bank_create, freeze
from filterdb.cli.greedy import greedy
from filterdb.cli.help import Group, add_examples
from filterdb.cli.output import Format, print_json, write_rows
from filterdb.cli.plot import plot
from filterdb.cli.progress import Bar, IngestProgress
from filterdb.cli.runs import evaluate
from filterdb.cli.serve import serve
from filterdb.cli.shared import AsOf, Db, Form, Json, Limit, MatchKeys, Models, Out, Param, Size, existing, flags, open_database
from filterdb.cli.train import train
from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    from filterdb.store.named_queries import NamedQuery

app = typer.Typer(
    cls=Group, help="A database of the depthwise kernels of trained vision models.", no_args_is_help=True,
    pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False,
)  # fmt: skip
bank_app = typer.Typer(cls=Group, help="List, show, create, import, export, fit or remove template banks.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")
app.add_typer(cluster_app, name="cluster")
app.command()(classify)
app.command()(metrics)
app.command()(compare)
app.command()(fit)
app.command()(describe)
app.command()(evaluate)
app.command()(train)
app.command()(freeze)
app.command()(greedy)
app.command()(serve)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(plot)


def _assignments(pairs: list[str] | None) -> dict[str, str]:
    values = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidArgument(f'--param "{pair}" has no value. Write NAME=VALUE.')
        values[name.removeprefix("$")] = value
    return values


@app.callback(invoke_without_command=True)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Print the version if ``--version`` is given."""
    if version:
        from filterdb.version import __version__

        print(f"filterdb {__version__}")
        raise typer.Exit


@app.command()
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(help="timm:NAME or a glob, hf:REPO, torchvision:NAME, a checkpoint file, run:FOLDER or a recipe."),
    ],
    db: Db = None,
    name: Annotated[str | None, typer.Option(help="Name of the model or run. Default: arch.tag, or the file's stem.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset the weights were trained on.")] = None,
    pretrain_dataset: Annotated[str | None, typer.Option(help="Dataset the weights were pretrained on.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the network, such as classification or detection.")] = None,
    step: Annotated[int | None, typer.Option(help="Training step of the checkpoint.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    top1: Annotated[float | None, typer.Option(help="Top-1 accuracy in percent.")] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Architecture of a checkpoint file, for strides, stages and so on: a timm name, or your own code as "
            "file.py:function or package.module:function."
        ),
    ] = None,
    architecture_arg: Annotated[
        list[str] | None, typer.Option(help="Argument of the architecture as NAME=VALUE, with VALUE in JSON. Repeatable.")
    ] = None,
    match_keys: MatchKeys = "name",
    weights: Annotated[
        str, typer.Option(help="Which weights to take from a file with two sets: auto (EMA if present), ema or raw.")
    ] = "auto",
    pointwise: Annotated[bool, typer.Option("--pointwise", help="Also store 1x1 depthwise layers.")] = False,
    stem: Annotated[
        bool, typer.Option("--stem", help="Also store the first ordinary convolution, in the table regular.")
    ] = False,
    regular: Annotated[
        int, typer.Option(min=0, help="Also store this many kernels of other ordinary convolutions, drawn evenly. Alone: 20000.")
    ] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Models processed in parallel.")] = 4,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Skip models that are already in the database.")] = False,
    as_json: Json = False,
) -> None:
    """Store the depthwise kernels of models. A model that is already there is replaced."""
    from filterdb.database.ingest import failures

    if weights not in ("auto", "ema", "raw"):
        raise InvalidArgument(f'--weights "{weights}" is not auto, ema or raw.')
    if name == "":
        raise InvalidArgument("--name is empty. Give a name, or leave the flag out.")
    with IngestProgress(quiet=as_json) as reporter:
        outcomes = open_database(db).ingest(
            *sources, jobs=jobs, skip_existing=skip_existing, check=False, reporter=reporter, name=name, dataset=dataset,
            pretrain_dataset=pretrain_dataset, task=task, step=step, licence=licence, top1=top1, architecture=architecture,
            architecture_args=_values(architecture_arg), weights=weights, pointwise=pointwise, stem=stem, regular=regular,
            match_keys=match_keys,
        )  # fmt: skip
    failed = failures(outcomes)
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        stored = [outcome for outcome in outcomes if outcome.status in ("ingested", "replaced")]
        skipped = len(outcomes) - len(stored) - len(failed)
        print(
            f"{len(stored)} models with {sum(o.filters for o in stored):,} kernels stored"
            + (f", {skipped} skipped" if skipped else "") + (f", {len(failed)} failed" if failed else "")
        )  # fmt: skip
        if failed and len(outcomes) > 1:
            for outcome in failed:
                print(f"failed: {outcome.source}: {outcome.error}")
    if failed:
        raise typer.Exit(1)


def _values(pairs: list[str] | None) -> dict[str, Any]:
    import json

    values = {}
    for name, text in _assignments(pairs).items():
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help='The statement, or "-" to read it from standard input.')],
    db: Db = None, param: Param = None, form: Form = Format.table, as_json: Json = False, out: Out = None, limit: Limit = 40,
    as_of: AsOf = None,
) -> None:  # fmt: skip
    """Run one read-only SQL statement. SHOW TABLES lists the tables, DESCRIBE filters the columns of one."""
    text = sys.stdin.read() if query == "-" else query
    relation = existing(db, as_of).sql(text, **_values(param))
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, limit)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def query(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Name of the query. Default: list all queries.")] = None,
    db: Db = None, param: Param = None, form: Form = Format.table, as_json: Json = False, out: Out = None, limit: Limit = 40,
    as_of: AsOf = None,
) -> None:  # fmt: skip
    """Run a named query, or list all of them. Parameters of a query are flags, such as --size 7x7.

    filterdb query NAME --help explains one query."""
    from filterdb.store import named_queries

    if name == "--help" or "--help" in context.args:
        print(_query_help(named_queries.load(name)) if name and name != "--help" else context.get_help())
        return None
    if name is None:
        questions = [named_queries.load(one) for one in named_queries.names()]
        if as_json or form is Format.json:
            return print_json([{k: v for k, v in asdict(q).items() if k != "sql"} for q in questions])
        for question in questions:
            taken = " ".join(f"--{p.name} {p.default or p.name.upper()}" for p in question.parameters)
            print(f"{question.name:<15} {question.title}" + (f"  [{taken}]" if taken else ""))
        return None
    parameters = dict(flags(context.args)) | _assignments(param)
    relation = existing(db, as_of).query(name, **parameters)
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, limit)


def _query_help(question: NamedQuery) -> str:
    taken = [
        f"  --{p.name}  {p.help}" + (f" [default: {p.default}]" if p.default else " [required]") for p in question.parameters
    ]
    return "\n".join([f"filterdb query {question.name}", "", question.help, "", *taken]).rstrip()


@app.command()
def nearest(
    bank: Annotated[str, typer.Option(help="Bank to match against.")] = "greedy8",
    db: Db = None,
    model: Models = None,
    layer: Annotated[str | None, typer.Option(help="Only layers of this name or glob.")] = None,
    size: Size = None,
    signed: Annotated[bool, typer.Option("--signed", help="Allow only positive gains.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Print one row per template instead of one per kernel.")] = False,
    form: Form = Format.table, as_json: Json = False, out: Out = None, limit: Limit = 20, as_of: AsOf = None,
) -> None:  # fmt: skip
    """Find the template of a bank that is closest to each kernel. A template is matched as gain * template + offset."""
    import pyarrow as pa

    database = existing(db, as_of)
    if summary:
        reader = database.nearest_summary(bank, model=model, layer=layer, size=size, signed=signed).to_arrow_reader()
    else:
        from filterdb.search.nearest import SCHEMA

        batches = database.nearest_batches(bank, model=model, layer=layer, size=size, signed=signed)
        reader = pa.RecordBatchReader.from_batches(SCHEMA, batches)
    write_rows(reader, Format.json if as_json else form, out, limit)


@app.command()
def similar(
    filter: Annotated[str, typer.Argument(help="A filter_id, or MODEL:LAYER:CHANNEL.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of neighbours.")] = 10,
    db: Db = None,
    model: Models = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Count inverted kernels as similar.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Search by brute force instead of the index.")] = False,
    form: Form = Format.table, as_json: Json = False, out: Out = None, as_of: AsOf = None,
) -> None:  # fmt: skip
    """Find the kernels most similar to a filter, by Pearson correlation."""
    relation = existing(db, as_of).similar(filter, k, model=model, signed=not unsigned, exact=True if exact else None)
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, k)


@app.command()
def remove(models: Annotated[list[str], typer.Argument(help="The models to remove.")], db: Db = None) -> None:
    """Remove models. Old versions (--as-of) keep them until filterdb verify --vacuum."""
    database = existing(db)
    for model in models:
        database.remove(model)
        print(f"removed {model}")


@app.command()
def verify(
    db: Db = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged entries, so that they can be ingested or imported again.")
    ] = False,
    vacuum: Annotated[bool, typer.Option("--vacuum", help="Delete old versions and free their space.")] = False,
    as_json: Json = False,
) -> None:
    """Check a database for damage. Every count and hash is compared with the files.

    The exit code is 1 if data is damaged."""
    database = existing(db)
    with Bar(quiet=as_json) as bar:
        report = database.verify(repair=repair, progress=lambda done, total: bar("verifying", done, total))
    freed = database.vacuum() if vacuum else 0
    if as_json:
        print_json(asdict(report) | {"ok": report.ok, "freed_bytes": freed})
    else:
        for word, found in (("problem", report.problems), ("note", report.leftovers)):
            for sentence in found:
                print(f"{'repaired' if report.repaired else word}: {sentence}")
        repaired = report.repaired and (report.problems or report.leftovers)
        verdict = "repaired" if repaired else "not well" if report.problems else "all is well"
        print(
            f"{report.models} models, {report.filters:,} filters checked: {verdict}"
            + (f"; {freed:,} bytes freed" if vacuum else "")
        )
        if not report.ok:
            print("Run filterdb verify --repair: it removes what is damaged, so that you can ingest or import it again.")
        elif report.leftovers and not report.repaired:
            print("The next write to a table cleans up after killed writers; filterdb verify --repair does it now.")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def info(
    db: Db = None, as_of: AsOf = None, as_json: Json = False,
    versions: Annotated[bool, typer.Option("--versions", help="List the versions, newest first.")] = False,
) -> None:  # fmt: skip
    """Show what a database holds: counts, kernel sizes, bytes and banks."""
    database = existing(db, as_of)
    if versions:
        history = database.history()
        if as_json:
            return print_json(history)
        for entry in history:
            print(
                f"{entry['version']:>6}  {entry['time']:%Y-%m-%d %H:%M:%S}  {entry['operation']} {entry['name'] or ''}".rstrip()
            )
        return None
    found = database.info()
    if as_json:
        return print_json(asdict(found))
    when = f", {found.time:%Y-%m-%d %H:%M:%S} UTC" if found.time else ""
    print(f"{found.path}\nversion {found.version}{when}")
    print(
        f"{found.models:,} models, {found.layers:,} layers, {found.filters:,} filters ({found.dead:,} dead), "
        f"{found.bytes / 1e6:,.1f} MB"
    )
    for name, count in found.sizes.items():
        print(f"  {name:>7}  {count:>12,}")
    print("banks: " + ", ".join(found.banks))
    return None


@bank_app.command("list")
def bank_list(db: Db = None, form: Form = Format.table, as_json: Json = False, out: Out = None) -> None:
    """List all banks: those that ship and those imported here."""
    relation = open_database(db).sql("SELECT bank, size, templates, shipped, made_by FROM banks ORDER BY NOT shipped, bank")
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, 1000)


Options = Annotated[
    list[str] | None, typer.Option("--option", help="Option of the bank as NAME=VALUE, such as seed=1 or method=D2. Repeatable.")
]


@bank_app.command("show")
def bank_show(name: str, size: Size = None, option: Options = None, db: Db = None, as_json: Json = False) -> None:
    """Show the templates of a bank, with labels and citation."""
    bank = open_database(db).bank(name, size=size, **_values(option))
    if as_json:
        return print_json(
            {
                "name": bank.name, "size": bank.size, "names": bank.names, "labels": bank.labels, "citation": bank.citation,
                "made_by": bank.made_by, "templates": bank.templates.tolist(),
            }
        )  # fmt: skip
    print(f"{bank.name}: {len(bank)} templates of {bank.size}")
    print(f"made by: {bank.made_by or 'unknown'}\ncite: {bank.citation or 'nothing given'}")
    for title, label, template in zip(bank.names, bank.labels, bank.templates, strict=True):
        print(f"\n{title}" + (f": {label}" if label else ""))
        for row in template:
            print(" ".join(f"{tap:+.4f}" for tap in row))
    return None


bank_app.command("create")(bank_create)


@bank_app.command("import")
def bank_import(
    file: Annotated[
        Path, typer.Argument(help="npy (m, k, k), csv (one template per row), txt (blocks of rows) or an exported json.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the bank. Default: the file's stem.")] = None,
    size: Size = None,
    citation: Annotated[str, typer.Option(help="Citation of the bank.")] = "",
    db: Db = None,
) -> None:
    """Import a bank from a file."""
    bank = open_database(db).import_bank(file, name=name, size=size, citation=citation)
    print(f"imported {bank.name}: {len(bank)} templates of {bank.size}")


@bank_app.command("export")
def bank_export(
    name: str,
    file: Annotated[Path, typer.Argument(help="File to write. The suffix chooses npy, csv, txt or json.")],
    size: Size = None, option: Options = None, db: Db = None,
) -> None:  # fmt: skip
    """Export a bank to a file."""
    from filterdb import banks

    bank = open_database(db).bank(name, size=size, **_values(option))
    banks.write(bank, file)
    print(f"wrote {len(bank)} templates of {bank.size} to {file}")


bank_app.command("fit")(bank_fit)


@bank_app.command("remove")
def bank_remove(name: str, db: Db = None) -> None:
    """Remove an imported bank."""
    open_database(db).remove_bank(name)
    print(f"removed {name}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo database and picture.")] = Path("filterdb-demo"),
) -> None:
    """Try filterdb in seconds, offline, on trained networks."""
    from filterdb.cli.demo import run

    run(out)


add_examples(app)
