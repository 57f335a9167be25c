"""Trainings that differ in nothing but their depthwise kernels: a small ConvNeXt on Tiny-ImageNet-100 at 64 px, two seeds each.

The network is that of the recipe ``demo``, without its ``forget``, which frozen kernels do not have. All images are on the
device. The steps of each mode are timed first; the number of epochs is what fits into the minutes that are left, the same for all
runs, and stands in ``plan.json``. Each run is a piece of its own. A run that is stopped is begun anew.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from filterdb import banks, networks
from filterdb.frozen.layer import FrozenDepthwiseConv2d
from filterdb.frozen.swap import to_plain
from filterdb.training import Settings, loop
from filterdb.training.initialise import depthwise
from filterdb.training.modes import Prepared, prepare
from tests.gpu.data import Pictures, augmented, load, normaliser
from tests.gpu.results import Job, say, wait, write

MODES: dict[str, dict[str, Any]] = {
    "trainable": {"mode": "trainable"},
    "greedy8": {"mode": "frozen+bias", "bank": "greedy8"},
    "greedy9": {"mode": "frozen+bias", "bank": "greedy9"},
    "random8": {"mode": "frozen+bias", "bank": "random"},
    "dog": {"mode": "dog-init"},
}
SEEDS = (0, 1)
MOST_EPOCHS = 100
SHARE = 0.92
"""Of the time that is left, what the steps may take; evaluation, files and a slower machine take the rest."""
Data = tuple[Pictures, Pictures, dict[str, Any]]


def piece(job: Job, seeds: tuple[int, ...] = SEEDS) -> None:
    """Plan, train what is missing as long as there is time, and write ``training.json`` of all that is finished."""
    modes = {name: given for name, given in MODES.items() if given.get("bank") in (None, *banks.shipped())}
    for name in MODES.keys() - modes.keys():
        say(f"  no bank {MODES[name]['bank']} ships with filterdb: {name} is left out")
    runs = [(name, seed) for seed in seeds for name in modes]
    missing = [run for run in runs if job.finished("{}-{}".format(*run)) is None]
    if missing:
        data = load(job.pack or Path(".gpu/images.safetensors"), job.device)
        plan = job.run("plan", partial(planned, data=data, modes=modes, runs=len(seeds)))
        say(f"  {plan['epochs']} epochs of {plan['steps']} steps for each of {len(runs)} runs")
        for name, seed in missing:
            needed = plan["step_seconds"][name] * plan["epochs"] * plan["steps"]
            if job.left < needed:
                say(f"  {job.left:.0f} s are left and {name}-{seed} needs {needed:.0f}: start again with more --minutes")
                break
            job.run(f"{name}-{seed}", partial(trained, data=data, name=name, seed=seed, epochs=plan["epochs"]))
    summary = {**job.place, "seconds": 0.0, **summarised(job, list(modes), seeds)}
    write(job.out / "training.json", summary)
    for name, found in summary["modes"].items():
        say(f"  {name}: {', '.join(f'{one:.2f}' for one in found['top1'])} %")


def settings(job: Job, name: str, seed: int, epochs: int) -> Settings:
    """Of one run. At toy size the network has four blocks of 8 and 16 channels."""
    own: dict[str, Any] = {"forget": None, "batch_size": 256, "warmup_epochs": max(1, epochs // 10) if epochs > 1 else 0}
    if job.toy:
        args = {"patch_size": 2, "depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
        own |= {"args": args, "input_size": 32, "batch_size": 16, "drop_path": 0.0, "mixup": 0.2}
    return Settings.recipe("demo", **(own | {"epochs": epochs, "seed": seed} | MODES[name]))


def planned(job: Job, data: Data, modes: dict[str, Any], runs: int) -> dict[str, Any]:
    """Seconds of a step of each mode, and the epochs that fit."""
    steps = len(data[0].labels) // settings(job, "trainable", 0, 1).batch_size
    found = {}
    for name in modes:
        run = Run(job, settings(job, name, 0, 1), data)
        batches = list(zip(run.batches(0), range(3 if job.toy else 40), strict=False))
        for i, (batch, number) in enumerate(batches):
            if i == len(batches) // 3:  # warm by now
                wait(job.device)
                start = time.perf_counter()
            run.step(*batch, number)
        wait(job.device)
        found[name] = (time.perf_counter() - start) / (len(batches) - len(batches) // 3)
    epochs = math.floor(SHARE * job.left / (runs * steps * sum(found.values())))
    epochs = min(epochs, 2 if job.toy else MOST_EPOCHS)
    if epochs < 1:
        raise SystemExit(f"{job.left:.0f} s are not enough for one epoch of each run. Give more --minutes.")
    return {"epochs": epochs, "steps": steps, "step_seconds": found}


class Run:
    """One network and what trains it."""

    def __init__(self, job: Job, chosen: Settings, data: Data):
        from timm.data import Mixup
        from timm.loss import SoftTargetCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2

        self.device, self.settings, (self.train, self.validation, about) = job.device, chosen, data
        if chosen.input_size != about["side"]:
            chosen = self.settings = replace(chosen, input_size=about["side"])
        self.prepared: Prepared = prepare(chosen, about["classes"], partial(banks.load, size="7x7"))
        self.module = self.prepared.network.module.to(job.device, memory_format=torch.channels_last).train()
        torch.manual_seed(chosen.seed)
        np.random.seed(chosen.seed)  # noqa: NPY002 - timm's mixup draws from it
        self.random = torch.Generator(job.device).manual_seed(chosen.seed)
        self.steps = len(self.train.labels) // chosen.batch_size
        self.prepared_for = normaliser(self.prepared.network.preprocessing, job.device)
        betas: Any = {"betas": chosen.opt_betas} if chosen.opt_betas else {}
        self.optimiser = create_optimizer_v2(
            self.module, opt=chosen.opt, lr=chosen.lr, weight_decay=chosen.weight_decay, **betas
        )  # fmt: skip
        self.scheduler, _ = create_scheduler_v2(
            self.optimiser, sched=chosen.sched, num_epochs=chosen.epochs, warmup_epochs=chosen.warmup_epochs,
            warmup_lr=chosen.lr * 1e-2, step_on_epochs=False, updates_per_epoch=self.steps,
        )  # fmt: skip
        classes = about["classes"]
        self.mixup = Mixup(chosen.mixup, label_smoothing=chosen.smoothing, num_classes=classes) if chosen.mixup else None
        self.loss = SoftTargetCrossEntropy() if self.mixup else nn.CrossEntropyLoss(label_smoothing=chosen.smoothing)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, augmented; images of an incomplete last one are left out."""
        order = torch.randperm(len(self.train.labels), generator=self.random, device=self.device)
        for rows in order[: self.steps * self.settings.batch_size].view(self.steps, -1):
            yield self.prepared_for(augmented(self.train.images[rows], self.random)), self.train.labels[rows]

    def step(self, x: Tensor, y: Tensor, number: int) -> Tensor:
        """One change of the weights; the loss stays on the device, so that nothing waits for it."""
        if self.mixup is not None:
            x, y = self.mixup(x, y)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.settings.amp):
            logits = self.module(x)
        loss = self.loss(logits.float(), y)
        loss.backward()
        if self.settings.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip_grad)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.scheduler.step_update(number + 1)
        return loss.detach()

    @torch.no_grad()
    def top1(self) -> float:
        """Per cent of the validation images."""
        self.module.eval()
        right = torch.zeros((), device=self.device)
        for images, labels in zip(self.validation.images.split(500), self.validation.labels.split(500), strict=True):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.settings.amp):
                right += (self.module(self.prepared_for(images)).argmax(1) == labels).sum()
        self.module.train()
        return 100 * float(right) / len(self.validation.labels)

    def keep(self, folder: Path, step: int) -> None:
        """The depthwise kernels after a step, as ``filterdb train`` keeps them, for ``filterdb ingest run:FOLDER``."""
        folder.mkdir(parents=True, exist_ok=True)
        loop._facts(self.prepared.network, self.settings, folder / "run.toml")
        kernels = {
            f"{name}.weight": one.weight.detach().cpu().float().contiguous() for name, one in depthwise(self.module).items()
        }
        save_file(kernels, folder / f"step_{step:07d}.safetensors", metadata={"format": "pt", "step": str(step)})


def trained(job: Job, data: Data, name: str, seed: int, epochs: int) -> dict[str, Any]:
    """One run: its losses, its top-1 after every epoch, and how far the templates moved, which is 0."""
    folder = job.out / "runs" / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    run = Run(job, settings(job, name, seed, epochs), data)
    frozen = {key: one for key, one in run.module.named_modules() if isinstance(one, FrozenDepthwiseConv2d)}
    before = {key: one.templates.clone() for key, one in frozen.items()}
    kept = loop._kept(epochs, None) if name == "trainable" else set()
    if kept:
        run.keep(folder / loop.CHECKPOINTS, 0)
    losses, accuracies = [], []
    for epoch in range(epochs):
        found = [run.step(x, y, epoch * run.steps + i) for i, (x, y) in enumerate(run.batches(epoch))]
        losses.append(float(torch.stack(found).mean()))
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"The loss of {name}-{seed} is {losses[-1]} in epoch {epoch + 1}.")
        accuracies.append(run.top1())
        if epoch + 1 in kept:
            run.keep(folder / loop.CHECKPOINTS, (epoch + 1) * run.steps)
    moved = max((float((one.templates - before[key]).abs().max()) for key, one in frozen.items()), default=0.0)
    if name == "trainable":
        module = to_plain(copy.deepcopy(run.module).cpu().eval())
        made = {"mode": run.settings.mode, "settings": run.settings.to_dict()}
        networks.save(replace(run.prepared.network, module=module), folder / loop.MODEL, made)
    top1, n = accuracies[-1], len(run.validation.labels)
    say(f"  {name}-{seed}: {top1:.2f} %")
    return {
        "mode": name, "seed": seed, "epochs": epochs, "steps": epochs * run.steps, "top1": top1,
        "standard_error": math.sqrt(top1 * (100 - top1) / n), "losses": losses, "top1_by_epoch": accuracies,
        "frozen_layers": len(frozen), "templates_moved": moved, "settings": run.settings.to_dict(),
        "parameters": sum(one.numel() for one in run.module.parameters()),
    }  # fmt: skip


def summarised(job: Job, modes: list[str], seeds: tuple[int, ...]) -> dict[str, Any]:
    """Mean and spread over the seeds that are finished; and the best trainable run, copied to ``best``."""
    runs = {(name, seed): job.finished(f"{name}-{seed}") for name in modes for seed in seeds}
    table = {}
    for name in modes:
        done = [run for seed in seeds if (run := runs[name, seed]) is not None]
        if done:
            top1 = [run["top1"] for run in done]
            table[name] = {
                "top1": top1, "standard_errors": [run["standard_error"] for run in done], "mean": mean(top1),
                "standard_deviation": stdev(top1) if len(top1) > 1 else None,
            }  # fmt: skip
    plan = job.finished("plan") or {}
    found = {"complete": all(runs.values()), "epochs": plan.get("epochs"), "modes": table}
    trainable = [run for (name, _), run in runs.items() if name == "trainable" and run is not None]
    if trainable:
        best = max(trainable, key=lambda run: run["top1"])
        shutil.rmtree(job.out / "best", ignore_errors=True)
        shutil.copytree(job.out / "runs" / f"trainable-{best['seed']}", job.out / "best")
        (job.out / "best" / "facts.json").write_text(json.dumps({key: best[key] for key in ("seed", "epochs", "top1")}) + "\n")
        found["best_trainable_seed"] = best["seed"]
    return found
