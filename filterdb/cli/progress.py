"""Progress of an ingest: bars on a terminal, a line for each finished model otherwise."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from filterdb.database.ingest import Outcome

MARKS = {"ingested": "[green]+[/]", "replaced": "[green]~[/]", "skipped": "[yellow]=[/]", "failed": "[red]x[/]"}


class IngestProgress:
    """A ``filterdb.database.ingest.Reporter`` that draws on standard error; ``quiet`` draws nothing."""

    def __init__(self, *, quiet: bool = False):
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        shown = sys.stderr.isatty() and not quiet
        self._models = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self._console, disable=not shown, transient=True,
        )  # fmt: skip
        self._all = self._models.add_task("models", total=None)
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> IngestProgress:
        self._models.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._models.stop()

    def total(self, sources: int) -> None:
        self._models.update(self._all, total=sources)

    def started(self, source: str) -> None:
        self._tasks[source] = self._models.add_task(escape(source), total=None)

    def progress(self, source: str, done: int, total: int | None) -> None:
        if source in self._tasks:
            self._models.update(self._tasks[source], completed=done, total=total)  # type: ignore[arg-type]

    def finished(self, outcome: Outcome) -> None:
        self._models.advance(self._all)
        if (task := self._tasks.pop(outcome.source, None)) is not None:
            self._models.remove_task(task)  # type: ignore[arg-type]
        self._console.print(f"{MARKS[outcome.status]} {escape(line(outcome))}", soft_wrap=True)
        for note in outcome.notes if outcome.status != "skipped" else []:
            self._console.print(f"    {escape(note)}", style="dim", soft_wrap=True)
        for item in outcome.skipped:
            self._console.print(f"    left out: {escape(item)}", style="dim", soft_wrap=True)


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


class Bar:
    """One bar on standard error for long work that tells what it does, how much is done, and how much there is."""

    def __init__(self, *, quiet: bool = False):
        console = Console(stderr=True, highlight=False, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, disable=quiet or not sys.stderr.isatty(), transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._progress.update(self._task, description=escape(what), completed=done, total=total or None)
