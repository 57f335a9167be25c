"""A candidate for the backward pass of the frozen layer: one Triton kernel, one pass over the gradient g of the output.

With T(g, k) the transposed convolution of g with k, and 1 the kernel of ones,

    dx = gain T(g, t) + offset T(g, 1),   d offset = <x, T(g, 1)>,   d gain = <x, T(g, t)>,   d bias = <1, g>,

so that two running sums for each place of the input give everything. Only stride 1, no dilation, and one output for each channel.
The product uses it nowhere. ``speed`` says whether it beats the autograd function by ``WORTH``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from filterdb.frozen.autograd import effective

WORTH = 1.3
TILES = {
    "contiguous": ((1024, 1, 4), (256, 4, 4), (64, 16, 4)),
    "channels_last": ((16, 64, 4), (32, 32, 4), (64, 32, 8)),
}
"""Places of an image, channels and warps of one program, to be tried."""


@triton.jit
def kernel(
    x, g, dx, template, gain, offset, sums, height, width, out_height, out_width, channels, pad_y, pad_x,
    x_n, x_c, x_h, x_w, g_n, g_c, g_h, g_w, TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx of one tile of one image, and the tile's part of the three sums."""
    image = tl.program_id(2).to(tl.int64)
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row = place // width
    column = place % width
    known = channel < channels
    inside = (place < height * width)[:, None] & known[None, :]
    with_template = tl.zeros((PLACES, CHANNELS), tl.float32)
    with_ones = tl.zeros((PLACES, CHANNELS), tl.float32)
    for i in range(TAPS_Y):
        y = row + pad_y - i
        for j in tl.static_range(TAPS_X):
            z = column + pad_x - j
            there = (y >= 0) & (y < out_height) & (z >= 0) & (z < out_width)
            at = g + image * g_n + (y * g_h + z * g_w)[:, None] + (channel * g_c)[None, :]
            value = tl.load(at, mask=inside & there[:, None], other=0.0).to(tl.float32)
            tap = tl.load(template + (channel * TAPS_Y + i) * TAPS_X + j, mask=known, other=0.0)
            with_template += value * tap[None, :]
            with_ones += value
    a = tl.load(gain + channel, mask=known, other=0.0)
    b = tl.load(offset + channel, mask=known, other=0.0)
    where = image * x_n + (row * x_h + column * x_w)[:, None] + (channel * x_c)[None, :]
    tl.store(dx + where, (a[None, :] * with_template + b[None, :] * with_ones).to(dx.dtype.element_ty), mask=inside)
    given = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    # each place of g once, for the bias; g is as large as x or smaller by the padding
    own = (row < out_height) & (column < out_width)
    at = g + image * g_n + (row * g_h + column * g_w)[:, None] + (channel * g_c)[None, :]
    centre = tl.load(at, mask=inside & own[:, None], other=0.0).to(tl.float32)
    part = (image * tl.num_programs(0) + tl.program_id(0)) * 3 * channels + channel
    tl.store(sums + part, tl.sum(given * with_ones, 0), mask=known)
    tl.store(sums + part + channels, tl.sum(given * with_template, 0), mask=known)
    tl.store(sums + part + 2 * channels, tl.sum(centre, 0), mask=known)


def backward(
    x: Tensor, g: Tensor, template: Tensor, gain: Tensor | None, offset: Tensor, padding: tuple[int, int],
    tile: tuple[int, int, int] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, offset, gain and bias of conv2d(x, gain * template + offset, bias), (C,) each but the first.

    Args:
        x: (N, C, H, W).
        g: (N, C, H', W'), no larger than x.
        template: (C, 1, kh, kw).
        gain, offset: (C, 1, 1, 1).
        padding: rows and columns of zeros on either side.
        tile: one of ``TILES``.
    """
    n, channels, height, width = x.shape
    if g.shape[2] > height or g.shape[3] > width:
        raise ValueError("an output larger than the input")
    last = x.is_contiguous(memory_format=torch.channels_last) and channels > 1
    places, block, warps = tile or TILES["channels_last" if last else "contiguous"][0]
    tiles = triton.cdiv(height * width, places)
    dx = torch.empty_like(x)
    sums = x.new_empty((n * tiles, 3, channels), dtype=torch.float32)
    gains = torch.ones_like(offset) if gain is None else gain
    numbers = [one.float().flatten().contiguous() for one in (template, gains, offset)]
    kernel[(tiles, triton.cdiv(channels, block), n)](
        x, g, dx, *numbers, sums, height, width, g.shape[2], g.shape[3], channels, *padding, *x.stride(), *g.stride(),
        template.shape[2], template.shape[3], places, block, num_warps=warps,
    )  # fmt: skip
    for_offset, for_gain, for_bias = sums.sum(0)
    return dx, for_offset, for_gain, for_bias


class TritonConvolution(torch.autograd.Function):
    """As FrozenConvolution, with the kernel above in backward, in the geometries that it knows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, template: Tensor, gain: Tensor | None, offset: Tensor, bias: Tensor, padding: tuple[int, int],
        tile: tuple[int, int, int] | None = None,
    ) -> Tensor:  # fmt: skip
        """(N, C, H, W) to (N, C, H', W')."""
        ctx.save_for_backward(x, template, gain, offset)
        ctx.padding, ctx.tile = padding, tile
        return F.conv2d(x, effective(template, gain, offset), bias, 1, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x, gain, offset and bias."""
        x, template, gain, offset = ctx.saved_tensors
        dx, for_offset, for_gain, for_bias = backward(x, g, template, gain, offset, ctx.padding, ctx.tile)
        own = None if gain is None else for_gain.view_as(gain).to(gain.dtype)
        return dx, None, own, for_offset.view_as(offset).to(offset.dtype), for_bias.to(offset.dtype), None, None
