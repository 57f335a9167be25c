"""Greedy search for a smaller bank: repeatedly drop the template whose loss costs least.

Only kernels that used the dropped template move, each to the best remaining one. The search therefore keeps the correlation of
every kernel with every template (``Ranking``), and matches nothing twice. A template that no kernel uses costs nothing and is
dropped without a trial.

The energy cost of all candidates follows exactly from this table, in one pass. The cost in accuracy or agreement is measured on
images: ``filterdb.frozen.trials``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from filterdb.banks import Bank
from filterdb.errors import InvalidArgument
from filterdb.frozen.pool import Pool
from filterdb.networks.shares import standard_error
from filterdb.search.nearest import correlations

Cost = tuple[float, ...]
"""The cost of a bank, to be minimised. Of two numbers the first decides, and the second breaks ties."""
MEASURES = {"energy": ("energy_kept",), "accuracy": ("top1", "loss"), "agreement": ("agreement", "kl"), "kl": ("kl",)}
"""By objective, what is measured; the first is what the curve shows."""
FALLING = ("loss", "kl")
"""Measures of which less is better."""
KEEP_SECONDS = 20.0
"""Seconds between two saves of a search. A killed search loses at most this much work."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Search:
    """How templates are dropped."""

    stop: int = 1
    """How many templates to leave."""
    per: str = "layer"
    """Of energy: "layer" counts each layer alike, its kernels by their energy |f - mean|², "network" all kernels by their energy,
    "kernel" each kernel alike."""
    lazy: bool = False
    """Of objectives on images: try only candidates that may win if losses only grow as the bank shrinks. Several times fewer
    trials, and not the exact search where that does not hold."""


def measured(objective: str, cost: Cost, images: int) -> dict[str, float]:
    """A cost in the words of its objective: shares in [0, 1] with their standard errors (_se), nats."""
    if objective == "energy":
        return {"energy_kept": 1 - cost[0]}
    means = [one / images for one in cost]
    found = {name: value if name in FALLING else 1 - value for name, value in zip(MEASURES[objective], means, strict=True)}
    shares = {f"{name}_se": standard_error(value, images) for name, value in found.items() if name not in FALLING}
    return dict(sorted({**found, **shares}.items(), key=lambda one: list(found).index(one[0].removesuffix("_se"))))


class Ranking:
    """For each of n kernels the best and the second best of the templates that are left, as templates are dropped.

    Ties go to the earlier template, as ``nearest`` has it.
    """

    def __init__(self, scores: NDArray[np.float32], worth: NDArray[np.float64]):
        """
        Args:
            scores: (n, m) |rho|, or rho where only positive gains count; 0 for dead kernels. Columns of dropped templates are
                overwritten.
            worth: (n,) what the energy of each kernel counts.
        """
        self.scores, self.worth = scores, worth
        self.there = np.ones(scores.shape[1], bool)
        n = len(scores)
        self.best, self.second = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.top, self.next = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self._rank(np.arange(n))

    @classmethod
    def of(cls, pool: Pool, worth: NDArray[np.float64]) -> Ranking:
        """The kernels of a pool, matched as ``nearest.match`` does it."""
        found = []
        for kernels, bank in zip(pool.kernels, pool.banks, strict=True):
            rho = correlations(kernels.reshape(len(kernels), -1), bank)[2]
            found.append(rho if pool.plan.signed else np.abs(rho, out=rho))
        return cls(np.concatenate(found), worth)

    @property
    def left(self) -> list[int]:
        """The templates that are left."""
        return [int(one) for one in np.flatnonzero(self.there)]

    def _rank(self, kernels: NDArray[np.integer]) -> None:
        scores, at = self.scores[kernels], np.arange(len(kernels))
        best = scores.argmax(axis=1)
        self.best[kernels], self.top[kernels] = best, scores[at, best]
        scores[at, best] = -np.inf
        second = scores.argmax(axis=1)
        self.second[kernels], self.next[kernels] = second, scores[at, second]

    @property
    def used(self) -> NDArray[np.bool_]:
        """(n,) whether a kernel gets anything out of its best template: not where it is dead, or no positive gain helps."""
        return self.top > 0

    def users(self, template: int) -> NDArray[np.int64]:
        """The kernels that would move if a template were dropped."""
        return np.flatnonzero((self.best == template) & self.used)

    def counts(self) -> NDArray[np.int64]:
        """(m,) how many kernels use each template."""
        return np.bincount(self.best[self.used], minlength=len(self.there))

    def lost(self) -> float:
        """The energy that is lost, of 1: the sum of worth x (1 - rho²)."""
        return float(1 - self.worth @ _squares(self.top))

    def losses(self) -> NDArray[np.float64]:
        """(m,) how much more energy is lost without each template; infinite for those that are gone."""
        loss = np.bincount(self.best, self.worth * (_squares(self.top) - _squares(self.next)), len(self.there))
        return np.where(self.there, loss, np.inf)

    def drop(self, template: int) -> None:
        """Drop a template: its users move."""
        self.scores[:, template], self.there[template] = -np.inf, False
        self._rank(np.flatnonzero((self.best == template) | (self.second == template)))


def _squares(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.maximum(scores, 0).astype(np.float64) ** 2


# -- the search ----------------------------------------------------------------------------------------------------------------


@dataclass
class State:
    """The state of a search, in plain values: everything that is saved and needed to resume."""

    dropped: list[int] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    """Of the whole bank, then after each drop."""
    moved: list[int] = field(default_factory=list)
    """Kernels that each drop moved."""
    tried: list[int] = field(default_factory=list)
    """Candidates that each drop was chosen from, of those that were tried on images."""
    stopped: list[int] = field(default_factory=list)
    """Of these, those that were not seen to the end, as they could no longer win."""
    now: dict[int, Cost | None] = field(default_factory=dict)
    """Candidates tried for the next drop; None for those that were stopped."""
    known: dict[int, Cost] = field(default_factory=dict)
    """What it cost to lose each template, over what there was, when that was last seen to the end."""
    seen: int = 0
    """Images that went through the network, from whatever layer on."""
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON can say it."""
        return dict(vars(self))

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> State:
        """The inverse, also after JSON made lists of tuples and text of numbers."""
        made = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        made.costs = [tuple(cost) for cost in made.costs]
        made.now = {int(key): None if cost is None else tuple(cost) for key, cost in made.now.items()}
        made.known = {int(key): tuple(cost) for key, cost in made.known.items()}
        return made


class Objective(Protocol):
    """What a bank costs."""

    def begin(self, ranking: Ranking, state: State) -> Cost:
        """Get ready at what is left of the bank; its cost."""

    def cheapest(self, ranking: Ranking, state: State, told: Callable[[], None]) -> tuple[int, Cost]:
        """The template to drop, and the cost without it. ``told`` is called whenever ``state`` has changed."""

    def drop(self, ranking: Ranking, template: int) -> None:
        """Drop this one for good; the ranking still has it."""


class Energy:
    """The energy that is lost; no images. It never helps to drop a template, so one that is not used is always the cheapest."""

    def begin(self, ranking: Ranking, state: State) -> Cost:
        """The energy lost."""
        return (ranking.lost(),)

    def cheapest(self, ranking: Ranking, state: State, told: Callable[[], None]) -> tuple[int, Cost]:
        """The least of all losses, and what is lost then, summed anew so that nothing adds up over the steps."""
        template = int(ranking.losses().argmin())
        top = np.where(ranking.best == template, ranking.next, ranking.top)
        return template, (float(1 - ranking.worth @ _squares(top)),)

    def drop(self, ranking: Ranking, template: int) -> None:
        """Nothing to do."""


def search(
    ranking: Ranking, objective: Objective, state: State, *, stop: int = 1, keep: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Drop templates until ``stop`` are left; ``state`` says where to begin, and where it ended.

    Args:
        ranking: of the whole bank.
        objective: what a bank costs.
        state: an empty one, or that of a search of the same which was interrupted; it continues as if nothing had happened.
        stop: templates to leave.
        keep: called when there is something to keep, every ``KEEP_SECONDS`` at most.
        progress: called with the current step, the candidates done, and the total.
    """
    whole = len(ranking.there)
    for template in state.dropped:
        ranking.drop(template)
    if state.costs and len(ranking.left) <= stop:
        return
    clock, kept = time.perf_counter(), time.perf_counter()
    spent = state.seconds

    def told() -> None:
        nonlocal kept
        now = time.perf_counter()
        state.seconds = spent + now - clock
        if progress is not None:
            left = whole - len(state.dropped)
            progress(f"{left} templates left", naive(whole, left) + len(state.now), naive(whole, stop))
        if keep is not None and now - kept >= KEEP_SECONDS:
            keep()
            kept = time.perf_counter()

    told()
    cost = objective.begin(ranking, state)
    if not state.costs:
        state.costs.append(cost)
    told()
    while len(ranking.left) > stop:
        unused = np.flatnonzero(ranking.there & (ranking.counts() == 0))
        if len(unused):
            template, cost = int(unused[0]), state.costs[-1]
        else:
            template, cost = objective.cheapest(ranking, state, told)
        users = len(ranking.users(template))
        objective.drop(ranking, template)
        ranking.drop(template)
        state.dropped.append(template)
        state.costs.append(cost)
        state.moved.append(users)
        state.tried.append(len(state.now))
        state.stopped.append(sum(one is None for one in state.now.values()))
        state.now.clear()
        state.known.pop(template, None)
        told()


def naive(templates: int, left: int) -> int:
    """How often a bank is tried on the way from ``templates`` to ``left`` where nothing is reused: once whole, then without each
    candidate of each step; m(m+1)/2 down to one.

    >>> naive(50, 1)
    1275
    """
    return 1 + (templates * (templates + 1) - left * (left + 1)) // 2


# -- the answer ----------------------------------------------------------------------------------------------------------------


def elbow(curve: Sequence[tuple[int, float]], measure: str) -> int | None:
    """The elbow of a curve: the number of templates at the point farthest above the chord from its first to its last point, both
    axes scaled to [0, 1] ("kneedle" of Satopää et al., 2011, without smoothing); None where there is no such point.

    Args:
        curve: templates left and what was measured, from the whole bank down.
        measure: what that was; of some, less is better.
    """
    sign = -1 if measure in FALLING else 1
    signed = [(left, sign * value) for left, value in curve]
    (most, first), (least, last) = signed[0], signed[-1]
    if len(signed) < 3 or not np.isfinite([value for _, value in signed]).all() or first <= last:
        return None
    heights = [(value - last) / (first - last) - (left - least) / (most - least) for left, value in signed]
    found = int(np.argmax(heights))
    return signed[found][0] if heights[found] > 0 else None


@dataclass(frozen=True)
class Step:
    """A point of the curve."""

    templates: int
    """That are left."""
    dropped: str | None
    """The template that was dropped to come here; None for the whole bank."""
    values: dict[str, float]
    """What is measured."""
    moved: int
    """Kernels that moved."""
    tried: int
    """Candidates that were tried on images to choose it."""
    stopped: int
    """Of these, those not seen to the end."""


@dataclass(frozen=True)
class Greedy:
    """What a search found."""

    start: Bank
    objective: str
    source: str
    kernels: int
    steps: tuple[Step, ...]
    """From the whole bank down."""
    images: int = 0
    """In the set that costs were measured on."""
    seen: int = 0
    """Images that went through the network in all, from whatever layer on."""
    seconds: float = 0.0
    original: dict[str, float] = field(default_factory=dict)
    """The same measures of the network as it was."""
    run_id: str | None = None
    """Under which the database keeps it."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """What the curve shows."""
        return MEASURES[self.objective][0]

    @property
    def order(self) -> list[str]:
        """The templates in the order in which they were dropped."""
        return [step.dropped for step in self.steps if step.dropped is not None]

    @property
    def survivors(self) -> list[str]:
        """All templates, the longest to survive first; those that never were dropped stand first, in the bank's order."""
        gone = set(self.order)
        return [name for name in self.start.names if name not in gone] + self.order[::-1]

    @property
    def elbow(self) -> int | None:
        """The number of templates at the curve's elbow; see ``elbow``."""
        return elbow([(step.templates, step.values[self.measure]) for step in self.steps], self.measure)

    @property
    def evaluations(self) -> dict[str, int]:
        """How often a bank was tried on images, how often a naive search would, and what that saves; and how many of those tried
        were not seen to the end, as they could no longer win."""
        made = 0 if self.objective == "energy" else 1 + sum(step.tried for step in self.steps)
        all_ = naive(self.steps[0].templates, self.steps[-1].templates)
        stopped = sum(step.stopped for step in self.steps)
        return {"made": made, "naive": all_, "saved": all_ - made, "stopped": stopped}

    def bank(self, count: int, name: str | None = None) -> Bank:
        """The ``count`` templates that were left last, in the order of the bank, as a bank of that name."""
        most, least = self.steps[0].templates, self.steps[-1].templates
        if isinstance(count, bool) or not isinstance(count, int) or not least <= count <= most:
            raise InvalidArgument(f"This search went from {most} templates to {least}: it has no bank of {count!r} templates.")
        chosen = sorted(self.start.names.index(one) for one in self.survivors[:count])
        step = next(step for step in self.steps if step.templates == count)
        values = ", ".join(f"{word} {value:.4f}" for word, value in step.values.items())
        on = f" on {self.images} images of {self.settings.get('data')}" if self.images else ""
        made_by = (
            f"greedy search by {self.objective}{on} for {self.kernels:,} kernels of {self.source}"
            f"{f' (run {self.run_id})' if self.run_id else ''}: {count} left of the {most} templates of "
            f'"{self.start.name}" ({self.start.made_by or "not said how it was made"}), {values}'
        )
        return replace(
            self.start, name=name or f"{self.start.name}-greedy{count}", names=[self.start.names[i] for i in chosen],
            templates=self.start.templates[chosen], labels=[self.start.labels[i] for i in chosen], made_by=made_by, scale=None,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        plain = [{name: value for name, value in vars(step).items() if name != "values"} | step.values for step in self.steps]
        return {
            "run_id": self.run_id, "objective": self.objective, "source": self.source, "bank": self.start.name,
            "kernels": self.kernels, "images": self.images, "original": self.original, "elbow": self.elbow,
            "evaluations": self.evaluations, "seen": self.seen, "seconds": self.seconds, "settings": self.settings,
            "survivors": self.survivors, "steps": plain,
        }  # fmt: skip


def answer(start: Bank, objective: str, pool: Pool, state: State, *, images: int = 0, **about: Any) -> Greedy:
    """What a state means."""
    rows = zip(state.costs, [None, *state.dropped], [0, *state.moved], [0, *state.tried], [0, *state.stopped], strict=True)
    steps = tuple(
        Step(len(start) - i, None if t is None else start.names[t], measured(objective, cost, images), moved, tried, stopped)
        for i, (cost, t, moved, tried, stopped) in enumerate(rows)
    )
    return Greedy(
        start, objective, pool.what, pool.count, steps, images, seen=state.seen, seconds=state.seconds, **about
    )  # fmt: skip
