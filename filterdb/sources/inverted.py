"""Two real ImageNet networks of inverted bottlenecks with large kernels, built from the shapes in their state dicts.

MCUNet-in3 (Lin et al., 2020; depthwise kernels 3, 5 and 7) and ProxylessNAS with width .3 (Cai et al., 2019). A block is an
expansion (absent where there is none), a depthwise convolution and a projection, each a convolution without bias with a batch
normalisation after it, and a ReLU6 after the first two; the input is added where its shape allows. A state dict holds all but the
strides and the epsilon of the normalisation, which are here. The modules have the names of the files' keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from filterdb.errors import SourceError


@dataclass(frozen=True)
class Plan:
    """What the state dict does not say, and the number of blocks that identifies another one."""

    blocks: int
    strided: frozenset[int]
    """The blocks of stride 2."""
    epsilon: float


PLANS = {
    "mcunet_in3": Plan(18, frozenset({1, 5, 8, 14}), 1e-5),
    "proxyless_w0.3": Plan(22, frozenset({1, 5, 9, 17}), 1e-3),
}
PREPROCESSING: dict[str, Any] = {
    "input_size": (3, 176, 176), "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.875, "crop_mode": "center",
}  # fmt: skip
"""176 x 176 out of the middle, after the short side was resized to 201. How to interpolate is not on record; bicubic gives the
better accuracies of timm's two usual ways: 685 and 630 of 1,000 photographs, against 684 and 611 by bilinear."""

_BLOCK = re.compile(r"blocks\.(\d+)\.")


class ConvNorm(nn.Module):
    """A convolution without bias and its batch normalisation, with a ReLU6 or without."""

    def __init__(self, weight: Tensor, *, stride: int, epsilon: float, act: bool):
        super().__init__()
        out, inner, kernel_h, kernel_w = weight.shape
        groups = out if inner == 1 and out > 1 else 1
        self.conv = nn.Conv2d(
            inner * groups, out, (kernel_h, kernel_w), stride, (kernel_h // 2, kernel_w // 2), groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out, epsilon)
        self.act = nn.ReLU6(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, out, h / stride, w / stride)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class InvertedConv(nn.Module):
    """Expand, filter each channel, project."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str, *, stride: int, epsilon: float):
        super().__init__()
        parts = [("inverted_bottleneck", 1, True), ("depth_conv", stride, True), ("point_linear", 1, False)]
        for name, step, act in parts:
            if (weight := state.get(f"{prefix}{name}.conv.weight")) is not None:
                self.add_module(name, ConvNorm(weight, stride=step, epsilon=epsilon, act=act))

    def forward(self, x: Tensor) -> Tensor:
        """Through the parts there are."""
        for part in self.children():
            x = part(x)
        return x


class Block(nn.Module):
    """An inverted bottleneck, with its input added where the shapes agree."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str, *, stride: int, epsilon: float):
        super().__init__()
        self.mobile_inverted_conv = InvertedConv(state, f"{prefix}mobile_inverted_conv.", stride=stride, epsilon=epsilon)
        convs = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        self.residual = stride == 1 and convs[0].in_channels == convs[-1].out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, out, h / stride, w / stride)."""
        out: Tensor = self.mobile_inverted_conv(x)
        return x + out if self.residual else out


class Classifier(nn.Module):
    """The last layer, under the name that the files have."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) to logits (n, classes)."""
        out: Tensor = self.linear(x)
        return out


class InvertedNet(nn.Module):
    """First convolution, blocks, perhaps a mixing convolution, mean over space, classifier."""

    def __init__(self, architecture: str, state: Mapping[str, Tensor]):
        super().__init__()
        plan = PLANS[architecture]
        self.first_conv = ConvNorm(state["first_conv.conv.weight"], stride=2, epsilon=plan.epsilon, act=True)
        there = {int(found[1]) for key in state if (found := _BLOCK.match(key))}
        if 1 + max(there, default=-1) != plan.blocks:
            raise ValueError(f"it has {1 + max(there, default=-1)} blocks, not {plan.blocks}")
        # a number that is missing was an identity in the searched network
        self.blocks = nn.ModuleList(
            Block(state, f"blocks.{i}.", stride=1 + (i in plan.strided), epsilon=plan.epsilon) if i in there else nn.Identity()
            for i in range(plan.blocks)
        )
        mix = state.get("feature_mix_layer.conv.weight")
        self.feature_mix_layer = nn.Identity() if mix is None else ConvNorm(mix, stride=1, epsilon=plan.epsilon, act=True)
        classes, features = state["classifier.linear.weight"].shape
        self.classifier = Classifier(features, classes)
        self.num_classes, self.num_features = int(classes), int(features)
        self.pretrained_cfg = {**PREPROCESSING, "architecture": architecture, "classifier": "classifier.linear"}
        self.default_cfg = self.pretrained_cfg

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) to (n, features, h / 32, w / 32)."""
        x = self.first_conv(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.feature_mix_layer(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) to logits (n, classes)."""
        out: Tensor = self.classifier(self.forward_features(x).mean((2, 3)))
        return out

    def get_classifier(self) -> nn.Module:
        """The last layer, as timm's models give it."""
        return self.classifier.linear

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for that many classes, as timm's models do it."""
        self.classifier, self.num_classes = Classifier(self.num_features, num_classes), num_classes


def build(architecture: str, state: Mapping[str, Tensor], what: str) -> InvertedNet:
    """The network of a state dict, with its weights, in eval mode.

    Raises:
        SourceError: the state dict is not one of such a network.
    """
    try:
        net = InvertedNet(architecture, state)
        net.load_state_dict(dict(state))
    except KeyError as error:
        raise SourceError(f"{what} is no {architecture}: it lacks {error.args[0]}. Give its own architecture.") from error
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:160]
        raise SourceError(f"{what} is no {architecture}: {reason}. Give its own architecture.") from error
    return net.eval()
