"""The model with the fewest parameters that describes a filter.

    python -m filterdb.fields.fits.smallest LEARNED.txt [LEAST_RHO]

Tries sums of up to four derivatives of Gaussians, at one or two pairs of scales, in the order of their parameters (scales and
coefficients; gain and offset of the fit come on top for every model alike). The derivatives are those along one axis, y, and the
second along the other; filters that vary along x are turned first, as the first family that fits them says. Beside
them stand the impulse and "arms": derivatives along y that are constant along x.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from filterdb import banks
from filterdb.errors import FilterdbError
from filterdb.fields import fits
from filterdb.fields.fits.families import IMPULSE, ONE, Form, Term
from filterdb.fields.fits.solve import Solver
from filterdb.kernels import centred_unit
from filterdb.kernels.scale_space import masks_of

LEAST_RHO = 0.99
MOST_PARAMETERS = 8
ATOMS = ("T", "dy", "dy+", "dy-", "dxx", "dyy", "arms dy", "arms dy+")
SCALES = {
    "one sigma": ((0, 0),), "sigma_x, sigma_y": ((0, 1),), "two sigmas": ((0, 0), (1, 1)),
    "sigma_x, two sigma_y": ((0, 1), (0, 2)), "sigma_x, sigma_y and a sigma": ((0, 1), (2, 2)),
    "two sigma_x, two sigma_y": ((0, 1), (2, 3)),
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One model."""

    atoms: tuple[tuple[str, int], ...]
    """(derivative, pair of scales)."""
    scales: str
    form: Form

    @property
    def parameters(self) -> int:
        """Scales and coefficients."""
        return self.form.searched + self.form.coefficients

    def __str__(self) -> str:
        pairs = len(SCALES[self.scales])
        return " + ".join(name + (f"({pair + 1})" if pairs > 1 and name != IMPULSE else "") for name, pair in self.atoms)


def candidates() -> Iterator[Candidate]:
    """All models, those with the fewest parameters first."""
    found = []
    for words, scales in SCALES.items():
        atoms = [(name, pair) for pair in range(len(scales)) for name in ATOMS] + [(IMPULSE, 0)]
        for count in range(1, 5):
            for chosen in combinations(atoms, count):
                used = {pair for name, pair in chosen if name != IMPULSE}
                form = Form(tuple(((_term(*atom), 1.0),) for atom in chosen), scales)
                if used == set(range(len(scales))) and form.searched + form.coefficients <= MOST_PARAMETERS:
                    found.append(Candidate(chosen, words, form))
    return iter(sorted(found, key=lambda one: one.parameters))


def _term(name: str, pair: int) -> Term:
    if name == IMPULSE:
        return Term(IMPULSE, IMPULSE)
    along_x, along_y = masks_of(name.removeprefix("arms "))
    return Term(ONE if name.startswith("arms ") else along_x, along_y, pair)


def smallest(kernels: NDArray[np.floating], least_rho: float = LEAST_RHO) -> list[tuple[Candidate, float] | None]:
    """For each kernel (kernel_h, kernel_w), the model with the fewest parameters that reaches a rho, the best of these, and its
    rho; None if none does."""
    turned = np.stack([_upright(kernel) for kernel in kernels])
    unit = torch.from_numpy(centred_unit(turned.astype(np.float64)).unit.astype(np.float32))
    best: list[tuple[Candidate, float] | None] = [None] * len(kernels)
    for one in candidates():
        open_ = [i for i, found in enumerate(best) if found is None or found[0].parameters == one.parameters]
        if not open_:
            break
        rho = Solver(one.form, *kernels.shape[1:]).fit(unit[open_]).rho2.clamp(0, 1).sqrt().tolist()
        for i, value in zip(open_, rho, strict=True):
            there = best[i]
            if value >= least_rho and (there is None or value > there[1]):
                best[i] = (one, value)
    return best


def _upright(kernel: NDArray[np.floating]) -> NDArray[np.floating]:
    """A kernel whose first derivative is along x, turned so that it is along y; others as they are."""
    found = fits.fit(kernel[None], ["first_derivative"])[0]
    orders = found.family.forms[int(found.form[0])].orders
    return kernel[::-1].T[::-1] if orders == (1, 0) else kernel


def main(arguments: list[str]) -> int:
    """Print one line for each filter."""
    if len(arguments) not in (1, 2):
        print("Usage: python -m filterdb.fields.fits.smallest LEARNED.txt [LEAST_RHO]", file=sys.stderr)
        return 2
    try:
        bank = banks.read(arguments[0])
        found = smallest(bank.templates, float(arguments[1]) if len(arguments) == 2 else LEAST_RHO)
    except (FilterdbError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for name, one in zip(bank.names, found, strict=True):
        told = "none" if one is None else f"{one[0].parameters} parameters, rho {one[1]:.4f}: {one[0]}, {one[0].scales}"
        print(f"{name:10} {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
