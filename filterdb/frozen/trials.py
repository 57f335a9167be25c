"""The cost of banks on images, for the candidates of a greedy search, with as little work as possible.

Three optimisations save work without changing the winner. A candidate differs from the current network only in the kernels that
used its template: only these are written, and restored. Outputs before the first of them are stored (``stages``). Costs are sums
over images that never decrease: a candidate that already costs more than the best so far is stopped early. To stop early, the
images that the original is least certain of come first, as do the candidates that cost least at their last trial.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from filterdb.errors import InvalidArgument
from filterdb.frozen.greedy import Cost, Ranking, State, measured
from filterdb.frozen.pool import Pool
from filterdb.frozen.replace import freeze, replacement
from filterdb.frozen.stages import Memory, Stages
from filterdb.images import ImageSet, batches
from filterdb.kernels import CentredUnit, rows
from filterdb.networks import Network
from filterdb.networks.evaluation import check_classes, logits_of, run_error, running
from filterdb.networks.network import unwrapped
from filterdb.networks.statistics import Watch
from filterdb.search.nearest import correlations, fitted

REMEMBERED = 2 * 2**30
"""Bytes of outputs that are remembered; the images beyond are run from the first layer on."""

MOST_BYTES = 2 * 2**30
"""Maximum size of the prepared images, which are all kept in memory."""

Undo = list[tuple[Tensor, Tensor, Tensor]]


class Inputs:
    """Images as a network takes them, all in memory."""

    def __init__(
        self, network: Network, images: ImageSet, *, batch_size: int, workers: int = 0,
        progress: Callable[[str, int, int], None] | None = None,
    ):  # fmt: skip
        """
        Raises:
            DataError: a broken image.
            InvalidArgument: more images than ``MOST_BYTES`` hold.
        """
        shape = network.preprocessing["input_size"]
        most = MOST_BYTES // (4 * math.prod(shape))
        if len(images) > most:
            raise InvalidArgument(
                f"{len(images):,} images of {'x'.join(map(str, shape))} are more than are kept in memory to be tried again and "
                f"again. Take {most:,} of them at most, with limit."
            )
        self.set = images
        self.batches = list(
            batches(images, network.preprocessing, batch_size=batch_size, workers=workers, progress=progress)
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """Hash of images, labels and batches."""
        found = hashlib.blake2b(digest_size=16)
        for x, y in self.batches:
            found.update(x.numpy().tobytes())
            found.update(y.numpy().tobytes())
        return found.hexdigest()


def digest_of(module: nn.Module) -> str:
    """Hash of the weights of a network."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass
class _Layer:
    """One replaced layer."""

    number: int
    weight: Tensor
    old: Tensor
    """The original's weight."""
    parts: CentredUnit
    templates: CentredUnit
    rho: NDArray[np.float32]
    """(n, m)."""


class OnImages:
    """The cost of banks for one network: ``accuracy``, ``agreement`` or ``kl``.

    A cost is the number of images that are wrong (by their labels, or not the original's choice) and the sum of the cross entropy
    (or of KL from the original) in nats, which decides among equals; of ``kl`` that sum alone.
    """

    def __init__(
        self, network: Network, pool: Pool, objective: str, inputs: Inputs, *, lazy: bool = False, device: str | None = None,
        remembered: int = REMEMBERED,
    ):  # fmt: skip
        """
        Args:
            network: as it was; it goes to the device, and its weights stay.
            pool: its kernels.
            objective: accuracy, agreement or kl.
            inputs: the images.
            lazy: take what losing a template cost when it was last tried for a lower bound of what it costs now, and try only
                candidates that may win by it. That is exact where losses can but grow as the bank shrinks, as they do for energy;
                accuracy only tends to.
            device: torch device; by default the network's, or the GPU if there is one.
            remembered: bytes.
        """
        self.network, self.pool, self.objective, self.inputs = network, pool, objective, inputs
        self.lazy, self.device, self.budget = lazy, device, remembered
        self.images = len(inputs.set)
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.original: dict[str, float] = {}
        """What is measured of the network as it was."""
        self.warning: str | None = None
        """Where its batch norms see other inputs than in training."""

    # -- the objective -----------------------------------------------------------------------------------------------------

    def begin(self, ranking: Ranking, state: State) -> Cost:
        """Run the original, write the kernels that are nearest now, remember, and cost."""
        self._prepare(state)
        self.module = unwrapped(freeze(self.network.module, self.pool.plan).module).eval()
        self.layers = [self._layer(number) for number in range(len(self.pool.layers))]
        self._write(np.arange(self.pool.count), ranking.best)
        try:
            self.stages = Stages(self.module, [one.name for one in self.pool.layers], self.batches[0][0][:2])
        except (RuntimeError, MemoryError) as error:
            raise self._error(error, 2) from error
        self.level = np.array([self.stages.level[one.name] for one in self.pool.layers])
        self.deepest = len(self.level)
        """The level up to which what is remembered is of the network at hand."""
        self.memory: list[Memory | None] = []
        room = self.budget
        for x, _ in self.batches:
            room -= self.stages.bytes * len(x)
            self.memory.append({} if room >= 0 else None)
        cost = self._run(state, None, None)
        assert cost is not None
        return cost

    def _prepare(self, state: State) -> None:
        """The images on the device, and what outputs are compared with: labels, or the logits (n, classes) of the original."""
        network, images = self.network, self.inputs.set
        labels = images.labelled("the objective accuracy") if self.objective == "accuracy" else None
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        cost = self._nothing()
        with running(network, self.device, False) as where, Watch(network) as watch:
            for x, y in self.inputs.batches:
                x, y = x.to(where), y.to(where)
                out = logits_of(network, x, batch_size=len(x), amp=False, channels_last=False)
                watch.add(len(x))
                if not found:
                    check_classes(network, out.shape[1], images, labels)
                target = out if labels is None else y
                found.append((x, target, _margin(out, _choice(out) if labels is None else y)))
                cost = _sum(cost, self._cost(out, target))
                state.seen += len(x)
        self.original = measured(self.objective, cost, self.images)
        self.warning = watch.warning()
        # first the images that are wrong, or nearly: it shows there that a candidate costs too much
        order = torch.cat([margin for *_, margin in found]).argsort(stable=True)
        x, target = (torch.cat([one[i] for one in found])[order] for i in range(2))
        size = len(found[0][0])
        self.batches = list(zip(x.split(size), target.split(size), strict=True))

    def cheapest(self, ranking: Ranking, state: State, told: Callable[[], None]) -> tuple[int, Cost]:
        """Try the candidates; the first of those that cost least."""
        base, guess = state.costs[-1], ranking.losses()
        users = {t: ranking.users(t) for t in ranking.left}
        untried = [t for t in ranking.left if t not in state.now]
        untried.sort(key=lambda t: (state.known.get(t, (math.inf,)), guess[t]))
        self._refresh([self._level(users[t]) for t in untried], state)
        best = min(((cost, t) for t, cost in state.now.items() if cost is not None), default=None)
        for t in untried:
            if self.lazy and best is not None and t in state.known and _less(best[0], base) <= state.known[t]:
                break
            # a lazy search has to know what each of its few candidates costs
            limit = best[0] if best is not None and not self.lazy else None
            with self._without(users[t], ranking):
                cost = self._run(state, self._level(users[t]), limit)
            state.now[t] = cost
            if cost is not None:
                state.known[t] = _less(cost, base)
                best = (cost, t) if best is None else min(best, (cost, t))
            told()
        assert best is not None
        return best[1], best[0]

    def drop(self, ranking: Ranking, template: int) -> None:
        """Write the kernels that move."""
        users = ranking.users(template)
        if len(users):
            self._write(users, ranking.second[users])
            self.deepest = min(self.deepest, self._level(users))

    # -- kernels -----------------------------------------------------------------------------------------------------------

    def _layer(self, number: int) -> _Layer:
        kernels, bank = self.pool.kernels[number], self.pool.banks[number]
        weight: Any = self.module.get_submodule(self.pool.layers[number].name).weight
        original: Any = unwrapped(self.network.module).get_submodule(self.pool.layers[number].name).weight
        return _Layer(number, weight, original.detach().clone(), *correlations(rows(kernels), bank))

    def _write(self, kernels: NDArray[np.int64], templates: NDArray[np.integer]) -> Undo:
        """Make kernels what they are with these templates; what they were before."""
        undo: Undo = []
        cuts = np.searchsorted(kernels, self.pool.starts)
        for one, start, first, last in zip(self.layers, self.pool.starts, cuts, cuts[1:], strict=False):
            if first == last:
                continue
            own, chosen = kernels[first:last] - start, templates[first:last]
            at = torch.from_numpy(own).to(one.weight.device)
            with torch.no_grad():
                undo.append((one.weight, at, one.weight[at]))
                one.weight[at] = self._kernels(one, own, chosen, at)
        return undo

    def _kernels(self, one: _Layer, own: NDArray[np.int64], chosen: NDArray[np.integer], at: Tensor) -> Tensor:
        """Kernels of a layer with the templates chosen for them, to the bit as ``freeze`` writes them."""
        parts = CentredUnit(one.parts.unit[own], one.parts.mean[own], one.parts.deviation[own], one.parts.dead[own])
        plan = self.pool.plan
        gain, offset, _ = fitted(parts, one.templates, chosen, one.rho[own, chosen], signed=plan.signed)
        gain[parts.dead], offset[parts.dead] = 0, parts.mean[parts.dead]
        found = {"template": chosen, "gain": gain, "offset": offset, "dead": parts.dead}
        dtype = str(one.weight.dtype).removeprefix("torch.")
        made = replacement(
            self.pool.layers[one.number], self.pool.kernels[one.number][own], plan, lambda *_: found, dtype
        )  # fmt: skip
        values = one.old[at]
        changed = torch.from_numpy(made.changed).to(values.device)
        values[changed] = torch.from_numpy(made.new[made.changed]).unsqueeze(1).to(values)
        return values

    @contextmanager
    def _without(self, users: NDArray[np.int64], ranking: Ranking) -> Iterator[None]:
        """The network as it would be if these kernels moved."""
        undo = self._write(users, ranking.second[users])
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, at, values in undo:
                    weight[at] = values

    # -- running -----------------------------------------------------------------------------------------------------------

    def _level(self, users: NDArray[np.int64]) -> int:
        """The first layer that changes where these kernels do."""
        touched = np.unique(np.searchsorted(self.pool.starts, users, "right") - 1)
        return int(self.level[touched].min())

    def _refresh(self, levels: Sequence[int], state: State) -> None:
        """Remember anew what has changed, where at least two candidates gain by it."""
        if self.lazy or sum(level > self.deepest for level in levels) < 2:
            return
        with torch.inference_mode():
            for (x, _), memory in zip(self.batches, self.memory, strict=True):
                if memory is not None:
                    self._forward(self.stages.record, x, memory, self.deepest)
                    state.seen += len(x)
        self.deepest = len(self.level)

    def _run(self, state: State, level: int | None, limit: Cost | None) -> Cost | None:
        """The cost of the network as it is, from a layer on; None once it is above the limit. Without a level, it remembers."""
        cost = self._nothing()
        with torch.inference_mode():
            for (x, target), memory in zip(self.batches, self.memory, strict=True):
                if level is None and memory is not None:
                    out = self._forward(self.stages.record, x, memory)
                else:
                    out = self._forward(self.stages.run, x, memory, min(level or 0, self.deepest))
                state.seen += len(x)
                cost = _sum(cost, self._cost(out, target))
                if limit is not None and cost > limit:
                    return None
        return cost

    def _nothing(self) -> Cost:
        return (0.0,) if self.objective == "kl" else (0, 0.0)

    def _cost(self, out: Tensor, target: Tensor) -> Cost:
        """Of one batch of logits."""
        log_q = out.double().log_softmax(1)
        if self.objective == "accuracy":
            right, nats = target, -log_q.gather(1, target[:, None]).sum()
        else:
            log_p = target.double().log_softmax(1)
            right, nats = _choice(target), (log_p.exp() * (log_p - log_q)).sum()
        # logits that overflow cost more than any others; rounding must not make a sum shrink
        lost = max(0.0, float(nats)) if bool(torch.isfinite(nats)) else float("inf")
        return (lost,) if self.objective == "kl" else (int((_choice(out) != right).sum()), lost)

    def _forward(self, run: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
        try:
            return run(x, *rest)
        except (RuntimeError, MemoryError) as error:
            raise self._error(error, len(x)) from error

    def _error(self, error: BaseException, batch: int) -> Exception:
        return run_error(error, self.network.name, f"images of {'x'.join(map(str, self.batches[0][0].shape[1:]))}", batch)


def _sum(cost: Cost, more: Cost) -> Cost:
    return tuple(a + b for a, b in zip(cost, more, strict=True))


def _less(cost: Cost, base: Cost) -> Cost:
    return tuple(a - b for a, b in zip(cost, base, strict=True))


def _margin(out: Tensor, right: Tensor) -> Tensor:
    """(n,) by how much the right class is ahead of the best other one."""
    others = out.scatter(1, right[:, None], -math.inf)
    return out.gather(1, right[:, None])[:, 0] - others.amax(1)


def _choice(out: Tensor) -> Tensor:
    """(n,) the class of the largest logit, the first of equal ones, as in ``filterdb.networks.evaluation``."""
    return (out == out.amax(1, keepdim=True)).int().argmax(1)
