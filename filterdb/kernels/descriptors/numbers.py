"""The numbers of a kernel as a filter: gains, spectrum, symmetry about a point, separability.

Kernels come as rows f (n, taps), float64, raw but for a scale that makes the largest tap 1; none is all zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filterdb.kernels.affine import Floats
from filterdb.kernels.descriptors.grid import Grid, degrees

AXIS_NEEDS = 0.01
"""A spectrum less anisotropic than this has no orientation: its axis would be rounding of the weights."""

TIE = 1e-9
"""Scores within this of the best are equal and the first one wins, so that rounding does not choose between equals."""

HALF_SHIFTS = ((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))
"""Half-pixel centres (x, y), px from the array's centre, y up."""


@dataclass(frozen=True)
class Spectrum:
    """Numbers from |H|², each (n,). Powers are in the units of f²."""

    dc_ratio: Floats
    """sum f / sum |f|."""
    energy: Floats
    """Sum f², by Parseval the mean of |H|² over the square: the gain for white noise."""
    dc: Floats
    """|H(0)|²."""
    peak: Floats
    """The greatest |H|² of the grid's samples."""
    nyquist: tuple[Floats, Floats, Floats]
    """|H|² at (1/2, 0), (0, 1/2), (1/2, 1/2)."""
    edge: Floats
    """The least of these; of the one along it for a strip."""
    shares: tuple[Floats, Floats, Floats]
    """Of the energy in the bands low, mid, high; they sum to 1."""
    levels: tuple[Floats, Floats, Floats]
    """Mean of |H|² over each band."""
    centroid: Floats
    bandwidth: Floats
    anisotropy: Floats
    orientation: Floats
    """Degrees in [0, 180); NaN where the anisotropy is below AXIS_NEEDS."""


def spectrum(f: Floats, grid: Grid) -> Spectrum:
    """The spectral numbers. Means over frequency are weighted by |H|² over the whole square of frequencies."""
    power = grid.power(f)
    integrals = grid.integrals(power)
    energy = np.einsum("ij,ij->i", f, f)
    low = np.clip(integrals.low / energy, 0, 1)
    low_mid = np.clip(integrals.low_mid / energy, low, 1)
    shares = (low, low_mid - low, 1 - low_mid)
    nyquist = [power[:, column] for column in grid.nyquist]
    uu, vv, uv = (integral / energy for integral in (integrals.uu, integrals.vv, integrals.uv))
    centroid = integrals.radius / energy
    spread = np.hypot(uu - vv, 2 * uv)
    anisotropy = np.clip(spread / (uu + vv), 0, 1)
    orientation = degrees(uu - vv, 2 * uv) / 2
    total = np.einsum("ij->i", f)
    return Spectrum(
        total / np.einsum("ij->i", np.abs(f)),
        energy,
        total**2,
        power.max(axis=1),
        (nyquist[0], nyquist[1], nyquist[2]),
        nyquist[2] if 1 in grid.taps else np.minimum.reduce(nyquist),
        shares,
        tuple(energy * share / area for share, area in zip(shares, grid.areas)),
        centroid,
        np.sqrt(np.maximum(uu + vv - centroid**2, 0)),
        anisotropy,
        np.where(anisotropy < AXIS_NEEDS, np.nan, orientation),
    )


@dataclass(frozen=True)
class Parity:
    """How even a kernel is about a point: share of the energy in its even part, the odd part has the rest. Each (n,)."""

    even: Floats
    """About the array's centre."""
    half_even: Floats
    """About the half-pixel centre of HALF_SHIFTS about which the kernel is most purely even or odd; taps outside count as 0."""
    shift_x: Floats
    shift_y: Floats
    """That centre, px from the array's centre."""


def parity(kernels: Floats) -> Parity:
    """Parity of kernels (n, kernel_h, kernel_w).

    With S = sum h(p) h(2c - p), the even part about c has the energy (E + S) / 2, as |h(p) + h(2c - p)|² / 4 sums to.
    """
    f = kernels.reshape(len(kernels), -1)
    energy = np.einsum("ij,ij->i", f, f)
    own = np.einsum("ij,ij->i", f, f[:, ::-1]) / energy
    shifted = np.stack([_mirrored(kernels, *shift) for shift in HALF_SHIFTS], axis=1) / energy[:, None]
    best = first_best(np.abs(shifted))
    chosen = np.take_along_axis(shifted, best[:, None], axis=1)[:, 0]
    shift = np.array(HALF_SHIFTS)[best]
    return Parity(_even_share(own), _even_share(chosen), shift[:, 0], shift[:, 1])


def _even_share(overlap: Floats) -> Floats:
    return np.clip((1 + overlap) / 2, 0, 1)


def _mirrored(kernels: Floats, x: float, y: float) -> Floats:
    """Sum h(p) h(2c - p) (n,) about c = (x, y): the rows and columns that a turn about c leaves in the array."""
    down, right = int(-2 * y), int(2 * x)
    rows = slice(max(down, 0), min(down, 0) or None)
    columns = slice(max(right, 0), min(right, 0) or None)
    part = kernels[:, rows, columns]
    return np.einsum("ijk,ijk->i", part, part[:, ::-1, ::-1])


def first_best(scores: Floats) -> NDArray[np.intp]:
    """The first column (n,) of each row of scores whose value is the best but for rounding."""
    return np.argmax(scores >= scores.max(axis=1, keepdims=True) - TIE, axis=1)


def separable_energy(kernels: Floats) -> Floats:
    """s1² / sum s² (n,) of the singular values of each kernel (n, kernel_h, kernel_w): the energy of its best outer product.

    The squared singular values are the eigenvalues of the smaller Gram matrix, whose trace is their sum.
    """
    if kernels.shape[1] > kernels.shape[2]:
        kernels = kernels.transpose(0, 2, 1)
    gram = kernels @ kernels.transpose(0, 2, 1)
    return np.clip(np.linalg.eigvalsh(gram)[:, -1] / np.trace(gram, axis1=1, axis2=2), 0, 1)
