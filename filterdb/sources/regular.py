"""Ordinary convolutions of a network: its stem, and the others, to compare depthwise kernels with.

A convolution is ordinary when each output sees several input channels, so that a kernel belongs to a pair of an output and an
input channel. The stem is the first of them that sees the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from filterdb.sources.layers import LARGEST
from filterdb.sources.options import Options
from filterdb.store.schema import RegularLayer

if TYPE_CHECKING:
    from torch import nn

COLOURS = (3, 4, 2)
"""Input channels of a convolution that may see the image where its place in the network is unknown, the likeliest first."""
WEIGHT = ".weight"


class Tensor(Protocol):
    """A tensor of which only the shape matters here."""

    @property
    def shape(self) -> Sequence[int]: ...


def from_module(network: nn.Module) -> list[RegularLayer]:
    """The ordinary convolutions of a network, in its order; the first is the stem."""
    from torch import nn

    found = [
        (name, tuple(module.weight.shape))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and is_ordinary(module.weight.shape)
    ]
    return [_layer(name, shape, number == 0) for number, (name, shape) in enumerate(found)]


def from_shapes(state: Mapping[str, Tensor]) -> list[RegularLayer]:
    """The ordinary convolutions that the shapes of a state dict show. The stem is the first that can see an image.

    Files do not keep the order of the network, so one with three input channels goes before others.
    """
    found = [
        (key.removesuffix(WEIGHT), tuple(leaf.shape))
        for key, leaf in state.items()
        if key.endswith(WEIGHT) and is_ordinary(leaf.shape)
    ]
    stem = next((name for channels in COLOURS for name, shape in found if shape[1] == channels), None)
    return [_layer(name, shape, name == stem) for name, shape in found]


def grey(state: Mapping[str, Tensor], keys: Sequence[str]) -> list[str]:
    """The note on a first layer that may be none: an ordinary convolution of a grey image has the shape of depthwise kernels.

    Args:
        state: a state dict of an unknown architecture.
        keys: what its shapes call depthwise, in order.
    """
    convs = [(key, tuple(leaf.shape)) for key, leaf in state.items() if len(leaf.shape) == 4]
    mixed = any(shape[1] > 1 for _, shape in convs)
    coloured = any(is_ordinary(shape) and shape[1] in COLOURS for _, shape in convs)
    if not keys or not mixed or coloured or convs[0][0] != keys[0]:
        return []
    return [
        f"{keys[0].removesuffix(WEIGHT)} comes first, and may be an ordinary convolution of a grey image: the shapes are alike"
    ]


def choose(layers: Sequence[RegularLayer], options: Options) -> list[RegularLayer]:
    """Those that the options ask for."""
    return [layer for layer in layers if (options.stem if layer.kind == "stem" else options.regular > 0)]


def is_ordinary(shape: Sequence[int]) -> bool:
    """Whether weights of this shape, (out, in, kh, kw), are those of an ordinary convolution with kernels larger than 1x1."""
    return len(shape) == 4 and shape[1] > 1 and shape[2] * shape[3] > 1 and max(shape[2:]) <= LARGEST and 0 not in shape


def _layer(name: str, shape: tuple[Any, ...], stem: bool) -> RegularLayer:
    out_channels, in_channels, kernel_h, kernel_w = (int(number) for number in shape)
    return RegularLayer(name, "stem" if stem else "regular", kernel_h, kernel_w, out_channels, in_channels)
