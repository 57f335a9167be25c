"""Ingest of ConvNeXtV2-Huge (random weights, 2.6 GB) against building the model, loading the file and a loop over its layers."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.measure import ROOT, Clock, Row, in_turns, once, say

KERNEL_BYTES = 49 * 4


def benchmark(folder: Path, small: bool) -> list[Row]:
    """Time, memory, and bytes over the wire."""
    architecture = "convnextv2_atto" if small else "convnextv2_huge"
    file = data.weights(folder, architecture)
    once(warm, path=file)
    given: dict[str, Any] = {"path": file, "architecture": architecture}
    found = in_turns({"filterdb": partial(ours, **given), "timm": partial(timm_loop, **given)}, 3)
    ingest, loop = found["filterdb"], found["timm"]
    if ingest.value != loop.value:
        raise RuntimeError(f"The two do not read the same kernels: {ingest.value} and {loop.value}")
    size, kernels = file.stat().st_size, ingest.value[0] * KERNEL_BYTES
    name = f"{architecture}, {size / 1e9:.2g} GB"
    rows = [
        Row(f"ingest {name}: time", ingest.seconds, "s", "create_model, load_file, loop", loop.seconds, most=1 / 25),
        Row(f"ingest {name}: memory", ingest.memory, "B", "create_model, load_file, loop", loop.memory, most=1 / 20),
    ]
    for scheme in ("timm", "hf"):
        say(f"    {scheme}: from a local hub …")
        sent, requests = once(wire, scheme=scheme, **given).value
        rows.append(Row(f"{scheme}: bytes from the hub in {requests} requests", sent, "B", "the kernels", kernels, most=1.1))
    return rows


def warm(clock: Clock, path: str) -> None:
    """Bring the file into the page cache: the disk is not what is measured."""
    with clock, open(path, "rb") as file:
        while file.read(2**24):
            pass


def _imports() -> None:
    """Everything that either side loads, so that neither pays for it inside the clock. (Arrow loads pandas where it is there.)"""
    for name in (
        "deltalake", "safetensors.torch", "timm", "filterdb.database", "filterdb.database.ingest", "filterdb.sources.local",
        "filterdb.sources.pickles.checkpoint", "filterdb.sources.safetensors", "scipy.special", "pandas",
    ):  # fmt: skip
        if name != "pandas" or find_spec(name):
            import_module(name)


def ours(clock: Clock, path: str, architecture: str) -> tuple[int, str]:
    """Into a new database, committed and synced."""
    _imports()
    from filterdb import Database

    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        with clock:
            db = Database(folder)
            (outcome,) = db.ingest(path, architecture=architecture, name="model")
        if outcome.error:
            raise RuntimeError(outcome.error)
        return outcome.filters, db.sql("SELECT kernels_sha256 FROM models").fetchall()[0][0]


def timm_loop(clock: Clock, path: str, architecture: str) -> tuple[int, str]:
    """What one writes without filterdb; it stores nothing."""
    _imports()
    import safetensors.torch
    import timm
    import torch

    with clock:
        model = timm.create_model(architecture)
        model.load_state_dict(safetensors.torch.load_file(path))
        kernels = {
            name: module.weight.detach().numpy()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Conv2d) and module.groups == module.in_channels > 1
        }
    digest = hashlib.sha256()
    for kernel in kernels.values():
        digest.update(kernel.tobytes())
    return sum(map(len, kernels.values())), digest.hexdigest()


def wire(clock: Clock, scheme: str, path: str, architecture: str) -> tuple[int, int]:
    """Bytes of all answers' bodies, and requests, when the command line ingests from a hub with an empty cache."""
    import timm

    from tests.hub import serve

    cfg: Any = timm.get_pretrained_cfg(architecture)
    repo = cfg.hf_hub_id
    source = f"timm:{architecture}" if scheme == "timm" else f"hf:{repo}"
    with open(path, "rb") as file, tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        content: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        files: dict[str, Any] = {"config.json": json.dumps({"architecture": architecture}).encode(), "model.safetensors": content}
        with serve({repo: files}) as hub:
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))} | {
                "HF_ENDPOINT": hub.endpoint, "HF_HOME": f"{folder}/home", "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DOWNLOAD_TIMEOUT": "120",
            }  # fmt: skip
            command = "from filterdb.cli import main; main()"
            with clock:
                subprocess.run(
                    [sys.executable, "-c", command, "ingest", source, "--db", f"{folder}/filters"],
                    cwd=ROOT, env=environment, stdout=sys.stderr, check=True,
                )  # fmt: skip
        return hub.sent, len(hub.paths)
