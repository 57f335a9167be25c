"""The whole state dict of a checkpoint file, read without executing any of its code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filterdb.errors import SourceError
from filterdb.sources import formats
from filterdb.sources.local import PROGRAMS, kind_of
from filterdb.sources.pickles.checkpoint import TorchCheckpoint
from filterdb.sources.pickles.stored import StoredTensor
from filterdb.sources.safetensors import LocalSafetensors
from filterdb.sources.unwrap import unwrap

if TYPE_CHECKING:
    from torch import Tensor

BUILDING = ("format", "filterdb", "architecture", "args", "num_classes", "preprocessing")
"""Of the metadata that ``save`` writes, what says how the network is built."""
TABLES = ("args", "preprocessing")
"""Of the metadata that ``save`` writes, what is JSON."""


@dataclass
class Weights:
    """What a file holds of one network."""

    state: dict[str, Tensor]
    metadata: dict[str, Any]
    """Of a safetensors file, with ``TABLES`` parsed; empty for others."""
    notes: list[str]
    """Which of several sets of weights was taken."""


def read(path: Path) -> Weights:
    """The weights of a file: of two sets the average (EMA), without the prefixes of wrappers.

    Raises:
        SourceError: no checkpoint, a damaged one, or ONNX, which has no module.
    """
    what = path.name
    kind = kind_of(path, what)
    if kind in PROGRAMS:
        raise SourceError(f"{what} is {PROGRAMS[kind]}, which is no module. Give its checkpoint (.safetensors, .pth).")
    if kind == "index":
        raise SourceError(f"{what} is the index of a sharded checkpoint. Save the network in one file, and give that.")
    if kind == "torch":
        stored, notes = unwrap(TorchCheckpoint(path, what).tree, "auto", what)
        return Weights({key: _tensor(leaf, what) for key, leaf in stored.items() if isinstance(leaf, StoredTensor)}, {}, notes)
    from safetensors import SafetensorError, safe_open

    checked = LocalSafetensors(path, what)
    places, notes = unwrap(checked.tree, "auto", what)
    try:
        with safe_open(path, "pt") as file:
            state = {key: file.get_tensor(place.key) for key, place in places.items()}
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{what} cannot be read: {' '.join(str(error).split())}. Fetch it again.") from error
    return Weights(state, _metadata(checked.metadata, what), notes)


def _tensor(leaf: StoredTensor, what: str) -> Tensor:
    """A tensor of torch's with the bits of a stored one, in memory of its own."""
    import numpy as np
    import torch

    words = np.array(leaf.words(what), order="C")
    if words.dtype.kind == "V":  # complex numbers
        return torch.from_numpy(words.view(f"<c{words.itemsize}"))
    return torch.from_numpy(words.view(f"<i{words.itemsize}")).view(getattr(torch, formats.torch_name(leaf.dtype)))


def _metadata(written: Mapping[str, str], what: str) -> dict[str, Any]:
    read: dict[str, Any] = dict(written)
    for key in TABLES:
        if key in read:
            try:
                read[key] = json.loads(read[key])
            except ValueError as error:
                raise SourceError(f"{what}: its metadata {key} is not JSON. Write the file again.") from error
            if not isinstance(read[key], dict):
                raise SourceError(f"{what}: its metadata {key} is not a table. Write the file again.")
    return read
