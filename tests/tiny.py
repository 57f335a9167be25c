"""A tiny network, and how its images are prepared."""

from __future__ import annotations

import torch
from torch import nn

CONFIG = {"input_size": (3, 8, 8), "crop_pct": 1.0}


CLASSES, COUNT = 9, 37


class Tiny(nn.Module):
    """A network that depends on everything: convolution, batch normalisation, dropout, linear layer."""

    def __init__(self, classes: int = CLASSES, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(54, classes)
        with torch.no_grad():
            self.head.weight.mul_(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().flatten(1)))
