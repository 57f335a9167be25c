"""Train the demo network: a small ConvNeXt with 7x7 depthwise kernels, on one machine, in one readable loop.

    python -m filterdb.training.demo TRAIN.parquet VALIDATION.parquet OUT_FOLDER --epochs 30

The image files are Parquet in the Hugging Face layout (``image.bytes``, ``label``), all of one square size. The run keeps a
resumable ``last.pt``, a ``log.csv`` with a line per epoch, the depthwise kernels at some steps in ``checkpoints``, which
``filterdb ingest run:OUT_FOLDER/checkpoints`` takes, and ends with ``model.safetensors``.
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


def parameter_groups(model: nn.Module, weight_decay: float, kernel_decay: float) -> list[dict[str, Any]]:
    """Depthwise kernels on their own: see ``KernelGradients``. Normalisations and biases do not decay."""
    kernels = depthwise(model)
    own = {id(parameter) for parameter in kernels.values()}
    others = [parameter for parameter in model.parameters() if id(parameter) not in own]
    return [
        {"params": list(kernels.values()), "weight_decay": kernel_decay, "scale": 0.5, "eps": 5.0},
        {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay, "scale": 1.0},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "scale": 1.0},
    ]


def depthwise(model: nn.Module) -> dict[str, Tensor]:
    """The depthwise kernels of a network by the names of their tensors."""
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    }


class KernelGradients:
    """Divides the gradient of each depthwise layer by a running root mean square of that layer.

    A layer norm follows the kernels, so only their direction counts, and in a short run it is mostly the random start and
    Adam's noise: Adam steps as far along a tap whose gradient is noise as along one that matters. With gradients of size 1 and
    an epsilon above that, AdamW is plain momentum with the same pace in every layer, so taps move as far as their gradient says;
    and a decay that forgets all but the last part of the run leaves the average of many gradients, which is smooth, instead
    of the sum of all.
    """

    def __init__(self, kernels: list[Tensor]):
        self._kernels = kernels
        self.size = [0.0] * len(kernels)

    def scale(self) -> None:
        """Call between ``backward`` and ``step``, after any clipping."""
        for i, kernel in enumerate(self._kernels):
            if kernel.grad is not None:
                now = float(kernel.grad.square().mean().sqrt())
                self.size[i] = 0.98 * self.size[i] + 0.02 * now if self.size[i] else now
                kernel.grad.div_(self.size[i] + 1e-12)


def keep(model: nn.Module, folder: Path, step: int) -> None:
    """The depthwise kernels after a step, in half precision, as ``step_N.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    kernels = {name: weight.detach().half().contiguous() for name, weight in depthwise(model).items()}
    save_file(kernels, folder / f"step_{step:06d}.safetensors", metadata={"format": "pt", "step": str(step)})


def train(
    train_path: Path, validation_path: Path, out: Path, *, epochs: int, batch: int, peak_lr: float, weight_decay: float,
    forget: float, seed: int,
) -> float:  # fmt: skip
    """Train, log, checkpoint after each epoch and resume from the last one. Returns the final top-1 accuracy."""
    import timm

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    images, labels = load_images(train_path)
    test_images, test_labels = load_images(validation_path)
    classes = int(labels.max()) + 1
    model = timm.create_model(ARCHITECTURE, num_classes=classes, drop_path_rate=0.05, **ARCHITECTURE_ARGS)
    model = model.to(memory_format=torch.channels_last)
    for kernel in depthwise(model).values():
        nn.init.normal_(kernel, std=0.02)
    per_epoch = len(labels) // batch
    steps = epochs * per_epoch
    kernel_decay = forget / (0.5 * 0.5 * peak_lr * steps)  # at half the peak rate on average, for kernels half of that
    optimiser = torch.optim.AdamW(parameter_groups(model, weight_decay, kernel_decay), betas=(0.9, 0.99))
    gradients = KernelGradients(list(depthwise(model).values()))
    kept = {0, steps, *(per_epoch * 2**i // 8 for i in range(20))}
    first, top1, log = 0, 0.0, []
    state_file = out / "last.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, log, top1, gradients.size = state["epoch"], state["log"], state["log"][-1][-1], state["gradients"]
    else:
        keep(model, out / "checkpoints", 0)

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
            gradients.scale()
            optimiser.step()
            if (done := epoch * per_epoch + i + 1) in kept:
                keep(model, out / "checkpoints", done)
            loss_sum += loss.item()
            if not math.isfinite(loss_sum):
                sys.exit(f"The loss became {loss_sum} in epoch {epoch}. Lower --peak-lr (now {peak_lr}).")
        top1 = accuracy(model, test_images, test_labels)
        log.append([epoch + 1, round(loss_sum / per_epoch, 4), round(top1, 4)])
        print(
            f"epoch {epoch + 1}/{epochs}  loss {log[-1][1]}  top-1 {top1:.4f}  {time.perf_counter() - started:.0f} s", flush=True
        )
        partial = state_file.with_suffix(".partial")
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "gradients": gradients.size}
        torch.save(state | {"epoch": epoch + 1, "log": log}, partial)
        partial.replace(state_file)
        with (out / "log.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["epoch", "training_loss", "validation_top1"], *log])

    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return top1


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m filterdb.training.demo", description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--peak-lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument(
        "--forget", type=float, default=8.0, help="the depthwise kernels' start decays by exp(-this) over the run"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    top1 = train(
        args.train, args.validation, args.out, epochs=args.epochs, batch=args.batch,
        peak_lr=args.peak_lr, weight_decay=args.weight_decay, forget=args.forget, seed=args.seed,
    )  # fmt: skip
    print(f"top-1 {top1:.4f}; weights in {args.out / 'model.safetensors'}")


if __name__ == "__main__":
    main()
