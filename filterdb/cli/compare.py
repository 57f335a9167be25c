"""``filterdb metrics`` and ``filterdb compare``: how layers are used, and how two selections of kernels differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from filterdb.cli.output import Format, print_json, write_rows
from filterdb.cli.progress import Bar
from filterdb.cli.shared import AsOf, Db, Form, Json, Limit, Models, Out, Size, existing

if TYPE_CHECKING:
    from filterdb.comparison.compare import Comparison, Side

COMPONENTS_SHOWN = 8


def metrics(
    model: Models = None,
    layer: Annotated[str | None, typer.Option(help="Only layers of this name or glob.")] = None,
    size: Size = None,
    sparsity_threshold: Annotated[
        list[float] | None,
        typer.Option(help="A filter is sparse below this share of its layer's largest weight. Repeatable. Default: 0.01."),
    ] = None,
    db: Db = None, form: Form = Format.table, as_json: Json = False, out: Out = None, limit: Limit = 40, as_of: AsOf = None,
) -> None:  # fmt: skip
    """Measure sparsity, variance entropy and orthogonality of layers."""
    relation = existing(db, as_of).layer_metrics(model, layer, size, sparsity_threshold or 0.01)
    write_rows(relation.to_arrow_reader(), Format.json if as_json else form, out, limit)


def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="A model or glob, dataset:NAME, architecture:GLOB, run:NAME, stem:NAME, regular:NAME, a checkpoint "
            'file, timm:NAME, hf:REPO, torchvision:NAME, or "*" for all.'
        ),
    ],
    b: Annotated[str, typer.Argument(help="The same for B. Default: the whole database. Models in both count once.")] = "*",
    size: Size = None,
    classifier: Annotated[
        str | None, typer.Option(help="Classifier of the class shares. Default: the only one that classified both.")
    ] = None,
    basis: Annotated[
        str | None, typer.Option(help="Frozen PCA basis. It is made and stored if it does not exist. Default: pca-SIZE.")
    ] = None,
    new_basis: Annotated[bool, typer.Option("--new-basis", help="Make the basis again from the current database.")] = False,
    novel: Annotated[int, typer.Option(min=0, help="Number of the most novel kernels of A to list.")] = 10,
    db: Db = None, as_json: Json = False, as_of: AsOf = None,
) -> None:  # fmt: skip
    """Compare the kernels of two models, datasets or other selections.

    The result is the distribution shift on a frozen PCA basis, the class shares, and the most novel kernels of A."""
    with Bar(quiet=as_json) as bar:
        found = existing(db, as_of).compare(
            a, b, size=size, classifier=classifier, basis=basis, new_basis=new_basis, novel=novel, progress=bar
        )
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: Comparison) -> None:
    for name, side in (("A", found.a), ("B", found.b)):
        print(f"{name}  {_words(side, found.size)}")
    usual = "" if found.usual_shift is None else f"; of a model of B against the others of B {found.usual_shift:.3g}"
    print(f"\nShift D = {found.shift:.3g} on the basis {found.basis} (by chance {found.noise_floor:.2g}{usual})")
    values = found.to_dict()
    parts = [row | {"part": row["explained_variance_ratio"] * row["symmetric_kl"]} for row in values["components"]]
    parts.sort(key=lambda row: -row["part"])
    shown = parts[:COMPONENTS_SHOWN]
    if len(shown) < len(parts):
        print(f"The {len(shown)} components of {len(parts)} that make most of it:")
    _table(shown)
    if found.classes:
        print(
            f"Classes by {found.classifier}: total variation {found.total_variation:.3g} (by chance "
            f"{found.total_variation_noise:.2g})"
        )  # fmt: skip
        _table([row for row in values["classes"] if row["a"] or row["b"]])
    if found.novel:
        print("Kernels of A with the weakest best match in B:")
        _table(values["novel"])
    for note in found.notes:
        print(f"note: {note}")


def _words(side: Side, size: str) -> str:
    models = f" of {side.models} models" if side.models > 1 else ""
    dead = f", {side.dead:,} dead left out" if side.dead else ""
    return f"{side.selection}: {side.kernels:,} {size} kernels{models}{dead}"


def _table(rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    write_rows(pa.Table.from_pylist(rows).to_reader(), Format.table, None, len(rows))
