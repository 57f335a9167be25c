"""nearest, classify and fit on the device against the CPU.

``fit`` has a device of its own. ``match`` and ``Classifier.nearest`` run on the CPU alone; they are compared with the plain
product of all kernels with all templates, or all 10,000 codes, in torch on the device: what a GPU could give. The time on the
device includes the copies to it and back. Kernels whose two answers are equally similar, to rounding, count as ties.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from filterdb import banks, clusters
from filterdb.fields import fits
from filterdb.kernels import centred_unit
from filterdb.search.nearest import match
from tests.benchmarks.data import synthetic
from tests.gpu.results import Job, say, wait

TIE = 1e-5
BLOCK = 2**16
TOYS = ("gaussian", "jet1")


def piece(job: Job) -> dict[str, Any]:
    """The three, on synthetic 7x7 kernels with the spectrum of trained ones."""
    torch.backends.cuda.matmul.allow_tf32 = False
    n, fitted = (300, 24) if job.toy else (1_000_000, 20_000)
    kernels = synthetic(n, 0).reshape(n, 49)
    found = {"nearest": _nearest(kernels, job), "classify": _classify(kernels, job), "fit": _fit(kernels[:fitted], job)}
    for name, one in found.items():
        say(f"  {name}: {one['kernels']:,} kernels, CPU {one['cpu']:.3g} s, {job.device} {one['device']:.3g} s")
    return found


def _nearest(kernels: NDArray[np.float32], job: Job) -> dict[str, Any]:
    bank = banks.load("greedy8", size="7x7")
    cpu, ours = _timed(lambda: match(kernels, bank), "cpu")
    templates = centred_unit(bank.templates.reshape(len(bank), -1)).unit.astype(np.float32)
    device, (index, rho) = _timed(lambda: _products(kernels, templates, job.device, absolute=True), job.device)
    return _agreement(len(kernels), cpu, device, ours["template"], np.abs(ours["similarity"]), index, rho)


def _classify(kernels: NDArray[np.float32], job: Job) -> dict[str, Any]:
    classifier = clusters.read("small-nets-7x7")
    classifier.nearest(kernels[:64])  # builds its search
    cpu, (index, similarity, _) = _timed(lambda: classifier.nearest(kernels), "cpu")
    device, (theirs, rho) = _timed(lambda: _products(kernels, classifier.prototypes, job.device, absolute=False), job.device)
    return _agreement(len(kernels), cpu, device, index, similarity, theirs, rho)


def _products(
    kernels: NDArray[np.float32], templates: NDArray[np.float32], device: str, *, absolute: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:  # fmt: skip
    """The best template of each kernel and its similarity, or |similarity|, by one product after another."""
    right = torch.from_numpy(np.ascontiguousarray(templates)).to(device).T
    found = []
    for start in range(0, len(kernels), BLOCK):
        part = torch.from_numpy(kernels[start : start + BLOCK]).to(device)
        part = torch.nn.functional.normalize(part - part.mean(1, keepdim=True), dim=1)
        rho = part @ right
        best, index = (rho.abs() if absolute else rho).max(1)
        found.append((index.cpu(), best.cpu()))
    return torch.cat([index for index, _ in found]).numpy(), torch.cat([best for _, best in found]).numpy()


def _agreement(n: int, cpu: float, device: float, a: Any, a_rho: Any, b: Any, b_rho: Any) -> dict[str, Any]:
    difference = np.abs(a_rho - b_rho)
    return {
        "kernels": n, "cpu": cpu, "device": device, "gain": cpu / device, "same": float((a == b).mean()),
        "largest_difference": float(difference.max()),
        "wrong": int((difference > TIE).sum()),
    }  # fmt: skip


def _fit(kernels: NDArray[np.float32], job: Job) -> dict[str, Any]:
    shaped = kernels.reshape(-1, 7, 7)
    families = TOYS if job.toy else None
    for where in {"cpu", job.device}:
        fits.fit(shaped[:16], families, device=where)  # makes the grids
    cpu, ours = _timed(lambda: fits.fit(shaped, families, device="cpu"), "cpu")
    device, theirs = _timed(lambda: fits.fit(shaped, families, device=job.device), job.device)
    lost = {one.family.name: float(np.abs(one.rho - other.rho).max()) for one, other in zip(ours, theirs, strict=True)}
    same = float((fits.best(ours) == fits.best(theirs)).mean())
    return {
        "kernels": len(kernels), "cpu": cpu, "device": device, "gain": cpu / device, "same": same,
        "largest_difference": max(lost.values()), "rho_differences": lost,
    }  # fmt: skip


def _timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of the second of two calls, and its answer."""
    run()
    wait(device)
    start = time.perf_counter()
    found = run()
    wait(device)
    return time.perf_counter() - start, found
