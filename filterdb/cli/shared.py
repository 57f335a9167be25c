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
MatchKeys = Annotated[
    str,
    typer.Option(help="Match tensors by name, or by order where names differ and order and shapes agree exactly."),
]
AsOf = Annotated[str | None, typer.Option(help="Read an older version, by number or UTC time such as 2026-03-01T12:00.")]
Form = Annotated[Format, typer.Option("--format", help="Output format.")]
Json = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
Out = Annotated[Path | None, typer.Option(help="Write to this file. Its suffix chooses the format.")]
Limit = Annotated[int, typer.Option(min=1, help="Maximum rows of a table. The other formats write all rows.")]
Param = Annotated[
    list[str] | None, typer.Option(help="Parameter of the query as NAME=VALUE, with VALUE in JSON or plain text. Repeatable.")
]
Models = Annotated[list[str] | None, typer.Option("--model", "--models", help="Use only this model or glob. Repeatable.")]
Size = Annotated[str | None, typer.Option(help="Kernel size, rows x columns, such as 7x7.")]


def open_database(db: str | None, as_of: str | None = None) -> Database:
    from filterdb.database import Database

    return Database(db, as_of=as_of)


def existing(db: str | None, as_of: str | None = None) -> Database:
    """The database to read: a mistyped folder must not look like an empty database."""
    from filterdb.errors import StoreError

    database = open_database(db, as_of)
    if not database.exists():
        raise StoreError(f"There is no database at {database.place}. Name one with --db, or create it: filterdb ingest SOURCE")
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
