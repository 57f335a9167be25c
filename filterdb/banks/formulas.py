"""The banks that ship with filterdb, each a formula at any kernel size, and banks from files.

Their numbers are in ``data/banks``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filterdb.banks.bank import CENTRED, Bank
from filterdb.banks.files import Table, read_table, write_table
from filterdb.banks.jets import jets, odd, shipped_toml, summed, toml
from filterdb.errors import BankError, InvalidArgument, not_found
from filterdb.kernels.scale_space import Jet, cross, discrete_gaussian
from filterdb.kernels.sizes import Pair, Rows, parse_size, size_name


def shipped() -> list[str]:
    """The names of the banks that come with filterdb."""
    return list(_SHIPPED)


def load(name: str, *, size: str | int | Pair | None = None, **options: Any) -> Bank:
    """A shipped bank.

    Args:
        name: one of ``shipped()``.
        size: kernel size, ``"5x5"``, 5 or (5, 5); 7x7 where none is given.
        options: of the bank, such as ``method="C1"`` for greedy8_published or ``seed=1`` for random.
    """
    if name not in _SHIPPED:
        raise not_found("bank", name, _SHIPPED)
    build = _SHIPPED[name]
    known = [word for word, parameter in inspect.signature(build).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise not_found(f"option of {name}", option, known)
    kernel_h, kernel_w = size if isinstance(size, tuple) else parse_size(size or 7)
    if isinstance(kernel_h, Rows):
        raise BankError(f'Bank "{name}" is of images, not of {size_name(kernel_h, kernel_w)} kernels. Make one with bank create.')
    return build(kernel_h, kernel_w, **options)


def read(
    path: str | Path,
    *,
    name: str | None = None,
    size: str | int | Pair | None = None,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    citation: str = "",
    made_by: str = "",
) -> Bank:
    """A bank from a file: npy, csv, txt or json (see ``filterdb.banks.files``), or a toml of jets, which scales.

    Args:
        path: the file.
        name: of the bank; the file's own, or its stem.
        size: needed only for flat templates that are not square, and to ask a toml for another size.
        names, labels, citation, made_by: go before what the file says.
    """
    path = Path(path)
    pair = size if isinstance(size, tuple) or size is None else parse_size(size)
    if path.suffix.lower() == ".toml":
        bank = jets(*(pair or (7, 7)), file=path)
        given: dict[str, Any] = {"name": name, "names": names, "labels": labels, "citation": citation, "made_by": made_by}
        return replace(bank, **{key: value for key, value in given.items() if value})
    table = read_table(path, pair)
    return Bank(
        name=name or table.name or path.stem,
        names=names or table.names or [str(number) for number in range(1, len(table.templates) + 1)],
        templates=table.templates,
        labels=labels or table.labels or None,
        citation=citation or table.citation,
        made_by=made_by or table.made_by or f"read from {path.name}",
    )


def write(bank: Bank, path: str | Path) -> None:
    """Write the templates as npy, csv, txt or json by the suffix; ``read`` gives them back bit for bit.

    Only json keeps everything: csv drops citation and made_by, txt the labels as well, npy all words. The formula stays behind.
    """
    write_table(Table(bank.templates, bank.names, bank.labels, bank.name, bank.citation, bank.made_by), Path(path))


def _greedy8(kernel_h: int, kernel_w: int) -> Bank:
    """The eight learned filters as sums of first-order jets, fitted by ``filterdb.fields.bank_fit``."""
    return jets(kernel_h, kernel_w, file=shipped_toml("greedy8"))


def _greedy9(kernel_h: int, kernel_w: int, *, shift: tuple[float, float] = CENTRED) -> Bank:
    """The eight and a wide smoother, which strided layers want half a pixel off the centre."""
    return jets(kernel_h, kernel_w, file=shipped_toml("greedy9"), shift=shift)


def _greedy8_published(kernel_h: int, kernel_w: int, *, method: str = "B") -> Bank:
    """The published idealised forms of the eight, at the scales of one of the published fits.

    The paper's forms are impulse responses (what convolution flips), and torch correlates: each template is the operator's
    correlation kernel turned by 180 degrees. Without that turn the half-pixel forms come out mirrored.
    """
    odd("greedy8_published", kernel_h, kernel_w)
    content = toml(shipped_toml("greedy8_published"))
    methods = {fit["method"]: fit for fit in content["fit"]}
    if method not in methods:
        raise not_found("method of greedy8_published", method, methods)
    templates = []
    for t in content["template"]:
        if "sharpening" in t:
            fit = t["sharpening"][methods[method]["sharpening"]]
            alpha, sigma = fit["alpha"], fit["sigma"]
            jets = [Jet(0, 0, {"T": 1}), Jet(sigma, sigma, {"dxx": -alpha, "dyy": -alpha})]
        else:
            sigma_x, sigma_y = methods[method]["sigma"][t["name"]]
            jets = [Jet(sigma_x, sigma_y, {t["operator"]: t["sign"]})]
        templates.append(summed(jets, kernel_h, kernel_w)[::-1, ::-1])
    return Bank(
        name="greedy8_published",
        names=[t["name"] for t in content["template"]],
        templates=templates,
        labels=[t["label"] for t in content["template"]],
        citation=content["citation"],
        made_by=f"{content['made_by']}, method {method}",
        scale=partial(_greedy8_published, method=method),
    )


def _dog(kernel_h: int, kernel_w: int) -> Bank:
    """The classes of trained depthwise kernels as ideal forms, their sigmas proportional to the kernel's shorter side."""
    odd("dog", kernel_h, kernel_w)
    content = toml(shipped_toml("dog"))
    sigma = {word: value * min(kernel_h, kernel_w) / 7 for word, value in content["sigma_at_7x7"].items()}

    def jet(name: str, operator: str) -> NDArray[np.float64]:
        return Jet(sigma[name], sigma[name], {operator: 1}).kernel(kernel_h, kernel_w)

    centre = jet("centre", "T") - jet("surround", "T")
    lines = cross(kernel_h, kernel_w, sigma["cross"])
    dx, dy = jet("first_derivative", "dx"), jet("first_derivative", "dy")
    second = [jet("second_derivative", operator) for operator in ("dxx", "dyy")]
    return Bank(
        name="dog",
        names=list(content["labels"]),
        templates=[centre, -centre, lines, -lines, dx, -dx, dy, -dy, *second],
        labels=list(content["labels"].values()),
        citation=content["citation"],
        made_by=content["made_by"],
        scale=_dog,
    )


def _control(build: Callable[..., Bank], templates: ArrayLike, names: Sequence[str], made_by: str, **options: Any) -> Bank:
    return Bank(build.__name__[1:], names, templates, made_by=made_by, scale=partial(build, **options))


def _count(count: int) -> None:
    if not (isinstance(count, int) and count >= 1):
        raise InvalidArgument(f"count must be a whole number from 1, got {count!r}.")


def _seeded(seed: int, *size: int) -> np.random.Generator:
    if not (isinstance(seed, int) and seed >= 0):
        raise InvalidArgument(f"seed must be a whole number from 0, got {seed!r}.")
    return np.random.default_rng([seed, *size])


def _random(kernel_h: int, kernel_w: int, *, count: int = 8, seed: int = 0) -> Bank:
    """Control: taps drawn independently from the standard normal distribution, anew at each size."""
    _count(count)
    templates = _seeded(seed, kernel_h, kernel_w).standard_normal((count, kernel_h, kernel_w))
    made_by = f"standard normal taps, seed {seed}"
    return _control(_random, templates, [f"random_{n}" for n in range(1, count + 1)], made_by, count=count, seed=seed)


def _smoothed_random(kernel_h: int, kernel_w: int, *, count: int = 8, seed: int = 0, sigma: float = 1.0) -> Bank:
    """Control: white noise smoothed by the discrete Gaussian of sigma px, cropped where the border has no influence."""
    _count(count)
    if not 0 <= sigma <= 64:
        raise InvalidArgument(f"sigma must be from 0 to 64 px, got {sigma!r}.")
    reach = int(np.ceil(6 * sigma))
    noise = _seeded(seed, kernel_h, kernel_w).standard_normal((count, kernel_h + 2 * reach, kernel_w + 2 * reach))
    smooth = discrete_gaussian(reach, sigma**2)
    for axis in (1, 2):
        noise = np.apply_along_axis(np.convolve, axis, noise, smooth, mode="valid")
    made_by = f"white noise smoothed by the discrete Gaussian of sigma {sigma} px, seed {seed}"
    names = [f"smoothed_{n}" for n in range(1, count + 1)]
    return _control(_smoothed_random, noise, names, made_by, count=count, seed=seed, sigma=sigma)


def _impulse(kernel_h: int, kernel_w: int, *, count: int = 8, seed: int = 0) -> Bank:
    """Control: a single 1 at ``count`` different taps drawn at random; ``r2c5`` is row 2, column 5, counted from 0."""
    taps = kernel_h * kernel_w
    _count(count)
    if count > taps:
        size = size_name(kernel_h, kernel_w)
        raise BankError(f'Bank "impulse" has {taps} different templates of {size}, got count {count}. Ask for fewer.')
    chosen = np.sort(_seeded(seed, kernel_h, kernel_w).choice(taps, count, replace=False))
    templates = np.eye(taps)[chosen].reshape(count, kernel_h, kernel_w)
    names = [f"r{tap // kernel_w}c{tap % kernel_w}" for tap in chosen]
    return _control(_impulse, templates, names, f"impulses at random taps, seed {seed}", count=count, seed=seed)


def _box(kernel_h: int, kernel_w: int) -> Bank:
    """Control: boxes of ones of side 2 … k - 1 within the k x k kernel (cut to the kernel where it is a strip).

    The box of the whole kernel is constant, so after centring it has no direction; these are the boxes that have one. Each lies
    as near the centre as the grid allows: half a pixel up and left of it where one of the two sides is even and the other odd.
    """
    sides = range(2, max(kernel_h, kernel_w))
    if not sides:
        raise BankError(f'Bank "box" needs room around a box of 2 taps, got {size_name(kernel_h, kernel_w)}. Use 3x3 or larger.')
    templates = np.zeros((len(sides), kernel_h, kernel_w))
    for template, side in zip(templates, sides):
        h, w = min(side, kernel_h), min(side, kernel_w)
        top, left = (kernel_h - h) // 2, (kernel_w - w) // 2
        template[top : top + h, left : left + w] = 1
    return _control(_box, templates, [f"box_{side}" for side in sides], "centred boxes smaller than the kernel")


_SHIPPED: dict[str, Callable[..., Bank]] = {
    "greedy8": _greedy8,
    "greedy9": _greedy9,
    "greedy8_published": _greedy8_published,
    "dog": _dog,
    "random": _random,
    "smoothed_random": _smoothed_random,
    "impulse": _impulse,
    "box": _box,
}
