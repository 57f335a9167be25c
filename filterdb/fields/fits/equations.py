"""The normal equations of a form for many kernels at once: coefficients, what they explain, and how the scales change that.

Functions of unlike parity have no inner product, so the equations of a jet split into small blocks. Inner products of
separable functions are products of those along x and along y. The last axis of every tensor is the kernels'.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from filterdb.fields.fits.basis import ODD, Basis, Parities, slopes

RIDGE = {torch.float64: 1e-11, torch.float32: 1e-6}
"""Of a Gram matrix's diagonal: keeps the solution finite where two basis functions coincide."""


@dataclass
class Point:
    """The state of n fits at given scales: the explained share, the coefficients, and derivatives by the scales."""

    rho2: Tensor
    """(n,) share of the centred unit kernel that the span of the centred basis explains."""
    weights: Tensor
    """(coefficients, n)."""
    means: Tensor
    """(coefficients, n), the mean tap of each basis function."""
    gradient: Tensor
    """(searched, n), of rho² / 2 by log sigma."""
    curvature: Tensor
    """(searched, searched, n), Gauss and Newton's."""

    def replaced(self, where: Tensor, other: Point) -> Point:
        """This point, and the other one where (n,) is true."""
        return Point(*(torch.where(where, getattr(other, name), getattr(self, name)) for name in self.__dataclass_fields__))

    def chosen(self, kernels: Tensor) -> Point:
        """The point of some kernels, by number."""
        return Point(*(getattr(self, name).index_select(-1, kernels) for name in self.__dataclass_fields__))


_Place = tuple[int, int]
"""A term in a block: the numbers of its profiles among those of its parity, along x and along y."""


class Equations:
    """The normal equations of one form at one kernel size."""

    def __init__(self, basis: Basis):
        self.basis = basis
        together: dict[Parities, list[int]] = {}
        for number, combination in enumerate(basis.form.basis):
            x, y = basis.place(combination[0][0])
            together.setdefault((x[0], y[0]), []).append(number)
        self._blocks = [_Block(basis, parities, functions) for parities, functions in together.items()]
        order = torch.tensor([number for block in self._blocks for number in block.functions], device=basis.device)
        self._order = order.argsort()

    def at(self, folded: Tensor, log_sigma: Tensor) -> Point:
        """Solve for kernels (kernel_h, kernel_w, n), centred, of length 1 and folded, at scales (searched, n)."""
        s = torch.exp(2 * log_sigma)
        along = self.basis.profiles(s)
        inner = [{parity: summed(p[:, None], p[None], 2).flatten(0, 1) for parity, p in one.items()} for one in along]
        points = [block.solve(folded, along, inner, 2 * s) for block in self._blocks]
        weights, means = (torch.cat([getattr(p, name) for p in points])[self._order] for name in ("weights", "means"))
        rho2, gradient, curvature = (
            torch.stack([getattr(p, name) for p in points]).sum(0) for name in ("rho2", "gradient", "curvature")
        )
        return Point(rho2, weights, means, gradient, curvature)


class _Block:
    """The functions of one parity along x and one along y.

    Its terms are those that its functions are made of, then those that appear when a scale changes.
    """

    def __init__(self, basis: Basis, parities: Parities, functions: list[int]):
        self.functions, self._parities = functions, parities
        self._support = tuple(basis.support(axis, parity) for axis, parity in enumerate(parities))
        self._centred, self._taps = ODD not in parities, basis.size[0] * basis.size[1]
        self._ones = tuple(basis.ones(axis, parity) for axis, parity in enumerate(parities))
        made: dict[_Place, dict[int, float]] = {}  # a term: the functions it is in, and with what weights
        changes: list[dict[_Place, dict[int, float]]] = [{} for _ in range(basis.form.searched)]
        for i, number in enumerate(functions):
            for term, weight in basis.form.basis[number]:
                x, y = basis.place(term)
                made.setdefault((x[1], y[1]), {})[i] = weight
                for axis, kinds, factor in slopes(term):
                    x, y = basis.place(term, kinds)
                    slot = changes[basis.scales(term)[axis]].setdefault((x[1], y[1]), {})
                    slot[i] = slot.get(i, 0.0) + weight * factor
        terms = list(dict.fromkeys([*made, *(place for change in changes for place in change)]))
        p, e = len(functions), len(terms)

        def tensor(values: list[int] | list[list[int]]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=basis.device)

        mix = torch.zeros(p, e, dtype=basis.dtype)
        for number, weights in enumerate(made.values()):
            for i, weight in weights.items():
                mix[i, number] = weight
        self._mix = None if torch.equal(mix, torch.eye(p, e, dtype=basis.dtype)) else mix.to(basis.device)
        slots = max((len(change) for change in changes), default=0)
        numbers = torch.zeros(basis.form.searched, slots, dtype=torch.int64)
        factors = torch.zeros(basis.form.searched, slots, p, dtype=basis.dtype)
        for scale, change in enumerate(changes):
            for k, (place, of_functions) in enumerate(change.items()):
                numbers[scale, k] = terms.index(place)
                for i, factor in of_functions.items():
                    factors[scale, k, i] = factor
        self._slots, self._slopes = numbers.to(basis.device), factors.to(basis.device)
        upper = [(a, b) for a in range(e) for b in range(a, e)]
        self._square = tensor([[upper.index((min(a, b), max(a, b))) for b in range(e)] for a in range(e)])
        self._upper = tuple(tensor([pair[side] for pair in upper]) for side in (0, 1))
        self._terms = tuple(tensor([term[axis] for term in terms]) for axis in (0, 1))
        counts = [len(basis.sets[axis][parity]) for axis, parity in enumerate(parities)]
        self._pairs = tuple(tensor([terms[a][axis] * counts[axis] + terms[b][axis] for a, b in upper]) for axis in (0, 1))
        self._responses = tensor([y * counts[0] + x for x, y in terms])

    def solve(
        self, folded: Tensor, along: tuple[dict[str, Tensor], dict[str, Tensor]], inner: list[dict[str, Tensor]], step: Tensor
    ) -> Point:
        """The part of this block.

        Args:
            folded: (kernel_h, kernel_w, n) kernels.
            along: the profiles along x and y.
            inner: of each two of them, (profiles * profiles, n).
            step: (searched, n), what a variance grows by when its log sigma does.
        """
        n = folded.shape[-1]
        x, y = (one[parity] for one, parity in zip(along, self._parities, strict=True))
        columns, rows = self._support
        part = folded[rows, columns]
        half = summed(y[:, :, None], part[None], 1)
        response = summed(half[:, None], x[None], 2).flatten(0, 1).index_select(0, self._responses)
        products = [
            one[parity].index_select(0, pairs) for one, parity, pairs in zip(inner, self._parities, self._pairs, strict=True)
        ]
        between = products[0].mul_(products[1])
        means = response.new_zeros(len(response), n)
        if self._centred:
            sums = [self._sums(axis, one).index_select(0, self._terms[axis]) for axis, one in enumerate((x, y))]
            means = sums[0].mul_(sums[1]).div_(self._taps)
            between -= means[self._upper[0]].mul_(means[self._upper[1]]).mul_(self._taps)
        p = len(self.functions)
        all_pairs = between[self._square]  # (terms, terms, n)
        gram, wanted, means = self._of_functions(all_pairs, response, means)
        solve = _ridged(gram)
        weights = summed(solve, wanted[None], 1)
        rho2 = summed(wanted, weights, 0)
        # the change of the model by each scale, term by term, its inner products with all terms, and with the functions
        change = summed(self._slopes[..., None], weights[None, None], 2).mul_(step[:, None])
        with_terms = summed(change[:, :, None], all_pairs[self._slots], 1)
        shared = with_terms[:, :p] if self._mix is None else summed(self._mix[None, ..., None], with_terms[:, None], 2)
        gradient = summed(change, response[self._slots], 1) - summed(shared, weights[None], 1)
        curvature = summed(change[None], with_terms[:, self._slots], 2)
        curvature -= summed(shared[:, None], summed(solve[None], shared[:, None], 2)[None], 2)
        return Point(rho2, weights, means, gradient, curvature)

    def _sums(self, axis: int, profiles: Tensor) -> Tensor:
        """(profiles, n), the sum over the taps of each."""
        return summed(self._ones[axis][None, :, None], profiles, 1)

    def _of_functions(self, between: Tensor, response: Tensor, means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From terms to functions: inner products, responses and means."""
        p = len(self.functions)
        if self._mix is None:
            return between[:p, :p], response[:p], means[:p]
        mix = self._mix[..., None]
        half = summed(mix[:, :, None], between[None], 1)
        return summed(mix[None], half[:, None], 2), summed(mix, response[None], 1), summed(mix, means[None], 1)


def summed(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """The sum of a * b over a dimension, which both have; their product is never in memory as a whole."""
    parts = zip(a.unbind(dim), b.unbind(dim), strict=True)
    first = next(parts, None)
    if first is None:
        return (a * b).sum(dim)
    total = first[0] * first[1]
    for one, other in parts:
        total.addcmul_(one, other)
    return total


def inverse(matrices: Tensor) -> Tensor:
    """The inverses of matrices (p, p, n) that need no pivoting, by Gauss and Jordan: a few operations for all n at once."""
    left = matrices.clone()
    for k in range(len(left)):
        pivot = left[k, k].reciprocal()
        row, column = left[k] * pivot, left[:, k].clone()
        left.addcmul_(column[:, None], row, value=-1)
        left[k], left[:, k] = row, -column * pivot
        left[k, k] = pivot
    return left


def _ridged(gram: Tensor) -> Tensor:
    """The inverses of Gram matrices (p, p, n), of functions of any size, some of which may coincide."""
    size = gram.diagonal().clamp(min=1e-30).rsqrt().T
    scaled = gram * size[:, None] * size
    scaled.diagonal().add_(RIDGE[gram.dtype])
    return inverse(scaled).mul_(size[:, None]).mul_(size)
