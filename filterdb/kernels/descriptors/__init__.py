"""Descriptors: the effect of each kernel on a signal, in numbers and in signal-processing words, from its raw weights.

``describe`` gives the columns of COLUMNS. Raw means never centred: centring would set the gain at DC to 0 even for a smoother.
A kernel's row depends on no other kernel. Conventions are those of ``filterdb.scale_space``: torch correlation weights, row 0 on
top, x right, y UP, the origin at the array's centre; frequencies in cycles/px, directions in degrees from x towards y.

``grid`` has the taps and frequencies, ``numbers`` the spectrum, symmetry and separability, ``spread`` the means and variances,
``orders`` the evidence for derivatives and ``words`` the rules.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filterdb.errors import InvalidArgument
from filterdb.kernels.affine import Floats, centred_unit
from filterdb.kernels.descriptors.grid import frequency_response, grid_of
from filterdb.kernels.descriptors.numbers import parity, separable_energy, spectrum
from filterdb.kernels.descriptors.orders import derivative_evidence
from filterdb.kernels.descriptors.spread import SPREAD_OPERATORS, moments_of, weighted_moments
from filterdb.kernels.descriptors.words import BANDS, choose_words

__all__ = ["BANDS", "COLUMNS", "SPREAD_OPERATORS", "VERSION", "describe", "frequency_response"]

VERSION = 1
"""Version of the rules and definitions. Raise it whenever one changes, so that stale descriptors are recognised."""

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        # Gains: dc_ratio = sum h / sum |h|, signed; |H| at (0, 0), (1/2, 0), (0, 1/2) and (1/2, 1/2), in units of the weights.
        "dc_ratio": "float32", "dc_gain": "float32", "nyquist_x": "float32", "nyquist_y": "float32", "nyquist_xy": "float32",
        # Mean and standard deviation of |(u, v)| weighted by |H|² over the square [-1/2, 1/2]², cycles/px, and the shares of
        # |H|² below 1/6, from there to 1/3, and above. A strip, 1 x k or k x 1, has the frequencies along it only.
        "centroid": "float32", "bandwidth": "float32",
        "energy_low": "float32", "energy_mid": "float32", "energy_high": "float32",
        # (l1 - l2) / (l1 + l2) of sum (u, v)(u, v)' |H|², and the axis of l1, [0, 180): along it the kernel varies most.
        "anisotropy": "float32", "orientation": "float32",
        # Share of the energy in the part even about the array's centre (odd has the rest), and in the parts even and odd about
        # the centre half a pixel off about which the kernel is most purely one of them.
        "even_energy": "float32", "half_even_energy": "float32", "half_odd_energy": "float32",
        "half_shift_x": "float32", "half_shift_y": "float32",
        # s1² / sum s² of the singular values.
        "separable_energy": "float32",
        # M and V of |h|, px and px²; then of |h| times the template it is most like, by its name.
        "mean_x": "float32", "mean_y": "float32", "var_x": "float32", "var_y": "float32", "cov_xy": "float32",
        "spread_operator": "string", "weighted_mean_x": "float32", "weighted_mean_y": "float32",
        "weighted_var_x": "float32", "weighted_var_y": "float32", "weighted_cov_xy": "float32",
        # The words; see ``words``.
        "band": "string", "band_confidence": "float32", "derivative_order": "int8", "direction": "float32", "isotropic": "bool",
        # Why numbers are null: "zero" (all of them), "constant", "even size" or "like no operator" (the weighted spread).
        "reason": "string",
    }
)  # fmt: skip
"""The columns of ``describe`` in order, each with its type."""

CHUNK = 600_000
"""Samples of |H|² at a time and thread, 5 MB, whatever the number of kernels. Smaller chunks lose more to Python, which one
thread at a time runs, than they win in the processor's cache."""

THREADS = 4
"""At most so many chunks at a time; NumPy computes outside the interpreter's lock."""

_SPREAD = ("mean_x", "mean_y", "var_x", "var_y", "cov_xy")
_NAMES = {
    "spread_operator": SPREAD_OPERATORS,
    "band": BANDS,
    "reason": ("zero", "constant", "even size", "like no operator"),
}
"""The string columns: they are computed as numbers of these names, -1 for null."""


def describe(kernels: ArrayLike) -> dict[str, np.ma.MaskedArray]:
    """The descriptors of kernels (n, kernel_h, kernel_w), of any size and finite: each column of COLUMNS as (n,).

    A masked entry is a null, a number or word that is undefined for that kernel; ``pyarrow.array`` takes the columns as they
    are, given the type. An all-zero kernel is null but for its ``reason``. Other nulls are ``orientation`` of a spectrum
    without an axis, ``derivative_order`` of what is no derivative, ``direction`` of that and of the isotropic, and the weighted
    spread, for which ``reason`` says why. No entry is NaN or infinite.

    Raises:
        InvalidArgument: another shape, or NaN or infinity among the weights.
    """
    array = np.asarray(kernels)
    if array.ndim != 3 or 0 in array.shape[1:] or array.dtype.kind not in "fiu":
        raise InvalidArgument(f"Kernels are numbers (n, kernel_h, kernel_w), got {array.dtype} {array.shape}.")
    _, kernel_h, kernel_w = array.shape
    found = {name: np.empty(len(array), np.float32 if kind == "float32" else np.int8) for name, kind in COLUMNS.items()}
    step = max(1, CHUNK // grid_of(kernel_h, kernel_w).frequencies)

    def fill(start: int) -> None:
        for name, values in _chunk(array[start : start + step].astype(np.float64), start).items():
            found[name][start : start + step] = values

    starts = range(0, len(array), step)
    if len(starts) > 1:
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), thread_name_prefix="describe") as pool:
            list(pool.map(fill, starts))
    else:
        for start in starts:
            fill(start)
    return {name: _column(name, values) for name, values in found.items()}


def _column(name: str, values: NDArray) -> np.ma.MaskedArray:
    null = np.isnan(values) if COLUMNS[name] == "float32" else values < 0
    if name in _NAMES:
        return np.ma.MaskedArray(np.array([*_NAMES[name], None], dtype=object)[values], null)
    values[null] = 0
    return np.ma.MaskedArray(values.astype(bool) if COLUMNS[name] == "bool" else values, null)


def _chunk(kernels: NDArray[np.float64], start: int) -> dict[str, NDArray]:
    """The columns of kernels, with NaN and -1 for null; start is the number of the first kernel."""
    count, kernel_h, kernel_w = kernels.shape
    f = kernels.reshape(count, -1)
    scale = np.abs(f).max(axis=1)
    if not np.isfinite(scale).all():
        bad = start + int(np.flatnonzero(~np.isfinite(scale))[0])
        raise InvalidArgument(f"Kernel {bad} has weights that are NaN or infinite: only finite weights can be described.")
    zero = scale == 0
    # All numbers but the gains are free of scale. A zero kernel is computed as a box, then made null.
    f /= np.where(zero, 1, scale)[:, None]
    f[zero] = 1
    size = np.abs(f)
    centred = centred_unit(f)

    s = spectrum(f, grid_of(kernel_h, kernel_w))
    even = parity(kernels)
    operator, weighted = weighted_moments(size, centred.unit, kernel_h, kernel_w)
    words = choose_words(f, s, derivative_evidence(f, kernel_h, kernel_w))
    columns: dict[str, NDArray] = {
        "dc_ratio": s.dc_ratio,
        "dc_gain": _gain(s.dc, scale),
        **{f"nyquist_{axis}": _gain(power, scale) for axis, power in zip(("x", "y", "xy"), s.nyquist)},
        "centroid": s.centroid,
        "bandwidth": s.bandwidth,
        **{f"energy_{band}": share for band, share in zip(("low", "mid", "high"), s.shares)},
        "anisotropy": s.anisotropy,
        "orientation": s.orientation,
        "even_energy": even.even,
        "half_even_energy": even.half_even,
        "half_odd_energy": 1 - even.half_even,
        "half_shift_x": even.shift_x,
        "half_shift_y": even.shift_y,
        "separable_energy": separable_energy(kernels),
        **dict(zip(_SPREAD, moments_of(size, kernel_h, kernel_w))),
        "spread_operator": operator,
        **{f"weighted_{name}": values for name, values in zip(_SPREAD, weighted)},
        "band": words.band,
        "band_confidence": words.confidence,
        "derivative_order": words.order,
        "direction": words.direction,
        "isotropic": words.isotropic.astype(np.int8),
    }
    for values in columns.values():
        values[zero] = np.nan if values.dtype == np.float64 else -1
    even_size = np.full(count, kernel_h % 2 == 0 or kernel_w % 2 == 0)
    reasons = [zero, centred.dead, even_size, operator < 0]
    columns["reason"] = np.select(reasons, [np.int8(i) for i in range(len(reasons))], np.int8(-1))
    return columns


def _gain(power: Floats, scale: Floats) -> Floats:
    """|H| in units of the weights, at most the greatest float32."""
    return np.minimum(np.sqrt(power) * scale, np.finfo(np.float32).max)
