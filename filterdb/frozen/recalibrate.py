"""Batch normalisation re-estimated on unlabelled images: its running mean and variance are what the changed network's layers see.

Each layer normalises with the statistics of the batch at hand while the images go through, as in training, and what it saw of all
images together is kept: the pooled mean and variance, not an average of batches. No parameter and no other state changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def recalibrate(module: nn.Module, batches: Iterable[Tensor | tuple[Tensor, Any]]) -> int:
    """Re-estimate the running statistics of all batch normalisations, in place.

    Args:
        module: the network, in eval mode or not; it is left in the mode it came in.
        batches: images as the network takes them, (n, c, h, w) each, alone or first in a tuple. Larger batches give better
            estimates, for each layer's input was normalised batch by batch.

    Returns:
        How many images went through.

    Raises:
        InvalidArgument: a network without batch normalisation: there is nothing to recalibrate.
        DataError: no images, or a batch of one image that leaves a layer one value a channel.
    """
    layers = norms(module)
    if not layers:
        raise InvalidArgument(
            f"{type(module).__name__} has no batch normalisation with running statistics, so there is nothing to recalibrate. "
            "Correct its gains and biases instead (correct)."
        )
    seen = {name: Moments() for name in layers}
    images = 0
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(by_the_batch(module))
        for name, one in layers.items():
            hook = one.register_forward_pre_hook(lambda layer, inputs, name=name: seen[name].add(inputs[0]))
            stack.callback(hook.remove)
        for batch in batches:
            x = batch if isinstance(batch, Tensor) else batch[0]
            try:
                module(x)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DataError("A batch of one image leaves a layer one value a channel. Take more images at a time.") from error
            images += len(x)
    if not images:
        raise DataError("No images were given to recalibrate on. Give some hundred.")
    with torch.no_grad():
        for name, one in layers.items():
            if seen[name].count:  # a layer that nothing went through keeps what it has
                mean, variance = seen[name].get()
                one.running_mean.copy_(mean)  # type: ignore[union-attr]
                one.running_var.copy_(variance)  # type: ignore[union-attr]
    return images
