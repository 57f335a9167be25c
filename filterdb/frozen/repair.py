"""The pointwise layers behind replaced kernels, solved again so that they give what they gave before, as nearly as can be.

A pointwise layer mixes the channels that a depthwise layer filtered. With z its inputs in the replaced network and t its outputs
in the original, on the same unlabelled images, the weights W' with the smallest E|W' z - t|² + ridge |W' - W|² are one linear
system a layer: no gradient, no labels, no training. What one template lost, others of the same layer have, and W' fetches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from filterdb.frozen.recalibrate import by_the_batch, norms, recalibrate

RIDGE = 0.1
"""Of the mean variance of an input channel. Less of it fits the images at hand, and unseen ones worse."""
POSITIONS = 32_768
"""Positions (of all images together) at which a layer is looked at, about."""

Pointwise = nn.Linear | nn.Conv2d


@dataclass
class _Sums:
    """Moments of inputs z (n, c) and targets t (n, o): products of a batch in float32, their sums in float64."""

    count: int
    z: Tensor
    t: Tensor
    zz: Tensor
    tz: Tensor

    def add(self, z: Tensor, t: Tensor) -> None:
        """Take in rows."""
        self.count += len(z)
        self.z += z.sum(0)
        self.t += t.sum(0)
        self.zz += z.T @ z
        self.tz += t.T @ z


def followers(module: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, str]:
    """For each depthwise layer the pointwise layer that mixes its channels: the first one after it that sees as many channels at
    as many positions. Layers without one (a depthwise branch at the end of a network) are left out.

    Args:
        module: the network, in eval mode.
        layers: names of depthwise layers.
        x: a small batch of images.
    """
    order: list[tuple[str, tuple[int, int] | None]] = []
    wanted = set(layers)

    def see(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if name in wanted:
            order.append((name, (output.shape[1], output.numel() // output.shape[1])))
        elif isinstance(layer, nn.Linear):
            order.append((name, (layer.in_features, inputs[0].numel() // layer.in_features)))
        elif isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.stride, layer.groups) == ((1, 1), (1, 1), 1):
            order.append((name, (layer.in_channels, inputs[0].numel() // layer.in_channels)))

    with ExitStack() as stack, torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                hook = layer.register_forward_hook(lambda layer, i, o, name=name: see(name, layer, i, o))
                stack.callback(hook.remove)
        module(x)
    found: dict[str, str] = {}
    for place, (name, shape) in enumerate(order):
        if name in wanted:
            behind = (other for other, seen in order[place + 1 :] if other not in wanted and seen == shape)
            if (first := next(behind, None)) is not None:
                found[name] = first
    return found


def repair(
    original: nn.Module, module: nn.Module, layers: Sequence[str], batches: Sequence[Tensor], *, ridge: float = RIDGE,
    seed: int = 0, progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:  # fmt: skip
    """Solve the pointwise layers behind replaced depthwise layers again, in place, and re-estimate batch normalisations.

    One layer after the other: each for the inputs it has once those before it are solved.

    Args:
        original: the network before its kernels were replaced, in eval mode.
        module: the network after; weights (and biases, where there are any) of the layers that ``followers`` finds change.
        layers: the depthwise layers that were replaced.
        batches: images as the network takes them.
        ridge: how dear it is to leave the old weights.
        seed: of the positions that are looked at.
        progress: told layers done and in all.

    Returns:
        The names of the pointwise layers.
    """
    names = list(dict.fromkeys(followers(module, layers, batches[0][:2]).values()))
    normed = bool(norms(module))
    for number, name in enumerate(names):
        if progress is not None:
            progress(f"solving {name}", number, len(names))
        _solve(cast(Pointwise, module.get_submodule(name)), _observe(original, module, name, batches, seed), ridge, normed)
    if normed:
        recalibrate(module, batches)
    return names


class _Enough(Exception):
    """The layer was reached: what comes after it is not needed."""


@torch.no_grad()
def _observe(original: nn.Module, module: nn.Module, name: str, batches: Sequence[Tensor], seed: int) -> _Sums:
    """A layer's inputs in the one network against its outputs in the other, at the same positions of the same images."""
    images = sum(len(batch) for batch in batches)
    rng = torch.Generator().manual_seed(seed)
    held: list[Tensor] = []
    sums: _Sums | None = None

    def keep(x: Tensor) -> None:
        held.append(x)
        raise _Enough

    one, other = original.get_submodule(name), module.get_submodule(name)
    with ExitStack() as stack:
        stack.callback(one.register_forward_hook(lambda layer, i, output: keep(output)).remove)
        stack.callback(other.register_forward_pre_hook(lambda layer, i: keep(i[0])).remove)
        stack.enter_context(by_the_batch(module))
        for batch in batches:
            held.clear()
            for network in (original, module):
                with suppress(_Enough):
                    network(batch)
            t, z = (x.flatten(0, -2) if isinstance(one, nn.Linear) else x.permute(0, 2, 3, 1).flatten(0, 2) for x in held)
            chosen = torch.randperm(len(z), generator=rng)[: math.ceil(POSITIONS * len(batch) / images)].to(z.device)
            z, t = z[chosen].float(), t[chosen].float()
            if sums is None:
                wide = z.new_zeros(0, dtype=torch.float64)
                c, o = z.shape[1], t.shape[1]
                sums = _Sums(0, wide.new_zeros(c), wide.new_zeros(o), wide.new_zeros(c, c), wide.new_zeros(o, c))
            sums.add(z, t)
    assert sums is not None
    return sums


@torch.no_grad()
def _solve(layer: Pointwise, sums: _Sums, ridge: float, normed: bool) -> None:
    """The weights, and the bias where there is one, that fit best."""
    old = layer.weight.flatten(1).to(sums.zz)
    z, t = sums.z / sums.count, sums.t / sums.count
    zz, tz = sums.zz / sums.count, sums.tz / sums.count
    if layer.bias is not None or normed:  # the mean of the output is mended by the bias or by the normalisation
        zz, tz = zz - z[:, None] * z[None], tz - t[:, None] * z[None]
    dear = (ridge * zz.diagonal().mean()).clamp_min(1e-30)
    new = torch.linalg.solve(zz + dear * torch.eye(len(zz), dtype=zz.dtype, device=zz.device), (tz + dear * old).T).T
    if not bool(new.isfinite().all()):  # nothing but zeros came in
        return
    layer.weight.copy_(new.view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(t - new @ z)
