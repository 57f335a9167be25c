"""How well a layer uses its kernels: sparsity, variance entropy against a random layer, orthogonality.

The formulas are those of CNN Filter DB (Gavrikov & Keuper, CVPR 2022), on the raw weights of a layer, n kernels of d taps.
Its random baseline is a fit to 3x3 layers; here the random layer is simulated, for any n and d.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument
from filterdb.kernels import DEAD_RATIO
from filterdb.kernels.sizes import parse_size, size_name
from filterdb.store.view import View

SPARSITY_THRESHOLD = 0.01
"""Of the layer's largest weight (CNN Filter DB)."""
STANDARD_ERROR = 2.5e-4
"""Of the simulated entropy of a random layer: it is within 1e-3 of the truth, four standard errors."""
FEWEST_DRAWS = 16
DRAWN = 2**17
"""Numbers of a block of simulated layers, 1 MB: most layers need no second block."""
BLOCK = 2**20
"""Cosines of a block, 8 MB."""

SCHEMA = pa.schema(
    [
        ("model", pa.string()), ("layer", pa.string()), ("depth", pa.int32()), ("size", pa.string()), ("filters", pa.int64()),
        ("zero", pa.int64()), ("sparsity", pa.float64()), ("sparsity_threshold", pa.float64()),
        ("variance_entropy", pa.float64()), ("entropy", pa.float64()), ("random_entropy", pa.float64()),
        ("orthogonality", pa.float64()), ("reason", pa.string()),
    ]
)  # fmt: skip
"""The answer of ``db.layer_metrics``."""


@dataclass(frozen=True)
class LayerMetrics:
    """The numbers of one layer; those that it does not have are None, and ``reason`` says why."""

    filters: int
    zero: int
    """Kernels of zeros alone. They have no direction: orthogonality leaves them out."""
    entropy: float | None
    """Entropy (log10) of the normalised squared singular values of the layer's (n, d) matrix, centred over its kernels."""
    random_entropy: float | None
    """The mean of the same for layers of Gaussian noise."""
    variance_entropy: float | None
    """entropy / random_entropy: 0 where all kernels differ along one line, 1 where they are as diverse as noise."""
    orthogonality: float | None
    """1 - mean of |cos| over all pairs of raw kernels: 1 where all are orthogonal, 0 where all are multiples of one."""
    reason: str | None


def measure(kernels: NDArray[np.floating]) -> LayerMetrics:
    """The metrics of a layer's raw kernels (n, d), sparsity aside; see ``sparsity``."""
    f = kernels.astype(np.float64)
    n, taps = f.shape
    norms = np.sqrt(np.einsum("ij,ij->i", f, f))
    zero = int((norms == 0).sum())
    if zero == n:
        return LayerMetrics(n, zero, None, None, None, None, "all weights are zero")
    reasons = []
    # A centred layer of n kernels has at most n - 1 singular values, one of d taps at most d; the entropy of a single one is 0.
    rank = min(n - 1, taps)
    found, random, relative = None, None, None
    if rank < 1:
        reasons.append("one filter: no entropy, no orthogonality")
    else:
        found, random = entropy(f), random_entropy(n, taps)
        if found is None:
            reasons.append("all filters are equal: no entropy")
        elif rank == 1:
            reasons.append(f"{'two filters' if n == 2 else 'one tap'}: a random layer has entropy 0 too, so there is no ratio")
        else:
            relative = found / random
    angle = orthogonality(f[norms > 0] / norms[norms > 0, None])
    if angle is None and n > 1:
        reasons.append("one filter that is not zero: no orthogonality")
    return LayerMetrics(n, zero, found, random, relative, angle, "; ".join(reasons) or None)


def sparsity(kernels: NDArray[np.floating], threshold: float) -> float | None:
    """The share of kernels (n, d) whose largest |weight| is below ``threshold`` times the layer's; None where all are zero."""
    peaks = np.abs(kernels).max(axis=1).astype(np.float64)
    return float((peaks < threshold * peaks.max()).mean()) if peaks.max() > 0 else None


def entropy(kernels: NDArray[np.float64]) -> float | None:
    """Entropy (log10) of the normalised squared singular values of kernels (n, d), centred; None where all are equal."""
    centred = kernels - kernels.mean(axis=0)
    # The squared singular values are the eigenvalues of the smaller of the two products.
    product = centred.T @ centred if len(centred) > centred.shape[1] else centred @ centred.T
    if np.trace(product) <= DEAD_RATIO**2 * np.einsum("ij,ij->", kernels, kernels):
        return None
    return float(_entropy(np.linalg.eigvalsh(product)))


def _entropy(squares: NDArray[np.floating]) -> NDArray[np.float64]:
    """Entropy (log10) over the last axis of numbers that are scaled to sum 1; what rounding made negative counts as 0."""
    share = np.maximum(squares, 0)
    share /= share.sum(axis=-1, keepdims=True)
    return -(share * np.log10(share, out=np.zeros_like(share), where=share > 0)).sum(axis=-1)


@cache
def random_entropy(filters: int, taps: int) -> float:
    """The mean entropy of layers of Gaussian noise with that many filters and taps, simulated until it is known to 1e-3.

    The squared singular values of a centred Gaussian layer are the eigenvalues of a Wishart matrix with n - 1 degrees of
    freedom, and Bartlett's decomposition draws that without drawing the layer: L L' with independent chi distributed numbers
    on the diagonal of the triangle L and Gaussian ones below. So a draw costs the same for any number of filters, and is exact.
    """
    freedom, rank = max(filters - 1, taps), min(filters - 1, taps)
    if rank <= 1:
        return 0.0
    rng = np.random.default_rng([filters, taps])
    found = np.empty(0)
    while len(found) < FEWEST_DRAWS or found.std(ddof=1) > STANDARD_ERROR * math.sqrt(len(found)):
        triangle = np.tril(rng.standard_normal((max(FEWEST_DRAWS // 4, DRAWN // rank**2), rank, rank)), -1)
        diagonal = np.arange(rank)
        triangle[:, diagonal, diagonal] = np.sqrt(rng.chisquare(freedom - diagonal, (len(triangle), rank)))
        found = np.concatenate([found, _entropy(np.linalg.eigvalsh(triangle @ triangle.transpose(0, 2, 1)))])
    return float(found.mean())


def orthogonality(directions: NDArray[np.float64]) -> float | None:
    """1 - the mean |cos| over all pairs of unit rows (n, d), in blocks of the n x n cosines; None for fewer than two."""
    n = len(directions)
    if n < 2:
        return None
    total, step = 0.0, max(1, BLOCK // n)
    for start in range(0, n, step):  # each pair once: a block of rows against itself and what follows
        part = directions[start : start + step]
        total += 2 * np.abs(part @ directions[start + step :].T).sum() + np.abs(part @ part.T).sum() - len(part)
    return float(np.clip(1 - total / (n * (n - 1)), 0, 1))


# -- over a database -------------------------------------------------------------------------------------------------------


def layer_metrics(
    view: View, *, model: str | Sequence[str] | None, layer: str | None, size: str | int | None,
    sparsity_threshold: float | Sequence[float],
) -> pa.Table:  # fmt: skip
    """The result of ``db.layer_metrics``, which documents the arguments. One layer at a time is in memory."""
    thresholds = [sparsity_threshold] if isinstance(sparsity_threshold, (int, float)) else list(sparsity_threshold)
    if not thresholds or not all(0 < one <= 1 for one in thresholds):
        raise InvalidArgument(f"The sparsity threshold {sparsity_threshold!r} is no share of the largest weight. Give 0.01, say.")
    view.check_filled()
    sizes = list(view.sizes) if size is None else [parse_size(view.check_size(size))]
    rows = []
    for kernel_h, kernel_w in sizes:
        for (name, in_layer, depth), kernels in _layers(view, kernel_h, kernel_w, model, layer):
            found = vars(measure(kernels)) | {"model": name, "layer": in_layer, "depth": depth}
            found["size"] = size_name(kernel_h, kernel_w)
            rows += [found | {"sparsity": sparsity(kernels, one), "sparsity_threshold": one} for one in thresholds]
    rows.sort(key=lambda row: (row["model"], row["depth"]))
    return pa.Table.from_pylist(rows, SCHEMA)


def _layers(
    view: View, kernel_h: int, kernel_w: int, model: str | Sequence[str] | None, layer: str | None
) -> Iterator[tuple[tuple[str, str, int], NDArray[np.float32]]]:
    """(model, layer, depth) and the kernels of each layer of a size."""

    def parts() -> Iterator[tuple[tuple[str, str, int], NDArray[np.float32]]]:
        for table, kernels in view.batches(kernel_h, kernel_w, ["model", "layer", "depth"], model=model, layer=layer):
            depths = table["depth"].to_numpy()
            starts = [0, *(np.flatnonzero(np.diff(depths)) + 1), len(depths)]
            for start, stop in pairwise(starts):
                where = (table["model"][start].as_py(), table["layer"][start].as_py(), int(depths[start]))
                yield where, kernels[start:stop]

    # A layer may go on in the next row group.
    for where, together in groupby(parts(), key=lambda part: part[0]):
        yield where, np.concatenate([kernels for _, kernels in together])
