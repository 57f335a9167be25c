"""The house stands: rooms import downwards only, imports are light, contracts whole, and files readable at one sitting."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import filterdb
from filterdb import Database, errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "filterdb"

ROOMS = (
    "version", "errors", "share", "kernels", "store", "images", "sources", "banks", "clusters", "fields", "search", "comparison",
    "networks", "frozen", "training", "figures", "database", "experiments", "explorer", "cli",
)  # fmt: skip
"""From the ground up: a room imports only rooms that stand before it here. What each is for: docs/contributing.md."""
KEYWORDS = 10
"""Keyword-only parameters of a function, and those with a default, at most."""
LOOSE = 6
"""Modules at the top of the package, at most: everything else is in a room."""
HEAVY = {
    "torch", "timm", "torchvision", "faiss", "matplotlib", "scipy", "sklearn", "onnx", "tflite", "h5py",
    "huggingface_hub", "safetensors",
    "starlette", "uvicorn",
}  # fmt: skip
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "_share" not in path.parts)


# -- imports -----------------------------------------------------------------------------------------------------------------


def imported(path: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """The files below ``root/filterdb`` that a file imports, at any depth and under TYPE_CHECKING too, each with its name.

    ``from filterdb.a import b`` is an import of the file b where there is one, and of the package a where b is a name in it.
    """
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import; write it in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "filterdb":
                continue
            parts = name.split(".")
            while parts:
                place = root.joinpath(*parts)
                found = [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()]
                if found:
                    yield found[0], name
                    break
                parts.pop()


def circles(graph: dict[Path, set[Path]]) -> list[list[Path]]:
    """The sets of files that import each other, directly or through others (Tarjan's strongly connected components)."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    found = []

    def visit(file: Path) -> None:
        index[file] = low[file] = len(index)
        stack.append(file)
        for other in graph.get(file, ()):
            if other not in index:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in stack:
                low[file] = min(low[file], index[other])
        if low[file] == index[file]:
            circle = [stack.pop()]
            while circle[-1] != file:
                circle.append(stack.pop())
            if len(circle) > 1 or file in graph.get(file, ()):
                found.append(circle)

    for file in graph:
        if file not in index:
            visit(file)
    return found


def room_of(path: Path, package: Path) -> str:
    """The room of a source file: its module or sub-package directly below filterdb."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def graph_of(root: Path) -> dict[Path, set[Path]]:
    return {path: {file for file, _ in imported(path, root)} for path in sorted((root / "filterdb").rglob("*.py"))}


def test_no_files_import_each_other():
    assert [[str(file.relative_to(ROOT)) for file in circle] for circle in circles(graph_of(ROOT))] == []


def test_the_search_for_circles_sees_those_in_functions_and_those_for_types_only(tmp_path):
    files = {
        "__init__": "", "a/__init__": "", "a/one": "def f():\n    from filterdb.b import two", "b/__init__": "",
        "b/two": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from filterdb.c.three import x",
        "c/__init__": "from filterdb.a.one import f", "c/three": "import filterdb.c", "d": "from filterdb import b",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "filterdb" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    [circle] = circles(graph_of(tmp_path))
    assert {file.relative_to(tmp_path / "filterdb").as_posix() for file in circle} == {
        "a/one.py", "b/two.py", "c/three.py", "c/__init__.py"
    }  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path):
    room = room_of(path, PACKAGE)
    if room == "__init__":
        return  # the public face names what is in the rooms; no room imports it, which the next lines check
    assert room in ROOMS, f"{room} is no room: a new file belongs into one of {', '.join(ROOMS)}"
    for file, name in imported(path, ROOT):
        other = room_of(file, PACKAGE)
        assert other == room or other in ROOMS[: ROOMS.index(room)], f"{room} stands below {other}, and imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_uses_of_another_what_that_names_in_its_init(path):
    room = room_of(path, PACKAGE)
    for file, name in imported(path, ROOT):
        other = room_of(file, PACKAGE)
        front = PACKAGE / other / "__init__.py"
        if other != room and front.exists() and name != f"filterdb.{other}":  # the room itself: its names are those it offers
            used = name.split(".")[2]
            assert used in offered(front), f"filterdb.{other} does not offer {used}: name it in __all__, or use what it offers"


def offered(front: Path) -> set[str]:
    """The names in the ``__all__`` of a file: functions and classes, and the files that other rooms may import."""
    for node in ast.parse(front.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return set(ast.literal_eval(node.value))
    return set()


def test_what_a_room_offers_is_there():
    for front in PACKAGE.glob("*/__init__.py"):
        for name in offered(front):
            code = f"from filterdb.{front.parent.name} import {name}"
            exec(code, {})


def test_functions_take_few_keywords():
    """More belong into a dataclass, which Python, the command line and recipes share. Commands have their flags there."""
    for path in SOURCES:
        if room_of(path, PACKAGE) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                optional = max(len(node.args.kwonlyargs), len(node.args.defaults))
                assert optional <= KEYWORDS, f"{path.relative_to(ROOT)}: {node.name} takes {optional} keywords"


@pytest.mark.parametrize(
    ("command", "choices"),
    [
        ("freeze", ["filterdb.images.Images", "filterdb.frozen.choices.Matching"]),
        ("evaluate", ["filterdb.images.Images"]),
        ("greedy", ["filterdb.images.Images", "filterdb.frozen.greedy.Search"]),
        ("train", ["filterdb.training.Settings", "filterdb.training.Saving"]),
    ],
)
def test_what_can_be_chosen_in_python_is_a_flag_of_the_same_name(command, choices):
    from typer.main import get_command

    from filterdb.cli.app import app

    flags = {one.name for one in get_command(app).commands[command].params}
    for place in choices:
        module, _, name = place.rpartition(".")
        fields = set(getattr(import_module(module), name).__dataclass_fields__)
        # input_size and crop_pct are the two of preprocessing that are said in flags; args are in a recipe
        assert fields - {"preprocessing", "args"} <= flags, place


def test_few_modules_lie_loose():
    assert len([path for path in PACKAGE.glob("*.py")]) <= LOOSE


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
