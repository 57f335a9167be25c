"""Ingest: open each source, describe its kernels, and store model after model, each in one atomic step."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from threading import Event, Lock
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filterdb.errors import FilterdbError, InvalidArgument, SourceError
from filterdb.fields.regular import regular_tables
from filterdb.fields.store import FieldStore, descriptor_table
from filterdb.kernels import moments
from filterdb.kernels.sizes import Pair, Rows, size_name, split
from filterdb.sources import Options, Pending, resolve, things
from filterdb.sources.names import plain
from filterdb.store import Collection, schema
from filterdb.store.collection import slug
from filterdb.store.parquet import ROW_GROUP
from filterdb.store.schema import Layer, Model, ModelFacts

DESCRIBED = 4096
"""Kernels that are described in one task. Most layers have fewer; NumPy's calls would cost more than its arithmetic."""
LONGEST_ERROR = 1000
"""Letters of an error."""
NO_ORDINARY = "no kernels of ordinary convolutions: there are none, or they are not read from files of this format"

Status = Literal["ingested", "replaced", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome for one source."""

    source: str
    model: str | None
    status: Status
    layers: int = 0
    filters: int = 0
    bytes_read: int | None = None
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)
    """The layers that were not stored: reason, count and names."""
    notes: list[str] = field(default_factory=list)
    error: str | None = None


class Reporter(Protocol):
    """Gets the progress of an ingest; called from several threads."""

    def total(self, sources: int) -> None:
        """How many models there are to do."""

    def started(self, source: str) -> None:
        """A model was opened."""

    def progress(self, source: str, done: int, total: int | None) -> None:
        """Bytes read so far, and in all."""

    def finished(self, outcome: Outcome) -> None:
        """A model was stored, skipped or refused."""


class Silent:
    """A reporter that says nothing."""

    def total(self, sources: int) -> None: ...
    def started(self, source: str) -> None: ...
    def progress(self, source: str, done: int, total: int | None) -> None: ...
    def finished(self, outcome: Outcome) -> None: ...


def ingest(
    models: Collection,
    field_store: FieldStore,
    sources: Sequence[Any],
    options: Options | None = None,
    *,
    jobs: int = 4,
    skip_existing: bool = False,
    reporter: Reporter | None = None,
) -> list[Outcome]:
    """Ingest every model of every source, several at a time; each fails alone.

    An unknown source, a glob without a match and the like are outcomes too, so that one slip does not stop a long batch.
    Interrupting keeps every model already stored and none half stored.

    Args:
        models: the collection ``models``, ``layers``, ``filters``.
        field_store: gets the descriptors.
        sources: specs, paths, recipe names or modules; see ``filterdb.sources.resolve``.
        options: facts for all models of this call; a name only if there is one model, or one run.
        jobs: models worked on at a time.
        skip_existing: leave models alone that the database already has.
        reporter: gets the progress.
    """
    options, reporter = options or Options(), reporter or Silent()
    outcomes: list[Outcome | None] = []
    queue: list[tuple[int, Pending]] = []
    seen: set[tuple[str, str | None]] = set()
    for source in sources:
        try:
            pending = resolve(source, options)
        except FilterdbError as error:
            outcomes.append(Outcome(str(source), None, "failed", error=str(error)))
            continue
        for one in pending:
            if (one.source, one.name) not in seen:  # globs may overlap
                seen.add((one.source, one.name))
                queue.append((len(outcomes), one))
                outcomes.append(None)
    if options.name is not None and things(pending for _, pending in queue) > 1:
        raise InvalidArgument(f'One name for {len(queue)} models: --name "{options.name}" needs a single model, or a single run.')
    reporter.total(len(outcomes))
    for outcome in outcomes:
        if outcome:
            reporter.finished(outcome)

    names = _Names()
    stop = Event()
    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="ingest") as pool:
        futures = {
            pool.submit(_ingest_one, models, field_store, pending, options, names, stop, skip_existing, reporter): i
            for i, pending in queue
        }
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    outcomes[futures[future]] = outcome
                    reporter.finished(outcome)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [outcome for outcome in outcomes if outcome]


class _Names:
    """The model names of one call: two sources of one name would silently replace each other."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}
        self._lock = Lock()

    def claim(self, name: str, source: str) -> None:
        with self._lock:
            other = self._taken.setdefault(slug(name).lower(), source)
        if other is not source:
            raise InvalidArgument(f'"{other}" and "{source}" both give the model name "{name}": ingest one of them with --name.')


class _Stopped(FilterdbError):
    pass


def _ingest_one(
    models: Collection,
    field_store: FieldStore,
    pending: Pending,
    options: Options,
    names: _Names,
    stop: Event,
    skip_existing: bool,
    reporter: Reporter,
) -> Outcome:
    started = time.perf_counter()
    name = pending.name

    def progress(done: int, total: int | None) -> None:
        if stop.is_set():
            raise _Stopped("interrupted")
        reporter.progress(pending.source, done, total)

    try:
        if stop.is_set():
            raise _Stopped("interrupted")
        if skip_existing and name is not None and slug(name) in models.snapshot().editions:
            return Outcome(pending.source, name, "skipped", notes=["already in the database"])
        reporter.started(pending.source)
        with pending.open(progress) as model:
            name = model.name
            skipped = [describe_skipped(item.reason, item.names) for item in model.skipped]
            if not model.layers and not model.regular:
                found = f" Left out: {'; '.join(skipped)}." if skipped else ""
                raise SourceError(f"{pending.source} has no depthwise kernels larger than 1x1.{found}")
            names.claim(name, pending.source)  # only now: a source that cannot be read must not stand in another's way
            status = store(models, field_store, model, skipped, options.regular)
            return Outcome(
                pending.source, name, status, len(model.layers), sum(layer.out_channels for layer in model.layers),
                model.facts.bytes_read, time.perf_counter() - started, skipped,
                [*model.notes, NO_ORDINARY] if options.ordinary and not model.regular else list(model.notes),
            )  # fmt: skip
    except FilterdbError as error:
        return Outcome(pending.source, name, "failed", seconds=time.perf_counter() - started, error=_line(error))
    except MemoryError:
        return Outcome(pending.source, name, "failed", error="Not enough memory for this model. Ingest with --jobs 1.")
    except Exception as error:  # any error of a library is an error of this model only
        reason = f"{type(error).__name__}: {_line(error)[:300]}"
        return Outcome(pending.source, name, "failed", error=f"{pending.source} cannot be ingested: {reason}")


def _line(error: Exception) -> str:
    """What an error says, as one line that is fit for a terminal, whatever names of a stranger's file are in it."""
    return plain(" ".join(str(error).split()), LONGEST_ERROR)


def describe_skipped(reason: str, names: Sequence[str]) -> str:
    """The skipped layers, as text for the table ``models``."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} x {reason} ({shown})"


def store(
    models: Collection, field_store: FieldStore, model: Model, skipped: Sequence[str] = (), regular: int = 0
) -> Status:  # fmt: skip
    """Store one model and its descriptors, replacing it where it was there. Visible in one step, or not at all.

    Args:
        regular: how many kernels of the model's ordinary convolutions to draw.
    """
    count = sum(layer.out_channels for layer in model.layers)
    digest = hashlib.sha256()
    with models.stage() as stage, ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="describe") as pool:
        kernels = _read(model)
        described = _describe(model, kernels, pool)  # while the filters are written
        stage.write("filters", _filter_tables(model, kernels, digest), schema.FILTERS)
        stage.write("layers", [_layer_table(model)], schema.LAYERS)
        facts = {f.name: getattr(model.facts, f.name) for f in fields(ModelFacts)}
        row = facts | {
            "model": model.name, "layers": len(model.layers), "filters": count, "skipped": "; ".join(skipped) or None,
            "notes": "; ".join(model.notes) or None, "kernels_sha256": digest.hexdigest(), "ingested_at": datetime.now(UTC),
        }  # fmt: skip
        stage.write("models", [pa.Table.from_pylist([row], schema.MODELS)], schema.MODELS)
        field_store.put_descriptors(model.name, stage.edition, _row_groups(described))
        if model.regular:
            field_store.put_regular(model.name, stage.edition, regular_tables(model, regular))
        replaced = stage.commit(model.name)
    return "replaced" if replaced else "ingested"


def _read(model: Model) -> list[NDArray[np.float32]]:
    """All kernels of a model, each checked against what its layer promises."""
    kernels = []
    for layer, kernel in zip(model.layers, model.read(), strict=True):
        expected = (layer.out_channels, int(layer.kernel_h), layer.kernel_w)
        if kernel.shape != expected or kernel.dtype != np.float32:
            raise SourceError(f"{model.name}: layer {layer.name} promised float32 {expected}, got {kernel.dtype} {kernel.shape}.")
        if not np.isfinite(kernel).all():
            bad = int((~np.isfinite(kernel)).reshape(len(kernel), -1).any(axis=1).sum())
            raise SourceError(
                f"{model.name}: layer {layer.name} has NaN or infinite weights in {bad} kernels. Nothing was stored."
            )
        kernels.append(kernel)
    return kernels


def _filter_tables(model: Model, kernels: Sequence[NDArray[np.float32]], digest: Any) -> Iterator[pa.Table]:
    """Rows of ``filters``, a row group at a time; all filters of one size stand together so that scans can skip the others."""
    sizes = dict.fromkeys((layer.kernel_h, layer.kernel_w) for layer in model.layers)
    for kernel_h, kernel_w in sizes:
        chosen = [i for i, layer in enumerate(model.layers) if (layer.kernel_h, layer.kernel_w) == (kernel_h, kernel_w)]
        table = pa.concat_tables([_filter_table(model, i, kernels[i]) for i in chosen])
        for kernel in (kernels[i] for i in chosen):
            digest.update(kernel.tobytes())
        for start in range(0, table.num_rows, ROW_GROUP):
            yield table.slice(start, ROW_GROUP)


def _describe(model: Model, kernels: Sequence[NDArray[np.float32]], pool: ThreadPoolExecutor) -> list[Future[pa.Table]]:
    """Rows of ``descriptors``, a table for each batch of layers. Batches are described side by side."""
    futures = []
    for batch in _batches(model, kernels):
        ids = [schema.filter_ids(model.name, model.layers[i].name, len(kernels[i])) for i in batch]
        solid = isinstance(model.layers[batch[0]].kernel_h, Rows)
        futures.append(pool.submit(descriptor_table, np.concatenate(ids), np.concatenate([kernels[i] for i in batch]), solid))
    return futures


def _batches(model: Model, kernels: Sequence[NDArray[np.float32]]) -> Iterator[list[int]]:
    """Numbers of consecutive layers of one kernel size, about DESCRIBED kernels at a time."""
    batch: list[int] = []
    for i, kernel in enumerate(kernels):
        here = sum(len(kernels[j]) for j in batch)
        sizes = {(model.layers[j].kernel_h, model.layers[j].kernel_w) for j in (i, *batch)}
        if batch and (here + len(kernel) > DESCRIBED or len(sizes) > 1):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _row_groups(described: Iterable[Future[pa.Table]]) -> Iterator[pa.Table]:
    """The tables in order, joined into row groups."""
    tables: list[pa.Table] = []
    for future in described:
        tables.append(future.result())
        if sum(table.num_rows for table in tables) >= ROW_GROUP:
            yield pa.concat_tables(tables)
            tables = []
    if tables:
        yield pa.concat_tables(tables)


def _filter_table(model: Model, depth: int, kernel: NDArray[np.float32]) -> pa.Table:
    layer = model.layers[depth]
    n, taps = len(kernel), layer.kernel_h * layer.kernel_w
    kernel_d, kernel_h = split(layer.kernel_h)
    found = moments(kernel.reshape(n, taps))
    offsets = pa.array(np.arange(0, (n + 1) * taps, taps, dtype=np.int32))

    def same(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), n)

    columns = {
        "filter_id": schema.filter_ids(model.name, layer.name, n),
        "model": same(model.name, pa.string()),
        "layer": same(layer.name, pa.string()),
        "channel": np.arange(n, dtype=np.int32),
        "depth": same(depth, pa.int32()),
        "size": same(size_name(layer.kernel_h, layer.kernel_w), pa.string()),
        "kernel_d": same(kernel_d, pa.int32()),
        "kernel_h": same(kernel_h, pa.int32()),
        "kernel_w": same(layer.kernel_w, pa.int32()),
        "dataset": same(model.facts.dataset, pa.string()),
        "kernel": pa.ListArray.from_arrays(offsets, pa.array(kernel.reshape(-1)), type=schema.FILTERS.field("kernel").type),
        "mean": found.mean.astype(np.float32),
        "norm": found.norm.astype(np.float32),
        "total": found.total.astype(np.float32),
        "dead": found.dead,
    }
    return pa.table(columns, schema=schema.FILTERS)


def _layer_table(model: Model) -> pa.Table:
    last = max(1, len(model.layers) - 1)
    rows = [_layer_row(model.name, layer, depth, depth / last) for depth, layer in enumerate(model.layers)]
    return pa.Table.from_pylist(rows, schema.LAYERS)


def _layer_row(model: str, layer: Layer, depth: int, depth_norm: float) -> dict[str, Any]:
    row = asdict(layer) | {
        "model": model,
        "layer": layer.name,
        "depth": depth,
        "depth_norm": depth_norm,
        "size": size_name(layer.kernel_h, layer.kernel_w),
    }
    row["kernel_d"], row["kernel_h"] = split(layer.kernel_h)  # fmt: skip
    for word, value in (("stride", layer.stride), ("dilation", layer.dilation), ("padding", layer.padding)):
        pair: Pair | None = value if isinstance(value, tuple) else None
        row[f"{word}_h"], row[f"{word}_w"] = pair or (None, None)
        # One number where both directions agree; where they don't, only the pair tells the truth.
        row[word] = pair[0] if pair and pair[0] == pair[1] else None
        if layer.ndim == 1 and pair:
            row[f"{word}_h"], row[word] = None, pair[1]
    if layer.padding == "same":
        row["padding_mode"] = "same"
    return {name: row[name] for name in schema.LAYERS.names}


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes that failed."""
    return [outcome for outcome in outcomes if outcome.status == "failed"]


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise one SourceError for all models that failed, if any did."""
    failed = failures(outcomes)
    if not failed:
        return
    reasons = "; ".join(outcome.error or "" for outcome in failed[:3]) + ("; …" if len(failed) > 3 else "")
    error = SourceError(reasons if len(outcomes) == 1 else f"{len(failed)} of {len(outcomes)} models failed: {reasons}")
    error.outcomes = list(outcomes)
    raise error
