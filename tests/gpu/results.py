"""Results as files: a piece is a JSON file that is there whole or not at all, and a finished piece is not run again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Job:
    """Where the pieces run, what they write, and how long they may take."""

    out: Path
    device: str
    toy: bool = False
    minutes: float = 12.0
    """For all pieces together, finished ones counted."""
    pack: Path | None = None
    started: float = field(default_factory=time.perf_counter)
    earlier: float = 0.0
    """Seconds of pieces that earlier starts finished."""

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.earlier = sum(found["seconds"] for path in self.out.glob("*.json") if (found := read(path)))

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return 60 * self.minutes - self.earlier - (time.perf_counter() - self.started)

    @property
    def place(self) -> dict[str, Any]:
        """What the numbers were measured on."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        return {"device": name, "toy": self.toy, "torch": torch.__version__, "cuda": torch.version.cuda}

    def finished(self, name: str) -> dict[str, Any] | None:
        """The result of a finished piece.

        Raises:
            SystemExit: it was measured on another device, with another torch, or at another size.
        """
        found = read(self.out / f"{name}.json")
        if found is None:
            return None
        other = [key for key, value in self.place.items() if found.get(key) != value]
        if other:
            key = other[0]
            raise SystemExit(f"{self.out} holds results with {key} {found.get(key)}, not {self.place[key]}. Give another --out.")
        return found

    def run(self, name: str, piece: Callable[[Job], dict[str, Any]]) -> dict[str, Any]:
        """The result of a piece, which is run and written unless it is finished."""
        found = self.finished(name)
        if found is not None:
            say(f"{name}: finished before")
            return found
        say(f"{name} …")
        start = time.perf_counter()
        result = piece(self)
        result = {"piece": name, **self.place, "seconds": time.perf_counter() - start, **result}
        write(self.out / f"{name}.json", result)
        say(f"{name}: {result['seconds']:.1f} s")
        return result


def read(path: Path) -> dict[str, Any] | None:
    """A result, or None where there is no whole file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "seconds" in found else None


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(result, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def say(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)


def wait(device: str) -> None:
    """Until the device has done what was ordered."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any], device: str, *, least: float = 0.1) -> float:
    """Seconds of one call: the least mean of five rounds, each as many calls as take ``least`` seconds together."""
    for _ in range(2):
        run()
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    calls = max(1, min(200, round(least / 5 / max(time.perf_counter() - start, 1e-6))))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        wait(device)
        best = min(best, (time.perf_counter() - start) / calls)
    return best
