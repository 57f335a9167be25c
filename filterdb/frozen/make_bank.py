"""Banks made out of a database: codes of a classifier, k-means of kernels, a SQL selection, a bank at another size, ideal forms.

Each maker gives a ``Bank`` whose ``made_by`` says how it was made, of what, and from which version of the database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filterdb.banks import Bank
from filterdb.clusters import Classifier, labels, lines
from filterdb.clusters.clustering import early_steps, gather
from filterdb.errors import BankError, InvalidArgument, NotFound
from filterdb.kernels import centred_unit
from filterdb.kernels.sizes import parse_size, shape_of, size_name
from filterdb.store.view import View

Progress = Callable[[str, int, int], None]

ICLR = (
    "Babaiee, Kiasari, Rus, Grosu, Unveiling the Unseen: Identifiable Clusters in Trained Depthwise Convolutional Kernels, "
    "ICLR 2024 (the autoencoder)"
)
SHOWN_MODELS = 12
"""Models named in ``made_by``; of more, the first and how many."""
PLACE = ("model", "layer", "channel")
"""Columns of a selection that together say which filter a kernel is."""


def uniform_codes(name: str, classifier: Classifier, count: int | None, version: int) -> Bank:
    """Codes at equal distances from 0 to 1, decoded by an autoencoder; or all centres of a k-means classifier.

    Args:
        name: of the bank.
        classifier: whose codes.
        count: how many; the paper took 10, 25, 50 and 100.
        version: of the database.
    """
    if classifier.method == "kmeans":
        there = len(classifier.weights["centres"])
        if count not in (None, there):
            raise InvalidArgument(
                f'"{classifier.name}" is k-means with {there} centres, so it has no other number of codes than {there}, got '
                f"{count}. Leave count out, or make the templates by kmeans."
            )
        codes, kernels = classifier.spectrum()
        names, how = [f"centre_{number}" for number in range(there)], f"the {there} centres"
    else:
        if count is None:
            raise InvalidArgument("The number of codes is missing. Give count. The paper took 10, 25, 50 and 100.")
        _check_count(count)
        from filterdb.clusters.autoencoder import decode

        codes = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
        kernels = decode(classifier.weights, codes).reshape(-1, *shape_of(classifier.kernel_h, classifier.kernel_w))
        digits = max(3, len(str(count)))
        names, how = [f"code_{code:.{digits}f}" for code in codes], f"{count} codes at equal distances from 0 to 1"
    facts = classifier.facts
    trained = f"trained on {facts.get('kernels', 0):,} kernels of {_models(facts.get('models', []))}, seed {facts.get('seed')}"
    made_by = f'{how} of the {classifier.method} classifier "{classifier.name}" ({trained}); {_of(version)}'
    return Bank(name, names, kernels, labels.of_codes(classifier.stretches, codes), ICLR, made_by)


@dataclass(frozen=True)
class KMeans:
    """How templates are clustered out of kernels."""

    count: int
    """Of templates."""
    centres: bool = False
    """The directions in the middle of the clusters, of length 1, instead of real kernels."""
    seed: int = 0
    """Of the starts, and of the draw where there are more kernels than a training sees."""


def kmeans(
    view: View, name: str, asked: KMeans, *, models: str | Sequence[str] | None = None, size: str | int | None = None,
    progress: Progress | None = None,
) -> Bank:  # fmt: skip
    """The medoids, or the centres, of k-means up to sign (``filterdb.clusters.lines``) over the distinct kernels of a size.

    Args:
        view: the version to read.
        name: of the bank.
        asked: how many templates, and how they are found.
        models: names or globs; by default all, of a training run only the last checkpoint.
        size: of the kernels; needed where the models have several.
        progress: called with the current step, the amount done, and the total.
    """
    count, seed = asked.count, asked.seed
    _check_count(count)
    chosen_size = view.only_size() if size is None else view.check_size(size)
    kernel_h, kernel_w = parse_size(chosen_size)
    chosen = view.having(kernel_h, kernel_w, models)
    if models is None:
        early = early_steps(view)
        chosen = [one for one in chosen if one not in early]
    if not chosen:
        raise NotFound(f"No kernels of size {chosen_size} in {models or 'the database'}. Choose other models, or another size.")
    kernels = gather(view, chosen_size, chosen, seed)
    found = lines.train(centred_unit(kernels).unit.astype(np.float32), count, seed, progress)
    sizes = np.bincount(found.cluster, minlength=count)
    words = [f"{kernels_in:,} of {len(kernels):,} kernels" for kernels_in in sizes]
    if asked.centres:
        templates, what = found.centres, "centres"
    else:
        templates, what = kernels[found.medoids], "medoids"
        for number, place in enumerate(_places(view, chosen, kernel_h, kernel_w, templates)):
            words[number] = f"{place}, for {words[number]}"
    made_by = (
        f"{count} {what} of spherical k-means up to sign of {len(kernels):,} distinct {chosen_size} kernels of "
        f"{_models(chosen)}, seed {seed}, mean energy kept {found.explained:.4f}; {_of(view.snapshot.version)}"
    )
    names = [f"{what[:-1]}_{number:0{len(str(count))}d}" for number in range(1, count + 1)]
    return Bank(name, names, templates.reshape(-1, *shape_of(kernel_h, kernel_w)), words, made_by=made_by)


def selection(name: str, table: pa.Table, sql: str, version: int, size: str | int | None = None) -> Bank:
    """The rows of a query as templates.

    Args:
        name: of the bank.
        table: a column ``kernel`` (lists of numbers); and, where it has them, ``name`` (or ``template``) and ``label``, ``size``
            (or ``kernel_h`` and ``kernel_w``). Without names, model, layer and channel name a template, then filter_id.
        sql: the query, for ``made_by``.
        version: of the database.
        size: of the kernels, where no column says it and they are not square.
    """
    if "kernel" not in table.column_names:
        raise BankError(f"The query gives {', '.join(table.column_names) or 'nothing'}, and no column kernel. SELECT kernel, …")
    rows = table.to_pylist()
    if not rows:
        raise BankError("The query gives no rows, and a bank needs at least one template. Select some kernels.")
    kernels = [row["kernel"] for row in rows]
    if bad := next((number for number, one in enumerate(kernels, 1) if not _is_kernel(one)), None):
        raise BankError(f"Row {bad} of the query has no kernel, a list of numbers. Select the column kernel of filters.")
    if len({len(one) for one in kernels}) > 1:
        lengths = ", ".join(str(length) for length in sorted({len(one) for one in kernels}))
        raise BankError(f"The query gives kernels of {lengths} taps, and a bank has one size. Add WHERE size = '7x7'.")
    kernel_h, kernel_w = _size_of(rows, len(kernels[0]), size)
    words = [str(row["label"]) for row in rows] if "label" in table.column_names else None
    made_by = f"the kernels of the query {' '.join(sql.split())}; {_of(version)}"
    return Bank(
        name, _names(rows), np.array(kernels, np.float32).reshape(-1, *shape_of(kernel_h, kernel_w)), words, made_by=made_by
    )


def resized(name: str, bank: Bank, size: str | int | None, version: int) -> Bank:
    """A bank under another name, at its own size or another: by its formula, or the centre crop where it is only numbers."""
    if size is None:
        made, how = bank, f'the bank "{bank.name}"'
    elif bank.scalable:
        made, how = bank.at(size), f'the bank "{bank.name}" by its formula at {size_name(*parse_size(size))}'
    else:
        made = crop(bank, *parse_size(size))
        how = f'the centre crop to {made.size} of the bank "{bank.name}"'
    before = f" ({bank.made_by})" if bank.made_by else ""
    return Bank(name, made.names, made.templates, made.labels, bank.citation, f"{how}{before}; {_of(version)}")


def crop(bank: Bank, kernel_h: int, kernel_w: int) -> Bank:
    """The middle of each template, (kernel_h, kernel_w), both sides smaller or equal and shorter by an even number of taps.

    Templates that are constant in the middle are left out.

    Raises:
        BankError: a size without a middle in the bank's, or nothing but constants in it.
    """
    size = size_name(kernel_h, kernel_w)
    top, left = bank.kernel_h - kernel_h, bank.kernel_w - kernel_w
    if min(top, left) < 0 or top % 2 or left % 2:
        raise BankError(
            f'Bank "{bank.name}" has templates of {bank.size}, which have no centre crop of {size}. Bring one at {size}.'
        )
    cut = bank.templates[:, top // 2 : top // 2 + kernel_h, left // 2 : left // 2 + kernel_w]
    kept = np.flatnonzero(~centred_unit(cut.astype(np.float64).reshape(len(cut), -1)).dead)
    if not len(kept):
        raise BankError(f'Bank "{bank.name}" is constant in its middle {size}, so nothing is left to compare with.')
    words = [bank.labels[i] for i in kept]
    return Bank(bank.name, [bank.names[i] for i in kept], cut[kept], words, bank.citation, f"{bank.made_by}, cropped to {size}")


def idealised(bank: Bank, families: Sequence[str] | None = None, device: str | None = None) -> Bank:
    """Each template replaced by the scale-space model that fits it best (``filterdb.fields.fits``), and labelled by it.

    Args:
        bank: whose templates; odd sizes from 3x3.
        families: only these families; by default all that have a meaning for the size. The best is found by the same criterion
            as in the table ``fits``.
        device: torch device; by default the GPU if there is one.
    """
    from filterdb.fields import fits

    found = fits.fit(bank.templates, families, device=device)
    winner = fits.best(found)
    templates, words = [], []
    for row, (number, word) in enumerate(zip(winner, bank.labels, strict=True)):
        one = found[number]
        templates.append(fits.model(one, row, bank.kernel_h, bank.kernel_w))
        # the scales of a family, and how near the model came
        scales = " ".join(f"{sigma:.3f}" for sigma in one.sigma[row])
        words.append(f"{word}: {one.family.label}{f', sigma {scales}' if scales else ''}, rho {one.rho[row]:.4f}")
    of = f" of {', '.join(families)}" if families else ""
    made_by = f"the best fit{of} to each template by BIC (filterdb.fields.fits) of: {bank.made_by}"
    return replace(bank, templates=np.array(templates), labels=words, made_by=made_by, scale=None)


# -- words ---------------------------------------------------------------------------------------------------------------------


def _of(version: int) -> str:
    return f"version {version} of the database" if version >= 0 else "a database without models"


def _models(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_MODELS]) + (" …" if len(names) > SHOWN_MODELS else "")
    return f"{len(names)} model{'s'[: len(names) != 1]}" + (f" ({shown})" if names else "")


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidArgument(f"The number of templates must be a whole number from 1, got {count!r}.")


def _is_kernel(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(tap, int | float | Decimal) for tap in value)


def _size_of(rows: list[dict[str, object]], taps: int, size: str | int | None) -> tuple[int, int]:
    """The size of a selection's kernels: as said, as the rows say, or square."""
    if size is not None:
        pair = parse_size(size)
    elif "size" in rows[0]:
        pair = parse_size(str(rows[0]["size"]))
    elif {"kernel_h", "kernel_w"} <= set(rows[0]):
        pair = int(str(rows[0]["kernel_h"])), int(str(rows[0]["kernel_w"]))
    else:
        pair = (round(taps**0.5), round(taps**0.5))
    if pair[0] * pair[1] != taps:
        said = size_name(*pair) if size is not None or "size" in rows[0] else "a square"
        raise BankError(f"The query gives kernels of {taps} taps, which are not {said}. Give their size, such as 1x{taps}.")
    return pair


def _names(rows: list[dict[str, object]]) -> list[str]:
    """What the templates of a selection are called."""
    word = next((one for one in ("name", "template", "filter_id") if one in rows[0]), None)
    if word != "filter_id" and word is not None:
        return [str(row[word]) for row in rows]
    if set(PLACE) <= set(rows[0]):
        return [":".join(str(row[one]) for one in PLACE) for row in rows]
    return [str(row[word]) if word else str(number) for number, row in enumerate(rows, 1)]


def _places(view: View, models: Sequence[str], kernel_h: int, kernel_w: int, kernels: NDArray[np.float32]) -> list[str]:
    """Which filters have these very numbers, the first of each, as MODEL:LAYER:CHANNEL."""
    found: dict[bytes, int] = {}
    for batch in view.batches(kernel_h, kernel_w, ["filter_id"], model=list(models)):
        ids = batch.table["filter_id"].to_numpy()
        for row in np.flatnonzero(np.isin(batch.kernels[:, 0], kernels[:, 0])):
            found.setdefault(batch.kernels[row].tobytes(), int(ids[row]))
    names = view.names(list(found.values()))
    return [":".join(map(str, names[found[one.tobytes()]])) for one in kernels]
