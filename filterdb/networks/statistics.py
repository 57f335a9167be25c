"""Whether a network sees what it was trained on: its batch norms' running statistics against those of their inputs.

Weights can fit an architecture that is not theirs, when a shortcut, an activation or a stride differs, for none of these has a
weight. But then the layers see other activations than in training, and each batch norm remembers those.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filterdb.networks.network import Network, unwrapped

ENOUGH, LEAST = 64, 8
"""Images that are looked at, and the least of them that tell anything."""
WINDOW = 3
THRESHOLD = 0.15
"""Of ``distance``. Right networks on images of their kind are below .1 (8 images) or .04 (32 and more). Wrong ones that lost
their accuracy are above .2, but for one of 0.1; see ``python -m filterdb.experiments.wiring``."""

CHANGED = "replaced"
"""The modes of networks whose kernels were changed behind the back of their batch norms."""
MENDED = ("recalibrated", "repaired", "trained")


class Watch:
    """Adds up what the batch norms of a network see of the first images: a context around the runs.

    It watches nothing where there is nothing to say: no batch norms, untrained ones, or kernels that were replaced since.
    """

    def __init__(self, network: Network):
        mode = str(network.metadata.get("mode") or "")
        changed = mode.startswith(CHANGED) and not any(word in mode for word in MENDED)
        self.norms = {} if changed else {name: one for name, one in unwrapped(network.module).named_modules() if _trained(one)}
        self.images = 0
        self._seen: dict[str, tuple[int, Tensor, Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Watch:
        self._hooks = [one.register_forward_pre_hook(self._add(name)) for name, one in self.norms.items()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.stop()

    def add(self, images: int) -> None:
        """Count images that were run; after enough of them, nothing is watched any more."""
        self.images += images
        if self.images >= ENOUGH:
            self.stop()

    def stop(self) -> None:
        """Take the hooks off."""
        while self._hooks:
            self._hooks.pop().remove()

    def _add(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().float().transpose(0, 1).flatten(1)
            count, total, squares = self._seen.get(name, (0, torch.zeros(()), torch.zeros(())))
            # sums in float64 lose nothing to batches; within a batch, squares are about the mean
            mean = x.mean(1).double()
            spread = x.var(1, correction=0).double()
            n = x.shape[1]
            self._seen[name] = (
                count + n, total.to(mean) + n * mean, squares.to(mean) + n * (spread + mean**2)
            )  # fmt: skip

        return hook

    def distance(self) -> float | None:
        """How far the inputs are from what the batch norms remember; None where that cannot be said.

        For each channel this is KL(seen || remembered) of two normal distributions, (r - 1 - ln r + d²) / 2, with r the ratio of
        their variances and d the difference of their means in remembered standard deviations. The value of a layer is the median
        of its channels. Of any three layers that follow each other the median is taken, and of these the largest: single layers
        vary, while what is wired wrongly shows in all layers behind it.
        """
        if self.images < LEAST or not self._seen:
            return None
        layers = [_divergence(self.norms[name], *seen) for name, seen in self._seen.items()]
        width = min(WINDOW, len(layers))
        windows = torch.tensor(layers, dtype=torch.float64).unfold(0, width, 1)
        return float(windows.median(1).values.max())

    def warning(self) -> str | None:
        """One line where the distance is too large."""
        found = self.distance()
        if found is None or found <= THRESHOLD:
            return None
        return (
            f"warning: the batch norms see other inputs than in training (distance {found:.2g}, usually below {THRESHOLD:g}). "
            "The architecture (shortcuts, activations, strides), the preprocessing or the kind of images is not that of training."
        )


def check(network: Network, batches: Sequence[Tensor]) -> str | None:
    """Run a network on prepared images where they lie, and say in one line whether its batch norms see what they remember."""
    watch = Watch(network)
    if not watch.norms:
        return None
    with watch, torch.inference_mode():
        for x in batches:
            if watch.images < ENOUGH:
                network.module(x)
                watch.add(len(x))
    return watch.warning()


def _trained(module: nn.Module) -> bool:
    """Whether it is a batch norm with statistics that are not those it began with."""
    if not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
        return False
    return bool((module.running_mean != 0).any()) or bool((module.running_var != 1).any())


def _divergence(module: nn.Module, count: int, total: Tensor, squares: Tensor) -> float:
    norm: Any = module
    mean = total / count
    variance = (squares / count - mean**2).clamp(min=0)
    known = norm.running_var.to(mean).clamp(min=0) + norm.eps
    ratio = (variance + norm.eps) / known
    kl = (ratio - 1 - ratio.log() + (mean - norm.running_mean.to(mean)) ** 2 / known) / 2
    # what overflows is as far off as can be
    return float(kl.nan_to_num(nan=float("inf")).quantile(0.5))
