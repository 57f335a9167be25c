"""Comparison of selections: the laws of the shift, a basis that stays, classes, the most novel kernels, and who is compared."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import run
from conftest import make_model, put, random_kernels
from made import by_hand
from made import kernels as shaped
from real import data
from safetensors.numpy import save_file
from scipy.stats import entropy

from filterdb import Database
from filterdb.comparison import compare as comparison
from filterdb.comparison import selection
from filterdb.errors import FilterdbError, InvalidArgument, NotFound, SourceError, StoreError
from filterdb.kernels import centred_unit, novelty, pca
from filterdb.kernels.novelty import most_novel
from filterdb.sources import Pending


def flat(kernels: np.ndarray) -> np.ndarray:
    return kernels.reshape(len(kernels), -1)


def unit_of(kernels: np.ndarray) -> np.ndarray:
    return centred_unit(flat(kernels).astype(np.float64)).unit


def some(n: int, seed: int = 0, h: int = 5, w: int = 5) -> np.ndarray:
    """Kernels that vary more in some directions than in others, about a mean that is not zero."""
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(99).standard_normal((h * w, h * w)) / np.arange(1, h * w + 1)
    return (rng.standard_normal((n, h * w)) @ weights + 0.5 * weights[:, 0]).reshape(n, h, w).astype(np.float32)


def basis_of(kernels: np.ndarray, name: str = "b") -> pca.Basis:
    return pca.fit(name, *kernels.shape[1:], ["m"], [flat(kernels)])


# -- the basis -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 5), (2, 2), (1, 4), (1, 2), (4, 6)])
def test_the_streamed_basis_is_the_one_of_all_kernels_at_once(shape, monkeypatch):
    monkeypatch.setattr(pca, "BLOCK", 100)
    kernels = some(700, 1, *shape)
    kernels[[3, 100]] = 0.25  # constant: no direction
    parts = [flat(kernels)[start:stop] for start, stop in ((0, 1), (1, 400), (400, 400), (400, 700))]
    made = pca.fit("b", *shape, ["m"], parts)
    unit = unit_of(np.delete(kernels, [3, 100], axis=0))
    left, singular, right = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    count = unit.shape[1] - 1  # centred kernels have no constant part
    assert (made.kernels, made.dead, len(made.components)) == (698, 2, count)
    np.testing.assert_allclose(made.mean, unit.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(made.explained_variance_ratio, (singular**2 / (singular**2).sum())[:count], atol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(made.components * right[:count], axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(made.components @ made.components.T, np.eye(count), atol=1e-12)
    assert (made.components[np.arange(count), np.abs(made.components).argmax(axis=1)] > 0).all()
    coefficients = made.coefficients(unit)
    np.testing.assert_allclose(np.abs(coefficients), np.abs(left * singular)[:, :count], atol=1e-6)
    histogram = made.histogram(unit)
    assert (histogram.sum(axis=1) == 698).all()
    for i in range(count):  # numpy's own histogram of what lies inside
        clipped = np.clip(coefficients[:, i], made.low[i], made.high[i])
        expected, _ = np.histogram(clipped, made.bins, (made.low[i], made.high[i]))
        assert np.abs(histogram[i] - expected).sum() <= 2  # a value on an edge may round either way


def test_every_kernel_there_can_be_lies_within_four_deviations_or_the_sphere():
    made = basis_of(some(500))
    deviation = made.coefficients(unit_of(some(500))).std(axis=0)
    assert (made.high - made.low <= 2 * pca.DEVIATIONS * deviation + 1e-9).all()
    assert (made.high - made.low <= 2).all()
    assert (made.low < 0).all()
    assert (made.high > 0).all()
    extreme = np.concatenate([made.components, -made.components])
    assert (made.histogram(centred_unit(extreme).unit).sum(axis=1) == len(extreme)).all()


@pytest.mark.parametrize(
    "kernels", [np.ones((5, 3, 3)), some(1), np.repeat(some(1), 9, axis=0) * np.arange(1, 10)[:, None, None]]
)
def test_kernels_that_are_all_alike_make_no_basis(kernels):
    with pytest.raises(InvalidArgument, match="all alike"):
        basis_of(kernels.astype(np.float32))


# -- the shift -------------------------------------------------------------------------------------------------------------


def test_the_symmetric_divergence_is_scipys_on_the_smoothed_histograms():
    rng = np.random.default_rng(0)
    a, b = (rng.multinomial(n, rng.dirichlet(np.full(pca.BINS, 0.3)), size=6) for n in (300, 5000))
    p, q = (one / one.sum(axis=1, keepdims=True) for one in (a, b))
    mean = (p + q) / 2
    p, q = (0.99 * one + 0.01 * mean for one in (p, q))
    expected = entropy(p, q, axis=1) + entropy(q, p, axis=1)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(pca.symmetric_kl(a, b), expected, rtol=1e-12)
    np.testing.assert_array_equal(pca.symmetric_kl(a, b), pca.symmetric_kl(b, a))
    np.testing.assert_array_equal(pca.symmetric_kl(a, a), 0)
    np.testing.assert_allclose(pca.symmetric_kl(a, 17 * b), expected, rtol=1e-12)  # how many kernels there are is no shift
    apart = pca.symmetric_kl(np.array([[5, 0, 0]]), np.array([[0, 0, 9]]))
    assert apart == pytest.approx(2 * 0.99 * np.log(0.995 / 0.005))
    assert apart < 10.5


def test_the_shift_grows_with_what_was_shifted():
    made = basis_of(some(3000, 1))
    base = made.histogram(unit_of(some(3000, 2)))
    found = []
    for share in (0, 0.1, 0.2, 0.4, 0.8):
        mixed = some(3000, 3)
        mixed[: int(3000 * share)] += 3 * made.components[0].reshape(5, 5).astype(np.float32)
        found.append(pca.shift(made, base, made.histogram(unit_of(mixed))))
    assert found == sorted(found)
    assert found[-1] > 4 * found[0]
    ratio, kl = made.explained_variance_ratio, pca.symmetric_kl(base, made.histogram(unit_of(mixed)))
    assert found[-1] == pytest.approx(sum(r * k for r, k in zip(ratio, kl)))


def test_the_noise_floor_is_what_two_random_halves_give():
    kernels, rng = some(1500), np.random.default_rng(5)
    made = basis_of(kernels)
    halves = []
    for _ in range(12):
        order = rng.permutation(1500)
        one, two = (made.histogram(unit_of(kernels[part])) for part in (order[:400], order[400:]))
        halves.append(pca.shift(made, one, two))
    pairs = pca.chance(one, two, np.random.default_rng(0), 20)
    floor = np.mean([pca.shift(made, *pair) for pair in pairs])
    assert floor == pytest.approx(np.mean(halves), rel=0.1)


# -- the most novel kernels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [3, 1000, 2**21])
@pytest.mark.parametrize("sampled", [0, 20, None])
def test_the_most_novel_kernels_are_those_of_brute_force(monkeypatch, scores, sampled):
    monkeypatch.setattr(novelty, "SCORES", scores)
    unit, other = (unit_of(some(n, seed)).astype(np.float32) for n, seed in ((90, 1), (300, 2)))
    other[7] = unit[3]
    ids = np.arange(1000, 1300)
    passes = []

    def blocks():
        passes.append(0)
        for start in range(0, 300, 70):
            passes[-1] += 1
            yield ids[start : start + 70], other[start : start + 70]

    truth = unit.astype(np.float64) @ other.T
    order = np.argsort(truth.max(axis=1))
    sample = [(ids, other)] if sampled is None else [(ids[:sampled], other[:sampled])]
    for count in (1, 5, 90, 200):
        passes.clear()
        found = most_novel(unit, count, sample, None if sampled is None else blocks)
        assert [row for row, _, _ in found] == order[:count].tolist()
        np.testing.assert_allclose([best for _, best, _ in found], np.sort(truth.max(axis=1))[:count], atol=1e-6)
        assert [match for _, _, match in found] == ids[truth.argmax(axis=1)[order[:count]]].tolist()
    if sampled is not None:
        assert len(passes) == 1  # all were searched for at once, none is left


def test_the_search_of_the_rest_ends_when_all_have_a_match():
    unit = np.eye(50, dtype=np.float32)
    seen = []

    def blocks():
        for start in range(0, 49, 7):
            seen.append(start)
            yield np.arange(start, start + 7), unit[start : start + 7]

    [(row, best, _)] = most_novel(unit, 1, [(np.arange(48), unit[:48])], blocks)
    assert (row, best) == (49, 0)
    assert seen == [*range(0, 49, 7)] * 2  # 48 is not in the sample, so a second pass has to look for it


# -- in a database ---------------------------------------------------------------------------------------------------------


def filled(db: Database) -> Database:
    """Three models of 5x5 kernels, one of which has 3x3 too, and a training run of two steps."""
    put(db, "one", {"conv": some(450, 1), "flat": np.full((2, 5, 5), 0.5), "small": random_kernels(20, 3, 3)}, dataset="apples")
    put(db, "two", {"conv": some(420, 2)}, dataset="apples", architecture="net_s")
    put(db, "three", {"conv": some(440, 3)}, dataset="pears", architecture="net_l")
    put(db, "run@1", {"conv": some(40, 4)}, run="run", step=1, dataset="pears")
    put(db, "run@2", {"conv": some(60, 5)}, run="run", step=2, dataset="pears")
    return db


@pytest.fixture
def stored(db: Database) -> Database:
    """A database of its own, to be changed."""
    return filled(db)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """The same for all tests, to be read."""
    return filled(Database(tmp_path_factory.mktemp("same") / "filters"))


def numbers(found: comparison.Comparison) -> tuple:
    """What does not depend on where the kernels of A lie."""
    return found.shift, found.components, [(one.channel, one.best_similarity, one.nearest) for one in found.novel]


def test_a_comparison_is_what_its_parts_say(same):
    found = same.compare("one", "two", size="5x5", novel=3)
    assert (found.size, found.basis) == ("5x5", "pca-5x5")
    assert (found.a, found.b) == (comparison.Side("one", 1, 450, 2), comparison.Side("two", 1, 420, 0))
    everything = np.concatenate([some(450, 1), some(440, 3), some(60, 5), some(420, 2)])
    made = basis_of(everything)
    one, two = (made.histogram(unit_of(some(n, seed))) for n, seed in ((450, 1), (420, 2)))
    assert found.shift == pytest.approx(pca.shift(made, one, two), rel=1e-6)
    assert found.shift == pytest.approx(sum(c.explained_variance_ratio * c.symmetric_kl for c in found.components))
    assert [c.component for c in found.components] == [*range(1, 25)]
    assert found.shift == pytest.approx(found.noise_floor, rel=0.5)  # both are of one distribution
    assert found.usual_shift is None

    ours, theirs = unit_of(some(450, 1)), unit_of(some(420, 2))
    truth = ours @ theirs.T
    order = np.argsort(truth.max(axis=1))[:3]
    assert [(n.model, n.layer, n.channel) for n in found.novel] == [("one", "conv", channel) for channel in order]
    assert [n.nearest for n in found.novel] == [f"two:conv:{truth[channel].argmax()}" for channel in order]
    assert [n.best_similarity for n in found.novel] == pytest.approx(truth.max(axis=1)[order].tolist(), abs=1e-6)
    own = ours @ ours.T - 2 * np.eye(450)
    assert [n.own_similarity for n in found.novel] == pytest.approx(own.max(axis=1)[order].tolist(), abs=1e-6)
    for novel in found.novel:
        names = same.sql("SELECT model, layer, channel FROM filters WHERE filter_id = $id", id=novel.filter_id).fetchall()
        assert names == [(novel.model, novel.layer, novel.channel)]
    assert same.compare("one", "two", size=5, novel=0).novel == []


def test_the_laws_of_the_shift_hold_in_a_database(stored):
    put(stored, "far", {"conv": shaped(420)[:, 1:6, 1:6]})
    same = stored.compare("one", "one", size=5)
    assert (same.shift, same.novel[0].best_similarity) == (0, pytest.approx(1))
    assert same.notes[0] == "A and B are the same models: every kernel matches itself."
    for a, b in (("one", "two"), ("one", "*"), ("dataset:pears", "t*"), ("two", "far")):
        there, back = stored.compare(a, b, size=5, novel=0), stored.compare(b, a, size=5, novel=0)
        assert there.shift == back.shift
        assert (there.a, there.b) == (back.b, back.a)
    far = stored.compare("far", "*", size=5, novel=0)
    assert far.shift > 10 * far.noise_floor
    assert far.shift > stored.compare("one", "*", size=5, novel=0).shift
    assert 0 < far.usual_shift < far.shift  # of one, two and three against each other; the run is too small


def test_a_basis_stays_as_it_is_until_it_is_made_anew(stored):
    told: list[str] = []
    before = stored.compare("one", "two", size=5, progress=lambda what, *_: told.append(what))
    assert list(dict.fromkeys(told)) == ["basis pca-5x5", "one", "two"]
    assert any("made now, of 1,370 kernels of 4 models" in note for note in before.notes)  # not of the run's first step
    rows = stored.sql("SELECT * FROM components").fetchall()
    put(stored, "far", {"conv": shaped(500)[:, 1:6, 1:6]})
    again = stored.compare("one", "two", size=5)
    assert not any("basis" in note for note in again.notes)
    assert numbers(again) == numbers(before)
    assert stored.sql("SELECT * FROM components").fetchall() == rows

    other = stored.compare("one", "two", size=5, basis="with far")
    assert other.shift != before.shift
    assert stored.bases() == ["pca-5x5", "with far"]
    anew = stored.compare("one", "two", size=5, new_basis=True)
    assert (anew.shift, anew.basis) == (other.shift, "pca-5x5")
    columns = "basis, size, kernel_h, kernel_w, kernels, dead, list_sort(models), bins, len(mean)"
    models = ["far", "one", "run@2", "three", "two"]
    assert stored.sql(f"SELECT {columns} FROM bases ORDER BY basis").fetchall() == [
        (name, "5x5", 5, 5, 1870, 2, models, 40, 25) for name in ("pca-5x5", "with far")
    ]
    sql = (
        "SELECT basis, count(*), sum(explained_variance_ratio), bool_and(low < high), max(len(kernel)) FROM components GROUP BY 1"
    )
    assert sorted(stored.sql(sql).fetchall()) == [(name, 24, pytest.approx(1), True, 25) for name in ("pca-5x5", "with far")]

    with pytest.raises(InvalidArgument, match='The basis "with far" is of 5x5 kernels, these are 3x3'):
        stored.compare("one", "one", size=3, basis="with far")
    stored.remove_basis("with far")
    assert stored.bases() == ["pca-5x5"]
    with pytest.raises(NotFound, match='Did you mean "pca-5x5"'):
        stored.remove_basis("pca-5x")


def test_an_outgrown_basis_is_called_old(db):
    put(db, "a", {"conv": some(50, 1)})
    db.compare("a", "a")
    put(db, "b", {"conv": some(460, 2)})
    [_, note] = db.compare("a", "b").notes[-2:]
    assert "made of 50 kernels and there are 510 now. --new-basis" in note


def test_an_old_version_is_compared_on_a_basis_that_is_there(stored):
    old = Database(stored.path, as_of=stored.version)
    put(stored, "far", {"conv": shaped(20)[:, 1:6, 1:6]})
    with pytest.raises(StoreError, match="read only"):
        old.compare("one", "*", size=5)
    latest = stored.compare("one", "*", size=5, novel=0)
    assert (latest.b.kernels, old.compare("one", "*", size=5, novel=0).b.kernels) == (940, 920)
    with pytest.raises(StoreError, match="read only"):
        old.remove_basis("pca-5x5")


def test_verify_sees_a_basis_that_changed(stored):
    stored.compare("one", "two", size=5)
    assert stored.verify().ok
    [file] = (stored.path / "components").glob("slug=*/*.parquet")
    table = pq.read_table(file, partitioning=None)
    changed = [[2 * tap for tap in kernel] for kernel in table["kernel"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("kernel"), "kernel", pa.array(changed)), file)
    assert stored.verify().problems == ["basis pca-5x5: its components are not what was stored"]
    file.write_bytes(b"nonsense")
    with pytest.raises(StoreError, match='The basis "pca-5x5" is damaged'):
        Database(stored.path).compare("one", "two", size=5)
    assert stored.verify(repair=True).problems
    assert stored.bases() == []
    assert stored.vacuum() > 0
    assert stored.compare("one", "two", size=5).shift > 0
    assert stored.verify().ok


# -- who is compared -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "kernels", "notes"),
    [
        ("t*", "one", (860, 450), []),
        ("dataset:apples", "architecture:net_*", (450, 440), ["In both A and B, and excluded from A and B: two."]),
        (
            "dataset:p*",
            "run:run",
            (500 - 60, 100 - 60),
            ["In both A and B, and excluded from A and B: run@2.", EARLY := "earlier"],
        ),
        ("one", "database", (450, 920), ["In both A and B, and excluded from B: one.", EARLY]),
        ("*", "dataset:apples", (500, 870), ["In both A and B, and excluded from A: one, two.", EARLY]),
        ("run@1", "*", (40, 1370), [EARLY]),
    ],
)
def test_selections_and_what_they_share(same, a, b, kernels, notes):
    found = same.compare(a, b, size=5, novel=0)
    assert (found.a.kernels, found.b.kernels) == kernels
    expected = [f"{a if a.startswith('dataset:p') or a == '*' else b}: 1 earlier checkpoints of training runs are excluded."
                if note == EARLY else note for note in notes]  # fmt: skip
    assert found.notes[: len(expected)] == expected
    assert (found.a.selection, found.b.selection) == (a, b)


@pytest.mark.parametrize(
    ("a", "words"),
    [
        ("onee", 'No model "onee". Did you mean "one"'),
        ("onee", "dataset:NAME, architecture:GLOB"),
        ("x*", 'No model "x\\*"'),
        ("dataset:appels", 'No dataset "appels". Did you mean "apples"'),
        ("architecture:x*", "There are: net_l, net_s"),
        ("run:runs", 'Did you mean "run"'),
    ],
)
def test_a_slip_names_the_near_misses(same, a, words):
    with pytest.raises(NotFound, match=words):
        same.compare(a, "one")


def test_a_kernel_size_both_have(stored):
    put(stored, "tiny", {"conv": random_kernels(30, 3, 3), "strip": random_kernels(9, 1, 4)})
    assert stored.compare("one", "tiny").size == "3x3"
    for a, b, size, words in [
        ("one", "*", None, "both have 3x3, 5x5. Choose one with --size"),
        ("two", "tiny", None, 'No kernel size in common: "two" has 5x5, "tiny" has 1x4, 3x3'),
        ("two", "one", "3x3", '"two" has no 3x3 kernels. It has: 5x5'),
        ("two", "one", "3y3", "is not a kernel size"),
    ]:
        with pytest.raises(FilterdbError, match=words):
            stored.compare(a, b, size=size)
    with pytest.raises(InvalidArgument, match="novel = -1"):
        stored.compare("one", "two", size=5, novel=-1)


def test_strips_and_even_sizes_and_constants(db):
    put(
        db,
        "a",
        {"strip": some(50, 1, 1, 4), "pair": random_kernels(30, 1, 2), "even": some(50, 1, 2, 2), "dead": np.ones((9, 7, 7))},
    )
    put(db, "b", {"strip": some(60, 2, 1, 4), "pair": random_kernels(40, 1, 2, seed=1), "even": some(60, 2, 2, 2),
                  "alive": random_kernels(9)})  # fmt: skip
    for size, components in (("1x4", 3), ("1x2", 1), ("2x2", 3)):
        found = db.compare("a", "b", size=size)
        assert len(found.components) == components
        json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(InvalidArgument, match='The 7x7 kernels of "a" are all constant'):
        db.compare("a", "b", size=7)


def test_an_empty_database_says_so(db):
    with pytest.raises(StoreError, match="is empty"):
        db.compare("a", "b")


# -- a checkpoint of one's own ---------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint with the kernels of the model "two", and 3x3 ones."""
    save_file({"conv.weight": some(420, 2)[:, None], "b.weight": random_kernels(8, 3, 3)[:, None]}, tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


def test_a_file_is_compared_without_being_stored(stored, file):
    models, version = stored.models, stored.version
    own, there = stored.compare(file, "three"), stored.compare("two", "three")
    assert numbers(own) == numbers(there)
    assert (own.a.selection, own.a.kernels, own.a.models) == (str(file), 420, 1)
    assert [novel.filter_id for novel in own.novel] == [None] * 10
    assert {(novel.model, novel.layer) for novel in own.novel} == {("own", "conv")}
    assert (stored.models, stored.version) == (models, version)
    other_way = stored.compare("three", str(file))
    assert other_way.shift == own.shift
    assert other_way.novel[0].nearest.startswith("own:conv:")
    assert stored.compare(file, "two").shift == 0
    assert stored.compare(file, file, size=5).novel[0].best_similarity == pytest.approx(1)


def test_a_file_that_was_ingested_is_left_out_of_the_database(stored, file):
    before = stored.compare(file, "*", size=5)
    assert before.novel[-1].best_similarity == pytest.approx(1)  # two has them all
    stored.remove("two")
    without = stored.compare(file, "*", size=5)
    stored.ingest(file, name="mine")
    found = stored.compare(file, "*", size=5)
    assert found.notes[0] == "In both A and B, and excluded from B: mine."
    assert (found.b, numbers(found)) == (without.b, numbers(without))
    assert stored.compare(file, "mine", size=5).notes[0].startswith("A and B are the same models")


@pytest.mark.parametrize("revision", ["abc", "def"])
def test_a_model_of_a_hub_is_told_by_its_revision(stored, monkeypatch, revision):
    put(stored, "hub", {"conv": some(50, 6)}, revision="abc")
    model = make_model("hub", {"conv": some(50, 6)}, revision=revision)
    pending = Pending("test:hub", "hub", lambda progress: nullcontext(model))
    monkeypatch.setattr(selection, "resolve", lambda source: [pending])
    found = stored.compare("hf:some/hub", "*", novel=0)
    assert (found.b.kernels == 1370) == ("In both A and B, and excluded from B: hub." in found.notes) == (revision == "abc")


def test_a_network_in_memory_is_compared(same):
    from torch import nn

    net = nn.Sequential(nn.Conv2d(16, 16, 5, groups=16), nn.Conv2d(16, 8, 1))
    found = same.compare(net, "two")
    assert (found.a.selection, found.a.kernels) == ("Sequential", 16)
    assert found.shift > found.noise_floor


def test_a_file_that_cannot_be_compared_is_one_line(same, tmp_path):
    broken = some(4)
    broken[1, 0, 0] = np.nan
    save_file({"conv.weight": broken[:, None]}, tmp_path / "nan.safetensors")
    save_file({"fc.weight": np.ones((4, 4), np.float32)}, tmp_path / "none.safetensors")
    for name, words in [
        ("nan.safetensors", "conv has 1 weights that are NaN or infinite"),
        ("none.safetensors", "holds no depthwise kernels larger than 1x1"),
        ("gone.safetensors", "There is no file .*gone.safetensors, and no model of that name"),
    ]:
        with pytest.raises(SourceError, match=words):
            same.compare(str(tmp_path / name), "one")


# -- classes ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def classified(db: Database) -> Database:
    """Three models of shaped 7x7 kernels; the classifier "hand" has told two of them."""
    put(db, "a", {"conv": shaped(80), "flat": np.full((2, 7, 7), 0.5)})
    put(db, "b", {"conv": shaped(60, seed=1)})
    db.import_classifier(by_hand())
    db.classify("hand")
    put(db, "c", {"conv": shaped(50, seed=2)[:25].repeat(2, axis=0)})
    return db


def test_class_shares_side_by_side(classified, tmp_path):
    found = classified.compare("a", "b")
    assert (found.classifier, found.notes[:-1]) == ("hand", [])
    assert [row.name for row in found.classes] == classified.classifier("hand").classes
    for side in "ab":
        sql = "SELECT class, count(*) FROM classes JOIN filters USING (filter_id) WHERE model = $m AND NOT dead GROUP BY 1"
        expected = dict(classified.sql(sql, m=side).fetchall())
        assert {row.name: n for row in found.classes if (n := getattr(row, side))} == expected
        assert sum(getattr(row, f"{side}_percent") for row in found.classes) == pytest.approx(100)
    assert all(row.difference == pytest.approx(row.a_percent - row.b_percent) for row in found.classes)
    assert found.total_variation == pytest.approx(sum(abs(row.difference) for row in found.classes) / 200)
    assert 0 < found.total_variation_noise < 0.3
    assert found.to_dict()["classes"][0]["class"] == found.classes[0].name

    save_file({"conv.weight": shaped(60, seed=1)[:, None]}, tmp_path / "b.safetensors")
    own = classified.compare("a", tmp_path / "b.safetensors")
    assert own.classes == found.classes  # told in memory
    assert own.notes == []


def test_models_that_were_not_told_are_told_in_memory_or_not_at_all(classified):
    found = classified.compare("a", "c")
    assert (found.classifier, found.classes, found.total_variation) == (None, [], None)
    assert "No class shares: add --classifier hand, or run filterdb classify --classifier hand first." in found.notes
    told = classified.compare("a", "[bc]", classifier="hand")
    note = "Classified in memory: 1 of the 2 models of [bc]. filterdb classify --classifier hand keeps the classes."
    assert note in told.notes
    classified.classify("hand")
    assert classified.compare("a", "[bc]").classes == told.classes
    classified.import_classifier(by_hand("other hand"))
    assert classified.compare("a", "b").classifier == "hand"
    classified.classify("other hand")
    assert (
        "No class shares: choose one of the classifiers hand, other hand with --classifier." in classified.compare("a", "b").notes
    )


def test_a_classifier_that_does_not_fit_is_refused(stored):
    stored.import_classifier(by_hand())
    with pytest.raises(InvalidArgument, match='The classifier "hand" classifies 7x7 kernels, and these are 5x5'):
        stored.compare("two", "three", classifier="hand")
    with pytest.raises(NotFound, match='No classifier "hnd"'):
        stored.compare("two", "three", classifier="hnd")
    [note] = [note for note in stored.compare("two", "three").notes if "No class" in note]
    assert note.endswith("filterdb cluster import small-nets-5x5 brings a classifier; then add --classifier small-nets-5x5.")


# -- the command line ------------------------------------------------------------------------------------------------------


def test_on_the_command_line(classified, tmp_path):
    db = classified.path
    answer = json.loads(run("compare", "a", "b", "--novel", "2", "--json", db=db))
    assert answer == json.loads(json.dumps(classified.compare("a", "b", novel=2).to_dict())) | {"notes": answer["notes"]}
    assert any("The basis pca-7x7 was made now" in note for note in answer["notes"])
    said = run("compare", "a", "--classifier", "hand", "--novel", "2", "--new-basis", db=db)
    for words in (
        "A  a: 80 7x7 kernels, 2 dead left out", "B  *: 110 7x7 kernels of 2 models", "Shift D = ", "(by chance ",
        "The 8 components of 48 that make most of it", "Classes by hand: total variation", "with the weakest best match in B",
        "note: In both A and B, and excluded from B: a.", "note: The basis pca-7x7 was made now",
    ):  # fmt: skip
        assert words in said


# -- real checkpoints ------------------------------------------------------------------------------------------------------


def test_real_networks_differ_more_than_chance_and_less_than_noise_does(tmp_path):
    weights = data() / "weights"
    db = Database(tmp_path / "filters")
    names = ["mcunet-320kb-1mb_imagenet", "proxyless-w0.3-r176_imagenet", "mcunet_in1_cifar10"]
    db.ingest(*[weights / f"{name}.pth" for name in names])
    put(db, "noise", {"conv": random_kernels(1500)})
    db.import_classifier("small-nets-7x7")
    choice = {"size": 7, "novel": 0}
    twins = db.compare(*names[:2], classifier="small-nets-7x7", **choice)  # both of ImageNet, both found by architecture search
    small = db.compare(names[0], names[2], **choice)  # another data set
    noise = db.compare(names[0], "noise", classifier="small-nets-7x7", **choice)
    assert 2 * twins.noise_floor < twins.shift < small.shift < noise.shift
    assert 2 * twins.total_variation_noise < twins.total_variation < noise.total_variation
    assert noise.classes[-1].b_percent > 99

    own = db.compare(weights / f"{names[1]}.pth", "*", size=7)
    assert own.notes[0] == f"In both A and B, and excluded from B: {names[1]}."
    assert numbers(own) == numbers(db.compare(names[1], "*", size=7))
