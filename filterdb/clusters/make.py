"""From the kernels of a database to a classifier: gather, train, label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.clusters import autoencoder, kmeans, labels
from filterdb.clusters.autoencoder import Settings
from filterdb.clusters.classifier import CODES, Classifier, Method, Scaling
from filterdb.errors import InvalidArgument
from filterdb.kernels import centred_unit
from filterdb.kernels.shapes import shapes_at
from filterdb.kernels.sizes import parse_size, size_name

MOST_KERNELS = 1_000_000
"""Kernels that a training sees at most, drawn at random where there are more; the paper trained on somewhat more than that."""
CLASSES = 10
"""Of k-means, as published for 3x3."""
PRESENTATIONS = 1_500_000
"""Kernels shown in all when the number of epochs is not given, within ``EPOCHS``: few kernels need many epochs."""
EPOCHS = (10, 150)
BATCHES = 250
"""Steps of an epoch, about; the batch is between the two of ``BATCH``. Small batches, many steps: fewer classes are left out."""
BATCH = (32, 1024)

Progress = Callable[[str, int, int], None]
"""Called with the current step, the amount done, and the total (0 if unknown)."""


def default_threshold(kernel_h: int, kernel_w: int) -> float:
    """The cosine dissimilarity below which a kernel is clustered: published for 7x7 (.3) and 5x5 (.2).

    Fewer taps leave chance less room to be dissimilar: smaller kernels get .1, which the paper does not give, and larger ones .3.
    """
    taps = kernel_h * kernel_w
    return 0.3 if taps >= 49 else 0.2 if taps >= 25 else 0.1


def gather(batches: Iterable[NDArray[np.float32]], seed: int, most: int = MOST_KERNELS) -> NDArray[np.float32]:
    """Distinct non-constant kernels (n, d), at most ``most``, drawn at random in bounded memory.

    Copies, of the same numbers or of the same numbers times a power of two, count once: shared weights would weigh double, and be
    held out and trained on at once. Copies with any other gain or offset are recognised, unless rounding makes them differ.
    """
    rng = np.random.default_rng(seed)
    kept: list[NDArray[np.float32]] = []
    coins: list[NDArray[np.float64]] = []
    for batch in batches:
        living = batch[~centred_unit(batch).dead]
        kept.append(living)
        coins.append(rng.random(len(living)))
        if sum(map(len, kept)) > 2 * most:
            kept, coins = _fewest(kept, coins, most)
    if not kept:
        return np.zeros((0, 0), np.float32)
    kernels = _fewest(kept, coins, most)[0][0]
    unit = np.ascontiguousarray(centred_unit(kernels).unit, np.float32)
    rounded = np.round(unit, 5) + 0.0  # + 0.0: no negative zeros, which would differ in their bytes
    _, first = np.unique(rounded.view(f"V{rounded.shape[1] * 4}").ravel(), return_index=True)
    return kernels[np.sort(first)]


def _fewest(
    kernels: list[NDArray[np.float32]], coins: list[NDArray[np.float64]], most: int
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float64]]]:
    """The kernels with the smallest random keys, in their order."""
    stacked, thrown = np.concatenate(kernels), np.concatenate(coins)
    if len(stacked) > most:
        chosen = np.sort(np.argpartition(thrown, most)[:most])
        stacked, thrown = stacked[chosen], thrown[chosen]
    return [stacked], [thrown]


@dataclass(frozen=True)
class Clustering:
    """How kernels are clustered. Impossible settings are refused before anything is read."""

    method: Method = "autoencoder"
    seed: int = 0
    """Of everything drawn at random."""
    epochs: int | None = None
    """Of an autoencoder, at most; by default as many as show ``PRESENTATIONS`` kernels."""
    restarts: int = 8
    """Autoencoders trained side by side; the one with the smallest held-out loss is kept."""
    threshold: float | None = None
    """The cosine dissimilarity below which a kernel is clustered; see ``default_threshold``."""
    classes: int | None = None
    """Of k-means: how many, ``CLASSES`` by default."""
    scaling: Scaling | None = None
    """Of k-means: "unit" (centred unit kernels) or "minmax"; by default as published, minmax at 3x3, else unit."""

    def __post_init__(self) -> None:
        if self.method not in ("autoencoder", "kmeans"):
            raise InvalidArgument(f'"{self.method}" is not a method. Choose autoencoder or kmeans.')
        if self.scaling not in (None, "unit", "minmax"):
            raise InvalidArgument(f'"{self.scaling}" is not a scaling. Choose unit or minmax.')
        if self.method == "autoencoder" and (self.scaling == "minmax" or self.classes is not None):
            raise InvalidArgument(
                "classes and scaling are for method kmeans: an autoencoder's classes are read off its spectrum."
            )
        if self.threshold is not None and not 0 < self.threshold <= 2:
            raise InvalidArgument(f"threshold = {self.threshold!r}: give a cosine dissimilarity above 0, such as 0.3.")
        Settings(seed=self.seed, restarts=self.restarts, epochs=1 if self.epochs is None else self.epochs)


def train(
    kernels: NDArray[np.float32], *, name: str, size: str, models: Sequence[str] = (), device: str | None = None,
    state_file: Path | None = None, progress: Progress | None = None, **how: Any,
) -> Classifier:  # fmt: skip
    """Train a classifier on kernels and label it.

    Args:
        kernels: (n, d) distinct raw kernels, see ``gather``.
        name: of the classifier.
        size: kernel size.
        models: the models that the kernels are of, to be remembered.
        device: torch device; by default the GPU if there is one.
        state_file: what an interrupted training resumes from.
        progress: gets the progress.
        how: fields of ``Clustering``.
    """
    chosen = Clustering(**how)
    method, scaling, seed, restarts = chosen.method, chosen.scaling, chosen.seed, chosen.restarts
    kernel_h, kernel_w = parse_size(size)
    threshold = default_threshold(kernel_h, kernel_w) if chosen.threshold is None else chosen.threshold
    facts: dict[str, Any] = {"seed": seed, "models": list(models), "kernels": len(kernels)}
    if method == "kmeans":
        scaling = scaling or ("minmax" if (kernel_h, kernel_w) == (3, 3) else "unit")
        centres = kmeans.train(kmeans.scaled(kernels, scaling), CLASSES if chosen.classes is None else chosen.classes, seed)
        weights, facts = {"centres": centres}, facts | {"restarts": kmeans.STARTS}
        shown = centred_unit(centres.astype(np.float64)).unit.astype(np.float32)
        codes = np.arange(len(centres), dtype=np.float64)
    else:
        import torch

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        wanted = int(np.clip(PRESENTATIONS // max(1, len(kernels)), *EPOCHS)) if chosen.epochs is None else chosen.epochs
        batch = int(np.clip(len(kernels) // BATCHES, *BATCH))
        settings = Settings(seed=seed, epochs=wanted, restarts=restarts, batch=batch)
        unit = centred_unit(kernels).unit.astype(np.float32, copy=False)

        def told(done: int, total: int, loss: float) -> None:
            if progress is not None:
                progress(f"training {restarts} autoencoders, best held-out loss {loss:.4f}", done, total)

        found = autoencoder.train(unit, settings, device=device, state_file=state_file, progress=told)
        weights = found.weights
        facts |= {
            "epochs": found.epochs, "epochs_asked": wanted, "restarts": restarts, "losses": found.losses,
            "held_out_loss": min(found.losses), "device": device,
        }  # fmt: skip
        codes = np.linspace(0, 1, CODES)  # all of them: a class that the curve runs through fast has few of the spectrum's 500
        shown = autoencoder.decode(weights, codes)
    stretches = labels.label(codes, shown, kernel_h, kernel_w, contiguous=method == "autoencoder")
    if method == "kmeans" and not shapes_at(kernel_h, kernel_w):  # no ideal shapes to name them by
        stretches = [replace(one, name=f"class_{number}") for number, one in enumerate(stretches)]
    return Classifier(name, method, kernel_h, kernel_w, threshold, stretches, weights, scaling or "unit", facts)


def default_name(method: str, size: str, seed: int) -> str:
    """What a classifier is called that was given no name.

    >>> default_name("autoencoder", "7x7", 0)
    'autoencoder-7x7-seed0'
    """
    return f"{method}-{size_name(*parse_size(size))}-seed{seed}"
