"""Banks made out of a database: what they are made of, that they say so, and what is refused."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from conftest import put, random_kernels
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from filterdb import Database, banks
from filterdb.banks import Bank
from filterdb.cli.app import app
from filterdb.clusters import lines, read
from filterdb.clusters.autoencoder import decode
from filterdb.errors import BankError, InvalidArgument, NotFound
from filterdb.fields import fits
from filterdb.frozen import make_bank
from filterdb.kernels import centred_unit


def unit(kernels: np.ndarray) -> np.ndarray:
    return centred_unit(kernels.reshape(len(kernels), -1)).unit.astype(np.float32)


# k-means up to sign


def explained(points: np.ndarray, groups: list[list[int]]) -> float:
    """The mean of cos² with the best direction of each group: its largest eigenvalues."""
    return sum(np.linalg.eigvalsh(points[group].T @ points[group])[-1] for group in groups) / len(points)


def test_k_means_finds_the_best_of_all_partitions_of_a_few_kernels() -> None:
    points = unit(random_kernels(8, 3, 3)).astype(np.float64)
    best = max(
        explained(points, [list(some), [i for i in range(8) if i not in some]])
        for size in range(1, 5)
        for some in combinations(range(8), size)
    )
    found = max(lines.train(points.astype(np.float32), 2, seed).explained for seed in range(4))
    assert found == pytest.approx(best, abs=1e-6)


@example(4, 4, 10)  # in these three, a centre is as close to its kernels as to their inverses, but for rounding
@example(53, 3, 6)
@example(646, 2, 6)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(6, 40))
def test_the_answer_of_k_means_hangs_together(seed: int, count: int, n: int) -> None:
    points = unit(random_kernels(n, 3, 3, seed))
    found = lines.train(points, count, seed)
    cosine = np.abs(points @ found.centres.T)
    np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(cosine[np.arange(n), found.cluster], cosine.max(axis=1), atol=1e-5)
    assert found.explained == pytest.approx(float((cosine.max(axis=1) ** 2).mean()), abs=1e-5)
    sizes = np.bincount(found.cluster, minlength=count)
    assert (np.diff(sizes) <= 0).all()
    for j, medoid in enumerate(found.medoids):
        own = points[found.cluster == j]
        assert found.cluster[medoid] == j
        assert ((own @ points[medoid]) ** 2).sum() == pytest.approx(float(((own @ own.T) ** 2).sum(axis=1).max()), rel=1e-4)
        # a float32 inner product of two unit vectors of n taps is off by at most n roundings, and these are len(own) of them
        assert (own @ found.centres[j]).sum() >= -len(own) * points.shape[1] * np.finfo(np.float32).eps


def test_k_means_does_not_see_signs_and_finds_clusters_that_are_there() -> None:
    shapes = unit(banks.load("greedy8").templates)[[0, 4, 5, 6]]
    rng = np.random.default_rng(0)
    noisy = shapes.repeat(50, 0) + 0.03 * rng.standard_normal((200, 49)).astype(np.float32)
    flipped = unit(noisy) * rng.choice([-1, 1], 200)[:, None].astype(np.float32)
    found = lines.train(flipped, 4)
    assert [len(set(found.cluster[i : i + 50])) for i in range(0, 200, 50)] == [1] * 4
    assert len(set(found.cluster)) == 4
    assert np.abs(found.centres @ shapes.T).max(axis=1).min() > 0.99


def test_as_many_centres_as_kernels_explain_everything_even_with_copies() -> None:
    points = unit(random_kernels(5, 3, 3))
    assert lines.train(points, 5).explained == pytest.approx(1)
    twice = np.concatenate([points, points])
    assert lines.train(twice, 10).explained == pytest.approx(1)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, 6])
def test_k_means_refuses_counts_that_cannot_be(count: object) -> None:
    with pytest.raises(InvalidArgument, match=r"whole number|as many distinct kernels"):
        lines.train(unit(random_kernels(5, 3, 3)), count)  # type: ignore[arg-type]


# out of a database


@pytest.fixture
def filled(db: Database) -> Database:
    """Two models; one has copies and a dead kernel."""
    kernels = random_kernels(40, 7, 7)
    put(db, "a", {"one": kernels, "small": random_kernels(6, 3, 3)})
    put(db, "b", {"two": np.concatenate([kernels[:5] * 2, np.ones((1, 7, 7), np.float32), random_kernels(20, 7, 7, 1)])})
    return db


def test_medoids_are_real_kernels_and_say_whose(filled: Database) -> None:
    made = filled.create_bank("mine", kmeans=make_bank.KMeans(5, seed=3), size="7x7")
    assert [made.size, len(made)] == ["7x7", 5]
    for template, label in zip(made.templates, made.labels, strict=True):
        place = label.split(",")[0].split(":")
        sql = "SELECT kernel FROM filters WHERE model = $m AND layer = $l AND channel = $c"
        [(kernel,)] = filled.sql(sql, m=place[0], l=place[1], c=int(place[2])).fetchall()
        assert np.array_equal(np.array(kernel, np.float32), template.ravel())
    # 40 and 20 living kernels of their own: the copies times two count once
    assert "5 medoids" in made.made_by
    assert "60 distinct 7x7 kernels of 2 models (a, b), seed 3" in made.made_by
    assert f"version {filled.version} of the database" in made.made_by
    assert filled.bank("mine").made_by == made.made_by
    again = filled.create_bank("other", kmeans=make_bank.KMeans(5, seed=3), size="7x7")
    assert np.array_equal(again.templates, made.templates)
    [(rows,)] = filled.sql("SELECT count(*) FROM banks WHERE bank IN ('mine', 'other')").fetchall()
    assert rows == 2
    rows = filled.nearest("mine", size="7x7").to_arrow_table()
    assert rows.num_rows == 66
    assert set(rows["template"].to_pylist()) - {None} == set(made.names)


def test_centres_keep_more_energy_than_medoids_and_than_fewer(filled: Database) -> None:
    def energy(bank: Bank) -> float:
        table = filled.nearest(bank).filter("NOT dead").to_arrow_table()
        return float(np.mean(table["similarity"].to_numpy() ** 2))

    centres = filled.create_bank("centres", kmeans=make_bank.KMeans(5, centres=True), size=7)
    medoids = filled.create_bank("medoids", kmeans=5, size=7)
    assert energy(centres) > energy(medoids)
    assert energy(centres) > energy(filled.create_bank("fewer", kmeans=make_bank.KMeans(2, centres=True), size=7))
    assert len(filled.create_bank("one", kmeans=1, model="a", size="3x3")) == 1


def test_uniform_codes_are_decoded_and_named_by_the_classifier(filled: Database) -> None:
    classifier = filled.import_classifier("small-nets-7x7")
    for count in (10, 25, 50, 100, 1):
        made = filled.create_bank(f"codes{count}", classifier="small-nets-7x7", count=count)
        codes = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
        np.testing.assert_array_equal(made.templates.reshape(count, -1), decode(classifier.weights, codes))
        assert len(set(made.names)) == count
        assert set(made.labels) <= set(classifier.classes)
    assert '1 codes at equal distances from 0 to 1 of the autoencoder classifier "small-nets-7x7"' in made.made_by
    assert "ICLR 2024" in made.citation


def test_a_k_means_classifier_gives_its_centres(filled: Database) -> None:
    made = filled.import_classifier("small-nets-7x7")
    centres = unit(random_kernels(4, 7, 7))
    from dataclasses import replace

    from filterdb.clusters.labels import Stretch

    stretches = [Stretch("other", i, i + 1, 0.0, 0.0) for i in range(4)]
    filled.import_classifier(replace(made, name="km", method="kmeans", stretches=stretches, weights={"centres": centres}))
    np.testing.assert_allclose(filled.create_bank("km4", classifier="km").templates.reshape(4, -1), centres, atol=1e-6)
    with pytest.raises(InvalidArgument, match="k-means with 4 centres"):
        filled.create_bank("km5", classifier="km", count=5)


def test_a_query_makes_a_bank(filled: Database) -> None:
    sql = "SELECT kernel, 'k' || channel AS name, layer AS label FROM filters WHERE model = 'a' AND size = '3x3' ORDER BY channel"
    made = filled.create_bank("chosen", sql=sql)
    assert (made.names, made.labels, made.size) == ([f"k{i}" for i in range(6)], ["small"] * 6, "3x3")
    assert np.array_equal(made.templates, random_kernels(6, 3, 3))
    assert sql in made.made_by
    places = filled.create_bank(
        "places", sql="SELECT model, layer, channel, kernel FROM filters WHERE size = '3x3' LIMIT 2"
    ).names
    assert places == ["a:small:0", "a:small:1"]
    strip = filled.create_bank("strip", sql="SELECT [1.0, 2, 3, 5] AS kernel", size="1x4")
    assert (strip.size, strip.names) == ("1x4", ["1"])


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1 AS a", "no column kernel"),
        ("SELECT kernel FROM filters WHERE false", "no rows"),
        ("SELECT kernel FROM filters", "9, 49 taps"),
        ("SELECT [1.0, 2, 3] AS kernel", "3 taps, which are not a square"),
        ("SELECT NULL::FLOAT[] AS kernel", "Row 1 of the query has no kernel"),
        ("SELECT [1.0, NULL, 2, 3] AS kernel", "Row 1 of the query has no kernel"),
        ("SELECT [1.0, 1, 1, 1] AS kernel", "constant"),
        ("SELECT kernel, 'x' AS name FROM filters WHERE size = '3x3'", "given twice"),
    ],
)
def test_a_query_that_is_no_bank_is_told_in_one_line(filled: Database, sql: str, message: str) -> None:
    with pytest.raises(BankError, match=message) as error:
        filled.create_bank("chosen", sql=sql)
    assert "\n" not in str(error.value)
    assert "chosen" not in filled.banks()


def test_a_bank_at_another_size_by_its_formula_or_cropped(filled: Database) -> None:
    made = filled.create_bank("small8", bank="greedy8", size=5)
    np.testing.assert_array_equal(made.templates, banks.load("greedy8", size=5).templates)
    numbers = random_kernels(3, 7, 7)
    numbers[2, 2:5, 2:5] = 1
    filled.import_bank(Bank("numbers", ["a", "b", "c"], numbers))
    cut = filled.create_bank("cut", bank="numbers", size="3x3")
    np.testing.assert_array_equal(cut.templates, numbers[:2, 2:5, 2:5])  # the third is constant in its middle
    assert 'the centre crop to 3x3 of the bank "numbers"' in cut.made_by
    for size in ("6x6", "9x9", "7x6"):
        with pytest.raises(BankError, match="no centre crop"):
            filled.create_bank("cut", bank="numbers", size=size)


def test_idealised_templates_are_the_best_fits_of_the_table(filled: Database) -> None:
    made = filled.create_bank("ideal", bank="greedy8", idealise=True)
    rho = np.einsum("ij,ij->i", made.unit, banks.load("greedy8").unit)
    assert (rho > 0.9).all()
    for value, label in zip(rho, made.labels, strict=True):
        assert float(label.rpartition("rho ")[2]) == pytest.approx(value, abs=1e-3)
    only = filled.create_bank("gauss", bank="greedy8", idealise="gaussian")
    assert all("Gaussian" in label for label in only.labels)
    [found] = fits.fit(banks.load("greedy8").templates, ["gaussian"])
    np.testing.assert_allclose(np.abs(np.einsum("ij,ij->i", only.unit, banks.load("greedy8").unit)), found.rho, atol=1e-3)


def test_the_way_must_be_one_and_its_options_its_own(filled: Database) -> None:
    for wrong, message in (
        ({}, "made of one thing"),
        ({"kmeans": 3, "sql": "SELECT 1"}, "kmeans and sql"),
        ({"kmeans": 3, "count": 4}, "count has no meaning"),
        ({"bank": "greedy8", "model": "a"}, "model has no meaning"),
        ({"kmeans": 3}, "Kernels of one size at a time"),
        ({"kmeans": 0, "size": 7}, "whole number"),
        ({"kmeans": 61, "size": 7}, "as many distinct kernels"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            filled.create_bank("x", **wrong)  # type: ignore[arg-type]
    for wrong in (
        {"classifier": "nobody", "count": 3},
        {"bank": "nobody"},
        {"kmeans": 2, "size": 9},
        {"kmeans": 2, "model": "c", "size": 7},
    ):
        with pytest.raises(NotFound):
            filled.create_bank("x", **wrong)  # type: ignore[arg-type]
    with pytest.raises(BankError, match="ships with filterdb"):
        filled.create_bank("greedy8", kmeans=2, size=7)
    filled.import_classifier("small-nets-7x7")
    with pytest.raises(InvalidArgument, match="number of codes is missing"):
        filled.create_bank("x", classifier="small-nets-7x7")


def test_the_maker_of_a_selection_needs_no_database() -> None:
    table = pa.table({"kernel": [[1.0, 2.0, 3.0, 4.0]], "template": ["ramp"]})
    made = make_bank.selection("x", table, "SELECT …", -1)
    assert (made.names, made.size) == (["ramp"], "2x2")
    assert made.made_by.endswith("a database without models")
    assert read("small-nets-7x7").size == "7x7"


def test_bank_create_on_the_command_line(filled: Database) -> None:
    run = CliRunner()
    place = ["--db", filled.place.uri]
    done = run.invoke(app, ["bank", "create", "cli", "--kmeans", "3", "--size", "7x7", "--json", *place])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["templates"] == 3
    done = run.invoke(
        app, ["bank", "create", "piped", "--sql", "-", *place], input="SELECT kernel FROM filters WHERE size = '3x3'"
    )
    assert "made piped: 6 templates of 3x3" in done.stdout
    done = run.invoke(app, ["bank", "list", *place])
    assert "3 medoids of spherical k-means" in done.stdout
