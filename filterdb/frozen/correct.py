"""Corrects gains and biases to restore the mean and variance of each channel, in networks without batch normalisation.

Networks with batch normalisation re-estimate its statistics instead (``recalibrate``).

The closest a·g + b has a smaller norm than the original kernel. The output of a replaced layer is therefore weaker. A layer norm,
which mixes the channels, does not correct this. During a pass over the images, each layer's output is scaled to the original mean
and variance, as input of the next layer. The factors are then folded into the weights and biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from filterdb.frozen.recalibrate import Moments

LARGEST = 5.0
"""Maximum gain, for channels with almost no output."""

Statistics = dict[str, tuple[Tensor, Tensor]]
"""By layer, mean and variance of its channels, (c,) each."""


@torch.no_grad()
def correct(original: nn.Module, module: nn.Module, names: Sequence[str], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Set gains and biases of layers, in place.

    Args:
        original: the network as it was, in eval mode.
        module: the network that was changed.
        names: convolutions and linear layers. Without a bias a layer's mean stays as it is.
        batches: images as the network takes them.

    Returns:
        By layer, what its kernels were multiplied by, (c,).
    """
    wanted = {name: Moments() for name in names}
    there = {name: Moments() for name in names}
    for batch in batches:
        # batch by batch the outputs of the one are brought to those of the other: what was not changed is not corrected
        now = _watched(original, names, batch, wanted, None)
        _watched(module, names, batch, there, now)
    gains = {}
    for name in names:
        layer: Any = module.get_submodule(name)
        (mean, variance), (old_mean, old_variance) = there[name].get(), wanted[name].get()
        gain = gains[name] = _gain(old_variance, variance).to(layer.weight)
        layer.weight.mul_(gain.view(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            layer.bias.copy_(old_mean.to(gain) + (layer.bias - mean.to(gain)) * gain)
    return gains


def _gain(wanted: Tensor, there: Tensor) -> Tensor:
    return (wanted / there.clamp_min(1e-30)).sqrt().clamp(max=LARGEST)


def _watched(
    module: nn.Module, names: Sequence[str], batch: Tensor, sums: dict[str, Moments], wanted: Statistics | None
) -> Statistics:  # fmt: skip
    """Mean and variance of layers' outputs for a batch, added to sums too; with ``wanted``, each goes on as if it had these."""
    seen: Statistics = {}

    def see(name: str, layer: nn.Module, output: Tensor) -> Tensor | None:
        axis = output.ndim - 1 if isinstance(layer, nn.Linear) else 1
        channels = output.movedim(axis, 1)
        sums[name].add(channels)
        now = Moments()
        now.add(channels)
        mean, variance = seen[name] = now.get()
        if wanted is None:
            return None
        old_mean, old_variance = wanted[name]
        gain = _gain(old_variance, variance)
        shift = old_mean - mean * gain if layer.bias is not None else torch.zeros_like(mean)
        shape = [-1 if one == axis else 1 for one in range(output.ndim)]
        return output * gain.to(output).view(shape) + shift.to(output).view(shape)

    with ExitStack() as stack:
        for name in names:
            hook = module.get_submodule(name).register_forward_hook(lambda layer, i, output, name=name: see(name, layer, output))
            stack.callback(hook.remove)
        module(batch)
    return seen
