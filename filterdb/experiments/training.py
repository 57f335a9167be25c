"""The cost of frozen filters: a small network trained from scratch in several modes, with several numbers of images and seeds.

    python -m filterdb.experiments.training --data TRAIN --val-data VALIDATION --out FOLDER --csv FILE [--picture FILE]

Every run sees the same number of images in total: fewer images are seen more often. A stopped run is resumed, and finished runs
are not repeated.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from filterdb import banks
from filterdb.images import open_images
from filterdb.training import Saving, Settings, train

WAYS: dict[str, dict[str, Any]] = {
    "trainable": {"mode": "trainable"},
    "8 frozen + bias": {"mode": "frozen+bias", "bank": "greedy8"},
    "transferred, frozen + bias": {"mode": "frozen+bias", "filters": "demo"},
    "random, frozen + bias": {"mode": "random-frozen"},
    "8 random, frozen + bias": {"mode": "frozen+bias", "bank": "random"},
    "8 shuffled, frozen + bias": {"mode": "frozen+bias", "bank": "greedy8", "shuffle": True},
    "DoG initialisation": {"mode": "dog-init"},
}
"""The variants, which differ only in their kernels."""
COLUMNS = ("way", "images", "seed", "epochs", "top1", "loss", "seconds")


def settings(way: str, images: int, seed: int, seen: int, input_size: int) -> Settings:
    """One run. The layer scale starts at .1 instead of 1e-6: at that, a short run ends before its kernels matter. Patches are of
    2 x 2 pixels instead of 4 x 4, so that 32 x 32 pixels make maps that 7 x 7 kernels do not cover at once."""
    epochs = max(2, seen // images)
    return Settings(
        "demo", **WAYS[way], train_images=images, input_size=input_size, epochs=epochs, warmup_epochs=max(1, epochs // 10),
        batch_size=50, lr=2e-3, seed=seed, args={"ls_init_value": 0.1, "patch_size": 2},
    )  # fmt: skip


def main() -> None:
    """Parse the command line and run what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m filterdb.experiments.training", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labelled images to train on")
    parser.add_argument("--val-data", required=True)
    parser.add_argument("--val-limit", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seen", type=int, default=30_000, help="images that each run sees, the same ones many times")
    parser.add_argument("--input-size", type=int, default=32)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    images, validation = open_images(given.data), open_images(given.val_data).limit(given.val_limit)
    rows = []
    for seed in range(given.seeds):
        for count in given.images:
            for way in given.ways:
                one = settings(way, count, seed, given.seen, given.input_size)
                found = train(
                    one, images, validation, given.out / f"{way} {count} {seed}".replace(" ", "-"), bank=banks.load,
                    saving=Saving(evaluate_every=one.epochs),
                )  # fmt: skip
                loss = next(row["value"] for row in reversed(found.metrics) if row["metric"] == "loss")
                seconds = found.seconds if found.resumed < one.epochs else 0.0  # a run that was done is only looked at again
                rows.append(dict(zip(COLUMNS, (way, count, seed, one.epochs, found.top1, loss, seconds), strict=True)))
                print(f"{way}, {count} images, seed {seed}: top-1 {found.top1:.4f}, {found.seconds:.0f} s", flush=True)
                write(rows, given.csv)
    print(table(rows))
    if given.picture:
        draw(rows, given.picture)


def write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """The runs as CSV; what other calls wrote of other runs stays."""
    there = list(csv.DictReader(path.open())) if path.is_file() else []
    key = ("way", "images", "seed")
    new = {tuple(str(row[name]) for name in key): {name: row[name] for name in COLUMNS} for row in rows}
    old = {tuple(row[name] for name in key): row for row in there}
    for name, row in new.items():
        row["seconds"] = row["seconds"] or old.get(name, row)["seconds"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for name in sorted(old | new, key=lambda name: (list(WAYS).index(name[0]), int(name[1]), int(name[2]))):
            row = {**old, **new}[name]
            writer.writerow(
                row
                | {
                    "top1": f"{float(row['top1']):.4f}",
                    "loss": f"{float(row['loss']):.4f}",
                    "seconds": f"{float(row['seconds']):.0f}",
                }
            )


def summary(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, int], tuple[float, float, int]]:
    """By way and number of images: mean top-1 over the seeds, its standard deviation, and how many seeds."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["way"], int(row["images"])), []).append(float(row["top1"]))
    return {key: (mean(some), stdev(some) if len(some) > 1 else 0.0, len(some)) for key, some in found.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The summary in Markdown: percent, mean ± standard deviation."""
    cells = summary(rows)
    counts = sorted({count for _, count in cells})
    lines = ["| | " + " | ".join(f"{count:,} images" for count in counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for way in WAYS:
        if any(name == way for name, _ in cells):
            shown = [_cell(*cells[way, n]) if (way, n) in cells else "" for n in counts]
            lines.append(f"| {way} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(top1: float, spread: float, seeds: int) -> str:
    return f"{100 * top1:.1f}" + (f" ± {100 * spread:.1f}" if seeds > 1 else " (one seed)")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Top-1 of each way, with every seed, as ``filterdb plot experiment`` draws it."""
    from filterdb.figures import draw_training

    draw_training(rows, title="Accuracy by how kernels were trained").save(path)


if __name__ == "__main__":
    main()
