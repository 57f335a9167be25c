"""The colour of each class and each word: the same in every picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from filterdb.kernels.shapes import SHAPES

CLASS_COLOURS: dict[str, str] = {
    "on_centre": "#D55E00", "on_cross": "#E69F00", "on_square": "#F5C98A", "off_centre": "#0072B2", "off_cross": "#56B4E9",
    "off_square": "#B3DDF2", "dx_plus": "#00664A", "dx_minus": "#009E73", "dy_plus": "#5CCBA8", "dy_minus": "#B5E6D5",
    "first_derivative": "#009E73", "second_derivative": "#CC79A7", "other": "#D9D9D9", "(dead)": "#7F7F7F",
}  # fmt: skip
"""Okabe and Ito's colours, which colour-blind readers can distinguish, and tints: a hue for each kind, a tint for each sign."""
BAND_COLOURS: dict[str, str] = {
    "lowpass": "#D55E00", "identity": "#E69F00", "sharpening": "#F0E442", "highpass": "#CC79A7", "bandpass": "#0072B2",
    "differential": "#009E73", "other": "#D9D9D9", "(zero)": "#7F7F7F",
}  # fmt: skip
"""The signal-processing words, in Okabe and Ito's colours."""
SPARE_COLOURS = ("#F0E442", "#8C6D31", "#A55194", "#393B79", "#637939", "#AD494A", "#6B6ECF", "#B5CF6B")
"""For classes that a person named."""
ON_DARK = {"other": "#4D535A", "(dead)": "#8A8A8A", "(zero)": "#8A8A8A"}
"""What stands back on white stands back on black too."""
LAST = ("other", "(dead)", "(zero)", "(unknown)")
"""What has no class stands last."""
MERGED = {"first_derivative": "first derivative"}


def class_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each class."""
    unknown = [name for name in dict.fromkeys(names) if name not in CLASS_COLOURS]
    return {**CLASS_COLOURS, **{name: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, name in enumerate(unknown)}}


def ordered(names: Iterable[str], colours: Mapping[str, str]) -> list[str]:
    """Names in the order of the colours, those of a person after them, and what has no class at the end."""
    there = list(dict.fromkeys(names))
    known = [name for name in colours if name in set(there)] + [name for name in there if name not in colours]
    return sorted(known, key=lambda name: name in LAST)


def words(name: str) -> str:
    """A class as people say it."""
    return SHAPES.get(name) or MERGED.get(name) or name.replace("_", " ")
