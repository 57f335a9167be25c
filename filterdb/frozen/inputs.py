"""Templates chosen by what a layer sees: not the closest weights are wanted but the closest outputs.

A depthwise kernel f answers a window w of its input with <f, w>. Over many windows with second moments M = E[w w'], putting h in
the place of f costs E(<f, w> - <h, w>)² = (f - h)' M (f - h). So a, b and the template are found as in ``search.nearest``,
with M in the place of the identity. Feature maps are smooth: M weighs coarse structure far more than fine, and the weights do
not. M is measured on a few hundred unlabelled images, in one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from filterdb.banks import Bank
from filterdb.errors import DataError
from filterdb.frozen import mixtures
from filterdb.kernels import centred_unit
from filterdb.store.schema import Layer

WINDOWS = 8192
"""Windows of each channel that are looked at, about, over all images: many times the taps of a kernel."""
RIDGE = 0.01
"""Of the mean variance of a tap, added to each: what the images did not show is not free to be anything."""
CHANNELS = 32
"""Channels unfolded at a time."""

Matcher = Callable[[Layer, NDArray[np.float32], Bank], dict[str, NDArray[Any]]]


@dataclass
class Windows:
    """Sums over the windows that the kernels of a layer saw, by input channel; float64 on the CPU."""

    total: Tensor
    """(c, taps)."""
    squares: Tensor
    """(c, taps, taps)."""
    count: int = 0

    @property
    def mean(self) -> Tensor:
        """(c, taps)."""
        return self.total / self.count

    def moments(self, *, centred: bool) -> Tensor:
        """(c, taps, taps): E[w w'], or of w less its mean, for where the mean of the output is mended anyway."""
        second = self.squares / self.count
        return second - self.mean[:, :, None] * self.mean[:, None, :] if centred else second


@torch.no_grad()
def observe(
    module: nn.Module, layers: Sequence[str], batches: Iterable[Tensor | tuple[Tensor, Any]], *, images: int, seed: int = 0
) -> dict[str, Windows]:
    """Run a network on images and sum over the windows of some of its depthwise layers.

    Args:
        module: the network, in eval mode.
        layers: names of its depthwise convolutions.
        batches: images as the network takes them.
        images: how many there are in all, so that each gives its share of ``WINDOWS``.
        seed: of the windows drawn where there are more.
    """
    found: dict[str, Windows] = {}
    rng = torch.Generator().manual_seed(seed)

    def see(name: str, conv: nn.Conv2d, x: Tensor) -> None:
        taps = conv.kernel_size[0] * conv.kernel_size[1]
        sums = found.setdefault(
            name, Windows(torch.zeros(x.shape[1], taps).double(), torch.zeros(x.shape[1], taps, taps).double())
        )  # fmt: skip
        padded = pad(conv, x)
        chosen: Tensor | None = None
        for first in range(0, x.shape[1], CHANNELS):
            part = slice(first, first + CHANNELS)
            unfolded = F.unfold(padded[:, part].float(), conv.kernel_size, conv.dilation, 0, conv.stride)
            unfolded = unfolded.view(len(x), -1, taps, unfolded.shape[2])
            places, most = unfolded.shape[3], max(1, -(-WINDOWS // images))
            if most < places:
                chosen = torch.randperm(places, generator=rng)[:most] if chosen is None else chosen
                unfolded = unfolded[..., chosen.to(unfolded.device)]
            windows = unfolded.permute(1, 2, 0, 3).flatten(2)
            sums.total[part] += windows.sum(2).double().cpu()
            sums.squares[part] += (windows @ windows.transpose(1, 2)).double().cpu()
        sums.count += windows.shape[2]

    with ExitStack() as stack:
        for name in layers:
            conv: Any = module.get_submodule(name)
            hook = conv.register_forward_pre_hook(lambda conv, inputs, name=name: see(name, conv, inputs[0]))
            stack.callback(hook.remove)
        for batch in batches:
            module(batch if isinstance(batch, Tensor) else batch[0])
    if missing := next((name for name in layers if name not in found), None):
        raise DataError(f"No image went through {missing}: the network does not use it, or no images were given.")
    return found


def pad(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The input (n, c, h, w) with the border that the convolution itself would add."""
    if "Same" in type(conv).__name__ or (conv.padding == "same" and max(conv.stride) > 1):  # timm's, by the input's size
        from timm.layers import pad_same

        return pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode)


def by_inputs(
    windows: Mapping[str, Windows], *, signed: bool = False, mix: float = 0.0, centred: bool = False, device: str = "cpu"
) -> Matcher:
    """A match by outputs, for ``filterdb.frozen.replace``.

    Args:
        windows: what each layer sees.
        signed: only positive gains.
        mix: kernels of whose output's energy one template keeps less become mixtures of two.
        centred: the means of the outputs are mended afterwards, and so do not count.
        device: where the products are made.
    """

    def match(layer: Layer, kernels: NDArray[np.float32], bank: Bank) -> dict[str, NDArray[Any]]:
        metric = windows[layer.name].moments(centred=centred).to(device)
        return closest(kernels, bank, metric, signed=signed, mix=mix)

    return match


def closest(
    kernels: NDArray[np.float32], bank: Bank, metric: Tensor, *, signed: bool = False, mix: float = 0.0
) -> dict[str, NDArray[Any]]:
    """For each kernel f the a, b and template g with the smallest (f - a g - b)' M (f - a g - b).

    Args:
        kernels: (n, taps).
        bank: the templates.
        metric: (c, taps, taps) second moments; n is a multiple of c, and c follows the order of the kernels.
        signed: only a > 0; where no template helps, a is 0.
        mix: kernels whose similarity² is less become a1 g1 + a2 g2 + b.

    Returns:
        Arrays (n,) as of ``nearest.match``: template, gain, offset, similarity (with its sign, of the outputs), dead; and with
        ``mix`` second and second_gain.
    """
    f = torch.from_numpy(kernels.astype(np.float64)).to(metric.device)
    g = torch.from_numpy(bank.templates.reshape(len(bank), -1).astype(np.float64)).to(metric.device)
    each = len(f) // len(metric)
    parts = []
    for first in range(0, len(metric), CHANNELS):
        m = _ridged(metric[first : first + CHANNELS]).repeat_interleave(each, 0)
        parts.append(_closest(f[first * each : first * each + len(m)], g, m, signed, mix))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    centred = centred_unit(kernels)
    dead = found["dead"] = centred.dead
    constant = {"template": -1, "gain": 0, "offset": centred.mean[dead], "similarity": np.nan, "second": -1, "second_gain": 0}
    for name, value in constant.items():
        if name in found:
            found[name][dead] = value
    return found


def _ridged(metric: Tensor) -> Tensor:
    """With a little of the identity; a channel that is always zero gets the identity alone, so the weights decide."""
    mean = metric.diagonal(dim1=1, dim2=2).mean(1)
    added = torch.where(mean > 0, RIDGE * mean, torch.ones_like(mean))
    return metric + added[:, None, None] * torch.eye(metric.shape[1], dtype=metric.dtype, device=metric.device)


def _closest(f: Tensor, g: Tensor, m: Tensor, signed: bool, mix: float) -> dict[str, NDArray[Any]]:
    """The answer for kernels (n, taps), each with its own metric (n, taps, taps)."""
    sums = m.sum(2)  # M 1
    whole = sums.sum(1)  # 1'M1
    # least squares in b first: M' = M - M1 1'M / 1'M1 is the metric of what b cannot mend
    centred = m - sums[:, :, None] * sums[:, None, :] / whole[:, None, None]
    seen = torch.einsum("nde,me->nmd", centred, g)
    inner = torch.einsum("nmd,nd->nm", seen, f)
    lengths = torch.einsum("nmd,md->nm", seen, g)
    own = torch.einsum("nde,nd,ne->n", centred, f, f)
    rho = inner / torch.sqrt((lengths * own[:, None]).clamp_min(1e-300))
    best = (rho if signed else rho.abs()).argmax(1, keepdim=True)
    gain = (inner / lengths).gather(1, best)[:, 0]
    if signed:
        gain = gain.clamp_min(0)
    similarity = rho.gather(1, best)[:, 0].clamp(-1, 1)
    found = {"template": best[:, 0], "gain": gain, "similarity": similarity}
    model = gain[:, None] * g[best[:, 0]]
    if mix:
        gram = torch.einsum("nmd,nd->nm", seen, g[best[:, 0]])
        arrays = (inner, lengths, gram, best[:, 0])
        other, gain, second_gain = map(torch.from_numpy, mixtures.second(*(array.cpu().numpy() for array in arrays)))
        two = (similarity**2 < mix).cpu()
        found["gain"] = torch.where(two, gain, found["gain"].cpu())
        found["second"] = torch.where(two, other, torch.full_like(other, -1))
        found["second_gain"] = torch.where(two, second_gain, torch.zeros_like(second_gain))
        model = (found["gain"][:, None] * g[best[:, 0]].cpu() + found["second_gain"][:, None] * g.cpu()[other]).to(f.device)
    found["offset"] = torch.einsum("nd,nd->n", sums, f - model) / whole
    arrays_of = {name: values.cpu().numpy() for name, values in found.items()}
    return {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in arrays_of.items()}
