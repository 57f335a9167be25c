"""Banks of sums of jets: the toml files of ``data/banks``, and those of users.

Each template is a sum of Gaussian derivatives at a few scales, evaluated at the requested kernel size.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.banks.bank import CENTRED, Bank
from filterdb.errors import BankError, FilterdbError
from filterdb.kernels.scale_space import Jet
from filterdb.kernels.sizes import size_name
from filterdb.share import folder


def toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise BankError(f"{path.name}: cannot be read as a bank ({text}).") from error


def shipped_toml(name: str) -> Path:
    return folder("data") / "banks" / f"{name}.toml"


def odd(bank: str, kernel_h: int, kernel_w: int) -> None:
    """Refuse sizes without a centre pixel, where derivatives about a pixel are undefined."""
    size = size_name(kernel_h, kernel_w)
    if kernel_h % 2 == 0 or kernel_w % 2 == 0:
        raise BankError(f'Bank "{bank}" is centred on a pixel, so it has no templates of the even size {size}. Use odd sizes.')
    if min(kernel_h, kernel_w) < 3:
        raise BankError(f'Bank "{bank}" has derivatives along x and y, so it has no templates of {size}. Use 3x3 or larger.')


def jets(kernel_h: int, kernel_w: int, *, file: Path, shift: tuple[float, float] = CENTRED) -> Bank:
    """A bank of sums of jets, as a toml file gives it.

    Each template has ``scales = [{sigma = [σx, σy], T = …, dx = …}, …]``: derivatives of Gaussians by the names in
    ``filterdb.scale_space.OPERATORS`` with their coefficients. Sigmas are in pixels at every size, so a small kernel is the
    centre crop of a large one. ``shift = "padding"`` lets a template follow the layer's padding, by the argument ``shift``.
    ``extends = "greedy8"`` puts the templates of a shipped bank of jets before the file's own.
    """
    content = toml(file)
    try:
        name = content["name"]
        odd(name, kernel_h, kernel_w)
        templates = content["template"]
        if "extends" in content:
            templates = [*toml(shipped_toml(content["extends"]))["template"], *templates]
        for t in templates:
            if t.get("shift", "padding") != "padding":
                raise BankError(f'{file.name}: shift = {t["shift"]!r} is not known. Write shift = "padding", or leave it out.')
        return Bank(
            name=name,
            names=[t["name"] + _place(t, shift) for t in templates],
            templates=[_jet_sum(t, kernel_h, kernel_w, shift) for t in templates],
            labels=[t.get("label", t["name"]) + _place(t, shift) for t in templates],
            citation=content.get("citation", ""),
            made_by=content.get("made_by", f"read from {file.name}"),
            scale=partial(jets, file=file),
            by_padding=any("shift" in t for t in templates),
        )
    except KeyError as error:
        raise BankError(f"{file.name}: {error} is missing. A bank of jets looks like data/banks/greedy8.toml.") from error
    except FilterdbError as error:
        raise error if isinstance(error, BankError) else BankError(f"{file.name}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise BankError(f"{file.name}: {error}. A bank of jets looks like data/banks/greedy8.toml.") from error


def _place(template: dict[str, Any], shift: tuple[float, float]) -> str:
    """What is added to the name of a template that follows the padding: nothing where it is centred."""
    x, y = shift if "shift" in template else CENTRED
    words = [("lower", "", "upper")[int(np.sign(y)) + 1], ("left", "", "right")[int(np.sign(x)) + 1]]
    return f" {' '.join(word for word in words if word)}" if x or y else ""


def _jet_sum(template: dict[str, Any], kernel_h: int, kernel_w: int, shift: tuple[float, float]) -> NDArray[np.float64]:
    """The kernel of a template. Half a pixel along an axis is the mean of two neighbours, whose variance of 1/4 px² the
    Gaussian gives up, so that the shifted template is as wide as the centred one."""
    x, y = shift if "shift" in template else CENTRED
    jets = []
    for scale in template["scales"]:
        sigma_x, sigma_y = map(float, scale["sigma"])
        sigmas = [sigma_x, sigma_y]
        for axis, step in enumerate((x, y)):
            if step:
                if sigmas[axis] < 0.5:
                    raise BankError(f"A template of sigma {sigmas[axis]} px cannot be shifted by half a pixel. Use .5 or more.")
                sigmas[axis] = (sigmas[axis] ** 2 - 0.25) ** 0.5
        jets.append(Jet(sigmas[0], sigmas[1], {word: float(value) for word, value in scale.items() if word != "sigma"}))
    kernel = summed(jets, kernel_h + 2 * bool(y), kernel_w + 2 * bool(x))
    if x:
        kernel = (kernel[:, 1:-1] + (kernel[:, :-2] if x > 0 else kernel[:, 2:])) / 2
    if y:  # up is towards row 0
        kernel = (kernel[1:-1] + (kernel[2:] if y > 0 else kernel[:-2])) / 2
    return kernel


def summed(jets: Sequence[Jet], kernel_h: int, kernel_w: int) -> NDArray[np.float64]:
    return np.sum([jet.kernel(kernel_h, kernel_w) for jet in jets], axis=0)
