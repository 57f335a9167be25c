"""Discrete scale space: the Gaussian of the pixel grid, its derivatives, and the kernels made of them.

Conventions. A kernel is a row-0-on-top array of torch weights, and torch correlates: the tap one column right of the centre
weighs the pixel one column to the right. x points right and y points UP, as in the scale-space literature, so +y is the row
above. Scales are standard deviations sigma in pixels, or variances s = sigma^2 in pixels squared.

After Lindeberg, *Scale-space for discrete signals*, IEEE PAMI 12(3), 1990, and Lindeberg, Babaiee, Kiasari, arXiv 2509.12746.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
"""The names of the derivatives of T, each as its masks along x and y."""


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


def profile(radius: int, sigma: float, derivative: str = "") -> NDArray[np.float64]:
    """One axis of a kernel: a difference of T as correlation weights at -radius … radius.

    T is evaluated two taps wider than the kernel, differenced, then cropped, so the outermost tap is not a border effect.
    """
    wide = discrete_gaussian(radius + 2, sigma**2)
    # Smoothing and then differencing is one correlation with mask * T: T is symmetric, so the mask keeps its direction.
    return np.convolve(wide, MASKS[derivative], mode="same")[2:-2]


@dataclass(frozen=True)
class Jet:
    """A weighted sum of derivatives of one Gaussian: sum_k c_k D_k T(x; sigma_x²) T(y; sigma_y²)."""

    sigma_x: float
    sigma_y: float
    coefficients: Mapping[str, float]
    """Keyed by the names in OPERATORS: ``{"T": .2, "dx": 1}``."""

    def kernel(self, kernel_h: int, kernel_w: int) -> NDArray[np.float64]:
        """(kernel_h, kernel_w) torch weights; both sizes odd. A smaller kernel is the centre crop of a larger one.

        >>> Jet(0, 0, {"dx+": 1}).kernel(1, 3)
        array([[ 0., -1.,  1.]])
        """
        if kernel_h % 2 == 0 or kernel_w % 2 == 0:
            raise InvalidArgument(f"A jet is centred on a pixel, got the even size {kernel_h}x{kernel_w}. Use odd sizes.")
        total = np.zeros((kernel_h, kernel_w))
        for name, coefficient in self.coefficients.items():
            if name not in OPERATORS:
                raise not_found("derivative", name, OPERATORS)
            along_x, along_y = OPERATORS[name]
            row = profile(kernel_w // 2, self.sigma_x, along_x)
            column = profile(kernel_h // 2, self.sigma_y, along_y)[::-1]  # y is up, row 0 is on top
            total += coefficient * np.outer(column, row)
        return total


def cross(kernel_h: int, kernel_w: int, sigma: float) -> NDArray[np.float64]:
    """The cross model exp(-x²/2 sigma²) + exp(-y²/2 sigma²) of Babaiee et al., ICLR 2024, which fits sigma .4 … .8 px at 7x7."""
    x, y = (np.arange(size) - (size - 1) / 2 for size in (kernel_w, kernel_h))
    return np.exp(-(x**2) / (2 * sigma**2)) + np.exp(-(y**2) / (2 * sigma**2))[:, None]
