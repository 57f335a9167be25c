"""Named queries: each file ``queries/NAME.sql`` is one. Its leading comment is its help, its $parameters are its flags.

-- A description of the result, in one line.
-- More about it, if needed.
-- $size = 7x7: rows x columns of the kernels
-- $model: a parameter without a default must be given
SELECT …
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from filterdb.errors import InvalidArgument, not_found
from filterdb.share import folder

_PARAMETER = re.compile(r"\$(?P<name>\w+)(?:\s*=\s*(?P<default>[^:]*?))?\s*:\s*(?P<help>.*)")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a named query; ``default`` None means that it must be given."""

    name: str
    help: str
    default: str | None


@dataclass(frozen=True)
class NamedQuery:
    """A named query."""

    name: str
    title: str
    """The first line of the help."""
    help: str
    parameters: tuple[Parameter, ...]
    sql: str

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all parameters: those given, and the defaults of the others."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise not_found(f"parameter of the query {self.name}", name, known)
        values = {name: given.get(name, parameter.default) for name, parameter in known.items()}
        if missing := [name for name, value in values.items() if value is None]:
            flags = " ".join(f"--{name} …" for name in missing)
            raise InvalidArgument(f"The query {self.name} needs {', '.join(missing)}: add {flags}.")
        return {name: _like(known[name].default, given) for name, given in values.items()}


def _like(default: str | None, given: Any) -> Any:
    """A flag is text; where the default is a number, so is the value."""
    if not isinstance(given, str) or default is None or not re.fullmatch(r"-?\d+(\.\d+)?", default):
        return given
    try:
        return float(given) if "." in given else int(given)
    except ValueError:
        raise InvalidArgument(f'"{given}" is not a number, such as {default}.') from None


def names() -> list[str]:
    """The names of all queries."""
    return sorted(path.stem for path in folder("queries").glob("*.sql"))


def load(name: str) -> NamedQuery:
    """The query of that name.

    Raises:
        NotFound: there is none; the message lists the near misses.
    """
    path = folder("queries") / f"{name}.sql"
    if name not in names():
        raise not_found("query", name, names())
    text = path.read_text(encoding="utf-8")
    comment, parameters = [], []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        line = line.removeprefix("--").strip()
        if match := _PARAMETER.fullmatch(line):
            parameters.append(Parameter(match["name"], match["help"], match["default"]))
        else:
            comment.append(line)
    return NamedQuery(name, comment[0], "\n".join(comment), tuple(parameters), text)
