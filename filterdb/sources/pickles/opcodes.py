"""Pickles read without code: an interpreter of their instructions that imports nothing and calls nothing of theirs.

A pickle is a program that builds an object by calling functions which it names. Here a name is only a name (``Global``), and a
call is only written down (``Record``): which function, with what, and what state the result was to get. The few names that stand
for plain containers and tensors are known to the caller, and are rebuilt by functions of our own (``rebuild``).

A stranger's pickle can neither run long nor fill the memory: steps are counted, sizes are checked against the file, and nothing
is walked, compared or hashed deeply (a tuple that holds the same tuple twice, a hundred deep, has no end).
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from filterdb.sources.pickles.machine import BYTES_A_STEP, DAMAGES, MARK, Global, Machine, Malformed, Record, key_of

MOST_STEPS = 32_000_000
"""Instructions, where one that makes a container counts for several; a checkpoint with a large optimiser has a million. A large
file may have more, in proportion to its size."""
_U16, _U32, _U64, _I32 = (struct.Struct(form) for form in ("<H", "<I", "<Q", "<i"))


class Pickle(Machine):
    """Pickles in a file, read one after the other."""

    def load(self) -> Any:
        """The next object.

        Raises:
            Malformed: the file is no pickle, is damaged, or is absurd.
        """
        self.stack, self.memo = [], {}
        read, actions, most = self.file.read, _ACTIONS, MOST_STEPS + self.stored // BYTES_A_STEP
        try:
            while (code := read(1)) != b".":
                self.steps += 1
                if self.steps > most:
                    raise Malformed("has more instructions than any checkpoint")
                action = actions.get(code)
                if action is None:
                    raise Malformed("ends too early" if not code else f"has the unknown instruction {code!r}")
                action(self)
            return self.pop()
        except Malformed:
            raise
        except DAMAGES as error:
            raise Malformed(f"is damaged ({type(error).__name__})") from error


# -- instructions --------------------------------------------------------------------------------------------------------------

_ACTIONS: dict[bytes, Callable[[Machine], None]] = {}


def _action(*codes: bytes) -> Callable[[Callable[[Machine], None]], Callable[[Machine], None]]:
    def add(function: Callable[[Machine], None]) -> Callable[[Machine], None]:
        _ACTIONS.update(dict.fromkeys(codes, function))
        return function

    return add


def _text(data: bytes) -> str:
    return str(data, "utf-8", "surrogatepass")


def _old_text(data: bytes) -> str | bytes:
    """A string of Python 2, which may be text or bytes."""
    return data.decode() if data.isascii() else data


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _quoted(line: bytes) -> str | bytes:
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Malformed("is damaged (a string without its quotes)")
    return _old_text(codecs.escape_decode(line[1:-1])[0])


def _integer(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}.get(line, int(line))


_VALUES: dict[bytes, Callable[[Machine], Any]] = {
    b"N": lambda p: None,
    b"\x88": lambda p: True,
    b"\x89": lambda p: False,
    b"I": lambda p: _integer(p.line()),
    b"J": lambda p: p.number(_I32),
    b"K": lambda p: p.file.read(1)[0],
    b"M": lambda p: p.number(_U16),
    b"L": lambda p: int(p.line().removesuffix(b"L")),
    b"\x8a": lambda p: _long(p.take(p.take(1)[0])),
    b"\x8b": lambda p: _long(p.take(p.number(_I32))),
    b"F": lambda p: float(p.line()),
    b"G": lambda p: struct.unpack(">d", p.take(8))[0],
    b"S": lambda p: _quoted(p.line()),
    b"T": lambda p: _old_text(p.take(p.number(_I32))),
    b"U": lambda p: _old_text(p.take(p.take(1)[0])),
    b"V": lambda p: str(p.line(), "raw-unicode-escape"),
    b"X": lambda p: _text(p.take(p.number(_U32))),
    b"\x8c": lambda p: _text(p.take(p.take(1)[0])),
    b"\x8d": lambda p: _text(p.take(p.number(_U64))),
    b"B": lambda p: p.take(p.number(_U32)),
    b"C": lambda p: p.take(p.take(1)[0]),
    b"\x8e": lambda p: p.take(p.number(_U64)),
    b"\x96": lambda p: p.take(p.number(_U64)),
    b")": lambda p: (),
    b"(": lambda p: MARK,
    b"c": lambda p: _global(_text(p.line()), _text(p.line())),
    b"g": lambda p: p.memo[int(p.line())],
    b"h": lambda p: p.memo[p.file.read(1)[0]],
    b"j": lambda p: p.memo[p.number(_U32)],
    b"2": lambda p: p.top(),
    b"l": lambda p: p.marked(),
    b"t": lambda p: tuple(p.marked()),
    b"P": lambda p: p.persistent(_text(p.line())),
    b"Q": lambda p: p.persistent(p.pop()),
    b"\x82": lambda p: Global(f"extension {p.take(1)[0]}"),
    b"\x83": lambda p: Global(f"extension {p.number(_U16)}"),
    b"\x84": lambda p: Global(f"extension {p.number(_I32)}"),
}
"""Instructions that put one value on the stack."""


def _pushing(value: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    def action(p: Machine) -> None:
        p.stack.append(value(p))

    return action


_ACTIONS.update({code: _pushing(value) for code, value in _VALUES.items()})


def _global(module: str, name: str) -> Global:
    return Global(f"{_RENAMED.get(module, module)}.{name}")


_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules of Python 2."""


# -- instructions that do more


@_action(b"\x80")
def _protocol(p: Machine) -> None:
    p.take(1)  # every instruction is read as what it is, whatever the protocol


@_action(b"\x95")
def _frame(p: Machine) -> None:
    p.take(8)


@_action(b"]")
def _empty_list(p: Machine) -> None:
    p.charge(4)
    p.push([])


@_action(b"}")
def _empty_dict(p: Machine) -> None:
    p.charge(4)
    p.push({})


@_action(b"\x8f")
def _empty_set(p: Machine) -> None:
    p.charge(16)
    p.push(set())


@_action(b"\x91")
def _frozenset(p: Machine) -> None:
    p.charge(16)
    p.push(frozenset(map(key_of, p.marked())))


def _short_tuple(count: int) -> Callable[[Machine], None]:
    def action(p: Machine) -> None:
        p.push(tuple([p.pop() for _ in range(count)][::-1]))

    return action


_ACTIONS.update({bytes([0x84 + count]): _short_tuple(count) for count in (1, 2, 3)})


@_action(b"0")
def _pop(p: Machine) -> None:
    p.stack.pop()


@_action(b"1")
def _pop_mark(p: Machine) -> None:
    p.marked()


@_action(b"p")
def _put(p: Machine) -> None:
    _remember(p, int(p.line()))


@_action(b"q")
def _put_byte(p: Machine) -> None:
    _remember(p, p.file.read(1)[0])


@_action(b"r")
def _put_long(p: Machine) -> None:
    _remember(p, p.number(_U32))


@_action(b"\x94")
def _memoize(p: Machine) -> None:
    _remember(p, len(p.memo))


def _remember(p: Machine, number: int) -> None:
    p.steps += 3
    p.memo[number] = p.top()


@_action(b"a")
def _append(p: Machine) -> None:
    value = p.pop()
    _extend(p.top(), [value])


@_action(b"e")
def _appends(p: Machine) -> None:
    values = p.marked()
    _extend(p.top(), values)


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, Record):
        target.listed.extend(values)
    elif type(target) is list:
        target.extend(values)
    else:
        raise Malformed(f"appends to a {type(target).__name__}")


@_action(b"d")
def _dict(p: Machine) -> None:
    p.charge(4)
    made: dict[Any, Any] = {}
    _update(made, p.marked())
    p.push(made)


@_action(b"s")
def _setitem(p: Machine) -> None:
    value, key = p.pop(), p.pop()
    _update(p.top(), [key, value])


@_action(b"u")
def _setitems(p: Machine) -> None:
    values = p.marked()
    _update(p.top(), values)


def _update(target: Any, values: list[Any]) -> None:
    into = target.items if isinstance(target, Record) else target
    if type(into) is not dict:
        raise Malformed(f"puts items into a {type(target).__name__}")
    for key, value in zip(values[::2], values[1::2], strict=True):
        into[key_of(key)] = value


@_action(b"\x90")
def _additems(p: Machine) -> None:
    values = p.marked()
    target = p.top()
    if isinstance(target, Record):
        target.listed.extend(values)
    else:
        target.update(map(key_of, values))


@_action(b"\x93")
def _stack_global(p: Machine) -> None:
    name, module = p.pop(), p.pop()
    if type(name) is not str or type(module) is not str:
        raise Malformed("names a class by no text")
    p.push(_global(module, name))


@_action(b"R", b"\x81")
def _reduce(p: Machine) -> None:
    args, function = p.pop(), p.pop()
    p.push(p.call(function, args))


@_action(b"\x92")
def _newobj_ex(p: Machine) -> None:
    words, args, function = p.pop(), p.pop(), p.pop()
    made = p.call(function, args)
    if isinstance(made, Record) and type(words) is dict:
        made.items.update(words)
    p.push(made)


@_action(b"o")
def _obj(p: Machine) -> None:
    function, *args = p.marked()
    p.push(p.call(function, args))


@_action(b"i")
def _inst(p: Machine) -> None:
    function = _global(_text(p.line()), _text(p.line()))
    p.push(p.call(function, p.marked()))


@_action(b"b")
def _build(p: Machine) -> None:
    state, target = p.pop(), p.pop()
    p.push(p.state(target, state))
