"""Streaming the kernels of one size out of Parquet files, in bounded memory, reading ahead while the caller computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from filterdb.errors import StoreError
from filterdb.kernels.sizes import split
from filterdb.store.place import Place

READ_AHEAD = 2

PIECE = 4096
"""Rows that are decoded at a time where one is looked for."""


class KernelBatch(NamedTuple):
    """Some filters of one kernel size: their rows, and their kernels as an (n, kernel_h * kernel_w) array that shares memory."""

    table: pa.Table
    kernels: NDArray[np.float32]


def kernel_batches(
    root: Place,
    files: Iterable[str],
    kernel_h: int,
    kernel_w: int,
    columns: Sequence[str] = (),
    layers: Sequence[str] | None = None,
) -> Iterator[KernelBatch]:
    """All filters of a size, one row group at a time.

    Row groups hold one size each and say so in their statistics, so other sizes are never read.

    Args:
        root: where the database lies.
        files: Parquet files of the table ``filters``, relative to it.
        kernel_h: rows of a kernel.
        kernel_w: columns of a kernel.
        columns: the columns wanted beside ``kernel``; model and layer come dictionary-encoded.
        layers: only filters of layers with these names.
    """
    wanted = ["kernel", *columns]
    reading = wanted if layers is None or "layer" in columns else [*wanted, "layer"]
    with ThreadPoolExecutor(1) as reader:
        pending = []
        for file, group in _row_groups(root, files, kernel_h, kernel_w):
            pending.append(reader.submit(file.read_row_group, group, columns=reading))
            if len(pending) > READ_AHEAD:
                yield from _batch(pending.pop(0).result(), kernel_h * kernel_w, layers)
        for future in pending:
            yield from _batch(future.result(), kernel_h * kernel_w, layers)


def kernel_of(root: Place, file: str, filter_id: int) -> NDArray[np.float32]:
    """The kernel (taps,) of one filter, which the file has; it is read up to that filter only.

    Args:
        root: where the database lies.
        file: the Parquet file of its model in the table ``filters``, relative to it.
        filter_id: the filter.
    """
    with root.open(file) as opened:
        parquet = pq.ParquetFile(opened)
        for group in range(parquet.num_row_groups):
            found = np.flatnonzero(parquet.read_row_group(group, columns=["filter_id"])["filter_id"].to_numpy() == filter_id)
            if len(found):
                left = int(found[0])
                for batch in parquet.iter_batches(PIECE, row_groups=[group], columns=["kernel"]):
                    if left < len(batch):
                        return batch.slice(left, 1)["kernel"].flatten().to_numpy()
                    left -= len(batch)
    raise StoreError(f"The file {file} of {root} has no filter {filter_id}. Run filterdb verify --repair.")


def _row_groups(root: Place, files: Iterable[str], kernel_h: int, kernel_w: int) -> Iterator[tuple[pq.ParquetFile, int]]:
    for path in files:
        file = pq.ParquetFile(root.open(path), read_dictionary=["model", "layer"])
        position = {file.schema_arrow.names[i]: i for i in range(len(file.schema_arrow.names))}
        # The list column has one leaf, so leaf and column positions agree.
        wanted = dict(zip(("kernel_d", "kernel_h", "kernel_w"), (*split(kernel_h), kernel_w), strict=True))
        if "kernel_d" not in position and wanted.pop("kernel_d") != 1:
            continue  # a file of before kernels had three dimensions
        for group in range(file.num_row_groups):
            chunks = file.metadata.row_group(group)
            if all(chunks.column(position[name]).statistics.min == taps for name, taps in wanted.items()):
                yield file, group


def _batch(table: pa.Table, taps: int, layers: Sequence[str] | None) -> Iterator[KernelBatch]:
    if layers is not None:
        import pyarrow.compute as pc

        table = table.filter(pc.is_in(table["layer"].cast(pa.string()), pa.array(layers, pa.string())))
    if table.num_rows:
        kernels = table["kernel"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        yield KernelBatch(table.drop_columns("kernel"), kernels.reshape(table.num_rows, taps))
