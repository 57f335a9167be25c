"""k-means on kernels: the paper's method at 3x3, and a baseline at every size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from filterdb.clusters.autoencoder import LEAST_KERNELS
from filterdb.errors import InvalidArgument
from filterdb.kernels import centred_unit

STARTS = 4
"""k-means is run from this many starts, and the tightest result kept."""


def scaled(kernels: NDArray[np.float32], scaling: str) -> NDArray[np.float32]:
    """Kernels (n, d) as k-means sees them: centred unit kernels, or each scaled from its minimum and maximum to [0, 1].

    Dead kernels become zero.
    """
    if scaling == "unit":
        return centred_unit(kernels).unit.astype(np.float32, copy=False)
    low, high = kernels.min(axis=1, keepdims=True), kernels.max(axis=1, keepdims=True)
    dead = centred_unit(kernels).dead[:, None]
    return np.divide(kernels - low, high - low, out=np.zeros_like(kernels), where=~dead)


def train(points: NDArray[np.float32], classes: int, seed: int) -> NDArray[np.float32]:
    """The centres, (classes, d), the largest cluster first.

    Args:
        points: (n, d) scaled kernels.
        classes: how many clusters.
        seed: the same seed and points give the same centres.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise InvalidArgument(f"classes = {classes!r}: give a whole number from 1.")
    if len(points) < (least := max(LEAST_KERNELS, 10 * classes)):
        raise InvalidArgument(
            f"k-means with {classes} classes needs at least {least} distinct kernels, got {len(points)}. Ingest more models."
        )
    from sklearn.cluster import KMeans

    found = KMeans(classes, n_init=STARTS, random_state=seed).fit(points)
    order = np.argsort(-np.bincount(found.labels_, minlength=classes), kind="stable")
    return np.ascontiguousarray(found.cluster_centers_[order], np.float32)


def assign(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest centre of each point, by Euclidean distance."""
    return (points @ centres.T - 0.5 * (centres**2).sum(axis=1)).argmax(axis=1)
