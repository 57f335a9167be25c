"""Fitting many kernels at once: a grid over the scales, closed-form coefficients, and refinement.

Variable projection (Golub and Pereyra 1973): for given scales the coefficients follow by linear least squares, so what is
searched is rho²(scales), the share of a centred unit kernel that the span of the centred basis explains. The best nodes of a grid
start Levenberg-Marquardt steps in log sigma, for all kernels of a batch side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from filterdb.fields.fits.basis import Basis
from filterdb.fields.fits.equations import Equations, Point, inverse, summed
from filterdb.fields.fits.families import Form

SMALLEST_SIGMA = 0.1
"""px. There T is the unit impulse to .005, and its derivatives are the bare differences."""
LARGEST_SIGMA = 0.5
"""Of the kernel's shorter side: beyond it a Gaussian is nearly flat, and coefficients grow without meaning."""
FINEST_NODE = 0.25
"""px, the second node of the grid after the smallest sigma: kernels hardly change in between."""
NODES = {0: 1, 1: 48, 2: 12, 3: 9, 4: 9}
"""Nodes along each scale, by how many scales are searched."""
GRID_ROOM = 2**19
"""Numbers that the grid of a part of the kernels may take: what stays in a processor's cache."""
REFINE_ROOM = 2**21
"""Taps of the kernels that are refined at once: few enough for the cache, enough to be worth a call."""
ON_GPU = 64
"""Times as much room there: a GPU is filled by many kernels at once."""
STEPS = 30
DAMPING = 5e-2
PROMISE = 0.3
"""Of the rho² that is worth a step: one whose slope promises less ends the search."""
LARGEST_STEP = 1.5
"""In log sigma."""
SAFE = 0.7
"""Cosine: a learned curvature is taken over only where the step lies this much along what was lacking."""
ROUGHLY, ENOUGH = 1e-5, 1e-6
"""A kernel whose rho² grew by less in a step is done: with the search in float32, and with its end in float64."""
HAIR = 1e-6
"""In log sigma: float32 cannot tell a scale that is nearer to a bound from one at it."""
AT_BOUND = 0.01
"""In log sigma: a scale nearer than this to the smallest or the largest is at its bound."""
CLOSE = 0.9
"""Of the best rho² among all starts' best nodes: a start that comes so near on the grid may be the best between its nodes."""
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


@dataclass
class _Starts:
    """A part of the grid from which one search starts."""

    nodes: Tensor
    """(nodes, searched) log sigma."""
    columns: list[Tensor]
    """For each coefficient (taps of its support, nodes) float32: the centred basis, made orthonormal."""
    triangles: Tensor
    """(nodes, coefficients, coefficients) of the basis in terms of the columns."""


def bounds(kernel_h: int, kernel_w: int) -> tuple[float, float]:
    """The smallest and the largest sigma that are searched, px."""
    return SMALLEST_SIGMA, LARGEST_SIGMA * min(kernel_h, kernel_w)


class Solver:
    """One form at one kernel size, on one device."""

    def __init__(self, form: Form, kernel_h: int, kernel_w: int, device: str = "cpu", opposite: bool = False):
        self.form, self.opposite = form, opposite
        smallest, largest = bounds(kernel_h, kernel_w)
        self._low, self._high = math.log(smallest), math.log(largest)
        self.basis = Basis(form, kernel_h, kernel_w, largest, device)
        self._rough = Equations(Basis(form, kernel_h, kernel_w, largest, device, torch.float32))  # to choose among starts
        self._exact = Equations(self.basis)
        self._supports = [self.basis.support_of(number) for number in range(form.coefficients)]
        self.starts = [self._orthonormal(nodes) for nodes in self._grid()]
        self._room = ON_GPU if self.basis.device != "cpu" else 1

    def _grid(self) -> list[Tensor]:
        """The nodes of each start, (m, searched) log sigma: one for each combination; interchangeable pairs in one order only.

        Two pairs of scales start twice: nested, where one is the finer along x and y, and crossed, where it is along one only.
        """
        count, kind = NODES[self.form.searched], torch.float64
        finest = min(math.log(FINEST_NODE), self._high - 1e-3)
        if count == 1:
            return [torch.zeros(1, 0, dtype=kind, device=self.basis.device)]
        # in float64, so that a node at a bound is at it: a search from a hair's breadth inside ends at once
        along = torch.cat([torch.tensor([self._low], dtype=kind), torch.linspace(finest, self._high, count - 1, dtype=kind)])
        nodes = torch.cartesian_prod(*[along] * self.form.searched).reshape(-1, self.form.searched).to(self.basis.device)
        if not interchangeable(self.form):
            return [nodes]
        half = self.form.searched // 2
        finer = nodes[:, half:] - nodes[:, :half]
        nodes, finer = (rows[finer.sum(1) > 1e-9] for rows in (nodes, finer))
        nested = (finer >= -1e-9).all(1)
        return [nodes[nested], nodes[~nested]] if not bool(nested.all()) else [nodes]

    def _orthonormal(self, nodes: Tensor) -> _Starts:
        kernels = self.basis.kernels(nodes).flatten(2)
        centred = (kernels - kernels.mean(-1, keepdim=True)).transpose(1, 2)
        q, r = torch.linalg.qr(centred)
        # a function that adds nothing to those before it has a direction of rounding only
        size = centred.norm(dim=1)
        real = r.diagonal(dim1=1, dim2=2).abs() > 1e-6 * size.clamp(min=1e-30)
        q = q * real[:, None, :]
        columns = [
            self.basis.folded(q[:, :, number].contiguous())[support].flatten(0, 1).float().contiguous()
            for number, support in enumerate(self._supports)
        ]
        return _Starts(nodes, columns, r)

    # -- fitting ---------------------------------------------------------------------------------------------------------

    def fit(self, unit: Tensor) -> Solution:
        """Fit centred unit kernels (n, kernel_h * kernel_w), float32."""
        return best_of([self], unit)[1]

    def start(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """For each kernel the best node of the grid, or the best that the starts lead to: (n, searched), and its rho²."""
        most = max(len(one.nodes) for one in self.starts)
        parts = [self._on_grid(part) for part in unit.split(max(64, self._room * GRID_ROOM // most))]
        starts = [(torch.cat([p[0] for p in one]), torch.cat([p[1] for p in one])) for one in zip(*parts, strict=True)]
        if len(starts) == 1:
            return starts[0]
        enough = CLOSE * torch.stack([score for _, score in starts]).amax(0)
        scales, best = torch.zeros_like(starts[0][0]), torch.full_like(enough, -1.0)
        for nodes, score in starts:
            rows = (score >= enough).nonzero()[:, 0]
            there, rho2 = self._search(unit[rows], nodes[rows])
            better = rho2 > best[rows]
            scales[rows[better]], best[rows[better]] = there[better], rho2[better]
        return scales, best

    def _on_grid(self, unit: Tensor) -> list[tuple[Tensor, Tensor]]:
        folded = self.basis.folded(unit)
        parts = [folded[support].flatten(0, 1).T.contiguous() for support in self._supports]
        found = []
        for one in self.starts:
            # one coefficient after the other: the numbers of a part then stay in the processor's cache
            projected = parts[0] @ one.columns[0]
            score = projected.square()
            second = projected if len(parts) < 3 else torch.empty_like(projected)
            for part, columns in zip(parts[1:], one.columns[1:], strict=True):
                second = torch.mm(part, columns, out=second) if len(parts) > 2 else part @ columns
                score.addcmul_(second, second)
            if self.opposite:
                r = one.triangles.float()
                second = second / r[:, 1, 1]
                first = (projected - r[:, 0, 1] * second) / r[:, 0, 0]
                score = torch.where(first * second < 0, score, score * 1e-3)
            best, node = score.max(1)
            found.append((one.nodes[node], best))
        return found

    def _search(self, unit: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The way from a node (n, searched) in float32: the scales it leads to, in float64, and rho² there."""
        parts = [
            self._climb(self._rough, kernels, scales, ROUGHLY)
            for kernels, scales in zip(self._split(unit), self._split(log_sigma.float()), strict=True)
        ]
        scales = torch.cat([one.log_sigma for one in parts]).double()
        for bound in (self._low, self._high):
            scales[(scales - bound).abs() < HAIR] = bound
        return scales, torch.cat([one.rho2 for one in parts])

    def finish(self, unit: Tensor, log_sigma: Tensor) -> Solution:
        """The end of the way from given scales (n, searched), in float64."""
        # centred and of length 1 to float64's rounding: float32's would show in the residual of a kernel that is explained whole
        exact = unit.double()
        exact = torch.nn.functional.normalize(exact - exact.mean(1, keepdim=True), dim=1)
        parts = [
            self._climb(self._exact, kernels, scales, ENOUGH)
            for kernels, scales in zip(self._split(exact), self._split(log_sigma), strict=True)
        ]
        return Solution(*(torch.cat([getattr(one, name) for one in parts]) for name in Solution.__dataclass_fields__))

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        taps = self.basis.size[0] * self.basis.size[1]
        return rows.split(max(64, self._room * REFINE_ROOM // taps))

    def _climb(self, equations: Equations, unit: Tensor, log_sigma: Tensor, enough: float) -> Solution:
        """Levenberg-Marquardt; a step is kept only if it explains more."""
        kernels, scales = self.basis.folded(unit), log_sigma.T.contiguous()
        now = equations.at(kernels, scales)
        rho2, sigmas, weights, means = now.rho2.clone(), scales.clone(), now.weights.clone(), now.means.clone()
        at = torch.arange(len(unit), device=unit.device)
        damping = torch.full_like(now.rho2, DAMPING)
        missing = torch.zeros_like(now.curvature)
        going = torch.ones_like(at, dtype=torch.bool)
        for _ in range(STEPS if self.form.searched else 0):
            step = _step(now, missing, scales, damping, self._low, self._high)
            promised = summed(step, now.gradient, 0)
            there = (scales + step).clamp(self._low, self._high)
            tried = equations.at(kernels, there)
            gain = tried.rho2 - now.rho2
            better = (gain > 0) & going  # a kernel that is done stays so: its fit must not depend on its neighbours
            if self.opposite:
                better &= (tried.weights[0] * tried.weights[1] < 0) | (now.weights[0] * now.weights[1] >= 0)
            missing = _secant(missing, there - scales, now.gradient - tried.gradient, tried.curvature)
            now, scales = now.replaced(better, tried), torch.where(better, there, scales)
            damping = torch.where(better, damping * 0.1, damping.clamp(min=1e-3) * 10)
            going &= ((gain > enough) | ~better) & (promised > PROMISE * enough)
            left = int(going.sum())
            if left < 0.8 * len(going):
                rho2[at], sigmas[:, at], weights[:, at], means[:, at] = now.rho2, scales, now.weights, now.means
                if left == 0:
                    break
                rest = going.nonzero()[:, 0]
                kernels, scales, damping, missing, at = (
                    one.index_select(-1, rest) for one in (kernels, scales, damping, missing, at)
                )
                now, going = now.chosen(rest), going[rest]
        rho2[at], sigmas[:, at], weights[:, at], means[:, at] = now.rho2, scales, now.weights, now.means
        return Solution(rho2, sigmas.T, weights.T, means.T)


def _secant(missing: Tensor, step: Tensor, change: Tensor, curvature: Tensor) -> Tensor:
    """What Gauss and Newton's curvature lacks where much is left unexplained, learned from how the gradient changed.

    A symmetric rank-one update (Dennis, Gay and Welsch 1981): without it, convergence is slow on kernels that no scale fits well.
    """
    lack = change - summed(curvature + missing, step[None], 1)
    along = summed(lack, step, 0)
    safe = along.abs() > SAFE * (summed(lack, lack, 0) * summed(step, step, 0)).sqrt() + 1e-30
    share = torch.where(safe, 1 / torch.where(safe, along, 1.0), 0.0)
    return missing + (share * lack)[:, None] * lack


def _step(point: Point, missing: Tensor, scales: Tensor, damping: Tensor, low: float, high: float) -> Tensor:
    """A damped step, (searched, n); scales at a bound that want to go further stay."""
    stuck = ((scales <= low) & (point.gradient < 0)) | ((scales >= high) & (point.gradient > 0))
    gradient = torch.where(stuck, 0.0, point.gradient)
    free = (~stuck).to(gradient.dtype)
    scaling = point.curvature.diagonal().T
    curvature = (point.curvature + missing) * free[:, None] * free
    curvature.diagonal().T.add_(damping * scaling + 1e-9 + (1 - free))
    step = summed(inverse(curvature), gradient[None], 1)
    # where the learned curvature bends the wrong way, Gauss and Newton's own does not
    down = (~(summed(step, gradient, 0) > 0)).nonzero()[:, 0]
    if len(down):
        free, scaling, damping, gradient = free[:, down], scaling[:, down], damping[down], gradient[:, down]
        plain = point.curvature[..., down] * free[:, None] * free
        plain.diagonal().T.add_((damping + 1e-3) * scaling + 1e-9 + (1 - free))
        step[:, down] = summed(inverse(plain), gradient[None], 1)
    return step * (LARGEST_STEP / step.abs().amax(0).clamp(min=LARGEST_STEP))


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


def best_of(solvers: Sequence[Solver], unit: Tensor) -> tuple[Tensor, Solution]:
    """Each kernel in the form that suits it best: (n,) number of the form, and its solution."""
    starts = [one.start(unit) for one in solvers]
    form = torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
    if len(starts) == 1:
        return form, solvers[0].finish(unit, starts[0][0])
    enough = CLOSE * torch.stack([score for _, score in starts]).amax(0)
    found: Solution | None = None
    for number, (one, (nodes, score)) in enumerate(zip(solvers, starts, strict=True)):
        rows = (score >= enough).nonzero()[:, 0]
        part = one.finish(unit[rows], nodes[rows])
        if found is None:
            found = Solution(*(torch.zeros(len(unit), *t.shape[1:], dtype=t.dtype, device=t.device) for t in vars(part).values()))
            found.rho2.fill_(-1)
        better = part.rho2 > found.rho2[rows]
        form[rows[better]] = number
        for name, value in vars(part).items():
            getattr(found, name)[rows[better]] = value[better]
    assert found is not None
    return form, found
