"""Banks: named templates to compare kernels with, those that ship and those of the user.

A shipped bank is a formula, evaluated at the requested kernel size. Its numbers are in ``data/banks``. Templates have the order
of torch weights: row 0 on top, column 0 on the left.
"""

from __future__ import annotations

import inspect
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filterdb.banks.files import Table, read_table, write_table
from filterdb.errors import BankError, FilterdbError, InvalidArgument, not_found
from filterdb.kernels import centred_unit, heat_map
from filterdb.kernels.scale_space import Jet, cross, discrete_gaussian
from filterdb.kernels.sizes import Pair, Rows, parse_size, size_name, size_of
from filterdb.share import folder

CENTRED = (0.0, 0.0)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Bank:
    """Named templates of one kernel size.

    >>> Bank(name="edges", names=["left", "right"], templates=[[[1, 0, -1]], [[-1, 0, 1]]])
    <Bank edges: 2 templates of 1x3>
    """

    name: str
    names: list[str]
    """One unique name for each template."""
    templates: NDArray[np.float32]
    """(m, kernel_h, kernel_w), or (m, kernel_d, kernel_h, kernel_w), read-only. Any mean and length: only the direction after
    centring counts."""
    labels: list[str]
    """A description of each template; by default its name."""
    citation: str
    made_by: str
    scale: Callable[..., Bank] | None
    """The formula: the bank at another (kernel_h, kernel_w). None for templates that are only numbers."""
    by_padding: bool
    """Whether some templates stand half a pixel off the centre where a layer's stride and padding say so; see ``at``."""

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        templates: ArrayLike,
        labels: Sequence[str] | None = None,
        citation: str = "",
        made_by: str = "",
        scale: Callable[..., Bank] | None = None,
        by_padding: bool = False,
    ) -> None:
        with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite below
            array = np.array(templates, dtype=np.float32)
        _check(name, list(names), array, labels)
        array.flags.writeable = False
        values = {"name": name, "names": list(names), "templates": array, "labels": list(labels or names)}
        rest = {"citation": citation, "made_by": made_by, "scale": scale, "by_padding": by_padding}
        for key, value in (values | rest).items():
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<Bank {self.name}: {len(self)} template{'s'[: len(self) != 1]} of {self.size}>"

    def _repr_html_(self) -> str:
        """In notebooks: the templates with their names."""
        title = f"{self.name}: {len(self)} template{'s'[: len(self) != 1]} of {self.size}"
        sheets = [one.reshape(-1, one.shape[-1]) - one.mean() for one in self.templates]
        return heat_map.html(sheets, self.names, title)

    @property
    def kernel_h(self) -> int:
        return size_of(self.templates.shape[1:])[0]

    @property
    def kernel_w(self) -> int:
        return size_of(self.templates.shape[1:])[1]

    @property
    def size(self) -> str:
        """``7x7``, rows first."""
        return size_name(self.kernel_h, self.kernel_w)

    @property
    def scalable(self) -> bool:
        """Whether a formula gives the bank at other sizes."""
        return self.scale is not None

    @property
    def unit(self) -> NDArray[np.float32]:
        """(m, kernel_h * kernel_w), the templates centred and scaled to length 1."""
        return centred_unit(self.templates.astype(np.float64)).unit.astype(np.float32)

    def at(self, size: str | int | Pair, shift: tuple[float, float] = CENTRED) -> Bank:
        """The same bank at another kernel size, by its formula.

        Args:
            size: ``"5x5"``, 5 or (5, 5).
            shift: where templates that follow the padding stand: (x, y), px right of and above the centre, each -.5, 0 or .5.
                Other templates stay.
        """
        kernel_h, kernel_w = size if isinstance(size, tuple) else parse_size(size)
        shift = shift if self.by_padding else CENTRED
        if (kernel_h, kernel_w) == (self.kernel_h, self.kernel_w) and shift == CENTRED:
            return self
        wanted = size_name(kernel_h, kernel_w)
        if self.scale is None or isinstance(kernel_h, Rows):
            raise BankError(
                f'Bank "{self.name}" is numbers at {self.size}, without a formula for {wanted}. Create or import one.'
            )
        made = self.scale(kernel_h, kernel_w, shift=shift) if self.by_padding else self.scale(kernel_h, kernel_w)
        return replace(made, name=self.name)


def _check(name: str, names: list[str], templates: NDArray, labels: Sequence[str] | None) -> None:
    def refuse(problem: str) -> None:
        raise BankError(f'Bank "{name}": {problem}')

    if not (name and name == name.strip() and name.isprintable()):
        raise BankError(f"A bank needs a name in printable characters, got {name!r}.")
    if templates.ndim not in (3, 4) or 0 in templates.shape:
        refuse(f"templates are an array of (at least one, rows, columns) or (…, slices, rows, columns), got {templates.shape}.")
    if len(names) != len(templates) or (labels and len(labels) != len(templates)):
        refuse(f"{len(templates)} templates need as many names and labels, got {len(names)} and {len(labels or names)}.")
    for word in names:
        if not (isinstance(word, str) and word and word == word.strip() and word.isprintable()):
            refuse(f"a template needs a name in printable characters, got {word!r}.")
    twice = [word for word, count in Counter(names).items() if count > 1]
    if twice:
        refuse(f'the name "{twice[0]}" is given twice. Make the names of the templates unique.')
    for word, template in zip(names, templates):
        if not np.isfinite(template).all():
            refuse(f'template "{word}" has values that are not finite in float32 (NaN or infinite). Fix it or leave it out.')
    for word, dead in zip(names, centred_unit(templates.astype(np.float64)).dead):
        if dead:
            refuse(f'template "{word}" is constant: it has no direction, so nothing can be similar to it. Leave it out.')


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
        bank = _jets(*(pair or (7, 7)), file=path)
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


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise BankError(f"{path.name}: cannot be read as a bank ({text}).") from error


def _shipped_toml(name: str) -> Path:
    return folder("data") / "banks" / f"{name}.toml"


def _odd(bank: str, kernel_h: int, kernel_w: int) -> None:
    """Refuse sizes without a centre pixel, where derivatives about a pixel are undefined."""
    size = size_name(kernel_h, kernel_w)
    if kernel_h % 2 == 0 or kernel_w % 2 == 0:
        raise BankError(f'Bank "{bank}" is centred on a pixel, so it has no templates of the even size {size}. Use odd sizes.')
    if min(kernel_h, kernel_w) < 3:
        raise BankError(f'Bank "{bank}" has derivatives along x and y, so it has no templates of {size}. Use 3x3 or larger.')


def _jets(kernel_h: int, kernel_w: int, *, file: Path, shift: tuple[float, float] = CENTRED) -> Bank:
    """A bank of sums of jets, as a toml file gives it.

    Each template has ``scales = [{sigma = [σx, σy], T = …, dx = …}, …]``: derivatives of Gaussians by the names in
    ``filterdb.scale_space.OPERATORS`` with their coefficients. Sigmas are in pixels at every size, so a small kernel is the
    centre crop of a large one. ``shift = "padding"`` lets a template follow the layer's padding, by the argument ``shift``.
    ``extends = "greedy8"`` puts the templates of a shipped bank of jets before the file's own.
    """
    content = _toml(file)
    try:
        name = content["name"]
        _odd(name, kernel_h, kernel_w)
        templates = content["template"]
        if "extends" in content:
            templates = [*_toml(_shipped_toml(content["extends"]))["template"], *templates]
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
            scale=partial(_jets, file=file),
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
    kernel = _sum(jets, kernel_h + 2 * bool(y), kernel_w + 2 * bool(x))
    if x:
        kernel = (kernel[:, 1:-1] + (kernel[:, :-2] if x > 0 else kernel[:, 2:])) / 2
    if y:  # up is towards row 0
        kernel = (kernel[1:-1] + (kernel[2:] if y > 0 else kernel[:-2])) / 2
    return kernel


def _sum(jets: Sequence[Jet], kernel_h: int, kernel_w: int) -> NDArray[np.float64]:
    return np.sum([jet.kernel(kernel_h, kernel_w) for jet in jets], axis=0)


def _greedy8(kernel_h: int, kernel_w: int) -> Bank:
    """The eight learned filters as sums of first-order jets, fitted by ``filterdb.fields.bank_fit``."""
    return _jets(kernel_h, kernel_w, file=_shipped_toml("greedy8"))


def _greedy9(kernel_h: int, kernel_w: int, *, shift: tuple[float, float] = CENTRED) -> Bank:
    """The eight and a wide smoother, which strided layers want half a pixel off the centre."""
    return _jets(kernel_h, kernel_w, file=_shipped_toml("greedy9"), shift=shift)


def _greedy8_published(kernel_h: int, kernel_w: int, *, method: str = "B") -> Bank:
    """The published idealised forms of the eight, at the scales of one of the published fits.

    The paper's forms are impulse responses (what convolution flips), and torch correlates: each template is the operator's
    correlation kernel turned by 180 degrees. Without that turn the half-pixel forms come out mirrored.
    """
    _odd("greedy8_published", kernel_h, kernel_w)
    content = _toml(_shipped_toml("greedy8_published"))
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
        templates.append(_sum(jets, kernel_h, kernel_w)[::-1, ::-1])
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
    _odd("dog", kernel_h, kernel_w)
    content = _toml(_shipped_toml("dog"))
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
