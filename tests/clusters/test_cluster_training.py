"""Training a classifier: on kernels of known shapes it finds them, on noise it finds nothing, and a seed settles everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import FORMS, made_kernels
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import nn

from filterdb.clusters import Classifier, autoencoder, compare, kmeans, make
from filterdb.clusters.autoencoder import Settings, Trained, basis, decode, encode
from filterdb.clusters.controls import controls, retrain, untrained_kernels
from filterdb.errors import FilterdbError, InvalidArgument
from filterdb.kernels import centred_unit, shapes

SETTINGS = {"epochs": 15, "restarts": 8}
"""Enough for the made kernels: all seven shapes from each seed that was tried."""


def unit_kernels(count: int, seed: int = 0) -> np.ndarray:
    """Made kernels as the autoencoder gets them."""
    return centred_unit(made_kernels(count, seed=seed)[0]).unit


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, np.ndarray]:
    return made_kernels()


@pytest.fixture(scope="module")
def pair(made: tuple[np.ndarray, np.ndarray]) -> list[Classifier]:
    """Two classifiers of the made kernels that differ in their seed."""
    return [make.train(made[0], name=f"seed {seed}", size="7x7", seed=seed, **SETTINGS) for seed in (0, 1)]


# -- what it finds ---------------------------------------------------------------------------------------------------------


def test_it_finds_the_shapes_that_are_there_and_clusters_the_kernels(made, pair):
    kernels, truth = made
    for one in pair:
        assert len(set(FORMS) & set(one.classes)) >= 6
        assert set(one.missing) | set(one.classes) == {*shapes.shapes_at(7, 7), "other"}
        assert {"off_cross", "second_derivative"} <= set(one.missing)  # there are none
        assert one.share_clustered(kernels) > 0.9
        assert (one.classify(kernels)["class"] == truth).mean() > 0.9
        assert one.facts["kernels"] == 1500
        assert one.facts["held_out_loss"] == min(one.facts["losses"])
        assert len(one.facts["losses"]) == one.facts["restarts"] == SETTINGS["restarts"]
        assert one.facts["epochs"] <= one.facts["epochs_asked"] == SETTINGS["epochs"]


def test_the_restart_that_is_kept_is_the_one_with_the_smallest_held_out_loss(made, pair):
    unit = centred_unit(made[0]).unit
    for one in pair:
        again = decode(one.weights, encode(one.weights, unit))
        assert 1 - np.einsum("ij,ij->i", again, unit).mean() == pytest.approx(min(one.facts["losses"]), abs=0.02)


def test_it_finds_kernels_it_never_saw(pair):
    kernels, truth = made_kernels(500, seed=99)
    for one in pair:
        found = one.classify(kernels)
        assert found["clustered"].mean() > 0.9
        assert (found["class"] == truth).mean() > 0.9


def test_two_seeds_agree(made, pair):
    first, second = (one.classify(made[0])["class"] for one in pair)
    found = compare.agreement(compare.count_pairs(first, second))
    assert found.same_class > 0.9  # where both seeds find all seven, 1.0
    assert found.ari > 0.85
    steady = compare.stability(made[0], pair)
    assert (steady["same_class"], steady["ari"], steady["nmi"]) == pytest.approx((found.same_class, found.ari, found.nmi))
    assert 0.9 < steady["least_clustered"] <= steady["most_clustered"] <= 1


def test_an_index_of_10000_codes_gives_the_nearest_of_them(made, pair):
    unit = centred_unit(made[0][:300].astype(np.float64)).unit
    for one in pair:
        assert one.prototypes.shape == (10_000, 49)
        products = unit @ one.prototypes.T.astype(np.float64)
        index, similarity, dead = one.nearest(made[0][:300])
        assert not dead.any()
        np.testing.assert_array_less(products.max(axis=1) - products[np.arange(300), index], 2e-6)
        np.testing.assert_allclose(similarity, products.max(axis=1), atol=2e-6)


def test_noise_and_shuffled_taps_collapse_and_so_does_an_untrained_network(made, pair):
    told = []
    found = {one.kernels: one for one in controls(pair[0], made[0][:500], progress=lambda what, done, total: told.append(what))}
    assert list(found) == ["trained", "gaussian noise", "shuffled taps", "untrained convnext_atto"]
    assert {one.count for one in found.values()} == {500}
    trained = found.pop("trained")
    assert trained.clustered == trained.clustered_by_trained > 0.8
    assert trained.ideal > 0.9
    assert trained.classes >= 6
    for one in found.values():
        assert one.clustered < 0.1
        assert one.clustered_by_trained < 0.1
        assert one.ideal < 0.1
    assert {what.split(":")[0] for what in told} == set(found)  # those are trained, the first was before


def test_an_untrained_network_is_the_same_for_a_seed_and_leaves_the_dice_alone():
    before = torch.get_rng_state()
    first, again, other = (untrained_kernels("convnext_atto", 7, 7, 700, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (700, 49)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(InvalidArgument, match="mobilenetv2_100 has no 7x7 depthwise kernels"):
        untrained_kernels("mobilenetv2_100", 7, 7, 10, 0)
    with pytest.raises(FilterdbError, match="convnext_atto"):
        untrained_kernels("convnext_ato", 7, 7, 10, 0)


# -- the same seed, the same result ----------------------------------------------------------------------------------------

SHORT = Settings(epochs=23, restarts=2, batch=128)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at an epoch of one's choice."""


def train(unit: np.ndarray, options: Settings = SHORT, state: Path | None = None, stop: int | None = None) -> Trained:
    """A training, interrupted after so many epochs."""

    def told(done: int, total: int, loss: float) -> None:
        assert 0 < done <= total == options.epochs
        assert 0 < loss < 2
        if done == stop:
            raise Interrupted

    return autoencoder.train(unit, options, state_file=state, progress=told)


@pytest.fixture(scope="module")
def whole() -> Trained:
    """``SHORT`` on ``unit_kernels(500)``, not interrupted."""
    return train(unit_kernels(500))


def same(first: Trained, second: Trained) -> bool:
    """Bit for bit."""
    assert first.weights.keys() == second.weights.keys()
    return all(first.weights[name].tobytes() == second.weights[name].tobytes() for name in first.weights)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(whole):
    unit = unit_kernels(500)
    again = train(unit)
    assert same(again, whole)
    assert (again.losses, again.epochs) == (whole.losses, whole.epochs)
    assert not same(train(unit, replace(SHORT, seed=1)), whole)
    assert not same(train(unit_kernels(500, seed=1)), whole)


@pytest.mark.parametrize("stop", [4, 14, 20, 22])
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, whole, stop):
    unit, state = unit_kernels(500), tmp_path / "new" / "state.pt"
    with pytest.raises(Interrupted):
        train(unit, state=state, stop=stop)
    assert state.exists() == (stop > 10)  # it is kept after each tenth epoch
    epochs = []
    resumed = autoencoder.train(unit, SHORT, state_file=state, progress=lambda done, *_: epochs.append(done))
    assert same(resumed, whole)
    assert resumed.losses == whole.losses
    assert epochs == list(range(1 + (stop - 1) // 10 * 10, 24))
    assert list(state.parent.iterdir()) == []


def test_interrupted_twice(tmp_path, whole):
    unit, state = unit_kernels(500), tmp_path / "state.pt"
    for stop in (12, 22):
        with pytest.raises(Interrupted):
            train(unit, state=state, stop=stop)
    assert same(train(unit, state=state), whole)


def test_the_state_of_another_training_is_not_gone_on_with(tmp_path):
    unit, state = unit_kernels(500), tmp_path / "state.pt"
    for changed in (replace(SHORT, seed=1), replace(SHORT, epochs=13), replace(SHORT, restarts=1)):
        with pytest.raises(Interrupted):
            train(unit, state=state, stop=12)
        assert same(train(unit, changed, state), train(unit, changed))
    other = unit_kernels(500, seed=1)
    with pytest.raises(Interrupted):
        train(unit, state=state, stop=12)
    assert same(train(other, state=state), train(other))


def test_a_damaged_state_is_no_reason_to_fail(tmp_path, whole):
    unit, state = unit_kernels(500), tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        train(unit, state=state, stop=12)
    half = state.read_bytes()[: state.stat().st_size // 2]
    for rubbish in (half, b"", b"nonsense"):
        state.write_bytes(rubbish)
        assert same(train(unit, state=state), whole)
        assert not state.exists()


def test_training_stops_once_nothing_improves():
    noise = centred_unit(np.random.default_rng(0).standard_normal((600, 9)).astype(np.float32)).unit
    found = train(noise, Settings(epochs=100, restarts=2, patience=3))
    assert 3 < found.epochs < 50
    assert same(train(noise, Settings(epochs=100, restarts=2, patience=3)), found)


def test_too_few_kernels_is_one_line():
    few = made_kernels(499)[0]
    words = r"^An autoencoder needs at least 500 distinct kernels to train on, got 499\. [^\n]*$"
    with pytest.raises(InvalidArgument, match=words):
        make.train(few, name="x", size="7x7", epochs=1)
    with pytest.raises(InvalidArgument, match=r"^k-means with 10 classes needs at least 500 distinct kernels, got 499\. [^\n]*$"):
        make.train(few, name="x", size="7x7", method="kmeans")
    with pytest.raises(InvalidArgument, match=r"k-means with 60 classes needs at least 600 distinct kernels, got 599\."):
        make.train(made_kernels(599)[0], name="x", size="7x7", method="kmeans", classes=60)


@pytest.mark.parametrize(
    ("given_settings", "words"),
    [
        ({"method": "pca"}, '"pca" is not a method. Choose autoencoder or kmeans'),
        ({"method": "kmeans", "scaling": "max"}, '"max" is not a scaling. Choose unit or minmax'),
        ({"classes": 5}, "are for method kmeans"),
        ({"scaling": "minmax"}, "are for method kmeans"),
        ({"method": "kmeans", "classes": 0}, "classes = 0: give a whole number from 1"),
        ({"threshold": 0.0}, "threshold = 0.0: give a cosine dissimilarity above 0"),
        ({"threshold": 2.1}, "threshold = 2.1: give a cosine dissimilarity"),
        ({"threshold": float("nan")}, "threshold = nan"),
        ({"seed": -1}, "seed = -1: give a whole number from 0"),
        ({"seed": 0.5}, "seed = 0.5: give a whole number"),
        ({"epochs": 0}, "epochs = 0: give a whole number from 1"),
        ({"restarts": 0}, "restarts = 0: give a whole number from 1"),
        ({"restarts": True}, "restarts = True: give a whole number from 1"),
        ({"size": "sevenish"}, '"sevenish" is not a kernel size'),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(given_settings, words):
    with pytest.raises(InvalidArgument) as caught:
        make.train(made_kernels(600)[0], **({"name": "x", "size": "7x7"} | given_settings))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_thresholds_are_the_published_ones_and_can_be_chosen():
    assert [make.default_threshold(k, k) for k in (3, 5, 7, 9)] == [0.1, 0.2, 0.3, 0.3]
    kernels = made_kernels(600)[0]
    assert make.train(kernels, name="x", size="7x7", epochs=1, restarts=1).threshold == 0.3
    assert make.train(kernels, name="x", size="7x7", epochs=1, restarts=1, threshold=0.125).threshold == 0.125


# -- the network -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [2, 9, 25, 49, 81])
def test_the_basis_spans_the_hyperplane(taps):
    found = basis(taps)
    np.testing.assert_allclose(found.T @ found, np.eye(taps - 1), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-12)


def test_encoder_and_decoder_are_those_of_torch():
    unit = unit_kernels(500)
    weights = train(unit, replace(SHORT, epochs=3)).weights
    # Larger weights, so that the nonlinearities are not near their straight part.
    weights = {name: 3 * value for name, value in weights.items()}

    def network(part: str, last: nn.Module) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(5):
            weight, bias = (torch.from_numpy(weights[f"{part}.{i}.{kind}"]) for kind in ("weight", "bias"))
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.load_state_dict({"weight": weight, "bias": bias})
            layers += [linear, last if i == 4 else nn.LeakyReLU()]
        return nn.Sequential(*layers).double()

    encoder, decoder = network("encoder", nn.Sigmoid()), network("decoder", nn.Tanh())
    widths = [layer.out_features for layer in [*encoder, *decoder] if isinstance(layer, nn.Linear)]
    assert len(widths) == 10  # four intermediate layers on each side of the one code
    assert (widths[4], widths[9]) == (1, 48)
    assert widths[:4] == widths[8:4:-1]
    across = torch.from_numpy(basis(49))
    codes = torch.linspace(0, 1, 300, dtype=torch.float64)
    with torch.no_grad():
        ours = encode(weights, unit)
        np.testing.assert_allclose(ours, encoder(torch.from_numpy(unit).double() @ across)[:, 0], atol=1e-5)
        assert ours.std() > 0.01
        kernels = decoder(codes[:, None]) @ across.T
    np.testing.assert_allclose(decode(weights, codes.numpy()), kernels / kernels.norm(dim=1, keepdim=True), atol=1e-5)
    np.testing.assert_allclose(decode(weights, codes.numpy()).sum(axis=1), 0, atol=1e-5)


# -- gathering kernels -----------------------------------------------------------------------------------------------------


def test_gathered_kernels_are_alive_and_distinct():
    kernels = made_kernels(300)[0]
    dead = np.concatenate([np.zeros((3, 49)), np.full((4, 49), 0.7)]).astype(np.float32)
    found = make.gather([kernels, dead, kernels[::-1], 4 * kernels, 0.125 * kernels[:50]], seed=0)
    np.testing.assert_array_equal(found, kernels)
    both = make.gather([kernels, -kernels], seed=0)  # an off-centre is not an on-centre
    assert len(both) == 600
    # Other gains and offsets round differently; most of the kernels are still told to be the same.
    assert len(make.gather([kernels, 3 * kernels + 1], seed=0)) < 1.3 * len(kernels)
    assert make.gather([], seed=0).shape == (0, 0)
    assert len(make.gather([dead], seed=0)) == 0


def test_gathering_is_bounded_and_settled_by_the_seed():
    kernels = made_kernels(1000)[0]
    batches = np.array_split(kernels, 13)
    found = make.gather(batches, seed=3, most=200)
    assert len(found) == 200
    rows = {row.tobytes() for row in kernels}
    assert {row.tobytes() for row in found} <= rows
    np.testing.assert_array_equal(make.gather(batches, seed=3, most=200), found)
    assert not np.array_equal(make.gather(batches, seed=4, most=200), found)
    place = {row.tobytes(): i for i, row in enumerate(kernels)}
    chosen = np.array([place[row.tobytes()] for row in found])
    assert (np.diff(chosen) > 0).all()  # in their order
    assert 350 < chosen.mean() < 650  # from all over
    np.testing.assert_array_equal(make.gather(batches, seed=3, most=1000), kernels)


# -- k-means ---------------------------------------------------------------------------------------------------------------


@given(st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 1000))
def test_scaling_forgets_gain_and_offset(a, b, seed):
    kernels = np.random.default_rng(seed).standard_normal((6, 9))
    kernels[2] = 0.3
    for scaling in ("minmax", "unit"):
        plain, moved = kmeans.scaled(kernels, scaling), kmeans.scaled(a * kernels + b, scaling)
        np.testing.assert_allclose(moved, plain, atol=1e-5)
        assert (plain[2] == 0).all()
    alive = kmeans.scaled(kernels, "minmax")[[0, 1, 3, 4, 5]]
    assert (alive.min(axis=1) == 0).all()
    np.testing.assert_allclose(alive.max(axis=1), 1)
    assert (alive.argmax(axis=1) == kernels[[0, 1, 3, 4, 5]].argmax(axis=1)).all()


def test_assignment_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    points, centres = rng.random((700, 9)).astype(np.float32), rng.random((10, 9)).astype(np.float32)
    found = kmeans.assign(points, centres)
    distance = np.linalg.norm(points[:, None].astype(np.float64) - centres, axis=2)
    assert distance[np.arange(700), found] == pytest.approx(distance.min(axis=1), abs=1e-6)


def test_centres_are_those_of_the_clusters_largest_first_and_the_same_for_a_seed():
    kernels, truth = made_kernels(700)
    points = kmeans.scaled(kernels, "unit")
    centres = kmeans.train(points, 7, seed=0)
    assert centres.shape == (7, 49)
    np.testing.assert_array_equal(kmeans.train(points, 7, seed=0), centres)
    told = kmeans.assign(points, centres)
    counts = np.bincount(told, minlength=7)
    assert (np.diff(counts) <= 0).all()
    assert counts.min() > 0
    for i in range(7):
        np.testing.assert_allclose(centres[i], points[told == i].mean(axis=0), atol=1e-4)
    assert compare.agreement(compare.count_pairs(truth, told)).purity > 0.7


@pytest.mark.parametrize(("size", "scaling"), [("3x3", "minmax"), ("5x5", "unit")])
def test_k_means_is_scaled_as_published_and_labelled_by_its_centres(size, scaling):
    k = int(size[0])
    cut = (7 - k) // 2
    kernels = made_kernels(600)[0].reshape(-1, 7, 7)[:, cut : cut + k, cut : cut + k].reshape(600, -1)
    made = make.train(kernels, name="k", size=size, method="kmeans", seed=1)
    assert (made.scaling, len(made.weights["centres"]), made.last) == (scaling, 10, 10)
    assert [(one.start, one.stop) for one in made.stretches] == [(i, i + 1) for i in range(10)]
    assert {"on_centre", "off_centre", "dx_plus", "dx_minus", "dy_plus", "dy_minus"} <= set(made.classes)
    found = made.classify(kernels)
    told = kmeans.assign(kmeans.scaled(kernels, scaling), made.weights["centres"])
    np.testing.assert_array_equal(found["code"], told)
    unit = centred_unit(kernels.astype(np.float64)).unit
    cosine = np.einsum("ij,ij->i", unit, centred_unit(made.weights["centres"][told].astype(np.float64)).unit)
    np.testing.assert_allclose(found["dissimilarity"], 1 - cosine, atol=1e-5)
    again = retrain(made, kernels)
    assert (again.size, again.scaling, again.threshold, again.stretches) == (size, scaling, made.threshold, made.stretches)
    np.testing.assert_array_equal(again.weights["centres"], made.weights["centres"])
    assert not np.array_equal(retrain(made, kernels, seed=2).weights["centres"], made.weights["centres"])


def test_k_means_has_its_controls_too():
    kernels = made_kernels(700)[0].reshape(-1, 7, 7)[:, 1:6].reshape(700, 35)  # 5x7: no architecture is known for it
    made = make.train(kernels, name="k", size="5x7", method="kmeans", classes=8, threshold=0.2)
    trained, noise, shuffled = controls(made, kernels)
    assert trained.clustered > 0.6
    assert max(noise.clustered, noise.clustered_by_trained, shuffled.clustered_by_trained) < 0.1


# -- agreement -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcz")), min_size=1, max_size=60))
def test_agreement_is_that_of_scikit_learn(pairs):
    first, second = zip(*pairs, strict=True)
    found = compare.agreement(compare.count_pairs(first, second))
    assert found.kernels == len(pairs)
    assert found.ari == pytest.approx(adjusted_rand_score(first, second), abs=1e-9)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(first, second), abs=1e-9)
    assert found.same_class == pytest.approx(np.mean([a == b for a, b in pairs]))
    largest = {a: max(pairs.count((a, b)) for b in "abcz") for a in set(first)}
    assert found.purity == pytest.approx(sum(largest.values()) / len(pairs))


def test_agreement_by_hand():
    # Of A's ten x, six are B's x and four its y; of its five y, all are B's x.
    found = compare.agreement({("x", "x"): 6, ("x", "y"): 4, ("y", "x"): 5})
    assert found.kernels == 15
    assert found.same_class == 6 / 15
    assert found.purity == 11 / 15
    # Pairs: 15 + 6 + 10 in the cells, 45 + 10 in the rows, 55 + 6 in the columns, 105 in all.
    chance = 55 * 61 / 105
    assert found.ari == pytest.approx((31 - chance) / ((55 + 61) / 2 - chance))
    assert compare.agreement({("a", "b"): 4}).nmi == 1.0
    with pytest.raises(InvalidArgument, match="no kernels in common"):
        compare.agreement({})
