"""Agreement of two classifiers, and of each with itself trained from another seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.clusters.classifier import Classifier
from filterdb.errors import InvalidArgument


@dataclass(frozen=True)
class Agreement:
    """Two partitions of the same kernels, A and B."""

    kernels: int
    same_class: float
    """Share of kernels that have the same class in both, "other" included."""
    ari: float
    """Adjusted Rand index: 1 for equal partitions, 0 on average for independent ones."""
    nmi: float
    """Normalised mutual information, arithmetic mean."""
    purity: float
    """Share of kernels that lie in the largest class of B of their class of A."""


def agreement(contingency: Mapping[tuple[str, str], int]) -> Agreement:
    """Agreement of two partitions, from how many kernels have each pair of classes.

    Equivalent to scikit-learn's ``adjusted_rand_score`` and ``normalized_mutual_info_score``, which want every kernel's label.
    """
    firsts, seconds = (sorted({pair[i] for pair in contingency}) for i in (0, 1))
    table = np.array([[contingency.get((a, b), 0) for b in seconds] for a in firsts], np.float64)
    n = table.sum()
    if not n:
        raise InvalidArgument("The two classifiers have no kernels in common: classify the same models with both.")
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    pairs, row_pairs, column_pairs = (float((x * (x - 1) / 2).sum()) for x in (table, rows, columns))
    chance = row_pairs * column_pairs / max(n * (n - 1) / 2, 1)
    most = (row_pairs + column_pairs) / 2
    ari = 1.0 if most == chance else (pairs - chance) / (most - chance)
    mean_entropy = (_entropy(rows / n) + _entropy(columns / n)) / 2
    shared = _entropy(rows / n) + _entropy(columns / n) - _entropy(table.ravel() / n)
    same = sum(count for (a, b), count in contingency.items() if a == b)
    return Agreement(
        int(n), same / n, ari, 1.0 if mean_entropy == 0 else max(0.0, shared / mean_entropy), float(table.max(axis=1).sum() / n)
    )


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def count_pairs(first: Iterable[Any], second: Iterable[Any]) -> dict[tuple[str, str], int]:
    """How many kernels have each pair of classes."""
    pairs, counts = np.unique(np.array([list(map(str, first)), list(map(str, second))]), axis=1, return_counts=True)
    return {(a, b): int(n) for (a, b), n in zip(pairs.T.tolist(), counts, strict=True)}


def stability(kernels: NDArray[np.float32], runs: Sequence[Classifier]) -> dict[str, float]:
    """Agreement of several trainings on the same kernels.

    Args:
        kernels: (n, d) raw kernels.
        runs: classifiers that differ in their seed.

    Returns:
        Means over all pairs: same_class, ari, nmi; and the smallest and largest share_clustered.
    """
    told = [run.classify(kernels) for run in runs]
    found = [
        agreement(count_pairs(told[i]["class"], told[j]["class"])) for i in range(len(told)) for j in range(i + 1, len(told))
    ]
    shares = [float(one["clustered"].mean()) for one in told]
    means = {name: float(np.mean([getattr(one, name) for one in found])) for name in ("same_class", "ari", "nmi")}
    return {**means, "least_clustered": min(shares), "most_clustered": max(shares)}
