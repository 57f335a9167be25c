"""The README tells the truth: its commands run, print what it shows, and its Python works.

python tests/test_readme.py      runs the commands again and writes their output into the README
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"```(?P<kind>\w*)\n(?P<body>.*?)```", re.DOTALL)


def blocks(kind: str) -> list[str]:
    """The bodies of all code blocks of a kind."""
    return [match["body"] for match in BLOCK.finditer(README.read_text("utf-8")) if match["kind"] == kind]


def run(command: str, folder: Path) -> str:
    """What a person sees of one ``$ filterdb …`` line; the exit code may be 1 (an error shown on purpose), never more."""
    words = shlex.split(command)
    assert words[0] == "filterdb", command
    done = subprocess.run(
        [sys.executable, "-c", "from filterdb.cli import main; main()", *words[1:]], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout
    assert "Traceback" not in done.stdout
    return "\n".join(line.rstrip() for line in done.stdout.splitlines() if line.strip())


def commands(block: str) -> list[str]:
    """The ``$`` lines of a console block that the reader types: those not printed by the command before."""
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def shown(text: str) -> list[str]:
    """Lines without what differs from run to run: seconds."""
    return [re.sub(r"[\d.]+ s$", "… s", line.rstrip()) for line in text.splitlines() if line.strip()]


def same(line: str, other: str, fitted: bool = False) -> bool:
    """Equal, but for the last digits of numbers with a point, where processors differ: a fit ends a rounding apart.

    Where kernels are counted by the model that won (``fitted``), a few of them may go to another.
    """
    number = r"-?\d+\.\d+" if not fitted else r"-?\d+(?:\.\d+)?"
    if re.sub(r"\s+", " ", re.sub(number, "#", line)) != re.sub(r"\s+", " ", re.sub(number, "#", other)):
        return False
    pairs = zip(re.findall(number, line), re.findall(number, other), strict=True)
    rel, least = (0.05, 3) if fitted else (0.005, 2e-4)
    return all(math.isclose(float(a), float(b), rel_tol=rel, abs_tol=least) for a, b in pairs)


def play(block: str, folder: Path) -> str:
    """A console block with fresh output. The demo prints commands of its own, so it stands alone in its block."""
    typed = commands(block)
    if typed[0] == "filterdb demo":
        typed = typed[:1]
    return "\n\n".join(f"$ {command}\n{run(command, folder)}" for command in typed) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the demo has run."""
    path = tmp_path_factory.mktemp("readme")
    run("filterdb demo", path)
    return path


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: commands(block)[0])
def test_commands_print_what_the_readme_shows(block, folder):
    told, fresh = shown(block), shown(play(block, folder))
    assert len(told) == len(fresh), "\n".join(fresh)
    for line, other in zip(told, fresh, strict=True):
        assert same(line, other, fitted="filterdb fit" in block), f"README: {line}\nnow:    {other}"


def test_the_python_of_the_readme_runs(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    scope: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)
    assert "count" in capfd.readouterr().out


def test_links_and_the_tree_name_what_exists():
    text = README.read_text("utf-8")
    for target in re.findall(r"\]\((?!#|http)([^)]+)\)", text):
        assert (ROOT / target).exists(), target
    tree = blocks("")[0]
    for name in re.findall(r"^  (\w+(?:\.py|/))", tree, re.MULTILINE):
        assert (ROOT / "filterdb" / name).exists(), name
    for path in (ROOT / "filterdb").glob("*.py"):
        assert path.name in tree or path.name == "__init__.py", f"{path.name} is not in the README's tree"


def test_the_tables_have_the_columns_that_the_readme_says(folder):
    from filterdb import Database

    db = Database(folder / "filterdb-demo" / "filters")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README.read_text("utf-8"), re.MULTILINE))
    assert set(rows) == {
        "models", "layers", "filters", "banks", "templates", "classifiers", "spectrum", "classes", "descriptors", "fits", "bases",
        "components", "runs", "metrics",
    }  # fmt: skip
    for table, columns in rows.items():
        assert columns.replace(" (UTC)", "").split(", ") == db.sql(f"SELECT * FROM {table}").columns


def test_ci_runs_the_second_command_and_nothing_less():
    [command] = re.findall(r"<!-- test -->\n```sh\n(.*)\n```", README.read_text("utf-8"))
    extracted = subprocess.run(
        ["sed", "-n", "/<!-- test -->/,/```$/p", "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert command in extracted
    assert command.endswith("-m pytest")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        fresh = README.read_text("utf-8")
        for old in blocks("console"):
            fresh = fresh.replace(f"```console\n{old}```", f"```console\n{play(old, Path(temporary))}```")
        README.write_text(fresh, "utf-8")
        picture = Path(temporary) / "filterdb-demo" / "nearest.png"
        (ROOT / "data" / "pictures").mkdir(exist_ok=True)
        (ROOT / "data" / "pictures" / "nearest.png").write_bytes(picture.read_bytes())
