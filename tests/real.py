"""The real checkpoints and images that this project was given, which are not in the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

ABSENT = "the shared data is not here: set FILTERDB_SHARED_DATA to its folder"


def data() -> Path:
    """The folder of shared data: $FILTERDB_SHARED_DATA, or ../shared/data beside the checkout. Skips the test where absent."""
    given = os.environ.get("FILTERDB_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(ABSENT)
    return folder


def manifest() -> list[dict[str, Any]]:
    """What is known of each real checkpoint; empty where they are absent, so that parametrised tests can be collected."""
    try:
        return json.loads((data() / "weights" / "manifest.json").read_text(encoding="utf-8"))
    except pytest.skip.Exception:
        return []


def each(entries: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """Run a test with each of these entries as ``entry``; where there are none, one test that skips and says why."""
    absent = pytest.param({"file": "absent"}, marks=pytest.mark.skip(reason=ABSENT))
    return pytest.mark.parametrize("entry", entries or [absent], ids=lambda entry: entry["file"])
