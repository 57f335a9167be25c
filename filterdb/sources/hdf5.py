"""The datasets of an HDF5 file, without following a link out of it. A file in a zip archive (.keras) is read from memory."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.sources.finder import one_line

INSIDE = "model.weights.h5"
"""The weights in a .keras archive."""
OBJECTS = 2**20
"""Groups and datasets of a file, at most."""
DEPTH = 64
"""Of groups in groups."""
LARGEST = 2**30
"""Bytes of a kernel's dataset, at most: its shape may promise more than the file has."""


@contextmanager
def opened(path: Path, what: str) -> Iterator[tuple[Any, bytes | None]]:
    """An h5py.File, and the config.json beside it where the file is a .keras archive.

    Raises:
        SourceError: neither HDF5 nor such an archive, or damaged; also for whatever h5py raises while the file is open.
    """
    try:
        import h5py
    except ImportError as error:
        raise SourceError(
            f"{what}: reading HDF5 (Keras) needs the package h5py. Install it with: pip install 'filterdb[keras]'"
        ) from error
    try:
        zipped = zipfile.is_zipfile(path)
        data, config = _unzipped(path, what) if zipped else (path, None)
        with h5py.File(data, "r") as file:
            yield file, config
    except SourceError:
        raise
    except Exception as error:  # h5py's errors are Python's own, of every kind
        raise SourceError(f"{what} is a damaged or truncated HDF5 (Keras) file ({one_line(error)}). Fetch it again.") from error


def _unzipped(path: Path, what: str) -> tuple[io.BytesIO, bytes]:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if not {INSIDE, "config.json"} <= names:
            raise SourceError(f"{what} is a zip archive without {INSIDE}, so no Keras model. Save it with model.save(...).")
        size = archive.getinfo(INSIDE).file_size
        # Keras does not compress: what claims to grow is made to fill the memory
        if size + archive.getinfo("config.json").file_size > 4 * path.stat().st_size:
            raise SourceError(f"{what} would unpack to {size:,} bytes, so it is no file of Keras. Save it with model.save(...).")
        return io.BytesIO(archive.read(INSIDE)), archive.read("config.json")


def datasets(file: Any, what: str) -> dict[str, Any]:
    """Every dataset by its path, in the file's order.

    Raises:
        SourceError: links, which may lead to other files; or more objects than a file of weights has.
    """
    import h5py

    found: dict[str, Any] = {}
    seen = 0

    def visit(group: Any, prefix: str, depth: int) -> None:
        nonlocal seen
        for key in group:
            seen += 1
            if seen > OBJECTS or depth > DEPTH:
                raise SourceError(f"{what} has groups within groups without end. Fetch it again.")
            path = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise SourceError(f"{what}: {path[:80]} is a link, and links are not followed. Save the model anew.")
            item = group[key]
            if isinstance(item, h5py.Group):
                visit(item, f"{path}/", depth + 1)
            elif isinstance(item, h5py.Dataset):
                found[path] = item

    visit(file, "", 0)
    return found


def numbers(dataset: Any, what: str) -> NDArray[Any]:
    """The real numbers of a dataset.

    Raises:
        SourceError: numbers that lie in another file, or more of them than a kernel has.
    """
    if dataset.external is not None or dataset.is_virtual:
        raise SourceError(
            f"{what}: {dataset.name[:80]} keeps its numbers in another file, which is not read. Save the model anew."
        )
    if dataset.nbytes > LARGEST:
        raise SourceError(f"{what}: {dataset.name[:80]} would take {dataset.nbytes:,} bytes. Fetch the file again.")
    array = np.asarray(dataset[()])
    if text(dataset.attrs.get("dtype")) == "bfloat16" and array.dtype.itemsize == 2:  # the upper half of a float32
        wide = array.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32)
    return array


def real(dataset: Any) -> bool:
    """Whether a dataset holds real numbers."""
    return dataset.dtype.kind == "f" or text(dataset.attrs.get("dtype")) == "bfloat16"


def text(value: Any) -> str | None:
    """An attribute as text, or None where it is none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def texts(attributes: Any, name: str) -> list[str]:
    """An attribute that is a list of texts; Keras cuts a long one into NAME0, NAME1 …"""
    parts = [name] if name in attributes else []
    while not parts or parts[-1] != name:
        numbered = f"{name}{len(parts)}"
        if numbered not in attributes:
            break
        parts.append(numbered)
    return [text(one) or "" for part in parts for one in np.asarray(attributes[part]).ravel().tolist()]
