"""Kernel sizes and their names: rows first, then columns.

A size is a pair of rows and columns everywhere. A kernel of three dimensions is a sheet of its slices, one below the other, and
its rows are ``Rows``: as many as all slices have, with the number of slices beside it. A kernel of one dimension has one row.
"""

from __future__ import annotations

from collections.abc import Sequence

from filterdb.errors import InvalidArgument

Pair = tuple[int, int]
"""Rows and columns, or what else comes as one number an axis: stride, dilation, padding."""
LARGEST = 255
"""Rows or columns of the largest kernel that has a size name."""


class Rows(int):
    """The rows of a sheet of several slices. Never equal to as many rows of one slice.

    >>> Rows(3, 7), Rows(3, 7) == 21, Rows(3, 7) * 7
    (Rows(3, 7), False, 147)
    """

    slices: int

    def __new__(cls, slices: int, kernel_h: int) -> Rows:
        made = super().__new__(cls, slices * kernel_h)
        made.slices = slices
        return made

    def __getnewargs__(self) -> Pair:  # type: ignore[override]
        return split(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and split(self) == split(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(split(self))

    def __repr__(self) -> str:
        return "Rows({}, {})".format(*split(self))


def rows(kernel_d: int, kernel_h: int) -> int:
    """The rows of a kernel of so many slices: ``Rows`` where there are several."""
    return kernel_h if kernel_d == 1 else Rows(kernel_d, kernel_h)


def split(kernel_h: int) -> Pair:
    """Slices of a sheet, and the rows of each.

    >>> split(7), split(Rows(3, 7))
    ((1, 7), (3, 7))
    """
    slices = kernel_h.slices if isinstance(kernel_h, Rows) else 1
    return slices, int(kernel_h) // slices


def shape_of(kernel_h: int, kernel_w: int) -> tuple[int, ...]:
    """The shape of a kernel as an array: (kernel_h, kernel_w), or (kernel_d, kernel_h, kernel_w) where it has several slices."""
    kernel_d, height = split(kernel_h)
    return (height, kernel_w) if kernel_d == 1 else (kernel_d, height, kernel_w)


def size_of(shape: Sequence[int]) -> Pair:
    """The size of a kernel given as an array; the other way round than ``shape_of``."""
    return rows(int(shape[0]) if len(shape) == 3 else 1, int(shape[-2])), int(shape[-1])


def size_name(kernel_h: int, kernel_w: int) -> str:
    """The name of a kernel size: slices where there are several, rows, columns.

    >>> size_name(7, 7), size_name(1, 5), size_name(Rows(3, 7), 7)
    ('7x7', '1x5', '3x7x7')
    """
    return "x".join(map(str, shape_of(kernel_h, kernel_w)))


def parse_size(size: str | int) -> Pair:
    """Rows and columns of a size name; a single number is a square.

    >>> parse_size("1x5"), parse_size("7"), parse_size(7), parse_size("3x7x7")
    ((1, 5), (7, 7), (7, 7), (Rows(3, 7), 7))
    """
    parts = str(size).lower().split("x")
    if len(parts) <= 3 and all(part.isdecimal() and 1 <= int(part) <= LARGEST for part in parts):
        slices = int(parts[0]) if len(parts) == 3 else 1
        return rows(slices, int(parts[-2:][0])), int(parts[-1])
    raise InvalidArgument(f'"{size}" is not a kernel size. Write rows x columns, such as 7x7 or 1x5, or 3x7x7 with slices.')
