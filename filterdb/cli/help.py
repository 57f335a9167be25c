"""How help looks: commands in the order of work with whole first sentences, and examples at the end."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from filterdb.cli.examples import EXAMPLES

SECTIONS = {
    "Get in": ("demo", "ingest"),
    "Ask": ("sql", "query", "nearest", "similar"),
    "Understand": ("describe", "fit", "cluster", "classify", "metrics", "compare", "bank"),
    "Models": ("evaluate", "freeze", "greedy", "train"),
    "Look": ("plot", "serve"),
    "Keep": ("info", "verify", "remove"),
}
"""The commands of ``filterdb``, by purpose."""
OPTIONAL = {"--regular": "20000"}
"""Flags whose number may be left out, and what it is then."""
WHOLE = 1000
"""Longer than any first sentence, so that none is truncated."""


class Examples:
    """The epilog as a section of its own."""

    epilog: str | None

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """One example to a line."""
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write_text(self.epilog)


class Command(Examples, TyperCommand):
    """A command with examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Numbers that are left out get their default, which click has no way to say."""
        said = []
        for arg, following in zip_longest(args, args[1:], fillvalue=""):
            said.append(arg)
            if arg in OPTIONAL and not following.lstrip("-").isdecimal():
                said.append(OPTIONAL[arg])
        return super().parse_args(ctx, said)


class Group(Examples, TyperGroup):
    """Commands that stand in sections. Called without arguments, a group shows its help and succeeds."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """``filterdb`` alone is ``filterdb --help``."""
        return super().parse_args(ctx, args or ["--help"] * self.no_args_is_help)

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of work; those of a group as they were written."""
        order = [name for names in SECTIONS.values() for name in names]
        return sorted(self.commands, key=order.index) if {*order} == {*self.commands} else list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each kind of work; all columns start at the same place."""
        sections = SECTIONS if ctx.parent is None else {"Commands": tuple(self.commands)}
        width = max(map(len, self.commands))
        for title, names in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), self.commands[name].get_short_help_str(WHOLE)) for name in names])


def add_examples(app: typer.Typer, prefix: str = "") -> None:
    """End the help of each command, and of the commands below it, with its examples."""
    for command in app.registered_commands:
        command.cls = Command
        command.epilog = _epilog(f"{prefix}{command.name or command.callback.__name__}")  # type: ignore[union-attr]
    for group in app.registered_groups:
        group.epilog = _epilog(f"{prefix}{group.name}")
        add_examples(group.typer_instance, f"{prefix}{group.name} ")  # type: ignore[arg-type]


def _epilog(verb: str) -> str:
    # the backspace keeps the lines as they are
    return "\n".join(["\b", *EXAMPLES[verb]])
