"""Models made by hand, small enough to work out every answer on paper."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from filterdb import Database
from filterdb.database.ingest import store
from filterdb.store.schema import Layer, Model, ModelFacts

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and torch's threads would be in the way

# Property tests, `pytest -m hypothesis`. By default they try the same examples in every run, so that no run fails by chance, nor
# because the machine is busy. FILTERDB_HYPOTHESIS=random tries others each time, or with --hypothesis-seed=N those of a seed;
# FILTERDB_HYPOTHESIS=slow tries thousands. hypothesis's own --hypothesis-profile works too. Nothing is left in the checkout.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "filterdb-hypothesis"))
settings.register_profile(
    "filterdb",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("random", settings.get_profile("filterdb"), derandomize=False)
settings.register_profile("slow", settings.get_profile("random"), max_examples=2000)
settings.load_profile(os.environ.get("FILTERDB_HYPOTHESIS", "filterdb"))


def examples(times: float) -> settings:
    """For a property test whose examples are quicker or slower than most: it tries so many times the examples of the profile."""
    return settings(max_examples=max(1, round(times * settings.default.max_examples)))


def make_model(name: str, layers: Mapping[str, np.ndarray], **facts: Any) -> Model:
    """A model with these layers, (channels, kernel_h, kernel_w) each."""
    arrays = {layer: np.ascontiguousarray(kernels, np.float32) for layer, kernels in layers.items()}
    described = [
        Layer(layer, k.shape[1], k.shape[2], k.shape[0], k.shape[0], (1, 1), (1, 1), (k.shape[1] // 2, k.shape[2] // 2), "zeros")
        for layer, k in arrays.items()
    ]
    return Model(name, ModelFacts(source=f"test:{name}", **facts), described, lambda: iter(arrays.values()))


def random_kernels(n: int, h: int = 7, w: int = 7, seed: int = 0) -> np.ndarray:
    """Kernels without structure."""
    return np.random.default_rng(seed).standard_normal((n, h, w)).astype(np.float32)


def put(database: Database, name: str, layers: Mapping[str, np.ndarray], **facts: Any) -> None:
    """Store a model made by hand."""
    store(database._models, database._fields, make_model(name, layers, **facts))


@pytest.fixture
def db(tmp_path: Path) -> Database:
    """A database that does not exist yet."""
    return Database(tmp_path / "filters")
