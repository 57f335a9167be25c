"""The frozen layer on the device against float64 on the CPU, beside what nn.Conv2d makes of the same numbers there.

Each case is a geometry, a precision, a layout, and plain or compiled. An error is the largest difference, in units of the largest
number of the answer in float64. A case is right if no error is above ``LIMITS``, or above three times that of nn.Conv2d.
The gradient of the offset is compared with the sum of nn.Conv2d's gradient over the taps.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from filterdb.frozen import autograd
from filterdb.frozen.layer import FrozenDepthwiseConv2d, Parts
from filterdb.frozen.swap import freeze_layers, to_plain
from filterdb.training.initialise import depthwise
from tests.gpu.results import Job, say

Geometry = dict[str, Any]

GEOMETRIES: dict[str, Geometry] = {
    "96 x 56": {"channels": 96, "side": 56, "padding": 3},
    "192 x 28": {"channels": 192, "side": 28, "padding": 3},
    "384 x 14": {"channels": 384, "side": 14, "padding": 3},
    "768 x 7": {"channels": 768, "side": 7, "padding": 3},
    "stride 2": {"channels": 96, "side": 56, "padding": 3, "stride": 2},
    "dilated": {"channels": 96, "side": 28, "padding": 6, "dilation": 2},
    "two outputs a channel": {"channels": 96, "out": 192, "side": 28, "padding": 3},
    "5x5, padding same, stride 2": {"channels": 96, "side": 28, "kernel_size": 5, "padding": "same", "stride": 2},
}
TOYS = ("96 x 56", "stride 2", "5x5, padding same, stride 2")
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2}
QUANTITIES = ("output", "input gradient", "offset gradient", "gain gradient", "bias gradient")


def piece(job: Job) -> dict[str, Any]:
    """All cases, the backward in parts, and whole networks."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cases = []
    for name, precision, layout, compiled in product(
        TOYS if job.toy else GEOMETRIES, LIMITS, ("contiguous", "channels_last"), (False, True)
    ):
        if compiled and job.toy and (name, layout) != (TOYS[0], "channels_last"):
            continue
        if compiled and not job.toy and name not in ("96 x 56", "768 x 7", "stride 2"):
            continue  # compilation takes seconds
        cases.append(case(job, name, precision, layout, compiled))
    cases.append(in_parts(job))
    networks = [network(job, precision) for precision in LIMITS]
    wrong = [one["case"] for one in (*cases, *networks) if not one["right"]]
    say(f"  {len(cases) + len(networks) - len(wrong)} of {len(cases) + len(networks)} right" + "".join(f"\n  {w}" for w in wrong))
    return {"cases": cases, "networks": networks, "right": not wrong, "limits": LIMITS}


def case(job: Job, name: str, precision: str, layout: str, compiled: bool) -> dict[str, Any]:
    """One case. At toy size everything is an eighth as large, and what is compiled is traced but not made machine code."""
    given = dict(GEOMETRIES[name])
    small = 8 if job.toy else 1
    channels, side = given.pop("channels") // small, max(7, given.pop("side") // small)
    out = given.pop("out", channels * small) // small
    kernel_size = given.pop("kernel_size", 7)
    random = torch.Generator().manual_seed(0)
    parts = Parts(
        torch.randn(8, kernel_size, kernel_size, generator=random), torch.randint(8, (out,), generator=random),
        torch.randn(out, generator=random), torch.randn(out, generator=random) / 10,
    )  # fmt: skip
    layer = FrozenDepthwiseConv2d(channels, out, kernel_size, parts=parts, train_gain=True, dtype=torch.float64, **given)
    with torch.no_grad():
        layer.bias.copy_(torch.randn(out, generator=random))  # type: ignore[union-attr]
    half = precision == "bfloat16"
    x = torch.randn(4 if job.toy else 16, channels, side, side, generator=random)
    g = torch.randn(layer(x.double()).shape, generator=random)
    if half:
        x, g = x.bfloat16().float(), g.bfloat16().float()  # so that only the arithmetic differs
    exact = passed(layer, x.double(), g.double())
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    layer = layer.float()
    found, other = {}, {}
    for kind, module, answers in (("frozen", layer, found), ("conv", layer.to_conv(), other)):
        module = module.to(job.device, memory_format=form)
        if compiled and kind == "frozen":
            torch._dynamo.reset()
            module = torch.compile(module, backend="aot_eager" if job.toy else "inductor", fullgraph=True)  # type: ignore[assignment]
        moved = [one.to(job.device, torch.bfloat16 if half else None).contiguous(memory_format=form) for one in (x, g)]
        with torch.autocast(job.device, torch.bfloat16, enabled=half):
            answers |= passed(module, *moved, layer=layer if kind == "frozen" else None)
    return judged(f"{name}, {precision}, {layout}{', compiled' if compiled else ''}", precision, exact, found, other)


def judged(
    what: str, precision: str, exact: dict[str, Tensor], found: dict[str, Tensor], other: dict[str, Tensor]
) -> dict[str, Any]:  # fmt: skip
    """The errors of a case. A number that nn.Conv2d does not have is judged by the limit alone."""

    def error(answers: dict[str, Tensor], name: str) -> float | None:
        if name not in answers:
            return None
        return float((answers[name].double().cpu() - exact[name]).abs().max() / exact[name].abs().max())

    errors = {name: error(found, name) for name in exact}
    conv = {name: error(other, name) for name in exact}
    right = all(one is not None and one <= max(LIMITS[precision], 3 * (conv[name] or 0)) for name, one in errors.items())
    return {"case": what, "errors": errors, "conv_errors": conv, "right": right}


def passed(module: Any, x: Tensor, g: Tensor, layer: Any = None) -> dict[str, Tensor]:
    """Output and gradients."""
    layer = module if layer is None else layer
    x = x.detach().requires_grad_()
    y = module(x)
    frozen = isinstance(layer, FrozenDepthwiseConv2d)
    wanted = [layer.offset, layer.gain] if frozen else [layer.weight]
    with torch.autocast(x.device.type, enabled=False):
        for_x, for_bias, *others = torch.autograd.grad(y, [x, layer.bias, *wanted], g.to(y.dtype))
    answers = {"output": y.detach(), "input gradient": for_x, "bias gradient": for_bias}
    if frozen:
        return answers | {"offset gradient": others[0], "gain gradient": others[1]}
    return answers | {"offset gradient": others[0].sum((1, 2, 3)).view(-1, 1, 1, 1)}


def in_parts(job: Job) -> dict[str, Any]:
    """Backward with few images at a time, as for large inputs."""
    before = autograd.CPU_PART, autograd.DEVICE_PART
    autograd.CPU_PART = autograd.DEVICE_PART = 4 * 12 * 7 * 7 * 2
    try:
        found = case(job, "96 x 56", "float32", "contiguous", False)
    finally:
        autograd.CPU_PART, autograd.DEVICE_PART = before
    return found | {"case": found["case"] + ", few images at a time"}


def network(job: Job, precision: str) -> dict[str, Any]:
    """A frozen ConvNeXt against the same network with ordinary layers, on the device: logits, and the gradients they share."""
    import timm

    torch.manual_seed(0)
    # at timm's own 1e-6 the blocks would hardly count
    args = {"ls_init_value": 1.0} | ({"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)} if job.toy else {})
    plain = timm.create_model("convnext_atto", num_classes=10, **args)
    index = {name: torch.randint(8, (one.out_channels,)) for name, one in depthwise(plain).items()}
    freeze_layers(plain, {name: Parts(torch.randn(8, 7, 7) / 7, chosen) for name, chosen in index.items()})
    frozen = plain.to(job.device, memory_format=torch.channels_last)
    x = torch.randn(2 if job.toy else 16, 3, 64, 64, device=job.device).contiguous(memory_format=torch.channels_last)
    y = torch.arange(len(x), device=job.device) % 10
    answers = []
    for module in (frozen, None):
        module = to_plain(frozen) if module is None else module
        module.zero_grad()
        with torch.autocast(job.device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = module(x)
        nn.functional.cross_entropy(logits.float(), y).backward()
        shared = {name: one.grad for name, one in module.named_parameters() if one.grad is not None and "conv_dw" not in name}
        answers.append((logits.detach().float(), shared))
    (ours, grads), (theirs, others) = answers
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    names = [name for name in others if name in grads]
    flat = [torch.cat([some[name].float().flatten() for name in names]) for some in (grads, others)]
    gradient = float((flat[0] - flat[1]).norm() / flat[1].norm())
    right = max(error, gradient) <= (1e-4 if precision == "float32" else 5e-2) and len(names) > 0
    return {"case": f"ConvNeXt, {precision}", "logits": error, "gradients": gradient, "shared": len(names), "right": right}
