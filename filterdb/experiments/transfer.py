"""Transfer of the first layers: how many depthwise layers can have the frozen kernels of another network, and from which network.

    python -m filterdb.experiments.transfer --data TRAIN --val-data VALIDATION --mcunet FILE --out FOLDER --csv FILE

A small network is trained with the first K of its depthwise layers taken from a source and frozen, for each K from 0 to all. FILE
is MCUNet's mcunet-320kb-1mb_imagenet.pth; without it, that source is left out. A stopped run is resumed, and runs whose rows are
in the CSV are skipped.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from filterdb import banks
from filterdb.experiments import training
from filterdb.images import ImageSet, open_images
from filterdb.networks import load, new
from filterdb.training import Saving, Settings, train
from filterdb.training.initialise import depthwise

NONE, DEMO, MCUNET, RANDOM = "none", "same architecture, Tiny ImageNet", "MCUNet, ImageNet", "random kernels"
KEY = ("source", "transfer_layers", "seed", "images", "epochs")
COLUMNS = (*KEY, "top1", "error", "loss", "seconds")
Row = dict[str, Any]


def settings(source: str, layers: int, seed: int, images: int, seen: int) -> Settings:
    """One run. It is that of ``filterdb.experiments.training`` with transferred layers; ``source`` is a file."""
    plain = training.settings("trainable", images, seed, seen, 32)
    return plain if layers == 0 else replace(plain, filters=source, transfer_layers=layers)


def sources(folder: Path, seed: int, mcunet: Path | None) -> dict[str, str]:
    """The files of kernels by source. The demo network's layers are scaled to the length that untrained layers have.

    Its kernels shrank in training. Without the scaling, the sources would differ in length as well as in shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    untrained = _kernels(_fresh(100 + seed))
    trained = {
        name: kernel * np.float32(np.linalg.norm(untrained[name]) / np.linalg.norm(kernel))
        for name, kernel in _kernels(load("demo").module).items()
    }
    found = {}
    for name, kernels, file in ((DEMO, trained, f"demo-{seed}"), (RANDOM, untrained, f"random-{seed}")):
        path = folder / f"{file}.safetensors"
        save_file({f"{layer}.weight": kernel for layer, kernel in kernels.items()}, path)
        found[name] = str(path)
    return found if mcunet is None else {DEMO: found[DEMO], MCUNET: str(mcunet), RANDOM: found[RANDOM]}


def _fresh(seed: int) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return new("demo").module


def _kernels(module: Any) -> dict[str, Any]:
    return {name: np.ascontiguousarray(one.weight.detach().numpy()) for name, one in depthwise(module).items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m filterdb.experiments.transfer", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labelled images to train on")
    parser.add_argument("--val-data", required=True)
    parser.add_argument("--val-limit", type=int, default=2000)
    parser.add_argument("--mcunet", type=Path, help="the file of MCUNet-in3")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=list(range(11)), help="how many layers to transfer")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seen", type=int, default=15_000, help="images that each run sees, the same ones several times")
    given = parser.parse_args(arguments)
    images, validation = open_images(given.data), open_images(given.val_data).limit(given.val_limit)
    for seed in given.seeds:
        files = sources(given.out / "sources", seed, given.mcunet)
        for layers in given.layers:
            for source in files if layers else [NONE]:
                one = settings(files.get(source, ""), layers, seed, given.images, given.seen)
                key = (source, str(layers), str(seed), str(given.images), str(one.epochs))
                if key not in {tuple(row[name] for name in KEY) for row in read(given.csv)}:
                    row = dict(zip(KEY, key, strict=True)) | _run(one, images, validation, given.out)
                    print(f"{source}, {layers} layers, seed {seed}: top-1 {row['top1']}, {row['seconds']} s", flush=True)
                    write([*read(given.csv), row], given.csv)
    rows = read(given.csv)
    print(table(rows))
    if given.picture:
        from filterdb.figures import draw_transfer

        draw_transfer(rows, title="Accuracy by the number of transferred layers").save(given.picture)


def _run(one: Settings, images: ImageSet, validation: ImageSet, out: Path) -> Row:
    name = f"{Path(one.filters).stem}-{one.transfer_layers}" if one.filters else "none"
    folder = out / f"{name}-seed{one.seed}-{one.train_images}-{one.epochs}"
    found = train(
        one, images, validation, folder, bank=banks.load, saving=Saving(evaluate_every=one.epochs, keep_every=one.epochs)
    )
    loss = next(row["value"] for row in reversed(found.metrics) if row["metric"] == "loss")
    error = (found.top1 * (1 - found.top1) / len(validation)) ** 0.5
    return {"top1": f"{found.top1:.4f}", "error": f"{error:.4f}", "loss": f"{loss:.4f}", "seconds": f"{found.seconds:.0f}"}


def read(path: Path) -> list[Row]:
    """The rows of the runs that are done."""
    return list(csv.DictReader(path.open())) if path.is_file() else []


def write(rows: Iterable[Row], path: Path) -> None:
    """The rows as CSV, by source, number of layers and seed."""
    order = (NONE, DEMO, MCUNET, RANDOM)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (order.index(row["source"]), *(int(row[name]) for name in KEY[1:]))))


def table(rows: Sequence[Row]) -> str:
    """Mean top-1 over the seeds, in percent, in Markdown."""
    names = [name for name in (DEMO, MCUNET, RANDOM) if any(row["source"] == name for row in rows)]
    lines = ["| transferred layers | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for layers in sorted({int(row["transfer_layers"]) for row in rows}):
        cells = []
        for name in names:
            some = [
                float(row["top1"]) for row in rows
                if int(row["transfer_layers"]) == layers and row["source"] == (name if layers else NONE)
            ]  # fmt: skip
            cells.append(f"{100 * mean(some):.1f}" if some else "")
        lines.append(f"| {layers} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
