"""What ``filterdb.Monitor`` costs a training of ConvNeXt-Tiny at one call in 500 steps.

The steps right behind a call are measured, so that all of its work in the background falls into them, and as many without a call.
The difference is what a call costs; it is shared out over 500 steps.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from tests.benchmarks.measure import Clock, Row, in_turns

EVERY, STEPS = 500, 12
"""Steps between calls, and steps that are measured."""


def benchmark(folder: Path, small: bool) -> list[Row]:
    """The time of 500 steps with a call, against the same without."""
    del folder
    times, batch, side = (2, 2, 64) if small else (7, 8, 128)
    tasks = {name: partial(train, batch=batch, side=side, monitored=name == "monitored") for name in ("monitored", "plain")}
    found = in_turns(tasks, times)
    plain = found["plain"].seconds * EVERY / STEPS
    call = found["monitored"].seconds - found["plain"].seconds
    what = f"{EVERY} steps of ConvNeXt-Tiny on the CPU, {batch} images of {side} px, with one call of the monitor"
    return [Row(what, plain + call, "s", "without a monitor", plain, most=1.01)]


def train(clock: Clock, batch: int, side: int, monitored: bool) -> None:
    """Steps, behind a call where it is monitored; until all is stored."""
    import timm
    import torch

    import filterdb

    torch.manual_seed(0)
    model = timm.create_model("convnext_tiny", num_classes=10)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x, y = torch.randn(batch, 3, side, side), torch.arange(batch) % 10

    def step() -> None:
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        optimiser.zero_grad()

    with tempfile.TemporaryDirectory() as place, filterdb.Monitor(f"{place}/filters", run="benchmark") as monitor:
        step()
        monitor(model, 0)  # imports and the first import of a classifier are not what a call costs
        monitor.flush()
        with clock:
            if monitored:
                monitor(model, 1)
            for _ in range(STEPS):
                step()
            monitor.flush()
