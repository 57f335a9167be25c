"""The files that torch wrote, and plain pickles: where the pickle is in each, and where the numbers are.

* a zip file (torch 1.6 and later): data.pkl, and an entry for each storage. TorchScript and ``torch.export`` write such files
  too, with programs in them that are not looked at;
* the format before that: pickles one after the other, then the storages in a row;
* the oldest, a tar file (before torch 0.1.10);
* a pickle as Python writes it, with arrays of numpy's in it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

from filterdb.errors import SourceError, one_line
from filterdb.sources import formats
from filterdb.sources.pickles import tarred
from filterdb.sources.pickles.machine import DAMAGES, Global, Malformed, Record
from filterdb.sources.pickles.opcodes import Pickle
from filterdb.sources.pickles.rebuild import KNOWN, build, view
from filterdb.sources.pickles.stored import File, InFile, InZip, Part, Storage

MAGIC = 0x1950A86A20F9469CFC6C
"""What torch pickled first, before it wrote zip files."""
LARGEST_PICKLE = 2**30
"""Bytes of an unpacked data.pkl, which is read whole."""
_EXPORTED = "data/weights/model_weights_config.json"
_SCALARS = (
    None, "U8", "I8", "I16", "I32", "I64", "F16", "F32", "F64", None, "C64", "C128", "BOOL", "BF16", *[None] * 14, "U16",
    "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "U32", "U64",
)  # fmt: skip
"""The number formats of ``torch.export``, by number."""


class Archive:
    """A file of pickles and numbers.

    Attributes:
        held: all that was pickled, of our own classes.
        whole: whether everything had to be read or decompressed to get at a part.

    Raises:
        SourceError: nothing of the kinds above, or damaged, or absurd.
    """

    def __init__(self, file: File) -> None:
        self.file, self.what, self.whole = file, file.what, False
        self._last: dict[str, bytes] = {}
        with file.open() as opened:
            first = opened.read(264)
        try:
            if first.startswith(b"PK\x03\x04"):
                self.held = self._zip()
            elif tarred.is_tar(first):
                self.held = tarred.held(file)
            else:
                self.held = self._row()
        except Malformed as error:
            raise SourceError(
                f"{self.what} {error}. It is no whole checkpoint, and nothing was executed; fetch it again."
            ) from error

    # -- zip

    def _zip(self) -> Any:
        entries = self._entries()
        names = sorted(entries, key=lambda name: (name.count("/"), name))
        pickled = next((name for name in names if name == "data.pkl" or name.endswith("/data.pkl")), None)
        exported = next((name for name in names if name.endswith(_EXPORTED)), None)
        older = next((name for name in names if name.rpartition("/")[2] == "serialized_state_dict.pt"), None)
        # a map of a compressed entry would be read as if it were numbers
        self.whole = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values())
        if exported is not None:
            return self._exported(entries, exported.removesuffix(_EXPORTED))
        if older is not None:
            return self._inner(entries, older)
        if pickled is None:
            raise SourceError(
                f"{self.what} is a zip file without data.pkl, so torch did not write it. Unpack it, and give the checkpoint "
                "in it."
            )
        root = pickled.removesuffix("data.pkl")
        held = self._pickled(entries, root, "data")
        if any(name.startswith(f"{root}code/") for name in names) and f"{root}constants.pkl" in entries:
            constants = self._pickled(entries, root, "constants")
            tensors = {_constant(i, one): one for i, one in enumerate(constants)} if type(constants) is tuple else {}
            return {"program": held, "constants": tensors} if tensors else held
        return held

    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with self.file.open() as raw, zipfile.ZipFile(raw) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
        except (zipfile.BadZipFile, OSError, *DAMAGES, NotImplementedError) as error:
            reason = one_line(str(error) or type(error).__name__)
            raise SourceError(f"{self.what} is a damaged or truncated zip file ({reason}). Fetch it again.") from error
        if any(entry.flag_bits & 1 for entry in entries.values()):
            raise SourceError(f"{self.what} is encrypted. Decrypt it first.")
        return entries

    def _entry(self, entries: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
        entry = entries[name]
        if entry.file_size > LARGEST_PICKLE:
            raise SourceError(f"{self.what}: {one_line(name)} would be {entry.file_size / 1e9:.1f} GB, which no checkpoint's is.")
        return self._at(entry).read(0, entry.file_size)

    def _at(self, entry: zipfile.ZipInfo) -> InZip:
        return InZip(self.file, entry, self._last)

    def _pickled(self, entries: Mapping[str, zipfile.ZipInfo], root: str, name: str) -> Any:
        """The object in NAME.pkl, with its storages in the folder NAME."""
        data = self._entry(entries, f"{root}{name}.pkl")
        order = ">" if f"{root}byteorder" in entries and self._entry(entries, f"{root}byteorder") == b"big" else "<"
        storages: dict[str, InZip] = {}

        def persistent(saved: Any) -> Any:
            found = storage_id(saved)
            if found is None:
                return Record("a persistent id", (saved,))
            dtype, key, count, _ = found
            if key not in storages:
                if f"{root}{name}/{key}" not in entries:
                    raise Malformed(f"has no entry {name}/{one_line(key, 40)}, where numbers should be")
                storages[key] = self._at(entries[f"{root}{name}/{key}"])
            if dtype is not None and storages[key].nbytes < count * formats.SIZES[dtype]:
                raise Malformed(
                    f"has {storages[key].nbytes} bytes in {name}/{one_line(key, 40)}, where {count} numbers should be"
                )
            return Storage(dtype, storages[key], order)

        stored = min(entries[f"{root}{name}.pkl"].compress_size, self.file.size)
        with io.BytesIO(data) as opened:
            return Pickle(opened, len(data), KNOWN, build, persistent, stored).load()

    def _exported(self, entries: Mapping[str, zipfile.ZipInfo], root: str) -> dict[str, Any]:
        """The weights and buffers of a program of ``torch.export``, by their names."""
        order = ">" if f"{root}byteorder" in entries and self._entry(entries, f"{root}byteorder") == b"big" else "<"
        try:
            table = json.loads(self._entry(entries, f"{root}{_EXPORTED}"))["config"]
            return {
                str(name): self._weight(entries, f"{root}data/weights/{one['path_name']}", one, order)
                for name, one in table.items()
                if one.get("tensor_meta") is not None
            }
        except Malformed:
            raise
        except DAMAGES as error:
            raise Malformed(f"has a damaged list of weights ({type(error).__name__})") from error

    def _inner(self, entries: Mapping[str, zipfile.ZipInfo], name: str) -> Any:
        """What a checkpoint inside of this one holds."""
        if isinstance(self.file.where, bytes):  # an archive can be made that holds itself
            raise Malformed("has checkpoints in checkpoints in it")
        self.whole = True
        return Archive(File(self._entry(entries, name), self.what)).held

    def _weight(self, entries: Mapping[str, zipfile.ZipInfo], name: str, one: Mapping[str, Any], order: str) -> Any:
        if one.get("use_pickle"):
            return self._inner(entries, name)
        meta = one["tensor_meta"]
        size, stride = ([axis["as_int"] for axis in meta[key]] for key in ("sizes", "strides"))
        dtype = _SCALARS[meta["dtype"]]
        if dtype is None:
            raise Malformed(f"has weights of the unknown number format {one_line(meta['dtype'], 20)}")
        return view(Storage(dtype, self._at(entries[name]), order), dtype, meta["storage_offset"]["as_int"], size, stride)

    # -- pickles in a row

    def _row(self) -> Any:
        backings: dict[Any, InFile] = {}

        def persistent(saved: Any) -> Any:
            found = storage_id(saved)
            if found is None:
                # a class was stored with its source, of which the class is enough
                module = type(saved) is tuple and len(saved) > 1 and saved[0] in ("module", b"module")
                return saved[1] if module else Record("a persistent id", (saved,))
            dtype, key, count, part = found
            size = formats.SIZES[dtype or "U8"]
            root = backings.setdefault(key, InFile(self.file, 0, count * size))
            return Storage(dtype, root if part is None else Part(root, part[0] * size, part[1] * size))

        with self.file.open() as file:
            pickle = Pickle(file, self.file.size, KNOWN, build, persistent)
            held = pickle.load()
            if held != MAGIC or type(held) is not int:
                self.whole = True
                return held
            _, _, held, keys = (pickle.load() for _ in range(4))
            if type(keys) is not list or any(type(key) not in (str, bytes, int) for key in keys):
                raise Malformed("has no list of its storages")
            self._lay(file, keys, backings)
        return held

    def _lay(self, file: BinaryIO, keys: list[Any], backings: dict[Any, InFile]) -> None:
        """Find the storages, which follow each other, each after its count of numbers."""
        place = file.tell()
        for key in map(_key, keys):
            backing = backings.pop(key, None)
            if backing is None:
                raise Malformed("lists a storage that no tensor is in")
            backing.start, place = place + 8, place + 8 + backing.nbytes
        if place > self.file.size:
            raise Malformed(f"is truncated: it has {self.file.size} bytes of {place}")
        if backings:
            raise Malformed("has tensors whose numbers are missing")


def _constant(number: int, value: Any) -> str:
    """A name for a constant of a program, which has none. In a frozen program the weights are constants."""
    return f"c{number}.weight" if len(getattr(value, "shape", ())) == 4 else f"c{number}"


def _key(key: Any) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def storage_id(saved: Any) -> tuple[str | None, str, int, tuple[int, int] | None] | None:
    """What an id of a storage says: number format, key, count of numbers, and the part of it that is meant (first, count).

    None for an id of something else.
    """
    if type(saved) is not tuple or len(saved) < 5 or saved[0] not in ("storage", b"storage"):
        return None
    kind, key, _, count, *view_of = saved[1:]
    if not isinstance(kind, Global) or type(key) not in (str, bytes, int) or type(count) is not int or not 0 <= count < 2**60:
        raise Malformed("has an absurd storage")
    part = view_of[0] if view_of else None
    if part is not None:
        if type(part) is not tuple or len(part) != 3 or not all(type(one) is int and 0 <= one <= count for one in part[1:]):
            raise Malformed("has an absurd view of a storage")
        part = (part[1], part[2])
        if sum(part) > count:
            raise Malformed("has a view that reaches beyond its storage")
    return formats.of_storage(kind.name), _key(key), count, part
