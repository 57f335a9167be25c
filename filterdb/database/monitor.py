"""``Monitor``: the kernels of a network while it trains, stored in the background."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from filterdb.database import Database
from filterdb.database.ingest import describe_skipped, store
from filterdb.errors import FilterdbError, InvalidArgument, RunError

if TYPE_CHECKING:
    from torch import nn

    from filterdb.store.schema import Model

WAITING = 8
"""Steps that may wait to be stored. A call that finds more waits for one of them, so memory stays bounded."""
SHIPPED = {"7x7": "small-nets-7x7", "5x5": "small-nets-5x5"}
"""Classifiers that are imported where the database has none for a kernel size."""


class Monitor:
    """Stores the depthwise kernels of a network at some steps of its training, each as a model RUN@STEP, with classes and words.

    A call copies the kernels and returns; a thread stores and classifies them. ``filterdb serve`` and ``db.plot("steps")`` show
    them while the network trains. In distributed training only rank 0 stores, so every rank may call::

        monitor = filterdb.Monitor(db, run="my-run")
        for step, batch in enumerate(loader):
            ...
            if step % 500 == 0:
                monitor(model, step)
        monitor.close()

    Args:
        db: a database, or its path.
        run: the name of the run. A step that is stored again is replaced, so a resumed run continues.
        classifier: the classifiers to classify by; by default all of the database, and for kernel sizes that none of these is
            for, the one that ships with filterdb (7x7 and 5x5).
        dataset: what the network trains on, for the table ``models``.

    Raises:
        InvalidArgument: an empty name.
    """

    def __init__(
        self, db: Database | str, run: str, *, classifier: str | Sequence[str] | None = None, dataset: str | None = None
    ):  # fmt: skip
        if not (run and run == run.strip() and run.isprintable()):
            raise InvalidArgument(f"A run needs a name in printable characters, got {run!r}.")
        self.db = db if isinstance(db, Database) else Database(db)
        self.run, self.dataset = run, dataset
        self._classifiers = (
            [classifier] if isinstance(classifier, str) else classifier if classifier is None else list(classifier)
        )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="filterdb-monitor")
        self._pending: deque[tuple[int, Future[None]]] = deque()
        self._room = threading.BoundedSemaphore(WAITING)

    def __call__(self, model: nn.Module, step: int) -> None:
        """Store the kernels that the network has now.

        Args:
            model: the network; one wrapped by ``torch.compile`` or DistributedDataParallel will do.
            step: the optimiser steps that were taken.

        Raises:
            SourceError: no depthwise layers.
            RunError: an earlier step could not be stored; the message has the step and the reason.
        """
        if not _first():
            return
        self._check(wait=False)
        snapshot = _snapshot(model, self.run, int(step), self.dataset)
        self._room.acquire()
        self._pending.append((int(step), self._pool.submit(self._store, snapshot)))

    def flush(self) -> None:
        """Wait until all steps are stored.

        Raises:
            RunError: a step could not be stored.
        """
        self._check(wait=True)

    def close(self) -> None:
        """Wait until all steps are stored, and end the thread."""
        try:
            self.flush()
        finally:
            self._pool.shutdown()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:  # the error of the training is the one to see
            self._pool.shutdown()

    def _check(self, *, wait: bool) -> None:
        while self._pending and (wait or self._pending[0][1].done()):
            step, future = self._pending.popleft()
            try:
                future.result()
            except FilterdbError as error:
                raise RunError(f"Step {step} of {self.run} was not stored: {error}") from error

    def _store(self, model: Model) -> None:
        try:
            skipped = [describe_skipped(item.reason, item.names) for item in model.skipped]
            store(self.db._models, self.db._fields, model, skipped)
            for name in self._classifiers_for(model):
                self.db.classify(name, model=model.name)
        finally:
            self._room.release()

    def _classifiers_for(self, model: Model) -> list[str]:
        """The classifiers of the kernel sizes of a model."""
        sizes = {f"{layer.kernel_h}x{layer.kernel_w}" for layer in model.layers}
        if self._classifiers is not None:
            return [name for name in self._classifiers if self.db.classifier(name).size in sizes]
        known = {name: self.db.classifier(name).size for name in self.db.classifiers()}
        for size in sizes.intersection(SHIPPED).difference(known.values()):
            known[self.db.import_classifier(SHIPPED[size]).name] = size
        return [name for name, size in known.items() if size in sizes]


def _first() -> bool:
    """Whether this process is the one that stores."""
    import torch

    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0)


def _snapshot(module: nn.Module, run: str, step: int, dataset: str | None) -> Model:
    """The kernels as they are now: the training goes on while they are stored."""
    from filterdb.networks.network import unwrapped
    from filterdb.sources import Options
    from filterdb.sources.module import from_module
    from filterdb.store.schema import ModelFacts

    inner = unwrapped(module)
    facts = ModelFacts(f"monitor:{type(inner).__name__}", step=step, run=run, dataset=dataset)
    model = from_module(inner, name=f"{run}@{step}", facts=facts, options=Options())
    kernels = [np.array(one) for one in model.read()]
    return replace(model, read=lambda: iter(kernels))
