"""Frozen layers: forward, backward and memory of the depthwise layer at ConvNeXt's shapes, and a whole training step.

FrozenDepthwiseConv2d with eight templates and a trained offset against the trainable nn.Conv2d of the same shape and layout, both
with a bias and an input that needs its gradient. Times are the least of many, taken in turns in one process, because a machine
that others use too disturbs medians; the shapes follow one another in that process as in the network, for what a CPU's allocator
gives back to the system depends on the largest it has held. Memory is that of one forward and backward in a process of its own.
All threads are used. Where there is a CUDA device, everything is measured there, in float32 and under bfloat16 autocast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Clock, Row, in_turns, once

SHAPES = ((96, 56), (192, 28), (384, 14), (768, 7))
"""Channels and side of ConvNeXt-T's four stages at 224 pixels."""
CPU_GOALS = {(96, 56): 1 / 2.5, (384, 14): 1 / 5}
"""Forward and backward, contiguous."""
GPU_GOAL = 1 / 1.5
LAYOUTS = ("contiguous", "channels_last")
NO_GPU = "on CUDA: there is no device here; where there is one, `python -m tests.benchmarks --only frozen_layer` measures it"
ARCHITECTURE = "convnext_atto"
PARTS = ("forward + backward", "forward", "backward")
KINDS, OTHER = ("frozen", "trainable"), "nn.Conv2d"


def benchmark(folder: Path, small: bool) -> list[Row]:
    """Each shape and layout; then the whole step of a small ConvNeXt."""
    gpu = once(device).value
    batch, precisions = (128, ("float32", "bfloat16")) if gpu else (16, ("float32",))
    seconds = 1 if small else 4
    rows: list[Row] = []
    for precision, layout in product(precisions, LAYOUTS):
        common = {"batch": batch, "layout": layout, "precision": precision}
        words = f"{layout}, {precision}{', ' + gpu if gpu else ''}"
        for (channels, side), found in zip(SHAPES, once(layers, seconds=seconds, **common).value, strict=True):
            what = f"({batch}, {channels}, {side}, {side}) {words}"
            goal = GPU_GOAL if gpu else CPU_GOALS.get((channels, side)) if layout == "contiguous" else None
            for name in PARTS:
                ours, other = found["frozen"][name], found["trainable"][name]
                rows.append(Row(f"{what}: {name}", ours, "s", OTHER, other, goal if name == PARTS[0] else None))
            kinds = {kind: partial(one_pass, kind=kind, channels=channels, side=side, **common) for kind in KINDS}
            memory = {kind: one.value if gpu else one.memory for kind, one in in_turns(kinds, 1).items()}
            rows.append(Row(f"{what}: memory", memory["frozen"], "B", OTHER, memory["trainable"]))
        found = once(steps, seconds=4 * seconds, **common).value
        what = f"a training step of {ARCHITECTURE}, {batch} images of 224 pixels, {words}"
        rows.append(Row(what, found["frozen"], "s", OTHER, found["trainable"]))
    return rows if gpu else [*rows, Row(NO_GPU, None, "s", OTHER, None, GPU_GOAL)]


def device(clock: Clock) -> str:
    """The CUDA device's name; empty where there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def layers(clock: Clock, batch: int, layout: str, precision: str, seconds: float) -> list[dict[str, Any]]:
    """Least seconds of both layers' passes, for each shape."""
    found = []
    for channels, side in SHAPES:
        made = {kind: _pass(kind, channels, side, batch, layout, precision) for kind in KINDS}
        found.append(_least(made, seconds))
    return found


def one_pass(clock: Clock, kind: str, channels: int, side: int, batch: int, layout: str, precision: str) -> int:
    """One forward and backward; on a GPU the answer is what it allocated on top of input, gradient and layer."""
    import torch

    _pass(kind, channels, side, 1, layout, precision)()  # loads the code
    run = _pass(kind, channels, side, batch, layout, precision)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with clock:
        run()
    return torch.cuda.max_memory_allocated() - before if gpu else 0


def steps(clock: Clock, batch: int, layout: str, precision: str, seconds: float) -> dict[str, float]:
    """Least seconds of a step of the same network with trainable and with frozen depthwise layers."""
    import timm
    import torch
    from torch import nn

    from filterdb.frozen.swap import freeze_layers

    where, form = _place(layout)
    torch.manual_seed(0)
    made: dict[str, Callable[[], dict[str, float]]] = {}
    images = torch.randn(batch, 3, 224, 224, device=where).contiguous(memory_format=form)
    labels = torch.arange(batch, device=where) % 10
    for kind in KINDS:
        network = timm.create_model(ARCHITECTURE, num_classes=10)
        if kind == "frozen":
            depthwise = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
            freeze_layers(network, {name: _parts(network.get_submodule(name).out_channels) for name in depthwise})
        network = network.to(device=where, memory_format=form).train()
        optimiser = torch.optim.AdamW(network.parameters())

        def step(network: Any = network, optimiser: Any = optimiser) -> dict[str, float]:
            start = _now()
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(where, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimiser.step()
            return {"step": _now() - start}

        made[kind] = step
    return {kind: found["step"] for kind, found in _least(made, seconds).items()}


def _least(made: dict[str, Callable[[], dict[str, float]]], seconds: float) -> dict[str, dict[str, float]]:
    """The least of each time, in turns, at least two.

    In a turn a kind runs six times and the first does not count: it finds memory and caches as the other kind left them.
    """
    found: dict[str, dict[str, float]] = {kind: {} for kind in made}
    start, turns = time.perf_counter(), 0
    while turns < 2 or time.perf_counter() - start < seconds:
        for kind, run in made.items():
            run()
            for times in [run() for _ in range(5)]:
                found[kind] = {name: min(value, found[kind].get(name, value)) for name, value in times.items()}
        turns += 1
    return found


def _pass(kind: str, channels: int, side: int, batch: int, layout: str, precision: str) -> Callable[[], dict[str, float]]:
    """A forward and backward of one layer, which says how long each took."""
    import torch
    from torch import nn

    from filterdb.frozen.layer import FrozenDepthwiseConv2d

    where, form = _place(layout)
    conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, device=where)
    layer = (FrozenDepthwiseConv2d.from_conv(conv, _parts(channels)) if kind == "frozen" else conv).to(memory_format=form)
    amp = precision == "bfloat16"
    dtype = torch.bfloat16 if amp else torch.float32
    x, g = (torch.randn(batch, channels, side, side, device=where, dtype=dtype).contiguous(memory_format=form) for _ in range(2))
    x.requires_grad_()

    def run() -> dict[str, float]:
        x.grad = None
        layer.zero_grad()
        start = _now()
        with torch.autocast(where, torch.bfloat16, enabled=amp):
            y = layer(x)
        middle = _now()
        y.backward(g)
        end = _now()
        return {"forward + backward": end - start, "forward": middle - start, "backward": end - middle}

    return run


def _parts(channels: int) -> Any:
    import torch

    from filterdb.frozen.layer import Parts

    return Parts(torch.randn(8, 7, 7), torch.randint(8, (channels,)))


def _place(layout: str) -> tuple[str, Any]:
    import torch

    return (
        "cuda" if torch.cuda.is_available() else "cpu",
        torch.channels_last if layout == "channels_last" else torch.contiguous_format,
    )


def _now() -> float:
    """The time when all that was ordered is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
