"""Every real checkpoint, described and fitted from its file to its words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import put
from real import data, each, manifest

from filterdb import Database
from filterdb.fields import fits
from filterdb.fields.describing import FilterDescription, GroupDescription
from filterdb.kernels import centred_unit, descriptors
from filterdb.sources import resolve

SOME = 12
"""Kernels of each layer that are fitted, of the three layers with the largest kernels."""
FAMILIES = ["impulse", "gaussian", "laplacian"]


def test_there_are_real_checkpoints() -> None:
    assert len(manifest()) == 21 or not data()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """An ImageNet network as it is ingested."""
    db = Database(tmp_path_factory.mktemp("real") / "filters")
    weights = data() / "weights"
    db.ingest(weights / "mcunet-320kb-1mb_imagenet.pth", dataset="imagenet-1k")
    return db


@each(manifest())
def test_a_real_checkpoint_is_fitted_and_described(entry: dict[str, Any], tmp_path: Any) -> None:
    """A spread of some layers' kernels, fitted in one size that has families, and described."""
    [pending] = resolve(data() / "weights" / entry["file"])
    with pending.open(None) as model:
        kernels = {layer.name: one for layer, one in zip(model.layers, model.read(), strict=True)}
        name = model.name
    layers = {layer: one[:: max(1, len(one) // SOME)][:SOME] for layer, one in kernels.items()}
    layers = dict(sorted(layers.items(), key=lambda item: -item[1][0].size)[:3])
    db = Database(tmp_path / "filters")
    put(db, name, layers)
    size = next(f"{h}x{w}" for _, h, w in (one.shape for one in layers.values()) if h % 2 == w % 2 == 1 < min(h, w))
    rows = db.fit(size, family=FAMILIES).to_arrow_table().to_pylist()
    living = [row for row in rows if row["reason"] is None]
    assert living
    for row in living:
        assert 0 <= row["rho"] <= 1
        assert np.isfinite([row["bic"], row["residual"], row["offset"], *row["coefficients"]]).all()
    # A filter's numbers are those of its own kernel, whatever stood beside it.
    for row in living[:: -(-len(living) // 2)]:
        kernel = layers[row["layer"]][row["channel"]]
        [one] = fits.fit(kernel[None], [row["family"]])
        assert one.rho[0] == pytest.approx(row["rho"], abs=2e-3)
        length = centred_unit(kernel.reshape(1, -1).astype(np.float64)).deviation[0]
        assert row["residual"] == pytest.approx(length * np.sqrt(1 - row["rho"] ** 2), rel=1e-2, abs=1e-3 * length)

    found = db.describe(name)
    assert isinstance(found, GroupDescription)
    json.dumps(found.to_dict(), allow_nan=False)
    assert sum(row["filters"] for row in found.bands) == sum(map(len, layers.values()))
    assert {row["band"] for row in found.bands} <= {*descriptors.BANDS, "(zero)"}
    layer, one = next(iter(layers.items()))
    filter_ = db.describe(f"{name}:{layer}:{len(one) - 1}")
    assert isinstance(filter_, FilterDescription)
    json.dumps(filter_.to_dict(), allow_nan=False)
    np.testing.assert_array_equal(filter_.kernel, one[-1])


def test_trained_kernels_are_not_noise_to_the_models(whole: Database) -> None:
    """What the fits are for: on a trained network they explain far more than on noise of the same size."""
    whole.fit("7x7", family=["first_derivative", "gaussian", "jet2"])
    sql = "SELECT avg(rho) FROM fits JOIN filters USING (filter_id) WHERE fits.size = '7x7' AND family = 'jet2'"
    trained = whole.sql(sql).fetchall()[0][0]
    noise = fits.fit(np.random.default_rng(0).standard_normal((300, 7, 7)), ["jet2"])[0].rho.mean()
    assert trained > noise + 0.25
    best = dict(whole.sql("SELECT family, count(*) FROM fits WHERE best GROUP BY ALL").fetchall())
    assert set(best) == {"first_derivative", "gaussian", "jet2"}


def test_the_words_of_a_whole_network_are_there_at_ingest(whole: Database) -> None:
    total = whole.info().filters
    [(described, with_word, centroid)] = whole.sql(
        "SELECT count(*), count(band), count(centroid) FROM descriptors JOIN filters USING (filter_id)"
    ).fetchall()
    assert described == total
    assert with_word == centroid == total - whole.sql("SELECT count(*) FROM filters WHERE norm = 0").fetchall()[0][0]
    bands = dict(whole.sql("SELECT band, count(*) FROM descriptors GROUP BY ALL").fetchall())
    assert len(bands) >= 5  # a network uses many words
    assert max(bands.values()) < 0.7 * total


def test_every_size_of_a_whole_network_has_a_layer_that_is_described(whole: Database) -> None:
    rows = whole.sql("SELECT size, arg_max(layer, out_channels), max(out_channels) FROM layers GROUP BY size").fetchall()
    assert {size for size, _, _ in rows} == {"3x3", "5x5", "7x7"}
    for size, layer, channels in rows:
        found = whole.describe(f"mcunet-320kb-1mb_imagenet:{layer}")
        assert isinstance(found, GroupDescription)
        assert (found.identity["size"], sum(row["filters"] for row in found.bands)) == (size, channels)
        living = channels - whole.sql("SELECT count(*) FROM filters WHERE layer = $l AND dead", l=layer).fetchall()[0][0]
        assert sum(row["filters"] for row in found.families) == sum(row["filters"] for row in found.nearest) == living
        assert found.reason is None
        json.dumps(found.to_dict(), allow_nan=False)
