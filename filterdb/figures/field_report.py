"""The report of a database in signal-processing words: its tables and pictures in one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from filterdb.figures.colours import BAND_COLOURS
from filterdb.figures.proportions import draw_shares
from filterdb.figures.samples import draw_samples
from filterdb.store.csv_files import relation_csv
from filterdb.store.view import View

if TYPE_CHECKING:
    import duckdb

Ask = Callable[..., "duckdb.DuckDBPyRelation"]
"""``Database.query``."""

GROUPS = ("task", "stride", "size", "model")
SAMPLES = 14
"""Kernels of each word in the picture."""


def report(view: View, ask: Ask, folder: Path, models: str = "*", seed: int = 0) -> list[Path]:
    """Write the shares of the words by task, stride, size, model and depth, the directions, and the best models: as tables; and
    pictures of the shares by task, stride and depth, and of kernels drawn at random from each word.

    Args:
        view: the version of the database to report on.
        ask: answers named queries.
        folder: made if it is not there.
        models: a glob of models.
        seed: which kernels are drawn as samples.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [relation_csv(ask("bands", by=group, models=models), folder / f"bands_by_{group}.csv") for group in GROUPS]
    found += [
        relation_csv(ask("band_depth", models=models), folder / "bands_by_depth.csv"),
        relation_csv(ask("directions", models=models), folder / "directions.csv"),
        relation_csv(ask("families", models=models), folder / "families.csv"),
    ]
    for group in ("task", "stride"):
        rows = [(name, band, percent) for name, band, _, percent, _ in ask("bands", by=group, models=models).fetchall()]
        found.append(folder / f"bands_by_{group}.png")
        draw_shares(rows, along=group).save(found[-1])
    rows = [(f"{depth:g}", band, percent) for depth, band, _, percent in ask("band_depth", models=models).fetchall()]
    found.append(folder / "bands_by_depth.png")
    draw_shares(rows, along="depth, from input (0) to output (1)").save(found[-1])
    for size in sorted(view.sizes):
        if min(size) >= 3 and (shown := samples(view, size, models, SAMPLES, seed)):
            found.append(folder / f"bands_{size[0]}x{size[1]}.png")
            title = f"{size[0]}x{size[1]} kernels drawn at random from each word, raw weights"
            draw_samples(shown, title=title, less_mean=False).save(found[-1])
    return found


def samples(view: View, size: tuple[int, int], models: str, count: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Raw kernels drawn at random from each word, (n, kernel_h, kernel_w), the most certain half of them."""
    found = {}
    for band in BAND_COLOURS:
        rows = view.rows(_SAMPLES, band=band, h=size[0], w=size[1], models=models, seed=seed, count=count)
        if rows:
            found[band] = np.array([row[0] for row in rows], np.float32).reshape(-1, *size)
    return found


_SAMPLES = """
SELECT kernel
FROM (SELECT filter_id, kernel, band_confidence, median(band_confidence) OVER () AS middle
      FROM descriptors JOIN filters USING (filter_id)
      WHERE band = $band AND kernel_h = $h AND kernel_w = $w AND model GLOB $models)
WHERE band_confidence >= middle
ORDER BY hash(filter_id + $seed)
LIMIT $count
"""
