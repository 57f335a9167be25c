"""The training loop, for one process or several. A stopped training loses nothing.

With torchrun each process takes its share of every batch; frozen kernels are buffers, which need no
synchronisation.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from filterdb import networks
from filterdb.banks import Bank
from filterdb.errors import RunError
from filterdb.frozen.swap import to_plain
from filterdb.images import ImageSet
from filterdb.networks import Network, evaluation
from filterdb.training import state as states
from filterdb.training.data import Batches, some_of_each
from filterdb.training.initialise import depthwise
from filterdb.training.kernel_gradients import KernelGradients, decay, parameter_groups
from filterdb.training.modes import Prepared, check_finite, prepare
from filterdb.training.settings import Saving, Settings

Progress = Callable[[str, int, int], None]
Told = Callable[[list[dict[str, Any]]], None]
MODEL = "model.safetensors"
CHECKPOINTS = "checkpoints"
SAVING = Saving()


@dataclass
class Trained:
    """The result of a training."""

    network: Network
    """In eval mode, with frozen layers where the mode has them; the file at ``path`` has ordinary ones."""
    path: Path
    top1: float
    metrics: list[dict[str, Any]] = field(repr=False)
    """Rows of the table ``metrics``: step, epoch, split, metric, value."""
    epochs: int = 0
    resumed: int = 0
    """The epoch at which the run was resumed; 0 if it was not."""
    seconds: float = 0.0
    run_id: str | None = None


@dataclass(frozen=True)
class _Place:
    """Where one process of a training runs."""

    device: torch.device
    rank: int = 0
    world: int = 1


def train(
    settings: Settings, train_images: ImageSet, validation: ImageSet, out: Path, *, bank: Callable[[str], Bank],
    saving: Saving = SAVING, workers: int = 0, device: str | None = None, told: Told | None = None,
    progress: Progress | None = None,
) -> Trained:  # fmt: skip
    """Train, evaluate after each epoch, keep what is needed to resume, and save the network.

    Args:
        settings: what to train and how.
        train_images, validation: labelled, of the same classes.
        out: the folder of the run: ``last.pt`` to resume from, ``checkpoints/step_N.safetensors`` with the depthwise kernels
            after some steps (``run:OUT/checkpoints`` ingests them), and in the end ``model.safetensors``. A run of the same
            settings that was stopped there is resumed.
        bank: a bank by its name.
        saving: how often it is evaluated and kept.
        workers: processes that decode and augment images, for each process of the training.
        device: torch device; by default the GPU if there is one.
        told: called with all rows of ``metrics`` after each epoch.
        progress: called with the current stage, the steps done, and the total.

    Raises:
        DataError: broken images, or no labels.
        RunError: a loss that is NaN, out of memory, or a folder with another training.
    """
    started = time.perf_counter()
    classes = _classes(train_images, validation)
    if settings.train_images is not None:
        train_images = some_of_each(train_images, settings.train_images, settings.seed)
    with _processes(device) as place:
        prepared = prepare(settings, classes, bank)
        batches = Batches(
            train_images, prepared.network.preprocessing, settings, workers=workers, rank=place.rank, world=place.world
        )
        out.mkdir(parents=True, exist_ok=True)
        run = _Run(settings, prepared, batches, out, place)
        resumed = run.resume()
        kept = _kept(settings.epochs, saving.keep_every)
        total = settings.epochs * batches.steps
        if resumed == 0 and place.rank == 0:
            run.keep(0)

        def said(done: int) -> None:
            if progress:
                progress(f"training {settings.model}", done, total)

        try:
            for epoch in range(resumed, settings.epochs):
                run.epoch(epoch, saving.save_seconds, said)
                if place.rank == 0:
                    if (epoch + 1) % saving.evaluate_every == 0 or epoch + 1 == settings.epochs:
                        run.judge(validation, epoch, workers)
                    if epoch + 1 in kept:
                        run.keep((epoch + 1) * batches.steps)
                    run.save(epoch + 1)
                    if told is not None:
                        told(run.metrics)
        except (RuntimeError, MemoryError) as error:
            if not evaluation.out_of_memory(error):
                raise
            raise RunError(
                f"Out of memory on {place.device} with batches of {settings.batch_size}. Lower --batch-size and raise "
                "--accumulate, or use --amp."
            ) from error
        path = out / MODEL
        if place.rank == 0:
            run.write(path)
    top1 = next((row["value"] for row in reversed(run.metrics) if row["metric"] == "top1"), float("nan"))
    return Trained(run.judged(), path, top1, run.metrics, settings.epochs, resumed, time.perf_counter() - started)


class _Run:
    """The moving parts of a training."""

    def __init__(self, settings: Settings, prepared: Prepared, batches: Batches, out: Path, place: _Place):
        from timm.data import Mixup
        from timm.loss import SoftTargetCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        self.settings, self.network, self.batches, self.out, self.place = settings, prepared.network, batches, out, place
        self.bank = prepared.bank
        self.metrics: list[dict[str, Any]] = []
        self.inside: tuple[int, float, dict[str, Any] | None] = 0, 0.0, None
        """Of the epoch that comes: batches done, the sum of their losses, and the random numbers after them."""
        self.module = self.network.module.to(place.device)
        if settings.channels_last:
            self.module = self.module.to(memory_format=torch.channels_last)
        seed = settings.seed * 1009 + place.rank
        torch.manual_seed(seed)  # stochastic depth and dropout
        np.random.seed(seed)  # noqa: NPY002 - timm's mixup draws from it
        self.ema = ModelEmaV3(self.module, decay=settings.ema, use_warmup=True) if settings.ema is not None else None
        self.running: nn.Module = self.module
        if place.world > 1:
            self.running = nn.parallel.DistributedDataParallel(
                self.module, device_ids=[place.device.index] if place.device.type == "cuda" else None
            )
        self.updates = -(-batches.steps // settings.accumulate)
        kernels = [one.weight for one in depthwise(self.module).values()] if settings.forget is not None else []
        self.kernel_gradients = KernelGradients(kernels)
        own: Any = self.module
        betas: dict[str, Any] = {"betas": settings.opt_betas} if settings.opt_betas else {}
        if settings.forget is not None:
            forgotten = decay(settings.forget, settings.lr, settings.epochs * self.updates)
            own = parameter_groups(self.module, kernels, settings.weight_decay, forgotten)
        self.optimiser = create_optimizer_v2(
            own, opt=settings.opt, lr=settings.lr, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay,
            **betas,
        )  # fmt: skip
        self.scheduler, _ = create_scheduler_v2(
            self.optimiser, sched=settings.sched, num_epochs=settings.epochs, warmup_epochs=settings.warmup_epochs,
            warmup_lr=settings.lr * 1e-2, min_lr=settings.min_lr, step_on_epochs=False, updates_per_epoch=self.updates,
        )  # fmt: skip
        mixing = settings.mixup > 0 or settings.cutmix > 0
        classes = self.network.num_classes or 0
        self.mixup = (
            Mixup(settings.mixup, settings.cutmix, label_smoothing=settings.smoothing, num_classes=classes) if mixing else None
        )
        self.loss: nn.Module = SoftTargetCrossEntropy() if mixing else nn.CrossEntropyLoss(label_smoothing=settings.smoothing)
        half = torch.bfloat16 if place.device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
        self.half = half if settings.amp else None
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=self.half == torch.float16)

    def epoch(self, epoch: int, save_seconds: float, progress: Callable[[int], None]) -> None:
        """One pass over the images, or the rest of it where it was stopped."""
        settings, device = self.settings, self.place.device
        self.running.train()
        (first, total, random), self.inside = self.inside, (0, 0.0, None)
        started = saved = time.perf_counter()
        for i, (x, y) in enumerate(self.batches.epoch(epoch, first), first):
            if i == first and random is not None:  # not before: a DataLoader draws a number when it begins
                states.set_random_state(random)
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            if settings.channels_last:
                x = x.to(memory_format=torch.channels_last)
            if self.mixup is not None:
                x, y = self.mixup(x, y)
            last = (i + 1) % settings.accumulate == 0 or i + 1 == self.batches.steps
            share = (
                settings.accumulate
                if i < self.batches.steps // settings.accumulate * settings.accumulate
                else (self.batches.steps % settings.accumulate)
            )  # the batches that share this step
            waits: Any = getattr(self.running, "no_sync", contextlib.nullcontext)
            with contextlib.nullcontext() if last else waits():
                with torch.autocast(device.type, self.half) if self.half else contextlib.nullcontext():
                    loss: Tensor = self.loss(self.running(x).float(), y)
                self.scaler.scale(loss / share).backward()
            number = float(loss.detach())
            check_finite(number, epoch * self.batches.steps + i, settings, self.out)
            total += number
            if last:
                self._step(epoch * self.updates + i // settings.accumulate + 1)
                if self.place.rank == 0 and i + 1 < self.batches.steps and time.perf_counter() - saved >= save_seconds:
                    self.save(epoch, i + 1, total)
                    saved = time.perf_counter()
            progress(epoch * self.batches.steps + i + 1)
        steps = (epoch + 1) * self.batches.steps
        self._note(steps, epoch, "train", {
            "loss": total / self.batches.steps, "lr": self.optimiser.param_groups[0]["lr"],
            "images_per_second": (self.batches.steps - first) * settings.batch_size * self.place.world
            / (time.perf_counter() - started),
        })  # fmt: skip

    def _step(self, update: int) -> None:
        """Change the weights."""
        self.scaler.unscale_(self.optimiser)
        if self.settings.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip_grad)
        self.kernel_gradients.scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.module, step=update)
        self.scheduler.step_update(update)

    def judged(self) -> Network:
        """The network that counts: the average where there is one."""
        module: nn.Module = self.ema.module if self.ema is not None else self.module
        return replace(self.network, module=module.eval())

    def judge(self, images: ImageSet, epoch: int, workers: int) -> None:
        """Evaluate."""
        found = evaluation.evaluate(
            self.judged(), images, batch_size=max(64, self.settings.batch_size), workers=workers, amp=self.settings.amp,
            channels_last=self.settings.channels_last, device=str(self.place.device),
        )  # fmt: skip
        self._note((epoch + 1) * self.batches.steps, epoch, "validation", found.metrics())

    def _note(self, step: int, epoch: int, split: str, values: dict[str, float]) -> None:
        self.metrics += [
            {"step": step, "epoch": epoch + 1, "split": split, "metric": name, "value": value} for name, value in values.items()
        ]

    # -- files -----------------------------------------------------------------------------------------------------------

    def save(self, epochs: int, batches: int = 0, total: float = 0.0) -> None:
        """Keep the state to resume from: epochs that are done, batches of the next one, and the sum of their losses."""
        states.save(self.out, {
            "settings": self.settings.to_dict(), "epochs": epochs, "batches": batches, "total": total,
            "module": self.module.state_dict(), "optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(), "random": states.random_state(), "metrics": self.metrics,
            "kernel_gradients": self.kernel_gradients.size,
        })  # fmt: skip

    def resume(self) -> int:
        """Resume the run in the folder. Returns the epochs that are done."""
        state = states.load(self.out, self.settings)
        if state is None:
            return 0
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.metrics = state["metrics"]
        self.kernel_gradients.size = state.get("kernel_gradients", [])
        inside = int(state.get("batches", 0))  # files of an older filterdb have whole epochs alone
        self.scheduler.step_update(state["epochs"] * self.updates + inside // self.settings.accumulate)
        alone = self.place.world == 1
        self.inside = inside, state.get("total", 0.0), state["random"] if alone and inside else None
        if alone:
            states.set_random_state(state["random"])
        else:
            torch.manual_seed(self.settings.seed * 1009 + self.place.rank + 7919 * state["epochs"] + inside)
        return int(state["epochs"])

    def keep(self, step: int) -> None:
        """The depthwise kernels after a step, for ``filterdb ingest run:OUT/checkpoints``."""
        folder = self.out / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        kernels = {
            f"{name}.weight": one.weight.detach().cpu().float().contiguous()
            for name, one in depthwise(self.judged().module).items()
        }
        if kernels:
            _facts(self.network, self.settings, folder / "run.toml")
            save_file(kernels, folder / f"step_{step:07d}.safetensors", metadata={"format": "pt", "step": str(step)})

    def write(self, path: Path) -> None:
        """The network as an ordinary file, which says how it was made."""
        plain = replace(self.judged(), module=to_plain(copy.deepcopy(self.judged().module).cpu()))
        made = {"mode": self.settings.mode, "settings": self.settings.to_dict()}
        networks.save(plain, path, made | ({} if self.bank is None else {"bank": self.bank.name}))


def _facts(network: Network, settings: Settings, path: Path) -> None:
    """What ``filterdb ingest run:FOLDER`` is to know of all checkpoints: with the architecture, their strides and stages."""
    import timm

    lines = []
    if network.architecture is not None and timm.is_model(network.architecture):
        args = {**network.args, "num_classes": network.num_classes}
        lines = [f"architecture = {json.dumps(network.architecture)}", f"architecture_args = {_toml(args)}"]
    path.write_text("\n".join([*lines, f"# mode {settings.mode}, bank {settings.bank}", ""]), "utf-8")


def _toml(value: Any) -> str:
    """A value of the arguments of an architecture in TOML, whose scalars and lists are JSON's."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items() if one is not None) + " }"
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _classes(train_images: ImageSet, validation: ImageSet) -> int:
    """As many as the training set has; the validation set must not have others."""
    for images in (train_images, validation):
        images.labelled("a training")
    classes, others = train_images.num_classes or 0, validation.num_classes or 0
    if train_images.classes and validation.classes and train_images.classes != validation.classes:
        raise RunError(f"{validation.name} has other classes than {train_images.name}: their names or order differ.")
    if others > classes:
        raise RunError(
            f"{validation.name} has {others} classes and {train_images.name} has {classes}. Validate on the same classes."
        )
    return classes


def _kept(epochs: int, every: int | None) -> set[int]:
    """The epochs after which the kernels are kept: the last, and by default nine before it, twice as far apart each time."""
    if every is not None:
        return {*range(every, epochs + 1, every), epochs}
    return {epochs, *(max(1, epochs >> i) for i in range(1, 10))}


@contextlib.contextmanager
def _processes(device: str | None) -> Iterator[_Place]:
    """This process among those that torchrun started, or alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    if world == 1:
        try:
            yield _Place(torch.empty(0, device=device or ("cuda" if cuda else "cpu")).device)
        except (RuntimeError, AssertionError) as error:
            if device is not None and "device" in str(error).lower() and not isinstance(error, torch.OutOfMemoryError):
                raise RunError(f"There is no device {device} here. Choose another --device.") from error
            raise
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = cuda and (device is None or device.startswith("cuda"))
    if on_gpu:
        torch.cuda.set_device(local)
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield _Place(torch.device("cuda", local) if on_gpu else torch.device("cpu"), rank, world)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
