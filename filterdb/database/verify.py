"""Verify: does every file still hold what was ingested, and is nothing left lying about?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from filterdb.clusters import Classifier
from filterdb.clusters.store import ClassStore
from filterdb.comparison.store import from_tables as basis_from_tables
from filterdb.fields.store import FieldStore
from filterdb.kernels import moments
from filterdb.kernels.sizes import parse_size
from filterdb.networks.runs import problems as run_problems
from filterdb.store import Collection, schema

TOLERANCE = 1e-5
"""Relative; the stored numbers are float32."""


@dataclass
class Report:
    """What was checked and what was found."""

    models: int = 0
    filters: int = 0
    problems: list[str] = field(default_factory=list)
    """Damage: something that was ingested is gone or changed."""
    leftovers: list[str] = field(default_factory=list)
    """Notes that are not damage: leftovers of killed writers, which no query sees, and descriptors of older rules."""
    repaired: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged, or all damage was repaired."""
        return self.repaired or not self.problems


Check = Callable[[dict[str, pa.Table]], tuple[list[str], int]]
"""Given a member's tables: its problems, and how many filters it has."""


def verify(
    models: Collection, banks: Collection, classes: ClassStore, fields: FieldStore, bases: Collection, runs: Collection, *,
    repair: bool = False, progress: Callable[[int, int], None] | None = None,
) -> Report:  # fmt: skip
    """Check every model, bank, classifier, basis and run: files are present and readable, counts agree, numbers are recomputed.

    Args:
        models: the collection ``models``, ``layers``, ``filters``.
        banks: the collection ``banks``, ``templates``.
        classes: the classifiers, and the classes they gave.
        fields: the descriptors and the fits.
        bases: the collection ``bases``, ``components``.
        runs: the collection ``runs``, ``metrics``.
        repair: remove damaged members (ingest or import them again) and clean up after killed writers.
        progress: called with members done and in all.
    """
    report = Report()
    owners: dict[int, str] = {}
    checks: list[tuple[Collection, Check]] = [
        (models, lambda tables: _check_model(tables, owners)), (banks, _check_bank),
        (classes.classifiers, _check_classifier),
        *((one.collection, _check_derived) for one in (classes.classes, fields.fits, fields.regular)),
        (fields.descriptors.collection, _check_derived), (bases, _check_basis), (runs, run_problems),
    ]  # fmt: skip
    snapshots = [(collection, check, collection.snapshot()) for collection, check in checks]
    total = sum(len(snapshot.editions) for _, _, snapshot in snapshots)
    done = 0
    for collection, check, snapshot in snapshots:
        damaged = {}
        for key, edition in snapshot.editions.items():
            if progress:
                progress(done, total)
            done += 1
            try:
                found, filters = check({table: collection.read(table, key, edition) for table in collection.schemas})
            except Exception as error:  # whatever a damaged file makes the readers do, it is a finding
                if collection.snapshot().editions.get(key) != edition:
                    continue  # replaced and vacuumed while we looked
                found, filters = [f"{key}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"], 0
            report.models += collection is models
            report.filters += filters
            report.problems += found
            if found:
                damaged[key] = edition
        report.problems += [
            f"{table}: the log of this table is gone, so other engines cannot read it" for table in collection.lost()
        ]
        report.leftovers += filter(None, [collection.leftovers()])
        if repair:
            collection.discard(damaged)
            collection.repair()
    if lacking := fields.undescribed(models.snapshot()):
        report.leftovers.append(f"{len(lacking)} models have no descriptors of today's rules ({', '.join(lacking[:3])} …)")
    report.repaired = repair
    return report


def _check_bank(tables: dict[str, pa.Table]) -> tuple[list[str], int]:
    """Problems of one imported bank."""
    head, rows = tables["banks"].to_pylist()[0], tables["templates"].to_pylist()
    taps = math.prod(parse_size(head["size"]))
    if len(rows) != head["templates"] or any(len(row["kernel"]) != taps for row in rows):
        return [f"bank {head['bank']}: {head['templates']} templates of {head['size']} were imported, they are not there"], 0
    return [], 0


def _check_classifier(tables: dict[str, pa.Table]) -> tuple[list[str], int]:
    """Problems of one classifier."""
    head, file = tables["classifiers"].to_pylist()[0], tables["classifier_files"]["file"][0].as_py()
    made = Classifier.from_bytes(file, f"classifier {head['classifier']}")
    if (made.name, made.size, len(made.spectrum()[0])) != (head["classifier"], head["size"], tables["spectrum"].num_rows):
        return [f"classifier {head['classifier']}: its file and its rows do not agree"], 0
    return [], 0


def _check_basis(tables: dict[str, pa.Table]) -> tuple[list[str], int]:
    """Problems of one PCA basis: its directions must be orthonormal, its shares of the variance make one."""
    basis = basis_from_tables(tables)
    products, shares = basis.components @ basis.components.T, basis.explained_variance_ratio.sum()
    if not np.allclose(products, np.eye(len(products)), atol=TOLERANCE) or abs(shares - 1) > TOLERANCE:
        return [f"basis {basis.name}: its components are not what was stored"], 0
    return [], 0


def _check_derived(tables: dict[str, pa.Table]) -> tuple[list[str], int]:
    """Problems of what was derived from one model: reading it is the check, for it can always be made again."""
    return [], 0


def _check_model(tables: dict[str, pa.Table], owners: dict[int, str]) -> tuple[list[str], int]:
    """Problems of one model, and its number of filters."""
    model, layers, filters = tables["models"].to_pylist()[0], tables["layers"].to_pylist(), tables["filters"]
    name = model["model"]
    problems = []
    if len(layers) != model["layers"] or filters.num_rows != model["filters"]:
        problems.append(
            f"{name}: {model['layers']} layers and {model['filters']} filters were ingested, "
            f"{len(layers)} and {filters.num_rows} are there"
        )
    kernels = filters["kernel"].combine_chunks()
    digest = hashlib.sha256(kernels.flatten().to_numpy(zero_copy_only=False).tobytes()).hexdigest()
    if digest != model["kernels_sha256"]:
        problems.append(f"{name}: the kernels have changed since they were ingested (SHA-256 {digest[:12]}…)")
    by_layer = {layer["layer"]: layer for layer in layers}
    start = 0
    for layer_name, n in _runs(filters["layer"].to_pylist()):
        part = filters.slice(start, n)
        problems += [f"{name}: {layer_name}: {what}" for what in _check_layer(name, layer_name, by_layer.get(layer_name), part)]
        first = int(part["filter_id"][0].as_py())
        if owners.setdefault(first, f"{name}:{layer_name}") != f"{name}:{layer_name}":
            problems.append(f"{name}: {layer_name} has the filter_ids of {owners[first]}")
        start += n
    return problems, filters.num_rows


def _check_layer(model: str, name: str, layer: dict[str, Any] | None, part: pa.Table) -> list[str]:
    if layer is None:
        return ["filters of a layer that the table layers does not have"]
    if part.num_rows != layer["out_channels"]:
        return [f"{layer['out_channels']} channels in the table layers, {part.num_rows} filters"]
    found = []
    if not np.array_equal(part["filter_id"].to_numpy(), schema.filter_ids(model, name, part.num_rows)):
        found.append("filter_ids are not those of the model and layer name")
    kernels = part["kernel"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(kernels) != part.num_rows * math.prod(parse_size(layer["size"])):
        return [*found, f"kernels are not {layer['size']}"]
    expected = moments(kernels.reshape(part.num_rows, -1))
    for column in ("mean", "norm", "total"):
        scale = np.abs(expected.norm).max(initial=0) * kernels.size / part.num_rows
        if not np.allclose(part[column].to_numpy(), getattr(expected, column), rtol=TOLERANCE, atol=TOLERANCE * scale):
            found.append(f"the column {column} does not follow from the kernels")
    if not np.array_equal(part["dead"].to_numpy(zero_copy_only=False), expected.dead):
        found.append("the column dead does not follow from the kernels")
    return found


def _runs(values: list[str]) -> list[tuple[str, int]]:
    """Runs of equal values with their lengths."""
    runs: list[list[Any]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return [(value, n) for value, n in runs]
