"""The datasets of an HDF5 file, or of the one in a .keras archive, read by a process of its own.

Some damaged files (one in some thousand that random changes make) let HDF5's library crash, which no ``except`` catches, or run
without end. In a process of its own that costs an error message and no more.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError

SECONDS = 10.0
"""How long the file may be silent before it is given up, beyond the time that a slow disk takes to read all of it."""
SLOWEST = 20_000_000
"""Bytes that a disk reads in a second, at least."""


@dataclass(frozen=True)
class Dataset:
    """A dataset of three or four dimensions."""

    path: str
    shape: tuple[int, ...]
    real: bool
    """Whether it holds real numbers."""
    layer: str | None
    """What the group that it is in calls itself: in .keras files of today, the name of the layer."""


class Hdf5:
    """An open file.

    Raises:
        SourceError: damage, or a file that reaches out of itself; here and in ``numbers``.
    """

    def __init__(self, process: subprocess.Popen[bytes], what: str, size: int) -> None:
        self._process, self.what = process, what
        self._seconds = SECONDS + size / SLOWEST
        told, _ = self._answer()
        self.config: str | None = told["config"]
        """The model's configuration, JSON; None in a file of weights alone."""
        self.layers: list[str] = told["layers"]
        """Names of layers in the order of the model, where the file says it."""
        self.datasets = {path: Dataset(path, tuple(shape), real, layer) for path, shape, real, layer in told["datasets"]}

    def numbers(self, dataset: Dataset) -> NDArray[Any]:
        """The real numbers of a dataset, in its shape."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(dataset.path).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._damaged("its reader ended early") from None
        told, data = self._answer()
        return np.frombuffer(data, np.dtype(told["dtype"])).reshape(told["shape"])

    def _answer(self) -> tuple[dict[str, Any], bytes]:
        """A line, and the bytes that it announces."""
        stream = self._process.stdout
        assert stream is not None
        timer = Timer(self._seconds, self._process.kill)
        timer.start()
        try:
            line = stream.readline()
            told: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {"damaged": "HDF5's library gave up"}
            data = stream.read(told.get("bytes", 0))
        finally:
            timer.cancel()
        if "refused" in told:
            raise SourceError(f"{self.what} {told['refused']}")
        if "damaged" in told or len(data) != told["bytes"]:
            raise self._damaged(told.get("damaged", "HDF5's library gave up"))
        return told, data

    def _damaged(self, reason: str) -> SourceError:
        return SourceError(f"{self.what} is a damaged or truncated HDF5 (Keras) file ({reason}). Fetch it again.")


@contextmanager
def opened(path: Path, what: str) -> Iterator[Hdf5]:
    """An HDF5 file, or the one in a .keras archive.

    Raises:
        SourceError: h5py is missing; damage.
    """
    if importlib.util.find_spec("h5py") is None:
        raise SourceError(f"{what}: reading HDF5 (Keras) needs the package h5py. Install it with: pip install 'filterdb[keras]'")
    child = Path(__file__).with_name("hdf5_child.py")
    # -P: the folder of the program is no place to import from, it has modules with names of libraries
    command = [sys.executable, "-P", str(child), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield Hdf5(process, what, path.stat().st_size)
        finally:
            process.kill()
