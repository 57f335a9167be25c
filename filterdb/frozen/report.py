"""The report of a replacement: layer by layer, and in total."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.kernels import centred_unit, rows

SAME = 2e-6
"""Centred unit kernels that lie no farther apart along any of ``LOOKS`` directions are one: float32 rounds a·g + b by less."""
LOOKS = 8


@dataclass(frozen=True)
class LayerReport:
    """One depthwise layer."""

    layer: str
    size: str
    bank: str | None
    """None where the layer stayed as it is; ``reason`` says why."""
    kernels: int
    replaced: int
    """Kernels that are a·g + b now."""
    dead: int
    """Constant kernels: they have no template, and stay constant."""
    unique_before: int
    """Different non-constant kernels, up to gain (of either sign) and offset."""
    unique_after: int
    energy_kept: float | None = None
    """Mean over the replaced kernels of 1 - |f - f'|² / |f - mean f|²; for the nearest template that is rho²."""
    raw_energy_kept: float | None = None
    """Mean of 1 - |f - f'|² / |f|²."""
    similarity: float | None = None
    """Mean |rho| of old and new kernel."""
    two: int = 0
    """Of the replaced, those that are a mixture of two templates."""
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """A whole network or file."""

    source: str
    layers: tuple[LayerReport, ...]
    signed: bool = False
    match: str = "weights"
    """What templates were matched by: weights or inputs."""
    unique_before: int = 0
    """Different non-constant kernels of all layers together."""
    unique_after: int = 0
    notes: tuple[str, ...] = ()
    """What else was done or should be known."""
    written: str | None = None
    """The file, where one was written."""
    mode: str = "replaced"
    """What was done, in one word: replaced, replaced+recalibrated, replaced+repaired."""

    @property
    def kernels(self) -> int:
        """Of all depthwise layers."""
        return sum(one.kernels for one in self.layers)

    @property
    def replaced(self) -> int:
        """Kernels that are a·g + b now."""
        return sum(one.replaced for one in self.layers)

    @property
    def dead(self) -> int:
        """Constant kernels in the layers that were replaced."""
        return sum(one.dead for one in self.layers if one.bank is not None)

    @property
    def kept(self) -> int:
        """Kernels of the layers that stayed as they are."""
        return sum(one.kernels for one in self.layers if one.bank is None)

    def mean(self, name: str) -> float | None:
        """The mean over all replaced kernels of energy_kept, raw_energy_kept or similarity."""
        pairs = [(one.replaced, value) for one in self.layers if (value := getattr(one, name)) is not None]
        total = sum(count for count, _ in pairs)
        return sum(count * value for count, value in pairs) / total if total else None

    def totals(self) -> dict[str, Any]:
        """The network in one row."""
        return {
            "kernels": self.kernels, "replaced": self.replaced, "dead": self.dead, "kept": self.kept,
            "unique_before": self.unique_before, "unique_after": self.unique_after,
            **{name: self.mean(name) for name in ("energy_kept", "raw_energy_kept", "similarity")},
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        rest = asdict(self) | {"layers": [asdict(one) for one in self.layers], "notes": list(self.notes)}
        return {"totals": self.totals(), **rest}


def distinct(kernels: Iterable[NDArray[np.floating]]) -> int:
    """Number of non-constant kernels that differ by more than a gain of either sign and an offset.

    Args:
        kernels: arrays (n, kernel_h, kernel_w); kernels of different shapes differ.

    Equal kernels have equal coordinates along any direction. So the kernels are sorted along one direction after another and cut
    where neighbours lie apart: what is never cut is one kernel.
    """
    by_shape: dict[tuple[int, ...], list[NDArray[np.floating]]] = {}
    for some in kernels:
        by_shape.setdefault(some.shape[1:], []).append(rows(some).astype(np.float64))
    return sum(_distinct(np.concatenate(group)) for group in by_shape.values())


def _distinct(flat: NDArray[np.float64]) -> int:
    parts = centred_unit(flat)
    unit = parts.unit[~parts.dead]
    if not len(unit):
        return 0
    looks = unit @ np.random.default_rng(0).standard_normal((unit.shape[1], LOOKS))
    # a kernel and its negative are one: turned so that the largest of the coordinates is positive
    largest = np.abs(looks).argmax(axis=1)
    looks *= np.sign(looks[np.arange(len(looks)), largest])[:, None]
    group = np.zeros(len(looks), np.int64)
    for look in looks.T:
        order = np.lexsort((look, group))
        cut = (np.diff(look[order]) > SAME) | (np.diff(group[order]) != 0)
        group[order] = np.concatenate([[0], cut.cumsum()])
    return int(group.max()) + 1


def kept_energy(
    old: NDArray[np.floating], new: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """For each kernel 1 - |f - f'|² / |f - mean f|², 1 - |f - f'|² / |f|², and |rho|; for non-constant kernels (n, d)."""
    f, g = rows(old).astype(np.float64), rows(new).astype(np.float64)
    left = ((f - g) ** 2).sum(axis=1)
    before, after = centred_unit(f), centred_unit(g)
    rho = np.abs(np.einsum("ij,ij->i", before.unit, after.unit))
    return 1 - left / before.deviation**2, 1 - left / (f**2).sum(axis=1), rho
