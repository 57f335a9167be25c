"""Batch normalisation recalibrated on unlabelled images: its statistics follow what the layers of the changed network see.

Each layer normalises with the statistics of the batch at hand while the images go through, as in training. Means and variances
are pooled over all images, no average of batches. No parameter and no other state changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filterdb.errors import DataError, InvalidArgument


@dataclass
class Moments:
    """Mean and variance of the channels of many batches, in float64 and about the first batch's mean, where sums lose nothing."""

    count: int = 0
    about: Tensor | float = 0.0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Take in (n, c, ...)."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x.detach().float(), axes, correction=0)
        variance, mean, n = variance.double(), mean.double(), x.numel() // x.shape[1]
        if self.count == 0:
            self.about = mean
        self.count += n
        self.total += n * (mean - self.about)
        self.squares += n * (variance + (mean - self.about) ** 2)

    def get(self) -> tuple[Any, Any]:
        """Mean and variance, (c,) each; the variance divided by n - 1, as torch keeps it."""
        shift = self.total / self.count
        return self.about + shift, (self.squares - self.count * shift**2) / max(1, self.count - 1)


def norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """The layers with running statistics to re-estimate."""
    found = module.named_modules()
    return {name: one for name, one in found if isinstance(one, _BatchNorm) and one.running_mean is not None}


@contextmanager
def by_the_batch(module: nn.Module) -> Iterator[None]:
    """A network in eval mode but for its batch normalisations, which use the statistics of the batch and keep their own."""
    modes = {one: one.training for one in module.modules()}
    state = [
        (one, one.momentum, None if one.num_batches_tracked is None else one.num_batches_tracked.clone())
        for one in norms(module).values()
    ]
    module.eval()
    for one, *_ in state:
        one.training, one.momentum = True, 0.0
    try:
        yield
    finally:
        for one, momentum, batches in state:
            one.momentum = momentum
            if one.num_batches_tracked is not None and batches is not None:
                one.num_batches_tracked.copy_(batches)
        for module, mode in modes.items():
            module.training = mode


def recalibrate(
    module: nn.Module, batches: Sequence[Tensor | tuple[Tensor, Any]], original: nn.Module | None = None
) -> int:  # fmt: skip
    """Bring the running statistics of all batch normalisations to what their layers see now, in place.

    With the original network, they move by the difference that the change made: means by the difference of the two networks'
    means on the same images, variances by their ratio. What did not change keeps every bit. Without it, they are estimated anew
    from these images alone, which costs accuracy where little has changed.

    Args:
        module: the network, in eval mode or not; it is left in the mode it came in.
        batches: images as the network takes them, (n, c, h, w) each, alone or first in a tuple. Larger batches give better
            estimates, for each layer's input was normalised batch by batch.
        original: the network before it was changed, with the same layers.

    Returns:
        How many images went through.

    Raises:
        InvalidArgument: a network without batch normalisation: there is nothing to recalibrate.
        DataError: no images, or a batch of one image that leaves a layer one value a channel.
    """
    if not norms(module):
        raise InvalidArgument(
            f"{type(module).__name__} has no batch normalisation with running statistics, so there is nothing to recalibrate. "
            "Correct its gains and biases instead (correct)."
        )
    images = sum(len(batch if isinstance(batch, Tensor) else batch[0]) for batch in batches)
    if not images:
        raise DataError("No images were given to recalibrate on. Give some hundred.")
    seen = _seen(module, batches)
    before = _seen(original, batches) if original is not None else {}
    with torch.no_grad():
        for name, one in norms(module).items():
            if not seen[name].count:  # a layer that nothing went through keeps what it has
                continue
            mean, variance = seen[name].get()
            if original is not None:
                old_mean, old_variance = before[name].get()
                there: Any = original.get_submodule(name)
                # a channel that gave nothing before has no ratio; its normalisation stays
                ratio = torch.where(old_variance > 0, variance / old_variance.clamp_min(1e-30), torch.ones_like(variance))
                mean, variance = there.running_mean + (mean - old_mean), there.running_var * ratio
            one.running_mean.copy_(mean)  # type: ignore[union-attr]
            one.running_var.copy_(variance)  # type: ignore[union-attr]
    return images


@torch.no_grad()
def _seen(module: nn.Module, batches: Iterable[Tensor | tuple[Tensor, Any]]) -> dict[str, Moments]:
    """Mean and variance of the inputs of each batch normalisation, each batch normalised by its own statistics."""
    layers = norms(module)
    seen = {name: Moments() for name in layers}
    with ExitStack() as stack:
        stack.enter_context(by_the_batch(module))
        for name, one in layers.items():
            hook = one.register_forward_pre_hook(lambda layer, inputs, name=name: seen[name].add(inputs[0]))
            stack.callback(hook.remove)
        for batch in batches:
            try:
                module(batch if isinstance(batch, Tensor) else batch[0])
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DataError("A batch of one image leaves a layer one value a channel. Take more images at a time.") from error
    return seen
