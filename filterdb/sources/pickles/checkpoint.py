"""Checkpoints that torch or pickle wrote (.pth, .pt, .bin, .tar, .ckpt, .pt2), read without torch and without code.

Nothing of a checkpoint is ever executed or imported: see ``opcodes``. The numbers that are wanted are read where
they lie, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.sources.options import Progress
from filterdb.sources.pickles.archive import Archive
from filterdb.sources.pickles.machine import Record
from filterdb.sources.pickles.objects import tree
from filterdb.sources.pickles.stored import File, StoredTensor


class TorchCheckpoint:
    """A file of torch's or pickle's, by its tensors.

    Raises:
        SourceError: not such a file, or a damaged one.
    """

    def __init__(self, path: Path, what: str, progress: Progress | None = None) -> None:
        self.path, self.what, self.progress = path, what, progress
        self.size = path.stat().st_size
        archive = Archive(File(path, what))
        self.mapped = not archive.whole
        if not isinstance(archive.held, dict | list | tuple | Record):
            kind = "tensor" if isinstance(archive.held, StoredTensor) else type(archive.held).__name__
            raise SourceError(f"{what} holds a {kind}, not a state dict. Save the network's state_dict() and give that.")
        self.tree: Mapping[Any, Any] = tree(archive.held, what)

    def cost(self, leaves: Sequence[StoredTensor]) -> int:
        """The tensors alone where they are read by position, the whole file where they are not."""
        return sum(leaf.nbytes for leaf in leaves) if self.mapped else self.size

    def read(self, leaves: Sequence[StoredTensor]) -> Iterator[NDArray[Any]]:
        """The tensors as numpy arrays: float64 and integers as they are, every other float as float32."""
        total, done = self.cost(leaves), 0 if self.mapped else self.size
        for leaf in leaves:
            if self.mapped:
                done += leaf.nbytes
            if self.progress:
                self.progress(done, total)
            yield leaf.read(self.what)
