"""Controls: the same pipeline on kernels without structure.

If the autoencoder imposed the shapes, it would also find them in noise. As a control it is trained, with the same settings and as
many kernels, on Gaussian noise, on real kernels with shuffled taps, and on the kernels of an untrained network. The classifier
trained on real kernels classifies each of these sets too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filterdb.clusters import make
from filterdb.clusters.classifier import Classifier
from filterdb.errors import InvalidArgument
from filterdb.kernels import centred_unit, shapes
from filterdb.kernels.sizes import Pair

UNTRAINED: dict[Pair, str] = {
    (7, 7): "convnext_atto", (5, 5): "efficientnet_b0", (3, 3): "mobilenetv2_100", (9, 9): "convmixer_1536_20"
}  # fmt: skip
"""timm architectures with many kernels of a size, to be built with random weights."""
MOST = 20_000
"""Kernels of each control at most; the real kernels beside them are as many, drawn at random."""


@dataclass(frozen=True)
class Control:
    """The results for one kind of kernels. Shares are of all kernels, from 0 to 1."""

    kernels: str
    """What they are: "trained", "gaussian noise", "shuffled taps", "untrained ARCHITECTURE"."""
    count: int
    clustered: float
    """Share that is clustered by a classifier trained on these very kernels."""
    clustered_by_trained: float
    """Share that is clustered by the classifier trained on real kernels."""
    ideal: float
    """Share that is as near to an ideal kernel of ``filterdb.kernels.shapes``: no training at all."""
    classes: int
    """Shapes that the classifier trained on these kernels has in its spectrum."""


def controls(
    classifier: Classifier,
    kernels: NDArray[np.float32],
    *,
    untrained: str | None = None,
    progress: make.Progress | None = None,
) -> Iterator[Control]:
    """Run the controls of a classifier, one after another.

    Args:
        classifier: trained on real kernels; its method, seed and settings are used again.
        kernels: (n, d) real kernels it was trained on, raw.
        untrained: timm architecture to build with random weights; default: one with many kernels of the size.
        progress: gets the progress of each training.

    Raises:
        InvalidArgument: no architecture is known for the kernel size, or it has too few kernels.
    """
    rng = np.random.default_rng(classifier.facts.get("seed", 0))
    if len(kernels) > MOST:
        kernels = kernels[np.sort(rng.choice(len(kernels), MOST, replace=False))]
    architecture = untrained or UNTRAINED.get((classifier.kernel_h, classifier.kernel_w))
    drawn: dict[str, Callable[[], NDArray[np.float32]]] = {
        "trained": lambda: kernels,
        "gaussian noise": lambda: rng.standard_normal(kernels.shape, np.float32),
        "shuffled taps": lambda: rng.permuted(kernels, axis=1),
    }
    if architecture is not None:
        drawn[f"untrained {architecture}"] = lambda: untrained_kernels(
            architecture, classifier.kernel_h, classifier.kernel_w, len(kernels), seed=classifier.facts.get("seed", 0)
        )
    for name, draw in drawn.items():
        sample = draw()

        def told(what: str, done: int, total: int, name: str = name) -> None:
            if progress is not None:
                progress(f"{name}: {what}", done, total)

        own = classifier if name == "trained" else retrain(classifier, sample, progress=told)
        unit = centred_unit(sample).unit.astype(np.float32, copy=False)
        fits = shapes.fit(unit, classifier.kernel_h, classifier.kernel_w)[1]
        yield Control(
            name, len(sample), own.share_clustered(sample), classifier.share_clustered(sample),
            float((1 - fits.max(axis=1, initial=0) < classifier.threshold).mean()), len(own.classes) - 1,
        )  # fmt: skip


def retrain(
    classifier: Classifier, kernels: NDArray[np.float32], *, seed: int | None = None, progress: make.Progress | None = None
) -> Classifier:
    """The same method and settings on other kernels, or from another seed."""
    facts = classifier.facts
    by_kmeans = classifier.method == "kmeans"
    return make.train(
        kernels, name=classifier.name, size=classifier.size, method=classifier.method,
        scaling=classifier.scaling if by_kmeans else None, classes=len(classifier.weights["centres"]) if by_kmeans else None,
        seed=facts.get("seed", 0) if seed is None else seed, epochs=None if by_kmeans else facts.get("epochs_asked"),
        restarts=facts.get("restarts", 1), threshold=classifier.threshold, device=facts.get("device"), progress=progress,
    )  # fmt: skip


def untrained_kernels(architecture: str, kernel_h: int, kernel_w: int, count: int, seed: int) -> NDArray[np.float32]:
    """(count, d) depthwise kernels of a timm architecture as it is before training, built as often as needed."""
    import timm
    import torch

    from filterdb.sources import network

    layers = [one for one in network.build(architecture, {}).layers if (one.kernel_h, one.kernel_w) == (kernel_h, kernel_w)]
    if not layers:
        raise InvalidArgument(
            f"The architecture {architecture} has no {kernel_h}x{kernel_w} depthwise kernels. Name another one."
        )
    found: list[NDArray[np.float32]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        while sum(map(len, found)) < count:
            model = timm.create_model(architecture, pretrained=False)
            modules = dict(model.named_modules())
            found += [modules[one.name].weight.detach().numpy().reshape(-1, kernel_h * kernel_w) for one in layers]
    return np.concatenate(found)[:count]
