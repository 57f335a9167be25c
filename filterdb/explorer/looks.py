"""Formatting for the pages: numbers, words and their meanings, bars and curves. The templates write the pictures as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.explorer.shelf_rows import UNCLASSIFIED
from filterdb.figures.colours import BAND_COLOURS, class_colours, ordered, words
from filterdb.kernels import heat_map

SAMPLES = 64
"""Of the frequency response along each axis, from -1/2 to 1/2 cycles a pixel."""
MEANINGS = {
    "lowpass": "passes low frequencies and stops high ones: a blur",
    "highpass": "stops DC and passes the middle and high bands: the difference of a pixel from its neighbours",
    "bandpass": "has its peak in the middle of the spectrum and falls on both sides: one scale of detail",
    "differential": "stops DC and has the moments of a first or second derivative: an edge or a line",
    "sharpening": "passes DC by a central tap and amplifies high frequencies",
    "identity": "one tap holds nearly all energy: leaves the image unchanged",
    "other": "meets none of the rules",
    "(no word)": "all weights are zero, or the kernel has three dimensions",
}
"""A short meaning of each signal-processing word."""
NUMBER_MEANINGS = {
    "dc_ratio": "sum of the weights over the sum of their magnitudes", "dc_gain": "|sum of the weights|: gain at zero frequency",
    "nyquist_x": "gain at (1/2, 0)", "nyquist_y": "gain at (0, 1/2)", "nyquist_xy": "gain at (1/2, 1/2)",
    "centroid": "mean frequency of the energy, cycles per pixel", "bandwidth": "spread of the energy about it",
    "energy_low": "share of energy in the low band", "energy_mid": "share in the middle band",
    "energy_high": "share in the high band",
    "anisotropy": "0: isotropic, 1: along one axis", "orientation": "of the spectrum's axis, degrees",
    "even_energy": "share of energy that is even about the centre", "separable_energy": "share of energy in one separable kernel",
    "half_even_energy": "share that is even about the best half-pixel centre", "half_odd_energy": "share that is odd about it",
}  # fmt: skip
"""Meanings of the less obvious descriptors. docs/words.md has all the rules."""


def count(value: int) -> str:
    """A number of things."""
    return f"{value:,}"


def number(value: Any) -> str:
    """A number for display. A dot stands for a missing one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "·"
    return cell(value)


def cell(value: Any, most: int = 200) -> str:
    """Any value of a table in a few characters."""
    if value is None:
        return "·"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list) and len(value) > 6:
        return "[" + ", ".join(cell(one) for one in value[:3]) + f", … {len(value)}]"
    if isinstance(value, list):
        return "[" + ", ".join(cell(one) for one in value) + "]"
    text = str(value)
    return text if len(text) <= most else text[:most] + " …"


def amount(value: float) -> str:
    """A large number in three digits."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:g}"


@dataclass(frozen=True)
class Piece:
    """A share of a bar."""

    name: str
    label: str
    colour: str
    filters: int
    share: float
    start: float
    """Of the whole, 0 to 1."""


def bar(counts: Mapping[str, int], colours: Mapping[str, str] | None = None) -> list[Piece]:
    """A stacked bar of counts by class or word; kernels without a class are excluded."""
    counts = {name: n for name, n in counts.items() if name != UNCLASSIFIED}
    colours = colours or class_colours(counts)
    total = sum(counts.values()) or 1
    pieces, start = [], 0.0
    for name in ordered(counts, colours):
        share = counts[name] / total
        pieces.append(Piece(name, words(name), colours.get(name, "#BDBDBD"), counts[name], share, start))
        start += share
    return pieces


def band_bar(counts: Mapping[str, int]) -> list[Piece]:
    """A stacked bar of signal-processing words."""
    return bar(counts, BAND_COLOURS)


def legend(bars: Iterable[Sequence[Piece]]) -> list[Piece]:
    """Each name of several bars once, in their order."""
    pieces = [piece for one in bars for piece in one]
    colours = {piece.name: piece.colour for piece in pieces}
    known = {**BAND_COLOURS, **class_colours(colours)}
    first = {piece.name: piece for piece in reversed(pieces)}
    return [first[name] for name in ordered(colours, known)]


@dataclass(frozen=True)
class Response:
    """A frequency response: |H| as a picture, and along the two axes as curves."""

    picture: str
    """Address of a PNG: u to the right, v up, zero frequency in the middle."""
    along_x: list[tuple[float, float]]
    along_y: list[tuple[float, float]]
    """(frequency in cycles a pixel, 0 to 1/2; |H|)"""
    peak: float


def response(kernel: NDArray[np.floating]) -> Response:
    """|H(u, v)| of a kernel (kernel_h, kernel_w), raw weights."""
    side = max(SAMPLES, 2 * max(kernel.shape))
    full = np.abs(np.fft.fftshift(np.fft.fft2(kernel.astype(np.float64), (side, side))))
    middle = side // 2
    peak = float(full.max())
    frequencies = [i / side for i in range(middle + 1)]

    def curve(values: NDArray[np.floating]) -> list[tuple[float, float]]:
        # the spectrum of real weights is its own mirror image; 1/2 stands at the beginning
        half = [*values[middle:].tolist(), float(values[0])]
        return list(zip(frequencies, half, strict=True))

    upright = np.vstack([full, full[:1]])[::-1]  # v up, both ends at 1/2
    picture = heat_map.data_uri(np.hstack([upright, upright[:, :1]]), peak or 1.0)
    return Response(picture, curve(full[middle, :]), curve(full[:, middle]), peak)


def polyline(points: Sequence[tuple[float, float]], width: float, height: float, top: float, right: float = 0.5) -> str:
    """Points for an SVG of this size; ``right`` and ``top`` are the largest values."""
    return " ".join(f"{x / right * width:.1f},{height - y / (top or 1) * height:.1f}" for x, y in points)


def side(kernel: NDArray[np.floating], most: int) -> tuple[int, int]:
    """Width and height in CSS pixels of a kernel whose longer side is ``most``."""
    h, w = kernel.shape
    return round(most * w / max(h, w)), round(most * h / max(h, w))


def unit(kernel: NDArray[np.floating]) -> tuple[float, str]:
    """The power of ten in which a kernel's largest weight has one digit before the point, and how it is written."""
    largest = float(np.abs(kernel).max())
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    digits = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return 10.0**power, f"10{digits}" if power else ""


def ink(kernel: NDArray[np.floating]) -> list[list[tuple[str, str, float]]]:
    """A kernel's values as rows of (background, colour of the digits, value)."""
    colours = heat_map.rgb(kernel)
    return [
        [
            (f"rgb({r},{g},{b})", "#fff" if 0.3 * r + 0.59 * g + 0.11 * b < 130 else "#111", float(value))
            for (r, g, b), value in zip(row, values, strict=True)
        ]
        for row, values in zip(colours.tolist(), kernel.tolist(), strict=True)
    ]
