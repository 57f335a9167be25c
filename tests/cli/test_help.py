"""Help: every verb ends with examples, and every example does what it shows."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from filterdb import Database
from filterdb.cli import main
from filterdb.cli.app import app
from filterdb.cli.examples import EXAMPLES

RUNNING = ("serve",)
"""Verbs that do not end by themselves."""
LONG = "filterdb train --recipe demo"
"""It trains for thirty epochs."""
ALL = [
    pytest.param(verb, example, id=f"{verb} {number}", marks=[pytest.mark.slow] * example.startswith(LONG))
    for verb, examples in EXAMPLES.items() if verb not in RUNNING
    for number, example in enumerate(examples)
]  # fmt: skip


def commands() -> dict[str, object]:
    """Every command of the program by its words."""

    def walk(group: object, words: str) -> dict[str, object]:
        found = {}
        for name, command in group.commands.items():
            found[f"{words}{name}"] = command
            if hasattr(command, "commands"):
                found |= walk(command, f"{words}{name} ")
        return found

    return walk(typer.main.get_command(app), "")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples speak of: a database, images, a network's file, a bank and a classifier."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    for label in range(100):  # as many classes as the demo network has
        (folder / "images" / f"{label:02}").mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{label:02}" / f"{number}.png")
    np.save(folder / "templates.npy", rng.standard_normal((3, 7, 7)))
    network = timm.create_model("convnext_atto", num_classes=100)
    save_file(network.state_dict(), folder / "net.safetensors")
    torch.save(network.state_dict(), folder / "net.pt")
    db = Database(folder / "filters")
    db.ingest("demo", "demo_run")
    db.import_classifier("small-nets-7x7")
    db.classify("small-nets-7x7")
    db.cluster("7x7", method="kmeans", name="shapes")
    db.create_bank("mine", kmeans=3, size="7x7")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    place = tmp_path / "work"
    shutil.copytree(prepared, place)
    monkeypatch.chdir(place)
    monkeypatch.delenv("FILTERDB_PATH", raising=False)
    monkeypatch.setattr("filterdb.cli._end_soon_after_interrupt", lambda: None)  # pytest's own answer to Ctrl-C stays
    return place


def test_every_verb_has_examples_and_every_example_a_verb() -> None:
    assert set(EXAMPLES) == set(commands())
    for verb, examples in EXAMPLES.items():
        assert 1 <= len(examples) <= 2
        assert all(example.startswith(f"filterdb {verb.partition(' ')[0]}") for example in examples)


@pytest.mark.parametrize(("verb", "example"), ALL)
def test_an_example_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, example: str
) -> None:
    assert verb in example
    arguments = shlex.split(example.replace("\\\n", " "))
    if example == "filterdb cluster label shapes labels.toml":  # its first line writes the file
        run_here(["filterdb", "cluster", "label", "shapes", "labels.toml", "--write"], monkeypatch)
    run_here(arguments, monkeypatch)
    said = capsys.readouterr()
    assert said.out or said.err or "--out" in arguments
    for flag, name in pairwise(arguments):
        if flag in ("--out", "--picture", "--report"):
            assert (folder / name).exists()


def run_here(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call filterdb in this process; any end but success fails the test."""
    monkeypatch.setattr("sys.argv", arguments)
    code = None
    try:
        main()
    except SystemExit as end:
        code = end.code
    assert not code


def test_the_server_of_its_example_answers_until_it_is_stopped(folder: Path) -> None:
    (example,) = EXAMPLES["serve"]
    command = [sys.executable, "-c", "from filterdb.cli import main; main()", *shlex.split(example)[1:-1], "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 60
        line = ""
        while "http://" not in line and time.monotonic() < deadline:
            line = process.stdout.readline()
        assert re.search(r"http://\S+:\d+", line)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
    finally:
        process.kill()


def test_first_sentences_are_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (["filterdb"], ["filterdb", "--help"]):
        run_here(arguments, monkeypatch)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        rows = re.findall(r"^  ([a-z]+) +(.+)$", text.partition("Get in:")[2], re.MULTILINE)
        assert {name for name, _ in rows} == {name for name in commands() if " " not in name}
        assert all(sentence.endswith(".") and "..." not in sentence for _, sentence in rows)
