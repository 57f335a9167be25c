"""Damaged and hostile files of every kind, each ingested by a process of its own: ``python -m tests.mutations``.

Nothing but a kernel or a refusal may come of a file: no other exception, no run without end, no memory beyond bounds, and never a
command that a pickle wants to be run. The same seed makes the same files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SECONDS = 20
"""For one file."""
MEGABYTES, TIMES = 300, 2
"""Memory beyond that of a process which has read nothing, and files of this size in it."""
PRELOADED = [
    "filterdb.database.ingest", "filterdb.sources.pickles.archive", "filterdb.sources.programs.keras",
    "filterdb.sources.programs.onnx",
    "filterdb.sources.sharded", "filterdb.sources.programs.tflite", "onnx", "tflite", "polars", "deltalake", "duckdb", "pandas",
    "pyarrow.compute", "pyarrow.parquet", "scipy.special",
]  # fmt: skip
"""What an ingest imports, which is imported once for all."""
FAILURES = ("exception", "hang", "memory", "code ran", "died")
LONGEST = 1500
"""Letters of a refusal."""


# -- one file, in a process of its own -----------------------------------------------------------------------------------------


def ingest(path: str, database: str, answer: Connection) -> None:
    """Ingest a file and say what became of it, and how many bytes the process and its children grew by."""
    from filterdb import Database

    before = peak()
    try:
        (outcome,) = Database(database).ingest(path, jobs=1, check=False)
        told = outcome.error or ""
        fine = "\n" not in told and len(told) < LONGEST and "cannot be ingested: " not in told
        result = ("read" if not told else "refused") if fine else "exception"
    except BaseException as error:
        result, told = "exception", f"{type(error).__name__}: {error}"
    answer.send((result, told, peak() - before))


def peak() -> int:
    """Most bytes that this process had, or a child of it."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


# -- all files -----------------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the files of one kind."""

    results: Counter[str] = field(default_factory=Counter)
    most: int = 0
    """Bytes that one of them took."""
    longest: float = 0.0
    """Seconds that one of them took."""

    def add(self, result: str, grown: int, seconds: float) -> None:
        """Count a file."""
        self.results[result] += 1
        self.most, self.longest = max(self.most, grown), max(self.longest, seconds)


@dataclass(frozen=True)
class Laboratory:
    """Where files are made and ingested."""

    context: Any
    folder: Path
    marker: Path
    keep: Path | None
    """Where files stay that were not dealt with."""

    def attempt(self, label: str, files: Mapping[str, bytes]) -> tuple[str, int, float]:
        """Ingest the first of these files; the result, the bytes it took, and the seconds."""
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            for name, data in files.items():
                (Path(place) / name).write_bytes(data)
            result, told, grown = self._run(str(Path(place) / next(iter(files))), str(Path(place) / "db"))
        if grown > TIMES * sum(map(len, files.values())) + MEGABYTES * 2**20:
            result, told = "memory", f"{grown / 2**20:.0f} MB"
        if self.marker.exists():
            self.marker.unlink()
            result = "code ran"
        if result in FAILURES:
            print(f"{label}: {result}: {told[:600]}", file=sys.stderr, flush=True)
            self._keep(label, files)
        return result, grown, time.perf_counter() - started

    def _run(self, path: str, database: str) -> tuple[str, str, int]:
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=ingest, args=(path, database, theirs))
        process.start()
        theirs.close()
        try:
            answered = ours.poll(SECONDS)
            return ours.recv() if answered else ("hang", f"over {SECONDS} s", 0)
        except EOFError:
            process.join()
            return "died", f"exit code {process.exitcode}", 0
        finally:
            process.kill()
            process.join()
            ours.close()

    def _keep(self, label: str, files: Mapping[str, bytes]) -> None:
        if self.keep is not None:
            place = self.keep / label
            place.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                (place / name).write_bytes(data)


def run(count: int, seed: int, jobs: int, keep: Path | None, only: str = "") -> dict[str, Tally]:
    """Ingest so many mutants, the same number of each kind; of them, those whose kind begins with ``only``.

    Raises:
        RuntimeError: a file that is whole was not read.
    """
    here = Path(__file__).parent
    sys.path[:0] = [str(here), str(here / "sources")]  # as pytest does
    from tests import mutants

    os.nice(10)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "EXECUTED"
        mutants.check_armed(marker)
        kinds = mutants.whole_files(Path(folder), marker)
        laboratory = Laboratory(context, Path(folder), marker, keep)
        for kind, files in kinds.items():
            result, _, _ = laboratory.attempt(f"{kind}-whole", files)
            if result != "read":
                raise RuntimeError(f"the whole file of the kind {kind} was not read")

        def each() -> Iterator[tuple[str, int]]:
            yield from ((kind, number) for number in range(-(-count // len(kinds))) for kind in kinds)

        def one(task: tuple[str, int]) -> tuple[str, tuple[str, int, float]]:
            kind, number = task
            chance = random.Random(f"{seed} {kind} {number}")
            other = chance.choice(list(chance.choice(list(kinds.values())).values()))
            return kind, laboratory.attempt(f"{kind}-{number}", mutants.mutated(chance, kinds[kind], other))

        tasks = [task for task in list(each())[:count] if task[0].startswith(only)]
        tallies = {kind: Tally() for kind in kinds if kind.startswith(only)}
        with ThreadPoolExecutor(jobs) as pool:
            for done, (kind, result) in enumerate(pool.map(one, tasks), 1):
                tallies[kind].add(*result)
                if done % 500 == 0:
                    print(f"{done} of {len(tasks)}", file=sys.stderr, flush=True)
    return tallies


def table(tallies: Mapping[str, Tally]) -> str:
    """The result in Markdown."""
    lines = ["| kind | files | read | refused | " + " | ".join(FAILURES) + " | most memory | longest |"]
    lines.append("|---|" + "--:|" * (lines[0].count("|") - 2))
    total = Tally()
    for tally in tallies.values():
        total.results += tally.results
        total.most, total.longest = max(total.most, tally.most), max(total.longest, tally.longest)
    for kind, tally in {**tallies, "all": total}.items():
        counts = (sum(tally.results.values()), *(tally.results[name] for name in ("read", "refused", *FAILURES)))
        numbers = " | ".join(f"{number:,}" for number in counts)
        lines.append(f"| {kind} | {numbers} | {tally.most / 2**20:.0f} MB | {tally.longest:.1f} s |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print; exit with 1 where a file was not dealt with."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--only", default="", help="files of these kinds alone, by how their names in the table begin")
    parser.add_argument("--keep", type=Path, help="a folder for the files that were not dealt with")
    given = parser.parse_args()
    started = time.perf_counter()
    tallies = run(given.count, given.seed, given.jobs, given.keep, given.only)
    print(table(tallies))
    count = sum(sum(tally.results.values()) for tally in tallies.values())
    print(f"\n{count:,} files in {(time.perf_counter() - started) / 60:.1f} minutes", file=sys.stderr)
    sys.exit(any(tally.results[name] for tally in tallies.values() for name in FAILURES))


if __name__ == "__main__":
    main()
