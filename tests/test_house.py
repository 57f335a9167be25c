"""The house stands: floors, light imports, whole contracts, and files one can read at one sitting."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import filterdb
from filterdb import Database, errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "filterdb"

FLOORS = {
    0: {"descriptors", "errors", "heat_map", "kernels", "schema", "scale_space", "share"},
    1: {"bank_files", "banks", "recipes", "named_queries", "notebook", "novelty", "pca", "shapes"},
    2: {"sources", "store", "index", "images", "networks"},
    3: {
        "pipeline", "nearest", "similar", "verify", "figures", "bank_store", "bank_fit", "bank_make", "training", "view",
        "clusters", "clustering", "class_store", "cluster_report", "describing", "field_store", "fits", "fitting",
        "field_report", "csv_files", "basis_store", "evaluation", "frozen", "run_store", "comparison", "layer_metrics",
        "selection",
    },
    4: {"database"},
    5: {"cli", "experiments", "explorer"},
}  # fmt: skip
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
HEAVY = {
    "torch", "timm", "torchvision", "faiss", "matplotlib", "scipy", "sklearn", "onnx", "huggingface_hub", "safetensors",
    "starlette", "uvicorn",
}  # fmt: skip


def room_of(path: Path) -> str:
    """The room of a source file: its module or sub-package directly below filterdb."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """The rooms of filterdb that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "filterdb":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("filterdb."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("filterdb.")}
    return found & set(FLOOR_OF)


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "_share" not in path.parts and path.name != "__init__.py") + sorted(
    path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_its_own_floor_and_those_below(path):
    assert room_of(path) in FLOOR_OF, f"{room_of(path)} is on no floor: say which in FLOORS"
    above = {room for room in imports(ast.parse(path.read_text("utf-8"))) if FLOOR_OF[room] > FLOOR_OF[room_of(path)]}
    assert not above


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_can_be_read_at_one_sitting_and_say_what_they_are(path):
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text)), "a module docstring says what the file is"
    assert len(text.splitlines()) <= 500


def loaded_by(code: str) -> set[str]:
    """The heavy libraries that a piece of Python loads, in a process of its own."""
    report = f"\nimport sys; print('LOADED', *sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


HELP = """
import sys
sys.argv = ["filterdb", "--help"]
from filterdb.cli import main
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    "code",
    ["import filterdb", HELP, "from filterdb import Database", "import filterdb.sources"],
    ids=["import", "help", "database", "sources"],
)
def test_no_heavy_library_is_loaded_before_it_is_needed(code):
    assert loaded_by(code) == set()


def test_a_sql_query_loads_no_heavy_library(tmp_path):
    code = f"from filterdb import Database; Database({str(tmp_path / 'db')!r}).sql('SELECT count(*) FROM filters').fetchall()"
    # The templates of the banks are computed with scipy's Bessel function.
    assert loaded_by(code) <= {"scipy"}


def test_public_names_are_whole():
    for name in filterdb.__all__:
        assert getattr(filterdb, name) is not None
    assert set(filterdb.__all__) <= set(dir(filterdb))
    with pytest.raises(AttributeError, match="no attribute 'Databse'"):
        _ = filterdb.Databse


def test_every_error_has_the_one_base_and_is_in_the_picture():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    for one in classes:
        assert issubclass(one, filterdb.FilterdbError)
        assert one.__name__ in (errors.__doc__ or "")


def test_the_contracted_verbs_of_the_foundation_are_there_and_documented():
    for verb in ("ingest", "sql", "query", "nearest", "similar", "bank", "remove", "verify", "info"):
        assert getattr(Database, verb).__doc__, verb


@pytest.mark.parametrize("tool", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_the_code_is_clean(tool):
    done = subprocess.run([sys.executable, "-m", *tool], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == filterdb.__version__
    assert f"## {filterdb.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_words_and_numbers_live_outside_the_code():
    for folder in ("ingest", "queries", "data"):
        assert not list((ROOT / folder).rglob("*.py"))
