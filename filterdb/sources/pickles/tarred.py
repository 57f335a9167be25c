"""The oldest files of torch (before 0.1.10): a tar archive of storages, tensors, and a pickle that names tensors by number."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from filterdb.sources import formats
from filterdb.sources.pickles.machine import DAMAGES, Global, Malformed, Record
from filterdb.sources.pickles.opcodes import Pickle
from filterdb.sources.pickles.rebuild import KNOWN, build, view
from filterdb.sources.pickles.stored import File, InFile, Part, Storage

MOST = 10_000_000
"""Storages or tensors in a file."""


def is_tar(first: bytes) -> bool:
    """Whether a file that begins with these bytes (262 at least) is a tar archive."""
    return first[257:262] == b"ustar"


def held(file: File) -> Any:
    """All that was pickled.

    Raises:
        Malformed: no such file, or a damaged one.
    """
    try:
        with file.open() as opened:
            places = _members(opened)
            storages = _storages(opened, file, places["storages"])
            tensors = _tensors(opened, file, places["tensors"], storages)
            return _pickle(opened, file, places["pickle"], tensors).load()
    except (tarfile.TarError, OSError, *DAMAGES) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed("is a tar archive that torch did not write, or a damaged one") from error


def _members(opened: BinaryIO) -> dict[str, int]:
    """Where each file in the archive begins."""
    with tarfile.open(fileobj=opened, mode="r:") as archive:
        return {member.name.removeprefix("./"): member.offset_data for member in archive if member.isreg()}


def _pickle(opened: BinaryIO, file: File, place: int, tensors: dict[Any, Any]) -> Pickle:
    def persistent(saved: Any) -> Any:
        if type(saved) is tuple and saved:
            return saved[0]  # a class, with its source
        return tensors[int(saved)] if type(saved) in (str, int) else Record("a persistent id", (saved,))

    opened.seek(place)
    return Pickle(opened, file.size, KNOWN, build, persistent)


def _listed(pickle: Pickle, length: int) -> Iterator[tuple[Any, ...]]:
    """A count and as many tuples; what follows each of them in the file is read by the caller."""
    count = pickle.load()
    if type(count) is not int or not 0 <= count < MOST:
        raise Malformed("has an absurd number of parts")
    for _ in range(count):
        entry = pickle.load()
        if type(entry) not in (tuple, list) or len(entry) != length:
            raise Malformed("has a damaged list of its parts")
        yield tuple(entry)


def _storages(opened: BinaryIO, file: File, place: int) -> dict[Any, Storage]:
    found: dict[Any, Storage] = {}
    pickle = _pickle(opened, file, place, {})
    for key, _, kind in _listed(pickle, 3):
        dtype = formats.of_storage(kind.name) if isinstance(kind, Global) else None
        if dtype is None:
            raise Malformed("has a storage of an unknown number format")
        (count,) = struct.unpack("<q", opened.read(8))
        size = count * formats.SIZES[dtype]
        if not 0 <= size <= file.size - opened.tell():
            raise Malformed("is truncated in its storages")
        found[int(key)] = Storage(dtype, InFile(file, opened.tell(), size))
        opened.seek(size, 1)
    for key, root, offset, count in pickle.load():
        whole = found[int(root)]
        size = formats.SIZES[str(whole.dtype)]
        if not 0 <= offset <= offset + count <= whole.backing.nbytes // size:
            raise Malformed("has a view that reaches beyond its storage")
        found[int(key)] = Storage(whole.dtype, Part(whole.backing, offset * size, count * size))
    return found


def _tensors(opened: BinaryIO, file: File, place: int, storages: dict[Any, Storage]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, root, _ in _listed(_pickle(opened, file, place, {}), 3):
        axes, _ = struct.unpack("<ii", opened.read(8))  # a number of axes was eight bytes once
        if not 0 <= axes <= 64:
            raise Malformed("has a tensor with an absurd number of axes")
        size, stride = (struct.unpack(f"<{axes}q", opened.read(8 * axes)) for _ in range(2))
        (offset,) = struct.unpack("<q", opened.read(8))
        storage = storages[int(root)]
        found[int(key)] = view(storage, str(storage.dtype), offset, size, stride)
    return found
