"""Evaluation of a network on images: accuracy and loss on labels, and agreement with the original network.

Shares are in [0, 1]. The rank of the right class is counted, ties by the class's number, and sums are made in float64, so the
numbers are the same whatever the batch size, the number of workers, or the order in which a device sorts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from filterdb.errors import FilterdbError, InvalidArgument, RunError
from filterdb.images import ImageSet, batches
from filterdb.networks.memory import keep_freed_memory
from filterdb.networks.network import Network
from filterdb.networks.shares import paired_error, standard_error
from filterdb.networks.statistics import Watch

Progress = Callable[[str, int, int], None]

METRICS = (
    "top1", "top1_se", "top5", "top5_se", "loss", "agreement", "agreement_se", "kl", "top1_difference", "top1_difference_se",
)  # fmt: skip
"""What is measured, in the order of the table."""
TOP5_FROM = 6
"""With fewer classes, the right one is nearly always among the first five, and top-5 says nothing."""


@dataclass(frozen=True)
class Evaluation:
    """The results. Undefined ones are None, and ``notes`` say why."""

    top1: float | None
    """Share of the images whose class has the largest logit."""
    top5: float | None
    """Share of the images whose class is among the five largest logits."""
    loss: float | None
    """Mean cross entropy, in nats."""
    agreement: float | None
    """Share of the images on which the original chooses the same class."""
    kl: float | None
    """Mean KL(original || network) of the softmax distributions, in nats."""
    images: int
    seconds: float
    device: str
    notes: tuple[str, ...] = ()
    run_id: str | None = None
    """Under which the database keeps it."""
    top1_difference: float | None = None
    """top1 less that of the original, on the same images."""
    top1_difference_se: float | None = None
    """Its standard error, of pairs: ``paired_error``."""
    norm_distance: float | None = None
    """How far the batch norms' inputs are from what they remember of the training: ``statistics.Watch.distance``."""
    warning: str | None = None
    """One line where that is too far: then the architecture may be the wrong one."""

    @property
    def top1_se(self) -> float | None:
        """Standard error of top1: ``standard_error``."""
        return None if self.top1 is None else standard_error(self.top1, self.images)

    @property
    def top5_se(self) -> float | None:
        """Standard error of top5."""
        return None if self.top5 is None else standard_error(self.top5, self.images)

    @property
    def agreement_se(self) -> float | None:
        """Standard error of agreement."""
        return None if self.agreement is None else standard_error(self.agreement, self.images)

    def metrics(self) -> dict[str, float]:
        """The numbers that have a meaning, by name."""
        return {name: value for name in METRICS if (value := getattr(self, name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        errors = {name: getattr(self, name) for name in ("top1_se", "top5_se", "agreement_se")}
        return asdict(self) | errors | {"notes": list(self.notes)}


def evaluate(
    network: Network,
    images: ImageSet,
    *,
    original: Network | Tensor | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str | None = None,
    amp: bool = False,
    channels_last: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a network on images, each prepared as the network wants it.

    Args:
        network: it moves to the device, and is left in the mode (training or not) in which it came.
        images: labelled; with an original they need not be, and only agreement and KL come out.
        original: what to compare with: a network, or its logits (n, classes) as ``logits`` gives them.
        batch_size: images at a time.
        workers: processes that decode images; 0 for this one.
        device: torch device; by default the network's, or the GPU if there is one.
        amp: autocast: bfloat16, or float16 on GPUs without it.
        channels_last: the memory layout that convolutions like on GPUs and many CPUs.
        progress: called with the current step, the images done, and the total.

    Raises:
        DataError: broken images, or no labels.
        RunError: labels or an original of other classes, logits that are not finite, out of memory, images it cannot take.
    """
    started = time.perf_counter()
    labels = images.labels if original is not None else images.labelled("an evaluation without an original")
    if labels is not None:
        labels = images.labelled("an evaluation")
    if len(images) == 0:
        raise InvalidArgument(f"{images.name}: no images are left to evaluate.")
    settings: dict[str, Any] = {"batch_size": batch_size, "amp": amp, "channels_last": channels_last}
    loading: dict[str, Any] = {"batch_size": batch_size, "workers": workers}
    sums = _Sums(labelled=labels is not None, compared=original is not None)
    with ExitStack() as stack:
        where = stack.enter_context(running(network, device, channels_last))
        # an original that wants the same images is run beside the network: to decode them is often the larger half
        beside = original if isinstance(original, Network) and original.preprocessing == network.preprocessing else None
        if beside is not None:
            stack.enter_context(running(beside, str(where), channels_last))
        elif isinstance(original, Network):
            original = logits(original, images, device=device, progress=progress, workers=workers, **settings)
        if isinstance(original, Tensor) and (original.ndim != 2 or len(original) != len(images)):
            raise InvalidArgument(f"Logits {tuple(original.shape)} of an original are not those of {len(images)} images.")
        watch = stack.enter_context(Watch(network))
        for x, y in batches(images, network.preprocessing, device=where, progress=progress, **loading):
            out = logits_of(network, x, **settings)
            watch.add(len(x))
            if sums.images == 0:
                check_classes(network, out.shape[1], images, labels)
            theirs = original[sums.images : sums.images + len(x)] if isinstance(original, Tensor) else None
            sums.add(out, y, theirs if beside is None else logits_of(beside, x, **settings))
    found = sums.result(time.perf_counter() - started, str(where))
    return replace(found, norm_distance=watch.distance(), warning=watch.warning())


def logits(
    network: Network, images: ImageSet, *, batch_size: int = 64, workers: int = 0, device: str | None = None, amp: bool = False,
    channels_last: bool = False, progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """The logits (n, classes) of a network, float32 on the CPU: to compare many networks with one original."""
    loading: dict[str, Any] = {"batch_size": batch_size, "workers": workers}
    with running(network, device, channels_last) as where:
        return torch.cat(
            [
                logits_of(network, x, batch_size=batch_size, amp=amp, channels_last=channels_last).float().cpu()
                for x, _ in batches(images, network.preprocessing, device=where, progress=progress, **loading)
            ]
        )


# -- running -------------------------------------------------------------------------------------------------------------------


@contextmanager
def running(network: Network, device: str | None, channels_last: bool) -> Iterator[torch.device]:
    """The module on its device in eval mode, and afterwards in the mode in which it came."""
    module = network.module
    if any(parameter.is_meta for parameter in module.parameters()):
        raise RunError(f"{network.name} is on the meta device, which has no weights. Load the weights first.")
    training = {one: one.training for one in module.modules()}
    keep_freed_memory()
    try:
        where = _device(module, device)
        module.to(where)
        if channels_last:
            module.to(memory_format=cast(Any, torch.channels_last))
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"{network.name} cannot go to the device {device or 'cuda'}: {_line(error)}. Choose another.") from error
    try:
        module.eval()
        with torch.inference_mode():
            yield where
    finally:
        for one, mode in training.items():
            one.training = mode


def _device(module: nn.Module, device: str | None) -> torch.device:
    """The device asked for, else the one of a module that is on one, else the GPU where there is one."""
    if device is not None:
        return torch.device(device)
    there = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    return there if there.type != "cpu" else torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, amp: bool) -> AbstractContextManager[Any]:
    """Half precision where it is asked for: bfloat16, or float16 on GPUs without it."""
    if not amp:
        return nullcontext()
    half = torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
    return torch.autocast(device.type, half)


def logits_of(network: Network, x: Tensor, *, batch_size: int, amp: bool, channels_last: bool) -> Tensor:
    """Logits (n, classes), checked."""
    try:
        with autocast(x.device, amp):
            out = network.module(x.contiguous(memory_format=torch.channels_last) if channels_last else x)
    except (RuntimeError, MemoryError, AssertionError, TypeError, ValueError) as error:
        raise run_error(error, network.name, f"images of {'x'.join(map(str, x.shape[1:]))}", batch_size) from error
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise RunError(f"{network.name} gives {got} for {len(x)} images, not logits (images, classes): it is no classifier.")
    if not bool(torch.isfinite(out).all()):
        advice = (
            "Run it without amp: half precision may overflow." if amp else "Its weights are damaged, or the training diverged."
        )
        raise RunError(f"{network.name} gives NaN or infinite logits. {advice}")
    return out


def run_error(error: BaseException, name: str, on: str, batch_size: int) -> FilterdbError:
    """What a network raised while it ran, in one line: out of memory, or that it cannot take its input."""
    if out_of_memory(error):
        return RunError(f"{name} ran out of memory with batches of {batch_size}. Take a smaller batch size.")
    return RunError(f"{name} cannot be run on {on}: {_line(error) or type(error).__name__}")


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error says: torch has a class of its own for GPUs alone."""
    text = _line(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text or "not enough memory" in text


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def check_classes(network: Network, classes: int, images: ImageSet, labels: NDArray[Any] | None) -> None:
    """Labels must be the network's classes. A set without names may lack the last classes, not have more."""
    if labels is None:
        return
    if images.classes is not None and len(images.classes) != classes:
        raise RunError(
            f"{images.name} has {len(images.classes)} classes, {network.name} has {classes}: the labels do not mean its classes. "
            "Give the data it was trained for."
        )
    if int(labels.max()) >= classes:
        raise RunError(
            f"{images.name} has the label {int(labels.max())}, {network.name} has {classes} classes, counted from 0. "
            "Give the data it was trained for."
        )


# -- numbers -------------------------------------------------------------------------------------------------------------------


class _Sums:
    """What is added up over the batches."""

    def __init__(self, *, labelled: bool, compared: bool):
        self.labelled, self.compared = labelled, compared
        self.images = self.classes = 0
        self.first = self.five = self.same = self.won = self.lost = 0
        self.loss = self.kl = 0.0

    def add(self, out: Tensor, labels: Tensor, original: Tensor | None) -> None:
        """One batch: logits (n, classes), labels (n,), the original's logits (n, classes)."""
        self.images, self.classes = self.images + len(out), out.shape[1]
        log_q = out.double().log_softmax(1)
        if self.labelled:
            ranks = _ranks(out, labels)
            right = ranks == 0
            self.first += int((ranks == 0).sum())
            self.five += int((ranks < 5).sum())
            self.loss -= float(log_q.gather(1, labels[:, None]).sum())
        if original is None:
            return
        if original.shape[1] != out.shape[1]:
            raise RunError(
                f"The original has {original.shape[1]} classes, the network {out.shape[1]}. Compare networks of the same classes."
            )
        theirs = original.to(out.device)
        if self.labelled:
            other = _ranks(theirs, labels) == 0
            self.won += int((right & ~other).sum())
            self.lost += int((other & ~right).sum())
        log_p = theirs.double().log_softmax(1)
        self.same += int((_choice(out) == _choice(theirs)).sum())
        self.kl += float((log_p.exp() * (log_p - log_q)).sum())

    def result(self, seconds: float, device: str) -> Evaluation:
        """The means."""
        n, notes = self.images, []
        if not self.labelled:
            notes.append("no labels: agreement and KL alone")
        elif self.classes < TOP5_FROM:
            notes.append(f"no top-5: there are only {self.classes} classes")
        five = self.five / n if self.labelled and self.classes >= TOP5_FROM else None
        paired = self.labelled and self.compared
        return Evaluation(
            self.first / n if self.labelled else None, five, self.loss / n if self.labelled else None,
            self.same / n if self.compared else None, self.kl / n if self.compared else None, n, seconds, device, tuple(notes),
            top1_difference=(self.won - self.lost) / n if paired else None,
            top1_difference_se=paired_error(self.won, self.lost, n) if paired else None,
        )  # fmt: skip


def _ranks(out: Tensor, labels: Tensor) -> Tensor:
    """(n,) how many classes come before the right one: larger logits, and equal ones of a smaller number."""
    right = out.gather(1, labels[:, None])
    numbers = torch.arange(out.shape[1], device=out.device)
    return ((out > right) | ((out == right) & (numbers < labels[:, None]))).sum(1)


def _choice(out: Tensor) -> Tensor:
    """(n,) the class of the largest logit, the first of equal ones."""
    return (out == out.amax(1, keepdim=True)).int().argmax(1)
