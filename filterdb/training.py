"""Train the demo network: a small ConvNeXt with 7x7 depthwise kernels, on one machine, in one readable loop.

    python -m filterdb.training TRAIN.parquet VALIDATION.parquet OUT_FOLDER --epochs 30

The image files are Parquet in the Hugging Face layout (``image.bytes``, ``label``), all of one square size. The run keeps a
resumable ``last.pt``, a ``log.csv`` with a line per epoch, and ends with ``model.safetensors``.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

ARCHITECTURE = "convnext_atto"
ARCHITECTURE_ARGS: dict[str, Any] = {"patch_size": 2, "depths": (3, 3, 3, 1), "dims": (32, 64, 128, 192)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    """All images of a Parquet file as uint8 (n, 3, h, w), and their labels (n,)."""
    table = pq.read_table(path, columns=["image", "label"])
    pictures = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["image"].to_pylist()]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(table["label"].to_numpy().copy())


def normalise(images: Tensor) -> Tensor:
    """uint8 to float, with ImageNet's channel means and deviations."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random resized crop (area 35 % to 100 %, aspect 3/4 to 4/3) and horizontal flip, one affine map for each image."""
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    area, aspect = uniform(0.35, 1.0), torch.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = width * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * uniform(-1, 1)
    theta[:, 1, 2] = (1 - height) * uniform(-1, 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in [0, 1]."""
    model.eval()
    hits = 0
    for x, y in zip(images.split(500), labels.split(500), strict=True):
        hits += int((model(normalise(x)).argmax(1) == y).sum())
    return hits / len(labels)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Depthwise kernels on their own: a tenth of the usual start, a large epsilon and more decay.

    A layer norm follows them, so only their direction counts, and in a short run that direction is mostly the random start and
    Adam's noise. Starting small forgets the start. An epsilon above the usual gradient (0.001 to 0.005 here) makes Adam's step
    follow the gradient's size, so that the outer taps, whose gradient is several times smaller, are not shaken as hard as the
    centre; the decay then lets the unused ones fade.
    """
    kernels: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Conv2d) and module.groups == module.in_channels and name == "weight":
                nn.init.normal_(parameter, std=0.002)
                kernels.append(parameter)
            else:
                (matrices if parameter.ndim > 1 else vectors).append(parameter)
    return [
        {"params": kernels, "weight_decay": 8 * weight_decay, "scale": 0.5, "eps": 5e-3},
        {"params": matrices, "weight_decay": weight_decay, "scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "scale": 1.0},
    ]


def train(
    train_path: Path, validation_path: Path, out: Path, *, epochs: int, batch: int, peak_lr: float, weight_decay: float, seed: int
) -> float:
    """Train, log, checkpoint after each epoch and resume from the last one. Returns the final top-1 accuracy."""
    import timm

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    images, labels = load_images(train_path)
    test_images, test_labels = load_images(validation_path)
    classes = int(labels.max()) + 1
    model = timm.create_model(ARCHITECTURE, num_classes=classes, drop_path_rate=0.05, **ARCHITECTURE_ARGS)
    model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(parameter_groups(model, weight_decay), betas=(0.9, 0.99))
    per_epoch = len(labels) // batch
    steps = epochs * per_epoch
    first, top1, log = 0, 0.0, []
    state_file = out / "last.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, log, top1 = state["epoch"], state["log"], state["log"][-1][-1]

    for epoch in range(first, epochs):
        model.train()
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)  # an epoch is the same, resumed or not
        order = torch.randperm(len(labels), generator=generator)[: per_epoch * batch].view(per_epoch, batch)
        started, loss_sum = time.perf_counter(), 0.0
        for i, index in enumerate(order):
            for group in optimiser.param_groups:
                group["lr"] = group["scale"] * learning_rate(epoch * per_epoch + i, steps, peak_lr, 3 * per_epoch)
            x = augment(normalise(images[index]), generator).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), labels[index], label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            loss_sum += loss.item()
            if not math.isfinite(loss_sum):
                sys.exit(f"The loss became {loss_sum} in epoch {epoch}. Lower --peak-lr (now {peak_lr}).")
        top1 = accuracy(model, test_images, test_labels)
        log.append([epoch + 1, round(loss_sum / per_epoch, 4), round(top1, 4)])
        print(
            f"epoch {epoch + 1}/{epochs}  loss {log[-1][1]}  top-1 {top1:.4f}  {time.perf_counter() - started:.0f} s", flush=True
        )
        partial = state_file.with_suffix(".partial")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch + 1, "log": log}, partial)
        partial.replace(state_file)
        with (out / "log.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["epoch", "training_loss", "validation_top1"], *log])

    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return top1


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m filterdb.training", description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--peak-lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    top1 = train(
        args.train, args.validation, args.out, epochs=args.epochs, batch=args.batch,
        peak_lr=args.peak_lr, weight_decay=args.weight_decay, seed=args.seed,
    )  # fmt: skip
    print(f"top-1 {top1:.4f}; weights in {args.out / 'model.safetensors'}")


if __name__ == "__main__":
    main()
