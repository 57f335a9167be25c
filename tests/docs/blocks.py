"""The blocks of README and docs: what is typed, what it prints, and how the two are compared.

``console``  lines that begin with "$ " are typed, the others are what they print.
``python``   runs; the ``text`` block right behind it holds what it prints. Without one it prints nothing.
``sh``       is not run (it asks a hub, takes long, or needs data), but its commands and flags are checked.

The blocks of a page share a folder, in which ``filterdb demo`` has run, and one Python session. A comment
``<!-- needs: NAME -->`` before a Python block says that it runs only where that library is installed.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[\w.]+) -->\n+)?^```(?P<kind>console|python|sh)\n(?P<body>.*?)^```$"
    r"(?:\n+^```text\n(?P<printed>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
DEMO = "filterdb demo"


@dataclass
class Block:
    """One block of a page, and what it prints on paper."""

    kind: str
    body: str
    printed: str
    needs: str | None

    @property
    def title(self) -> str:
        return self.body.splitlines()[0]


def blocks(page: Path, *kinds: str) -> list[Block]:
    """The blocks of a page in their order: all of them, or those of some kinds."""
    found = [Block(m["kind"], m["body"], m["printed"] or "", m["needs"]) for m in BLOCK.finditer(page.read_text("utf-8"))]
    return [one for one in found if not kinds or one.kind in kinds]


def typed(block: Block) -> list[str]:
    """The commands of a console block. The demo prints commands of its own, so it stands alone in its block."""
    lines = [line.removeprefix("$ ") for line in block.body.splitlines() if line.startswith("$ ")]
    return lines[:1] if lines[:1] == [DEMO] else lines


def run(command: str, folder: Path) -> str:
    """What a person sees of one ``filterdb …`` line, without the progress of long work."""
    words = shlex.split(command)
    assert words[0] == "filterdb", command
    done = subprocess.run(
        [sys.executable, "-c", "from filterdb.cli import main; main()", *words[1:]], cwd=folder, text=True,
        capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode in (0, 1), f"{command}\n{done.stderr}"  # 1 is an error that is shown on purpose
    assert "Traceback" not in done.stderr, done.stderr
    return _tidy(done.stdout + (done.stderr if done.returncode else ""))


def _tidy(text: str) -> str:
    """Without blanks at the ends of lines, and with at most one empty line at a time."""
    lines = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
    return re.sub(r"\n{3,}", "\n\n", lines)


@dataclass
class Demo:
    """A folder in which ``filterdb demo`` has run, and what it printed."""

    folder: Path
    printed: str = field(init=False)

    def __post_init__(self) -> None:
        self.printed = run(DEMO, self.folder)


class Player:
    """Runs the blocks of one page, one after the other."""

    def __init__(self, demo: Demo, folder: Path):
        self.demo, self.folder = demo, folder
        shutil.copytree(demo.folder, folder, dirs_exist_ok=True)
        self.scope: dict[str, Any] = {"__name__": "docs"}

    def play(self, block: Block) -> Block:
        """The block with what it prints now."""
        if block.kind == "console":
            answers = (f"$ {line}\n{self.demo.printed if line == DEMO else run(line, self.folder)}" for line in typed(block))
            return Block("console", "\n\n".join(answers) + "\n", "", None)
        if block.kind == "python":
            code = compile(block.body, block.title, "exec")
            if block.needs is None or find_spec(block.needs):
                return Block("python", block.body, self._python(code), block.needs)
        return block

    def _python(self, code: Any) -> str:
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
            exec(code, self.scope)
        printed = _tidy(out.getvalue())
        return printed + "\n" if printed else ""


def differences(block: Block, fresh: Block) -> Iterator[str]:
    """Where what a block prints is not what stands on the page."""
    told, now = _lines(block.body + block.printed), _lines(fresh.body + fresh.printed)
    if len(told) != len(now):
        yield f"{len(told)} lines on the page, {len(now)} now:\n" + "\n".join(now)
        return
    fitted = "filterdb fit" in block.body
    for line, other in zip(told, now, strict=True):
        if not same(line, other, fitted):
            yield f"page: {line}\nnow:  {other}"


def _lines(text: str) -> list[str]:
    """Lines without what differs from run to run: seconds."""
    return [re.sub(r"[\d.]+ s$", "… s", line.rstrip()) for line in text.splitlines() if line.strip()]


def same(line: str, other: str, fitted: bool = False) -> bool:
    """Equal, but for the last digits of numbers with a point, where processors differ: a fit ends a rounding apart.

    Where kernels are counted by the model that won (``fitted``), a few of them may go to another.
    """
    number = r"-?\d+\.\d+(?:e-?\d+)?" if not fitted else r"-?\d+(?:\.\d+)?"
    if re.sub(r"[\s─]+", " ", re.sub(number, "#", line)) != re.sub(r"[\s─]+", " ", re.sub(number, "#", other)):
        return False
    pairs = zip(re.findall(number, line), re.findall(number, other), strict=True)
    rel, least = (0.05, 3) if fitted else (0.005, 2e-4)
    return all(math.isclose(float(a), float(b), rel_tol=rel, abs_tol=least) for a, b in pairs)


def rewrite(page: Path, player: Player) -> None:
    """Run the blocks of a page and write what they print into it."""

    def fresh(match: re.Match[str]) -> str:
        block = Block(match["kind"], match["body"], match["printed"] or "", match["needs"])
        now = player.play(block)
        needs = f"<!-- needs: {now.needs} -->\n" if match["needs"] else ""
        text = f"{needs}```{now.kind}\n{now.body}```"
        return text + (f"\n\n```text\n{now.printed}```" if now.printed else "")

    page.write_text(BLOCK.sub(fresh, page.read_text("utf-8")), "utf-8")
