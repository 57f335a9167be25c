"""Solves the pointwise layers behind replaced kernels again, to restore their original outputs as closely as possible.

A pointwise layer mixes the channels that a depthwise layer filtered. With z its inputs in the replaced network and t its outputs
in the original, on the same unlabelled images, the weights W' with the smallest E|W' z - t|² + ridge |W' - W|² solve one linear
system per layer, without gradients, labels or training. W' recovers the signal that one template lost from other channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from filterdb.frozen.recalibrate import by_the_batch, norms
from filterdb.sources.layers import from_module

RIDGE = 1.0
"""Of the mean variance of an input channel. With less the images at hand are fitted better and unseen ones worse: MCUNet-in3 with
the eight learned templates in its 7x7 layers has a top-1 of .476, .504, .518 and .514 at .1, .3, 1 and 3."""
POSITIONS = 16_384
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
    """For each depthwise layer, as they are run, the pointwise layer that mixes its channels: the first one after it that sees
    as many channels at as many positions. Layers without one (a depthwise branch at the end of a network) are left out.

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


def solve_pointwise(
    original: nn.Module, module: nn.Module, layers: Sequence[str], batches: Sequence[Tensor], *, ridge: float = RIDGE,
    seed: int = 0, progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:  # fmt: skip
    """Solve the pointwise layers behind depthwise layers again, in place. Batch normalisations are to be re-estimated after it.

    From the first replaced layer on, one after the other: each for the inputs it has once those before it are solved. Those
    behind layers that were not replaced are solved too, for they see what came of those that were.

    Args:
        original: the network before its kernels were replaced, in eval mode.
        module: the network after; weights (and biases, where there are any) of the layers that ``followers`` finds change.
        layers: the depthwise layers that were replaced.
        batches: images as the network takes them.
        ridge: the penalty on changes of the weights.
        seed: of the positions that are looked at.
        progress: called with the layers done and the total.

    Returns:
        The names of the pointwise layers.
    """
    there = [layer.name for layer in from_module(module)[0] if layer.replaceable]
    behind = followers(module, there, batches[0][:2])
    first = min(list(behind).index(name) for name in layers if name in behind) if set(layers) & set(behind) else len(behind)
    names = list(dict.fromkeys(list(behind.values())[first:]))
    normed = bool(norms(module))
    before = _rows(original, names, batches, seed)
    for number, name in enumerate(names):
        if progress is not None:
            progress(f"solving {name}", number, len(names))
        layer, old = (cast(Pointwise, network.get_submodule(name)) for network in (module, original))
        with by_the_batch(module):
            after = _rows(module, [name], batches, seed)[name]
        _solve(layer, _sums(old, before.pop(name), after), ridge, normed)
    return names


class _Enough(Exception):
    """The last layer was reached: what comes after it is not needed."""


@torch.no_grad()
def _rows(module: nn.Module, names: Sequence[str], batches: Sequence[Tensor], seed: int) -> dict[str, list[Tensor]]:
    """What pointwise layers see at some positions of each batch, (n, c); by the seed, so that two networks give the same ones."""
    images = sum(len(batch) for batch in batches)
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def see(name: str, layer: nn.Module, x: Tensor, batch: Tensor) -> None:
        flat = x.flatten(0, -2) if isinstance(layer, nn.Linear) else x.permute(0, 2, 3, 1).flatten(0, 2)
        rng = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(flat), generator=rng)[: math.ceil(POSITIONS * len(batch) / images)]
        found[name].append(flat[chosen.to(flat.device)].float())
        if len(names) == 1:
            raise _Enough

    for batch in batches:
        with ExitStack() as stack:
            for name in names:
                layer = module.get_submodule(name)
                hook = layer.register_forward_pre_hook(lambda one, i, name=name, x=batch: see(name, one, i[0], x))
                stack.callback(hook.remove)
            with suppress(_Enough):
                module(batch)
    return found


@torch.no_grad()
def _sums(old: Pointwise, before: Sequence[Tensor], after: Sequence[Tensor]) -> _Sums:
    """Moments of what a layer sees now, and of what it made, with its old weights, of what it saw before."""
    o, c = old.weight.flatten(1).shape
    wide = before[0].new_zeros(0, dtype=torch.float64)
    sums = _Sums(0, wide.new_zeros(c), wide.new_zeros(o), wide.new_zeros(c, c), wide.new_zeros(o, c))
    for x, z in zip(before, after, strict=True):
        sums.add(z, F.linear(x, old.weight.flatten(1).float(), None if old.bias is None else old.bias.float()))
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
