"""Tensors whose numbers are still in their file: where they lie, and how they are read.

Numbers are read by position. A memory map would move the same bytes, but ends the process when the file shrinks beneath it, as
the checkpoint of a training that still runs may.
"""

from __future__ import annotations

import io
import itertools
import lzma
import math
import operator
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from filterdb.errors import SourceError, one_line
from filterdb.sources import formats

LARGEST_COMPRESSED = 2 * 2**30
"""Bytes that a compressed part of a checkpoint may have once it is not: a few bytes of an archive may stand for any number."""


class Backing(Protocol):
    """The bytes behind tensors."""

    @property
    def nbytes(self) -> int:
        """How many."""

    def read(self, start: int, stop: int) -> bytes:
        """These of the bytes."""


@dataclass(frozen=True, slots=True)
class InMemory:
    """Bytes that were pickled along."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """How many."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """These of the bytes."""
        return self.data[start:stop]


@dataclass(frozen=True, slots=True)
class File:
    """A file, on disk or (one that was inside of another) in memory."""

    where: Path | bytes
    what: str
    """In the words of an error message."""

    def open(self) -> BinaryIO:
        """Its bytes, from the start."""
        return io.BytesIO(self.where) if isinstance(self.where, bytes) else self.where.open("rb")

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.where) if isinstance(self.where, bytes) else self.where.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        """These of the bytes."""
        with self.open() as file:
            file.seek(start)
            return self.whole(file.read(stop - start), stop - start)

    def whole(self, data: bytes, count: int) -> bytes:
        """The bytes that were read, if they are as many as there were."""
        if len(data) != count:
            raise SourceError(f"{self.what} became shorter while it was read. Ingest it again.")
        return data


@dataclass(slots=True, eq=False)
class InFile:
    """Bytes in a row in a file."""

    file: File
    start: int
    nbytes: int

    def read(self, start: int, stop: int) -> bytes:
        """These of the bytes, in one positioned read."""
        return self.file.read(self.start + start, self.start + stop)


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of others."""

    whole: Backing
    start: int
    nbytes: int

    def read(self, start: int, stop: int) -> bytes:
        """These of the bytes."""
        return self.whole.read(self.start + start, self.start + stop)


@dataclass(frozen=True, slots=True)
class InZip:
    """An entry of a zip file. One that is not compressed is read by position, as torch's are."""

    file: File
    entry: zipfile.ZipInfo
    last: dict[str, bytes]
    """The entry of the file that was decompressed last, by name: many tensors may lie in one."""

    @property
    def nbytes(self) -> int:
        """Bytes once it is not compressed."""
        return self.entry.file_size

    def read(self, start: int, stop: int) -> bytes:
        """These of the bytes."""
        if self.entry.compress_type != zipfile.ZIP_STORED:
            if self.entry.filename not in self.last:
                self.last.clear()
                self.last[self.entry.filename] = self._decompressed()
            return self.last[self.entry.filename][start:stop]
        if self.entry.header_offset < 0:  # the table of a damaged file may say so
            raise self._damaged("its header is missing")
        with self.file.open() as file:
            file.seek(self.entry.header_offset)
            head = file.read(30)
            if len(head) < 30 or head[:4] != b"PK\x03\x04":
                raise self._damaged("its header is missing")
            file.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little") + start, 1)
            return self.file.whole(file.read(stop - start), stop - start)

    def _decompressed(self) -> bytes:
        if self.nbytes > LARGEST_COMPRESSED:
            size = f"{self.nbytes / 1e9:.1f} GB"
            raise SourceError(
                f"{self.file.what}: {one_line(self.entry.filename)} would be {size} unpacked. Unpack it, and save it anew."
            )
        try:
            with self.file.open() as raw, zipfile.ZipFile(raw) as archive, archive.open(self.entry) as file:
                data = file.read(self.nbytes)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError) as error:
            raise self._damaged(str(error)[:120] or type(error).__name__) from error
        if len(data) != self.nbytes:
            raise self._damaged("it is shorter than it says")
        return data

    def _damaged(self, reason: str) -> SourceError:
        said = f"{one_line(self.entry.filename)}: {one_line(reason)}"
        return SourceError(f"{self.file.what} is a damaged or truncated zip file ({said}). Fetch it again.")


@dataclass(slots=True, eq=False)
class Storage:
    """What torch calls a storage: numbers in a row, of which tensors are views."""

    dtype: str | None
    """The number format, None where it is one that cannot be read."""
    backing: Backing
    order: str = "<"
    """The bytes of a number: "<" for the small ones first, ">" for the large."""


@dataclass(slots=True, eq=False)
class StoredTensor:
    """A view of a storage: sizes, steps and offset in numbers, and a format by its name in ``filterdb.sources.formats``."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    is_meta = False

    @property
    def count(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.count * formats.SIZES[self.dtype]

    @property
    def span(self) -> int:
        """Numbers of the storage from its first to its last."""
        if 0 in self.shape:
            return 0
        return 1 + sum([(size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)])

    def data_ptr(self) -> tuple[int, int]:
        """Where its numbers begin: the same for tensors that share them."""
        return id(self.storage), self.offset

    def stride(self) -> tuple[int, ...]:
        """The steps, as torch's tensors say them."""
        return self.strides

    def words(self, what: str) -> NDArray[Any]:
        """Its bits, read from the file: an unsigned integer for each number, in its shape.

        Raises:
            SourceError: it claims more numbers than are stored, as an expanded tensor does; the file cannot be read.
        """
        size = formats.SIZES[self.dtype]
        if self.nbytes > self.storage.backing.nbytes:
            shown = str(self.shape)[:80]
            raise SourceError(f"{what}: a tensor of shape {shown} is larger than what is stored of it. Give a whole checkpoint.")
        data = self.storage.backing.read(self.offset * size, (self.offset + self.span) * size)
        flat = formats.words(data, self.dtype, self.storage.order)
        # the step of an axis of length one says nothing, and may be any number
        steps = [step * size if length > 1 else 0 for length, step in zip(self.shape, self.strides, strict=True)]
        return as_strided(flat, self.shape, steps, writeable=False)

    def read(self, what: str) -> NDArray[Any]:
        """Its numbers: float64, integers and complex ones as they are, every other float as float32."""
        return formats.numbers(self.words(what), self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Unreadable:
    """A tensor whose numbers are not stored as such; it has a name and a shape."""

    shape: tuple[int, ...]
    reason: str
    dtype: str = "none"


def empty() -> StoredTensor:
    """A tensor without numbers, to be filled in."""
    return StoredTensor(Storage("U8", InMemory(b"")), "U8", 0, (0,), (1,))


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The steps of a tensor whose last axis is the closest.

    >>> row_major((4, 1, 3, 5))
    (15, 15, 5, 1)
    """
    return tuple(itertools.accumulate((1, *shape[:0:-1]), operator.mul))[::-1] if shape else ()
