"""Progress on standard error: bars on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from filterdb.database.ingest import Outcome

SECONDS_BETWEEN_LINES = 5.0
"""Used where standard error is not a terminal, such as a log file or a pipe."""
MARKS = {"ingested": "[green]+[/]", "replaced": "[green]~[/]", "skipped": "[yellow]=[/]", "failed": "[red]x[/]"}


class Lines:
    """Prints where the work is, every ``SECONDS_BETWEEN_LINES``, however long a single step takes."""

    def __init__(self, where: Callable[[], str]):
        self._where = where
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._print, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _print(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            with contextlib.suppress(OSError, ValueError):  # standard error is closed: continue the work without progress
                print(f"{self._where()}, {time.monotonic() - self._began:.0f} s", file=sys.stderr, flush=True)


class _Shown:
    """Bars or lines for as long as the work takes; neither if ``quiet``."""

    def __init__(self, where: Callable[[], str], *, quiet: bool):
        self._bars: Progress | None = None
        self._shown: Lines | Progress | None = None
        if quiet:
            return
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
        self._shown = self._bars or Lines(where)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown is not None:
            self._shown.stop()

    def _start(self) -> None:
        if self._shown is not None:
            self._shown.start()


class Bar(_Shown):
    """Long work that reports its current step, the amount done, and the total (0 if unknown)."""

    def __init__(self, *, quiet: bool = False):
        super().__init__(self._where, quiet=quiet)
        self._at = ("starting", 0, 0)
        self._task = self._bars.add_task("starting", total=None) if self._bars else None

    def __enter__(self) -> Bar:
        self._start()
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        self._at = (what, done, total)
        if self._bars and self._task is not None:
            self._bars.update(self._task, description=what, completed=done, total=total or None)

    def _where(self) -> str:
        what, done, total = self._at
        return f"{what}: {done:,}/{total:,}" if total else f"{what}: {done:,}" if done else what


class IngestProgress(_Shown):
    """A ``filterdb.database.ingest.Reporter``: also prints a line for each model that is finished. ``quiet`` prints nothing."""

    def __init__(self, *, quiet: bool = False):
        super().__init__(self._where, quiet=quiet)
        self._quiet = quiet
        self._all = self._bars.add_task("models", total=None) if self._bars else None
        self._done, self._total = 0, 0
        self._reading: dict[str, tuple[int, int | None]] = {}
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> IngestProgress:
        self._start()
        return self

    def total(self, sources: int) -> None:
        self._total = sources
        if self._bars and self._all is not None:
            self._bars.update(self._all, total=sources)

    def started(self, source: str) -> None:
        self._reading[source] = (0, None)
        if self._bars:
            self._tasks[source] = self._bars.add_task(source, total=None)

    def progress(self, source: str, done: int, total: int | None) -> None:
        self._reading[source] = (done, total)
        if self._bars and source in self._tasks:
            self._bars.update(self._tasks[source], completed=done, total=total)

    def finished(self, outcome: Outcome) -> None:
        self._done += 1
        self._reading.pop(outcome.source, None)
        if self._bars and self._all is not None:
            self._bars.advance(self._all)
            if outcome.source in self._tasks:
                self._bars.remove_task(self._tasks.pop(outcome.source))
        if not self._quiet:
            self._say(outcome)

    def _say(self, outcome: Outcome) -> None:
        """A finished model: one line, and its notes."""
        from rich.console import Console
        from rich.markup import escape

        console = self._bars.console if self._bars else Console(stderr=True, highlight=False)
        console.print(f"{MARKS[outcome.status]} {escape(line(outcome))}", soft_wrap=True)
        for note in outcome.notes if outcome.status != "skipped" else []:
            console.print(f"    {escape(note)}", style="dim", soft_wrap=True)
        for item in outcome.skipped:
            console.print(f"    left out: {escape(item)}", style="dim", soft_wrap=True)

    def _where(self) -> str:
        reading = [
            f"{source} {size(done)}{f' of {size(total)}' if total else ''}" for source, (done, total) in [*self._reading.items()]
        ]
        return f"ingesting: {self._done:,}/{self._total:,} models" + (f", reading {', '.join(reading)}" if reading else "")


def line(outcome: Outcome) -> str:
    """One outcome in one line."""
    if outcome.status == "failed":
        return f"{outcome.error}"
    if outcome.status == "skipped":
        return f"{outcome.model}: {', '.join(outcome.notes)}"
    read = f", {size(outcome.bytes_read)} read" if outcome.bytes_read is not None else ""
    return f"{outcome.model}: {outcome.filters:,} kernels in {outcome.layers} layers{read}, {outcome.seconds:.1f} s"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
