"""Networks that run: a source as an ``nn.Module`` with its weights, and the preprocessing of its images.

    timm:NAME[.TAG]      a pretrained model of timm's, from the hub
    hf:OWNER/NAME        a model that timm saved on the hub, with its config.json
    a file               .safetensors, .pth … with its architecture: a timm name, mcunet_in3 or proxyless_w0.3; files that
                         ``save`` wrote say it themselves
    a recipe's name      where the recipe has one file, such as demo

No code of a file is executed, and nothing is guessed: weights that do not fit the architecture are refused.
"""

from __future__ import annotations

from filterdb.networks.load import load, new
from filterdb.networks.network import Network
from filterdb.networks.save import save

__all__ = ["Network", "evaluation", "load", "memory", "network", "new", "runs", "save", "shares", "statistics"]
