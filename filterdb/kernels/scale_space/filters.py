"""Two-dimensional kernels of scale space, as torch weights: row 0 on top, x right, y up.

Each is a small dataclass that knows its parameters and makes its ``kernel`` at any odd size. They are correlation weights: what
``torch.nn.Conv2d`` applies. What the papers print as impulse responses are these turned by 180 degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument
from filterdb.kernels.scale_space.gaussian import masks_of, odd_size, profile

LAPLACIAN: Mapping[str, float] = {"dxx": 1.0, "dyy": 1.0}
"""The five-point Laplacian of T as the coefficients of a jet."""


@dataclass(frozen=True)
class Jet:
    """A weighted sum of derivatives of one Gaussian: sum_k c_k D_k T(x; sigma_x²) T(y; sigma_y²)."""

    sigma_x: float
    sigma_y: float
    coefficients: Mapping[str, float]
    """Keyed by derivatives: ``{"T": .2, "dx": 1}``; see ``masks_of``."""

    def kernel(self, kernel_h: int, kernel_w: int | None = None) -> NDArray[np.float64]:
        """(kernel_h, kernel_w) torch weights; both odd, square if one is given. A smaller kernel is the crop of a larger one.

        >>> Jet(0, 0, {"dx+": 1}).kernel(1, 3)
        array([[ 0., -1.,  1.]])
        """
        kernel_h, kernel_w = odd_size(kernel_h, kernel_w)
        total = np.zeros((kernel_h, kernel_w))
        for name, coefficient in self.coefficients.items():
            along_x, along_y = masks_of(name)
            row = profile(kernel_w // 2, self.sigma_x, along_x)
            column = profile(kernel_h // 2, self.sigma_y, along_y)[::-1]  # y is up, row 0 is on top
            total += coefficient * np.outer(column, row)
        return total


@dataclass(frozen=True)
class GaussianDerivative:
    """An idealised receptive field: one derivative of T, at a pixel or half-way to a neighbour."""

    order_x: int
    order_y: int
    s_x: float
    """Variance along x, px²."""
    s_y: float
    """Variance along y, px²."""
    shift_x: float = 0.0
    """Where the derivative is taken, px right of the centre: 0, or ½ or -½ with a first derivative along x alone."""
    shift_y: float = 0.0
    """The same, px up."""

    @property
    def operator(self) -> str:
        """Its name: T, dx, dxy, dy+ …

        Raises:
            InvalidArgument: orders below 0, or a half-pixel shift where there is no such difference.
        """
        orders, shifts = (self.order_x, self.order_y), (self.shift_x, self.shift_y)
        if min(orders) < 0 or any(order % 1 for order in orders):
            raise InvalidArgument(f"The orders of a derivative are whole numbers from 0, got {orders}.")
        name = "d" + "x" * int(self.order_x) + "y" * int(self.order_y) if any(orders) else "T"
        if shifts == (0, 0):
            return name
        shift = shifts[orders.index(1)] if sorted(orders) == [0, 1] else 0.0
        if abs(shift) != 0.5 or sum(map(abs, shifts)) != 0.5:
            raise InvalidArgument(f"A shift is ±½ px along the axis of a first derivative, got {shifts} for orders {orders}.")
        return name + ("+" if shift > 0 else "-")

    def kernel(self, kernel_h: int, kernel_w: int | None = None) -> NDArray[np.float64]:
        """(kernel_h, kernel_w) torch weights.

        >>> GaussianDerivative(0, 1, 0, 0, shift_y=0.5).kernel(3, 1)  # the row above minus the centre
        array([[ 1.],
               [-1.],
               [ 0.]])
        """
        return Jet(_sigma(self.s_x), _sigma(self.s_y), {self.operator: 1.0}).kernel(kernel_h, kernel_w)


@dataclass(frozen=True)
class Sharpening:
    """The unit impulse minus alpha times the five-point Laplacian of T(s): it passes DC and lifts fine detail."""

    s: float
    """Variance of T, px²."""
    alpha: float

    def kernel(self, kernel_h: int, kernel_w: int | None = None) -> NDArray[np.float64]:
        """(kernel_h, kernel_w) torch weights."""
        laplacian = {name: -self.alpha * weight for name, weight in LAPLACIAN.items()}
        blurred = Jet(_sigma(self.s), _sigma(self.s), laplacian)
        return Jet(0, 0, {"T": 1.0}).kernel(kernel_h, kernel_w) + blurred.kernel(kernel_h, kernel_w)


@dataclass(frozen=True)
class DoG:
    """A difference of Gaussians: a centre minus weight times a wider surround."""

    s_centre: float
    """Variance of the centre, px²."""
    s_surround: float
    """Variance of the surround, px²."""
    weight: float = 1.0

    def kernel(self, kernel_h: int, kernel_w: int | None = None) -> NDArray[np.float64]:
        """(kernel_h, kernel_w) torch weights."""
        sigmas = _sigma(self.s_centre), _sigma(self.s_surround)
        centre, surround = (Jet(sigma, sigma, {"T": 1.0}).kernel(kernel_h, kernel_w) for sigma in sigmas)
        return centre - self.weight * surround


def _sigma(s: float) -> float:
    if not 0 <= s < np.inf:
        raise InvalidArgument(f"Scales are finite variances from 0 px², got {s}.")
    return float(s) ** 0.5


def cross(kernel_h: int, kernel_w: int, sigma: float) -> NDArray[np.float64]:
    """The cross model exp(-x²/2 sigma²) + exp(-y²/2 sigma²) of Babaiee et al., ICLR 2024, which fits sigma .4 … .8 px at 7x7."""
    x, y = (np.arange(size) - (size - 1) / 2 for size in (kernel_w, kernel_h))
    return np.exp(-(x**2) / (2 * sigma**2)) + np.exp(-(y**2) / (2 * sigma**2))[:, None]
