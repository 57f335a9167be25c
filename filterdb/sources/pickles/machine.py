"""What instructions of a pickle work on: a file, a stack, a memo, and the objects that stand for those a pickle would make.

A name of a class or function is only a name (``Global``), and a call is only written down (``Record``): which function, with
what, and what state the result was to get.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

BYTES_A_STEP = 8
"""Copying so many bytes counts as much as an instruction."""
LONGEST_LINE = 1_000_000
DAMAGES = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What a stranger's bytes may raise in here."""


class Malformed(ValueError):
    """A pickle that is damaged, or asks for what no checkpoint asks for."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function, which was not imported."""

    name: str


@dataclass(slots=True, eq=False)
class Record:
    """An object that would have been made by code: what was to be called, and what the result was to hold."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    """What was put into it under keys, as into a dict."""
    listed: list[Any] = field(default_factory=list)
    """What was appended to it, as to a list."""


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A key that is not plain: itself, and equal to nothing else."""

    value: Any


class Mark:
    """Where the arguments of an instruction begin."""


MARK = Mark()
Rebuild = Callable[..., Any]
"""Given the arguments of a call, the object; NotImplemented where the arguments are not those expected."""


def key_of(value: Any) -> Any:
    """A dictionary's key. Others than plain ones would be hashed deeply, and large integers can be made to collide."""
    plain = type(value) is str or value is None or type(value) in (bytes, bool, float, Global)
    return value if plain or (type(value) is int and abs(value) < 2**60) else Opaque(value)


_MAKERS = ("copyreg.__newobj__", "copyreg._reconstructor")
"""Functions that make an object of the class that they are given."""


class Machine:
    """A file of pickles, and where an instruction finds its arguments and leaves its result.

    Args:
        file: read from where it stands.
        size: bytes of the file; nothing longer is read.
        known: function or class to what rebuilds its results.
        build: given an object that is no record and the state it was to get, what becomes of it.
        persistent: the object that an id outside of the pickle stands for.
        stored: bytes of the file before it was decompressed, where it was.
    """

    def __init__(
        self, file: BinaryIO, size: int, known: Mapping[str, Rebuild], build: Callable[[Any, Any], Any],
        persistent: Callable[[Any], Any], stored: int | None = None,
    ) -> None:  # fmt: skip
        self.file, self.size, self.stored = file, size, size if stored is None else stored
        self.known, self.build, self.persistent = known, build, persistent
        self.steps = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    # -- the file

    def take(self, count: int) -> bytes:
        """So many bytes."""
        if not 0 <= count <= self.size:
            raise Malformed("claims more bytes than there are")
        data = self.file.read(count)
        if len(data) != count:
            raise Malformed("ends too early")
        return data

    def line(self) -> bytes:
        """The bytes up to the end of the line, without it."""
        line = self.file.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise Malformed("ends too early")
        return line[:-1]

    def number(self, form: struct.Struct) -> int:
        """A number in binary."""
        number: int = form.unpack(self.file.read(form.size))[0]
        return number

    # -- the stack

    def charge(self, steps: int) -> None:
        """Count work beyond one instruction."""
        self.steps += steps

    def push(self, value: Any) -> None:
        """Put on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take from the stack."""
        value = self.stack.pop()
        if value is MARK:
            raise Malformed("is damaged (a mark for a value)")
        return value

    def top(self) -> Any:
        """What is uppermost."""
        value = self.stack[-1]
        if value is MARK:
            raise Malformed("is damaged (a mark for a value)")
        return value

    def marked(self) -> list[Any]:
        """Take all down to the last mark, and the mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is MARK:
                found = self.stack[i + 1 :]
                del self.stack[i:]
                return found
        raise Malformed("is damaged (no mark)")

    # -- objects

    def call(self, function: Any, args: Any) -> Any:
        """What a call stands for: something known, or a record."""
        args = tuple(args) if type(args) in (tuple, list) else (args,)
        self.charge(8 + len(args))
        if isinstance(function, Global):
            if function.name in _MAKERS and args and isinstance(args[0], Global):
                return self.call(args[0], args[1:])
            rebuild = self.known.get(function.name)
            if rebuild is not None:
                self.charge(sum(len(arg) for arg in args if type(arg) in (list, dict, set, frozenset, tuple)))
                self.charge(sum(len(arg) for arg in args if type(arg) in (str, bytes)) // BYTES_A_STEP)
                made = rebuild(*args)
                if made is not NotImplemented:
                    return made
            return Record(function.name, args)
        return Record("what a call returned" if isinstance(function, Record) else type(function).__name__, (function, *args))

    def state(self, target: Any, state: Any) -> Any:
        """The object with its state."""
        if isinstance(target, Record):
            target.state = state
            return target
        return self.build(target, state)
