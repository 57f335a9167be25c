"""Training networks whose depthwise kernels are frozen, or come from a bank: timm's parts in one plain loop.

``settings`` says what may be chosen, ``modes`` makes the network, ``data`` its batches, ``state`` what a killed run goes on from,
``loop`` trains. ``demo`` is the older, smaller loop that made the demo network.
"""

from __future__ import annotations

from filterdb.training.loop import Trained, train
from filterdb.training.settings import MODES, Settings

__all__ = ["MODES", "Settings", "Trained", "settings", "state", "train"]
