"""The arithmetic of kernels as points on a hyperplane: centre, scale, fit.

A kernel of k_h x k_w taps is a row of d = k_h * k_w numbers, row-major, as torch stores it. Centred and scaled to unit length it
lies on the unit sphere of the hyperplane 1'r = 0; the Pearson correlation of two kernels is the inner product of these points.
Nearest template, similarity, clustering and replacement all use this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]

DEAD_RATIO = 1e-6
"""A kernel is dead if its norm after centring is at most this share of its norm: the rounding of a constant, not a shape."""

FLOAT32_SQUARES = (1e-15, 1e17)
"""Between these norms float32 holds the squares of the taps; the rare kernels beyond are centred in float64."""


def rows(kernels: ArrayLike) -> Floats:
    """Kernels as rows of a 2-D array: (n, k_h, k_w) becomes (n, k_h * k_w), one (k_h, k_w) kernel stays two-dimensional input.

    Integers become float64; floating-point input keeps its precision.
    """
    array = np.asarray(kernels)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    return array.reshape(len(array), -1) if array.ndim > 2 else array


@dataclass(frozen=True)
class CentredUnit:
    """Kernels split into direction, mean and length. ``unit * deviation + mean`` gives the kernels back."""

    unit: Floats
    """(n, d), each row centred and of length 1; zero for dead kernels."""
    mean: Floats
    """(n,), mean over the taps."""
    deviation: Floats
    """(n,), Euclidean length of the centred kernel."""
    dead: NDArray[np.bool_]
    """(n,), true where the kernel is constant (or zero) and so has no direction."""


def centred_unit(kernels: ArrayLike) -> CentredUnit:
    """Centre each kernel and scale it to unit length.

    Dead kernels get a zero direction, never NaN. The precision of the input is kept.
    """
    f = rows(kernels)
    mean = f @ np.full(f.shape[1], 1 / f.shape[1], f.dtype)  # several times as fast as f.mean(axis=1) on short rows
    unit = f - mean[:, None]
    with np.errstate(over="ignore"):
        deviation = np.sqrt(np.einsum("ij,ij->i", unit, unit))
        # |f|^2 = deviation^2 + d mean^2 needs no second pass over the taps.
        norm = np.sqrt(deviation**2 + f.shape[1] * mean**2)
    dead = ~(deviation > DEAD_RATIO * norm)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=~dead)
    unit *= scale[:, None]
    if f.dtype == np.float32 and (extreme := ~((norm > FLOAT32_SQUARES[0]) & (norm < FLOAT32_SQUARES[1]))).any():
        exact = centred_unit(f[extreme].astype(np.float64))
        unit[extreme], mean[extreme], deviation[extreme] = exact.unit, exact.mean, exact.deviation
        dead[extreme] = exact.dead
    return CentredUnit(unit, mean, deviation, dead)


@dataclass(frozen=True)
class Moments:
    """The stored numbers of each kernel, computed in float64 from the raw weights. All are (n,)."""

    mean: NDArray[np.float64]
    norm: NDArray[np.float64]
    """Euclidean length of the raw kernel."""
    total: NDArray[np.float64]
    """Sum of the weights (the response to a constant image of ones)."""
    dead: NDArray[np.bool_]
    """True where the kernel is constant or zero."""


def moments(kernels: ArrayLike) -> Moments:
    """Mean, norm, total and deadness of each kernel."""
    f = rows(kernels).astype(np.float64, copy=False)
    return Moments(f.mean(axis=1), np.sqrt(np.einsum("ij,ij->i", f, f)), f.sum(axis=1), centred_unit(f).dead)


def affine_fit(kernels: ArrayLike, template: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    """Least-squares a, b of ``f = a g + b`` for each kernel f and one template g.

    With rho the Pearson correlation, a = rho * |f - mean f| / |g - mean g|, b = mean f - a * mean g, and the residual is
    |f - (a g + b)|^2 = (1 - rho^2) |f - mean f|^2. Equivalent to ``numpy.linalg.lstsq`` on the columns (g, 1).

    Args:
        kernels: (n, d) or (n, k_h, k_w).
        template: d values in any shape; it must not be constant.

    Returns:
        gain (n,), offset (n,), rho (n,), residual (n,) = |f - (a g + b)|. Dead kernels have gain 0, rho 0 and residual 0 up to
        rounding: they are matched by the offset alone.
    """
    f, g = centred_unit(kernels), centred_unit(np.asarray(template, dtype=np.float64).reshape(1, -1))
    if g.dead[0]:
        raise ValueError("The template is constant: it has no direction, so no gain can be fitted.")
    rho = np.clip(f.unit @ g.unit[0].astype(f.unit.dtype), -1, 1)
    gain, offset, residual = affine(f, g.mean[0], g.deviation[0], rho)
    return gain, offset, rho, residual


def affine(f: CentredUnit, mean: Floats, deviation: Floats, rho: Floats) -> tuple[Floats, Floats, Floats]:
    """Gain, offset and residual (n,) of kernels against templates of that mean and deviation, given their correlation."""
    gain = rho * f.deviation / deviation
    return gain, f.mean - gain * mean, f.deviation * np.sqrt((1 - rho) * (1 + rho))
