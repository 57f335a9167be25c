"""A run of one benchmark keeps the results of the others, each with the machine it was measured on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks.measure import Row

ABOUT = {"date": "2026-01-01 00:00 UTC", "load": "0.1", "minutes": "1.0"}


def machine(cpu: str) -> dict[str, str]:
    return {"CPU": cpu, "cores": "2", "memory": "24 GiB", "system": "Debian", "python": "3.11"}


def test_a_section_keeps_its_machine_when_another_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, name, seconds in [("old", "disk", 1.0), ("old", "nearest", 2.0), ("new", "similar", 3.0), ("new", "nearest", 4.0)]:
        monkeypatch.setattr(benchmarks, "machine", lambda cpu=cpu: machine(cpu))
        benchmarks.keep(tmp_path, name, ABOUT, [Row(f"cost of {name}", seconds, "s")], small=False)
    found = json.loads((tmp_path / "results.json").read_text())
    assert {name: (one["machine"]["CPU"], one["rows"][0]["ours"]) for name, one in found.items()} == {
        "disk": ("old", 1.0), "nearest": ("new", 4.0), "similar": ("new", 3.0),
    }  # fmt: skip
    sections = re.split(r"^## ", (tmp_path / "results.md").read_text(), flags=re.MULTILINE)[1:]
    cpus = {text.split("\n")[0]: re.findall(r"^\* machine: (\w+)", text, re.MULTILINE) for text in sections}
    assert cpus == {"nearest": ["new"], "similar": ["new"], "disk": ["old"]}


def test_the_page_has_a_heading_for_each_section_that_was_run() -> None:
    folder = Path(benchmarks.__file__).parent
    results = json.loads((folder / "results.json").read_text())
    page = (folder / "results.md").read_text()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == [name for name in benchmarks.BENCHMARKS if name in results]
    assert page == benchmarks.page(results, small=False)
