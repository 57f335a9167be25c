"""A depthwise convolution of frozen templates, a drop-in for nn.Conv2d; and networks in which all of them are swapped.

A kernel is ``gain * template + offset``. The template comes from a bank and never changes. The offset is one trained number per
channel, added to all taps ("x + b"). The gain may be trained too. No gradient of taps is computed (``autograd``).

A layer stores the bank's templates once, and the index of the template of each channel. The state dict is therefore small and
states the choice of template exactly. ``weight`` is assembled at each forward pass, in microseconds. ``to_plain`` returns the
ordinary network, for export and for files that other programs load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from filterdb.errors import InvalidArgument
from filterdb.frozen.autograd import FrozenConvolution, Pair, effective

_GEOMETRY = (*nn.Conv2d.__constants__, "transposed", "_reversed_padding_repeated_twice")


@dataclass(frozen=True)
class Parts:
    """What the kernels of one layer are made of; arrays or tensors."""

    templates: ArrayLike | Tensor
    """(m, kh, kw), the templates of a bank at the layer's size."""
    index: ArrayLike | Tensor
    """(C,), the template of each output channel; -1, nearest's word for a dead kernel, where the gain is 0."""
    gain: ArrayLike | Tensor | None = None
    """(C,); None: 1 everywhere, and no gain in the layer."""
    offset: ArrayLike | Tensor | None = None
    """(C,); None: 0 everywhere."""


class FrozenDepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d with ``groups == in_channels`` whose kernels are ``gain * template + offset`` with frozen templates.

    Input (N, C_in, H, W) or (C_in, H, W), output as of the nn.Conv2d of the same geometry, with the same attributes.
    ``weight`` is the effective kernel (C, 1, kh, kw), computed at each access; it cannot be set.

    State dict: ``templates`` (m, kh, kw), ``index`` (C,), ``offset`` (C, 1, 1, 1), where there is a gain ``gain`` (C, 1, 1, 1),
    where there is a bias ``bias`` (C,). It does not depend on what is trained: numbers that are not trained are buffers,
    which no optimiser and no ``requires_grad_`` changes.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, bias, padding_mode, device, dtype: as for nn.Conv2d;
            out_channels is a multiple of in_channels. A new bias is drawn as nn.Conv2d draws it.
        padding: as for nn.Conv2d, and "same" at any stride: at strides above 1 the one of TensorFlow and timm's Conv2dSame.
        parts: templates, index, gain and offset.
        train_gain, train_offset: which of them are parameters.

    Raises:
        InvalidArgument: parts that do not fit the layer, or that are not finite.
    """

    templates: Tensor
    index: Tensor
    gain: Tensor | None
    offset: Tensor
    kernel_size: Pair
    stride: Pair
    padding: str | Pair
    dilation: Pair

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Pair, stride: int | Pair = 1, padding: int | Pair | str = 0,
        dilation: int | Pair = 1, bias: bool = True, padding_mode: Any = "zeros", *, parts: Parts, train_gain: bool = False,
        train_offset: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        nn.Module.__init__(self)  # not Conv2d's own, which would make a weight
        shape = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, 0 if padding == "same" else padding, dilation, in_channels, bias,
            padding_mode, device="meta",
        )  # fmt: skip
        for name in _GEOMETRY:
            setattr(self, name, getattr(shape, name))
        if padding == "same":
            self.padding = "same"
            if self.stride != (1, 1) and padding_mode != "zeros":
                raise InvalidArgument(f'padding="same" at stride {self.stride} pads with zeros: give sizes for {padding_mode}.')
        real = torch.empty((), device=device, dtype=dtype)
        if not real.is_floating_point():
            raise InvalidArgument(f"A layer of {real.dtype} cannot be made: give a floating-point dtype.")
        templates, index, gain, offset = self._checked(parts)
        self.register_buffer("templates", templates.to(real))
        self.register_buffer("index", index.to(real.device))
        self._number("gain", None if gain is None else gain.to(real), train_gain)
        self._number("offset", offset.to(real), train_offset)
        self.register_parameter("bias", nn.Parameter(real.new_empty(out_channels)) if bias else None)
        self._draw_bias()

    def _number(self, name: str, value: Tensor | None, train: bool) -> None:
        """A number for each channel: a parameter where it is trained, else a buffer."""
        if train and value is None:
            raise InvalidArgument(f"There is no {name} to train: give {name}s (ones, say) in the parts.")
        if train:
            self.register_parameter(name, nn.Parameter(value))  # type: ignore[arg-type]
        else:
            self.register_buffer(name, value)

    def _checked(self, parts: Parts) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The parts in the shapes they are kept in."""
        templates = _copied(parts.templates)
        if templates.ndim != 3 or tuple(templates.shape[1:]) != self.kernel_size or not len(templates):
            h, w = self.kernel_size
            raise InvalidArgument(
                f"The layer's kernels are {h}x{w} and the templates are of shape {tuple(templates.shape)}: "
                f"give (m, {h}, {w}), or leave this layer as it is."
            )
        index = _copied(parts.index).to(torch.int64)
        if tuple(index.shape) != (self.out_channels,):
            raise InvalidArgument(
                f"index has the shape {tuple(index.shape)}: give the template of each of {self.out_channels} channels."
            )
        numbers = [self._per_channel(name, getattr(parts, name)) for name in ("gain", "offset")]
        gain, offset = numbers[0], torch.zeros(self.out_channels, 1, 1, 1) if numbers[1] is None else numbers[1]
        if not index.is_meta:
            if gain is not None:
                index[(index == -1) & (gain.flatten().to(index.device) == 0)] = 0
            if not bool(((index >= 0) & (index < len(templates))).all()):
                raise InvalidArgument(
                    f"index goes from {int(index.min())} to {int(index.max())} and there are {len(templates)} templates: "
                    f"give numbers from 0 to {len(templates) - 1}, or -1 where the gain is 0."
                )
        if any(not part.is_meta and not bool(part.isfinite().all()) for part in (templates, gain, offset) if part is not None):
            raise InvalidArgument("The templates, gains or offsets hold NaN or infinity: find out where they come from.")
        return templates, index, gain, offset

    def _per_channel(self, name: str, value: ArrayLike | Tensor | None) -> Tensor | None:
        if value is None:
            return None
        tensor = _copied(value)
        if tensor.numel() != self.out_channels:
            raise InvalidArgument(
                f"{name} has the shape {tuple(tensor.shape)}: give one number for each of {self.out_channels} channels."
            )
        return tensor.view(-1, 1, 1, 1)

    def reset_parameters(self) -> None:
        """Offset 0, gain 1 where it is trained, and a new bias as nn.Conv2d draws it; what is frozen stays."""
        with torch.no_grad():
            if isinstance(self.offset, nn.Parameter):
                self.offset.zero_()
            if isinstance(self.gain, nn.Parameter):
                self.gain.fill_(1)
        self._draw_bias()

    def _draw_bias(self) -> None:
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.kernel_size))
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The effective kernels, (C, 1, kh, kw); gradients flow through it to offset and gain."""
        return effective(self._template(), self.gain, self.offset)

    def _template(self) -> Tensor:
        return self.templates.index_select(0, self.index).unsqueeze(1)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        if input.dim() == 3:
            return self(input.unsqueeze(0)).squeeze(0)
        x = input
        if torch.is_autocast_enabled(x.device.type) and x.is_floating_point() and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(x.device.type))  # here, so that backward keeps the smaller copy
        x, padding = self._padded(x)
        if not torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_exporting():
            # nothing to save, and exporters know conv2d only
            return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return FrozenConvolution.apply(
            x, self._template(), self.gain, self.offset, self.bias, self.stride, padding, self.dilation, self.groups
        )  # fmt: skip

    def _padded(self, x: Tensor) -> tuple[Tensor, Pair]:
        """The input, padded where conv2d cannot do it, and the zeros that are left to conv2d on either side (y, x)."""
        if self.padding == "same":
            sides = [
                side for i in (1, 0) for side in _same(x.shape[2 + i], self.kernel_size[i], self.stride[i], self.dilation[i])
            ]
        else:
            sides = [0] * 4 if isinstance(self.padding, str) else [side for p in reversed(self.padding) for side in (p, p)]
        left, right, top, bottom = sides
        if self.padding_mode == "zeros" and left == right and top == bottom:
            return x, (top, left)
        return F.pad(x, sides, "constant" if self.padding_mode == "zeros" else self.padding_mode), (0, 0)

    def extra_repr(self) -> str:
        """Conv2d's, and what is frozen and trained."""
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        shown += f", padding={self.padding!r}, dilation={self.dilation}, bias={self.bias is not None}"
        trained = [name for name in ("gain", "offset") if isinstance(getattr(self, name), nn.Parameter)]
        return f"{shown}, templates={len(self.templates)}, gain={self.gain is not None}, trained={'+'.join(trained) or 'none'}"

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, parts: Parts, *, train_gain: bool = False, train_offset: bool = True
    ) -> FrozenDepthwiseConv2d:
        """The frozen layer of a depthwise nn.Conv2d or timm Conv2dSame, with a copy of its bias, its device, dtype and mode.

        Raises:
            InvalidArgument: a layer that is not depthwise, one whose forward is its own, or parts that do not fit.
        """
        kind = type(conv).__name__
        same = kind in ("Conv2dSame", "Conv2dSameExport")
        if not (same or isinstance(conv, cls) or type(conv).forward is nn.Conv2d.forward):
            raise InvalidArgument(f"{kind} has its own forward, which a frozen layer cannot reproduce. Exclude it.")
        if not conv.groups == conv.in_channels > 1:
            raise InvalidArgument(
                f"{kind} has {conv.groups} groups for {conv.in_channels} channels: only depthwise layers freeze."
            )
        weight, padding = conv.weight, cast("Pair | str", "same" if same else conv.padding)
        kernel_size, stride, dilation = (cast("Pair", pair) for pair in (conv.kernel_size, conv.stride, conv.dilation))
        layer = cls(
            conv.in_channels, conv.out_channels, kernel_size, stride, padding, dilation, conv.bias is not None, conv.padding_mode,
            parts=parts, train_gain=train_gain, train_offset=train_offset, device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        if layer.bias is not None and conv.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(conv.bias)
            layer.bias.requires_grad_(conv.bias.requires_grad)
        return layer.train(conv.training)

    def to_conv(self) -> nn.Conv2d:
        """The ordinary layer that computes the same: nn.Conv2d, or timm's Conv2dSame for "same" at a stride above 1."""
        bias = self.bias is not None
        given: dict[str, Any] = {"dilation": self.dilation, "groups": self.groups, "bias": bias, "device": "meta"}
        if self.padding == "same" and self.stride != (1, 1):
            from timm.layers import Conv2dSame

            conv: nn.Conv2d = Conv2dSame(self.in_channels, self.out_channels, self.kernel_size, self.stride, **given)
        else:
            mode: Any = self.padding_mode
            conv = nn.Conv2d(
                self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, padding_mode=mode, **given
            )  # fmt: skip
        conv.weight = nn.Parameter(self.weight.detach().clone())
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return conv.train(self.training)


def _copied(value: ArrayLike | Tensor) -> Tensor:
    """A tensor of its own; numpy's may be read only, which torch cannot say."""
    return value.detach().clone() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _same(size: int, taps: int, stride: int, dilation: int) -> Pair:
    """TensorFlow's padding before and after an axis, which at stride 1 is that of nn.Conv2d too."""
    total = max((-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2
