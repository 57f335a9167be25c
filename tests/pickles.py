"""Pickles for tests: payloads that would leave a mark, a small network, and readers of what comes out."""

from __future__ import annotations

import collections
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from filterdb.sources import resolve
from filterdb.sources.pickles.opcodes import Pickle
from filterdb.sources.pickles.rebuild import KNOWN, build
from filterdb.sources.pickles.stored import StoredTensor

KERNEL = torch.arange(8 * 9, dtype=torch.float32).view(8, 1, 3, 3)
MARK = "touch EXECUTED"


class Payload:
    """Calls a function when Python unpickles it."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


SHELL = Payload(os.system, MARK)


def load(content: bytes) -> Any:
    """A pickle, with ids outside of it as they are."""
    return Pickle(io.BytesIO(content), len(content), KNOWN, build, lambda saved: ("persistent", saved)).load()


def leaves(tree: Any, path: str = "") -> dict[str, StoredTensor]:
    """The tensors in a tree, by their dotted paths."""
    found: dict[str, StoredTensor] = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        found |= leaves(value, name) if isinstance(value, dict) else {name: value}
    return found


def read(path: Path) -> dict[str, np.ndarray]:
    """The kernels of a file, by layer."""
    (pending,) = resolve(path)
    with pending.open(None) as model:
        return {layer.name: kernel for layer, kernel in zip(model.layers, model.read(), strict=True)}


def module(seed: int = 0) -> nn.Module:
    """A network with one depthwise layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        collections.OrderedDict(stem=nn.Conv2d(3, 8, 3), dw=nn.Conv2d(8, 8, 5, groups=8), norm=nn.BatchNorm2d(8))
    )
