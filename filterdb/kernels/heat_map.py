"""Kernels as heat maps without matplotlib: blue below zero, white at zero, red above; as arrays, PNG and HTML."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filterdb.errors import InvalidArgument

# ColorBrewer's RdBu of eleven classes, from blue to red, as in matplotlib's RdBu_r.
ANCHORS = (
    (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
    (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
)  # fmt: skip
LEVELS = 256


def _table() -> NDArray[np.uint8]:
    """The map in 256 steps."""
    at, stops = np.linspace(0, 1, LEVELS), np.linspace(0, 1, len(ANCHORS))
    channels = [np.interp(at, stops, [anchor[i] for anchor in ANCHORS]) for i in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


TABLE = _table()
GAP = 1
"""Transparent taps between kernels that stand side by side."""


def rgb(kernel: ArrayLike, limit: float | None = None) -> NDArray[np.uint8]:
    """Colours of a kernel's values, row 0 on top.

    Args:
        kernel: (h, w), or any shape.
        limit: the value that is darkest red (and its negative darkest blue); by default the largest absolute value of the kernel.

    Returns:
        (h, w, 3). Zero is (247, 247, 247); values that are not finite are white.
    """
    values = np.asarray(kernel, np.float64)
    finite = np.isfinite(values)
    limit = limit or float(np.abs(values[finite]).max(initial=0.0)) or 1.0
    place = np.where(finite, values / limit, 0.0).clip(-1, 1) / 2 + 0.5
    colours = TABLE[np.minimum((place * LEVELS).astype(int), LEVELS - 1)]
    colours[~finite] = 255
    return colours


def png(
    kernels: ArrayLike | Sequence[ArrayLike], limit: float | None = None, scale: int = 1, columns: int | None = None
) -> bytes:
    """A PNG of one kernel, or of several side by side with a transparent gap of one tap between them.

    Args:
        kernels: (h, w), (n, h, w), or a sequence of n kernels of any sizes.
        limit: as in ``rgb``; by default each kernel has its own.
        scale: pixels a tap.
        columns: kernels in a row; by default all of them.

    Returns:
        the file; the same bytes for the same kernels.

    Raises:
        InvalidArgument: a scale or columns below 1, or no kernels.
    """
    stack = _kernels(kernels)
    columns = len(stack) if columns is None else columns
    if scale < 1 or columns < 1 or not stack:
        raise InvalidArgument(
            f"A picture needs a kernel, and scale and columns of at least 1, got {len(stack)}, {scale}, {columns}."
        )
    h, w = (max(one.shape[axis] for one in stack) + GAP for axis in (0, 1))
    columns = min(columns, len(stack))
    image = np.zeros((-(-len(stack) // columns) * h - GAP, columns * w - GAP, 4), np.uint8)
    for number, one in enumerate(stack):
        top, left = number // columns * h, number % columns * w
        image[top : top + one.shape[0], left : left + one.shape[1]] = np.dstack(
            [rgb(one, limit), np.full(one.shape, 255, np.uint8)]
        )
    return encode(image.repeat(scale, axis=0).repeat(scale, axis=1))


def encode(image: NDArray[np.uint8]) -> bytes:
    """An (h, w, 4) image as PNG."""
    h, w, _ = image.shape
    lines = np.zeros((h, 1 + 4 * w), np.uint8)  # each line of pixels begins with its filter type, 0
    lines[:, 1:] = image.reshape(h, -1)
    header = struct.pack(">IIBBBBB", w, h, 8, 6, 0, 0, 0)  # 8 bits a channel, RGBA
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def data_uri(
    kernels: ArrayLike | Sequence[ArrayLike], limit: float | None = None, scale: int = 1, columns: int | None = None
) -> str:  # fmt: skip
    """The PNG as an address that stands in a page: ``<img src=...>``; style ``image-rendering: pixelated`` keeps taps square."""
    return "data:image/png;base64," + base64.b64encode(png(kernels, limit, scale, columns)).decode("ascii")


def html(kernels: Iterable[ArrayLike], captions: Iterable[str], title: str = "", side: int = 56) -> str:
    """A row of kernels with a line below each, for notebooks. Captions and title are text, never markup.

    Args:
        kernels: each (h, w).
        captions: one for each kernel.
        title: a line above.
        side: pixels of the longer side of a kernel.
    """
    cells = []
    for kernel, caption in zip(_kernels(list(kernels)), captions, strict=True):
        h, w = kernel.shape
        size = f"width:{side * w / max(h, w):.0f}px;height:{side * h / max(h, w):.0f}px"
        cells.append(
            f'<figure style="display:inline-block;margin:4px;text-align:center;vertical-align:top">'
            f'<img src="{data_uri(kernel)}" alt="{escape(caption)}" style="{size};image-rendering:pixelated">'
            f'<figcaption style="font-size:11px">{escape(caption)}</figcaption></figure>'
        )
    head = f"<div><b>{escape(title)}</b></div>" if title else ""
    return f"<div>{head}{''.join(cells)}</div>"


def _kernels(given: ArrayLike | Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    """One kernel or several as a list of (h, w) arrays."""
    if isinstance(given, np.ndarray):
        return [given.astype(np.float64)] if given.ndim == 2 else [one.astype(np.float64) for one in given]
    arrays = [np.asarray(one, np.float64) for one in given]  # type: ignore[union-attr]
    if arrays and arrays[0].ndim == 1:  # one kernel as lists of numbers
        arrays = [np.stack(arrays)]
    if any(one.ndim != 2 or not one.size for one in arrays):
        raise InvalidArgument(f"A kernel is an array (h, w), got the shapes {', '.join(str(one.shape) for one in arrays)}.")
    return arrays
