"""Fits of the kernels of a database: the table ``fits``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument
from filterdb.fields import fits
from filterdb.fields.fits.families import choose
from filterdb.fields.store import FITS, FieldStore
from filterdb.kernels import centred_unit
from filterdb.kernels.sizes import parse_size
from filterdb.store.collection import slug
from filterdb.store.view import View

Progress = Callable[[str, int, int], None]
"""Called with the current step, the amount done, and the total."""

BATCH = 32_768
"""Kernels fitted at a time: enough for each step to be worth its overhead."""
LARGEST = float(np.finfo(np.float32).max)
"""The coefficients of absurd weights end here, as their gains in the descriptors do."""
SMALLEST_BATCH = 512
"""Fewer are not worth a thread of their own."""
DEAD = "constant: there is no pattern to fit"


def fit(
    view: View, store: FieldStore, size: str, *, models: str | Sequence[str] | None, families: Sequence[str] | None,
    again: bool, device: str | None, progress: Progress | None,
) -> list[str]:  # fmt: skip
    """Fit the kernels of a size and keep the answers, model by model; those that are there already are left alone.

    Args:
        view: the version to fit.
        store: where the fits go.
        size: of the kernels.
        models: names or globs; all by default.
        families: names; all that have a meaning for the size by default. Families fitted before stay, and are compared with.
        again: also fit what is there.
        device: torch device; by default the GPU if there is one.
        progress: called with kernels done and in all.

    Returns:
        The models of that size that were asked for.
    """
    kernel_h, kernel_w = parse_size(size)
    wanted = {family.name for family in choose(families, kernel_h, kernel_w)}
    chosen = view.having(kernel_h, kernel_w, models)
    if not chosen:
        raise InvalidArgument(f"No kernels of size {size} in {models}. Choose other models, or another --size.")
    counts = dict(
        view.rows(
            "SELECT model, sum(out_channels)::BIGINT FROM layers WHERE kernel_h = $h AND kernel_w = $w GROUP BY model",
            h=kernel_h, w=kernel_w,
        )
    )  # fmt: skip
    total, done = sum(counts[name] for name in chosen), 0
    for name in chosen:
        edition = view.snapshot.editions[slug(name)]
        there = store.fits_of(name, edition)
        same = None if there is None else pc.equal(there["size"], size)
        before = set() if there is None else set(there.filter(same)["family"].unique().to_pylist())
        if again or not (wanted <= before or before == {None}):  # of nothing but dead kernels there is no family
            names = sorted(wanted if again and families is None else wanted | before - {None})
            kept = [] if there is None else [there.filter(pc.invert(same))]

            def told(count: int, name: str = name, done: int = done) -> None:
                if progress is not None:
                    progress(f"fitting {name}", done + count, total)

            store.put_fits(name, edition, _tables(view, name, size, names, device, told, kept))
        done += counts[name]
        if progress is not None:
            progress(f"fitted {name}", done, total)
    return chosen


def _tables(
    view: View, model: str, size: str, families: Sequence[str], device: str | None, told: Callable[[int], None],
    kept: Sequence[pa.Table],
) -> Iterator[pa.Table]:  # fmt: skip
    """What is kept, then the rows of all kernels of the size, in their order, several parts at a time."""
    yield from kept
    kernel_h, kernel_w = parse_size(size)
    done = 0
    with _workers(device) as (pool, workers):
        waiting: deque[Future[pa.Table]] = deque()
        for batch in view.stream([slug(model)], kernel_h, kernel_w):
            ids, kernels = batch.table["filter_id"].to_numpy(), batch.kernels.reshape(-1, kernel_h, kernel_w)
            for part in _parts(len(ids), workers):
                waiting.append(pool.submit(table, ids[part], kernels[part], size, families, device))
                if len(waiting) > workers:
                    yield (found := waiting.popleft().result())
                    told(done := done + found.num_rows // len(families))
        while waiting:
            yield waiting.popleft().result()


def _parts(n: int, workers: int) -> Iterator[slice]:
    """Slices of n kernels, as many for each worker, none larger than a batch."""
    rounds = -(-n // (BATCH * workers))
    step = max(SMALLEST_BATCH, -(-n // (rounds * workers)))
    return (slice(start, start + step) for start in range(0, n, step))


@contextmanager
def _workers(device: str | None) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that fit parts side by side, each with one thread of torch's: its own wait for each other on work of this size.

    A GPU needs no more than one.
    """
    import torch

    alone = torch.cuda.is_available() if device is None else not device.startswith("cpu")
    before = torch.get_num_threads()
    if not alone:
        torch.set_num_threads(1)
    try:
        workers = 1 if alone else before
        with ThreadPoolExecutor(workers, thread_name_prefix="fit") as pool:
            try:
                yield pool, workers
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(before)


def table(
    filter_ids: NDArray[np.int64], kernels: NDArray[np.floating], size: str, families: Sequence[str] | None,
    device: str | None = None,
) -> pa.Table:  # fmt: skip
    """Rows of ``fits``: one for each kernel and family, and one with a reason for each dead kernel."""
    dead = centred_unit(kernels).dead
    ids = filter_ids[~dead]
    found = fits.fit(kernels[~dead], families, device=device) if len(ids) else []
    parts = []
    if found:
        winner = fits.best(found)
        parts = [_rows(one, ids, size, np.equal(winner, number)) for number, one in enumerate(found)]
    empty = [{"filter_id": int(one), "size": size, "best": False, "reason": DEAD} for one in filter_ids[dead]]
    return pa.concat_tables([*parts, pa.Table.from_pylist(empty, FITS)])


def _rows(one: fits.FamilyFit, ids: NDArray[np.int64], size: str, best: NDArray[np.bool_]) -> pa.Table:
    n, forms = len(ids), one.family.forms
    columns: dict[str, Any] = {
        "filter_id": ids,
        "size": pa.repeat(pa.scalar(size), n),
        "family": pa.repeat(pa.scalar(one.family.name), n),
        "amplitude": one.coefficients[:, 0],
        "offset": one.offset,
        "coefficients": _lists(one.coefficients, pa.float32()),
        "rho": one.rho,
        "residual": one.residual,
        "parameters": pa.repeat(pa.scalar(one.family.parameters, pa.int8()), n),
        "bic": one.criterion,
        "best": best,
        "at_bound": one.at_bound,
    }
    if forms[0].orders is not None:
        columns["orders"] = _lists(np.array([form.orders for form in forms])[one.form], pa.int8())
        columns["shift"] = _lists(np.array([form.shift for form in forms])[one.form], pa.float32())
    pairs = [one.sigma[:, list(pair)] for pair in forms[0].scales if forms[0].searched]
    for pair, (x, y) in zip(pairs, (("sigma_x", "sigma_y"), ("sigma_x2", "sigma_y2")), strict=False):
        columns |= {x: pair[:, 0], y: pair[:, 1]}
    arrays = [
        _array(columns[column.name], column.type) if column.name in columns else pa.nulls(n, column.type) for column in FITS
    ]
    return pa.Table.from_arrays(arrays, schema=FITS)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """A column of that type; numpy converts numbers several times as fast as Arrow does."""
    if isinstance(values, np.ndarray):
        values = values.clip(-LARGEST, LARGEST) if values.dtype == np.float64 else values
        return pa.array(values.astype(kind.to_pandas_dtype(), copy=False))
    return values


def _lists(rows: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Rows (n, m) as lists."""
    n, m = rows.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * m)
    return pa.ListArray.from_arrays(offsets, _array(rows.ravel(), kind), type=pa.list_(pa.field("element", kind)))
