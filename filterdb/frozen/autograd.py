"""Depthwise convolution with kernels ``gain * template + offset``, where the templates are never trained.

The gradient of the taps is by far the most expensive part of training a depthwise layer. It is not computed. Two inner products
per channel remain. With box(x) the sum of the input under the kernel's window and g the gradient of the output,

    conv(x, a t + b) = a conv(x, t) + b box(x),   dL/db = <box(x), g>,   dL/da = <conv(x, t), g>,

so that forward is one convolution, and backward one for the input's gradient and one for each kind of number that is trained.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]

CPU_PART, DEVICE_PART = 3 * 2**20, 64 * 2**20
"""Bytes of input whose responses are held at a time in backward: on a CPU what its cache holds, elsewhere what is little."""


def effective(template: Tensor, gain: Tensor | None, offset: Tensor) -> Tensor:
    """(C, 1, kh, kw) kernels from templates (C, 1, kh, kw) and (C, 1, 1, 1) numbers."""
    return (template if gain is None else gain * template) + offset


class FrozenConvolution(torch.autograd.Function):
    """conv2d(x, gain * template + offset, bias) with a gradient for all but the template; twice differentiable, also by vmap."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, template: Tensor, gain: Tensor | None, offset: Tensor, bias: Tensor | None, stride: Pair, padding: Pair,
        dilation: Pair, groups: int,
    ) -> Tensor:  # fmt: skip
        """(N, C_in, H, W) to (N, C, H', W'); C is a multiple of C_in."""
        return F.conv2d(x, effective(template, gain, offset), bias, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what backward needs: the input only where gain or offset are trained."""
        x, template, gain, offset, bias, *ctx.geometry = inputs
        ctx.size, ctx.bias_dtype = x.shape, None if bias is None else bias.dtype
        ctx.save_for_backward(x if ctx.needs_input_grad[2] or ctx.needs_input_grad[3] else None, template, gain, offset)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, gain, offset and bias, as far as they are wanted."""
        x, template, gain, offset = ctx.saved_tensors
        for_x, _, for_gain, for_offset, for_bias, *_ = ctx.needs_input_grad
        grads: list[Tensor | None] = [None] * 9
        with torch.autocast(g.device.type, enabled=False):
            total = None
            if for_gain:
                products, total = inner_products(x, template.to(g.dtype), g, *ctx.geometry)
                grads[2] = products.to(gain.dtype).view(-1, 1, 1, 1)
            if for_offset:
                products, total = box_products(x, template.shape[2:], g, *ctx.geometry)
                grads[3] = products.to(offset.dtype).view(-1, 1, 1, 1)
            if for_bias:
                grads[4] = g.sum((0, 2, 3), dtype=ctx.bias_dtype) if total is None else total.to(ctx.bias_dtype)
            if for_x:  # last, so that it is still in the cache for the layer before
                kernels = effective(template, gain, offset).to(g.dtype)
                grads[0] = input_gradient(g, kernels, ctx.size, *ctx.geometry)
        return tuple(grads)


# apply() asks for the signature at each call, and working it out anew takes longer than the smallest convolutions
FrozenConvolution.forward.__signature__ = inspect.signature(FrozenConvolution.forward)  # type: ignore[attr-defined]


def input_gradient(
    g: Tensor, kernels: Tensor, size: torch.Size, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The transposed convolution of g, to a tensor of that size."""
    reach = [d * (k - 1) for d, k in zip(dilation, kernels.shape[2:], strict=True)]
    mirrored = [r - p for r, p in zip(reach, padding, strict=True)]
    # at stride 1 it is a convolution with the turned kernel, which is the faster of the two
    if stride == (1, 1) and len(kernels) == groups and min(mirrored) >= 0:
        return F.conv2d(g, kernels.flip(2, 3), None, 1, mirrored, dilation, groups)
    # rows and columns at the end that the stride did not reach
    missing = [size[i + 2] - ((g.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in range(2)]
    return F.conv_transpose2d(g, kernels, None, stride, padding, missing, groups, dilation)


def inner_products(
    x: Tensor, kernels: Tensor, g: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Tensor, Tensor]:
    """<conv(x, kernels), g> and <1, g> for each channel of g, over batch and plane: (C,) each, in float32 or better.

    Args:
        x: (N, C_in, H, W).
        kernels: (C, 1, kh, kw), or (C_in, 1, kh, kw) where all channels of g that see one input share a kernel.
        g: (N, C, H', W').
    """

    def both(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        responses = F.conv2d(x, kernels, None, stride, padding, dilation, groups)
        if len(kernels) < g.shape[1]:
            responses = responses.repeat_interleave(g.shape[1] // groups, 1)
        return _sums(responses, g)

    limit = CPU_PART if x.device.type == "cpu" else DEVICE_PART
    parts = x.element_size() * x.numel() // limit
    if parts < 2 or torch.compiler.is_compiling():
        return both(x, g)
    images = -(-len(x) // parts)
    found = [both(*part) for part in zip(x.split(images), g.split(images), strict=True)]
    return torch.stack([one for one, _ in found]).sum(0), torch.stack([one for _, one in found]).sum(0)


def _sums(responses: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of responses * g and of g over all but the channels."""
    exact = torch.promote_types(g.dtype, torch.float32)
    if torch.compiler.is_compiling() or not len(g):  # a compiler fuses these
        return (responses.to(exact) * g).sum((0, 2, 3)), g.sum((0, 2, 3), dtype=exact)
    # the gradients of batch norm's weight and bias at mean 0 and variance 1: in one pass, and no product is written out
    zero, one = g.new_zeros(g.shape[1], dtype=exact), g.new_ones(g.shape[1], dtype=exact)
    _, products, total = torch.ops.aten.native_batch_norm_backward(
        g, responses, one, zero, one, zero, one, False, 0.0, (False, True, True)
    )
    return products, total


def box_products(
    x: Tensor, taps: Pair, g: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Tensor, Tensor]:
    """<box(x), g> and <1, g> as by inner_products, box(x) being the sum of x over windows of so many taps.

    The box is a convolution with ones. Tried on ConvNeXt's shapes and no faster: a separable one, avg_pool2d, sums of shifted
    copies, running sums (which lose precision too); products with banded matrices won by a tenth at 14 x 14, and lost elsewhere.
    """
    # not ones, but a power of two: it is exact in every precision, and below 1 / taps no sum outgrows float16
    share = 2.0 ** -math.ceil(math.log2(taps[0] * taps[1]))
    products, total = inner_products(x, x.new_full((groups, 1, *taps), share), g, stride, padding, dilation, groups)
    return products / share, total
