"""The functions of a form at a kernel size, for many scales at once.

Nearly all profiles are even or odd about the centre. In coordinates that split a kernel's rows and columns into even and odd
parts, here called folded, an even function of x and an odd one share no coordinate: functions of unlike parity have no inner
product. The last axis of the tensors here is the kernels', so that each operation runs along memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from filterdb.fields.fits.families import IMPULSE, LINE, ONE, Form, Term
from filterdb.kernels.scale_space import differentiable, mask

EVEN, ODD, NEITHER = "even", "odd", "neither"
LINE_SLOPE = "line'"
Profile = tuple[str, int]
"""A function along one axis: its kind, and which of the searched scales is its own, -1 for none."""
Parities = tuple[str, str]
"""Of a function, along x and y."""


class Basis:
    """The basis functions of one form at one kernel size, on one device.

    Args:
        form: what it is made of.
        kernel_h, kernel_w: odd.
        largest: sigma, px, up to which the profiles are exact.
        device, dtype: torch's.
    """

    def __init__(
        self, form: Form, kernel_h: int, kernel_w: int, largest: float, device: str = "cpu", dtype: torch.dtype = torch.float64
    ):
        self.form, self.size, self.device, self.dtype = form, (kernel_h, kernel_w), device, dtype
        self._taps = (kernel_w, kernel_h)
        # y is up, row 0 is on top: along y the coordinate of a profile grows against the row
        self._folds = (_fold(kernel_w).to(device, dtype), _fold(kernel_h).flip(1).to(device, dtype))
        self.sets = (self._parities(0), self._parities(1))
        self._waves = [self._cosines(scale, largest) for scale in range(form.searched)]

    def folded(self, kernels: Tensor) -> Tensor:
        """Kernels (n, kernel_h * kernel_w) in even and odd coordinates, (kernel_h, kernel_w, n): an orthogonal change."""
        fold_x, fold_y = (fold.to(kernels.dtype) for fold in self._folds)
        return (fold_y @ kernels.view(-1, *self.size) @ fold_x.T).permute(1, 2, 0).contiguous()

    def support(self, axis: int, parity: str) -> slice:
        """The folded coordinates along x (0) or y (1) outside of which functions of a parity are zero: first the even ones."""
        even = self._taps[axis] // 2 + 1
        return {EVEN: slice(0, even), ODD: slice(even, None), NEITHER: slice(None)}[parity]

    def support_of(self, function: int) -> tuple[slice, slice]:
        """The folded rows and columns outside of which a basis function is zero."""
        x, y = self.place(self.form.basis[function][0][0])
        return self.support(1, y[0]), self.support(0, x[0])

    def ones(self, axis: int, parity: str) -> Tensor:
        """What a function of a parity has an inner product with that is its sum."""
        return self._folds[axis].sum(1)[self.support(axis, parity)]

    def place(self, term: Term, kinds: tuple[str, str] | None = None) -> tuple[tuple[str, int], tuple[str, int]]:
        """The parity and the number within it of a term's profiles along x and y, or of other kinds at the term's scales."""
        found = []
        for axis, kind in enumerate(kinds or (term.x, term.y)):
            profile = self._profile(kind, term, axis)
            [place] = [(parity, one.index(profile)) for parity, one in self.sets[axis].items() if profile in one]
            found.append(place)
        return found[0], found[1]

    def scales(self, term: Term) -> tuple[int, int]:
        """Which of the searched scales are a term's along x and y."""
        return self.form.scales[term.pair] if self.form.scales else (-1, -1)

    def profiles(self, s: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """At variances (searched, n): along x and along y the profiles of each parity, (profiles, their folded taps, n)."""
        found: dict[tuple[int, Profile], Tensor] = {}
        for variance, (decays, waves, rows) in zip(s, self._waves, strict=True):
            values = waves @ torch.exp(decays[:, None] * variance)
            found |= {key: values[start:end] for key, start, end in rows}
        along: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        for axis, parities in enumerate(self.sets):
            for parity, members in parities.items():
                for profile in members:
                    if (axis, profile) not in found:
                        found[axis, profile] = self._other(axis, parity, profile, s)
                along[axis][parity] = torch.stack([found[axis, profile] for profile in members])
        return along

    def kernels(self, log_sigma: Tensor) -> Tensor:
        """(n, coefficients, kernel_h, kernel_w): the basis functions at scales (n, searched), not centred."""
        folded = self.profiles(torch.exp(2 * log_sigma.T))
        found = []
        for combination in self.form.basis:
            parts = []
            for term, weight in combination:
                x, y = (
                    fold[self.support(axis, parity)].T @ folded[axis][parity][number]
                    for axis, (fold, (parity, number)) in enumerate(zip(self._folds, self.place(term), strict=True))
                )
                parts.append(weight * y[:, None] * x)
            found.append(sum(parts[1:], parts[0]))
        return torch.stack(found).permute(3, 0, 1, 2)

    # -- making ----------------------------------------------------------------------------------------------------------

    def _profile(self, kind: str, term: Term, axis: int) -> Profile:
        return kind, -1 if kind in (ONE, IMPULSE) else self.scales(term)[axis]

    def _parities(self, axis: int) -> dict[str, list[Profile]]:
        """The profiles along an axis by parity; all in one where any of them is neither even nor odd."""
        terms = [term for combination in self.form.basis for term, _ in combination]
        used = {self._profile((term.x, term.y)[axis], term, axis) for term in terms}
        used |= {self._profile(kinds[axis], term, axis) for term in terms for _, kinds, _ in slopes(term)}
        found: dict[str, list[Profile]] = {}
        for profile in sorted(used):
            found.setdefault(_parity(profile[0]), []).append(profile)
        return {NEITHER: sorted(used)} if NEITHER in found else found

    def _cosines(self, scale: int, largest: float) -> tuple[Tensor, Tensor, list[tuple[tuple[int, Profile], int, int]]]:
        """What makes all differences of T at a scale: the exponents, (frequencies,), the matrix (rows, frequencies) of the
        folded cosines, and for each profile along an axis its first row and the one after its last."""
        ring = differentiable.ring(max(self._taps) // 2, largest**2)
        parts, rows, start = [], [], 0
        for axis, taps in enumerate(self._taps):
            for parity, members in self.sets[axis].items():
                fold = _fold(taps)[self.support(axis, parity)]
                for kind, at in members:
                    if at == scale and kind not in (LINE, LINE_SLOPE):
                        parts.append(fold @ differentiable.waves(taps // 2, ring, (kind,)).T)
                        rows.append(((axis, (kind, at)), start, start := start + len(fold)))
        frequencies = differentiable.decays(ring)
        waves = torch.cat(parts) if parts else torch.zeros(0, len(frequencies))
        return frequencies.to(self.device, self.dtype), waves.to(self.device, self.dtype), rows

    def _other(self, axis: int, parity: str, profile: Profile, s: Tensor) -> Tensor:
        """(folded taps, n) of a profile that is no difference of T."""
        kind, scale = profile
        taps = self._taps[axis]
        at = torch.arange(taps, dtype=s.dtype, device=s.device)[:, None] - taps // 2
        if kind in (ONE, IMPULSE):
            values = (torch.ones_like(at) if kind == ONE else (at == 0).to(s.dtype)).expand(-1, s.shape[1])
        else:
            values = torch.exp(-(at**2) / (2 * s[scale]))
            values = values if kind == LINE else values * at**2 / (2 * s[scale] ** 2)
        return self._upright(axis)[self.support(axis, parity)] @ values

    def _upright(self, axis: int) -> Tensor:
        """The fold of an axis for functions of its coordinate rather than of rows and columns."""
        return self._folds[axis].flip(1) if axis else self._folds[axis]


def _fold(taps: int) -> Tensor:
    """(taps, taps) orthogonal: even combinations of coordinates -r … r from the centre outwards, then the odd ones."""
    r = taps // 2
    found = torch.zeros(taps, taps, dtype=torch.float64)
    found[0, r] = 1
    for n in range(1, r + 1):
        found[n, r + n] = found[n, r - n] = found[r + n, r + n] = math.sqrt(0.5)
        found[r + n, r - n] = -math.sqrt(0.5)
    return found


def _parity(kind: str) -> str:
    """Whether a kind of profile is even, odd or neither."""
    if kind in (ONE, IMPULSE, LINE, LINE_SLOPE):
        return EVEN
    weights = mask(kind)
    if (weights == weights[::-1]).all():
        return EVEN
    return ODD if (weights == -weights[::-1]).all() else NEITHER


def slopes(term: Term) -> Iterator[tuple[int, tuple[str, str], float]]:
    """The derivatives of a term by its variances: along which axis, the kinds along x and y, and a factor.

    T diffuses: its derivative by s is half its second difference, and so it is for all differences of T.
    """
    for axis, kind in enumerate((term.x, term.y)):
        if kind not in (ONE, IMPULSE):
            changed, factor = (LINE_SLOPE, 1.0) if kind == LINE else ("dd" + kind, 0.5)
            yield axis, (changed, term.y) if axis == 0 else (term.x, changed), factor
