"""Training networks with depthwise kernels that are frozen or come from a bank: one plain loop with timm's parts.

settings          the settings, and the recipes of ``data/training``
modes             the network: its architecture, where its kernels come from, what of them stays frozen
initialise        depthwise kernels started from a bank
data              batches, the same for the same seed
loop              trains
state             what an interrupted run resumes from
kernel_gradients  depthwise kernels that forget their random start
"""

from __future__ import annotations

from filterdb.training.loop import Trained, train
from filterdb.training.settings import MODES, Saving, Settings

__all__ = ["MODES", "Saving", "Settings", "Trained", "initialise", "settings", "state", "train"]
