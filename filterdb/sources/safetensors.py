"""Safetensors: the header read strictly, and the tensors by their place in the file.

A file is 8 bytes (little-endian length of the header), the header (JSON, from name to dtype, shape and place), and the numbers.
filterdb has its own reader because a hub sends the header and the numbers separately, and because the header is untrusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.sources import formats
from filterdb.sources.options import Progress

LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
_BITS = {
    "F32": 32, "F64": 64, "F16": 16, "BF16": 16, "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32,
    "I64": 64, "U64": 64, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A tensor and where its numbers lie, counted from the start of the file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    file: str = ""
    """Which file of a sharded checkpoint."""


def header_length(first: bytes, what: str, size: int | None = None) -> int:
    """Length of the header from the first 8 bytes of the file; ``size`` is the file's, where it is known."""
    if len(first) < 8:
        raise SourceError(f"{what} is not a safetensors file: it has {len(first)} bytes. Fetch it again.")
    length = int.from_bytes(first[:8], "little")
    if length > LARGEST_HEADER or (size is not None and length > size - 8):
        limit = f"the file has {size}" if size is not None and size - 8 < LARGEST_HEADER else f"{LARGEST_HEADER} are allowed"
        raise SourceError(
            f"{what} is not a whole safetensors file: its header would take {length} bytes and {limit}. Fetch it again."
        )
    return length


def parse_header(header: bytes, what: str, size: int | None = None) -> tuple[dict[str, Place], dict[str, str]]:
    """The tensors and the metadata of a header (the bytes after the first 8), checked as the format demands."""

    def wrong(reason: str) -> SourceError:
        return SourceError(f"{what} has a damaged safetensors header: {reason}. Nothing was stored; fetch the file again.")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            names = [name for name, _ in pairs]
            raise wrong(f'the key "{next(name for name in names if names.count(name) > 1)[:80]}" is there twice')
        return table

    try:
        table = json.loads(header.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise wrong("it is not JSON") from error
    if not isinstance(table, dict):
        raise wrong("it is not a JSON object")
    metadata = table.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise wrong("__metadata__ is not a table of strings")
    base = 8 + len(header)
    places = {key: _place(key, entry, base, wrong) for key, entry in table.items()}
    end = base
    for place in sorted(places.values(), key=lambda place: (place.start, place.stop)):
        if place.start != end:
            raise wrong(f"{place.key[:80]} {'overlaps the tensor before it' if place.start < end else 'leaves a hole before it'}")
        end = place.stop
    if size is not None and end != size:
        raise SourceError(
            f"{what} is {'truncated' if end > size else 'too long'}: it has {size} bytes for {end} in its header. Fetch it again."
        )
    return places, metadata


def _place(key: str, entry: Any, base: int, wrong: Any) -> Place:
    def count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**63

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong(f"{key[:80]} does not have exactly a dtype, a shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise wrong(f"{key[:80]} has the unknown dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or not all(map(count, shape)) or len(shape) > 64:
        raise wrong(f"{key[:80]} has an absurd shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(count, offsets)) or offsets[0] > offsets[1]:
        raise wrong(f"{key[:80]} has absurd data_offsets")
    if math.prod(shape) * _BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise wrong(f"{key[:80]} has {offsets[1] - offsets[0]} bytes for a {dtype} tensor of shape {str(shape)[:80]}")
    return Place(key, dtype, tuple(shape), base + offsets[0], base + offsets[1])


def decode(data: bytes | memoryview, place: Place) -> NDArray[Any]:
    """The numbers of a tensor: float64 and integers as they are, every other float exactly as float32."""
    return formats.numbers(formats.words(data, place.dtype), place.dtype).reshape(place.shape)


class LocalSafetensors:
    """A safetensors file on disk.

    Tensors are read by position, which moves the same bytes as a memory map, and leaves an error instead of a crash when the
    file shrinks while it is read.
    """

    def __init__(self, path: Path, what: str, progress: Progress | None = None) -> None:
        self.path, self.what, self.progress = path, what, progress
        self.size = path.stat().st_size
        with path.open("rb") as file:
            length = header_length(file.read(8), what, self.size)
            self.header_bytes = 8 + length
            self.places, self.metadata = parse_header(file.read(length), what, self.size)

    @property
    def tree(self) -> Mapping[Any, Any]:
        """The tensors by their keys."""
        return self.places

    def cost(self, leaves: Sequence[Place]) -> int:
        """Header and tensors."""
        return self.header_bytes + sum(leaf.stop - leaf.start for leaf in leaves)

    def read(self, leaves: Sequence[Place]) -> Iterator[NDArray[Any]]:
        """The tensors, one positioned read for each."""
        total, done = self.cost(leaves), self.header_bytes
        with self.path.open("rb") as file:
            for leaf in leaves:
                file.seek(leaf.start)
                data = file.read(leaf.stop - leaf.start)
                if len(data) != leaf.stop - leaf.start:
                    raise SourceError(f"{self.what} became shorter while it was read. Ingest it again.")
                done += len(data)
                if self.progress:
                    self.progress(done, total)
                yield decode(data, leaf)
