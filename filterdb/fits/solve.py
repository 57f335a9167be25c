"""Fitting many kernels at once: a grid over the scales, closed-form coefficients, and refinement.

Variable projection (Golub and Pereyra 1973): for given scales the coefficients follow by linear least squares, so what is
searched is rho²(scales), the share of a centred unit kernel that the span of the centred basis explains. The best node of a grid
starts Levenberg-Marquardt steps in log sigma, for all kernels of a batch side by side. All bases are sums of separable terms, so
inner products of kernels and basis functions, and of basis functions with each other, come from vectors along one axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from filterdb.fits.families import IMPULSE, LINE, ONE, Form, Term
from filterdb.scale_space import differentiable

SMALLEST_SIGMA = 0.1
"""px. There T is the unit impulse to .005, and its derivatives are the bare differences."""
LARGEST_SIGMA = 0.5
"""Of the kernel's shorter side: beyond it a Gaussian is nearly flat, and coefficients grow without meaning."""
FINEST_NODE = 0.25
"""px, the second node of the grid after the smallest sigma: kernels hardly change in between."""
NODES = {0: 1, 1: 48, 2: 12, 3: 9, 4: 9}
"""Nodes along each scale, by how many scales are searched."""
GRID_ROOM = 2**19
"""Numbers that the grid of a part of the kernels may take: what stays in the processor's cache."""
REFINE_ROOM = 2**20
"""Inner products of terms that are worked on at once: few enough for the cache, enough to be worth a call."""
STEPS = 20
DAMPING = 1e-2
LARGEST_DAMPING = 1e3
LARGEST_STEP = 0.7
"""In log sigma."""
SAFE = 0.5
"""Cosine: a learned curvature is taken over only where the step lies this much along what was lacking."""
ENOUGH = 1e-5
"""A kernel whose rho² grew by less in a step is done."""
RIDGE = 1e-11
"""Of a Gram matrix's diagonal: keeps the solution finite where two basis functions coincide."""
AT_BOUND = 0.01
"""In log sigma: a scale nearer than this to the smallest or the largest is at its bound."""

CLOSE = 0.95
"""Of the best rho² among the forms' best nodes: a form that comes so near on the grid may be the best between its nodes."""
COINCIDE = 0.05
"""In log sigma: two pairs of scales nearer than this are one in the limit, and their coefficients grow against each other."""


@dataclass
class Solution:
    """The best of one form for n kernels."""

    rho2: Tensor
    """(n,) share of the centred kernel that is explained."""
    log_sigma: Tensor
    """(n, searched)."""
    weights: Tensor
    """(n, coefficients), of the centred unit kernel."""
    means: Tensor
    """(n, coefficients), the mean tap of each basis function."""


def bounds(kernel_h: int, kernel_w: int) -> tuple[float, float]:
    """The smallest and the largest sigma that are searched, px."""
    return SMALLEST_SIGMA, LARGEST_SIGMA * min(kernel_h, kernel_w)


class Solver:
    """One form at one kernel size, on one device."""

    def __init__(self, form: Form, kernel_h: int, kernel_w: int, device: str = "cpu", opposite: bool = False):
        self.form, self.size, self.opposite = form, (kernel_h, kernel_w), opposite
        self._low, self._high = (math.log(sigma) for sigma in bounds(kernel_h, kernel_w))
        self._along: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])  # profiles along x, along y: (kind, scale)
        terms: list[tuple[int, int]] = []
        basis = [
            [(self._term(terms, (term.x, term.y), self._pair(term)), weight) for term, weight in combination]
            for combination in form.basis
        ]
        self._leading = len(terms)  # those of the basis come first, those of its slopes after them
        slopes = [
            (self._pair(term)[axis], i, self._term(terms, changed, self._pair(term)), weight * factor)
            for i, combination in enumerate(form.basis)
            for term, weight in combination
            for axis, changed, factor in _slopes(term)
        ]
        self._x, self._y = (torch.tensor([term[axis] for term in terms], device=device) for axis in (0, 1))
        mix = torch.zeros(form.coefficients, self._leading, dtype=torch.float64)
        for i, combination in enumerate(basis):
            for number, weight in combination:
                mix[i, number] += weight
        self._mix = None if torch.equal(mix, torch.eye(self._leading)) else mix.to(device)
        self._slopes = torch.zeros(form.searched, form.coefficients, len(terms), dtype=torch.float64, device=device)
        for scale, i, number, weight in slopes:
            self._slopes[scale, i, number] += weight
        self._nodes = self._grid().to(device)
        self._columns, self._triangles = self._orthonormal(self._nodes)

    def _pair(self, term: Term) -> tuple[int, int]:
        """Which of the searched scales are a term's along x and y."""
        return self.form.scales[term.pair] if self.form.scales else (-1, -1)

    def _term(self, terms: list[tuple[int, int]], kinds: tuple[str, str], pair: tuple[int, int]) -> int:
        """The number of a separable product, made anew if it is not there."""
        place = []
        for along, kind, scale in zip(self._along, kinds, pair, strict=True):
            key = (kind, -1 if kind in (ONE, IMPULSE) else scale)
            if key not in along:
                along.append(key)
            place.append(along.index(key))
        if (place[0], place[1]) not in terms:
            terms.append((place[0], place[1]))
        return terms.index((place[0], place[1]))

    # -- bases -----------------------------------------------------------------------------------------------------------

    def _profiles(self, axis: int, s: Tensor) -> Tensor:
        """(n, profiles, taps): the profiles along x (0) or y (1) at variances s, (n, searched). y is up, row 0 is on top."""
        along, size = self._along[axis], self.size[1 - axis]
        radius = size // 2
        n = torch.arange(-radius, radius + 1, dtype=s.dtype, device=s.device)
        found: dict[tuple[str, int], Tensor] = {}
        for scale in range(s.shape[1]):
            kinds = tuple(kind for kind, at in along if at == scale and kind not in (LINE, _LINE_SLOPE))
            if kinds:
                several = differentiable.profiles(radius, s[:, scale], kinds)
                found |= {(kind, scale): several[:, i] for i, kind in enumerate(kinds)}
        for kind, scale in along:
            if kind == ONE:
                found[kind, scale] = torch.ones_like(n).expand(len(s), size)
            elif kind == IMPULSE:
                found[kind, scale] = (n == 0).to(s.dtype).expand(len(s), size)
            elif kind in (LINE, _LINE_SLOPE):
                v = s[:, scale, None]
                line = torch.exp(-(n**2) / (2 * v))
                found[kind, scale] = line if kind == LINE else line * n**2 / (2 * v**2)
        stacked = torch.stack([found[key] for key in along], 1)
        return stacked.flip(-1) if axis == 1 else stacked

    def kernels(self, log_sigma: Tensor) -> Tensor:
        """(n, coefficients, kernel_h, kernel_w): the basis functions at scales (n, searched), not centred."""
        s = torch.exp(2 * log_sigma)
        x, y = self._profiles(0, s), self._profiles(1, s)
        terms = y[:, self._y, :, None] * x[:, self._x, None, :]
        return self._mixed(terms[:, : self._leading].flatten(2)).view(len(s), -1, *self.size)

    def _mixed(self, leading: Tensor) -> Tensor:
        """(n, coefficients, …) of the basis from (n, leading, …) of its terms."""
        return leading if self._mix is None else self._mix @ leading

    def _grid(self) -> Tensor:
        """The nodes, (m, searched) log sigma: one for each combination; interchangeable pairs in one order only."""
        count = NODES[self.form.searched]
        finest = min(math.log(FINEST_NODE), self._high - 1e-3)
        if count == 1:
            return torch.zeros(1, 0, dtype=torch.float64)
        # in float64, so that a node at a bound is at it: a search from a hair's breadth inside ends at once
        kind = torch.float64
        along = torch.cat([torch.tensor([self._low], dtype=kind), torch.linspace(finest, self._high, count - 1, dtype=kind)])
        nodes = torch.cartesian_prod(*[along] * self.form.searched).reshape(-1, self.form.searched)
        if interchangeable(self.form):
            half = self.form.searched // 2
            first, second = nodes[:, :half].sum(1), nodes[:, half:].sum(1)
            nodes = nodes[first < second - 1e-9]
        return nodes

    def _orthonormal(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The centred basis at each node made orthonormal, (coefficients, taps, nodes) float32, and the triangles of it."""
        kernels = self.kernels(nodes).flatten(2)
        centred = (kernels - kernels.mean(-1, keepdim=True)).transpose(1, 2)
        q, r = torch.linalg.qr(centred)
        # a function that adds nothing to those before it has a direction of rounding only
        size = centred.norm(dim=1)
        real = r.diagonal(dim1=1, dim2=2).abs() > 1e-6 * size.clamp(min=1e-30)
        q = q * real[:, None, :]
        return q.permute(2, 1, 0).float().contiguous(), r

    # -- fitting ---------------------------------------------------------------------------------------------------------

    def fit(self, unit: Tensor) -> Solution:
        """Fit centred unit kernels (n, kernel_h * kernel_w), float32."""
        return self.refine(unit, self.start(unit)[0])

    def start(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """The best node for each kernel, (n, searched), and its rho²."""
        parts = [self._start(part) for part in unit.split(max(64, GRID_ROOM // len(self._nodes)))]
        return torch.cat([nodes for nodes, _ in parts]), torch.cat([score for _, score in parts])

    def _start(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        # one coefficient after the other: the numbers of a part then stay in the processor's cache
        projected = unit @ self._columns[0]
        score = projected.square()
        for columns in self._columns[1:]:
            second = unit @ columns
            score.addcmul_(second, second)
        if self.opposite:
            r = self._triangles.float()
            second = second / r[:, 1, 1]
            first = (projected - r[:, 0, 1] * second) / r[:, 0, 0]
            score = torch.where(first * second < 0, score, score * 1e-3)
        best, node = score.max(1)
        return self._nodes[node], best

    def refine(self, unit: Tensor, log_sigma: Tensor) -> Solution:
        """Levenberg-Marquardt from given scales; a step is kept only if it explains more."""
        part = max(256, REFINE_ROOM // len(self._x) ** 2)
        parts = [self._refine(*both) for both in zip(unit.split(part), log_sigma.split(part), strict=True)]
        return Solution(*(torch.cat([getattr(one, name) for one in parts]) for name in Solution.__dataclass_fields__))

    def _refine(self, unit: Tensor, log_sigma: Tensor) -> Solution:
        # centred and of length 1 to float64's rounding: float32's would show in the residual of a kernel that is explained whole
        maps = unit.double()
        maps = torch.nn.functional.normalize(maps - maps.mean(1, keepdim=True), dim=1).view(len(unit), *self.size)
        now = self._evaluate(maps, log_sigma)
        best = Solution(now.rho2.clone(), log_sigma.clone(), now.weights.clone(), now.means.clone())
        if self.form.searched == 0:
            return best
        at = torch.arange(len(unit), device=unit.device)
        damping = torch.full((len(unit), 1), DAMPING, dtype=torch.float64, device=unit.device)
        missing = torch.zeros_like(now.curvature)
        scales = log_sigma
        going = torch.ones_like(at, dtype=torch.bool)
        for _ in range(STEPS):
            there = (scales + _step(now, missing, scales, damping, self._low, self._high)).clamp(self._low, self._high)
            tried = self._evaluate(maps, there)
            gain = tried.rho2 - now.rho2
            better = (gain > 0) & going  # a kernel that is done stays so: its fit must not depend on its neighbours
            if self.opposite:
                better &= (tried.weights[:, 0] * tried.weights[:, 1] < 0) | (now.weights[:, 0] * now.weights[:, 1] >= 0)
            missing = _secant(missing, there - scales, now.gradient - tried.gradient, tried.curvature)
            now, scales = now.replaced(better, tried), torch.where(better[:, None], there, scales)
            damping = torch.where(better[:, None], damping * 0.1, damping.clamp(min=1e-3) * 10)
            best.rho2[at], best.log_sigma[at], best.weights[at], best.means[at] = now.rho2, scales, now.weights, now.means
            going &= (gain > ENOUGH) | (~better & (damping[:, 0] < LARGEST_DAMPING))
            if not bool(going.any()):
                break
            if int(going.sum()) < 0.8 * len(going):
                maps, scales, damping, missing, at = (rows[going] for rows in (maps, scales, damping, missing, at))
                now, going = now.chosen(going), going[going]
        return best

    def _evaluate(self, maps: Tensor, log_sigma: Tensor) -> _Point:
        s = torch.exp(2 * log_sigma)
        x, y = self._profiles(0, s).index_select(1, self._x), self._profiles(1, s).index_select(1, self._y)
        taps = self.size[0] * self.size[1]
        response = ((y @ maps) * x).sum(-1)
        mean = y.sum(-1) * x.sum(-1) / taps
        inner = (y @ y.mT).mul_(x @ x.mT).baddbmm_(mean[:, :, None], mean[:, None, :], alpha=-taps)
        cross = self._mixed(inner[:, : self._leading])
        gram = self._mixed(cross[:, :, : self._leading].mT)
        wanted, means = (self._mixed(one[:, : self._leading, None])[..., 0] for one in (response, mean))
        weights, solve = _solved(gram, wanted)
        rho2 = (wanted * weights).sum(-1)
        slopes = torch.einsum("qpe,np->nqe", self._slopes, weights) * (2 * s)[:, :, None]
        shared = slopes @ cross.mT
        gradient = (slopes @ response[:, :, None])[..., 0] - (shared @ weights[:, :, None])[..., 0]
        curvature = slopes @ inner @ slopes.mT - shared @ solve @ shared.mT
        return _Point(rho2, weights, means, gradient, curvature)


@dataclass
class _Point:
    """What is known of n kernels at their scales."""

    rho2: Tensor
    weights: Tensor
    means: Tensor
    gradient: Tensor
    """(n, searched), of rho² / 2 by log sigma."""
    curvature: Tensor
    """(n, searched, searched), Gauss and Newton's."""

    def replaced(self, where: Tensor, other: _Point) -> _Point:
        def pick(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(where.view(-1, *[1] * (a.dim() - 1)), b, a)

        return _Point(*(pick(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__))

    def chosen(self, rows: Tensor) -> _Point:
        return _Point(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


_LINE_SLOPE = "line'"


def _slopes(term: Term) -> Iterator[tuple[int, tuple[str, str], float]]:
    """The derivatives of a term by its variances: along which axis, the profiles along x and y, and a factor.

    T diffuses: its derivative by s is half its second difference, and so it is for all differences of T.
    """
    for axis, kind in enumerate((term.x, term.y)):
        if kind not in (ONE, IMPULSE):
            changed, factor = (_LINE_SLOPE, 1.0) if kind == LINE else ("dd" + kind, 0.5)
            yield axis, (changed, term.y) if axis == 0 else (term.x, changed), factor


def _solved(gram: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares: (n, p) weights for gram (n, p, p) and wanted (n, p), and the inverse of gram."""
    p = gram.shape[-1]
    size = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-30).rsqrt()
    scaled = gram * size[:, :, None] * size[:, None, :] + RIDGE * torch.eye(p, dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.inv(scaled) if p > 1 else 1 / scaled
    inverse = inverse * size[:, :, None] * size[:, None, :]
    return (inverse @ wanted[:, :, None])[..., 0], inverse


def _secant(missing: Tensor, step: Tensor, change: Tensor, curvature: Tensor) -> Tensor:
    """What Gauss and Newton's curvature lacks where much is left unexplained, learned from how the gradient changed.

    A symmetric rank-one update (Dennis, Gay and Welsch 1981): without it, convergence is slow on kernels that no scale fits well.
    """
    lack = change - ((curvature + missing) @ step[:, :, None])[..., 0]
    along = (lack * step).sum(-1)
    safe = along.abs() > SAFE * lack.norm(dim=1) * step.norm(dim=1) + 1e-30
    share = torch.where(safe, 1 / torch.where(safe, along, 1.0), 0.0)
    return missing + share[:, None, None] * lack[:, :, None] * lack[:, None, :]


def _step(point: _Point, missing: Tensor, scales: Tensor, damping: Tensor, low: float, high: float) -> Tensor:
    """A damped step, (n, searched); scales at a bound that want to go further stay."""
    stuck = ((scales <= low) & (point.gradient < 0)) | ((scales >= high) & (point.gradient > 0))
    gradient = torch.where(stuck, 0.0, point.gradient)
    free = (~stuck).to(gradient.dtype)
    scaling = point.curvature.diagonal(dim1=1, dim2=2)
    curvature = (point.curvature + missing) * free[:, :, None] * free[:, None, :]
    curvature = curvature + torch.diag_embed(damping * scaling + 1e-9 + (1 - free))
    step = torch.linalg.solve(curvature, gradient)
    # where the learned curvature bends the wrong way, Gauss and Newton's own does not
    down = ((step * gradient).sum(-1) <= 0).nonzero()[:, 0]
    if len(down):
        free, scaling, damping = free[down], scaling[down], damping[down]
        plain = point.curvature[down] * free[:, :, None] * free[:, None, :]
        plain = plain + torch.diag_embed((damping + 1e-3) * scaling + 1e-9 + (1 - free))
        step[down] = torch.linalg.solve(plain, gradient[down])
    return step.clamp(-LARGEST_STEP, LARGEST_STEP)


def interchangeable(form: Form) -> bool:
    """Whether a form has two pairs of scales that stand before the same functions, so that their order means nothing."""
    if form.scales not in (((0, 0), (1, 1)), ((0, 1), (2, 3))):
        return False
    first, second = (
        {tuple((term.x, term.y, weight) for term, weight in one) for one in form.basis if one[0][0].pair == pair}
        for pair in (0, 1)
    )
    return first == second


@lru_cache(maxsize=128)
def solver(form: Form, kernel_h: int, kernel_w: int, device: str, opposite: bool) -> Solver:
    """The solver of a form at a size, kept: its grid is computed once."""
    return Solver(form, kernel_h, kernel_w, device, opposite)


def best_of(solvers: Iterable[Solver], unit: Tensor) -> tuple[Tensor, Solution]:
    """Each kernel in the form that suits it best: (n,) number of the form, and its solution."""
    all_solvers = list(solvers)
    starts = [one.start(unit) for one in all_solvers]
    if len(starts) == 1:
        return torch.zeros(len(unit), dtype=torch.int64, device=unit.device), all_solvers[0].refine(unit, starts[0][0])
    enough = CLOSE * torch.stack([score for _, score in starts]).amax(0)
    form = torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
    found: Solution | None = None
    for number, (one, (start, score)) in enumerate(zip(all_solvers, starts, strict=True)):
        rows = (score >= enough).nonzero()[:, 0]
        part = one.refine(unit[rows], start[rows])
        if found is None:
            found = Solution(*(torch.zeros(len(unit), *t.shape[1:], dtype=t.dtype, device=t.device) for t in vars(part).values()))
            found.rho2.fill_(-1)
        better = part.rho2 > found.rho2[rows]
        form[rows[better]] = number
        for name, value in vars(part).items():
            getattr(found, name)[rows[better]] = value[better]
    assert found is not None
    return form, found
