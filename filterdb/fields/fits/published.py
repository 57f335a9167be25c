"""The fits of Lindeberg, Babaiee and Kiasari (arXiv 2509.12746) of idealised receptive fields to learned filters.

Their forms are one derivative of T each (T, dx, dy, or one of the half-pixel dx+, dx-, dy+, dy-), or the sharpening model. Six
methods determine the scales:

* A: the spatial variance of the kernel equals that of the continuous derivative, in closed form.
* B: it equals that of the discrete derivative.
* C1, C2: least l1 error; C1 with sigma_x and sigma_y of their own, C2 with one sigma.
* D1, D2: the same with the l2 error.

What the paper leaves open was settled by its tables, which this file reproduces (see ``tests/test_published_fits.py``):

* Their forms are impulse responses, our kernels correlate: each form is turned by 180 degrees.
* The derivative is taken of a T that has been cropped to the kernel's taps, the outermost tap repeated beyond the border.
* For A and B, |kernel| is weighted by |form at sigma = 1|. For A that has a closed form only if the weight is the form at the
  sigma that is sought: variance sigma²/2 along an axis of T, 3 sigma²/2 along an axis of its derivative. The paper's digits
  are these.
* Over a group of filters, A and B give the geometric mean of all their sigmas; C and D minimise the summed error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize, minimize_scalar

from filterdb.errors import InvalidArgument, not_found
from filterdb.kernels.descriptors.spread import moments_of
from filterdb.kernels.scale_space import discrete_gaussian, mask, masks_of, odd_size

FORMS = ("T", "dx", "dx+", "dx-", "dy", "dy+", "dy-", "sharpening")
METHODS = {
    "A": "variance, closed form of the continuous theory", "B": "variance of the discrete kernels",
    "C1": "l1 error", "C2": "l1 error, one sigma", "D1": "l2 error", "D2": "l2 error, one sigma",
}  # fmt: skip
BY_VARIANCE = ("A", "B")
LARGEST_SIGMA = 0.5
"""Of the kernel's shorter side, as in ``filterdb.fields.fits.solve``."""
AT_BOUND = 0.01
"""px: a sigma nearer than this to 0 or to the largest is at its bound. The paper prints such a one as "~0"."""
NO_RESPONSE = 1e-9
"""Of the absolute sum: a response below it is rounding."""
_GRID = 15

Kernel = NDArray[np.float64]


@dataclass(frozen=True)
class PublishedFit:
    """The scales of one form by one method."""

    form: str
    method: str
    sigma_x: float
    """px."""
    sigma_y: float
    alpha: float | None
    """Of the sharpening model; None elsewhere."""
    error: float | None
    """Least l1 (C) or squared l2 (D) error of the normalised kernel; None for A and B."""
    at_bound: bool


ROWS = pa.schema(
    [
        ("template", pa.string()), ("form", pa.string()), ("method", pa.string()), ("sigma_x", pa.float64()),
        ("sigma_y", pa.float64()), ("alpha", pa.float64()), ("error", pa.float64()), ("at_bound", pa.bool_()),
    ]
)  # fmt: skip
"""A template's name, and the fields of a ``PublishedFit``."""


def template(form: str, size: tuple[int, ...], sigma_x: float, sigma_y: float, alpha: float = 1.0) -> Kernel:
    """A form as torch weights. But for the crop, the sum of T is 1, and a derivative's response to a ramp is -1."""
    kernel_h, kernel_w = size
    if form == "sharpening":
        impulse = np.zeros((kernel_h, kernel_w))
        impulse[kernel_h // 2, kernel_w // 2] = 1
        blurred = [_profile(size // 2, sigma, "") for size, sigma in ((kernel_h, sigma_y), (kernel_w, sigma_x))]
        bent = [_profile(size // 2, sigma, "dd") for size, sigma in ((kernel_h, sigma_y), (kernel_w, sigma_x))]
        return impulse - alpha * (np.outer(blurred[0], bent[1]) + np.outer(bent[0], blurred[1]))
    along_x, along_y = masks_of(form)
    row, column = _profile(kernel_w // 2, sigma_x, along_x), _profile(kernel_h // 2, sigma_y, along_y)
    turned: Kernel = np.outer(column[::-1], row)[::-1, ::-1]
    return turned


def _profile(radius: int, sigma: float, derivative: str) -> Kernel:
    cropped = np.pad(discrete_gaussian(radius, sigma**2), len(mask(derivative)) // 2, mode="edge")
    return np.convolve(cropped, mask(derivative), mode="valid")


def _variances(weights: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
    """mean_x, mean_y, var_x, var_y, cov_xy, px and px², of the positions weighted by |weights|."""
    return tuple(one[0] for one in moments_of(np.abs(weights).reshape(1, -1).astype(np.float64), *weights.shape))


def _positions(kernel_h: int, kernel_w: int) -> tuple[Kernel, Kernel]:
    """(y, x) of each tap; y is up."""
    y, x = np.mgrid[0:kernel_h, 0:kernel_w].astype(np.float64)
    return (kernel_h - 1) / 2 - y, x - (kernel_w - 1) / 2


def dc_offset(kernel: NDArray[np.floating]) -> float:
    """The constant whose removal makes a kernel most compact: the least sqrt(det V) of what is left."""
    kernel = np.asarray(kernel, dtype=np.float64)
    levels = np.unique(kernel)  # |kernel - c| bends where c is a tap; between two taps it is smooth
    grid = np.linspace(levels[0], levels[-1], 401)

    def area(c: float) -> float:
        _, _, var_x, var_y, cov_xy = _variances(kernel - c)
        return float(var_x * var_y - cov_xy**2)

    start = grid[int(np.argmin([area(c) for c in grid]))]
    step = grid[1] - grid[0]
    return float(minimize_scalar(area, bounds=(start - step, start + step), method="bounded", options={"xatol": 1e-9}).x)


def normalised(kernel: NDArray[np.floating], form: str) -> Kernel:
    """A kernel at the amplitude of a form: unit response to a ramp for derivatives; no DC and unit sum for T and sharpening."""
    h = np.asarray(kernel, dtype=np.float64)
    if form in ("T", "sharpening"):
        h = h - dc_offset(h)
        return h / _amplitude(h, np.ones(h.shape), form)
    y, x = _positions(*h.shape)
    ramp = x if "x" in form else y
    # The ramp is moved to the kernel's own centre, so that a constant in the kernel does not count.
    centre = _variances(h)[0 if "x" in form else 1]
    return -h / _amplitude(h, ramp - centre, form)  # the minus: a form is turned by 180 degrees, so its own response is -1


def _amplitude(h: Kernel, signal: Kernel, form: str) -> float:
    """A kernel's response to a signal; one that does not respond has no amplitude as that form."""
    response = float((signal * h).sum())
    if abs(response) < NO_RESPONSE * np.abs(signal * h).sum():
        raise InvalidArgument(f"A kernel has no response in common with the form {form}. Give it another form.")
    return response


def fit(kernel: NDArray[np.floating], form: str, method: str) -> PublishedFit:
    """Determine the scales of one form for one kernel.

    Args:
        kernel: (kernel_h, kernel_w) weights, both odd.
        form: one of ``FORMS``; for sharpening only C (l1) and D (l2) exist, which give one sigma and alpha.
        method: one of ``METHODS``.

    Raises:
        NotFound: no such form or method.
        InvalidArgument: an even size, a constant kernel, or a method that a form does not have.
    """
    [found] = fit_all([kernel], [form], method)
    return found


def fit_group(kernels: Sequence[NDArray[np.floating]], forms: Sequence[str], method: str) -> float:
    """One sigma for several kernels, each in its own form: the geometric mean for A and B, else the least summed error."""
    check(kernels, forms, [method])
    if method in BY_VARIANCE:
        sigmas = [sigma for one in fit_all(kernels, forms, method) for sigma in (one.sigma_x, one.sigma_y)]
        return float(np.exp(np.log(sigmas).mean()))
    if "sharpening" in forms:
        raise InvalidArgument("The sharpening model has its own alpha. Exclude it from a group.")
    scaled = [normalised(kernel, form) for kernel, form in zip(kernels, forms, strict=True)]

    def error(p: Sequence[float]) -> float:
        pairs = zip(scaled, forms, strict=True)
        return sum((_error(h, template(form, h.shape, p[0], p[0]), method) for h, form in pairs), 0.0)

    return float(_least(error, [(0.0, LARGEST_SIGMA * min(kernels[0].shape))])[0][0])


def fit_all(kernels: Sequence[NDArray[np.floating]], forms: Sequence[str], method: str) -> list[PublishedFit]:
    """``fit`` for each of several kernels."""
    check(kernels, forms, [method])
    return [_fit(np.asarray(k, dtype=np.float64), form, method) for k, form in zip(kernels, forms, strict=True)]


def check(kernels: Sequence[NDArray[np.floating]], forms: Sequence[str], methods: Sequence[str] | None) -> None:
    """Refuse what cannot be fitted, in one line."""
    for method in methods or ():
        if method not in METHODS:
            raise not_found("method", method, METHODS)
    if len(kernels) != len(forms):
        raise InvalidArgument(f"{len(kernels)} kernels need as many forms, got {len(forms)}: {', '.join(forms)}.")
    for kernel, form in zip(kernels, forms, strict=True):
        if form not in FORMS:
            raise not_found("form", form, FORMS)
        if kernel.ndim != 2 or not np.isfinite(kernel).all():
            raise InvalidArgument(f"A kernel is a 2-D array of finite numbers, got one of shape {kernel.shape}.")
        odd_size(*kernel.shape)
        if min(kernel.shape) < 3:
            raise InvalidArgument(f"The published forms need kernels of 3x3 or larger, got {kernel.shape[0]}x{kernel.shape[1]}.")
        if np.ptp(kernel) == 0:
            raise InvalidArgument("A constant kernel has no spread to fit. Leave it out.")


def _fit(kernel: Kernel, form: str, method: str) -> PublishedFit:
    largest = LARGEST_SIGMA * min(kernel.shape)
    if form == "sharpening" and method in BY_VARIANCE:
        raise InvalidArgument(f"The sharpening model has no fit by variance (method {method}): use C1, C2, D1 or D2.")
    h = normalised(kernel, form)
    if method in BY_VARIANCE:
        x, y = (_of_variance(h, form, method, axis, largest) for axis in (0, 1))
        return PublishedFit(form, method, x, y, None, None, _bounded([x, y], largest))
    if form == "sharpening":

        def sharpening_error(p: Sequence[float]) -> float:
            return _error(h, template(form, h.shape, p[0], p[0], p[1]), method)

        (sigma, alpha), error = _least(sharpening_error, [(0.0, largest), (-4.0, 4.0)])
        return PublishedFit(form, method, sigma, sigma, alpha, error, _bounded([sigma], largest))

    def form_error(p: Sequence[float]) -> float:
        return _error(h, template(form, h.shape, p[0], p[-1]), method)

    best, error = _least(form_error, [(0.0, largest)] * (1 if method.endswith("2") else 2))
    return PublishedFit(form, method, best[0], best[-1], None, error, _bounded(best, largest))


def _bounded(sigmas: Sequence[float], largest: float) -> bool:
    return any(sigma < AT_BOUND or sigma > largest - AT_BOUND for sigma in sigmas)


def _error(h: Kernel, model: Kernel, method: str) -> float:
    left = h - model
    return float(np.abs(left).sum() if method[0] == "C" else (left**2).sum())


def _of_variance(kernel: Kernel, form: str, method: str, axis: int, largest: float) -> float:
    """The sigma along x (0) or y (1) whose form has the kernel's weighted variance there."""
    weight = template(form, kernel.shape, 1.0, 1.0)
    wanted = float(_variances(kernel * weight)[2 + axis])
    if method == "A":
        along = "xy"[axis] in form
        return float(np.sqrt(2 * wanted / 3 if along else 2 * wanted))

    def lacking(sigma: float) -> float:  # a separable form's variance along an axis depends on the sigma of that axis alone
        return float(_variances(template(form, kernel.shape, sigma, sigma) * weight)[2 + axis]) - wanted

    # Half-pixel forms have a variance of at least 1/4 along their axis, and no form fills more than the kernel.
    if lacking(0.0) >= 0:
        return 0.0
    return float(brentq(lacking, 0.0, largest, xtol=1e-10)) if lacking(largest) > 0 else largest


def _least(error: Callable[[Sequence[float]], float], bounds: Sequence[tuple[float, float]]) -> tuple[list[float], float]:
    """The least of an error that may have several valleys and kinks: a grid, then Nelder and Mead from its best nodes."""
    nodes = list(product(*(np.linspace(low, high, _GRID) for low, high in bounds)))
    starts = sorted(nodes, key=error)[:4]
    options = {"xatol": 1e-7, "fatol": 1e-13, "maxiter": 2000}
    found = min(
        (minimize(error, start, method="Nelder-Mead", bounds=bounds, options=options) for start in starts),
        key=lambda one: one.fun,
    )
    return [float(value) for value in found.x], float(found.fun)
