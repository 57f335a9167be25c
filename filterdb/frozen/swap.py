"""Whole networks: their depthwise layers frozen in place, and made plain again; gains moved out of a layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from filterdb.errors import InvalidArgument, not_found
from filterdb.frozen.layer import FrozenDepthwiseConv2d, Parts


def freeze_layers(
    module: nn.Module, parts: Mapping[str, Parts], *, train_gain: bool = False, train_offset: bool = True
) -> nn.Module:
    """Swap layers of a network, in place, for frozen ones.

    Args:
        module: the network.
        parts: what the kernels of each layer are made of, by the layer's dotted name (the names of ``layers``).
        train_gain, train_offset: which numbers are parameters.

    Returns:
        The network itself; where it is a bare convolution (name ""), the layer that takes its place.

    Raises:
        NotFound: no such layer.
        InvalidArgument: a layer that cannot be frozen, or parts that do not fit; the network is then as it was.
    """
    modules = dict(module.named_modules())
    made: dict[nn.Module, nn.Module] = {}
    for name, some in parts.items():
        conv = modules.get(name)
        if conv is None:
            raise not_found("layer", name, (known for known, one in modules.items() if isinstance(one, nn.Conv2d)))
        if not isinstance(conv, nn.Conv2d):
            raise InvalidArgument(f"{name} is a {type(conv).__name__}: only Conv2d layers can be frozen.")
        try:
            made[conv] = FrozenDepthwiseConv2d.from_conv(conv, some, train_gain=train_gain, train_offset=train_offset)
        except InvalidArgument as error:
            raise InvalidArgument(f"{name}: {error}") from error
    return _swapped(module, made)


def to_plain(module: nn.Module) -> nn.Module:
    """Swap all frozen layers of a network, in place, for the ordinary ones that compute the same; returned as by freeze_layers.

    The state dict is then that of the architecture, and optimisers that held the old parameters hold nothing of the network's.
    """
    return _swapped(module, {one: one.to_conv() for one in module.modules() if isinstance(one, FrozenDepthwiseConv2d)})


def _swapped(module: nn.Module, made: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The network with modules swapped wherever they hang: one module may have several names."""
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in made:
                parent._modules[name] = made[child]
    return made.get(module, module)


@torch.no_grad()
def fold_gain(layer: FrozenDepthwiseConv2d, following: nn.Linear | nn.Conv2d | nn.BatchNorm2d) -> None:
    """Move a layer's gain into what follows it, in place, so that its kernels become ``template + offset``.

    Exact, up to rounding, where ``following`` takes the layer's output as it is: nothing may stand between them but dropout or a
    pooling. That is so in ConvFormer and VAN (a pointwise layer) and in MobileNets (batch norm, which is exact in eval mode; in
    training it is exact but for its eps). It is not in ConvNeXt: its layer norm mixes the channels, and the gain has to stay.

    Args:
        layer: its gain must not be 0 anywhere: there is nothing to divide offset and bias by.
        following: nn.Linear over the channels, an ungrouped 1x1 nn.Conv2d, or nn.BatchNorm2d with weight and running statistics.

    Raises:
        InvalidArgument: a gain of 0, or a layer that cannot take gains. Nothing is changed then.
    """
    if layer.gain is None:
        return
    gain = layer.gain.detach().flatten()
    zero = int((gain == 0).sum())
    if zero:
        raise InvalidArgument(f"{zero} of {len(gain)} gains are 0 and cannot be moved: leave the gain in this layer.")
    if isinstance(following, nn.BatchNorm2d):
        _into_norm(following, gain)
    elif isinstance(following, nn.Linear) and following.in_features == len(gain):
        following.weight.mul_(gain)
    elif (
        isinstance(following, nn.Conv2d)
        and (following.kernel_size, following.groups) == ((1, 1), 1)
        and following.in_channels == len(gain)
    ):
        following.weight.mul_(gain.view(-1, 1, 1))
    else:
        raise InvalidArgument(
            f"{following} cannot take the gains of {len(gain)} channels: give the Linear, 1x1 Conv2d or BatchNorm2d that follows."
        )
    layer.offset.div_(layer.gain)
    if layer.bias is not None:
        layer.bias.div_(gain)
    del layer.gain
    layer.register_buffer("gain", None)


def _into_norm(norm: nn.BatchNorm2d, gain: Tensor) -> None:
    if norm.num_features != len(gain) or norm.running_mean is None or norm.running_var is None or not norm.affine:
        raise InvalidArgument(
            f"{norm} cannot take the gains of {len(gain)} channels: it needs as many, weights and running statistics."
        )
    before = norm.running_var + norm.eps
    norm.running_mean.div_(gain)
    norm.running_var.div_(gain**2)
    norm.weight.mul_(gain * torch.sqrt((norm.running_var + norm.eps) / before))
