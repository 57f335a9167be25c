"""The Gaussian of the pixel grid and its differences along one axis.

Conventions: see ``filterdb.scale_space``.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument, not_found

MASKS: dict[str, tuple[float, float, float]] = {
    "": (0, 1, 0),
    "d": (-0.5, 0, 0.5),
    "d+": (0, -1, 1),
    "d-": (-1, 1, 0),
    "dd": (1, -2, 1),
}
"""Weights at -1, 0, +1 along one axis: nothing, the central, forward and backward first differences, the second difference."""

OPERATORS: dict[str, tuple[str, str]] = {
    "T": ("", ""),
    "dx": ("d", ""), "dx+": ("d+", ""), "dx-": ("d-", ""),
    "dy": ("", "d"), "dy+": ("", "d+"), "dy-": ("", "d-"),
    "dxx": ("dd", ""), "dxy": ("d", "d"), "dyy": ("", "dd"),
}  # fmt: skip
"""The derivatives of T up to second order, each as its masks along x and y; ``masks_of`` knows all orders."""


def discrete_gaussian(radius: int, s: float) -> NDArray[np.float64]:
    """The discrete analogue of the Gaussian, T(n; s) = exp(-s) I_n(s) for n = -radius … radius.

    Over all integers it sums to 1, has variance exactly s, and T(s1) * T(s2) = T(s1 + s2); here it is cropped, not
    renormalised. The sampled Gaussian has none of these: at sigma = .38 its variance is .059 instead of .144. T(n; 0) is the
    unit impulse.

    Args:
        radius: taps on each side.
        s: variance, px², not negative.

    Equivalent to ``scipy.special.ive(n, s)``, I_n the modified Bessel function of the first kind.
    """
    if not (radius >= 0 and 0 <= s < np.inf):
        raise InvalidArgument(f"A discrete Gaussian needs radius >= 0 and finite s >= 0, got radius {radius} and s {s}.")
    from scipy.special import ive

    return ive(np.abs(np.arange(-radius, radius + 1)), float(s))


def masks_of(operator: str) -> tuple[str, str]:
    """The differences along x and y of a derivative of any order: T, dx, dxxy, dy+ …

    >>> masks_of("dxxy"), masks_of("dy+")
    (('dd', 'd'), ('', 'd+'))

    Raises:
        NotFound: not a derivative. A half-pixel sign belongs to a first derivative along one axis.
    """
    found = re.fullmatch(r"d(x*)(y*)([+-]?)", operator)
    if operator == "T":
        return "", ""
    if found is None or not found[1] + found[2] or (found[3] and len(operator) != 3):
        raise not_found("derivative", operator, OPERATORS)
    return ("d" * len(found[1]) + found[3] * bool(found[1]), "d" * len(found[2]) + found[3] * bool(found[2]))


def n_jet(order: int) -> list[str]:
    """The names of the derivatives up to an order, the N-jet: T, then by order, x before y.

    >>> n_jet(2)
    ['T', 'dx', 'dy', 'dxx', 'dxy', 'dyy']
    """
    if order < 0:
        raise InvalidArgument(f"The order of a jet is 0 or more, got {order}.")
    return ["T"] + [f"d{'x' * (total - n)}{'y' * n}" for total in range(1, order + 1) for n in range(total + 1)]


@cache
def mask(derivative: str) -> NDArray[np.float64]:
    """A difference of any order as an odd number of weights about the pixel: d for 1, dd for 2, their product beyond."""
    if derivative in MASKS:
        weights = np.array(MASKS[derivative] if derivative else (1.0,))
    else:
        weights = np.convolve(mask("dd"), mask(derivative[2:]))
    weights.setflags(write=False)  # it is cached
    return weights


def odd_size(kernel_h: int, kernel_w: int | None = None) -> tuple[int, int]:
    """A kernel size that has a centre pixel; square if one side is given.

    Raises:
        InvalidArgument: a side is even.
    """
    kernel_w = kernel_h if kernel_w is None else kernel_w
    if kernel_h % 2 == 0 or kernel_w % 2 == 0:
        size = f"{kernel_h}x{kernel_w}"
        raise InvalidArgument(f"A scale-space kernel is centred on a pixel, got the even size {size}. Use odd sizes.")
    return kernel_h, kernel_w


def profile(radius: int, sigma: float, derivative: str = "") -> NDArray[np.float64]:
    """One axis of a kernel: a difference of T as correlation weights at -radius … radius.

    T is evaluated wider than the kernel by the reach of the difference, then cropped, so the outermost tap is not a border
    effect.

    Args:
        radius: taps on each side.
        sigma: px.
        derivative: a key of ``MASKS``, or d as many times as the order.
    """
    weights = mask(derivative)
    reach = len(weights) // 2
    wide = discrete_gaussian(radius + reach, sigma**2)
    # Smoothing and then differencing is one correlation with mask * T: T is symmetric, so the mask keeps its direction.
    return np.convolve(wide, weights, mode="valid") if reach else wide
