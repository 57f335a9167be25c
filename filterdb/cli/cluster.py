"""``filterdb cluster`` and ``filterdb classify``: the shapes that kernels fall into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filterdb.cli.help import Group
from filterdb.cli.output import Format, print_json, write_rows
from filterdb.cli.progress import Bar
from filterdb.cli.shared import Db, Form, Json, Limit, Models, Out, Size, existing

if TYPE_CHECKING:
    from filterdb.clusters import Classifier
    from filterdb.database import Database

cluster_app = typer.Typer(
    cls=Group,
    help="Cluster kernels by shape, and manage the classifiers.\n\nWithout a command, filterdb cluster trains a classifier on "
    "all kernels of a size, labels its spectrum and classifies the kernels.",
    invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None,
)  # fmt: skip
Name = Annotated[str, typer.Argument(help="Name of the classifier.")]


@cluster_app.callback()
def cluster(
    context: typer.Context,
    size: Size = None,
    models: Models = None,
    name: Annotated[str | None, typer.Option(help="Name of the classifier. Default: method, size and seed.")] = None,
    method: Annotated[str, typer.Option(help="autoencoder (ICLR 2024) or kmeans.")] = "autoencoder",
    classes: Annotated[int | None, typer.Option(help="Number of classes of kmeans. Default: 10.")] = None,
    scaling: Annotated[
        str | None, typer.Option(help="Scaling of kmeans: unit or minmax. Default: minmax at 3x3, else unit.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(help="Maximum epochs. Default: 10 to 150, until 1.5 million kernels were seen.")
    ] = None,
    restarts: Annotated[int, typer.Option(help="Number of autoencoders to train. The best is kept.")] = 8,
    threshold: Annotated[
        float | None, typer.Option(help="Largest cosine dissimilarity in a class. Default: 0.3 from 7x7, 0.2 at 5x5, 0.1 below.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="torch device, such as cpu or cuda. Default: the GPU if there is one.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write tables and pictures to this folder.")] = None,
    db: Db = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Train a classifier on the kernels of a size, label its spectrum, and classify all kernels of that size."""
    if context.invoked_subcommand is not None:
        sources = {one.opts[0]: str(context.get_parameter_source(one.name or "")) for one in context.command.params}
        given = [flag for flag, source in sources.items() if source.endswith("COMMANDLINE")]
        if given:
            raise typer.BadParameter(f"put {given[0]} after {context.invoked_subcommand}, not before it.")
        return
    database = existing(db)
    with Bar(quiet=as_json) as bar:
        made = database.cluster(
            size, models=models, name=name, method=method, classes=classes, scaling=scaling, seed=seed, epochs=epochs,
            restarts=restarts, threshold=threshold, device=device, progress=bar,
        )  # fmt: skip
    written = database.cluster_report(made.name, report) if report else []
    if as_json:
        return print_json(_facts(made) | {"report": [str(path) for path in written]})
    _describe(database, made)
    print(f"\nShare clustered, by model (filterdb query clustered --classifier {made.name}):")
    write_rows(database.query("clustered", classifier=made.name).to_arrow_reader(), Format.table, None, 40)
    for path in written:
        print(f"wrote {path}")
    return None


def _describe(database: Database, made: Classifier) -> None:
    """A summary of a classifier, and a table of its stretches."""
    import pyarrow as pa

    facts = made.facts
    how = f"{made.method}, {facts.get('kernels', 0):,} distinct {made.size} kernels of {len(facts.get('models', []))} models"
    print(f"{made.name}: {how}, seed {facts.get('seed')}, threshold {made.threshold:g}")
    if losses := facts.get("losses"):
        shown = " ".join(f"{loss:.4f}" for loss in sorted(losses))
        print(f"{facts['epochs']} epochs; held-out loss of the {len(losses)} restarts, the best is kept: {shown}")
    counts = database.sql(
        "SELECT class, count(*) FROM classes JOIN filters USING (filter_id) WHERE classifier = $name AND class IS NOT NULL "
        "AND model IN (SELECT unnest($models)) GROUP BY class", name=made.name, models=facts.get("models", []),
    ).fetchall()  # fmt: skip
    total, by_class = sum(n for _, n in counts), dict(counts)
    rows = [
        {"class": one.name, "from": one.start, "to": one.stop, "similarity": one.similarity, "confidence": one.confidence}
        for one in made.stretches
    ]
    print("\nStretches of the spectrum, with their similarity to the ideal form:")
    write_rows(pa.Table.from_pylist(rows).to_reader(), Format.table, None, 200)
    if total:
        shares = [{"class": c, "filters": by_class.get(c, 0), "percent": 100 * by_class.get(c, 0) / total} for c in made.classes]
        print("Classes of the kernels of these models:")
        write_rows(pa.Table.from_pylist(shares).to_reader(), Format.table, None, 200)
    missing = ", ".join(made.missing)
    print(f"Shapes without a code: {missing}." if missing else "Every shape has its codes.")


def _facts(made: Classifier) -> dict[str, Any]:
    from dataclasses import asdict

    words = {"name": made.name, "method": made.method, "scaling": made.scaling, "size": made.size, "threshold": made.threshold}
    return {
        **words, "classes": made.classes, "missing": made.missing, "stretches": [asdict(one) for one in made.stretches],
        "facts": dict(made.facts),
    }  # fmt: skip


@cluster_app.command("list")
def list_(db: Db = None, form: Form = Format.table, as_json: Json = False, out: Out = None) -> None:
    """List the classifiers of a database."""
    columns = "classifier, method, size, threshold, seed, kernels, held_out_loss, missing"
    relation = existing(db).sql(f"SELECT {columns} FROM classifiers ORDER BY size, classifier")
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, 1000)


@cluster_app.command()
def show(name: Name, db: Db = None, as_json: Json = False) -> None:
    """Show a classifier: its training, its spectrum and its classes."""
    database = existing(db)
    made = database.classifier(name)
    if as_json:
        return print_json(_facts(made))
    _describe(database, made)
    return None


@cluster_app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Name of a classifier.")],
    second: Annotated[str, typer.Argument(help="Name of another classifier of the same kernel size.")],
    seeds: Annotated[
        int, typer.Option(min=0, help="Also retrain each classifier from this many seeds, to measure its stability.")
    ] = 0,
    db: Db = None, form: Form = Format.table, as_json: Json = False, out: Out = None,
) -> None:  # fmt: skip
    """Measure how well two classifiers agree. Both are held to one threshold.

    With --seeds, each is also compared with itself."""
    with Bar(quiet=as_json) as bar:
        relation = existing(db).compare_classifiers(first, second, seeds=seeds, progress=bar)
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, 100)


@cluster_app.command()
def control(
    name: Name,
    untrained: Annotated[
        str | None, typer.Option(help="timm architecture of the untrained network. Default: one with the kernel size.")
    ] = None,
    db: Db = None, form: Form = Format.table, as_json: Json = False, out: Out = None,
) -> None:  # fmt: skip
    """Train a classifier's controls: noise, shuffled taps, no training.

    The controls show how many kernels the same method clusters where there are no shapes."""
    with Bar(quiet=as_json) as bar:
        relation = existing(db).cluster_controls(name, untrained=untrained, progress=bar)
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, 100)


@cluster_app.command()
def label(
    name: Name,
    file: Annotated[Path, typer.Argument(help="TOML file with the labels.")],
    write: Annotated[bool, typer.Option("--write", help="Write the current labels to the file, for editing.")] = False,
    db: Db = None,
) -> None:
    """Set the labels and threshold of a classifier from a file.

    With --write, the current ones are written to the file instead."""
    from filterdb.clusters import labels

    database = existing(db)
    if write:
        made = database.classifier(name)
        labels.write(
            file, made.stretches, classifier=name, kernel_h=made.kernel_h, kernel_w=made.kernel_w, threshold=made.threshold
        )  # fmt: skip
        print(f"wrote {len(made.stretches)} stretches to {file}")
        return
    with Bar() as bar:
        made = database.label_classifier(name, file, progress=bar)
    print(f"{name}: {len(made.stretches)} stretches, threshold {made.threshold:g}")


@cluster_app.command()
def report(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Folder to write to. It is made if it does not exist.")],
    db: Db = None,
) -> None:
    """Write the tables and pictures of a classifier to a folder."""
    for path in existing(db).cluster_report(name, folder):
        print(f"wrote {path}")


@cluster_app.command()
def export(name: Name, file: Annotated[Path, typer.Argument(help="The .safetensors file to write.")], db: Db = None) -> None:
    """Export a classifier to a file."""
    from filterdb.clusters import write

    write(existing(db).classifier(name), file)
    print(f"wrote {name} to {file}")


@cluster_app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="A file written by filterdb cluster export, or small-nets-7x7 or small-nets-5x5.")],
    name: Annotated[str | None, typer.Option(help="Name in this database. Default: the name in the file.")] = None,
    db: Db = None,
) -> None:
    """Import a classifier from a file, or one that ships with filterdb."""
    made = existing(db).import_classifier(file, name=name)
    print(f"imported {made.name}. Apply it: filterdb classify --classifier {made.name}")


@cluster_app.command()
def remove(name: Name, db: Db = None) -> None:
    """Remove a classifier and its classes."""
    existing(db).remove_classifier(name)
    print(f"removed {name}")


def classify(
    classifier: Annotated[str, typer.Option(help="Name of the classifier. filterdb cluster list shows all.")],
    model: Models = None,
    summary: Annotated[bool, typer.Option("--summary", help="Print one row per model instead of one per kernel.")] = False,
    db: Db = None, form: Form = Format.table, as_json: Json = False, out: Out = None, limit: Limit = 20,
) -> None:  # fmt: skip
    """Classify kernels with a classifier. The result is kept in the table classes."""
    database = existing(db)
    with Bar(quiet=as_json) as bar:
        relation = database.classify(classifier, model=model, progress=bar)
    if summary:
        relation = database.query("clustered", classifier=classifier, models=model[0] if model and len(model) == 1 else "*")
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, limit)
