"""Position and spread of a kernel's weights: M and V, plain and weighted as in arXiv 2509.12746.

M = sum p |h| / sum |h| and V = sum p p' |h| / sum |h| - M M', px and px², x right, y up, origin at the array's centre. For its
fits the paper multiplies |h| by |D T|, the template of the kernel's kind at sigma = 1 px, so that noise far out does not count.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from filterdb.kernels.affine import Floats, centred_unit
from filterdb.kernels.descriptors.grid import monomials, product
from filterdb.kernels.descriptors.numbers import first_best
from filterdb.kernels.scale_space import Jet

SPREAD_OPERATORS = ("T", "dx", "dy", "dx+", "dx-", "dy+", "dy-")
"""The derivatives D, the first of equals chosen, named as in ``filterdb.scale_space``: torch weights, which correlate. The paper
and the banks name impulse responses, which are turned by 180 degrees: the bank's template 1_dy+ is most like "dy-" here."""

SPREAD_SIGMA = 1.0
"""Scale of the templates, px, the paper's."""

CORRELATES = 0.05
"""A kernel whose best |Pearson| is below this has no operator: a mixed derivative has 0, noise of 49 taps seldom
as little."""


def moments_of(weights: Floats, kernel_h: int, kernel_w: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """mean_x, mean_y, var_x, var_y, cov_xy (n,) of weights (n, taps), not negative; NaN where a row of weights is 0."""
    return _from_sums(product(weights, monomials(kernel_h, kernel_w)))


def _from_sums(sums: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """The same from the sums (n, 6) of weights times the monomials."""
    total = sums[:, :1]
    _, x, y, xx, yy, xy = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0).T
    return x, y, np.maximum(xx - x * x, 0), np.maximum(yy - y * y, 0), xy - x * y


@lru_cache(maxsize=64)
def _templates(kernel_h: int, kernel_w: int) -> tuple[Floats, Floats]:
    """Centred templates of unit length (taps, operators), and monomials times |template| (taps, operators x 6)."""
    jets = (Jet(SPREAD_SIGMA, SPREAD_SIGMA, {name: 1}) for name in SPREAD_OPERATORS)
    raw = np.stack([jet.kernel(kernel_h, kernel_w).ravel() for jet in jets])
    weighted = np.abs(raw).T[:, :, None] * monomials(kernel_h, kernel_w)[:, None, :]
    return centred_unit(raw).unit.T, weighted.reshape(raw.shape[1], -1)


def weighted_moments(size: Floats, unit: Floats, kernel_h: int, kernel_w: int) -> tuple[NDArray[np.intp], tuple[Floats, ...]]:
    """The operator (n,) closest to each kernel, -1 for none, and the five moments of the kernel weighted by its template.

    An even size has no centre pixel, so these templates do not exist there: no operator, and moments of NaN.

    Args:
        size: |h| (n, taps).
        unit: the same kernels centred and of unit length, zero where they are constant.
    """
    if kernel_h % 2 == 0 or kernel_w % 2 == 0:
        return np.full(len(size), -1), tuple(np.full((5, len(size)), np.nan))
    units, weighted = _templates(kernel_h, kernel_w)
    likeness = np.abs(product(unit, units))
    best = first_best(likeness)
    sums = product(size, weighted).reshape(len(size), len(SPREAD_OPERATORS), -1)[np.arange(len(size)), best]
    none = likeness.max(axis=1) < CORRELATES
    sums[none] = 0
    return np.where(none, -1, best), _from_sums(sums)
