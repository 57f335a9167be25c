"""Depthwise kernels beside those of ordinary convolutions: samples of each, how many are clustered, how far they spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument, NotFound
from filterdb.figures.registry import Asked, ClassifierName, Models, Seed, picture
from filterdb.figures.samples import draw_samples
from filterdb.figures.style import PAGE, Figure, Look
from filterdb.kernels import centred_unit
from filterdb.kernels.sizes import parse_size

KINDS = ("depthwise", "regular", "stem")
MEASURED = 20_000
"""Kernels of each kind at most, drawn at random, that the numbers are of."""


@dataclass(frozen=True)
class Kind:
    """Kernels of one kind of convolution."""

    name: str
    kernels: NDArray[np.floating]
    """(n, kernel_h, kernel_w), without constant ones."""
    clustered: float | None
    """Share that a classifier clusters; None where none was asked."""
    spread: float
    """See ``spread``."""


def spread(kernels: NDArray[np.floating]) -> float:
    """The effective number of dimensions of kernels (n, taps): (sum of the variances)² / sum of their squares.

    The variances are those of the principal components of the centred kernels of length 1. It is 1 where all kernels are one
    shape up to sign, and taps - 1 where they are noise.
    """
    unit = centred_unit(np.asarray(kernels, np.float64)).unit
    moments = np.linalg.eigvalsh(unit.T @ unit / len(unit))
    return float(moments.sum() ** 2 / (moments**2).sum())


def draw_contrast(kinds: Sequence[Kind], *, title: str = "", seed: int = 0, look: Look = PAGE) -> Figure:
    """A row of kernels for each kind, drawn at random, with its numbers.

    Args:
        kinds: in the order of the rows.
        title: above.
        seed: of what is drawn.
        look: see ``filterdb.figures.style.Look``.
    """
    across = 12 if look.wide else 5
    rows = {}
    for kind in kinds:
        shown = np.random.default_rng(seed).permutation(len(kind.kernels))[:across]
        share = "" if kind.clustered is None else f", {100 * kind.clustered:.0f} % clustered"
        rows[f"{kind.name}{share}, {kind.spread:.1f} dims"] = kind.kernels[shown]
    return draw_samples(rows, title=title, look=look)


@picture("filters", "regular")
def contrast(
    db: Asked, look: Look, *, size: Annotated[str, "kernel size"] = "3x3", classifier: ClassifierName = None,
    models: Models = "*", seed: Seed = 0,
) -> Figure:  # fmt: skip
    """Depthwise kernels beside those of ordinary convolutions: samples, share clustered, effective dimensions."""
    kernel_h, kernel_w = parse_size(size)
    judge = None if classifier is None else db.classifier(classifier)
    if judge is not None and judge.size != size:
        raise InvalidArgument(f'The classifier "{classifier}" classifies {judge.size} kernels, not {size}. Choose another one.')
    found = []
    for name in KINDS:
        flat = _kernels(db, name, size, models, seed)
        if len(flat):
            share = None if judge is None else judge.share_clustered(flat)
            found.append(Kind(name, flat.reshape(-1, kernel_h, kernel_w), share, spread(flat)))
    if not any(kind.name != KINDS[0] for kind in found):
        raise NotFound(
            f'No {size} kernels of ordinary convolutions of models "{models}". Store them with: '
            "filterdb ingest SOURCE --stem --regular 20000"
        )
    counts = ", ".join(f"{len(kind.kernels):,} {kind.name}" for kind in found)
    return draw_contrast(found, title=f"{size} kernels: {counts}", seed=seed, look=look)


_DRAWN = """
SELECT kernel FROM {table} WHERE size = $size AND model GLOB $models AND NOT dead AND {kind}
ORDER BY hash(filter_id + $seed) LIMIT $count
"""


def _kernels(db: Asked, kind: str, size: str, models: str, seed: int) -> NDArray[np.float32]:
    """Kernels (n, taps) of a kind, a sample where there are many."""
    table, which = ("filters", "true") if kind == KINDS[0] else ("regular", f"kind = '{kind}'")
    sql = _DRAWN.format(table=table, kind=which)
    rows = db.sql(sql, size=size, models=models, seed=seed, count=MEASURED).fetchall()
    return np.array([row[0] for row in rows], np.float32)
