"""The shapes of trained depthwise kernels, each a family of ideal kernels, and the fit of a kernel to each of them.

The names are the classes of Babaiee et al., ICLR 2024. A family is a grid over scale, aspect and, where the shape needs it, form:
a centre may be a Gaussian or a difference of two, a first derivative central or half a pixel off. How well a kernel fits a shape
is its Pearson correlation with the best kernel of the family, sign included: an off-centre is not an on-centre.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from filterdb.kernels.affine import centred_unit
from filterdb.kernels.scale_space import Jet, cross
from filterdb.kernels.sizes import Pair, Rows

SHAPES: dict[str, str] = {
    "on_centre": "on-centre", "off_centre": "off-centre", "on_cross": "on-centre cross", "off_cross": "off-centre cross",
    "dx_plus": "first derivative +x", "dx_minus": "first derivative -x", "dy_plus": "first derivative +y",
    "dy_minus": "first derivative -y", "second_derivative": "second derivative", "on_square": "on-square",
    "off_square": "off-square",
}  # fmt: skip
"""Names in the column ``class``, and labels for display. As published, squares are a class at 5x5 only."""

OTHER = "other"
"""The class of kernels that fit no shape."""

SURROUND = 1.6
"""Surround over centre of a difference of Gaussians, where it is nearest to a Laplacian (Marr and Hildreth 1980)."""
ASPECTS = (1.0, 1.4, 1 / 1.4)
"""sigma_y over sigma_x of centres and derivatives."""
SMALLEST_SIGMA, LARGEST_SIGMA = 0.3, 0.24
"""The scales of a family: from .3 px to .24 of the kernel's shorter side, in steps of a fifth."""
CROSS_SIGMAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Of the cross's lines, px at 7x7; published: .4 to .8. Wider in proportion for larger kernels."""
CROSS_CENTRES = (0.0, 0.5, 1.0)
"""How much a Gaussian adds to the crossing: real crosses are denser there than the sum of the lines."""
CENTRE_LIKE = 0.95
"""A cross with this correlation to a centre is excluded: on few taps, wide lines with a dense crossing are a Gaussian."""


def shapes_at(kernel_h: int, kernel_w: int) -> list[str]:
    """The shapes that kernels of a size are classified as; none where there is no centre pixel, or no room around it."""
    if isinstance(kernel_h, Rows) or kernel_h % 2 == 0 or kernel_w % 2 == 0 or min(kernel_h, kernel_w) < 3:
        return []
    return [name for name in SHAPES if "square" not in name or (kernel_h, kernel_w) == (5, 5)]


@cache
def family(shape: str, kernel_h: int, kernel_w: int) -> NDArray[np.float32]:
    """The ideal kernels of a shape, centred and of unit length: (m, kernel_h * kernel_w)."""
    kernels = [kernel.ravel() for kernel in _ideal(shape, (kernel_h, kernel_w))]
    found = centred_unit(np.array(kernels)).unit.astype(np.float32)
    if shape.endswith("_cross"):
        centres = family(shape.replace("_cross", "_centre"), kernel_h, kernel_w)
        found = found[(found @ centres.T).max(axis=1) < CENTRE_LIKE]
    found.setflags(write=False)  # it is cached
    return found


def fit(unit: NDArray[np.float32], kernel_h: int, kernel_w: int) -> tuple[list[str], NDArray[np.float32]]:
    """How well kernels fit each shape.

    Args:
        unit: (n, d) centred unit kernels; see ``filterdb.kernels.centred_unit``.
        kernel_h: rows of a kernel.
        kernel_w: columns of a kernel.

    Returns:
        The shapes of that size, and (n, shapes) the largest correlation with a kernel of each family; 0 for dead kernels.
    """
    names = shapes_at(kernel_h, kernel_w)
    scores = [similarity(unit, name, kernel_h, kernel_w) for name in names]
    return names, np.stack(scores, axis=1) if names else np.zeros((len(unit), 0), np.float32)


def similarity(unit: NDArray[np.float32], shape: str, kernel_h: int, kernel_w: int) -> NDArray[np.float32]:
    """(n,) the largest correlation of each kernel with one of the family of a shape."""
    return (unit @ family(shape, kernel_h, kernel_w).T).max(axis=1)


def best(unit: NDArray[np.float32], shape: str, kernel_h: int, kernel_w: int) -> NDArray[np.float32]:
    """The ideal kernel of a shape's family that is most like one unit kernel, (kernel_h, kernel_w)."""
    ideal = family(shape, kernel_h, kernel_w)
    return ideal[int((ideal @ unit).argmax())].reshape(kernel_h, kernel_w)


def _sigmas(size: Pair) -> NDArray[np.floating]:
    largest = max(LARGEST_SIGMA * min(size), 0.75)
    return SMALLEST_SIGMA * 1.2 ** np.arange(1 + int(np.log(largest / SMALLEST_SIGMA) / np.log(1.2)))


def _ideal(shape: str, size: Pair) -> Iterator[NDArray[np.float64]]:
    """The kernels of a family, torch weights with y up."""
    sign, form = {
        "on_centre": (1, _centres), "off_centre": (-1, _centres), "on_cross": (1, _crosses), "off_cross": (-1, _crosses),
        "on_square": (1, _squares), "off_square": (-1, _squares), "second_derivative": (1, _second_derivatives),
        "dx_plus": (1, _dx), "dx_minus": (-1, _dx), "dy_plus": (1, _dy), "dy_minus": (-1, _dy),
    }[shape]  # fmt: skip
    for kernel in form(size):
        yield sign * kernel


def _centres(size: Pair) -> Iterator[NDArray[np.float64]]:
    yield Jet(0, 0, {"T": 1}).kernel(*size)
    for sigma in _sigmas(size):
        for aspect in ASPECTS:
            centre = Jet(sigma / np.sqrt(aspect), sigma * np.sqrt(aspect), {"T": 1}).kernel(*size)
            yield centre  # once centred, a Gaussian is a centre in a constant surround
            wide = SURROUND * sigma
            yield centre - Jet(wide / np.sqrt(aspect), wide * np.sqrt(aspect), {"T": 1}).kernel(*size)


def _crosses(size: Pair) -> Iterator[NDArray[np.float64]]:
    for sigma in np.array(CROSS_SIGMAS) * max(1.0, min(size) / 7):
        lines = cross(*size, float(sigma))
        for centre in CROSS_CENTRES:
            yield lines + centre * Jet(sigma, sigma, {"T": 2 * np.pi * sigma**2}).kernel(*size)


def _derivatives(size: Pair, operators: tuple[str, ...]) -> Iterator[NDArray[np.float64]]:
    for sigma in _sigmas(size):
        for aspect in ASPECTS:
            for operator in operators:
                yield Jet(sigma / np.sqrt(aspect), sigma * np.sqrt(aspect), {operator: 1}).kernel(*size)


def _dx(size: Pair) -> Iterator[NDArray[np.float64]]:
    yield from _derivatives(size, ("dx", "dx+", "dx-"))


def _dy(size: Pair) -> Iterator[NDArray[np.float64]]:
    yield from _derivatives(size, ("dy", "dy+", "dy-"))


def _second_derivatives(size: Pair) -> Iterator[NDArray[np.float64]]:
    for kernel in _derivatives(size, ("dxx", "dyy", "dxy")):
        yield kernel
        yield -kernel


def _squares(size: Pair) -> Iterator[NDArray[np.float64]]:
    """Solid blocks of 2x2 to 4x4 taps that lie within a tap of the centre."""
    kernel_h, kernel_w = size
    for side in range(2, min(size)):
        tops, lefts = (
            range(max(0, (k - side) // 2 - 1), min(k - side, (k - side + 1) // 2 + 1) + 1) for k in (kernel_h, kernel_w)
        )
        for top in tops:
            for left in lefts:
                block = np.zeros(size)
                block[top : top + side, left : left + side] = 1
                yield block
