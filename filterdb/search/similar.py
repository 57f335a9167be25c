"""The kernels most similar to a filter or a kernel, by the index or by brute force."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from filterdb.errors import InvalidArgument
from filterdb.kernels import centred_unit
from filterdb.kernels.sizes import size_of
from filterdb.search import index
from filterdb.store.view import View


def similar(
    view: View, find_index: Callable[[View, int, int], index.KernelIndex] | None, query: int | str | ArrayLike, k: int, *,
    model: str | Sequence[str] | None, signed: bool, exact: bool | None,
) -> pa.Table:  # fmt: skip
    """The result of ``db.similar``, which documents the arguments.

    Args:
        view: the version to search.
        find_index: gives the index of a kernel size, brought to the view's version; None for an old version, which has none.
    """
    if k < 1:
        raise InvalidArgument(f"k = {k}: ask for at least 1 neighbour.")
    if exact is None:
        exact = model is not None or find_index is None
    own = view.filter(query) if isinstance(query, (int, np.integer, str)) else None
    wanted = k + (own is not None)
    if not exact and (model is not None or find_index is None):
        raise InvalidArgument("The index holds all models of the latest version: with model or as_of, search exactly.")
    if own is None or exact or find_index is None:
        kernel, _ = view.kernel(query)
        direction, size = _direction(kernel), size_of(kernel.shape)
    else:  # its direction is in the index, so no kernel is read
        size = own.kernel_h, own.kernel_w
        direction = find_index(view, *size).direction(own.filter_id)
    if direction is None:
        raise InvalidArgument("The query kernel is constant: it has no direction, so nothing is similar to it.")
    directions = np.stack([direction] if signed else [direction, -direction])
    if exact or find_index is None:
        scores, ids = index.brute_force(view.batches(*size, ["filter_id"], model=model), directions, wanted)
    else:
        scores, ids = find_index(view, *size).search(directions, wanted)
    found = [
        (float(score) * (1 if row == 0 else -1), int(filter_id))
        for row in range(len(directions))
        for score, filter_id in zip(scores[row], ids[row], strict=True)
        if filter_id not in (-1, own and own.filter_id)
    ]
    found.sort(key=lambda pair: -abs(pair[0]) if not signed else -pair[0])
    best = list(dict.fromkeys(found))[:k]
    names = view.names([filter_id for _, filter_id in best])
    rows = [(rank, filter_id, *names[filter_id], score) for rank, (score, filter_id) in enumerate(best, start=1)]
    columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(index.SCHEMA.types)]
    return pa.table(columns, schema=index.SCHEMA)


def _direction(kernel: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The kernel centred and of unit length, (taps,); None if it is constant."""
    parts = centred_unit(kernel.reshape(1, -1))
    return None if parts.dead[0] else parts.unit[0].astype(np.float32)
