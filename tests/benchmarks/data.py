"""What is measured on: databases of synthetic models, and the weights file of a network. Made once, kept in a folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.measure import Clock, once, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 7
PER_MODEL, LAYERS = 50_000, 20


def database(folder: Path, models: int, per_model: int = PER_MODEL, layers: int = LAYERS) -> Path:
    """A database of synthetic models with ``per_model`` 7x7 kernels each in so many layers."""
    path = folder / f"{models}-models-of-{per_model}"
    if not (path / "complete").exists():
        say(f"    making a database of {models} models with {per_model:,} kernels each …")
        once(make_database, path=path, models=models, per_model=per_model, layers=layers)
    return path


def make_database(clock: Clock, path: str, models: int, per_model: int, layers: int) -> None:
    """A task: what is there already is kept, so that an interrupted run is resumed."""
    from filterdb import Database

    db = Database(path)
    there = set(db.models) if db.exists() else set()
    with clock:
        for number in range(models):
            if synthetic_name(number) not in there:
                put_synthetic(db, number, per_model, layers)
    (Path(path) / "complete").touch()


def synthetic_name(number: int) -> str:
    """The name of a synthetic model."""
    return f"synthetic-{number:04d}"


def put_synthetic(db: Any, number: int, per_model: int = PER_MODEL, layers: int = LAYERS) -> None:
    """Store one synthetic model through the pipeline."""
    import numpy as np

    from tests.conftest import put

    kernels = np.array_split(synthetic(per_model, number), layers)
    put(db, synthetic_name(number), {f"stages.0.blocks.{depth}.conv_dw": kernel for depth, kernel in enumerate(kernels)})


def synthetic(n: int, seed: int) -> NDArray[np.float32]:
    """(n, 7, 7) kernels with about the spectrum of trained ones.

    Gaussian derivatives up to order two, of random scale and mixture, a constant, and white noise; lengths spread over a decade.
    8 and 24 principal components hold .79 and .91 of the centred unit kernels; it is .74 and .92 in the 7x7 kernels of
    mcunet-320kb-1mb_imagenet.pth, and .82 and .97 in those of proxyless-w0.3-r176_imagenet.pth.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    x = np.arange(SIDE) - SIDE // 2
    sigmas = np.linspace(0.5, 2.0, 64)[:, None]
    gauss = np.exp(-(x**2) / (2 * sigmas**2))
    derivatives = [gauss, -x / sigmas * gauss, (x**2 / sigmas**2 - 1) * gauss]
    orders = [(a, b) for a in range(3) for b in range(3 - a)]
    jets = np.stack([np.einsum("si,sj->sij", derivatives[a], derivatives[b]) for a, b in orders], 1)
    jets = jets.reshape(len(sigmas), len(orders), SIDE * SIDE)
    jets /= np.linalg.norm(jets, axis=2, keepdims=True)
    strength = np.array([(2.0, 1.0, 0.6)[a + b] for a, b in orders])
    mixture = random.standard_normal((n, len(orders))) * strength * (random.random((n, len(orders))) < 0.5)
    kernels = random.standard_normal((n, SIDE * SIDE)) * 0.05 * random.lognormal(0, 0.7, (n, 1))
    kernels += random.standard_normal((n, 1)) * 0.05
    scale = random.integers(len(sigmas), size=n)
    for s in range(len(sigmas)):
        kernels[scale == s] += mixture[scale == s] @ jets[s]
    kernels *= 10 ** random.uniform(-1.5, -0.5, (n, 1))
    return kernels.astype(np.float32).reshape(n, SIDE, SIDE)


def weights(folder: Path, architecture: str) -> Path:
    """A safetensors file of a timm architecture with random weights."""
    path = folder / f"{architecture}.safetensors"
    if not path.exists():
        say(f"    writing random weights of {architecture} …")
        once(make_weights, path=path, architecture=architecture)
    return path


def make_weights(clock: Clock, path: str, architecture: str) -> None:
    """A task: the file is written tensor after tensor, as large networks do not fit in memory twice."""
    import numpy as np
    import timm
    import torch

    with torch.device("meta"):
        state = timm.create_model(architecture).state_dict()
    header, end = {}, 0
    for key, tensor in state.items():
        start, end = end, end + 4 * tensor.numel()
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with clock, open(f"{path}.partial", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in state.values():
            for count in _pieces(tensor.numel()):
                file.write((random.standard_normal(count, np.float32) * np.float32(0.02)).tobytes())
    os.replace(f"{path}.partial", path)


def _pieces(total: int, most: int = 2**24) -> Iterator[int]:
    for i in range(math.ceil(total / most)):
        yield min(most, total - i * most)
