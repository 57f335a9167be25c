"""Compares two selections of kernels: the shift of their coefficients, their classes, and the kernels that only one has.

One pass over either selection counts the histograms of the PCA coefficients; the most novel kernels of A need up to three more
over B. Only the kernels of A are held in memory, B streams: a laptop compares its model with a database of any size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.clusters import Classifier
from filterdb.clusters.classifier import shipped
from filterdb.clusters.clustering import classified_models
from filterdb.clusters.make import Progress
from filterdb.clusters.store import ClassStore
from filterdb.comparison.selection import Selection, select
from filterdb.comparison.store import BasisStore
from filterdb.errors import InvalidArgument, NotFound
from filterdb.kernels import pca
from filterdb.kernels.novelty import Others, most_novel
from filterdb.kernels.pca import Basis
from filterdb.kernels.sizes import Pair, parse_size, size_name
from filterdb.store import KernelBatch
from filterdb.store.view import View

DRAWS = 20
"""Random pairs of samples whose mean is the noise floor: known to about two in a hundred of itself."""
ENOUGH = 400
"""Kernels that a model needs to count for the usual shift: chance alone then gives it about a tenth."""
GROWN = 10
"""A basis is called old when the database has that many times the kernels it was made of."""
SAMPLE = 20_000
"""Kernels of B, drawn at random, that rule most kernels of A out before all of B is searched."""


@dataclass(frozen=True)
class Side:
    """One of the two selections, as it was compared."""

    selection: str
    models: int
    kernels: int
    """Non-constant kernels, which all numbers refer to."""
    dead: int


@dataclass(frozen=True)
class ComponentShift:
    """The shift of one PCA coefficient."""

    component: int
    explained_variance_ratio: float
    symmetric_kl: float


@dataclass(frozen=True)
class ClassShift:
    """One class in both selections: kernels, their share in percent, and the difference A - B in percentage points."""

    name: str
    a: int
    b: int
    a_percent: float
    b_percent: float
    difference: float


@dataclass(frozen=True)
class Novel:
    """A kernel of A, and the kernel of B that is most like it."""

    model: str
    layer: str
    channel: int
    filter_id: int | None
    """None for a kernel that is not in the database."""
    best_similarity: float
    """Pearson correlation, signed as in ``db.similar``."""
    nearest: str
    """MODEL:LAYER:CHANNEL in B."""
    own_similarity: float | None
    """Of its best match among the other kernels of A: does A repeat the shape? Noise has .45 among a thousand at 7x7, .6 at
    5x5 and .9 at 3x3. None where A has no other kernel."""


@dataclass(frozen=True)
class Comparison:
    """The answer of ``db.compare``."""

    size: str
    basis: str
    a: Side
    b: Side
    shift: float
    """D = sum of explained_variance_ratio * symmetric_kl over the components: 0 for equal distributions, at most 10.5."""
    noise_floor: float
    """The mean D of two random samples as large as A and B from both together: what chance alone gives."""
    usual_shift: float | None
    """The median D of a single model of B against the others of B: what is large. None for fewer than three of 400 kernels."""
    components: list[ComponentShift]
    classifier: str | None
    classes: list[ClassShift]
    total_variation: float | None
    """Half the sum of the absolute differences of the class shares: 0 for equal shares, 1 for no class in common."""
    total_variation_noise: float | None
    """What chance alone gives of it, as for ``noise_floor``."""
    novel: list[Novel]
    """The kernels of A whose best match in B is least, the most novel first."""
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON; the name of a class is called ``class``, as in SQL."""
        found = asdict(self)
        found["classes"] = [{"class": row.pop("name"), **row} for row in found["classes"]]
        return found


def compare(
    view: View, bases: BasisStore, classes: ClassStore, a: Any, b: Any, *, size: str | int | None, classifier: str | None,
    basis: str | None, new_basis: bool, novel: int, writable: Callable[[], None], progress: Progress | None,
) -> Comparison:  # fmt: skip
    """The result of ``db.compare``, which documents the arguments.

    Args:
        view: the version to read.
        bases: where the frozen basis is, or is put.
        classes: the classifiers.
        writable: complains where nothing may be stored.
    """
    if novel < 0:
        raise InvalidArgument(f"novel = {novel}: ask for no kernel (0) or some.")
    view.check_filled()
    told = progress or (lambda what, done, total: None)
    first, second = select(view, a, told), select(view, b, told)
    pair = _size(first, second, size)
    first, second, notes = _apart(first.at(*pair), second.at(*pair))
    for side in (first, second):
        if side.left_out:
            notes.append(f"{side.what}: {side.left_out} earlier checkpoints of training runs are excluded.")
    if classifier is None:
        tells = _classifier(view, classes, first, second, pair, notes)
    else:
        tells = classes.load(classifier)
        if (tells.kernel_h, tells.kernel_w) != pair:
            raise InvalidArgument(
                f'The classifier "{classifier}" classifies {tells.size} kernels, and these are {size_name(*pair)}.'
            )
    frozen = _basis(view, bases, basis or f"pca-{size_name(*pair)}", pair, new_basis, writable, notes, told)

    one = _count(first, frozen, told, 1.0 if novel else 0.0)
    two = _count(second, frozen, told, min(1.0, SAMPLE / second.count(*pair)) if novel else 0.0)
    rows, variation, noise = ([], None, None) if tells is None else _shares(view, tells, first, second, notes, told)
    chance = pca.chance(one.total, two.total, np.random.default_rng(0), DRAWS)
    columns = (frozen.explained_variance_ratio.tolist(), pca.symmetric_kl(one.total, two.total).tolist())
    return Comparison(
        size=frozen.size, basis=frozen.name, a=one.side, b=two.side, shift=pca.shift(frozen, one.total, two.total),
        noise_floor=float(np.mean([pca.shift(frozen, *draw) for draw in chance])), usual_shift=_usual(frozen, two),
        components=[ComponentShift(i, ratio, kl) for i, (ratio, kl) in enumerate(zip(*columns, strict=True), start=1)],
        classifier=None if tells is None else tells.name, classes=rows, total_variation=variation, total_variation_noise=noise,
        novel=_novel(one, two, novel, told) if novel else [], notes=notes,
    )  # fmt: skip


def _size(a: Selection, b: Selection, size: str | int | None) -> Pair:
    """The kernel size to compare: the one that is asked for, or the only one that both have."""
    if size is not None:
        return parse_size(size)
    common = sorted(a.sizes & b.sizes)
    if len(common) == 1:
        return common[0]
    if common:
        sizes = ", ".join(size_name(*one) for one in common)
        raise InvalidArgument(f"Kernels of one size at a time, and both have {sizes}. Choose one with --size.")
    there = [", ".join(size_name(*one) for one in sorted(side.sizes)) or "none" for side in (a, b)]
    raise NotFound(f'No kernel size in common: "{a.what}" has {there[0]}, "{b.what}" has {there[1]}.')


def _apart(a: Selection, b: Selection) -> tuple[Selection, Selection, list[str]]:
    """The selections without what is in both: the larger one loses it, or both where neither contains the other.

    So a model is compared with the rest of a database, the same way round whichever comes first. Equal selections stay.
    """
    ours, theirs = (set(side.models if side.own is None else side.twins) for side in (a, b))
    shared = ours & theirs
    if not shared:
        return a, b, []
    losers = {
        name: side.without(shared)
        for name, side, own, other in (("A", a, ours, theirs), ("B", b, theirs, ours))
        if side.own is None and not own <= other
    }
    if not losers:
        return a, b, ["A and B are the same models: every kernel matches itself."]
    what = f"{', '.join(sorted(shared)[:3])}{f' and {len(shared) - 3} more' if len(shared) > 3 else ''}"
    note = f"In both A and B, and excluded from {' and '.join(losers)}: {what}."
    return losers.get("A", a), losers.get("B", b), [note]


def _basis(
    view: View, bases: BasisStore, name: str, size: Pair, anew: bool, writable: Callable[[], None], notes: list[str],
    told: Progress,
) -> Basis:  # fmt: skip
    """The stored basis of that name; where there is none, or ``anew``, one made of the whole database and stored."""
    view.having(*size)  # says so if the database has no kernels of the size
    whole = select(view, "*").at(*size)
    count = whole.count(*size)
    found = bases.find(name)
    if found is not None and (found.kernel_h, found.kernel_w) != size:
        raise InvalidArgument(f'The basis "{name}" is of {found.size} kernels, these are {size_name(*size)}. Name another one.')
    if found is not None and not anew:
        if count > GROWN * (found.kernels + found.dead):
            notes.append(
                f"The basis {name} was made of {found.kernels:,} kernels and there are {count:,} now. --new-basis makes it "
                "again, but shifts measured before are then not comparable."
            )
        return found
    writable()
    made = pca.fit(name, *size, whole.models, (batch.kernels for batch in _shown(whole, size, f"basis {name}", told)))
    bases.put(made)
    notes.append(
        f"The basis {name} was made now, of {made.kernels:,} kernels of {len(made.models)} models, and stays as it is until "
        "--new-basis."
    )
    return made


def _shown(selection: Selection, size: Pair, what: str, told: Progress) -> Iterator[KernelBatch]:
    """The batches of a selection, with progress."""
    done, total = 0, selection.count(*size)
    for batch in selection.batches(*size):
        told(what, done, total)
        yield batch
        done += len(batch.kernels)


# -- the shift -------------------------------------------------------------------------------------------------------------


@dataclass
class _Counted:
    """A selection after one pass."""

    selection: Selection
    size: Pair
    histograms: dict[str, NDArray[np.int64]]
    """(components, bins) of each model."""
    seen: int
    ids: NDArray[np.int64]
    """filter_ids of the kernels that were kept."""
    unit: NDArray[np.float32]
    """These kernels, centred and of unit length."""

    @cached_property
    def total(self) -> NDArray[np.int64]:
        """The histograms of all models together."""
        return np.sum(list(self.histograms.values()), axis=0, dtype=np.int64)

    @property
    def living(self) -> int:
        """Kernels that have a direction."""
        return int(self.total[0].sum())

    @property
    def side(self) -> Side:
        """What the answer says of it."""
        return Side(self.selection.what, len(self.histograms), self.living, self.seen - self.living)

    def blocks(self, told: Progress) -> Others:
        """Its non-constant kernels as a stream."""
        for batch in _shown(self.selection, self.size, "the most novel kernels", told):
            ids = batch.table["filter_id"].to_numpy()
            for rows, unit in pca.living(batch.kernels):
                yield ids[rows], unit.astype(np.float32)


def _count(selection: Selection, basis: Basis, told: Progress, keep: float) -> _Counted:
    """One pass over a selection: histograms by model, and a share ``keep`` of the kernels, drawn at random."""
    size, rng = (basis.kernel_h, basis.kernel_w), np.random.default_rng(0)
    histograms: dict[str, NDArray[np.int64]] = {}
    seen, ids, units = 0, [np.empty(0, np.int64)], [np.empty((0, size[0] * size[1]), np.float32)]
    for batch in _shown(selection, size, selection.what, told):
        seen += len(batch.kernels)
        here, model = batch.table["filter_id"].to_numpy(), batch.table["model"][0].as_py()
        for rows, unit in pca.living(batch.kernels):
            histograms[model] = histograms.get(model, 0) + basis.histogram(unit)
            kept = rng.random(len(rows)) < keep
            ids.append(here[rows[kept]])
            units.append(unit[kept].astype(np.float32))
    if not any(map(np.any, histograms.values())):
        raise InvalidArgument(f'The {basis.size} kernels of "{selection.what}" are all constant: there is nothing to compare.')
    return _Counted(selection, size, histograms, seen, np.concatenate(ids), np.concatenate(units))


def _usual(basis: Basis, side: _Counted) -> float | None:
    """The median shift of a single model against the others; None for fewer than three that have kernels enough."""
    large = [one for one in side.histograms.values() if one[0].sum() >= ENOUGH]
    return float(np.median([pca.shift(basis, one, side.total - one) for one in large])) if len(large) >= 3 else None


def _novel(a: _Counted, b: _Counted, count: int, told: Progress) -> list[Novel]:
    """The kernels of A whose best match in B is least."""
    complete = len(b.ids) == b.living
    found = most_novel(a.unit, count, [(b.ids, b.unit)], None if complete else lambda: b.blocks(told))
    rows = [row for row, _, _ in found]
    ids = a.ids[rows].tolist()
    ours, theirs = a.selection.names(ids), b.selection.names([match for _, _, match in found])
    others = [np.delete(a.unit @ a.unit[row], row) for row in rows]
    return [
        Novel(
            *ours[own], own if a.selection.own is None else None, similarity, ":".join(map(str, theirs[match])),
            float(np.clip(other.max(), -1, 1)) if len(other) else None,
        )
        for own, other, (_, similarity, match) in zip(ids, others, found, strict=True)
    ]  # fmt: skip


# -- classes ---------------------------------------------------------------------------------------------------------------


def _classifier(view: View, classes: ClassStore, a: Selection, b: Selection, size: Pair, notes: list[str]) -> Classifier | None:
    """The only classifier of a size that has classified both. If there is none or more than one, a note gives advice."""
    sql = "SELECT classifier FROM classifiers WHERE kernel_h = $h AND kernel_w = $w ORDER BY classifier"
    names = [row[0] for row in view.rows(sql, h=size[0], w=size[1])]
    wanted = {model for side in (a, b) if side.own is None for model in side.models}
    ready = [name for name in names if wanted.issubset(classified_models(view, name))]
    if len(ready) == 1:
        return classes.load(ready[0])
    shape = size_name(*size)
    shipped_one = f"small-nets-{shape}"
    if ready:
        notes.append(f"No class shares: choose one of the classifiers {', '.join(ready)} with --classifier.")
    elif names:
        notes.append(f"No class shares: add --classifier {names[0]}, or run filterdb classify --classifier {names[0]} first.")
    elif shipped_one in shipped():
        notes.append(
            f"No class shares: filterdb cluster import {shipped_one} brings a classifier; then add --classifier {shipped_one}."
        )
    else:
        notes.append(f"No class shares: there is no classifier of {shape} kernels. filterdb cluster --size {shape} trains one.")
    return None


def _counts(view: View, classifier: Classifier, side: Selection, notes: list[str], told: Progress) -> Counter[str]:
    """The number of kernels of a selection in each class: as stored, or classified in memory if they are not stored."""
    size = (classifier.kernel_h, classifier.kernel_w)
    found: Counter[str] = Counter()
    todo = side
    if side.own is None:
        done = set(classified_models(view, classifier.name)).intersection(side.models)
        todo = side.without(done)
        sql = (
            "SELECT class, count(*) FROM classes JOIN filters USING (filter_id) WHERE classifier = $classifier "
            "AND class IS NOT NULL AND model IN (SELECT unnest($models)) GROUP BY class"
        )
        found.update(dict(view.rows(sql, classifier=classifier.name, models=sorted(done))))
        if todo.models:
            what = (
                side.what if todo.models == side.models else f"{len(todo.models)} of the {len(side.models)} models of {side.what}"
            )
            notes.append(f"Classified in memory: {what}. filterdb classify --classifier {classifier.name} keeps the classes.")
    if todo.models:
        for batch in _shown(todo, size, f"classes of {side.what}", told):
            found.update(name for name in classifier.classify(batch.kernels)["class"] if name is not None)
    return found


def _shares(
    view: View, classifier: Classifier, a: Selection, b: Selection, notes: list[str], told: Progress
) -> tuple[list[ClassShift], float, float]:
    """The classes side by side, their total variation, and what chance alone gives of it."""
    counts = [_counts(view, classifier, side, notes, told) for side in (a, b)]
    ours, theirs = (np.array([side[name] for name in classifier.classes]) for side in counts)

    def percent(one: NDArray[np.integer]) -> NDArray[np.float64]:
        return 100 * one / one.sum()

    def variation(one: NDArray[np.integer], two: NDArray[np.integer]) -> float:
        return float(np.abs(percent(one) - percent(two)).sum() / 200)

    rows = [
        ClassShift(name, int(n), int(m), float(p), float(q), float(p - q))
        for name, n, m, p, q in zip(classifier.classes, ours, theirs, percent(ours), percent(theirs), strict=True)
    ]
    noise = [variation(*draw) for draw in pca.chance(ours, theirs, np.random.default_rng(0), DRAWS)]
    return rows, variation(ours, theirs), float(np.mean(noise))
