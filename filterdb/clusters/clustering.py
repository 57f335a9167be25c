"""Clusters of a database: train a classifier on its kernels, classify them, compare, control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filterdb.clusters import compare, make
from filterdb.clusters.classifier import Classifier
from filterdb.clusters.controls import Control, controls, retrain
from filterdb.clusters.store import ClassStore
from filterdb.errors import InvalidArgument, NotFound
from filterdb.kernels.sizes import parse_size
from filterdb.store import Place
from filterdb.store.collection import slug
from filterdb.store.view import View

Models = str | Sequence[str] | None
Progress = make.Progress

COMPARED = 20_000
"""Kernels, drawn at random, on which the stability over seeds is measured."""

AGREEMENT = pa.schema(
    [
        ("first", pa.string()), ("second", pa.string()), ("kernels", pa.int64()), ("same_class", pa.float64()),
        ("ari", pa.float64()), ("nmi", pa.float64()), ("purity", pa.float64()), ("threshold", pa.float64()),
        ("first_clustered", pa.float64()), ("second_clustered", pa.float64()),
    ]
)  # fmt: skip
"""The answer of ``db.compare_classifiers``."""
CONTROLS = pa.schema(
    [
        ("kernels", pa.string()), ("count", pa.int64()), ("clustered", pa.float64()), ("clustered_by_trained", pa.float64()),
        ("ideal", pa.float64()), ("classes", pa.int32()),
    ]
)  # fmt: skip
"""The answer of ``db.cluster_controls``."""


def train(
    view: View, store: ClassStore, place: Place, *, size: str | int | None, models: Models, name: str | None,
    progress: Progress | None, **settings: Any,
) -> Classifier:  # fmt: skip
    """Train a classifier on the kernels of a size, and keep it."""
    chosen_size = view.only_size() if size is None else view.check_size(size)
    method, seed = settings.get("method", "autoencoder"), settings.get("seed", 0)
    chosen = view.having(*parse_size(chosen_size), models)
    if models is None:
        chosen = [name for name in chosen if name not in early_steps(view)]
    if not chosen:
        raise NotFound(f"No kernels of size {chosen_size} in {_words(models)}. Choose other models, or another --size.")
    name = name or make.default_name(method, chosen_size, seed)
    kernels = gather(view, chosen_size, chosen, seed)
    # The state is kept under the name, so that the same command resumes after an interruption.
    state = place.scratch / "training" / f"{slug(name)}.pt"
    made = make.train(
        kernels, name=name, size=chosen_size, models=chosen, state_file=state, progress=progress, **settings
    )  # fmt: skip
    store.put(made)
    return made


def early_steps(view: View) -> set[str]:
    """The checkpoints of training runs that are not the last of their run."""
    rows = view.rows("SELECT model FROM models QUALIFY run IS NOT NULL AND step < max(step) OVER (PARTITION BY run)")
    return {row[0] for row in rows}


def gather(view: View, size: str, models: Sequence[str], seed: int, most: int = make.MOST_KERNELS) -> NDArray[np.float32]:
    """Distinct kernels of some models."""
    return make.gather((batch.kernels for batch in view.batches(*parse_size(size), model=list(models))), seed, most)


def classify(view: View, store: ClassStore, classifier: Classifier, models: Models, progress: Progress | None) -> list[str]:
    """Classify the kernels of models; those that this classifier, as it is, has classified before are left alone.

    Returns:
        The models of the classifier's kernel size that were asked for.
    """
    chosen = view.having(classifier.kernel_h, classifier.kernel_w, models)
    if not chosen:
        raise InvalidArgument(
            f'The classifier "{classifier.name}" classifies {classifier.size} kernels, and {_words(models)} has none.'
        )
    editions = {name: view.snapshot.editions[slug(name)] for name in chosen}
    todo = [name for name in chosen if not store.has(classifier.name, name, editions[name])]
    for done, name in enumerate(todo):
        if progress is not None:
            progress(f"classifying {name}", done, len(todo))
        batches = view.stream([slug(name)], classifier.kernel_h, classifier.kernel_w)
        store.put_classes(classifier, name, editions[name], batches)
    if progress is not None and todo:
        progress("classified", len(todo), len(todo))
    return chosen


def relabel(view: View, store: ClassStore, classifier: Classifier, progress: Progress | None) -> None:
    """Keep a classifier whose labels or threshold changed, and classify the models again that it had classified before."""
    before = classified_models(view, classifier.name)
    store.put(classifier)
    store.tidy(view.snapshot)
    if before:
        classify(view, store, classifier, before, progress)


def classified_models(view: View, classifier: str) -> list[str]:
    """The models that a classifier has classified."""
    told = "SELECT filter_id FROM classes WHERE classifier = $name"
    sql = f"SELECT DISTINCT model FROM filters WHERE filter_id IN ({told}) ORDER BY model"
    return [row[0] for row in view.rows(sql, name=classifier)]


def agreement(view: View, store: ClassStore, first: str, second: str, seeds: int, progress: Progress | None) -> pa.Table:
    """Agreement of two classifiers, and with ``seeds`` of each with itself trained again: the rows of ``AGREEMENT``.

    Shares are of the kernels that both have classified. Both use the threshold of the first.
    """
    one, two = store.load(first), store.load(second)
    if one.size != two.size:
        raise InvalidArgument(
            f'"{first}" classifies {one.size} kernels and "{second}" {two.size}: compare classifiers of one size.'
        )
    sql = (
        "SELECT {}, count(*) FROM (SELECT * FROM classes WHERE classifier = $first AND class IS NOT NULL) a "
        "JOIN (SELECT * FROM classes WHERE classifier = $second AND class IS NOT NULL) b USING (filter_id) {}"
    )
    pairs = view.rows(sql.format("a.class, b.class", "GROUP BY ALL"), first=first, second=second)
    found = compare.agreement({(a, b): n for a, b, n in pairs})
    near = "avg((a.dissimilarity < $threshold)::INT), avg((b.dissimilarity < $threshold)::INT)"
    [(share_one, share_two, _)] = view.rows(sql.format(near, ""), first=first, second=second, threshold=one.threshold)
    rows = [
        {
            "first": first, "second": second, "kernels": found.kernels, "same_class": found.same_class, "ari": found.ari,
            "nmi": found.nmi, "purity": found.purity, "threshold": one.threshold, "first_clustered": share_one,
            "second_clustered": share_two,
        }
    ]  # fmt: skip
    if seeds:
        models = [name for name in one.facts.get("models", []) if name in view.having(one.kernel_h, one.kernel_w)]
        kernels = gather(view, one.size, models or view.having(one.kernel_h, one.kernel_w), 0)
        sample = kernels[np.sort(np.random.default_rng(0).permutation(len(kernels))[:COMPARED])]
        rows += [
            _over_seeds(store.load(name), kernels, sample, seeds, one.threshold, progress)
            for name in dict.fromkeys((first, second))
        ]
    return pa.Table.from_pylist(rows, AGREEMENT)


def _over_seeds(
    classifier: Classifier, kernels: NDArray[np.float32], sample: NDArray[np.float32], seeds: int, threshold: float,
    progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    """A classifier trained again from other seeds: agreement of the classes of the same kernels."""
    own = classifier.facts.get("seed", 0)
    runs = [classifier.relabelled(classifier.stretches, threshold)]
    for seed in range(own + 1, own + 1 + seeds):

        def told(what: str, done: int, total: int, seed: int = seed) -> None:
            if progress is not None:
                progress(f"{classifier.name}, seed {seed}: {what}", done, total)

        again = retrain(classifier, kernels, seed=seed, progress=told)
        runs.append(again.relabelled(again.stretches, threshold))
    found = compare.stability(sample, runs)
    return {
        "first": classifier.name, "second": f"{seeds} other seeds", "kernels": len(sample), "same_class": found["same_class"],
        "ari": found["ari"], "nmi": found["nmi"], "purity": None, "threshold": threshold,
        "first_clustered": found["least_clustered"], "second_clustered": found["most_clustered"],
    }  # fmt: skip


def control(view: View, classifier: Classifier, untrained: str | None, progress: Progress | None) -> Iterator[Control]:
    """The controls of a classifier, on the models it was trained on that are still here."""
    there = view.having(classifier.kernel_h, classifier.kernel_w)
    models = [name for name in classifier.facts.get("models", []) if name in there]
    kernels = gather(view, classifier.size, models or there, classifier.facts.get("seed", 0))
    return controls(classifier, kernels, untrained=untrained, progress=progress)


def _words(models: Models) -> str:
    return "the database" if models is None else models if isinstance(models, str) else ", ".join(models)
