"""Receptive fields in the database: descriptors and fits follow the kernels they were made of; describe says what there is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import command
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from command import run
from conftest import put, random_kernels
from test_fits import members, structured

from filterdb import Bank, Database
from filterdb.errors import BankError, FilterdbError, InvalidArgument, NotFound, SourceError, StoreError
from filterdb.fields import fits
from filterdb.fields.describing import FilterDescription, GroupDescription
from filterdb.fields.fits import published
from filterdb.fields.store import FITS
from filterdb.kernels import descriptors
from filterdb.kernels.scale_space import Jet
from filterdb.kernels.sizes import parse_size, size_name

here = command.here
"""The command line in this process."""
FLAT = np.full((1, 7, 7), 0.5)
ZERO = np.zeros((1, 7, 7))
FEW = ("gaussian", "impulse", "jet1")
"""Families that are fitted at once, for what does not depend on which they are."""
ALL, SMALL = len(fits.FAMILIES), len(fits.FAMILIES) - 2
"""Families at 7x7, and at 3x3, where two have too many numbers."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: a with two dead kernels and a 3x3 layer, b, and one that has only dead kernels."""
    db = Database(tmp_path_factory.mktemp("made") / "filters")
    put(db, "a", {"conv": structured((7, 7), 11), "flat": np.concatenate([FLAT, ZERO]), "small": random_kernels(5, 3, 3)})
    put(db, "b", {"conv": random_kernels(6, seed=1)})
    put(db, "dead", {"conv": np.concatenate([ZERO, FLAT])})
    return db.path


@pytest.fixture
def stored(made: Path, tmp_path: Path) -> Database:
    """A copy of these models for one test alone."""
    return Database(shutil.copytree(made, tmp_path / "filters"))


def fitted(db: Database) -> dict[tuple[str, str], set[str]]:
    """Which families each model has rows of, by model and size."""
    rows = db.sql("SELECT model, fits.size, family FROM fits JOIN filters USING (filter_id)").fetchall()
    found: dict[tuple[str, str], set[str]] = {}
    for model, size, family in rows:
        found.setdefault((model, size), set()).add(family or "(dead)")
    return found


def check_whole(db: Database) -> None:
    """No NaN, one best for each living filter and size, every row of a filter that is there, and of its size."""
    table = db.sql(
        "SELECT fits.*, filters.dead, filters.size AS true_size FROM fits JOIN filters USING (filter_id)"
    ).to_arrow_table()
    assert table.num_rows == db.sql("SELECT count(*) FROM fits").fetchall()[0][0]
    assert table["size"].equals(table["true_size"])
    for name in table.column_names:
        if str(table[name].type) in ("float", "double"):
            assert np.isfinite(table[name].drop_null().to_numpy()).all(), name
    for numbers in table["coefficients"].drop_null().to_pylist():
        assert np.isfinite(numbers).all()
    dead = table.filter(table["dead"])
    assert set(dead["reason"].unique().to_pylist()) <= {"constant: there is no pattern to fit"}
    assert not pc.any(dead["best"]).as_py()
    for name in set(FITS.names) - {"filter_id", "size", "best", "reason"}:
        assert dead[name].null_count == dead.num_rows, name
    alive = table.filter(pc.invert(table["dead"]))
    assert alive["reason"].null_count == alive.num_rows
    for name in ("family", "amplitude", "offset", "coefficients", "rho", "residual", "parameters", "bic", "best", "at_bound"):
        assert alive[name].null_count == 0, name
    best = "SELECT filter_id, count(*) FILTER (best) AS n, count(*) AS rows, count(DISTINCT family) AS families FROM fits"
    for _, n, rows, families in db.sql(f"{best} WHERE reason IS NULL GROUP BY filter_id").fetchall():
        assert n == 1
        assert rows == families


# -- the table fits --------------------------------------------------------------------------------------------------------


def test_every_filter_has_a_row_for_each_family_and_the_dead_have_one(stored):
    answer = stored.fit("7x7").df()
    assert len(answer) == 17 * ALL + 4
    assert fitted(stored) == {
        ("a", "7x7"): {*fits.FAMILIES, "(dead)"},
        ("b", "7x7"): {*fits.FAMILIES},
        ("dead", "7x7"): {"(dead)"},
    }
    assert list(answer.columns) == ["model", "layer", "channel", *FITS.names]
    assert answer["best"].sum() == 17
    check_whole(stored)
    assert stored.verify().ok


def test_the_rows_are_what_fits_says_of_the_kernels(stored):
    stored.fit("7x7")
    kernels = structured((7, 7), 11)
    found = fits.fit(kernels)
    winner = fits.best(found)
    sql = "SELECT channel, fits.* FROM fits JOIN filters USING (filter_id) WHERE model = 'a' AND layer = 'conv'"
    rows = {(row["channel"], row["family"]): row for row in stored.sql(sql).to_arrow_table().to_pylist()}
    assert len(rows) == 11 * ALL
    for number, one in enumerate(found):
        for i in range(11):
            row = rows[i, one.family.name]
            assert row["rho"] == pytest.approx(one.rho[i], abs=3e-4)
            assert row["parameters"] == one.family.parameters
            assert row["best"] == (winner[i] == number)
            form = one.family.forms[0]
            assert [row[name] is not None for name in ("sigma_x", "sigma_y", "sigma_x2", "sigma_y2")] == [
                len(form.scales) >= 1, len(form.scales) >= 1, len(form.scales) == 2, len(form.scales) == 2,
            ]  # fmt: skip
            assert len(row["coefficients"]) == form.coefficients
            assert row["amplitude"] == row["coefficients"][0]
            if form.orders is None:
                assert row["orders"] is row["shift"] is None
            # The row alone gives the model: its numbers are of one piece with its rho.
            if one.family.name == "jet2":
                jet = Jet(row["sigma_x"], row["sigma_y"], dict(zip(one.family.terms, row["coefficients"], strict=True)))
                model = jet.kernel(7) + row["offset"]
                assert np.corrcoef(model.ravel(), kernels[i].ravel())[0, 1] == pytest.approx(row["rho"], abs=1e-4)
                assert np.linalg.norm(kernels[i] - model) == pytest.approx(row["residual"], abs=1e-3)


def test_orders_and_shifts_name_the_derivative(db):
    names = ["dx", "dx+", "dx-", "dy", "dy+", "dy-", "dxx", "dxy", "dyy"]
    put(db, "net", {"conv": np.array([Jet(0.7, 0.9, {name: 1}).kernel(7) for name in names])})
    db.fit()
    rows = db.sql("SELECT family, orders, shift FROM fits JOIN filters USING (filter_id) WHERE best ORDER BY channel").fetchall()
    first, second = "first_derivative", "second_derivative"
    assert rows == [
        (first, [1, 0], [0, 0]), (first, [1, 0], [0.5, 0]), (first, [1, 0], [-0.5, 0]),
        (first, [0, 1], [0, 0]), (first, [0, 1], [0, 0.5]), (first, [0, 1], [0, -0.5]),
        (second, [2, 0], [0, 0]), (second, [1, 1], [0, 0]), (second, [0, 2], [0, 0]),
    ]  # fmt: skip


def test_only_some_models_and_families(stored):
    assert set(stored.fit("7x7", model="b", family=FEW).df()["family"]) == {*FEW}
    assert fitted(stored) == {("b", "7x7"): {*FEW}}
    stored.fit("7x7", model=["d*"], family="gaussian")
    assert fitted(stored) == {("b", "7x7"): {*FEW}, ("dead", "7x7"): {"(dead)"}}
    stored.fit("7x7", family="impulse")
    assert fitted(stored)["a", "7x7"] == {"impulse", "(dead)"}
    check_whole(stored)


def test_families_fitted_later_join_those_before_and_the_best_is_chosen_again(stored):
    def best() -> dict[int, str]:
        return dict(stored.sql("SELECT filter_id, family FROM fits WHERE best").fetchall())

    stored.fit("7x7", family="gaussian")
    assert set(best().values()) == {"gaussian"}
    stored.fit("7x7", family=["first_derivative", "impulse"])
    assert fitted(stored)["b", "7x7"] == {"gaussian", "first_derivative", "impulse"}
    check_whole(stored)
    later = best()
    assert len(set(later.values())) > 1
    expected = stored.sql("SELECT filter_id, arg_min(family, bic) FROM fits WHERE reason IS NULL GROUP BY ALL").fetchall()
    assert later == dict(expected)
    # One after the other or at once, in any order, it comes to the same.
    stored.fit("7x7", model="b", family=["first_derivative", "impulse", "gaussian"], again=True)
    assert best() == later


def test_fitting_again_does_nothing_new_unless_it_is_asked_to(stored):
    stored.fit("7x7", family=FEW)
    version, told = stored._fields.version, []
    for families in (FEW, "gaussian"):
        stored.fit("7x7", family=families, progress=lambda what, *_: told.append(what))
    assert stored._fields.version == version
    assert told == ["fitted a", "fitted b", "fitted dead"] * 2
    stored.fit("7x7", model="b", family="gaussian", again=True)
    assert stored._fields.version[1] == version[1] + 1
    assert fitted(stored)["b", "7x7"] == {*FEW}  # those before stay
    put(stored, "c", {"conv": random_kernels(2, seed=2)})
    told.clear()
    stored.fit("7x7", family=FEW, progress=lambda what, done, total: told.append((what, done, total)))
    assert told == [("fitted a", 13, 23), ("fitted b", 19, 23), ("fitted c", 21, 23), ("fitted dead", 23, 23)]


def test_again_without_families_fits_those_of_today(stored):
    stored.fit("7x7", model="b", family="gaussian")
    stored.fit("7x7", model="b", again=True)
    assert fitted(stored) == {("b", "7x7"): {*fits.FAMILIES}}


def test_sizes_stand_side_by_side(stored):
    stored.fit("7x7", family=FEW)
    stored.fit(3, family=FEW)
    assert fitted(stored)["a", "7x7"] == {*FEW, "(dead)"}
    assert fitted(stored)["a", "3x3"] == {*FEW}
    stored.fit("3x3")
    assert len(fitted(stored)["a", "3x3"]) == SMALL
    assert fitted(stored)["a", "7x7"] == {*FEW, "(dead)"}
    stored.fit("7x7", again=True, family="impulse")
    assert len(fitted(stored)["a", "3x3"]) == SMALL
    check_whole(stored)
    assert len(stored.fit("3x3").fetchall()) == 5 * SMALL


# -- what is no longer true is not shown -----------------------------------------------------------------------------------


def test_a_model_that_was_ingested_again_has_no_fits_until_it_is_fitted_again(stored):
    stored.fit("7x7", family=FEW)
    version = stored.version
    put(stored, "a", {"conv": structured((7, 7), 4)})  # the same filter_ids, other kernels
    assert set(fitted(stored)) == {("b", "7x7"), ("dead", "7x7")}
    old = Database(stored.path, as_of=version)
    assert set(fitted(old)) == {("a", "7x7"), ("b", "7x7"), ("dead", "7x7")}
    check_whole(old)
    assert stored.verify().ok
    stored.fit("7x7", family=FEW)
    assert stored.sql("SELECT count(*) FROM fits JOIN filters USING (filter_id) WHERE model = 'a'").fetchall() == [(12,)]
    check_whole(stored)
    # The old version's rows stay until they are vacuumed, with its files.
    assert old.sql("SELECT count(*) FROM fits JOIN filters USING (filter_id) WHERE model = 'a'").fetchall() == [(35,)]
    stored.vacuum()
    check_whole(stored)
    assert len(list((stored.path / "fits").glob("slug=*/*.parquet"))) == 3
    assert len(list((stored.path / "descriptors").glob("slug=*/*.parquet"))) == 3
    assert stored.verify().ok


def test_a_model_that_was_removed_has_no_fits(stored):
    stored.fit("7x7", family=FEW)
    version = stored.version
    stored.remove("a")
    assert set(fitted(stored)) == {("b", "7x7"), ("dead", "7x7")}
    assert stored.sql("SELECT count(*) FROM descriptors").fetchall() == [(8,)]
    assert ("a", "7x7") in fitted(Database(stored.path, as_of=version))
    stored.vacuum()
    assert set(fitted(stored)) == {("b", "7x7"), ("dead", "7x7")}
    assert stored.verify().ok


def test_an_old_version_is_read_only_and_shows_only_its_models(stored):
    old = Database(stored.path, as_of=stored.version)
    put(stored, "c", {"conv": random_kernels(2, seed=2)})
    stored.fit("7x7", family=FEW)
    assert ("c", "7x7") not in fitted(old)
    assert ("a", "7x7") in fitted(old)
    for change in (lambda: old.fit("7x7"), old.describe_missing):
        with pytest.raises(StoreError, match="read only"):
            change()
    assert old.describe("a:conv:0").identity["model"] == "a"
    with pytest.raises(NotFound, match='No model "c"'):
        old.describe("c")


def test_rules_of_another_version_are_not_shown(stored, monkeypatch):
    stored.fit("7x7", family=FEW)
    monkeypatch.setattr("filterdb.fields.store._FITTER", ("fits", "next"))
    monkeypatch.setattr("filterdb.fields.store._DESCRIBER", ("descriptors", "next"))
    newer = Database(stored.path)
    assert newer.sql("SELECT (SELECT count(*) FROM fits), (SELECT count(*) FROM descriptors)").fetchall() == [(0, 0)]
    assert "3 models have no descriptors" in newer.verify().leftovers[0]
    assert newer.describe_missing() == ["a", "b", "dead"]
    assert newer.sql("SELECT count(*) FROM descriptors").fetchall() == [(26,)]
    assert newer.verify().ok


# -- interrupts and damage -------------------------------------------------------------------------------------------------


def test_an_interrupted_fit_keeps_the_models_that_were_done(stored):
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "fitted a":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored.fit("7x7", family=FEW, progress=interrupt)
    assert set(fitted(stored)) == {("a", "7x7")}
    report = stored.verify()
    assert (report.problems, report.leftovers) == ([], [])
    version = stored._fields.version[1]
    stored.fit("7x7", family=FEW)
    assert stored._fields.version[1] == version + 2  # a is left alone
    assert set(fitted(stored)) == {("a", "7x7"), ("b", "7x7"), ("dead", "7x7")}


def test_a_fit_that_fails_in_the_middle_of_a_model_leaves_what_was_there(stored, monkeypatch):
    stored.fit("7x7", family="gaussian")
    before = stored.sql("SELECT * FROM fits ORDER BY ALL").fetchall()
    monkeypatch.setattr("filterdb.fields.fitting._parts", lambda n, _: (slice(start, start + 4) for start in range(0, n, 4)))
    fit, calls = fits.fit, []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return fit(*arguments, **options)

    monkeypatch.setattr(fits, "fit", failing)
    with pytest.raises(MemoryError):
        stored.fit("7x7", family="jet1")
    assert stored.sql("SELECT * FROM fits ORDER BY ALL").fetchall() == before
    assert stored.verify().ok


def test_batches_make_no_difference(stored, monkeypatch):
    put(stored, "b", {"conv": np.concatenate([random_kernels(9), FLAT, random_kernels(9, seed=4)])})
    stored.fit("7x7", model="b", family=FEW)
    sql = "SELECT filter_id, family, reason, best FROM fits ORDER BY ALL"
    whole = stored.sql(sql).fetchall()
    monkeypatch.setattr("filterdb.fields.fitting._parts", lambda n, _: (slice(start, start + 4) for start in range(0, n, 4)))
    stored.fit("7x7", model="b", family=FEW, again=True)
    assert stored.sql(sql).fetchall() == whole
    check_whole(stored)


def test_a_kill_between_the_descriptors_and_the_model_shows_nothing(stored, monkeypatch):
    before = stored.sql("SELECT * FROM descriptors ORDER BY ALL").fetchall()
    commit = stored._models._commit
    monkeypatch.setattr(
        stored._models, "_commit", lambda delta, table, *rest: commit(delta, table, *rest) if table != "models" else 1 / 0
    )
    for name in ("a", "new"):
        with pytest.raises(ZeroDivisionError):
            put(stored, name, {"conv": random_kernels(7)})
    monkeypatch.undo()
    assert stored.models == ["a", "b", "dead"]
    assert stored.sql("SELECT * FROM descriptors ORDER BY ALL").fetchall() == before
    assert stored.verify().problems == []
    assert stored.verify(repair=True).ok
    assert stored.verify().ok
    assert stored.sql("SELECT * FROM descriptors ORDER BY ALL").fetchall() == before
    # The rows of the model that never came lie about until they are vacuumed.
    stored.vacuum()
    assert len(list((stored.path / "descriptors").glob("slug=*/*.parquet"))) == 3
    assert stored.sql("SELECT * FROM descriptors ORDER BY ALL").fetchall() == before


def test_a_model_that_is_refused_has_no_descriptors(stored):
    bad = random_kernels(3)
    bad[1, 2, 3] = np.nan
    with pytest.raises(SourceError, match="NaN"):
        put(stored, "bad", {"conv": bad})
    assert stored.sql("SELECT count(*) FROM descriptors").fetchall() == [(26,)]


def test_damaged_rows_are_found_taken_out_and_made_again(stored):
    stored.fit("7x7", family=FEW)
    for table, makes in [("fits", lambda: stored.fit("7x7", family=FEW)), ("descriptors", lambda: None)]:
        path = sorted((stored.path / table).glob("slug=*/*.parquet"))[0]
        path.write_bytes(path.read_bytes()[:-40])
        report = stored.verify()
        assert len(report.problems) == 1
        assert stored.verify(repair=True).ok
        makes()
        assert stored.verify().ok
    assert len(fitted(stored)) == 3
    assert stored.sql("SELECT count(*) FROM descriptors").fetchall() == [(26,)]


# -- descriptors -----------------------------------------------------------------------------------------------------------


def check_descriptors(db: Database) -> None:
    """The table is what ``filterdb.kernels.descriptors`` says of each kernel."""
    for size in [row[0] for row in db.sql("SELECT DISTINCT size FROM filters").fetchall()]:
        sql = "SELECT kernel, descriptors.* FROM filters JOIN descriptors USING (filter_id) WHERE filters.size = $s"
        rows = db.sql(sql, s=size).to_arrow_table().to_pylist()
        kernels = np.array([row["kernel"] for row in rows], np.float32).reshape(-1, *parse_size(size))
        assert len(rows) == db.sql("SELECT count(*) FROM filters WHERE size = $s", s=size).fetchall()[0][0]
        for name, values in descriptors.describe(kernels).items():
            for row, value in zip(rows, values.tolist(), strict=True):
                assert row[name] == value or row[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_descriptors_are_there_at_ingest_and_follow_the_kernels(stored):
    put(stored, "odd", {"even": random_kernels(3, 4, 4), "strip": random_kernels(3, 1, 5)})
    assert stored.sql("SELECT count(*), count(DISTINCT filter_id) FROM descriptors").fetchall() == [(32, 32)]
    check_descriptors(stored)
    version = stored.version
    put(stored, "a", {"conv": random_kernels(4, seed=8), "wide": random_kernels(2, 3, 9)})
    check_descriptors(stored)
    check_descriptors(Database(stored.path, as_of=version))
    assert stored.sql("SELECT count(*) FROM descriptors").fetchall() == [(20,)]
    stored.remove("a")
    check_descriptors(stored)
    assert stored.verify().ok


def test_no_number_of_the_table_is_nan(stored):
    put(stored, "odd", {"even": random_kernels(3, 4, 4), "strip": random_kernels(3, 1, 5), "tiny": 1e-30 * random_kernels(2)})
    put(stored, "vast", {"conv": np.array([np.add.outer(np.arange(7.0) ** 2, np.arange(7.0) ** 2)]) * 1e35})
    stored.fit("7x7")  # with coefficients beyond float32, which end at its largest number
    check_whole(stored)
    table = stored.sql("SELECT * FROM descriptors").to_arrow_table()
    for name in table.column_names:
        if str(table[name].type) == "float":
            assert np.isfinite(table[name].drop_null().to_numpy()).all(), name


def test_a_database_of_before_the_descriptors_is_brought_up_to_date(stored):
    before = stored.sql("SELECT * FROM descriptors ORDER BY ALL").fetchall()
    shutil.rmtree(stored.path / "descriptors")
    old = Database(stored.path)
    assert old.sql("SELECT count(*) FROM descriptors").fetchall() == [(0,)]
    report = old.verify()
    assert report.problems == []
    assert report.leftovers == ["3 models have no descriptors of today's rules (a, b, dead …)"]
    assert old.describe("a").bands  # what describes needs no table
    assert old.verify(repair=True).ok
    assert old.sql("SELECT * FROM descriptors ORDER BY ALL").fetchall() == before
    assert old.verify().leftovers == []
    assert old.describe_missing() == []
    # One model without them is done alone.
    path = next(path for path in (stored.path / "descriptors").glob("slug=*") if "_b_" in path.name)
    [file] = path.glob("*.parquet")
    assert pq.read_metadata(file).num_rows == 6


# -- slips of fit ----------------------------------------------------------------------------------------------------------


def test_slips_of_fit_are_one_line_and_change_nothing(stored):
    put(stored, "odd", {"even": random_kernels(3, 4, 4), "strip": random_kernels(3, 1, 5)})
    for change, words in [
        (lambda: stored.fit(), "there are 1x5, 3x3, 4x4, 7x7. Choose one with --size"),
        (lambda: stored.fit("9x9"), "No kernels of size 9x9"),
        (lambda: stored.fit("seven"), "is not a kernel size"),
        (lambda: stored.fit("7x7", model="bb"), 'Did you mean "b"?'),
        (lambda: stored.fit("7x7", model="odd"), "No kernels of size 7x7 in odd"),
        (lambda: stored.fit("7x7", family="gausian"), 'Did you mean "gaussian"'),
        (lambda: stored.fit("7x7", family=[]), "No family was named"),
        (lambda: stored.fit("3x3", family="jet2"), "9 parameters are too many for 9 taps (3x3)"),
        (lambda: stored.fit("4x4"), "an even size has no centre pixel (4x4)"),
        (lambda: stored.fit("1x5", family=FEW), "a strip has no second dimension to scale in (1x5)"),
    ]:
        with pytest.raises(FilterdbError) as caught:
            change()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert fitted(stored) == {}


def test_an_empty_database_says_what_to_do(db):
    for change in (lambda: db.fit(), lambda: db.fit("7x7")):
        with pytest.raises(StoreError, match="Ingest a model first"):
            change()
    with pytest.raises(NotFound, match='No model "net"'):
        db.describe("net")
    assert db.sql("SELECT count(*) FROM fits").fetchall() == [(0,)]
    assert db.describe(random_kernels(1)[0]).identity == {"size": "7x7"}


# -- describe --------------------------------------------------------------------------------------------------------------

EDGE = Jet(0.6, 0.9, {"dx": 1}).kernel(7)  # a ramp to the right: bright right
NAMED = "hf:org/net@main:weights.bin"
"""A model whose name has colons in it."""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Iterator[Database]:
    """A model of ordinary and odd layers, one with colons in its names and layers called 0, and one called like a glob."""
    db = Database(tmp_path_factory.mktemp("told") / "filters")
    put(
        db, "net",
        {
            "stages.0.dw": np.concatenate([EDGE[None], structured((7, 7), 11)[:3], FLAT, ZERO]),
            "small": members("gaussian", (3, 3), 3)[0], "even": random_kernels(2, 4, 4), "strip": random_kernels(2, 1, 5),
        },
        dataset="imagenet-1k", params=1000, top1=80.5,
    )  # fmt: skip
    put(db, NAMED, {"conv:0": np.concatenate([EDGE[None], ZERO]), "0": -EDGE[None]})
    put(db, "[a]*", {"[0]": EDGE[None]})
    put(db, "nothing", {"conv": np.zeros((2, 7, 7))})
    return db


def plain(found: FilterDescription | GroupDescription) -> dict:
    """What JSON makes of it, which has no NaN."""
    return json.loads(json.dumps(found.to_dict(), allow_nan=False))


def test_a_filter_by_id_by_name_and_as_numbers_is_the_same(told):
    by_name = told.describe("net:stages.0.dw:0")
    filter_id = by_name.identity["filter_id"]
    assert by_name.identity == {
        "filter_id": filter_id, "model": "net", "layer": "stages.0.dw", "channel": 0, "depth": 0, "depth_norm": 0.0,
        "dataset": "imagenet-1k", "size": "7x7",
    }  # fmt: skip
    expected = plain(by_name)
    for what in (filter_id, str(filter_id), np.int64(filter_id)):
        assert plain(told.describe(what)) == expected
    for what in (EDGE, EDGE.astype(np.float32), EDGE.astype(np.float32).tolist()):
        found = plain(told.describe(what))
        assert found.pop("identity") == {"size": "7x7"}
        assert found == {name: value for name, value in expected.items() if name != "identity"}


def test_what_is_said_of_a_derivative(told):
    found = told.describe("net:stages.0.dw:0")
    assert found.words["band"] == "differential"
    # an angle of float64 arithmetic on float32 weights: 0 up to a few units in the last place, which depend on the BLAS
    assert (found.words["derivative_order"], found.words["direction"]) == (1, pytest.approx(0, abs=1e-6))
    for words in ("differential", "first derivative along 0°", "best model: first derivative of a Gaussian", "sigma 0.60 x 0.90"):
        assert words in found.sentence
    assert {"mean", "norm", "total", "dc_ratio", "centroid", "separable_energy"} <= set(found.numbers)
    assert set(found.words) | set(found.numbers) == {*descriptors.COLUMNS, "mean", "norm", "total"}
    assert found.fits[0]["family"] == "first_derivative"
    assert {row["family"] for row in found.fits} == {*fits.FAMILIES}
    assert [row["best"] for row in found.fits] == [True] + [False] * (ALL - 1)
    assert [row["bic"] for row in found.fits] == sorted(row["bic"] for row in found.fits)
    assert found.fits[0]["terms"] == ["derivative"]
    assert found.nearest[0]["template"] == "5_dx"  # of greedy8, its own shape up to sign and scale
    similarity = [abs(row["similarity"]) for row in found.nearest]
    assert similarity == sorted(similarity, reverse=True)
    np.testing.assert_allclose(found.model, EDGE, atol=1e-3)
    np.testing.assert_array_equal(found.kernel, EDGE.astype(np.float32))
    assert found.reason is None


@pytest.mark.parametrize(
    ("name", "sentence", "reason", "has_fits", "has_nearest"),
    [
        ("net:stages.0.dw:4", "lowpass", "there is no pattern to fit", False, False),
        ("net:stages.0.dw:5", "nothing: all weights are zero", "no template is nearest; constant: there is no", False, False),
        ("net:small:0", "best model: ", None, True, True),
        ("net:even:1", "(confidence", "an even size has no centre pixel (4x4)", False, False),
        ("net:strip:0", "(confidence", "a strip has no second dimension to scale in (1x5)", False, False),
        ("nothing:conv:1", "nothing: all weights are zero", "constant", False, False),
    ],
)
def test_kernels_that_lack_something_say_why(told, name, sentence, reason, has_fits, has_nearest):
    found = told.describe(name)
    assert sentence in found.sentence
    assert (reason or "") in (found.reason or "")
    assert (found.reason is None) == (reason is None)
    assert (found.fits != [], found.model is not None, found.nearest != []) == (has_fits, has_fits, has_nearest)
    assert "\n" not in found.sentence + (found.reason or "")
    assert "nan" not in json.dumps(plain(found)).lower()
    if "zero" in sentence:
        assert all(value is None for name, value in found.words.items())


def test_arrays_that_are_in_no_database(told):
    for kernel in (
        random_kernels(1, 4, 6)[0],
        random_kernels(1, 1, 9)[0],
        random_kernels(1, 9, 9)[0],
        np.ones((3, 3)),
        np.eye(2),
    ):
        found = told.describe(kernel)
        assert found.identity == {"size": size_name(*kernel.shape)}
        plain(found)
    for kernel in (np.full((3, 3), np.nan), np.ones(3), np.ones((2, 2, 3, 3)), np.array([[np.inf, 0], [0, 0]])):
        with pytest.raises(InvalidArgument, match="2-D or 3-D array of finite numbers"):
            told.describe(kernel)


def test_names_with_colons_and_layers_called_0(told):
    assert told.describe(NAMED).identity["model"] == NAMED
    for layer, channels in [("conv:0", 2), ("0", 1)]:
        found = told.describe(f"{NAMED}:{layer}")
        assert isinstance(found, GroupDescription)
        assert (found.identity["layer"], found.identity["out_channels"]) == (layer, channels)
        one = told.describe(f"{NAMED}:{layer}:0")
        assert isinstance(one, FilterDescription)
        assert (one.identity["model"], one.identity["layer"], one.identity["channel"]) == (NAMED, layer, 0)
    assert len(told.similar(f"{NAMED}:0:0", 2).fetchall()) == 2
    assert told.describe("[a]*").identity["model"] == "[a]*"
    assert told.describe("[a]*:[0]").sentence.startswith("1 filters of 7x7: 100 % differential")
    assert told.describe("[a]*:[0]:0").identity["layer"] == "[0]"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nett", 'No model "nett". Did you mean "net"?'),
        ("nett:stages.0.dw", 'No model "nett". Did you mean "net"?'),
        ("nett:stages.0.dw:1", 'No model "nett". Did you mean "net"?'),
        ("net:stages.0.dv", 'No layer "stages.0.dv". Did you mean "stages.0.dw"?'),
        ("net:smal:1", 'Did you mean "small"?'),
        ("net:7", 'No layer "7".'),
        ("net:", 'No layer "".'),
        (f"{NAMED}:conv:1", 'No layer "conv:1". Did you mean "conv:0"?'),
        ("net:small:99", 'No filter "net:small:99"'),
        ("net:small:-1", "No layer"),
        ("", 'No model "".'),
        (":", 'No model ":".'),
        ("12345", 'No filter "12345"'),
        (12345, 'No filter "12345"'),
        (10**30, "No filter"),
    ],
)
def test_unknown_names_are_one_line_with_near_misses(told, what, words):
    with pytest.raises(NotFound) as caught:
        told.describe(what)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layer_in_shares(told):
    found = told.describe("net:stages.0.dw")
    assert isinstance(found, GroupDescription)
    assert (found.identity["model"], found.identity["size"], found.identity["out_channels"]) == ("net", "7x7", 6)
    assert sum(row["filters"] for row in found.bands) == 6
    assert sum(row["percent"] for row in found.bands) == pytest.approx(100, abs=0.1)
    assert {row["band"]: row["filters"] for row in found.bands}["(zero)"] == 1
    assert found.sentence.startswith("6 filters of 7x7: ")
    assert {"derivative_order": 1, "direction": 0.0, "filters": 1} in found.orders
    assert sum(row["filters"] for row in found.families) == 4  # the dead have none
    assert sum(row["filters"] for row in found.nearest) == 4
    assert found.reason is None
    words = told.sql(
        "SELECT band, count(*) FROM descriptors JOIN filters USING (filter_id) WHERE layer = 'stages.0.dw' GROUP BY ALL"
    ).fetchall()
    assert {row["band"]: row["filters"] for row in found.bands} == {band or "(zero)": n for band, n in words}
    mean = told.sql("SELECT avg(centroid) FROM descriptors JOIN filters USING (filter_id) WHERE layer = 'stages.0.dw'")
    assert found.numbers["centroid"] == pytest.approx(mean.fetchall()[0][0], rel=1e-5)


def test_layers_that_cannot_be_fitted_say_why(told):
    for name, reason in [("even", "even size"), ("strip", "a strip has no second dimension")]:
        found = told.describe(f"net:{name}")
        assert found.families == []
        assert reason in found.reason
        plain(found)
    found = told.describe("nothing:conv")
    assert "all filters are constant" in found.reason
    assert found.bands == [{"band": "(zero)", "filters": 2, "percent": 100.0, "mean_confidence": 0.0}]
    plain(found)


def test_a_model_layer_by_layer(told):
    found = told.describe("net")
    assert found.identity["sizes"] == {"7x7": 6, "3x3": 3, "4x4": 2, "1x5": 2}
    assert (found.identity["dataset"], found.identity["params"], found.identity["top1"]) == ("imagenet-1k", 1000, 80.5)
    assert [*dict.fromkeys((row["depth"], row["layer"]) for row in found.bands)] == [
        (0, "stages.0.dw"), (1, "small"), (2, "even"), (3, "strip"),
    ]  # fmt: skip
    assert sum(row["filters"] for row in found.bands) == 13
    assert found.sentence.startswith("13 filters in 4 layers: ")
    assert sum(row["filters"] for row in found.nearest) == 4 + 3  # 7x7 and 3x3, but for the dead
    assert "even size 4x4" in found.reason
    plain(found)


def test_a_model_has_families_once_it_was_fitted(db):
    put(db, "net", {"conv": np.concatenate([EDGE[None], ZERO]), "even": random_kernels(2, 4, 4)})
    put(db, "even", {"conv": random_kernels(2, 4, 4)})
    assert 'no fits yet: filterdb fit --size 7x7 --model "net"' in db.describe("net").reason
    db.fit("7x7", family=["gaussian", "first_derivative"])
    found = db.describe("net")
    assert [(row["family"], row["filters"], row["percent"]) for row in found.families] == [("first_derivative", 1, 100.0)]
    assert "no fits yet" not in found.reason
    assert "no family can be fitted to its kernels" in db.describe("even").reason


def test_other_banks_and_none(told):
    found = told.describe("net:stages.0.dw:0", bank=None)
    assert found.nearest == []
    assert found.reason is None
    mine = Bank(name="mine", names=["edge", "blob"], templates=[-2 * EDGE + 1, Jet(1, 1, {"T": 1}).kernel(7)], labels=["E", "B"])
    [first, second] = told.describe("net:stages.0.dw:0", bank=mine).nearest
    assert (first["template"], first["label"], first["similarity"]) == ("edge", "E", pytest.approx(-1, abs=1e-6))
    assert abs(second["similarity"]) < 1e-6
    # A bank of numbers alone has no other size: said, not raised.
    found = told.describe("net:small:0", bank=mine)
    assert found.nearest == []
    assert "mine" in found.reason
    assert found.fits
    assert "mine" in told.describe("net", bank=mine).reason
    with pytest.raises((NotFound, BankError), match='Did you mean "greedy8"'):
        told.describe("net:small:0", bank="gredy8")


# -- the command line ------------------------------------------------------------------------------------------------------


def test_describe_on_the_command_line(told, tmp_path):
    said = run("describe", "net:stages.0.dw:0", "--picture", tmp_path / "edge.png", db=told.path)
    for words in (
        "net:stages.0.dw:0 (filter_id ", "7x7 kernel of layer 0 (0.00 of the way), trained on imagenet-1k",
        "differential, first derivative along 0°", "kernel", "model", "what is left", "percent of the largest weight",
        "dc_ratio", "nearest templates", "5_dx", "first_derivative", f"wrote {tmp_path / 'edge.png'}",
    ):  # fmt: skip
        assert words in said, words
    grid = [line.split() for line in said.splitlines() if len(line.split()) == 21]
    assert len(grid) == 7
    weights = np.array(grid, int)
    np.testing.assert_array_equal(weights[:, :7], np.round(100 * EDGE / np.abs(EDGE).max()))
    np.testing.assert_array_equal(weights[:, 14:], 0)
    picture = (tmp_path / "edge.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture[-8:-4] == b"IEND"
    assert len(picture) > 10_000


def test_describe_as_json(told, here):
    found = json.loads(here("describe", f"{NAMED}:conv:0:0", "--json", db=told.path), parse_constant=pytest.fail)
    assert found["identity"]["model"] == NAMED
    assert np.shape(found["kernel"]) == np.shape(found["model"]) == (7, 7)
    assert len(found["fits"]) == ALL
    zero = json.loads(here("describe", "nothing", "--json", db=told.path), parse_constant=pytest.fail)
    assert zero["sentence"] == "2 filters in 1 layers: 100 % (zero)"
    assert all(value is None for value in zero["numbers"].values())
    assert "nothing: all weights are zero" in here("describe", "nothing:conv:0", db=told.path)


def test_groups_on_the_command_line(told, tmp_path, here):
    said = here("describe", "net", "--picture", tmp_path / "net.svg", db=told.path)
    for words in ("13 filters in 4 layers", "words, percent of each layer's filters", "stages.0.dw", "means:", "no description:"):
        assert words in said, words
    assert (tmp_path / "net.svg").read_text().startswith("<?xml")
    said = here("describe", "net:stages.0.dw", db=told.path)
    for words in ("6 filters of 7x7", "words:", "derivatives among", "best models:", "first_derivative"):
        assert words in said, words


def test_slips_on_the_command_line(told, tmp_path, here):
    error = here("describe", "net:stages.0.dv:3", code=1, db=told.path)
    assert error.startswith('filterdb: No layer "stages.0.dv:3". Did you mean "stages.0.dw"?')
    for name in ("edge.gif", "edge"):
        error = here("describe", "net:stages.0.dw:0", "--picture", tmp_path / name, code=1, db=told.path)
        assert error == f"filterdb: A picture is a file with one of the endings .png, .svg, .pdf, got {name}.\n"
    for words in (["fit"], ["describe", "net"]):
        assert "There is no database at" in here(*words, code=1, db=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    error = here("fit", "--size", "3x3", "--family", "jet2", code=1, db=told.path)
    assert error.startswith('filterdb: The family "jet2" has no meaning here: 9 parameters are too many for 9 taps')


def test_fit_on_the_command_line(stored, tmp_path, here):
    put(stored, "[b]", {"conv": random_kernels(3, seed=7)})
    flags = ["--size", "7", "--family", "gaussian", "--family", "impulse"]
    assert "The first 20 rows" in here("fit", *flags, db=stored.path)
    assert fitted(stored) == {
        ("a", "7x7"): {"gaussian", "impulse", "(dead)"}, ("b", "7x7"): {"gaussian", "impulse"}, ("dead", "7x7"): {"(dead)"},
        ("[b]", "7x7"): {"gaussian", "impulse"},
    }  # fmt: skip
    rows = json.loads(here("fit", *flags, "--model", "b", "--json", db=stored.path), parse_constant=pytest.fail)
    assert len(rows) == 12
    assert rows[0].keys() == {"model", "layer", "channel", *FITS.names}
    here("fit", *flags, "--out", tmp_path / "fits.parquet", db=stored.path)
    assert pq.read_metadata(tmp_path / "fits.parquet").num_rows == 20 * 2 + 4
    summary = json.loads(here("fit", *flags, "--summary", "--json", db=stored.path))
    assert summary == stored.query("families", size="7x7").to_arrow_table().to_pylist()
    assert sum(row["filters"] for row in summary) == 20
    some = json.loads(here("fit", *flags, "--summary", "--json", "--model", "b", "--model", "[b]", db=stored.path))
    assert sum(row["filters"] for row in some) == 9
    assert sum(row["percent"] for row in some) == pytest.approx(100, abs=0.02)


def test_bank_fit_on_the_command_line(db, here):
    templates = [published.template("dx+", (5, 5), 0.5, 0.6), published.template("sharpening", (5, 5), 0.5, 0.5, 0.5)]
    db.import_bank(Bank(name="mine", names=["a", "b"], templates=templates))
    flags = ["--method", "B", "--method", "D2", "--json"]
    rows = json.loads(here("bank", "fit", "mine", "--forms", "dx+, sharpening", *flags, db=db.path))
    assert [(row["template"], row["method"]) for row in rows] == [("a", "B"), ("a", "D2"), ("b", "D2")]
    assert (rows[0]["sigma_x"], rows[0]["sigma_y"]) == pytest.approx((0.5, 0.6), abs=1e-5)
    error = here("bank", "fit", "mine", "--forms", "dx+", code=1, db=db.path)
    assert error == "filterdb: 2 kernels need as many forms, got 1: dx+.\n"


@pytest.mark.parametrize("arguments", [["fit", "--size", "7x7", "extra"], ["bank", "fit", "greedy8"], ["fit", "--families", "x"]])
def test_wrong_usage_is_exit_code_2(tmp_path, here, arguments):
    here(*arguments, code=2, db=tmp_path / "filters")
    assert list(tmp_path.iterdir()) == []
