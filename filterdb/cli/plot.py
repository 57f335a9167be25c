"""``filterdb plot``: pictures of what is in the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filterdb.cli.output import print_json
from filterdb.cli.shared import AsOf, Db, Json, existing, flags, open_database
from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    from filterdb.figures import Picture


def plot(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Name of the picture. Default: list all pictures.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write: .png, .svg or .pdf.")] = None,
    width: Annotated[str, typer.Option(help="page (7 inches) or column (3.5 inches), as in two-column papers.")] = "page",
    dark: Annotated[bool, typer.Option("--dark", help="Use a dark background.")] = False,
    title: Annotated[str | None, typer.Option(help='Title of the picture, "" for none. Default: what it shows.')] = None,
    db: Db = None, as_json: Json = False, as_of: AsOf = None,
) -> None:  # fmt: skip
    """Draw a picture, or list all of them. Options of a picture are flags, such as --model demo.

    filterdb plot NAME --help explains one picture."""
    from filterdb.figures import PICTURES, find

    if name == "--help" or "--help" in context.args:
        print(_help(find(name)) if name and name != "--help" else context.get_help())
        return None
    if name is None:
        if flags(context.args):
            raise typer.BadParameter(f"{context.args[0]} belongs to a picture. Name one: filterdb plot NAME.")
        if as_json:
            return print_json([_facts(one) for _, one in sorted(PICTURES.items())])
        for _, one in sorted(PICTURES.items()):
            taken = " ".join(
                f"--{option.name} {_default(option.default) or option.name.upper()}" for option in one.options if option.flag
            )
            print(f"{one.name:<13} {one.title}" + (f"  [{taken}]" if taken else ""))
        return None
    found = find(name)
    if out is None:
        raise InvalidArgument(f"No file to write to. Name one: filterdb plot {name} --out {name}.png (or .svg, .pdf)")
    values: dict[str, Any] = {}
    for option, value in flags(context.args):
        values[option] = value if option not in values else [*_several(values[option]), value]
    if unsayable := [taken.name for taken in found.options if taken.name in values and not taken.flag]:
        raise InvalidArgument(f"--{unsayable[0]} can only be set in Python: db.plot({name!r}, {unsayable[0]}=…).")
    database = existing(db, as_of) if found.needs else open_database(db, as_of)
    database.plot(name, out=out, width=width, dark=dark, title=title, **values)  # type: ignore[arg-type]
    print_json({"picture": name, "out": str(out)}) if as_json else print(f"wrote {out}")
    return None


def _several(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _default(value: Any) -> str:
    return "" if value is ... or value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _help(picture: Picture) -> str:
    taken = [
        f"  --{option.name}  {option.help}"
        + (" [required]" if option.default is ... else f" [default: {shown}]" if (shown := _default(option.default)) else "")
        for option in picture.options
        if option.flag
    ]
    stands = [f"\nIt uses the tables {', '.join(picture.needs)}."] if picture.needs else []
    return "\n".join([f"filterdb plot {picture.name} --out FILE", "", picture.help, "", *taken, *stands]).rstrip()


def _facts(picture: Picture) -> dict[str, Any]:
    options = [
        {
            "name": one.name,
            "help": one.help,
            "required": one.default is ...,
            "default": None if one.default is ... else one.default,
        }
        for one in picture.options
        if one.flag
    ]
    return {"name": picture.name, "title": picture.title, "help": picture.help, "tables": picture.needs, "options": options}
