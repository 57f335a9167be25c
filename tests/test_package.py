"""Wheel and sdist carry the words and numbers, and work without the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = [
    "ingest/demo.toml",
    "ingest/timm.toml",
    "queries/sizes.sql",
    "data/banks/greedy8.toml",
    "data/top1.csv",
    "data/demo.safetensors",
    "data/demo_run/run.toml",
    "data/demo_run/step_006000.safetensors",
    "data/classifiers/small-nets-7x7.safetensors",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """A wheel and an sdist, built from a copy of the tracked and new files, so that the checkout stays clean."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE", "filterdb", "ingest", "queries", "data"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    for kind in ("sdist", "wheel"):
        code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, out], cwd=source, check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_the_wheel_has_the_words_and_numbers_and_no_tests(built):
    names = zipfile.ZipFile(built[0]).namelist()
    assert {f"filterdb/_share/{name}" for name in SHIPPED} <= set(names)
    assert "filterdb/py.typed" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "filterdb").rglob("*.py") if "_share" not in path.parts}
    assert modules == {name for name in names if name.endswith(".py")}  # a package that is not listed is not packed
    assert not [name for name in names if "test" in name or name.endswith(".png")]


def test_the_sdist_has_what_the_wheel_is_built_from(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*SHIPPED, "LICENSE", "README.md", "pyproject.toml", "filterdb/database/__init__.py"} <= names


def test_an_installed_wheel_runs_without_the_checkout(built, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(built[0]).extractall(site)
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import filterdb
assert filterdb.__file__.startswith({str(site)!r}), filterdb.__file__
db = filterdb.Database("db")
db.ingest("demo")
db.import_classifier("small-nets-7x7")
print(len(db.nearest(bank="greedy8").fetchall()), len(db.classify("small-nets-7x7").fetchall()), len(db.ingest("demo_run")))
# an editable install of the checkout must not lend what the wheel lacks
strangers = [name for name, module in sys.modules.items() if name.split(".")[0] == "filterdb"
             and getattr(module, "__file__", None) and not module.__file__.startswith({str(site)!r})]
assert not strangers, strangers
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["864", "864", "10"]
