"""The report of a classifier: its tables and pictures in one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from filterdb.clusters import Classifier, labels
from filterdb.figures.proportions import draw_proportions
from filterdb.figures.samples import draw_samples
from filterdb.figures.spectrum import draw_spectrum
from filterdb.store.csv_files import relation_csv, write_csv
from filterdb.store.view import View

if TYPE_CHECKING:
    import duckdb

Ask = Callable[..., "duckdb.DuckDBPyRelation"]
"""``Database.query``."""

PANELS = 12
"""Models in the picture of layers at most, those with the most kernels; the table has all."""
SAMPLES = 14
"""Kernels of each class in the picture."""


def report(view: View, ask: Ask, classifier: Classifier, folder: Path, seed: int = 0) -> list[Path]:
    """Write models.csv (Table 1), layers.csv, labels.toml, spectrum.png, samples.png, layers.png, and for training runs
    steps.csv and steps.png.

    Args:
        view: the version of the database to report on.
        ask: answers named queries.
        classifier: whose classes.
        folder: made if it is not there.
        seed: which kernels are drawn as samples.

    Returns:
        The files.
    """  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    name = classifier.name
    found = [
        relation_csv(ask("clustered", classifier=name), folder / "models.csv"),
        relation_csv(ask("class_models", classifier=name), folder / "classes.csv"),
    ]
    labels.write(
        folder / "labels.toml", classifier.stretches, classifier=name, kernel_h=classifier.kernel_h, kernel_w=classifier.kernel_w,
        threshold=classifier.threshold,
    )  # fmt: skip
    title = f"{name}: {classifier.method} on {classifier.facts.get('kernels', 0):,} {classifier.size} kernels"
    draw_spectrum(classifier, title=title).save(folder / "spectrum.png")
    drawn = samples(view, classifier, SAMPLES, seed)
    words = f"{name}: kernels drawn at random from each class"
    draw_samples(drawn, title=words, coloured=True).save(folder / "samples.png")
    found += [folder / "labels.toml", folder / "spectrum.png", folder / "samples.png"]

    rows = view.rows(_LAYERS, name=name)
    found.append(write_csv(folder / "layers.csv", ["model", "depth", "layer", "class", "filters", "percent"], rows))
    panels: dict[str, list[tuple[float, str, float]]] = {}
    for model, depth, _, cls, _, percent in rows:
        panels.setdefault(model, []).append((depth, cls, percent))
    sizes = dict(view.rows("SELECT model, filters FROM models"))
    runs = {model for (model,) in view.rows("SELECT model FROM models WHERE run IS NOT NULL")}
    chosen = sorted(set(panels) - runs, key=lambda model: (-sizes[model], model))[:PANELS]
    if chosen:
        picture = folder / "layers.png"
        shown = {model: panels[model] for model in sorted(chosen)}
        draw_proportions(shown, title=f"{name}: classes by layer", along="depthwise layer").save(picture)
        found.append(picture)
    return found + _steps(ask, view, name, folder)


_LAYERS = """
SELECT model, depth, layer, class, count(*) AS filters,
       round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY model, layer), 2) AS percent
FROM (SELECT * REPLACE (coalesce(class, '(dead)') AS class) FROM classes JOIN filters USING (filter_id) WHERE classifier = $name)
GROUP BY model, depth, layer, class
ORDER BY model, depth, filters DESC, class
"""


def samples(view: View, classifier: Classifier, count: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Kernels drawn at random from each class, (n, kernel_h, kernel_w); the last class is "other"."""
    sql = (
        "SELECT kernel FROM classes JOIN filters USING (filter_id) WHERE classifier = $name AND class = $class "
        "ORDER BY hash(filter_id + $seed) LIMIT $count"
    )
    found = {}
    for cls in classifier.classes:
        rows = view.rows(sql, **{"name": classifier.name, "class": cls, "seed": seed, "count": count})
        if rows:
            found[cls] = np.array([row[0] for row in rows], np.float32).reshape(-1, classifier.kernel_h, classifier.kernel_w)
    return found


def _steps(ask: Ask, view: View, name: str, folder: Path) -> list[Path]:
    """What there is to say of training runs."""
    runs = [run for (run,) in view.rows("SELECT DISTINCT run FROM models WHERE run IS NOT NULL ORDER BY run")]
    told = {run: ask("class_steps", run=run, classifier=name).fetchall() for run in runs}
    told = {run: rows for run, rows in told.items() if rows}
    if not told:
        return []
    header = ["run", "step", "class", "filters", "percent", "mean_template_score"]
    table = write_csv(folder / "steps.csv", header, [(run, *row) for run, rows in told.items() for row in rows])
    panels = {run: [(step, cls, percent) for step, cls, _, percent, _ in rows] for run, rows in told.items()}
    draw_proportions(panels, title=f"{name}: classes over training", along="step", columns=1).save(folder / "steps.png")
    return [table, folder / "steps.png"]
