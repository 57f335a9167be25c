"""Gradients that make depthwise kernels forget their random initialisation, so that a short training shows their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

LR_SCALE = 0.5
"""The learning rate of depthwise kernels over that of all other weights."""
EPS = 5.0
"""Of Adam, for gradients of size 1: above them, so that it is momentum with the same pace in every layer."""


def parameter_groups(
    module: nn.Module, kernels: Sequence[Tensor], weight_decay: float, kernel_decay: float
) -> list[dict[str, Any]]:
    """Depthwise kernels in a group of their own, the first; normalisations and biases do not decay.

    Args:
        module: the network.
        kernels: the weights of its depthwise layers.
        weight_decay: of the other weights.
        kernel_decay: of the kernels; see ``decay``.
    """
    own = {id(parameter) for parameter in kernels}
    others = [parameter for parameter in module.parameters() if id(parameter) not in own and parameter.requires_grad]
    return [
        {"params": list(kernels), "weight_decay": kernel_decay, "lr_scale": LR_SCALE, "eps": EPS},
        {"params": [one for one in others if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in others if one.ndim <= 1], "weight_decay": 0.0},
    ]


def decay(forget: float, lr: float, steps: int) -> float:
    """The weight decay by which the start of the kernels shrinks by exp(-forget) over a run: at half of ``lr`` on average."""
    return forget / (LR_SCALE * 0.5 * lr * steps)


class KernelGradients:
    """Divides the gradient of each depthwise layer by a running root mean square of that layer.

    A normalisation follows the kernels, so only their direction counts, and in a short run it is mostly the random start and
    Adam's noise: Adam steps as far along a tap whose gradient is noise as along one that matters. With gradients of size 1 and an
    epsilon above that, AdamW is plain momentum with the same pace in every layer, so taps move as far as their gradient says. A
    decay that forgets all but the last part of the run leaves the average of many gradients, which is smooth, instead of the sum
    of all.
    """

    def __init__(self, kernels: Sequence[Tensor]):
        self._kernels = list(kernels)
        self.size = [0.0] * len(self._kernels)

    def scale(self) -> None:
        """Call between ``backward`` and ``step``, after any clipping."""
        for i, kernel in enumerate(self._kernels):
            if kernel.grad is not None:
                now = float(kernel.grad.square().mean().sqrt())
                self.size[i] = 0.98 * self.size[i] + 0.02 * now if self.size[i] else now
                kernel.grad.div_(self.size[i] + 1e-12)
