"""The command line as tests call it: in a process of its own, or in this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from filterdb.cli import main


def run(*arguments: str | Path, code: int = 0, db: Path | None = None, cwd: Path | None = None) -> str:
    """Run filterdb; standard output if it ended with ``code``, standard error if that is not 0."""
    command = [sys.executable, "-c", "from filterdb.cli import main; main()", *map(str, arguments)]
    if db is not None:
        command += ["--db", str(db)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.startswith("filterdb: ") or "x " in done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture
def here(monkeypatch, capsys):
    """``run`` without the seconds that a process of its own takes to import torch: the same ``main``, in this one."""

    monkeypatch.setattr("filterdb.cli._end_soon_after_interrupt", lambda: None)  # pytest's own answer to Ctrl-C stays

    def call(*arguments: str | Path, db: Path, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["filterdb", *map(str, arguments), "--db", str(db)])
        ended = 0
        try:
            main()
        except SystemExit as end:
            ended = end.code or 0
        said = capsys.readouterr()
        assert ended == code, said.err
        if code == 1:
            assert said.err.startswith("filterdb: ")
            assert len(said.err.splitlines()) == 1
        return said.err if code else said.out

    return call
