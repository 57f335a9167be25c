"""The named pictures of a database, with their options and the tables that they need.

A picture is a function of a database and a look. Its keyword arguments are its options. The annotation of each holds its help.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Union, get_args, get_origin, get_type_hints

from filterdb.errors import InvalidArgument, NotFound, not_found
from filterdb.figures.style import Figure, Look

if TYPE_CHECKING:
    import duckdb
    import numpy as np

    from filterdb.banks import Bank
    from filterdb.clusters import Classifier
    from filterdb.fields.describing import FilterDescription, GroupDescription


class Asked(Protocol):
    """What a picture asks of a ``Database``."""

    def sql(self, query: str, /, **parameters: Any) -> duckdb.DuckDBPyRelation: ...
    def query(self, name: str, /, **parameters: Any) -> duckdb.DuckDBPyRelation: ...
    def classifiers(self) -> list[str]: ...
    def classifier(self, name: str) -> Classifier: ...
    def bank(self, name: str, **options: Any) -> Bank: ...
    def exemplars(self, bank: str | Bank, count: int, **choice: Any) -> dict[str, np.ndarray]: ...
    def describe(self, what: Any, **options: Any) -> FilterDescription | GroupDescription: ...
    def kernel(self, filter: Any) -> np.ndarray: ...
    def similar(self, query: Any, k: int, **choice: Any) -> duckdb.DuckDBPyRelation: ...
    @property
    def models(self) -> list[str]: ...


@dataclass(frozen=True)
class Option:
    """A keyword of a picture; ``default`` is ``...`` where it must be given."""

    name: str
    help: str
    kinds: tuple[type, ...]
    default: Any

    @property
    def flag(self) -> bool:
        """Whether the command line can say it."""
        return Any not in self.kinds

    def value(self, given: Any) -> Any:
        """What is meant by a flag's text; values from Python are taken as they are."""
        if not self.flag:
            return given
        if isinstance(given, list) and list not in self.kinds:
            raise InvalidArgument(f"--{self.name} is given {len(given)} times, and takes one value.")
        if not isinstance(given, str) or str in self.kinds:
            return given
        if bool in self.kinds:
            if given.lower() not in _TRUTH:
                raise InvalidArgument(f'--{self.name} is true or false, got "{given}".')
            return _TRUTH[given.lower()]
        for kind in (int, float):
            if kind in self.kinds:
                try:
                    return kind(given)
                except ValueError:
                    continue
        raise InvalidArgument(f'--{self.name} is a number, such as {self.default}, got "{given}".')


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Picture:
    """A picture with a name."""

    name: str
    title: str
    """What it shows, in one line."""
    help: str
    options: tuple[Option, ...]
    needs: tuple[str, ...]
    """The tables that it stands on."""
    make: Callable[..., Figure]

    def draw(self, db: Asked | None, look: Look, options: Mapping[str, Any]) -> Figure:
        """The picture of a database (None for one that stands on no table).

        Raises:
            NotFound: no option of that name, or nothing in the tables to draw; the message says what to run.
            InvalidArgument: an option is missing, or cannot be what it is.
        """
        known = {option.name: option for option in self.options}
        for name in options:
            if name not in known:
                raise not_found(f"option of the picture {self.name}", name, known)
        values = {name: known[name].value(value) for name, value in options.items()}
        if missing := [name for name, option in known.items() if option.default is ... and values.get(name) is None]:
            flags = " ".join(f"--{name} …" for name in missing)
            raise InvalidArgument(f"The picture {self.name} needs {', '.join(missing)}: add {flags}.")
        return self.make(db, look, **values)


PICTURES: dict[str, Picture] = {}
"""All pictures, by name."""


def picture(*needs: str, name: str | None = None) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Give a function of (database, look, *, options) a place among the pictures.

    Args:
        needs: the tables that it stands on.
        name: of the picture; the function's by default.
    """

    def keep(make: Callable[..., Figure]) -> Callable[..., Figure]:
        hints = get_type_hints(make, include_extras=True)
        options = tuple(
            Option(one.name, _said(hints[one.name]), _kinds(hints[one.name]), ... if one.default is one.empty else one.default)
            for one in inspect.signature(make).parameters.values()
            if one.kind is one.KEYWORD_ONLY
        )
        doc = inspect.getdoc(make) or ""
        called = name or make.__name__
        PICTURES[called] = Picture(called, doc.splitlines()[0], doc, options, needs, make)
        return make

    return keep


def find(name: str) -> Picture:
    """The picture of that name.

    Raises:
        NotFound: there is none; the message lists the near misses.
    """
    if name not in PICTURES:
        raise not_found("picture", name, PICTURES)
    return PICTURES[name]


def _said(hint: Any) -> str:
    return str(hint.__metadata__[0]) if get_origin(hint) is Annotated else ""


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types that a value may have."""
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    parts = get_args(inner) if get_origin(inner) in (Union, UnionType) else (inner,)
    return tuple(get_origin(part) or part for part in parts if part is not type(None))


# -- what several pictures ask -------------------------------------------------------------------------------------------------

ClassifierName = Annotated[str | None, "the classifier; needed where there are several"]
Merge = Annotated[str, "derivatives (the four first derivatives as one), centres (crosses count as centres), or none"]
Models = Annotated[str, "only models of this name or glob"]
Seed = Annotated[int, "of what is drawn at random"]
MERGES = ("derivatives", "centres", "none")


def chosen(db: Asked, name: str | None, size: str | None = None) -> str:
    """The classifier that is meant: the one of that name, or the only one (of a kernel size).

    Raises:
        NotFound: none of that name, or none at all.
        InvalidArgument: there are several.
    """
    if name is not None:
        return db.classifier(name).name
    there = db.classifiers()
    if size is not None:
        there = [one for one in there if db.classifier(one).size == size]
    if not there:
        of = f" of {size} kernels" if size else ""
        raise NotFound(
            f"There is no classifier{of}. Run filterdb cluster import small-nets-7x7 (or small-nets-5x5), or train one: "
            f"filterdb cluster --size {size or '7x7'}"
        )
    if len(there) > 1:
        raise InvalidArgument(f"There are several classifiers: {', '.join(there)}. Choose one with --classifier.")
    return there[0]


def classified(rows: Sequence[Any], classifier: str, what: str) -> None:
    """No rows of classes is an error that says what to run."""
    if not rows:
        raise NotFound(f"No classes of {what} by {classifier}: run filterdb classify --classifier {classifier}")


def merging(merge: str) -> str:
    """A way to merge classes.

    Raises:
        NotFound: none of that name.
    """
    if merge not in MERGES:
        raise not_found("way to merge classes", merge, MERGES)
    return merge
