"""A program that reads an HDF5 file for its parent: ``python -P hdf5_child.py FILE``. ``hdf5`` says why.

It writes one line of JSON, which lists the datasets of three or four dimensions. Then it answers each line that it reads, the
path of a dataset in JSON, with a line of JSON and the numbers. Links are not followed, and nothing outside the file is read.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import zipfile
from typing import Any

import h5py
import numpy as np

INSIDE = "model.weights.h5"
"""The weights in a .keras archive."""
OBJECTS = 2**17
"""Groups and datasets of a file, at most."""
DEPTH = 64
"""Of groups in groups."""
LARGEST = 2**30
"""Bytes of a dataset that is read, at most: its shape may promise more than the file has."""

SECONDS = 60
"""For one answer; the parent waits for less. Where the parent was killed, nobody else ends a library that runs without end."""


class Refused(Exception):
    """Why a file is not read, and what to do."""


def unzipped(path: str) -> tuple[io.BytesIO, str]:
    """The weights and the configuration in a .keras archive."""
    with zipfile.ZipFile(path) as archive:
        if not {INSIDE, "config.json"} <= set(archive.namelist()):
            raise Refused(f"is a zip archive without {INSIDE}, so no Keras model. Save it with model.save(...).")
        size = archive.getinfo(INSIDE).file_size + archive.getinfo("config.json").file_size
        with open(path, "rb") as file:
            there = file.seek(0, io.SEEK_END)
        if size > 4 * there:  # Keras does not compress: what claims to grow is made to fill the memory
            raise Refused(f"would unpack to {size:,} bytes, so it is no file of Keras. Save it with model.save(...).")
        return io.BytesIO(archive.read(INSIDE)), archive.read("config.json").decode()


def datasets(file: Any) -> dict[str, Any]:
    """Every dataset of three or four dimensions by its path, in the file's order."""
    found: dict[str, Any] = {}
    seen = 0

    def visit(group: Any, prefix: str, depth: int) -> None:
        nonlocal seen
        for key in group:
            seen += 1
            path = f"{prefix}{key}"
            if seen > OBJECTS or depth > DEPTH:
                raise Refused("has groups within groups without end. Fetch it again.")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise Refused(f"has a link at {path[:80]}, and links are not followed. Save the model anew.")
            item = group[key]
            if isinstance(item, h5py.Group):
                visit(item, f"{path}/", depth + 1)
            elif isinstance(item, h5py.Dataset) and len(item.shape or ()) in (3, 4):
                found[path] = item

    visit(file, "", 0)
    return found


def text(value: Any) -> str | None:
    """An attribute as text, or None where it is none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def texts(attributes: Any, name: str) -> list[str]:
    """An attribute that is a list of texts; Keras cuts a long one into NAME0, NAME1 …"""
    parts = [name] if name in attributes else []
    while parts != [name] and f"{name}{len(parts)}" in attributes:
        parts.append(f"{name}{len(parts)}")
    return [text(one) or "" for part in parts for one in np.asarray(attributes[part]).ravel().tolist()]


def is_bfloat16(dataset: Any) -> bool:
    """Whether Keras marked these integers of two bytes as bfloat16."""
    return bool(text(dataset.attrs.get("dtype")) == "bfloat16" and dataset.dtype.itemsize == 2)


def listing(file: Any, config: str | None, there: dict[str, Any]) -> dict[str, Any]:
    """What the parent is told first."""
    rows = [
        [path, [int(n) for n in one.shape], one.dtype.kind == "f" or is_bfloat16(one), text(one.parent.attrs.get("name"))]
        for path, one in there.items()
    ]
    config = config if config is not None else text(file.attrs.get("model_config"))
    root = file["model_weights"] if isinstance(file.get("model_weights"), h5py.Group) else file
    return {"config": config, "layers": texts(root.attrs, "layer_names"), "datasets": rows}


def numbers(dataset: Any) -> Any:
    """The real numbers of a dataset, little-endian."""
    if dataset.external is not None or dataset.is_virtual:
        raise Refused(f"keeps the numbers of {dataset.name[:80]} in another file, which is not read. Save the model anew.")
    if dataset.nbytes > LARGEST:
        raise Refused(f"would need {dataset.nbytes:,} bytes for {dataset.name[:80]}. Fetch it again.")
    array = np.asarray(dataset[()])
    if is_bfloat16(dataset):  # the upper half of a float32
        return (array.view(np.uint16).astype(np.uint32) << np.uint32(16)).view("<f4")
    return array.astype(array.dtype.newbyteorder("<"))


def answer(told: dict[str, Any], data: bytes = b"") -> None:
    """Send the parent a line, and the bytes that it announces."""
    sys.stdout.buffer.write(json.dumps(told | {"bytes": len(data)}).encode() + b"\n" + data)
    sys.stdout.buffer.flush()


def main(path: str) -> None:
    """Serve until the parent has no more questions."""
    alarm = getattr(signal, "alarm", lambda seconds: None)  # Windows has none
    try:
        alarm(SECONDS)
        source, config = unzipped(path) if zipfile.is_zipfile(path) else (path, None)
        with h5py.File(source, "r") as file:
            there = datasets(file)
            answer(listing(file, config, there))
            alarm(0)
            for line in sys.stdin:
                alarm(SECONDS)
                array = numbers(there[json.loads(line)])
                answer({"dtype": array.dtype.str, "shape": array.shape}, array.tobytes())
                alarm(0)
    except Refused as reason:
        answer({"refused": str(reason)})
    except Exception as error:  # h5py's errors are Python's own, of every kind
        answer({"damaged": " ".join(str(error).split())[:200] or type(error).__name__})


if __name__ == "__main__":
    main(sys.argv[1])
