"""Kernel sizes and their names: rows first, then columns."""

from __future__ import annotations

from filterdb.errors import InvalidArgument

Pair = tuple[int, int]
"""Rows and columns, or what else comes as one number an axis: stride, dilation, padding."""


def size_name(kernel_h: int, kernel_w: int) -> str:
    """The name of a kernel size, rows first.

    >>> size_name(7, 7), size_name(1, 5)
    ('7x7', '1x5')
    """
    return f"{kernel_h}x{kernel_w}"


def parse_size(size: str | int) -> Pair:
    """Rows and columns of a size name; a single number is a square.

    >>> parse_size("1x5"), parse_size("7"), parse_size(7)
    ((1, 5), (7, 7), (7, 7))
    """
    parts = str(size).lower().split("x")
    if len(parts) in (1, 2) and all(part.isdecimal() and 1 <= int(part) <= 255 for part in parts):
        return int(parts[0]), int(parts[-1])
    raise InvalidArgument(f'"{size}" is not a kernel size. Write rows x columns, such as 7x7 or 1x5.')
