"""A selection of kernels: models of the database by name, glob, data set, family or run, or a checkpoint that is not in it.

convnext*             a model, or a glob
dataset:NAME          the models trained on a data set (name or glob)
architecture:GLOB     a family
run:NAME              every checkpoint of a training run that was ingested
stem:NAME, regular:NAME    the kernels of ordinary convolutions that were stored of a model, or a glob
* or database         all models; of a training run only the last checkpoint, as for dataset: and architecture:
a file, timm:NAME, hf:REPO, torchvision:NAME     read through ``filterdb.sources``, and not stored; or an nn.Module
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filterdb.clusters.clustering import Progress, early_steps
from filterdb.errors import NotFound, SourceError, not_found
from filterdb.kernels.sizes import Pair, size_name
from filterdb.sources import resolve
from filterdb.sources.local import SUFFIXES
from filterdb.store import KernelBatch, schema
from filterdb.store.schema import Layer
from filterdb.store.view import View, matching

ALL = ("*", "database")
GROUPS = ("dataset", "architecture", "run")
"""Columns of ``models`` that define a group."""
ORDINARY = ("stem", "regular")
"""Kinds of ordinary convolutions."""
SOURCES = ("timm", "hf", "torchvision")
WAYS = (
    'Or a selection: "*", dataset:NAME, architecture:GLOB, run:NAME, stem:NAME, regular:NAME, a checkpoint file, '
    "timm:NAME, hf:REPO."
)


@dataclass(frozen=True, eq=False)
class Selection:
    """Some models, stored or not."""

    what: str
    """As the user said it."""
    models: tuple[str, ...]
    view: View
    own: tuple[tuple[Layer, KernelBatch], ...] | None = None
    """The layers of a source that is not stored; None for models of the database."""
    twins: tuple[str, ...] = ()
    """Models of the database that were ingested from the very same source."""
    left_out: int = 0
    """Earlier checkpoints of training runs: a run counts once, for what it came to."""

    @cached_property
    def sizes(self) -> set[Pair]:
        """The kernel sizes that there are."""
        if self.own is not None:
            return {(layer.kernel_h, layer.kernel_w) for layer, _ in self.own}
        return {size for size, models in self.view.sizes.items() if not set(models).isdisjoint(self.models)}

    def at(self, kernel_h: int, kernel_w: int) -> Selection:
        """The models that have kernels of a size; it is an error if none has."""
        if (kernel_h, kernel_w) not in self.sizes:
            there = ", ".join(size_name(*size) for size in sorted(self.sizes))
            raise NotFound(f'"{self.what}" has no {size_name(kernel_h, kernel_w)} kernels. It has: {there}.')
        if self.own is not None:
            return self
        having = self.view.sizes[kernel_h, kernel_w]
        return replace(self, models=tuple(name for name in self.models if name in having))

    def without(self, models: set[str]) -> Selection:
        """All but some models of the database."""
        return replace(self, models=tuple(name for name in self.models if name not in models))

    def count(self, kernel_h: int, kernel_w: int) -> int:
        """How many kernels of a size there are, dead ones included."""
        if self.own is not None:
            return sum(layer.out_channels for layer, _ in self.own if (layer.kernel_h, layer.kernel_w) == (kernel_h, kernel_w))
        return sum(self.view.counts[kernel_h, kernel_w].get(name, 0) for name in self.models)

    def batches(self, kernel_h: int, kernel_w: int) -> Iterator[KernelBatch]:
        """The kernels of a size with filter_id and model; each batch is of one model."""
        if self.own is None:
            return self.view.batches(kernel_h, kernel_w, ["filter_id", "model"], model=self.models)
        return (batch for layer, batch in self.own if (layer.kernel_h, layer.kernel_w) == (kernel_h, kernel_w))

    def names(self, filter_ids: Sequence[int]) -> dict[int, tuple[str, str, int]]:
        """filter_id to (model, layer, channel)."""
        if self.own is None:
            return self.view.names(filter_ids)
        found = {}
        for layer, batch in self.own:
            ids = batch.table["filter_id"].to_numpy()
            for channel in np.flatnonzero(np.isin(ids, filter_ids)):
                found[int(ids[channel])] = (batch.table["model"][0].as_py(), layer.name, int(channel))
        return found


def select(view: View, what: Any, progress: Progress | None = None) -> Selection:
    """The selection that a word, a path or a module means. What is in the database wins over a file of that name.

    Args:
        view: the version to read.
        what: see the top of this file.
        progress: told of the bytes that are read of a source.

    Raises:
        NotFound: nothing of that name; the message lists the near misses.
        SourceError: a file that cannot be read.
    """
    if not isinstance(what, str | os.PathLike):
        return _from_source(view, type(what).__name__, what, progress)
    text = os.fspath(what)
    if text in view.models:
        return Selection(text, (text,), view)
    if text in ALL:
        return _group(text, view.models, view)
    scheme, _, rest = text.partition(":")
    if os.path.isfile(text) or scheme in SOURCES:
        return _from_source(view, text, text, progress)
    if scheme in ORDINARY:
        return _ordinary(view, text, scheme, rest)
    if scheme in GROUPS:
        rows = view.rows(f"SELECT {scheme}, model FROM models WHERE {scheme} IS NOT NULL ORDER BY model")
        chosen = set(matching(scheme, rest, sorted({value for value, _ in rows})))
        models = [model for value, model in rows if value in chosen]
        return Selection(text, tuple(models), view) if scheme == "run" else _group(text, models, view)
    if not any(mark in text for mark in "*?[") and (text.endswith(SUFFIXES) or len(Path(text).parts) > 1):
        raise SourceError(f"There is no file {text}, and no model of that name in the database.")
    try:
        return Selection(text, tuple(matching("model", text, view.models)), view)
    except NotFound:
        raise not_found("model", text, view.models, advice=WAYS) from None


def _ordinary(view: View, what: str, kind: str, pattern: str) -> Selection:
    """Kernels of the table ``regular``, in layers as if they were depthwise: a channel is the number of the kernel's row."""
    names = [row[0] for row in view.rows("SELECT DISTINCT model FROM regular WHERE kind = $kind ORDER BY model", kind=kind)]
    if not names:
        flag = "--stem" if kind == "stem" else "--regular N"
        raise NotFound(f"No kernels of kind {kind} in the database. Store them with: filterdb ingest SOURCE {flag}")
    models = matching("model", pattern, names)
    sql = """SELECT filter_id, model, layer, kernel_h, kernel_w, kernel FROM regular
             WHERE kind = $kind AND list_contains($models, model) ORDER BY model, layer, channel, in_channel"""
    rows = view.session.query(sql, {"kind": kind, "models": models}).to_arrow_table()
    own: list[tuple[Layer, KernelBatch]] = []
    keys = rows.select(["model", "layer", "kernel_h", "kernel_w"]).to_pylist()
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        key, part = keys[start], rows.slice(start, stop - start)
        kernels = part["kernel"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(stop - start, -1)
        layer = Layer(key["layer"], key["kernel_h"], key["kernel_w"], stop - start)
        own.append((layer, KernelBatch(part.select(["filter_id", "model"]), kernels)))
    return Selection(what, tuple(models), view, tuple(own))


def _group(what: str, models: Sequence[str], view: View) -> Selection:
    """Models without the checkpoints of a training run that a later one follows."""
    early = early_steps(view)
    settled = tuple(name for name in models if name not in early)
    return Selection(what, settled, view, left_out=len(models) - len(settled))


def _from_source(view: View, what: str, source: Any, progress: Progress | None) -> Selection:
    """Read the kernels of a source without storing them."""

    def told(done: int, total: int | None) -> None:
        if progress is not None:
            progress(f"reading {what}", done, total or 0)

    models: list[str] = []
    own: list[tuple[Layer, KernelBatch]] = []
    twins: set[str] = set()
    for pending in resolve(source):
        with pending.open(told) as model:
            models.append(model.name)
            for layer, kernels in zip(model.layers, model.read(), strict=True):
                own.append((layer, _batch(model.name, layer, kernels)))
            # The same file; or of a hub, where only part of a file is read, the same source and revision.
            sql = "SELECT model FROM models WHERE sha256 = $sha256 OR (source = $source AND revision = $revision)"
            facts = {name: getattr(model.facts, name) for name in ("sha256", "source", "revision")}
            twins |= {row[0] for row in view.rows(sql, **facts)}
    if not own:
        raise SourceError(f"{what} has no depthwise kernels larger than 1x1: there is nothing to compare.")
    return Selection(what, tuple(models), view, tuple(own), tuple(sorted(twins)))


def _batch(model: str, layer: Layer, kernels: NDArray[np.float32]) -> KernelBatch:
    ids = schema.filter_ids(model, layer.name, len(kernels))
    table = pa.table({"filter_id": ids, "model": pa.repeat(pa.scalar(model, pa.string()), len(kernels))})
    return KernelBatch(table, kernels.reshape(len(kernels), -1))
