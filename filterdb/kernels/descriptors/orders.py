"""Evidence for derivatives: the contrast of one side with the other, or of the middle with both sides.

A derivative of order k has moments that vanish below k and not at k. The raw moments of a trained kernel are dominated by its
outermost taps, which are mostly noise. The evidence therefore weights each tap by h|h|, its signed energy: a tap of .1 counts
.01. The directions are those of the raw moments, which have an exact meaning: the response to a ramp and to a parabola.
Moments are taken about the centre of energy, sum p h² / sum h², so a kernel may be shifted within its array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from filterdb.kernels.affine import Floats
from filterdb.kernels.descriptors.grid import degrees, monomials, product
from filterdb.kernels.descriptors.numbers import TIE

OPPOSITE = -0.8
"""With the two second moments in a ratio below this, neither is the greater but by chance, as in a mixed derivative: the axis is
then the one along which the moment is positive, which turns by 90 degrees when the kernel is negated."""


@dataclass(frozen=True)
class Orders:
    """Evidence about each kernel, (n,); t is the distance from the centre of energy along the axis in question."""

    first: Floats
    """|sum t h|h|| / sum |t| h² in [0, 1], along the first moment: 1 where one side is positive and the other negative."""
    second: Floats
    """|sum t² h|h|| / sum t² h² in [0, 1], along the axis of the greatest: 1 where all weight off the centre has one sign."""
    parabola: Floats
    """|sum t² h| / sum t² |h| in [0, 1], likewise: without squares, which the wide and low flanks of a Laplacian of Gaussian pass
    and the cancelling lobes of a Gabor do not."""
    direction: Floats
    """Degrees in [0, 360): the direction of the ramp, 0 at the centre of energy, with the greatest response."""
    axis: Floats
    """Degrees in [0, 180): the axis of the greatest raw second moment."""
    ratio: Floats
    """The lesser raw second moment over the greatest, in [-1, 1]: 1 is a Laplacian, 0 a second derivative along one axis, -1 a
    mixed one."""


def derivative_evidence(f: Floats, kernel_h: int, kernel_w: int) -> Orders:
    """The evidence for kernels as rows f (n, taps), none of them all zero."""
    basis = monomials(kernel_h, kernel_w)
    size = np.abs(f)
    energy = f * f
    sums = product(energy, basis)
    centre = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]

    gx, gy, *moments = _about(product(f * size, basis), *centre)
    length = np.hypot(gx, gy)
    nx, ny = _over(gx, length), _over(gy, length)
    line = np.stack([-nx * centre[0] - ny * centre[1], nx, ny], axis=1)
    distance = np.abs(product(line, basis.T[:3]))
    first = _over(length, np.einsum("ij,ij->i", distance, energy))
    second, _, _ = _curvature(moments, _about(sums, *centre)[2:])

    ramp_x, ramp_y, *moments = _about(product(f, basis), *centre)
    parabola, ratio, axis = _curvature(moments, _about(product(size, basis), *centre)[2:])
    return Orders(np.minimum(first, 1), second, parabola, degrees(ramp_x, ramp_y), axis, ratio)


def _about(sums: Floats, x: Floats, y: Floats) -> tuple[Floats, ...]:
    """First moments x, y and second moments xx, yy, xy about (x, y), from the sums of weights times monomials."""
    total, sx, sy, sxx, syy, sxy = sums.T
    return (
        sx - x * total, sy - y * total,
        sxx - 2 * x * sx + x * x * total, syy - 2 * y * sy + y * y * total, sxy - x * sy - y * sx + x * y * total,
    )  # fmt: skip


def _curvature(moments: Sequence[Floats], sizes: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Of second moments xx, yy, xy: the greatest over the same of the sizes, the lesser over the greatest, and the axis."""
    xx, yy, xy = moments
    mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    angle = np.arctan2(2 * xy, xx - yy) / 2  # of the eigenvalue mean + half; mean - half lies across
    shares = []
    for eigenvalue, cos, sin in ((mean + half, np.cos(angle), np.sin(angle)), (mean - half, -np.sin(angle), np.cos(angle))):
        shares.append(_over(np.abs(eigenvalue), cos * cos * sizes[0] + sin * sin * sizes[1] + 2 * cos * sin * sizes[2]))
    share = np.where(mean > 0, *shares)
    share = np.where(np.abs(mean) <= TIE * half, np.minimum(*shares), share)
    greatest = np.abs(mean) + half
    ratio = _over(np.abs(mean) - half, greatest)
    across = (mean < 0) & (ratio > OPPOSITE)
    axis = degrees(np.cos(2 * angle), np.sin(2 * angle), np.where(across, 180, 0)) / 2
    return np.minimum(share, 1), ratio, axis


def _over(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
