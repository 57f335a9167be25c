"""The plan of a replacement: the bank for each layer, and the layers that stay unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from filterdb.banks import CENTRED, Bank
from filterdb.errors import BankError, InvalidArgument, not_found
from filterdb.frozen import mixtures
from filterdb.frozen.make_bank import crop
from filterdb.kernels.sizes import parse_size, size_name
from filterdb.store.schema import Layer

Resize = Literal["none", "formula", "crop"]
Banks = Bank | Mapping[str, Bank | None]
"""One bank, or several by what they are for: a kernel size (``"5x5"``), a layer's name or glob, or ``""`` for everything else.
None leaves these layers as they are."""

CHOSEN_OUT = "not among the layers asked for"


@dataclass(frozen=True)
class Plan:
    """A choice of banks, which answers for each layer.

    A layer's own name or glob has priority over its size, and its size over the bank for everything else. A bank replaces
    kernels of its own size, and others by ``resize``: "none" leaves them, "formula" takes the bank at their size where its
    formula has one, "crop" the centre crop of its templates for smaller kernels.
    """

    banks: Mapping[str, Bank | None]
    layers: tuple[str, ...] = ("*",)
    """Names or globs of the layers that may change."""
    resize: Resize = "none"
    signed: bool = False
    """Only positive gains."""
    mix: float = 0.0
    """A kernel becomes a mixture of two templates if one keeps less than this share of its energy."""

    @classmethod
    def of(
        cls, bank: Banks, *, layers: str | Sequence[str] | None = None, resize: Resize = "none", signed: bool = False,
        mix: float = 0.0,
    ) -> Plan:  # fmt: skip
        """A plan from what a user may say.

        Raises:
            InvalidArgument: no bank, an unknown ``resize``, a ``mix`` that is no share, or mixed and signed at once.
        """
        if resize not in ("none", "formula", "crop"):
            raise InvalidArgument(f'resize "{resize}" is not a choice. Choose none, formula or crop.')
        mixtures.check(mix, signed)
        banks = {"": bank} if isinstance(bank, Bank) else dict(bank)
        if not any(banks.values()):
            raise InvalidArgument("No bank was given, so there is nothing to replace kernels by. Name one, such as greedy8.")
        for key, one in banks.items():
            if one is not None and is_size(key) and isinstance(reason := _at(one, *parse_size(key), resize), str):
                raise InvalidArgument(f"No bank for {key}: {reason}. Give one of {key}, or resize formula or crop.")
        patterns = ("*",) if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
        return cls(banks, patterns, resize, signed, mix)

    def bank_for(self, layer: Layer) -> Bank | str:
        """The bank at a layer's kernel size and by its padding, or why the layer stays as it is."""
        if not any(_matches(layer.name, pattern) for pattern in self.layers):
            return CHOSEN_OUT
        size = size_name(layer.kernel_h, layer.kernel_w)
        named = [key for key in self.banks if key and not is_size(key) and _matches(layer.name, key)]
        # of several globs the longest says most
        key = max(named, key=len) if named else next((k for k in self.banks if is_size(k) and _same(k, size)), "")
        bank = self.banks.get(key)
        if bank is None:
            return f"{key} was to stay" if key in self.banks else "no bank was given for it"
        return _at(bank, layer.kernel_h, layer.kernel_w, self.resize, half_pixel(layer))

    def check(self, layers: Iterable[Layer]) -> None:
        """Refuse a plan that would change nothing, or that names layers and sizes that are not there.

        Raises:
            NotFound: a name or glob that no layer has.
            InvalidArgument: no kernel would be replaced; the message says which sizes there are.
        """
        there = list(layers)
        names = [one.name for one in there]
        for pattern in (*self.layers, *(key for key in self.banks if key and not is_size(key))):
            if not any(_matches(name, pattern) for name in names):
                raise not_found("depthwise layer", pattern, names)
        sizes = dict.fromkeys(size_name(one.kernel_h, one.kernel_w) for one in there)
        for key in self.banks:
            if is_size(key) and not any(_same(key, size) for size in sizes):
                raise not_found("depthwise layer of size", key, sizes)
        reasons = [self.bank_for(one) for one in there]
        if not any(isinstance(reason, Bank) for reason in reasons):
            words = dict.fromkeys(reason for reason in reasons if isinstance(reason, str) and reason != CHOSEN_OUT)
            raise InvalidArgument(
                f"No kernel would be replaced: the layers have {', '.join(sorted(sizes))} kernels, and "
                f"{'; '.join(words) or 'no layer was chosen'}. Give a bank of their size, or resize formula or crop."
            )


def is_size(key: str) -> bool:
    """Whether a key of a plan is a kernel size."""
    try:
        parse_size(key)
    except InvalidArgument:
        return False
    return True


def _same(key: str, size: str) -> bool:
    return size_name(*parse_size(key)) == size


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def half_pixel(layer: Layer) -> tuple[float, float]:
    """Where the centre of what an output pixel covers lies in a layer's kernel: (x, y), px right of and above its centre.

    With stride s and p pixels of padding before the first, output 0 covers the input pixels 0 … s - 1, and the kernel's centre
    lies on (k - 1) d / 2 - p. At stride 2, symmetric padding of k // 2 gives a half pixel to the lower right, and TensorFlow's
    "same" on even inputs to the upper left. At stride 1, and where strides are unknown, there is no shift.
    """
    if not isinstance(layer.stride, tuple) or layer.padding is None or layer.ndim != 2:
        return CENTRED
    found = []
    for axis, size in enumerate((int(layer.kernel_h), layer.kernel_w)):
        stride, dilation = layer.stride[axis], layer.dilation[axis] if isinstance(layer.dilation, tuple) else 1
        reach = (size - 1) * dilation
        # "same" pads so that ceil(n / s) outputs fit: of an input of a multiple of s pixels, reach + 1 - s in all
        before = max(reach + 1 - stride, 0) // 2 if layer.padding == "same" else layer.padding[axis]
        shift = (stride - 1) / 2 + before - reach / 2
        found.append(shift / dilation if abs(shift / dilation) == 0.5 else 0.0)
    return found[1], -found[0] or 0.0


def _at(bank: Bank, kernel_h: int, kernel_w: int, resize: Resize, shift: tuple[float, float] = CENTRED) -> Bank | str:
    """A bank at a size, or why it has none."""
    if (bank.kernel_h, bank.kernel_w) == (kernel_h, kernel_w):
        return bank.at((kernel_h, kernel_w), shift)
    if resize == "none":
        return f"the bank {bank.name} is of {bank.size}"
    try:
        return bank.at((kernel_h, kernel_w), shift) if resize == "formula" else crop(bank, kernel_h, kernel_w)
    except BankError as error:
        if resize == "formula" and not bank.scalable:
            raise
        return str(error)
