"""The frozen layer against nn.Conv2d (cuDNN or PyTorch's own kernels) at ConvNeXt's shapes: forward, backward, memory.

Both have eight templates' worth of kernels, a trained bias, and an input that needs its gradient. The frozen layer trains its
offset. Where there are CUDA and Triton, the candidate of ``triton_backward`` is compared with the autograd function, in its
numbers and in time, with the fastest of its tiles.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from filterdb.frozen.layer import FrozenDepthwiseConv2d, Parts
from tests.gpu.results import Job, say, seconds_of, wait

SHAPES = ((96, 56), (192, 28), (384, 14), (768, 7))
"""Channels and side of ConvNeXt-T's four stages at 224 pixels."""
TOYS = ((8, 7),)
KINDS = ("frozen", "conv")
FORMS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def piece(job: Job) -> dict[str, Any]:
    """Every shape, precision and layout."""
    torch.backends.cudnn.benchmark = True  # the best that cuDNN has
    batch = 2 if job.toy else 128
    try:
        rows = [
            compared(job, batch, *shape, precision, layout)
            for precision, layout, shape in product(("float32", "bfloat16"), FORMS, TOYS if job.toy else SHAPES)
        ]
    finally:
        torch.backends.cudnn.benchmark = False
    result: dict[str, Any] = {"batch": batch, "tf32": torch.backends.cudnn.allow_tf32, "rows": rows}
    ratios = [row["triton_gain"] for row in rows if "triton_gain" in row]
    if ratios:
        from tests.gpu.triton_backward import WORTH

        right = all(row["triton_right"] for row in rows)
        best = {f"{row['layout']}, {row['precision']}": [] for row in rows}
        for row in rows:
            best[f"{row['layout']}, {row['precision']}"].append(row["triton_gain"])
        result["triton"] = {"right": right, "least": min(ratios), "gains": best, "worth_it": right and min(ratios) >= WORTH}
        say(f"  Triton's backward is {min(ratios):.2f} to {max(ratios):.2f} times as fast as autograd's; right: {right}")
    else:
        result["triton"] = "not measured: it needs CUDA and Triton"
        say(f"  Triton: {result['triton']}")
    return result


def compared(job: Job, batch: int, channels: int, side: int, precision: str, layout: str) -> dict[str, Any]:
    """Seconds and bytes of both layers at one shape."""
    row: dict[str, Any] = {"channels": channels, "side": side, "precision": precision, "layout": layout}
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
    frozen = FrozenDepthwiseConv2d.from_conv(conv, Parts(torch.randn(8, 7, 7), torch.randint(8, (channels,))))
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x, g = (torch.randn(batch, channels, side, side).to(job.device, dtype, memory_format=FORMS[layout]) for _ in range(2))
    x.requires_grad_()
    least = 0.01 if job.toy else 0.1
    for kind, layer in zip(KINDS, (frozen, conv), strict=True):
        layer.to(job.device, memory_format=FORMS[layout])
        with torch.autocast(job.device, torch.bfloat16, enabled=precision == "bfloat16"):
            forward = partial(layer, x)
            y = forward()
            wanted = [x, *layer.parameters()]
            backward = partial(torch.autograd.grad, y, wanted, g, retain_graph=True)
            row[kind] = {
                "forward": seconds_of(forward, job.device, least=least),
                "backward": seconds_of(backward, job.device, least=least),
                "both": seconds_of(lambda f=forward, w=wanted: torch.autograd.grad(f(), w, g), job.device, least=least),  # type: ignore[misc]
                "bytes": memory(lambda f=forward, w=wanted: torch.autograd.grad(f(), w, g), job.device),  # type: ignore[misc]
            }
            del y, backward
    row["gain"] = row["conv"]["both"] / row["frozen"]["both"]
    if job.device == "cuda" and _triton():
        row |= candidate(job, frozen, x, g, layout)
    more = f", Triton's backward x{row['triton_gain']:.2f}" if "triton_gain" in row else ""
    say(f"  {batch}x{channels}x{side}x{side} {layout} {precision}: x{row['gain']:.2f} forward and backward{more}")
    return row


def memory(run: Any, device: str) -> int | None:
    """Bytes that a call allocates at its peak; None on a CPU."""
    if device != "cuda":
        return None
    wait(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    wait(device)
    return torch.cuda.max_memory_allocated() - before


def candidate(job: Job, layer: FrozenDepthwiseConv2d, x: Tensor, g: Tensor, layout: str) -> dict[str, Any]:
    """Triton's backward against that of the autograd function, with the same forward before both."""
    from filterdb.frozen.autograd import FrozenConvolution
    from tests.gpu.triton_backward import TILES, TritonConvolution

    assert layer.bias is not None
    wanted = [x, layer.offset, layer.bias]
    given = [one.to(x.dtype) for one in (layer._template(), layer.offset, layer.bias)]
    template, offset, bias = given
    y = FrozenConvolution.apply(x, template, None, offset, bias, (1, 1), (3, 3), (1, 1), x.shape[1])
    exact = torch.autograd.grad(y, wanted, g, retain_graph=True)
    autograd = seconds_of(partial(torch.autograd.grad, y, wanted, g, retain_graph=True), job.device)
    times: dict[str, float] = {}
    errors: list[float] = []
    for tile in TILES[layout]:
        y = TritonConvolution.apply(x, template, None, offset, bias, (3, 3), tile)
        found = torch.autograd.grad(y, wanted, g, retain_graph=True)
        errors += [float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in zip(found, exact, strict=True)]
        run = partial(torch.autograd.grad, y, wanted, g, retain_graph=True)
        times["x".join(map(str, tile))] = seconds_of(run, job.device)
    best = min(times.values())
    right = max(errors) <= (2e-2 if x.dtype == torch.bfloat16 else 1e-4)
    return {
        "triton_seconds": times, "autograd_seconds": autograd, "triton_gain": autograd / best, "triton_error": max(errors),
        "triton_right": right,
    }  # fmt: skip


def _triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
