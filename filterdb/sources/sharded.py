"""Checkpoints in several files, as large ones of the Hugging Face hub are: an index says which tensor is in which shard.

The index is JSON, ``{"metadata": {…}, "weight_map": {KEY: FILE, …}}``, and its files lie beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from filterdb.errors import SourceError, one_line
from filterdb.sources.names import LONGEST, plain
from filterdb.sources.options import Progress
from filterdb.sources.pickles.checkpoint import TorchCheckpoint
from filterdb.sources.safetensors import LocalSafetensors

SUFFIX = ".index.json"
"""How the name of an index ends."""
PREFERRED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LARGEST_INDEX = 100_000_000
"""Bytes; a million tensors take that."""


def index_in(folder: Path) -> Path | None:
    """The index of the sharded checkpoint in a folder, None where there is none or several that are not preferred."""
    found = sorted(folder.glob(f"*{SUFFIX}"))
    return next((folder / name for name in PREFERRED if folder / name in found), found[0] if len(found) == 1 else None)


def shards(index: bytes, what: str) -> dict[str, str]:
    """From the key of each tensor to its file, relative to the index.

    Raises:
        SourceError: no index, or one that names files outside of its folder.
    """
    try:
        table = json.loads(index)["weight_map"]
        files = {str(key): file for key, file in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{what} is not the index of a sharded checkpoint: it has no weight_map. Give one of its shards."
        ) from error
    if not files:
        raise SourceError(f"{what} names no shards. Fetch it again.")
    for file in files.values():
        if not isinstance(file, str) or not file.endswith((".safetensors", ".bin", ".pth", ".pt")):
            raise SourceError(f"{what} names the shard {one_line(file)}, which is no file of weights. Fetch it again.")
        if len(file) > LONGEST or plain(file) != file:
            raise SourceError(f"{what} names the shard {one_line(file)}, which no file is called. Fetch it again.")
        if ".." in file.replace("\\", "/").split("/") or file[0] in "/\\" or ":" in file:
            raise SourceError(f"{what} names the shard {one_line(file)}, which is outside of its folder, so it was refused.")
    return files


class ShardedCheckpoint:
    """All shards of an index on disk, as one checkpoint."""

    def __init__(self, path: Path, what: str, progress: Progress | None = None) -> None:
        self.what, self.progress = what, progress
        if path.stat().st_size > LARGEST_INDEX:
            raise SourceError(f"{what} has {path.stat().st_size} bytes, which no index has. Give one of its shards.")
        self.tree: dict[str, Any] = {}
        self._shards: dict[int, LocalSafetensors | TorchCheckpoint] = {}
        wanted: dict[str, list[str]] = {}
        for key, file in shards(path.read_bytes(), what).items():
            wanted.setdefault(file, []).append(key)
        for file, keys in wanted.items():
            shard = _open(path.parent / file, f"{what} ({one_line(file)})")
            for key in keys:
                if key not in shard.tree:
                    raise SourceError(
                        f"{what}: {one_line(key)} is not in {one_line(file)}, where it should be. Fetch the shards again."
                    )
                self.tree[key] = shard.tree[key]
                self._shards[id(shard.tree[key])] = shard

    def cost(self, leaves: Sequence[Any]) -> int:
        """What the shards that hold these leaves cost."""
        return sum(shard.cost(held) for shard, held in self._by_shard(leaves))

    def read(self, leaves: Sequence[Any]) -> Iterator[NDArray[Any]]:
        """The tensors, each from its shard."""
        total, done = self.cost(leaves), 0
        for leaf in leaves:
            array = next(self._shards[id(leaf)].read([leaf]))
            done += array.nbytes
            if self.progress:
                self.progress(min(done, total), total)
            yield array

    def _by_shard(self, leaves: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
        held: dict[int, tuple[Any, list[Any]]] = {}
        for leaf in leaves:
            shard = self._shards[id(leaf)]
            held.setdefault(id(shard), (shard, []))[1].append(leaf)
        return list(held.values())


def _open(path: Path, what: str) -> LocalSafetensors | TorchCheckpoint:
    try:
        return (LocalSafetensors if path.suffix == ".safetensors" else TorchCheckpoint)(path, what)
    except OSError as error:
        raise SourceError(f"{what} cannot be read: {error.strerror}. All shards must lie beside their index.") from error
