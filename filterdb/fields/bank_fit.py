"""Fit the bank ``greedy8`` to the eight learned filters.

    python -m filterdb.fields.bank_fit LEARNED.txt data/banks/greedy8.toml

Each filter is a sum of first-order jets, g = sum_i (c_i T + d_i D T)(x, y; sigma_x,i, sigma_y,i), D the one derivative that its
symmetry allows (dy for 1, 3 and 6, dx for 2, 4 and 5). Filters 1 to 4 take two scale pairs. 5 and 6 take a third, because their
arms do not fade towards the border of the kernel. 7 and 8 take an impulse and one Gaussian, no derivative. That makes 64 numbers
for 392 weights.

The coefficients follow from the scales by linear least squares on the centred kernels (variable projection), so only the scales
are searched, from a fixed set of starts. What comes out are parameters, rounded; the learned numbers are not kept.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from filterdb import banks
from filterdb.errors import FilterdbError, InvalidArgument
from filterdb.kernels import centred_unit
from filterdb.kernels.scale_space import OPERATORS, profile

LARGEST_SIGMA = 3.0
"""px. Beyond the kernel's radius a Gaussian is nearly flat and the coefficients grow without meaning."""
STARTS = 8
SOURCE = (
    "Babaiee, Kiasari, Rus, Grosu, We Need Far Fewer Unique Filters Than We Thought, NeurIPS 2024 workshop (the learned "
    "filters); forms after Lindeberg, Babaiee, Kiasari, arXiv:2509.12746, JMIV 68(3):22, 2026"
)


@dataclass(frozen=True)
class Form:
    """What one filter is fitted with."""

    name: str
    label: str
    operators: tuple[str, ...]
    scales: int
    """Scale pairs (sigma_x, sigma_y) that are searched."""
    impulse: bool = False
    """Whether an impulse, T at scale 0, is added."""


FORMS = [
    Form("1_dy+", "half-pixel first derivative, bright below", ("T", "dy"), 2),
    Form("2_dx-", "half-pixel first derivative, bright right", ("T", "dx"), 2),
    Form("3_dy-", "half-pixel first derivative, bright above", ("T", "dy"), 2),
    Form("4_dx+", "half-pixel first derivative, bright left", ("T", "dx"), 2),
    Form("5_dx", "first derivative, bright left", ("T", "dx"), 3),
    Form("6_dy", "first derivative, bright below", ("T", "dy"), 3),
    Form("7_sharpen", "sharpening", ("T",), 1, impulse=True),
    Form("8_smooth", "smoothing", ("T",), 1, impulse=True),
]


@dataclass(frozen=True)
class Fit:
    """One fitted filter."""

    form: Form
    scales: list[dict[str, list[float] | float]]
    """As in the toml: ``{"sigma": [σx, σy], "T": c, "dy": d}``."""
    similarity: float
    """Signed Pearson correlation with the learned filter."""


def _columns(form: Form, sigmas: NDArray, shape: tuple[int, int]) -> NDArray[np.float64]:
    """(taps, coefficients): the derivatives of all scales as centred columns."""
    kernel_h, kernel_w = shape
    kernels = []
    for sigma_x, sigma_y in sigmas.reshape(-1, 2):
        for operator in form.operators:
            along_x, along_y = OPERATORS[operator]
            column = profile(kernel_h // 2, sigma_y, along_y)[::-1]
            kernels.append(np.outer(column, profile(kernel_w // 2, sigma_x, along_x)).ravel())
    if form.impulse:
        kernels.append(np.outer(np.arange(kernel_h) == kernel_h // 2, np.arange(kernel_w) == kernel_w // 2).ravel().astype(float))
    return (np.array(kernels) - np.mean(kernels, axis=1, keepdims=True)).T


def fit(form: Form, learned: NDArray) -> Fit:
    """Fit one (k_h, k_w) learned filter: the scales that leave least of it, from ``STARTS`` seeded starts."""
    target = centred_unit(learned[None].astype(np.float64)).unit[0]

    def solve(sigmas: NDArray) -> tuple[NDArray, float]:
        columns = _columns(form, sigmas, learned.shape)
        coefficients = np.linalg.lstsq(columns, target, rcond=1e-8)[0]
        fitted = columns @ coefficients
        return coefficients, float(fitted @ target / np.linalg.norm(fitted))

    starts = np.random.default_rng(0).uniform(0.2, 2, (STARTS, 2 * form.scales))
    bounds = [(0, LARGEST_SIGMA)] * (2 * form.scales)
    searches = [minimize(lambda sigmas: -solve(sigmas)[1], start, method="L-BFGS-B", bounds=bounds) for start in starts]
    # Rounded before the coefficients are solved for, so that the numbers are consistent. Sorted, because the order is arbitrary.
    best = min(searches, key=lambda search: search.fun).x.round(3).reshape(-1, 2)
    sigmas = np.array(sorted(best.tolist()))
    coefficients, similarity = solve(sigmas)
    pairs = [*sigmas.tolist(), [0.0, 0.0]] if form.impulse else sigmas.tolist()
    coefficient = iter(coefficients.round(4).tolist())
    return Fit(form, [{"sigma": pair} | {name: next(coefficient) for name in form.operators} for pair in pairs], similarity)


def fit_all(learned: NDArray) -> list[Fit]:
    """Fit the eight filters, (8, k_h, k_w) in the order of the paper."""
    if len(learned) != len(FORMS):
        raise InvalidArgument(f"The fit is of the paper's {len(FORMS)} filters in their order, got {len(learned)} templates.")
    return [fit(form, template) for form, template in zip(FORMS, learned)]


def toml(fits: list[Fit]) -> str:
    """The bank as the text of ``data/banks/greedy8.toml``."""
    lines = [
        "# The eight filters as sums of first-order jets of discrete Gaussians, fitted by filterdb.fields.bank_fit.",
        "# Torch weights, x right, y up. sigma = [sigma_x, sigma_y] in pixels; T, dx, dy: coefficients of the Gaussian and",
        "# its derivatives.",
        'name = "greedy8"',
        f'citation = "{SOURCE}"',
        'made_by = "python -m filterdb.fields.bank_fit learned.txt greedy8.toml'
        ' (form 1: first-order jets at two or three scale pairs)"',
    ]
    for one in fits:
        lines += ["", f"# similarity to the learned filter {one.similarity:.4f}", "[[template]]"]
        lines += [f'name = "{one.form.name}"', f'label = "{one.form.label}"', "scales = ["]
        for scale in one.scales:
            lines.append("  { " + ", ".join(f"{key} = {value}" for key, value in scale.items()) + " },")
        lines.append("]")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Fit, write, and print the similarities."""
    if len(arguments) != 2:
        print("Usage: python -m filterdb.fields.bank_fit LEARNED.txt OUT.toml", file=sys.stderr)
        return 2
    try:
        fits = fit_all(banks.read(arguments[0]).templates)
    except FilterdbError as error:
        print(error, file=sys.stderr)
        return 1
    Path(arguments[1]).write_text(toml(fits), encoding="utf-8")
    for one in fits:
        print(f"{one.form.name:10} {one.similarity:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
