"""Sphinx: the page ``commands`` ends with the help of every command, as it is printed at 80 columns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PAGE = "commands"


def commands() -> Iterator[tuple[str, ...]]:
    """Every command as its words, in the order of the command line: ("ingest",), ("bank", "list") …"""
    import typer

    from filterdb.cli.app import app

    def walk(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            if command.hidden:
                continue
            yield (*words, name)
            if hasattr(command, "list_commands"):
                yield from walk(command, (*words, name))

    return walk(typer.main.get_command(app), ())


def help_of(words: tuple[str, ...]) -> str:
    """What ``filterdb WORDS --help`` prints at 80 columns."""
    done = subprocess.run(
        [sys.executable, "-c", "from filterdb.cli import main; main()", *words, "--help"], capture_output=True, text=True,
        env=os.environ | {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}, check=True,
    )  # fmt: skip
    return done.stdout.strip("\n")


def page() -> str:
    """The help of all commands, in Markdown."""
    all_of_them = list(commands())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(help_of, [(), *all_of_them]))
    parts = [f"```text\n{texts[0]}\n```"]
    for words, text in zip(all_of_them, texts[1:], strict=True):
        parts.append(f"{'#' * (1 + len(words))} {' '.join(words)}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def _fill(app: Any, name: str, source: list[str]) -> None:
    if name == PAGE:
        source[0] += "\n" + page() + "\n"


def setup(app: Any) -> dict[str, Any]:
    """Sphinx's entry."""
    app.connect("source-read", _fill)
    return {"version": "1", "parallel_read_safe": True}
