"""A frozen PCA basis for kernels: components by one streamed pass, histograms of coefficients, and the distance of two.

Kernels are centred and scaled to unit length first, as everywhere in filterdb: the gain and the offset of a kernel belong to the
layers around it (normalisation, pointwise), every kernel counts the same, and classes, neighbours and components all refer to
the same points. CNN Filter DB (Gavrikov & Keuper, CVPR 2022), from which the shift D comes, scales by the largest weight of a
layer and does not centre. Its numbers are not comparable with these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument
from filterdb.kernels.affine import centred_unit
from filterdb.kernels.sizes import size_name

BINS = 40
"""Of a histogram: a fifth of a standard deviation wide, so that two humps stay two, and a thousand kernels fill them."""
DEVIATIONS = 4.0
"""A histogram reaches this many standard deviations (of the basis's kernels) to both sides; what is beyond counts at its ends."""
SMOOTHING = 0.01
"""Share of each histogram that is replaced by the mean of the two that are compared, so that an empty bin makes no infinite
divergence. A share and not a count: the same shift gives the same number however many kernels there are."""
FLAT = 1e-9
"""A direction with less than this share of the variance is rounding: no component."""
BLOCK = 2**19
"""Numbers of a block of work in float64, 4 MB: memory depends neither on the kernel's size nor on how many there are."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Principal components of the centred unit kernels of one size, frozen."""

    name: str
    kernel_h: int
    kernel_w: int
    kernels: int
    """Non-constant kernels that it was made of."""
    dead: int
    """Constant kernels, which have no direction and were excluded."""
    models: Sequence[str]
    """Whose kernels these were."""
    mean: NDArray[np.float64]
    """(d,), of the centred unit kernels."""
    components: NDArray[np.float64]
    """(m, d) orthonormal rows, m <= d - 1 (centred kernels have no constant part); the largest tap of each is positive."""
    explained_variance_ratio: NDArray[np.float64]
    """(m,), falling, of sum 1."""
    low: NDArray[np.float64]
    """(m,), where the histogram of each coefficient begins."""
    high: NDArray[np.float64]
    """(m,), where it ends."""
    bins: int = field(default=BINS)

    @property
    def size(self) -> str:
        """The kernel size, "7x7"."""
        return size_name(self.kernel_h, self.kernel_w)

    def coefficients(self, unit: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, m) coefficients of centred unit kernels (n, d)."""
        return (unit - self.mean) @ self.components.T

    def histogram(self, unit: NDArray[np.floating]) -> NDArray[np.int64]:
        """(m, bins) counts of the coefficients of centred unit kernels (n, d); those out of range count in the outer bins."""
        place = (self.coefficients(unit) - self.low) * (self.bins / (self.high - self.low))
        bin_ = np.clip(place, 0, self.bins - 1).astype(np.int64) + self.bins * np.arange(len(self.low))
        return np.bincount(bin_.ravel(), minlength=self.bins * len(self.low)).reshape(-1, self.bins)


def living(kernels: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.integer], NDArray[np.floating]]]:
    """The non-constant ones of raw kernels (n, d), in blocks: their rows, and their centred unit kernels in float64."""
    step = max(1, BLOCK // kernels.shape[1])
    for start in range(0, len(kernels), step):
        parts = centred_unit(kernels[start : start + step].astype(np.float64))
        yield start + np.flatnonzero(~parts.dead), parts.unit[~parts.dead]


def fit(name: str, kernel_h: int, kernel_w: int, models: Sequence[str], batches: Iterable[NDArray[np.float32]]) -> Basis:
    """The basis of raw kernels, exact: sums of the kernels and of their products in float64, one pass, d x d numbers of memory.

    Args:
        name: what it will be called.
        kernel_h: rows of a kernel.
        kernel_w: columns of a kernel.
        models: whose kernels they are.
        batches: (n, kernel_h * kernel_w) each.

    Raises:
        InvalidArgument: fewer than two living kernels, or all alike.
    """
    taps = kernel_h * kernel_w
    seen, count, total, products = 0, 0, np.zeros(taps), np.zeros((taps, taps))
    for kernels in batches:
        seen += len(kernels)
        for _, unit in living(kernels):
            count += len(unit)
            total += unit.sum(axis=0)
            products += unit.T @ unit
    mean = total / max(1, count)
    variances, vectors = np.linalg.eigh(products / max(1, count) - np.outer(mean, mean))
    # Rounding of unit kernels is of the order 1e-16; where they are all alike nothing more than that is left.
    there = variances > max(FLAT * variances.sum(), 1e-12)
    if not there.any():
        size = size_name(kernel_h, kernel_w)
        raise InvalidArgument(f"No basis can be made of {count} living {size} kernels that are all alike. Ingest other models.")
    variances, components = variances[there][::-1], vectors.T[there][::-1]
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(len(components)), largest])[:, None]
    # The coefficient of a unit kernel lies in [-1, 1] but for the mean; narrow components get a histogram as narrow.
    middle, reach = components @ mean, DEVIATIONS * np.sqrt(variances)
    low, high = np.maximum(-reach, -1 - middle), np.minimum(reach, 1 - middle)
    ratio = variances / variances.sum()
    return Basis(name, kernel_h, kernel_w, count, seen - count, tuple(models), mean, components, ratio, low, high)


def symmetric_kl(a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.float64]:
    """KL(A‖B) + KL(B‖A) in nats of histograms (..., bins), smoothed: 0 where they are equal, at most 10.5 (no bin in common)."""
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in (a, b))
    p, q = (one + SMOOTHING * ((p + q) / 2 - one) for one in (p, q))
    # A bin that is empty in both is no part of the sum; the difference of the logarithms is the same both ways to the last bit.
    log_p, log_q = (np.log(one, out=np.zeros_like(one), where=one > 0) for one in (p, q))
    return np.sum((p - q) * (log_p - log_q), axis=-1)


def shift(basis: Basis, a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """D = sum over i of explained variance ratio i times the symmetric KL of the histograms of coefficient i; (m, bins) each."""
    return float(basis.explained_variance_ratio @ symmetric_kl(a, b))


def chance(
    a: NDArray[np.integer], b: NDArray[np.integer], rng: np.random.Generator, draws: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of histograms as large as a and b (..., bins), both drawn from the two together: what chance alone makes of them."""
    pool = a + b
    shares = pool / pool.sum(axis=-1, keepdims=True)
    for _ in range(draws):
        yield rng.multinomial(int(a.sum(axis=-1).flat[0]), shares), rng.multinomial(int(b.sum(axis=-1).flat[0]), shares)
