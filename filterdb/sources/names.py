"""Names in files that may be damaged or hostile, made fit for a line, a terminal and a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST = 255
"""Letters of a name."""


def plain(name: str, longest: int = LONGEST) -> str:
    """A name that fits into a line: without control characters and halves of characters, and not endless.

    >>> plain("stem\\x1b[31m.weight"), plain("\\ud800.weight")
    ('stem?[31m.weight', '?.weight')
    """
    if name.isprintable():
        return name[:longest]
    return "".join(letter if letter.isprintable() else "?" for letter in name[:longest])


def plain_keys(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """A mapping with plain names for keys; of two that become the same name the second is numbered."""
    found: dict[Any, Any] = {}
    for key, value in table.items():
        name = plain(key) if isinstance(key, str) else key
        unique, number = name, 2
        while unique in found or (unique != key and unique in table):
            unique, number = f"{number}.{name}", number + 1
        found[unique] = value
    return found
