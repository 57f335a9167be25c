"""Layer metrics: the formulas against plain numpy, the random layer against layers of noise, and what has no number says why."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import run
from conftest import put, random_kernels
from real import data

from filterdb import Database
from filterdb.comparison import layer_metrics
from filterdb.comparison.layer_metrics import LayerMetrics, measure, orthogonality, random_entropy, sparsity
from filterdb.database import ingest
from filterdb.errors import InvalidArgument, NotFound, StoreError


def plain(f: np.ndarray) -> tuple[float, float, float]:
    """Sparsity at .01, entropy and orthogonality as the formulas say, without a thought for speed."""
    f = f.astype(np.float64)
    sparse = np.mean([np.abs(one).max() < 0.01 * np.abs(f).max() for one in f])
    squares = np.linalg.svd(f - f.mean(axis=0), compute_uv=False) ** 2
    share = squares[squares > 1e-20 * squares.max()] / squares.sum()
    cosines = [
        abs(f[i] @ f[j]) / np.linalg.norm(f[i]) / np.linalg.norm(f[j]) for i in range(len(f)) for j in range(len(f)) if i != j
    ]
    return float(sparse), float(-(share * np.log10(share)).sum()), float(1 - np.mean(cosines))


@pytest.mark.parametrize(("n", "taps"), [(40, 9), (6, 49), (50, 49), (30, 5), (12, 4), (3, 2)])
def test_the_numbers_are_those_of_the_formulas(n, taps):
    rng = np.random.default_rng(n * taps)
    f = (rng.standard_normal((n, taps)) @ rng.standard_normal((taps, taps)) + 0.3).astype(np.float32)
    f[0] *= 1e-4
    found, (sparse, entropy, angle) = measure(f), plain(f)
    assert (found.filters, found.zero, found.reason) == (n, 0, None)
    assert sparsity(f, 0.01) == sparse == pytest.approx(1 / n)
    assert found.entropy == pytest.approx(entropy, abs=1e-9)
    assert found.orthogonality == pytest.approx(angle, abs=1e-9)
    assert found.variance_entropy == found.entropy / random_entropy(n, taps)
    scaled = measure(f.astype(np.float64) * 1e-30)
    assert (scaled.entropy, scaled.orthogonality) == pytest.approx((entropy, angle), abs=1e-9)


@pytest.mark.parametrize(
    ("n", "taps"), [(3, 9), (5, 9), (10, 9), (64, 9), (600, 9), (4, 2), (9, 25), (20, 49), (90, 49), (20, 121)]
)
def test_the_random_layer_is_one_of_noise_to_a_thousandth(n, taps):
    rng, draws = np.random.default_rng(1), 40_000 if n * taps < 100 else 6_000 if n * taps < 1000 else 600
    layers = rng.standard_normal((draws, n, taps))
    layers -= layers.mean(axis=1, keepdims=True)
    squares = np.linalg.eigvalsh(np.einsum("lij,lik->ljk" if n > taps else "lij,lkj->lik", layers, layers)).clip(1e-300)
    share = squares / squares.sum(axis=1, keepdims=True)
    entropies = -(share * np.log10(share)).sum(axis=1)
    noise = entropies.std() / np.sqrt(draws)
    assert noise < 5e-4
    assert random_entropy(n, taps) == pytest.approx(entropies.mean(), abs=1e-3 + 3 * noise)


def test_the_random_layer_is_simulated_once_and_the_same_on_every_machine():
    first = random_entropy(31, 9)
    random_entropy.cache_clear()
    assert random_entropy(31, 9) == first
    assert random_entropy(10**9, 49) == pytest.approx(np.log10(49), abs=1e-3)  # a draw costs the same for any number of filters
    assert random_entropy(2, 9) == random_entropy(5, 1) == 0
    assert [random_entropy(n, 9) for n in (3, 9, 30, 300)] == sorted(random_entropy(n, 9) for n in (3, 9, 30, 300))


def test_the_ends_of_the_scales():
    noise = measure(random_kernels(2000, 7, 7).reshape(2000, 49))
    assert noise.variance_entropy == pytest.approx(1, abs=0.01)
    shape = random_kernels(1, 5, 5, seed=3).reshape(1, 25).astype(np.float64)
    multiples = measure(np.linspace(-1, 1, 40)[:, None] * shape)
    assert multiples.variance_entropy == pytest.approx(0, abs=1e-9)
    assert multiples.orthogonality == pytest.approx(0, abs=1e-9)
    assert measure(np.eye(9)).orthogonality == 1
    assert measure(np.eye(9)).variance_entropy > 1  # more even than noise ever is: the baseline is a mean, not a bound


def test_cosines_in_blocks_are_those_of_the_whole(monkeypatch):
    unit = random_kernels(101, 3, 3).reshape(101, 9).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    whole = orthogonality(unit)
    for block in (1, 250, 1010, 5050):
        monkeypatch.setattr(layer_metrics, "BLOCK", block)
        assert orthogonality(unit) == pytest.approx(whole, abs=1e-12)


ZERO = pytest.approx(0, abs=1e-9)
FLAT = np.full((4, 9), 0.3, np.float32)
ONE = random_kernels(1, 3, 3).reshape(1, 9)


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        (ONE, LayerMetrics(1, 0, None, None, None, None, "one filter: no entropy, no orthogonality")),
        (0 * FLAT, LayerMetrics(4, 4, None, None, None, None, "all weights are zero")),
        (FLAT, LayerMetrics(4, 0, None, random_entropy(4, 9), None, ZERO, "all filters are equal: no entropy")),
        (0 * ONE, LayerMetrics(1, 1, None, None, None, None, "all weights are zero")),
    ],
)
def test_what_has_no_number_says_why(kernels, expected):
    assert measure(kernels) == expected


def test_two_filters_one_tap_and_one_that_is_not_zero_say_why_too():
    two = measure(random_kernels(2, 3, 3).reshape(2, 9))
    assert (two.variance_entropy, two.entropy, two.random_entropy) == (None, pytest.approx(0, abs=1e-9), 0)
    assert two.reason == "two filters: a random layer has entropy 0 too, so there is no ratio"
    assert 0 < two.orthogonality < 1
    pointwise = measure(random_kernels(6, 1, 1).reshape(6, 1))
    assert (pointwise.variance_entropy, pointwise.orthogonality) == (None, 0)
    assert pointwise.reason == "one tap: a random layer has entropy 0 too, so there is no ratio"
    lone = measure(np.concatenate([ONE, 0 * FLAT]))
    assert (lone.zero, lone.orthogonality, lone.reason) == (4, None, "one filter that is not zero: no orthogonality")
    assert lone.variance_entropy == pytest.approx(0, abs=1e-9)


# -- over a database -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two models; layers go on over row groups, and some numbers are null."""
    db = Database(tmp_path_factory.mktemp("layers") / "filters")
    fading = random_kernels(20, 3, 3) * np.float32(10) ** -np.arange(20, dtype=np.float32)[:, None, None]
    a = {"last": random_kernels(30), "small": fading, "strip": random_kernels(12, 1, 4), "one": random_kernels(1, 2, 2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest, "ROW_GROUP", 7)
        put(db, "a", a)
        put(db, "b", {"zero": np.zeros((5, 3, 3)), "equal": np.ones((5, 3, 3)), "last": random_kernels(16, seed=2)})
    return db


def test_each_layer_has_the_row_that_its_kernels_give(stored):
    frame = stored.layer_metrics().df().astype({"reason": object})
    assert list(zip(frame.model, frame.layer, frame.depth)) == [
        ("a", "last", 0), ("a", "small", 1), ("a", "strip", 2), ("a", "one", 3),
        ("b", "zero", 0), ("b", "equal", 1), ("b", "last", 2),
    ]  # fmt: skip
    assert list(frame["size"]) == ["7x7", "3x3", "1x4", "2x2", "3x3", "3x3", "7x7"]
    rows = stored.layer_metrics().fetchall()
    for row in rows:
        found = dict(zip(frame.columns, row, strict=True))
        kernels = stored.sql(
            "SELECT kernel FROM filters WHERE model = $m AND layer = $l ORDER BY channel", m=found["model"], l=found["layer"]
        ).fetchall()
        expected = measure(np.array([one for (one,) in kernels], np.float32))
        assert {name: found[name] for name in vars(expected)} == vars(expected)
        numbers = [value for value in row if isinstance(value, float)]
        assert not np.isnan(numbers).any()
        assert (found["reason"] is None) == (None not in row[:-1])


def test_the_effect_of_the_threshold_can_be_asked(stored):
    found = stored.layer_metrics("a", "small", sparsity_threshold=[1e-6, 0.01, 1]).df()
    peaks = np.abs(np.stack(stored.sql("SELECT kernel FROM filters WHERE layer = 'small'").df().kernel)).max(axis=1)
    expected = [(peaks < threshold * peaks.max()).mean() for threshold in (1e-6, 0.01, 1)]
    assert found.sparsity.tolist() == expected
    assert found.sparsity_threshold.tolist() == [1e-6, 0.01, 1]
    assert expected[0] < expected[1] < expected[2] == 0.95
    assert found.entropy.nunique() == 1


def test_layers_are_chosen_by_model_name_and_size(stored):
    def layers(*choice, **more):
        return [(row[0], row[1]) for row in stored.layer_metrics(*choice, **more).fetchall()]

    assert layers("b") == [("b", "zero"), ("b", "equal"), ("b", "last")]
    assert layers(None, "l*") == [("a", "last"), ("b", "last")]
    assert layers(["a", "b"], size="7x7") == [("a", "last"), ("b", "last")]
    assert layers("b", size="1x4") == []
    for choice, words in [(("c",), 'No model "c"'), ((None, "lst"), 'Did you mean "last"'), ((None, None, 9), "There are: ")]:
        with pytest.raises(NotFound, match=words):
            layers(*choice)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.5, float("nan"), [0.1, 0], []])
def test_a_threshold_that_is_no_share_is_refused(stored, threshold):
    with pytest.raises(InvalidArgument, match="no share of the largest weight"):
        stored.layer_metrics(sparsity_threshold=threshold)


def test_an_empty_database_says_so(db):
    with pytest.raises(StoreError, match="is empty"):
        db.layer_metrics()


def test_on_the_command_line(stored):
    rows = json.loads(
        run("metrics", "--size", "3x3", "--sparsity-threshold", ".01", "--sparsity-threshold", ".1", "--json", db=stored.path)
    )
    assert [(row["model"], row["layer"], row["sparsity_threshold"]) for row in rows] == [
        (model, layer, threshold) for model, layer in [("a", "small"), ("b", "zero"), ("b", "equal")] for threshold in (0.01, 0.1)
    ]
    assert rows[2] | {"reason": ""} == {
        "model": "b", "layer": "zero", "depth": 0, "size": "3x3", "filters": 5, "zero": 5, "sparsity": None,
        "sparsity_threshold": 0.01, "variance_entropy": None, "entropy": None, "random_entropy": None, "orthogonality": None,
        "reason": "",
    }  # fmt: skip


def test_real_layers_are_neither_noise_nor_copies(db):
    db.ingest(data() / "weights" / "mcunet-320kb-1mb_imagenet.pth")
    frame = db.layer_metrics(sparsity_threshold=[0.01, 0.1]).df()
    assert len(frame) == 36
    assert frame.reason.isna().all()
    assert frame.variance_entropy.between(0.02, 1.1).all()
    assert frame.orthogonality.between(0.02, 0.9).all()  # block 14 repeats one kernel
    sparse = frame.pivot(index="layer", columns="sparsity_threshold", values="sparsity")
    assert (sparse[0.01] <= sparse[0.1]).all()
    assert sparse[0.01].max() > 0.1  # 39 of the 240 filters of block 13 are dead weight
