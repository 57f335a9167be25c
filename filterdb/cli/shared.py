"""What the commands share: the flags that mean the same everywhere, and the database they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from filterdb.cli.output import Format

if TYPE_CHECKING:
    from filterdb.database import Database

Db = Annotated[
    str | None, typer.Option("--db", help="Database folder. Default: $FILTERDB_PATH, else ./filters.", show_default=False)
]
AsOf = Annotated[str | None, typer.Option(help="Look at an older version: its number, or a UTC time such as 2026-03-01T12:00.")]
Form = Annotated[Format, typer.Option("--format", help="How rows are written.")]
Json = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
Out = Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")]
Limit = Annotated[int, typer.Option(min=1, help="Rows of a table at most; the other formats write all.")]
Param = Annotated[
    list[str] | None, typer.Option(help="A parameter of the query, NAME=VALUE; a JSON value, else text. Repeatable.")
]
Models = Annotated[list[str] | None, typer.Option("--model", "--models", help="Only this model, or glob. Repeatable.")]
Size = Annotated[str | None, typer.Option(help="Kernel size, rows x columns, such as 7x7.")]


def open_database(db: str | None, as_of: str | None = None) -> Database:
    from filterdb.database import Database

    return Database(db, as_of=as_of)


def existing(db: str | None, as_of: str | None = None) -> Database:
    """The database to read: a mistyped folder must not look like an empty database."""
    from filterdb.errors import StoreError

    database = open_database(db, as_of)
    if not database.exists():
        raise StoreError(f"There is no database at {database.place}. Name one with --db, or make it: filterdb ingest SOURCE")
    return database


def flags(arguments: list[str]) -> list[tuple[str, str]]:
    """``--size 7x7 --model=a`` as pairs of a name and a value."""
    values, rest = [], list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise typer.BadParameter(f'"{flag}" is not a flag. Write --NAME VALUE.')
        flag, equals, value = flag.removeprefix("--").partition("=")
        if not equals:
            if not rest:
                raise typer.BadParameter(f"--{flag} needs a value.")
            value = rest.pop(0)
        values.append((flag.replace("-", "_"), value))
    return values
