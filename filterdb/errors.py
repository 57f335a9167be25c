"""Every error filterdb raises on purpose.

    FilterdbError
    ├── InvalidArgument   a value that cannot mean anything here
    ├── NotFound          no model, layer, filter, bank, query or parameter of that name
    ├── SourceError       a checkpoint that cannot be read, or holds what must not be stored
    │   └── HubError      a hub that did not answer, refused, or sent something else than promised
    ├── BankError         a bank that cannot be made, read or scaled to a size
    ├── DataError         a data set of images that cannot be read, or lacks what is asked of it
    ├── RunError          a network that cannot be run or trained: out of memory, NaN, labels beyond its classes
    ├── QueryError        SQL that does not parse, does not run, or would write
    └── StoreError        a database that is missing, damaged or busy

Each message is one line: what went wrong, what was got, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class FilterdbError(Exception):
    """The base of all errors that the user can fix; the command line prints it as one line and exits with 1."""


class InvalidArgument(FilterdbError, ValueError):
    """A value that cannot mean anything here."""


class NotFound(FilterdbError, LookupError):
    """No thing of that name; the message lists the near misses."""


class SourceError(FilterdbError):
    """A checkpoint that cannot be read, or that holds what must not be stored."""

    outcomes: Sequence[Any] = ()
    """Raised by ``Database.ingest``: what became of each model of the call."""


class HubError(SourceError):
    """A hub that did not answer, refused, or sent something else than promised."""


class BankError(FilterdbError):
    """A bank that cannot be made, read or scaled to a kernel size."""


class DataError(FilterdbError):
    """A data set of images that cannot be read, or lacks what is asked of it."""


class RunError(FilterdbError):
    """A network that cannot be run or trained: out of memory, NaN, labels beyond its classes."""


class QueryError(FilterdbError):
    """SQL that does not parse, does not run, or would write."""


class StoreError(FilterdbError):
    """A database that is missing, damaged or busy."""


def not_found(kind: str, name: str, known: Iterable[str], *, advice: str = "", most: int = 12) -> NotFound:
    """The error for an unknown name: near misses first, then ``most`` of the known names.

    >>> print(not_found("bank", "gredy8", ["greedy8", "dog"]))
    No bank "gredy8". Did you mean "greedy8"? There are: dog, greedy8.
    """
    names = sorted(set(known))
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    text = f'No {kind} "{name}".'
    if near:
        text += " Did you mean " + " or ".join(f'"{match}"' for match in near) + "?"
    if names:
        shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        text += f" There are: {shown}."
    else:
        text += " There are none."
    return NotFound(f"{text} {advice}".strip())


def one_line(name: object, most: int = 80) -> str:
    r"""A name from a file, such as an error can show it: without line breaks and other control characters, and not too long.

    >>> one_line("a\nb"), one_line("x" * 100, 3)
    ('a\\nb', 'xxx…')
    """
    text = str(name)
    shown = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text[:most])
    return shown + "…" * (len(text) > most)
