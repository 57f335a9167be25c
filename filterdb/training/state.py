"""The state that a stopped or killed training resumes from: ``last.pt``, replaced whole or not at all."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from filterdb.errors import RunError
from filterdb.training.settings import Settings

LAST = "last.pt"


def random_state() -> dict[str, Any]:
    """The random numbers of Python, numpy and torch, of this process."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    version, numbers, gauss = random.getstate()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on with the random numbers of ``random_state``."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Keep a state: a kill in the middle leaves the one before."""
    partial = folder / f"{LAST}.partial"
    with partial.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / LAST)


def load(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """The state in a folder, or None.

    Raises:
        RunError: a damaged file, or the state of a training with other settings.
    """
    path = folder / LAST
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can raise anything on a damaged file
        raise RunError(f"{path} is damaged ({type(error).__name__}). Delete it to start anew.") from error
    before, now = state["settings"], settings.to_dict()
    other = [name for name in now if before.get(name) != now[name]]
    if other:
        name = other[0]
        raise RunError(
            f"{folder} holds a training with {name} {before.get(name)!r}, not {now[name]!r}. Give the same settings to resume "
            "it, or another --out."
        )
    return state
