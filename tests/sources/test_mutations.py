"""Some hundred damaged and hostile files; ``python -m tests.mutations`` tries ten thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_mutations() -> None:
    command = [sys.executable, "-m", "tests.mutations", "--count", "300", "--seed", "7"]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "| all | 300 |" in done.stdout
