"""``python -m tests.benchmarks [--only NAME …] [--small] [--folder DIR]``, from the root of the checkout.

Measures, prints progress, and writes results.md and results.json beside this file. Every section has its own date, machine and
versions. Sections that were not run keep the results they had, on whatever machine those were measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import classify, disk, explorer, fit, frozen_layer, ingest_huge, monitor, nearest, similar, startup
from tests.benchmarks.measure import Row, machine, say

BENCHMARKS: dict[str, Any] = {
    module.__name__.rpartition(".")[2]: module
    for module in (ingest_huge, nearest, similar, classify, fit, frozen_layer, disk, startup, explorer, monitor)
}
HEAD = ("what", "filterdb", "against", "", "ratio", "goal for the ratio", "")


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure filterdb.")
    parser.add_argument(
        "--only", nargs="+", choices=BENCHMARKS, default=[*BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--small", action="store_true", help="a trial in minutes, its results beside the data")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "filterdb-benchmarks",
        help="where weights and databases are made, and kept for the next run (6 GB)",
    )  # fmt: skip
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder if given.small else Path(__file__).parent
    failed = []
    for name in given.only:
        say(name)
        about = {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "load": f"{os.getloadavg()[0]:.1f}"}
        start = time.perf_counter()
        try:
            rows = BENCHMARKS[name].benchmark(folder, given.small)
        except RuntimeError as error:
            say(f"  failed: {error}")
            failed.append(name)
            continue
        about["minutes"] = f"{(time.perf_counter() - start) / 60:.1f}"
        for row in rows:
            say("  " + " | ".join(cell for cell in row.cells() if cell))
        keep(target, name, about, rows, given.small)
    sys.exit(f"failed, their earlier results stand: {', '.join(failed)}" if failed else 0)


def keep(target: Path, name: str, about: dict[str, str], rows: list[Row], small: bool) -> None:
    """Put one section's results beside those of the others, and write both files."""
    file = target / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    results[name] = about | {
        "machine": machine(),
        "rows": [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows],
    }
    file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (target / "results.md").write_text(page(results, small))


def page(results: dict[str, Any], small: bool) -> str:
    """The results as Markdown: a section for each benchmark that was ever run, in the order of BENCHMARKS."""
    lines = [
        "# Benchmarks", "",
        "Written by `python -m tests.benchmarks`" + (" `--small`: a trial, not a result." if small else "."), "",
        "A ratio is filterdb's number by the other's: medians, measured in turns in one run, each in a process of its own.",
        "Memory is the peak resident set less that of the same process after its imports (and, for numpy, its loading).",
        "Files are in the page cache. Bytes from the hub are those of the answers' bodies.", "",
    ]  # fmt: skip
    for name in (name for name in BENCHMARKS if name in results):
        lines += section(name, results[name])
    return "\n".join(lines)


def section(name: str, found: dict[str, Any]) -> list[str]:
    """The lines of one benchmark: what it is, when and where it ran, and its table."""
    place = dict(found["machine"])
    cpu, cores, memory, system = (place.pop(key) for key in ("CPU", "cores", "memory", "system"))
    versions = ", ".join(f"{library} {version}" for library, version in place.items())
    lines = [
        f"## {name}", "", (BENCHMARKS[name].__doc__ or "").strip(), "",
        f"* run: {found['date']}, {found['minutes']} minutes, load of the machine at the start {found['load']}",
        f"* machine: {cpu}, {cores} cores, {memory}, {system}",
        f"* versions: {versions}", "",
        f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD),
    ]  # fmt: skip
    for row in found["rows"]:
        fields = {key: value for key, value in row.items() if key not in ("ratio", "met")}
        lines.append(f"| {' | '.join(Row(**fields).cells())} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
