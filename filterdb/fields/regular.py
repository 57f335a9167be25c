"""The rows of the table ``regular``: kernels of ordinary convolutions with their words, drawn at ingest.

They are apart from the depthwise kernels: no query over ``filters`` sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.fields.store import DESCRIPTORS, REGULAR, descriptor_table
from filterdb.kernels import moments
from filterdb.kernels.sizes import size_name
from filterdb.store import schema
from filterdb.store.schema import Model, RegularLayer


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many each layer gives: equal numbers, and all that a layer has where that is less.

    >>> shares([100, 2, 100], 12)
    [5, 2, 5]
    """
    given = [0] * len(sizes)
    left = count
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for place, i in enumerate(order):  # what a small layer lacks is shared out among the larger ones
        given[i] = min(sizes[i], left // (len(order) - place))
        left -= given[i]
    return given


def regular_tables(model: Model, count: int) -> Iterator[pa.Table]:
    """Rows of ``regular``, a table for each ordinary convolution that was asked for.

    Args:
        count: kernels in all, an equal number of each layer as far as it has so many. The stem is kept whole beside them.

    Raises:
        SourceError: weights of another shape than promised, or NaN or infinite.
    """
    drawn = [layer for layer in model.regular if layer.kind == "regular"]
    given = dict(zip(drawn, shares([layer.out_channels * layer.in_channels for layer in drawn], count), strict=True))
    for layer, weights in zip(model.regular, model.read_regular(), strict=True):
        expected = (layer.out_channels, layer.in_channels, layer.kernel_h, layer.kernel_w)
        if weights.shape != expected:
            raise SourceError(f"{model.name}: layer {layer.name} promised {expected}, got {weights.shape}.")
        number = layer.out_channels * layer.in_channels
        chosen = np.arange(number)
        if layer.kind == "regular":
            rng = np.random.default_rng(schema.layer_id(model.name, layer.name))  # the same kernels in every ingest
            chosen = np.sort(rng.choice(number, given[layer], replace=False))
        if len(chosen):
            yield _table(model.name, layer, chosen, weights.reshape(number, *expected[2:])[chosen])


def _table(model: str, layer: RegularLayer, chosen: NDArray[np.int64], kernels: NDArray[np.float32]) -> pa.Table:
    n, taps = len(kernels), layer.kernel_h * layer.kernel_w
    if not np.isfinite(kernels).all():
        raise SourceError(f"{model}: layer {layer.name} has NaN or infinite weights. Nothing was stored.")
    channels, in_channels = np.divmod(chosen, layer.in_channels)
    found = moments(kernels.reshape(n, taps))
    ids = schema.pair_ids(model, layer, channels, in_channels)
    described = descriptor_table(ids, kernels)
    offsets = pa.array(np.arange(0, (n + 1) * taps, taps, dtype=np.int32))
    columns = {
        "filter_id": ids, "model": [model] * n, "layer": [layer.name] * n, "kind": [layer.kind] * n, "channel": channels,
        "in_channel": in_channels, "size": [size_name(layer.kernel_h, layer.kernel_w)] * n, "kernel_h": [layer.kernel_h] * n,
        "kernel_w": [layer.kernel_w] * n,
        "kernel": pa.ListArray.from_arrays(offsets, pa.array(kernels.reshape(-1), pa.float32())),
        "mean": found.mean, "norm": found.norm, "total": found.total, "dead": found.dead,
        **{name: described[name] for name in DESCRIPTORS.names[1:]},
    }  # fmt: skip
    return pa.table(columns).cast(REGULAR)
