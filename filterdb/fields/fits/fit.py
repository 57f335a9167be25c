"""Every family fitted to every kernel, and the best of them by a criterion that charges for parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from filterdb.fields.fits.families import Family, choose
from filterdb.fields.fits.solve import AT_BOUND, COINCIDE, ENOUGH, Solution, best_of, bounds, interchangeable, solver
from filterdb.kernels import CentredUnit, centred_unit

SMALLEST_RESIDUAL = ENOUGH
"""Of the variance: below it a kernel is explained as closely as the search goes, and the cheaper family wins."""


@dataclass(frozen=True)
class FamilyFit:
    """One family fitted to n kernels. A kernel is close to sum_i coefficients[i] * basis[i] + offset."""

    family: Family
    form: NDArray[np.int64]
    """(n,) which form of the family: which derivative, shifted which way."""
    sigma: NDArray[np.floating]
    """(n, searched) px: x and y of the first pair, then of the second; one number for a pair that is tied."""
    coefficients: NDArray[np.floating]
    """(n, coefficients) in the units of the weights."""
    offset: NDArray[np.floating]
    rho: NDArray[np.floating]
    """(n,) Pearson correlation of kernel and model."""
    residual: NDArray[np.floating]
    """(n,) Euclidean length of what is left, in the units of the weights."""
    criterion: NDArray[np.floating]
    """(n,) Bayesian information criterion: taps * ln(1 - rho²) + parameters * ln(taps). Lower is better."""
    at_bound: NDArray[np.bool_]
    """(n,) whether a scale is at its smallest or largest, so that the model is a limit of its family rather than a member."""


def fit(kernels: NDArray[np.floating], families: Sequence[str] | None = None, *, device: str | None = None) -> list[FamilyFit]:
    """Fit kernels with families of scale-space models.

    Args:
        kernels: (n, kernel_h, kernel_w) raw weights, both sizes odd, none dead.
        families: names in ``FAMILIES``; all that have a meaning at that size by default.
        device: torch device; by default the GPU if there is one.

    Raises:
        NotFound, InvalidArgument: a family that is unknown, or has no meaning for the size.
    """
    n, kernel_h, kernel_w = kernels.shape
    chosen = choose(families, kernel_h, kernel_w)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    centred = centred_unit(kernels.reshape(n, kernel_h * kernel_w).astype(np.float64))
    unit = torch.from_numpy(centred.unit.astype(np.float32)).to(device)
    return [_fitted(family, unit, centred, kernel_h, kernel_w, device) for family in chosen]


def _fitted(family: Family, unit: torch.Tensor, f: CentredUnit, kernel_h: int, kernel_w: int, device: str) -> FamilyFit:
    solvers = [solver(form, kernel_h, kernel_w, device, family.opposite) for form in family.forms]
    form, solution = best_of(solvers, unit)
    low, high = (math.log(sigma) for sigma in bounds(kernel_h, kernel_w))
    solution = _small_scale_first(family, solution)
    rho2: NDArray[np.floating] = solution.rho2.clamp(0, 1).cpu().numpy()
    log_sigma, weights, means = (t.cpu().numpy() for t in (solution.log_sigma, solution.weights, solution.means))
    coefficients = weights * f.deviation[:, None]
    at_bound = np.any((log_sigma < low + AT_BOUND) | (log_sigma > high - AT_BOUND), axis=1)
    if interchangeable(family.forms[0]):  # two pairs that coincide are a limit too
        first, second = np.split(log_sigma, 2, axis=1)
        at_bound = at_bound | np.all(np.abs(first - second) < COINCIDE, axis=1)
    if family.opposite:
        at_bound = at_bound | (weights[:, 0] * weights[:, 1] > 0)
    taps = kernel_h * kernel_w
    return FamilyFit(
        family, form.cpu().numpy(), np.exp(log_sigma), coefficients, f.mean - (coefficients * means).sum(axis=1), np.sqrt(rho2),
        f.deviation * np.sqrt(1 - rho2),
        taps * np.log(np.maximum(1 - rho2, SMALLEST_RESIDUAL)) + family.parameters * math.log(taps), at_bound,
    )  # fmt: skip


def _small_scale_first(family: Family, found: Solution) -> Solution:
    """Two pairs of scales in one order: the finer one first, as a centre stands before its surround."""
    form = family.forms[0]
    if not interchangeable(form):
        return found
    half, coefficients = form.searched // 2, form.coefficients // 2
    swapped = found.log_sigma[:, :half].sum(1) > found.log_sigma[:, half:].sum(1)

    def swap(t: torch.Tensor, at: int) -> torch.Tensor:
        return torch.where(swapped[:, None], torch.cat([t[:, at:], t[:, :at]], 1), t)

    return Solution(found.rho2, swap(found.log_sigma, half), swap(found.weights, coefficients), swap(found.means, coefficients))


def best(fits: Sequence[FamilyFit]) -> NDArray[np.int64]:
    """(n,) which of the families describes each kernel best by the criterion; of equals the cheapest."""
    return np.stack([one.criterion for one in fits]).argmin(axis=0)


def model(one: FamilyFit, row: int, kernel_h: int, kernel_w: int) -> NDArray[np.float64]:
    """The (kernel_h, kernel_w) kernel that a fit describes, offset included."""
    form = one.family.forms[int(one.form[row])]
    basis = solver(form, kernel_h, kernel_w, "cpu", one.family.opposite).basis.kernels(
        torch.from_numpy(np.log(one.sigma[row : row + 1]))
    )
    fitted: NDArray[np.float64] = np.einsum("p,phw->hw", one.coefficients[row], basis[0].numpy()) + one.offset[row]
    return fitted
