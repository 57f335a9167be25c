"""The labelled spectrum: the shape of each stretch of codes, found automatically and corrected by hand.

The paper labels its spectrum by eye. Here each decoded kernel is matched with the families of ``kernels.shapes``, and the
stretches are the labelling of the whole spectrum that fits best in sum, where every change of label costs ``SWITCH``. So
stretches are contiguous, and a code or two between two shapes do not become a class of their own. A name follows from the shape
alone: which end of the spectrum it lies at, which is chance, does not matter.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument
from filterdb.kernels.shapes import OTHER, SHAPES, fit
from filterdb.kernels.sizes import size_name

FLOOR = 0.75
"""The correlation with an ideal kernel below which a decoded kernel is labelled "other"."""
SWITCH = 0.15
"""What a change of label costs, in correlation summed along the curve, degree by degree: 3 degrees that fit better by .05 are
worth a stretch. Angles are counted instead of codes, because the speed of the codes along the curve is also chance."""
STANDING = 0.005
"""Degrees that a code counts at least, where the curve hardly moves from one to the next."""
GAP = 1e-6
"""Codes nearer than this are the same bound."""


@dataclass(frozen=True)
class Stretch:
    """Codes from ``start`` up to ``stop``, and the class of kernels that are nearest to one of them."""

    name: str
    start: float
    stop: float
    similarity: float | None = None
    """Mean correlation of its decoded kernels with the best ideal kernel of the shape; None where a person gave the label."""
    confidence: float | None = None
    """How much of what the second-best shape leaves unexplained this one explains, 0 (nothing) to 1 (all); for "other" how far
    the best shape is from ``FLOOR``, 0 (just below) to 1."""


def label(
    codes: NDArray[np.floating], kernels: NDArray[np.float32], kernel_h: int, kernel_w: int, *, contiguous: bool = True
) -> list[Stretch]:
    """Label a spectrum.

    Args:
        codes: (n,) increasing. With ``contiguous`` they sample [0, 1] evenly; otherwise each is a class of its own, and stands
            for the stretch from itself to 1 more.
        kernels: (n, d) the centred unit kernels they stand for.
        kernel_h: rows of a kernel.
        kernel_w: columns of a kernel.
        contiguous: whether neighbouring codes are alike, so that stretches may be formed of them.
    """
    names, scores = fit(kernels, kernel_h, kernel_w)
    table = np.concatenate([scores, np.full((len(kernels), 1), FLOOR, np.float32)], axis=1)
    if contiguous:
        cosines = np.einsum("ij,ij->i", kernels[1:], kernels[:-1], dtype=np.float64)
        steps = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        degrees = (np.append(steps, 0) + np.append(0, steps)) / 2  # each code stands for half the way to either neighbour
        chosen = _best_path(table * np.maximum(degrees, STANDING)[:, None], SWITCH)
    else:
        chosen = table.argmax(axis=1)
    found = []
    starts = [0, *(np.flatnonzero(np.diff(chosen)) + 1)] if contiguous else range(len(codes))
    for start, stop in zip(starts, [*starts[1:], len(codes)], strict=True):
        own = int(chosen[start])
        similarity, confidence = _certainty(scores[start:stop], own)
        if contiguous:  # stretches meet halfway between codes, and cover all of [0, 1]
            bounds = [0.0 if i == 0 else 1.0 if i == len(codes) else float(codes[i - 1] + codes[i]) / 2 for i in (start, stop)]
        else:
            bounds = [float(codes[start]), float(codes[start]) + 1]
        name = names[own] if own < len(names) else OTHER
        found.append(Stretch(name, bounds[0], bounds[1], similarity, confidence))
    return found


def _best_path(scores: NDArray[np.float64], switch: float) -> NDArray[np.int64]:
    """(n,) the label of each code: the path of largest total score minus ``switch`` for each change (Viterbi)."""
    total = scores[0].copy()
    came_from = np.empty(scores.shape, np.int64)
    for i, row in enumerate(scores[1:], start=1):
        other = int(total.argmax())
        stays = total >= total[other] - switch
        came_from[i] = np.where(stays, np.arange(len(total)), other)
        total = np.where(stays, total, total[other] - switch) + row
    path = np.empty(len(scores), np.int64)
    path[-1] = total.argmax()
    for i in range(len(scores) - 1, 0, -1):
        path[i - 1] = came_from[i, path[i]]
    return path


def _certainty(scores: NDArray[np.float32], own: int) -> tuple[float, float]:
    """Similarity and confidence of a stretch; ``own`` is a column of the scores, or one past them for "other"."""
    if own == scores.shape[1]:
        best = float(scores.max(axis=1).mean()) if scores.size else 0.0
        return best, float(np.clip((FLOOR - best) / FLOOR, 0, 1))
    mine = scores[:, own].astype(np.float64)
    rest = np.delete(scores, own, axis=1).max(axis=1, initial=0).astype(np.float64)
    left, left_by_next = 1 - np.clip(mine, 0, 1) ** 2, 1 - np.clip(rest, 0, 1) ** 2
    share = 1 - np.divide(left, left_by_next, out=np.ones_like(left), where=left_by_next > 0)
    return float(mine.mean()), float(np.clip(share, 0, 1).mean())


def of_codes(stretches: Sequence[Stretch], codes: NDArray[np.floating]) -> list[str]:
    """The class of each code."""
    starts = np.array([stretch.start for stretch in stretches])
    places = np.clip(np.searchsorted(starts, np.asarray(codes) + GAP / 2, "right") - 1, 0, len(stretches) - 1)
    return [stretches[i].name for i in places]


def check(stretches: Sequence[Stretch], start: float, stop: float, what: str) -> list[Stretch]:
    """The stretches in order, if they cover the codes from ``start`` to ``stop`` without gap or overlap.

    Raises:
        InvalidArgument: they do not; the message says where.
    """
    ordered = sorted(stretches, key=lambda one: one.start)
    reached = start
    for one in ordered:
        if not one.name or one.name != one.name.strip() or not one.name.isprintable():
            raise InvalidArgument(f"{what}: a class needs a name in printable characters, got {one.name!r}.")
        if not one.stop > one.start:
            raise InvalidArgument(f'{what}: the stretch "{one.name}" runs from {one.start:g} to {one.stop:g}. It must go up.')
        if one.start > reached + GAP:
            raise InvalidArgument(f"{what}: the codes from {reached:g} to {one.start:g} have no class. Close the gap.")
        if one.start < start - GAP:
            raise InvalidArgument(f'{what}: codes begin at {start:g}, the stretch "{one.name}" begins at {one.start:g}.')
        if one.start < reached - GAP:
            raise InvalidArgument(
                f'{what}: the codes from {one.start:g} to {min(reached, one.stop):g} have two classes, "{one.name}" and the one '
                "before it. Remove the overlap."
            )
        reached = one.stop
    if abs(reached - stop) > GAP:
        problem = f"the codes from {reached:g} to {stop:g} have no class" if reached < stop else f"codes end at {stop:g}"
        raise InvalidArgument(f"{what}: {problem}, the last stretch ends at {reached:g}.")
    return ordered


def write(path: Path, stretches: Sequence[Stretch], *, classifier: str, kernel_h: int, kernel_w: int, threshold: float) -> None:
    """A small TOML that a person can edit and ``read`` takes back."""
    words = ", ".join([*SHAPES, OTHER])
    lines = [
        "# The labelled spectrum of a classifier. Edit the names, the bounds and the threshold, then load it back:",
        f"#     filterdb cluster label {classifier} {path.name}",
        f"# Names with an ideal form: {words}. Any other name is welcome too.",
        f"classifier = {_quoted(classifier)}",
        f'size = "{size_name(kernel_h, kernel_w)}"',
        f"threshold = {threshold!r}  # a kernel is clustered if its cosine dissimilarity to the nearest code is below this",
    ]
    for one in stretches:
        lines += ["", "[[stretch]]", f"class = {_quoted(one.name)}", f"from = {one.start!r}", f"to = {one.stop!r}"]
        if one.similarity is not None and one.confidence is not None:
            lines.append(f"# similarity to the ideal form {one.similarity:.3f}, confidence {one.confidence:.2f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Labels:
    """What a file of labels says; ``Classifier.labelled`` puts it on a classifier."""

    what: str
    """The file's name."""
    size: str | None
    threshold: float | None
    stretches: list[Stretch]


def read(path: Path) -> Labels:
    """The labels of a TOML file, in the file's order; see ``check`` for whether they fit a classifier.

    Raises:
        InvalidArgument: it cannot be read, or a stretch lacks its class or bounds.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgument(f"{path.name} cannot be read as labels: {text}.") from error
    rows = content.get("stretch")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidArgument(f"{path.name} has no [[stretch]]. Each has class, from and to.")
    size, threshold = content.get("size"), content.get("threshold")
    if size is not None and not isinstance(size, str):
        raise InvalidArgument(f'{path.name}: size = {size!r}. Write it as text, such as "7x7".')
    if threshold is not None and not (_is_number(threshold) and 0 < threshold <= 2):
        raise InvalidArgument(f"{path.name}: threshold = {threshold!r}. Give a cosine dissimilarity above 0, such as 0.3.")
    size = content.get("size")
    return Labels(
        path.name,
        size,
        None if threshold is None else float(threshold),
        [_stretch(path.name, number, row) for number, row in enumerate(rows, start=1)],
    )


def _stretch(what: str, number: int, row: Mapping[str, Any]) -> Stretch:
    name, start, stop = row.get("class"), row.get("from"), row.get("to")
    if not isinstance(name, str) or not (_is_number(start) and _is_number(stop)):
        raise InvalidArgument(f"{what}: stretch {number} needs class (a text), from and to (numbers), got {dict(row)}.")
    return Stretch(name, float(start), float(stop))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
