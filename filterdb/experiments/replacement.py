"""Replaces the depthwise kernels of real networks, and measures how much accuracy comes back without training.

    python -m filterdb.experiments.replacement --weights FOLDER --images FILE [--demo-images FILE] --out FILE.csv
    python -m filterdb.experiments.replacement --table FILE.csv

FOLDER holds mcunet-320kb-1mb_imagenet.pth and proxyless-w0.3-r176_imagenet.pth, two ImageNet networks with batch normalisation;
FILE is a Parquet file of labelled ImageNet photographs, one of each class. With the validation images of tiny-imagenet-100, the
ConvNeXt that ships with filterdb is measured too: it has layer norms. The repairs use one half of the images, without labels.
Top-1 is measured on the other half. Rows that the CSV has are not computed again, so that an interrupted run is resumed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from filterdb import banks
from filterdb.banks import Bank
from filterdb.clusters import lines
from filterdb.errors import FilterdbError
from filterdb.frozen.choices import Repair
from filterdb.frozen.plan import Plan
from filterdb.frozen.recalibrate import norms, recalibrate
from filterdb.frozen.replace import replacements
from filterdb.frozen.steps import frozen
from filterdb.images import batches, open_images
from filterdb.kernels import centred_unit
from filterdb.networks import load

NETWORKS = {"mcunet_in3": "mcunet-320kb-1mb_imagenet.pth", "proxyless_w0.3": "proxyless-w0.3-r176_imagenet.pth"}
DEMO = "demo"
LOOKED_AT = 384
"""Unlabelled images."""
SHIPPED = {"7x7": ("greedy8", "greedy8_published", "random"), "all": ("greedy8", "random")}
OWN = {"7x7": (100, 50, 25, 10, 8), "all": (25, 8)}
"""Banks that ship, and how many templates of the network's own, by the layers that are replaced."""
STEPS: Mapping[str, dict[str, Any]] = {
    "replaced": {},
    "recalibrated": {"restored": True},
    "inputs+recalibrated": {"match": "inputs", "restored": True},
    "mixed+recalibrated": {"mix": 0.5, "restored": True},
    "repaired": {"pointwise": True},
    "inputs+mixed+repaired": {"match": "inputs", "mix": 0.5, "pointwise": True},
}
"""The options of ``filterdb.frozen.steps`` and, for mix, of ``filterdb.frozen.plan``. ``restored`` re-estimates batch norm, or
corrects gains and biases where there is none."""
WIDELY = ("replaced", "recalibrated")
"""Tried on every bank."""
CLOSELY = ("greedy8", "own25", "own8")
"""All steps are tried on these banks; repairing takes minutes."""
COLUMNS = (
    "network", "layers", "bank", "templates", "seed", "steps", "top1", "error", "top1_of_all", "energy_kept", "kernels",
    "seconds",
)  # fmt: skip
KEY = COLUMNS[:6]


@dataclass
class Bench:
    """A network, unlabelled images for the repairs, and labelled images for the measurement."""

    name: str
    module: nn.Module
    looked_at: list[Tensor]
    measured: list[tuple[Tensor, Tensor]]
    rest: list[tuple[Tensor, Tensor]]
    """The half for the repairs, with labels, for figures of all images."""

    @classmethod
    def open(cls, name: str, weights: Path, images: Path, batch_size: int = 64) -> Bench:
        """Load and decode; the halves are drawn by seed 0."""
        network = load(DEMO) if name == DEMO else load(weights / NETWORKS[name], architecture=name)
        halves = [open_images(str(images)).half(which) for which in (0, 1)]
        parts = [list(batches(half, network.preprocessing, batch_size=batch_size)) for half in halves]
        looked_at = batches(halves[0].limit(LOOKED_AT), network.preprocessing, batch_size=batch_size)
        # channels last is twice as fast for these convolutions on a CPU
        last = torch.channels_last
        rest, measured = ([(x.contiguous(memory_format=last), y) for x, y in part] for part in parts)
        seen = [x.contiguous(memory_format=last) for x, _ in looked_at]
        return cls(name, network.module.to(memory_format=last), seen, measured, rest)

    def top1(self, module: nn.Module, *, of_all: bool) -> tuple[float, float | None]:
        """The share of right answers of the measured half, and of all images."""
        right = _right(module, self.measured)
        whole = torch.cat([right, _right(module, self.rest)]) if of_all else None
        return float(right.mean()), None if whole is None else float(whole.mean())


@torch.inference_mode()
def _right(module: nn.Module, images: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([(module(x).argmax(1) == y).double() for x, y in images])


def own_banks(module: nn.Module, count: int, seed: int) -> dict[str, Bank]:
    """For each kernel size, the centres of k-means up to sign over the network's own kernels of the size."""
    whole = Plan.of({"7x7": banks.load("greedy8")})
    by_size: dict[str, list[Any]] = {}
    for one in replacements(module, whole):
        by_size.setdefault(f"{one.layer.kernel_h}x{one.layer.kernel_w}", []).append(one.old)
    found = {}
    for size, kernels in by_size.items():
        stacked = np.concatenate(kernels)
        parts = centred_unit(stacked.reshape(len(stacked), -1))
        centres = lines.train(parts.unit[~parts.dead].astype(np.float32), count, seed).centres
        names = [str(number) for number in range(count)]
        found[size] = Bank(f"own{count}", names, centres.reshape(-1, *stacked.shape[1:]))
    return found


def plans(module: nn.Module, layers: str, seeds: int) -> Iterator[tuple[str, int, int, Plan]]:
    """Name of the bank, templates, seed and plan, for the 7x7 layers or for all."""
    for name in SHIPPED[layers]:
        bank = banks.load(name)
        yield name, len(bank), 0, Plan.of({"7x7": bank}) if layers == "7x7" else Plan.of(bank, resize="formula")
    for count in OWN[layers]:
        for seed in range(seeds if count in (25, 8) else 1):
            own = own_banks(module, count, seed)
            yield f"own{count}", count, seed, Plan.of({"7x7": own["7x7"]} if layers == "7x7" else own)


def run(
    bench: Bench, done: set[tuple[str, ...]], seeds: int, choices: Iterable[str] = tuple(OWN),
    only: Container[str] = tuple(STEPS),
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows that are not done yet."""
    normed = bool(norms(bench.module))
    todo: list[tuple[str, str, int, int, str, Plan | None]]
    todo = [("", "", 0, 0, name, None) for name in ("replaced", *["recalibrated"] * normed)]
    for layers in choices if normed else ("7x7",):
        for bank, count, seed, plan in plans(bench.module, layers, seeds):
            names = [name for name in STEPS if name in only and (name in WIDELY or (seed == 0 and bank in CLOSELY))]
            todo += [(layers, bank, count, seed, name, plan) for name in names]
    for layers, bank, count, seed, steps, chosen in todo:
        word = steps if normed else steps.replace("recalibrated", "corrected")
        key = dict(zip(KEY, (bench.name, layers, bank, count, seed, word), strict=True))
        if tuple(map(str, key.values())) not in done:
            yield key | measured(bench, chosen, dict(STEPS[steps]), normed=normed)


def measured(bench: Bench, plan: Plan | None, options: dict[str, Any], *, normed: bool) -> dict[str, Any]:
    """Replace, and measure; without a plan, the network itself."""
    started = time.perf_counter()
    mix, restored, pointwise = options.pop("mix", 0.0), options.pop("restored", False), options.pop("pointwise", False)
    if plan is None:
        module, report = copy.deepcopy(bench.module), None
        if restored:
            recalibrate(module, bench.looked_at)
    else:
        repair = Repair(reestimate=restored and normed, correct=restored and not normed, pointwise=pointwise)
        made = frozen(bench.module, replace(plan, mix=mix), repair=repair, batches=bench.looked_at, **options)
        module, report = made.module, made.report
    spent = time.perf_counter() - started
    top1, of_all = bench.top1(module, of_all=not pointwise and not restored)
    n = sum(len(y) for _, y in bench.measured)
    return {
        "top1": f"{top1:.3f}", "error": f"{(top1 * (1 - top1) / n) ** 0.5:.3f}",
        "top1_of_all": "" if of_all is None else f"{of_all:.3f}",
        "energy_kept": "" if report is None else f"{report.mean('energy_kept'):.3f}",
        "kernels": 0 if report is None else report.replaced, "seconds": f"{spent:.1f}",
    }  # fmt: skip


def tables(rows: list[dict[str, str]]) -> str:
    """Top-1 in percent as Markdown, a table for each network and choice of layers, means over the seeds."""
    lines: list[str] = []
    for network, layers in dict.fromkeys((row["network"], row["layers"]) for row in rows if row["bank"]):
        mine = [row for row in rows if row["network"] == network and row["layers"] == layers]
        whole = [row for row in rows if row["network"] == network and not row["bank"]]
        steps = list(dict.fromkeys(row["steps"] for row in mine))
        lines += [f"**{network}, {'all layers' if layers == 'all' else f'the {layers} layers'}**", ""]
        lines += ["| templates | energy kept | " + " | ".join(steps) + " |", "|---" * (len(steps) + 2) + "|"]
        for bank in ["", *dict.fromkeys(row["bank"] for row in mine)]:
            of_bank = [row for row in (mine if bank else whole) if row["bank"] == bank]
            cells = [[float(row["top1"]) for row in of_bank if row["steps"] == step] for step in steps]
            kept = next((row["energy_kept"] for row in of_bank), "")
            shown = " | ".join(f"{100 * sum(cell) / len(cell):.1f}" if cell else "" for cell in cells)
            lines.append(f"| {bank or 'none replaced'} | {kept} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run what is missing in the CSV."""
    parser = argparse.ArgumentParser(prog="filterdb.experiments.replacement", description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="print what this CSV holds as Markdown, and run nothing")
    parser.add_argument("--weights", type=Path, help="folder of the two checkpoints")
    parser.add_argument("--images", type=Path, help="Parquet file of labelled ImageNet photographs")
    parser.add_argument("--out", type=Path, help="CSV file to write, or to continue")
    parser.add_argument("--demo-images", type=Path, help="Parquet file of tiny-imagenet-100's validation images")
    parser.add_argument("--network", choices=[*NETWORKS, DEMO], action="append", help="only this network; repeatable")
    parser.add_argument("--layers", choices=list(OWN), action="append", help="only these layers; repeatable")
    parser.add_argument("--steps", choices=list(STEPS), action="append", help="only these steps; repeatable")
    parser.add_argument("--seeds", type=int, default=3, help="of k-means, for 25 and 8 templates")
    given = parser.parse_args(arguments)
    if given.table:
        with given.table.open(newline="", encoding="utf-8") as file:
            print(tables(list(csv.DictReader(file))))
        return 0
    if not (given.weights and given.images and given.out):
        parser.error("give --weights, --images and --out, or --table alone")
    try:
        done = set()
        if given.out.exists():
            with given.out.open(newline="", encoding="utf-8") as file:
                done = {tuple(row[name] for name in KEY) for row in csv.DictReader(file)}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if not done:
                writer.writeheader()
            for name in given.network or [*NETWORKS, *[DEMO] * (given.demo_images is not None)]:
                images = given.demo_images if name == DEMO else given.images
                for found in run(
                    Bench.open(name, given.weights, images), done, given.seeds, given.layers or OWN, given.steps or STEPS
                ):
                    writer.writerow(found)
                    file.flush()
                    print(*found.values(), flush=True)
    except FilterdbError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
