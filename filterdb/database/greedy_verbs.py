"""The method for greedy search, which drops the templates of a bank that contribute least."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from filterdb.banks import Bank
from filterdb.database.bank_verbs import BankVerbs
from filterdb.database.run_verbs import network_of
from filterdb.database.sql_verbs import SqlVerbs
from filterdb.errors import InvalidArgument, not_found
from filterdb.networks.runs import RunStore, now

if TYPE_CHECKING:
    from torch import nn

    from filterdb.frozen.choices import Matching
    from filterdb.frozen.greedy import Greedy, Objective, Search
    from filterdb.frozen.plan import Plan
    from filterdb.frozen.pool import Pool
    from filterdb.images import Images, ImageSet
    from filterdb.networks import Network

    Data = str | os.PathLike[str] | ImageSet | Images

Progress = Callable[[str, int, int], None]

BATCH_SIZE = 8
FORMAT = 1
"""Of what is kept of a search; one that was kept in another format is made anew."""


class GreedyVerbs(SqlVerbs, BankVerbs):
    """``greedy``."""

    def greedy(
        self, model: str | os.PathLike[str] | Network | nn.Module | None = None, *, bank: str | Bank, objective: str = "energy",
        search: Search | None = None, models: str | Sequence[str] | None = None, architecture: str | None = None,
        matching: Matching | None = None, data: Data | None = None, device: str | None = None, keep: bool = True,
        progress: Progress | None = None,
    ) -> Greedy:  # fmt: skip
        """Repeatedly drop the template of a bank whose loss costs least, until ``stop`` are left.

        A search is kept in ``runs`` and ``metrics`` (step: templates left) while it runs. The same call resumes an
        interrupted search, with the same numbers, and returns a finished one at once.

        Args:
            model: whose kernels: a source such as ``timm:NAME`` or a checkpoint file, a network, or an nn.Module. For objectives
                that look at images it must be one that runs (see ``filterdb.networks.load``).
            bank: the templates to start from, or their name.
            objective: "energy": the energy that is kept, for which no images are needed. "accuracy": top-1 on labelled images.
                "agreement": how often the network chooses as it did with its own kernels; unlabelled images will do. "kl": the KL
                divergence from what it said then.
            search: how many templates to leave, and how candidates are weighed and tried.
            models: of energy: names or globs of models in the database, instead of ``model``.
            architecture: what a file is the weights of, where it does not say so.
            matching: which kernels, and what becomes of those of other sizes than the bank's: its ``layers``, ``resize`` and
                ``signed``.
            data: images: a source of ``filterdb.images.open_images``, an open set, or ``Images``; 8 at a time by default,
                which is fast on a CPU. Take more on a GPU.
            device: as for ``evaluate``.
            keep: False stores nothing.
            progress: called with the current step, the candidates done, and the total.

        Returns:
            The curve (``steps``), the order of the drops, the ``elbow``, and ``bank(count)``, the templates that were left last.

        Raises:
            NotFound, InvalidArgument: an unknown objective, model or layer; a bank of one template; no kernels of its size; no
                images for an objective that needs them.
            SourceError, DataError, RunError: a source, images or a network that cannot be read or run.
        """
        from filterdb.frozen.choices import Matching
        from filterdb.frozen.greedy import MEASURES, Ranking, Search, answer
        from filterdb.frozen.greedy import search as run_search
        from filterdb.frozen.plan import Plan
        from filterdb.images import Images

        if keep:
            self._writable()
        if objective not in MEASURES:
            raise not_found("objective", objective, MEASURES)
        start, asked, how = self.bank(bank) if isinstance(bank, str) else bank, search or Search(), matching or Matching()
        _check(start, asked, how, objective, model, models, data)
        plan = Plan.of(start, layers=how.layers, resize=how.resize, signed=how.signed)  # type: ignore[arg-type]
        if objective == "energy":
            case = self._by_energy(model, models, architecture, plan, start, asked.per)
        else:
            choice = Images.of(data)  # type: ignore[arg-type]
            images = choice.open()
            network = network_of(model, architecture, choice.preprocessing)  # type: ignore[arg-type]
            batch_size = choice.batch_size or BATCH_SIZE
            case = _on_images(network, images, plan, objective, asked.lazy, batch_size, choice.workers, device, progress)
            case.about |= {"split": choice.split, "part": choice.part, "seed": choice.seed}
            case.settings |= {"limit": choice.limit}
        case.settings |= {"size": start.size, "signed": how.signed, "layers": how.layers, "resize": how.resize}
        ranking = Ranking.of(case.pool, case.pool.worth(asked.per))  # type: ignore[arg-type]
        run = _Run(self._runs if keep else None, case, start, objective)
        try:
            run_search(ranking, case.judge, run.state, stop=asked.stop, keep=run.put, progress=progress)
        except BaseException as error:
            run.put("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        run.put("finished")
        return answer(
            start, objective, case.pool, run.state, images=case.images, original=run.original, settings=run.settings | run.warned,
            run_id=run.run_id if keep else None,
        )  # fmt: skip

    def _by_energy(
        self, model: Any, models: str | Sequence[str] | None, architecture: str | None, plan: Plan, bank: Bank, per: str
    ) -> _Case:
        from filterdb.frozen.greedy import Energy
        from filterdb.frozen.pool import of_models, of_source
        from filterdb.networks import Network

        if models is not None:
            pool = of_models(self._view(), models, plan, bank)
        else:
            pool = of_source(model.module if isinstance(model, Network) else model, plan, architecture)
        return _Case(pool, Energy(), [per], {"source": pool.what, "architecture": architecture}, {"per": per})


@dataclass
class _Case:
    """What is searched."""

    pool: Pool
    judge: Objective
    identity: list[Any]
    """With the pool and the objective, all that the answer depends on."""
    about: dict[str, Any]
    """Columns of ``runs``."""
    settings: dict[str, Any]
    images: int = 0


def _on_images(
    network: Network, images: ImageSet, plan: Plan, objective: str, lazy: bool, batch_size: int, workers: int, device: str | None,
    progress: Progress | None,
) -> _Case:  # fmt: skip
    from filterdb.frozen.pool import of_source
    from filterdb.frozen.trials import Inputs, OnImages, digest_of

    if objective == "accuracy":
        images.labelled("the objective accuracy")
    pool = replace(of_source(network.module, plan), what=network.source)
    inputs = Inputs(network, images, batch_size=batch_size, workers=workers, progress=progress)
    return _Case(
        pool, OnImages(network, pool, objective, inputs, lazy=lazy, device=device),
        [lazy, device, inputs.digest, digest_of(network.module)],
        {
            "model": network.name, "source": network.source, "architecture": network.architecture, "data": images.name,
            "images": len(images), "device": device,
        },
        {"lazy": lazy, "data": images.name, "batch_size": batch_size, "preprocessing": network.preprocessing}, len(images),
    )  # fmt: skip


def _check(bank: Bank, search: Search, matching: Matching, objective: str, model: Any, models: Any, data: Any) -> None:
    """Refuse an impossible search before anything is read."""
    stop, lazy = search.stop, search.lazy
    if matching.match != "weights" or matching.mix:
        raise InvalidArgument("A greedy search matches each kernel with one template, by the weights: leave match and mix out.")
    if len(bank) < 2:
        raise InvalidArgument(f'The bank "{bank.name}" has one template, so there is none to drop. Start from more, such as 50.')
    if isinstance(stop, bool) or not isinstance(stop, int) or not 1 <= stop < len(bank):
        raise InvalidArgument(f"stop says how many of the {len(bank)} templates to leave: 1 to {len(bank) - 1}, got {stop!r}.")
    if (model is None) == (models is None):
        raise InvalidArgument("Give one of the two: a model, or with models the names of models in the database.")
    if objective != "energy":
        if models is not None:
            raise InvalidArgument(f"The objective {objective} runs a network, and the database has kernels alone. Give a model.")
        if data is None:
            raise InvalidArgument(f"The objective {objective} needs images: give data. The objective energy needs none.")
    elif data is not None or lazy:
        word = "data" if data is not None else "lazy"
        raise InvalidArgument(f"The objective energy looks at no images: leave {word} out, or take accuracy, agreement or kl.")


class _Run:
    """A search as a run of the database, under a name that the same search has again; or nowhere."""

    def __init__(self, store: RunStore | None, case: _Case, start: Bank, objective: str):
        from filterdb.frozen.greedy import State

        identity = repr([FORMAT, objective, case.pool.digest, *case.identity])
        self.run_id = f"greedy-{hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()}"
        self.store, self.case, self.start, self.objective = store, case, start, objective
        self.settings = {"objective": objective, "templates": len(start), **case.settings}
        self.started, self.state, self._original = now(), State(), {}
        self._kept: tuple[str, int] | None = None
        self._warning: str | None = None
        if store is not None and self.run_id in store.collection.snapshot().editions:
            head, _ = store.get(self.run_id)
            self.started, self._original = head["started_at"], head["settings"]["original"]
            self._warning = head["settings"].get("warning")
            self.state = State.from_plain(head["settings"]["state"])
            self._kept = head["status"], len(self.state.costs)

    @property
    def original(self) -> dict[str, float]:
        """What is measured of the network as it was, as soon as that is known."""
        return getattr(self.case.judge, "original", None) or self._original

    @property
    def warned(self) -> dict[str, str]:
        """A warning about the network, where there is one, as one of the settings."""
        warning = getattr(self.case.judge, "warning", None) or self._warning
        return {"warning": warning} if warning else {}

    def put(self, status: str = "running") -> None:
        """Keep it as it is now."""
        from filterdb.frozen.greedy import measured

        state = self.state
        if self.store is None or not state.costs or self._kept == ("finished", len(state.costs)):
            return
        left = [len(self.start) - i for i in range(len(state.costs))]
        rows = [
            {"step": step, "metric": name, "value": value}
            for step, cost in zip(left, state.costs, strict=True)
            for name, value in measured(self.objective, cost, self.case.images).items()
        ]
        for name in ("moved", "tried", "stopped"):
            rows += [{"step": step, "metric": name, "value": value} for step, value in zip(left[1:], getattr(state, name))]
        order = [self.start.names[template] for template in state.dropped]
        self.store.put(
            {
                "run_id": self.run_id, "kind": "greedy", "bank": self.start.name, "mode": self.objective, **self.case.about,
                "status": status, "started_at": self.started, "finished_at": None if status == "running" else now(),
                "settings": {**self.settings, **self.warned, "original": self.original, "order": order, "state": state.plain()},
            },
            rows,
        )  # fmt: skip
        self._kept = status, len(state.costs)
