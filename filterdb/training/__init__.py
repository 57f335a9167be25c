"""Training networks with depthwise kernels that are frozen or come from a bank: one plain loop with timm's parts.

settings          the settings, and the recipes of ``data/training``
modes             the network: its architecture, the origin of its kernels, and their frozen parts
initialise        initialisation of depthwise kernels from a bank
data              batches, the same for the same seed
loop              the training loop
state             the state that an interrupted run resumes from
kernel_gradients  depthwise kernels that forget their random start
"""

from __future__ import annotations

from filterdb.training.loop import Trained, train
from filterdb.training.settings import MODES, Saving, Settings

__all__ = ["MODES", "Saving", "Settings", "Trained", "initialise", "settings", "state", "train"]
