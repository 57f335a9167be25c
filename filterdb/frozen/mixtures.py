"""Two templates (a1·g1 + a2·g2 + b) for kernels of which a·g + b keeps too little energy.

The first template stays the closest one; the second is the one that explains most together with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.banks import Bank
from filterdb.errors import InvalidArgument
from filterdb.kernels import centred_unit

APART = 1e-6
"""1 - rho² of two templates that are one: together they explain no more than either."""

Floats = NDArray[np.floating]


def check(mix: float, signed: bool) -> None:
    """Refuse what cannot be.

    Raises:
        InvalidArgument: a share that is none, or mixtures of templates with positive gains only.
    """
    if not (isinstance(mix, int | float) and 0 <= mix <= 1):
        raise InvalidArgument(f"mix = {mix!r} is no share of energy. Give a number from 0 (no kernel) to 1 (every kernel).")
    if mix and signed:
        raise InvalidArgument("A mixture takes what it needs of either sign: leave signed out, or mix.")


def second(inner: Floats, lengths: Floats, gram: Floats, first: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats, Floats]:
    """The best second template of each kernel, and the gains of both. Inner products are those after the offset was fitted.

    Args:
        inner: (n, m) of kernels with templates.
        lengths: (n, m) squared lengths of the templates, as each kernel measures them.
        gram: (n, m) of each kernel's first template with all.
        first: (n,) which that is.

    Returns:
        Indices (n,), gains of the first and of the second template (n,).
    """
    rows = np.arange(len(first))
    along, own = inner[rows, first][:, None], lengths[rows, first][:, None]
    rest, free = inner - gram * along / own, lengths - gram**2 / own
    gains = np.divide(rest, free, out=np.zeros_like(rest), where=free > APART * lengths)
    best = (gains * rest).argmax(axis=1)
    other = gains[rows, best]
    return best, (along[:, 0] - gram[rows, best] * other) / own[:, 0], other


def by_weights(kernels: NDArray[np.float32], bank: Bank, found: dict[str, NDArray[Any]], mix: float) -> dict[str, NDArray[Any]]:
    """The answer of ``nearest.match``, with ``second`` and ``second_gain`` where one template keeps less than ``mix``.

    Args:
        kernels: (n, taps).
        bank: the templates.
        found: template, gain, offset, similarity, dead.
        mix: the share of a kernel's energy, rho².
    """
    f = centred_unit(kernels.astype(np.float64))
    g = centred_unit(bank.templates.reshape(len(bank), -1).astype(np.float64))
    few = np.flatnonzero(~found["dead"] & (found["similarity"] ** 2 < mix))
    inner, gram = f.unit[few] @ g.unit.T, g.unit @ g.unit.T
    first = found["template"][few]
    other, gain, second_gain = second(inner, np.ones_like(inner), gram[first], first)
    gain, second_gain = (
        values * f.deviation[few] / g.deviation[which] for values, which in ((gain, first), (second_gain, other))
    )
    offset = f.mean[few] - gain * g.mean[first] - second_gain * g.mean[other]
    made = {name: values.copy() for name, values in found.items()}
    made["second"] = np.full(len(kernels), -1, np.int64)
    made["second_gain"] = np.zeros(len(kernels), np.float32)
    for name, values in (("gain", gain), ("offset", offset), ("second_gain", second_gain), ("second", other)):
        made[name][few] = values
    return made
