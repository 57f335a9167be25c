"""How things are measured: each task in a process of its own, in turns with what it is compared with.

A task is a function ``task(clock, **arguments)``. It imports and loads what it needs, does the measured work inside
``with clock:``, and returns whatever it wants to say. Seconds are those inside the clock. Memory is the largest resident set
(``ru_maxrss``) of the process at the clock's end less that at its start: what comes on top of a process that has imported and
loaded the same. Mapped pages of files count too.

The process that starts tasks imports nothing large, because a child inherits its parent's peak on Linux.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "timm", "duckdb", "polars", "pyarrow", "faiss-cpu", "numpy", "deltalake", "safetensors", "pandas")

Task = Callable[..., Any]


def peak() -> int:
    """The largest resident set this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Clock:
    """Seconds and memory between entering and leaving."""

    seconds = memory = 0.0

    def __enter__(self) -> Clock:
        gc.collect()
        self._peak, self._start = peak(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.memory = time.perf_counter() - self._start, float(peak() - self._peak)


@dataclass(frozen=True)
class Measured:
    """One task's cost; medians where it was repeated."""

    seconds: float
    memory: float
    value: Any
    """What the task returned (the last time)."""


def once(task: Task, **arguments: Any) -> Measured:
    """Run a task in a fresh process; paths arrive as text."""
    order = json.dumps([task.__module__, task.__name__, arguments], default=str)
    command = [sys.executable, "-m", "tests.benchmarks.measure", order]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{task.__module__}.{task.__name__} failed")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def in_turns(tasks: Mapping[str, partial[Any]], times: int) -> dict[str, Measured]:
    """A B A B …: medians of tasks that are run alternately, so that a slow minute of the machine hits all of them."""
    found: dict[str, list[Measured]] = {name: [] for name in tasks}
    for turn in range(times):
        for name, task in tasks.items():
            found[name].append(once(task.func, **task.keywords))
            say(f"    {turn + 1}/{times} {name}: {quantity(found[name][-1].seconds, 's')}")
    return {
        name: Measured(median(m.seconds for m in runs), median(m.memory for m in runs), runs[-1].value)
        for name, runs in found.items()
    }


def median(values: Iterable[float]) -> float:
    """Of any iterable of numbers."""
    return float(statistics.median(values))


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Row:
    """A line of the results: a cost of ours, beside what it is compared with."""

    what: str
    ours: float | None
    """None where it could not be measured here; what says how it can be."""
    unit: str
    against: str = ""
    other: float | None = None
    most: float | None = None
    """The goal: ours / other is at most this."""
    least: float | None = None
    """The goal: ours is at least this."""

    @property
    def ratio(self) -> float | None:
        """Ours over the other."""
        return self.ours / self.other if self.ours is not None and self.other else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.least is not None and self.ours is not None:
            return self.ours >= self.least
        return None if self.most is None or self.ratio is None else self.ratio <= self.most

    def cells(self) -> list[str]:
        """The row as text."""
        goal = f"at least {self.least:g}" if self.least is not None else f"at most {fold(self.most)}" if self.most else ""
        return [
            self.what, "missing" if self.ours is None else quantity(self.ours, self.unit), self.against,
            "" if self.other is None else quantity(self.other, self.unit),
            "" if self.ratio is None else fold(self.ratio),
            goal, {None: "", True: "met", False: "**not met**"}[self.met],
        ]  # fmt: skip


def fold(ratio: float) -> str:
    """A ratio as people say it.

    >>> fold(0.05), fold(0.87), fold(1.5), fold(32.4)
    ('1/20', '0.87', '1.50', '32')
    """
    if 0 < ratio < 0.2:
        return f"1/{1 / ratio:.0f}"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def quantity(value: float, unit: str) -> str:
    """A number with its unit at a readable scale."""
    scales = {"s": [(1, "s"), (1e-3, "ms"), (1e-6, "µs")], "B": [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")]}
    for scale, name in scales.get(unit, []):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}" if value < 999.5 * scale else f"{value / scale:.0f} {name}"
    return f"{value:,.4g} {unit}".strip()


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    cpu = _value("/proc/cpuinfo", "model name") or platform.machine()
    system = _value("/etc/os-release", "PRETTY_NAME") or platform.system()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "CPU": cpu, "cores": str(cores), "memory": f"{memory / 2**30:.0f} GiB", "system": f"{system}, {platform.release()}",
        "python": platform.python_version(), **{name: _version(name) for name in LIBRARIES},
    }  # fmt: skip


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _value(path: str, key: str) -> str:
    """Of the first line ``key: value`` or ``key=value`` of a file, if there is one."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    found = next((line for line in lines if line.startswith(key)), key)
    return found[len(key) :].strip(' \t:="')


def main(order: str) -> None:
    """The child's side of ``once``."""
    module, name, arguments = json.loads(order)
    clock = Clock()
    value = getattr(import_module(module), name)(clock, **arguments)
    print(json.dumps({"seconds": clock.seconds, "memory": clock.memory, "value": value}))


if __name__ == "__main__":
    main(sys.argv[1])
