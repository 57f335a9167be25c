"""Images that travel in one file, and all of them decoded on the device.

A pack is a safetensors file: for ``train`` and ``validation`` the encoded pictures one after another, where each ends, and the
labels.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn import functional as F

from tests.gpu.results import say

MOST = 60.0
"""MiB of a pack."""
SPLITS = {"train": "train", "validation": "val"}
PADDING = 4


@dataclass
class Pictures:
    """Pictures of one split on the device."""

    images: Tensor
    """uint8 (n, 3, side, side)."""
    labels: Tensor
    """int64 (n,)."""


def pack(folder: Path, to: Path, most: float = MOST, side: int | None = None) -> dict[str, Any]:
    """Write a pack of *train*.parquet and *val*.parquet: all validation images, and as many training images of each class as fit.

    Args:
        folder: with the Parquet files, columns image{bytes} and label.
        to: the file.
        most: MiB.
        side: of the images, px; by default that of the first one.
    """
    import pyarrow.parquet as pq  # not needed where a pack is read

    read = {}
    for split, word in SPLITS.items():
        files = sorted(folder.glob(f"tiny-imagenet*{word}*.parquet")) or sorted(folder.glob(f"*{word}*.parquet"))
        if len(files) != 1:
            raise SystemExit(f"{folder} has {len(files)} files *{word}*.parquet: there must be one.")
        table = pq.read_table(files[0], columns=["image", "label"])
        encoded = [cell["bytes"] for cell in table["image"].to_pylist()]
        read[split] = encoded, table["label"].to_numpy().astype(np.int16)
    room = most * 2**20 - sum(map(len, read["validation"][0])) - 2**16 - 16 * sum(len(one) for one, _ in read.values())
    sizes = np.array([len(one) for one in read["train"][0]])
    order = _in_turns(read["train"][1])
    chosen = np.sort(order[np.cumsum(sizes[order]) <= room])
    if not len(chosen):
        raise SystemExit(f"No training image fits into {most:g} MiB beside {len(read['validation'][0])} validation images.")
    found = len(read["train"][0])
    read["train"] = [read["train"][0][i] for i in chosen], read["train"][1][chosen]
    arrays = {}
    for split, (encoded, labels) in read.items():
        arrays[f"{split}.bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{split}.ends"] = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        arrays[f"{split}.labels"] = labels
    with Image.open(io.BytesIO(read["train"][0][0])) as first:
        side = side or first.width
    classes = int(max(labels.max() for _, labels in read.values())) + 1
    about = {
        "side": side,
        "classes": classes,
        "train": len(chosen),
        "train_found": found,
        "validation": len(read["validation"][0]),
    }
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.partial")
    save_file(arrays, partial, metadata={"about": json.dumps(about)})
    partial.replace(to)
    size = to.stat().st_size / 2**20
    say(f"{to}: {about['train']} of {found} training images, {about['validation']} validation images, {size:.1f} MiB")
    return about | {"mebibytes": size}


def _in_turns(labels: NDArray[np.int16]) -> NDArray[np.int64]:
    """Images in an order in which each class comes as often as the others."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn, seen = np.empty(len(labels), np.int64), np.zeros(int(labels.max()) + 1, np.int64)
    for i in order:
        turn[i] = seen[labels[i]]
        seen[labels[i]] += 1
    return order[np.argsort(turn[order], kind="stable")]


def load(path: Path, device: str) -> tuple[Pictures, Pictures, dict[str, Any]]:
    """Training and validation pictures on the device, and what the pack says of itself."""
    if not path.is_file():
        raise SystemExit(f"There is no {path}. Make it with `python -m tests.gpu --pack FOLDER`, or name one with --images.")
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["about"])
        found = []
        for split in SPLITS:
            encoded, ends = file.get_tensor(f"{split}.bytes"), file.get_tensor(f"{split}.ends")
            images = decoded(encoded, ends, about["side"])
            labels = torch.from_numpy(file.get_tensor(f"{split}.labels").astype(np.int64))
            found.append(Pictures(torch.from_numpy(images).to(device), labels.to(device)))
    return found[0], found[1], about


def decoded(encoded: NDArray[np.uint8], ends: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
    """(n, 3, side, side) from encoded pictures, on all cores."""
    images = np.empty((len(ends), 3, side, side), np.uint8)
    starts = np.concatenate([[0], ends[:-1]])

    def one(i: int) -> None:
        with Image.open(io.BytesIO(encoded[starts[i] : ends[i]].tobytes())) as opened:
            picture = opened.convert("RGB")
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        images[i] = np.asarray(picture).transpose(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(one, range(len(ends)), chunksize=64):
            pass
    return images


def normaliser(preprocessing: Any, device: str) -> Callable[[Tensor], Tensor]:
    """From uint8 to what the network takes, in channels_last."""
    mean, std = (torch.tensor(preprocessing[name], device=device).view(1, 3, 1, 1) * 255 for name in ("mean", "std"))
    return lambda x: ((x.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image (n, 3, side, side) moved by up to ``PADDING`` pixels, with zeros around it, and every second one mirrored."""
    n, channels, side, _ = images.shape
    device = images.device
    padded = F.pad(images, (PADDING,) * 4)
    shift = torch.randint(2 * PADDING + 1, (2, n, 1), generator=random, device=device)
    mirrored = torch.rand(n, 1, generator=random, device=device) < 0.5
    along = torch.arange(side, device=device).expand(n, side)
    rows, columns = along + shift[0], torch.where(mirrored, side - 1 - along, along) + shift[1]
    return padded[
        torch.arange(n, device=device).view(n, 1, 1, 1), torch.arange(channels, device=device).view(1, -1, 1, 1),
        rows.view(n, 1, side, 1), columns.view(n, 1, 1, side),
    ]  # fmt: skip
