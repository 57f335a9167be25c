"""k-means of kernels up to their sign: a centre is a direction, and a kernel belongs to the one with the largest |cosine|.

The residual of a x g + b is 1 - cos² of a kernel's energy, for either sign of a. This k-means maximises the mean of cos²:
the best centre of a cluster is the first principal direction of its members, and its medoid the member that explains most of the
others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filterdb.clusters.kmeans import STARTS
from filterdb.errors import InvalidArgument

ROUNDS = 200
"""At most; the assignments are settled long before."""
CHUNK = 2**16
"""Kernels compared with the centres at a time."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Lines:
    """k clusters of n kernels, the largest first."""

    centres: NDArray[np.float32]
    """(k, d) of length 1, with the sign that most members have."""
    medoids: NDArray[np.int64]
    """(k,) which kernel explains most of its cluster."""
    cluster: NDArray[np.int64]
    """(n,) the cluster of each kernel."""
    explained: float
    """Mean of cos² between kernels and their centres: the share of energy that is kept."""


def train(unit: NDArray[np.float32], count: int, seed: int = 0, progress: Progress | None = None) -> Lines:
    """Cluster centred unit kernels (n, d) without dead ones; the best of ``STARTS`` starts.

    Raises:
        InvalidArgument: a count that is no whole number from 1, or more clusters than kernels.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidArgument(f"The number of templates must be a whole number from 1, got {count!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidArgument(f"seed must be a whole number from 0, got {seed!r}.")
    if count > len(unit):
        raise InvalidArgument(f"k-means with {count} centres needs as many distinct kernels, got {len(unit)}. Ask for fewer.")
    best: tuple[float, NDArray[np.float32], NDArray[np.int64]] | None = None
    for start in range(STARTS):
        if progress is not None:
            progress(f"k-means of {len(unit):,} kernels", start, STARTS)
        found = _run(unit, count, np.random.default_rng([seed, start]))
        if best is None or found[0] > best[0]:
            best = found
    assert best is not None
    explained, centres, cluster = best
    order = np.argsort(-np.bincount(cluster, minlength=count), kind="stable")
    centres, cluster = centres[order], np.argsort(order)[cluster]
    medoids = np.empty(count, np.int64)
    for j, members in enumerate(_members(cluster, count)):
        members = members if len(members) else np.abs(unit @ centres[j]).argmax(keepdims=True)  # copies leave clusters empty
        own = unit[members].astype(np.float64)
        medoids[j] = members[((own @ (own.T @ own)) * own).sum(axis=1).argmax()]
        if (own @ centres[j]).sum() < 0:
            centres[j] = -centres[j]
    return Lines(centres, medoids, cluster, explained)


def _run(unit: NDArray[np.float32], count: int, rng: np.random.Generator) -> tuple[float, NDArray[np.float32], NDArray[np.int64]]:
    """One start: the mean of cos², centres and clusters."""
    centres = _spread(unit, count, rng)
    cluster = np.full(len(unit), -1, np.int64)
    for _ in range(ROUNDS):
        before = cluster
        cluster, cosine = _assign(unit, centres)
        if np.array_equal(before, cluster):
            break
        for j, members in enumerate(_members(cluster, count)):
            if len(members):
                own = unit[members].astype(np.float64)
                centres[j] = np.linalg.eigh(own.T @ own)[1][:, -1]
            else:  # the kernel that is explained worst begins a cluster of its own
                worst = cosine.argmin()
                centres[j], cosine[worst] = unit[worst], 1
    else:
        cluster, cosine = _assign(unit, centres)
    return float(np.mean(cosine.astype(np.float64) ** 2)), centres, cluster


def _spread(unit: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Kernels to start from, as k-means++ draws them: each with the chance of what is still unexplained of it."""
    chosen = [int(rng.integers(len(unit)))]
    left = np.ones(len(unit))
    while len(chosen) < count:
        left = np.minimum(left, 1 - (unit @ unit[chosen[-1]]).astype(np.float64) ** 2).clip(0)
        left[chosen] = 0
        if (total := left.sum()) > 0:
            chosen.append(int(rng.choice(len(unit), p=left / total)))
        else:  # nothing is unexplained: whichever is left
            chosen.append(int(np.setdiff1d(np.arange(len(unit)), chosen)[0]))
    return unit[chosen].copy()


def _assign(unit: NDArray[np.float32], centres: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The centre of each kernel, and their |cosine|."""
    cluster, cosine = np.empty(len(unit), np.int64), np.empty(len(unit), np.float32)
    for start in range(0, len(unit), CHUNK):
        part = slice(start, start + CHUNK)
        products = np.abs(unit[part] @ centres.T)
        cluster[part] = products.argmax(axis=1)
        cosine[part] = products.max(axis=1)
    return cluster, cosine


def _members(cluster: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    order = np.argsort(cluster, kind="stable")
    return np.split(order, np.bincount(cluster, minlength=count).cumsum()[:-1])
