"""Named queries, each against a database small enough to work out by hand."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from conftest import put
from made import CENTRE, IDENTITY, RIGHT, UP, kernel, told_by, unit

from filterdb import Database
from filterdb.errors import InvalidArgument, NotFound
from filterdb.kernels.scale_space import Jet, cross
from filterdb.store import named_queries

EDGE = kernel(1, 0, -1, 1, 0, -1, 1, 0, -1)  # norm sqrt(6), total 0
BOX = kernel(*[1] * 9)  # dead, norm 3, total 9
STRIP = np.array([[[3.0, 4.0]]])  # 1x2, norm 5, total 7


@pytest.fixture
def small(db):
    """Two models: alpha (first: identity, box; last: edge, 1x2 strip), beta (one edge)."""
    put(
        db, "alpha", {"first": np.concatenate([IDENTITY, BOX]), "second": EDGE, "third": STRIP},
        dataset="imagenet-1k", params=1000, top1=80.5,
    )  # fmt: skip
    put(db, "beta", {"only": EDGE})
    return db


EXPECTED = {
    ("sizes",): [("3x3", 4, 3, 2, 80.0), ("1x2", 1, 1, 1, 20.0)],
    ("models",): [("alpha", "imagenet-1k", 3, 4, 1, 1000, 80.5, 2.9), ("beta", None, 1, 1, 0, None, None, None)],
    ("layers", ("model", "alpha")): [
        (0, "first", None, "3x3", 1, 1, 2, "depthwise", 1, 2.5, 5.5),
        (1, "second", None, "3x3", 1, 1, 1, "depthwise", 0, 2.4495, 0.0),
        (2, "third", None, "1x2", 1, 1, 1, "depthwise", 0, 5.0, 7.0),
    ],
    ("dead",): [("alpha", "first", "3x3", 1, 2, 50.0)],
    # beta's only layer is at relative depth 0, alpha's are at 0, .5 and 1. DC ratios: identity 1, box 1, edges 0.
    ("depth", ("size", "3x3")): [(0.0, 3, 2, 2.4832, 0.6667, 33.33), (0.5, 1, 1, 2.4495, 0.0, 0.0)],
    ("depth", ("size", "1x2")): [(0.9, 1, 1, 5.0, 1.0, 0.0)],
    ("centre", ("size", "3x3")): [("alpha", 3, 0.3704, 33.33), ("beta", 1, 0.0, 0.0)],
    ("total", ("model", "alpha")): [
        (0, "first", "3x3", 2, 3.75, 5.5, 7.25, 100.0, 2.35, 8.65),
        (1, "second", "3x3", 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (2, "third", "1x2", 1, 7.0, 7.0, 7.0, 100.0, 7.0, 7.0),
    ],
    ("shared_kernels",): [("alpha", "beta", 1)],
    # The 1x2 strip and the box smooth, the edges look left (their positive side), with all rules met in full.
    ("bands",): [
        ("(unknown)", "differential", 2, 40.0, 1.0),
        ("(unknown)", "lowpass", 2, 40.0, 1.0),
        ("(unknown)", "identity", 1, 20.0, 1.0),
    ],
    ("bands", ("by", "model"), ("models", "b*")): [("beta", "differential", 1, 100.0, 1.0)],
    ("bands", ("by", "stride"), ("models", "beta")): [("1", "differential", 1, 100.0, 1.0)],
    ("band_depth", ("size", "3x3")): [
        (0.0, "differential", 1, 33.33), (0.0, "identity", 1, 33.33), (0.0, "lowpass", 1, 33.33), (0.5, "differential", 1, 100.0),
    ],
    ("directions",): [(1, 180.0, 2, 100.0)],
    ("datasets",): [("imagenet-1k", "3x3", 1, 3, 33.33), ("imagenet-1k", "1x2", 1, 1, 0.0), ("unknown", "3x3", 1, 1, 0.0)],
}  # fmt: skip


@pytest.mark.parametrize("asked", EXPECTED, ids=lambda asked: " ".join(map(str, asked)))
def test_answers_worked_out_by_hand(small, asked):
    name, *parameters = asked
    rows = small.query(name, **dict(parameters)).fetchall()
    assert [tuple(row) for row in rows] == EXPECTED[asked]


CROSS = unit(cross(3, 3, 0.5))
ASKEW = 0.8 * CENTRE + 0.6 * RIGHT  # a centre, but .2 away from it
SQUARE = np.pad(np.ones((1, 3, 3)), ((0, 0), (1, 1), (1, 1)))
DOT = np.pad(IDENTITY, ((0, 0), (1, 1), (1, 1)))


THREE = told_by("three", 0.15, {"on_centre": CENTRE, "on_cross": CROSS, "dx_plus": RIGHT, "dx_minus": -RIGHT, "dy_plus": UP})
FIVE = told_by("five", 0.15, {"on_square": SQUARE, "off_square": -SQUARE, "on_centre": DOT})


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """Two models and a training run of two steps, classified by a classifier of 3x3 and one of 5x5 kernels."""
    db = Database(tmp_path_factory.mktemp("classified") / "filters")
    put(
        db, "net",
        {
            "first": np.concatenate([IDENTITY, ASKEW + 0.5, BOX, CROSS + 0.1 / 9]),  # totals 2, 4.5, 9, .1
            "second": np.concatenate([RIGHT, -RIGHT, UP]),  # totals 0
            "third": np.concatenate([SQUARE, -SQUARE, DOT]),
        },
        dataset="imagenet-1k", params=1000, top1=80.5,
    )  # fmt: skip
    put(db, "plain", {"only": IDENTITY, "more": DOT})
    put(db, "toy@1", {"conv": np.concatenate([ASKEW - 0.5, BOX])}, run="toy", step=1)  # totals -4.5, 9
    put(db, "toy@20", {"conv": np.concatenate([3 * IDENTITY, RIGHT])}, run="toy", step=20)  # totals 6, 0
    for classifier in (THREE, FIVE):
        db.import_classifier(classifier)
        db.classify(classifier.name)
    return db


BY_THREE = ("classifier", "three")
DERIVATIVES, CENTRES = ("merge", "derivatives"), ("merge", "centres")
CLASSES_EXPECTED = {
    ("clustered", BY_THREE): [
        ("plain", None, 1, 100.0, 1.0, None, None),
        ("toy@20", None, 2, 100.0, 1.0, None, None),
        ("net", "imagenet-1k", 7, 71.43, 1.0, 1000, 80.5),  # all but the askew and the dead one
        ("toy@1", None, 2, 0.0, None, None, None),
    ],
    ("clustered", ("classifier", "five")): [
        ("net", "imagenet-1k", 3, 100.0, 1.0, 1000, 80.5),
        ("plain", None, 1, 100.0, 1.0, None, None),
    ],
    ("class_layers", BY_THREE, ("model", "net")): [
        (0, "first", "(dead)", 1, 25.0), (0, "first", "on_centre", 1, 25.0), (0, "first", "on_cross", 1, 25.0),
        (0, "first", "other", 1, 25.0),
        (1, "second", "dx_minus", 1, 33.33), (1, "second", "dx_plus", 1, 33.33), (1, "second", "dy_plus", 1, 33.33),
    ],
    ("class_layers", BY_THREE, ("model", "net"), DERIVATIVES): [
        (0, "first", "(dead)", 1, 25.0), (0, "first", "on_centre", 1, 25.0), (0, "first", "on_cross", 1, 25.0),
        (0, "first", "other", 1, 25.0),
        (1, "second", "first_derivative", 3, 100.0),
    ],
    ("class_layers", BY_THREE, ("model", "net"), CENTRES): [
        (0, "first", "on_centre", 2, 50.0), (0, "first", "(dead)", 1, 25.0), (0, "first", "other", 1, 25.0),
        (1, "second", "dx_minus", 1, 33.33), (1, "second", "dx_plus", 1, 33.33), (1, "second", "dy_plus", 1, 33.33),
    ],
    ("class_models", BY_THREE, DERIVATIVES): [
        ("net", "first_derivative", 3, 42.86), ("net", "(dead)", 1, 14.29), ("net", "on_centre", 1, 14.29),
        ("net", "on_cross", 1, 14.29), ("net", "other", 1, 14.29),
        ("plain", "on_centre", 1, 100.0),
        ("toy@1", "(dead)", 1, 50.0), ("toy@1", "other", 1, 50.0),
        ("toy@20", "first_derivative", 1, 50.0), ("toy@20", "on_centre", 1, 50.0),
    ],
    ("class_models", BY_THREE, ("models", "[np]*"), CENTRES): [
        ("net", "on_centre", 2, 28.57), ("net", "(dead)", 1, 14.29), ("net", "dx_minus", 1, 14.29),
        ("net", "dx_plus", 1, 14.29), ("net", "dy_plus", 1, 14.29), ("net", "other", 1, 14.29),
        ("plain", "on_centre", 1, 100.0),
    ],
    ("class_models", BY_THREE, ("models", "toy@20")): [("toy@20", "dx_plus", 1, 50.0), ("toy@20", "on_centre", 1, 50.0)],
    ("class_steps", BY_THREE, ("run", "toy")): [
        (1, "(dead)", 1, 50.0, None), (1, "other", 1, 50.0, 0.8),
        (20, "dx_plus", 1, 50.0, 1.0), (20, "on_centre", 1, 50.0, 1.0),
    ],
    ("class_steps", BY_THREE, ("run", "toy"), DERIVATIVES): [
        (1, "(dead)", 1, 50.0, None), (1, "other", 1, 50.0, 0.8),
        (20, "first_derivative", 1, 50.0, 1.0), (20, "on_centre", 1, 50.0, 1.0),
    ],
    ("class_totals", BY_THREE): [
        ("on_centre", 3, 2.0, 2.0, 4.0, 100.0, 2.0, 5.6),  # 2, 2 and 6
        ("(dead)", 2, 9.0, 9.0, 9.0, 100.0, 9.0, 9.0),
        ("dx_plus", 2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        ("other", 2, -2.25, 0.0, 2.25, 50.0, -4.05, 4.05),  # -4.5 and 4.5
        ("dx_minus", 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), ("dy_plus", 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        ("on_cross", 1, 0.1, 0.1, 0.1, 100.0, 0.1, 0.1),
    ],
    ("class_totals", BY_THREE, ("models", "toy*")): [
        ("(dead)", 1, 9.0, 9.0, 9.0, 100.0, 9.0, 9.0), ("dx_plus", 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        ("on_centre", 1, 6.0, 6.0, 6.0, 100.0, 6.0, 6.0),
        ("other", 1, -4.5, -4.5, -4.5, 0.0, -4.5, -4.5),
    ],
    ("squares", ("classifier", "five")): [("net", "third", 1.0, 1, 3, 1, 1, 66.67)],
    ("squares", BY_THREE): [],
    ("template_scores", BY_THREE): [
        ("on_centre", 5, 0.92, 1.0, 60.0),  # three centres and two askew
        ("dx_plus", 2, 1.0, 1.0, 100.0), ("dx_minus", 1, 1.0, 1.0, 100.0), ("dy_plus", 1, 1.0, 1.0, 100.0),
        ("on_cross", 1, 1.0, 1.0, 100.0),
    ],
    ("template_scores", BY_THREE, ("models", "toy@1")): [("on_centre", 1, 0.8, 0.8, 0.0)],
}  # fmt: skip


@pytest.mark.parametrize("asked", CLASSES_EXPECTED, ids=lambda asked: " ".join(map(str, asked)))
def test_answers_about_classes_worked_out_by_hand(classified, asked):
    name, *parameters = asked
    rows = classified.query(name, **dict(parameters)).fetchall()
    assert [tuple(row) for row in rows] == CLASSES_EXPECTED[asked]


def test_the_classes_of_classifiers_do_not_mix(classified):
    classified.import_classifier(told_by("again", 2.0, {"a person's own": CENTRE}))
    classified.classify("again")
    for asked in (("clustered", BY_THREE), ("class_totals", BY_THREE), ("template_scores", BY_THREE)):
        name, *parameters = asked
        assert classified.query(name, **dict(parameters)).fetchall() == CLASSES_EXPECTED[asked]
    assert classified.query("template_scores", classifier="again").fetchall() == []
    with pytest.raises(NotFound, match='Did you mean "three"'):
        classified.query("clustered", classifier="thre")
    with pytest.raises(InvalidArgument, match="needs classifier: add --classifier"):
        classified.query("clustered")


SLOPE = Jet(0.7, 0.9, {"dx": 1}).kernel(5)[None]
CORNERS = np.zeros((1, 5, 5))  # a saddle: at right angles to the centre and to all that is even along x or y
CORNERS[0, ::4, ::4] = [[1, -1], [-1, 1]]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """5x5 kernels fitted by impulse and first derivative, a 3x3 impulse by a Gaussian, whose scale is then at its bound."""
    db = Database(tmp_path_factory.mktemp("fitted") / "filters")
    mixed = 0.8 * unit(DOT) + 0.6 * unit(CORNERS)  # correlates .8 with the impulse
    put(db, "net", {"first": np.concatenate([DOT, 1 - 2 * DOT, mixed, np.ones((1, 5, 5))]), "second": SLOPE})
    put(db, "more", {"only": np.concatenate([-3 * SLOPE, 4 * SLOPE + 1]), "small": IDENTITY})
    db.fit("5x5", family=["impulse", "first_derivative"])
    db.fit("3x3", family="gaussian")
    return db


FITS_EXPECTED = {
    # of net: the dead box counts nowhere; correlations 1, 1 and .8
    ("families", ("size", "5x5")): [
        ("first_derivative", 3, 50.0, 1.0, 1.0, 100.0, 0.0), ("impulse", 3, 50.0, 0.9333, 1.0, 66.67, 0.0),
    ],
    ("families", ("size", "5x5"), ("models", "n*")): [
        ("impulse", 3, 75.0, 0.9333, 1.0, 66.67, 0.0), ("first_derivative", 1, 25.0, 1.0, 1.0, 100.0, 0.0),
    ],
    ("families", ("models", "more")): [
        ("first_derivative", 2, 66.67, 1.0, 1.0, 100.0, 0.0), ("gaussian", 1, 33.33, 1.0, 1.0, 100.0, 100.0),
    ],
    ("families", ("size", "3x3"), ("models", "net")): [],
}  # fmt: skip


@pytest.mark.parametrize("asked", FITS_EXPECTED, ids=lambda asked: " ".join(map(str, asked)))
def test_answers_about_fits_worked_out_by_hand(fitted, asked):
    name, *parameters = asked
    rows = fitted.query(name, **dict(parameters)).fetchall()
    assert [tuple(row) for row in rows] == FITS_EXPECTED[asked]


def test_duplicates(small):
    rows = small.query("duplicates", size="3x3").fetchall()
    ids = [i for (i,) in small.sql("SELECT filter_id FROM filters WHERE layer IN ('second', 'only')").fetchall()]
    assert rows == [(2, 2, min(ids), "alpha", 2.4495)]
    assert small.query("duplicates", size="3x3", least=3).fetchall() == []


def test_extremes(small):
    rows = small.query("extremes", size="3x3", count=2).fetchall()
    assert rows[0][1:] == ("alpha", "first", 1, 3.0, 9.0)
    assert len(rows) == 2
    assert rows[1][4] == 2.4495


def test_evaluations(db):
    def keep(run_id: str, model: str, data: str, kind: str = "evaluate", **numbers: float) -> None:
        row = {"run_id": run_id, "kind": kind, "model": model, "data": data, "images": 500, "part": "1/2"}
        made = {"bank": "greedy8", "mode": "replaced"} if "agreement" in numbers else {}
        db._runs.put(row | made, [{"metric": name, "value": value} for name, value in numbers.items()])

    keep("b", "net", "photos", top1=0.706, top5=0.9, loss=1.23456)
    keep("a", "small", "photos", top1=0.05612, top5=0.2, loss=6.0, agreement=0.07, kl=3.14159)
    keep("c", "small", "drawings", agreement=0.5, kl=1.0)
    keep("d", "net", "photos", kind="train", top1=0.9)
    # kept before there were standard errors: these come from top1 and the number of images
    drawings = ("small", "greedy8", "replaced", "drawings", None, "1/2", 500, None, None, None, None, None, None, 50.0, 1.0, "c")
    net = ("net", None, None, "photos", None, "1/2", 500, 70.6, 2.04, 90.0, None, None, 1.2346, None, None, "b")
    small = ("small", "greedy8", "replaced", "photos", None, "1/2", 500, 5.61, 1.03, 20.0, None, None, 6.0, 7.0, 3.1416, "a")
    assert db.query("evaluations").fetchall() == [drawings, net, small]
    assert db.query("evaluations", models="s*", data="photos").fetchall() == [small]


def test_bands_are_told_by_what_there_is(small):
    with pytest.raises(duckdb.Error, match="by is task, model"):
        small.query("bands", by="colour").fetchall()


def test_every_query_is_documented_and_worked_out():
    worked = {asked[0] for asked in [*EXPECTED, *CLASSES_EXPECTED, *FITS_EXPECTED]} | {"duplicates", "extremes", "evaluations"}
    assert worked == set(named_queries.names())
    assert len(worked) >= 8
    for name in named_queries.names():
        question = named_queries.load(name)
        assert question.title.endswith((".", "?"))
        assert all(parameter.help for parameter in question.parameters)


def test_every_query_runs_on_an_empty_database(db):
    db.import_classifier(told_by("x", 0.3, {"on_centre": CENTRE}))
    for name in named_queries.names():
        given = {p.name: p.default or "x" for p in named_queries.load(name).parameters}
        assert db.query(name, **given).fetchall() == []


def test_slips(small):
    with pytest.raises(NotFound, match=r'No query "size".*Did you mean "sizes"'):
        small.query("size")
    with pytest.raises(NotFound, match='No parameter of the query sizes "foo"'):
        small.query("sizes", foo=1)
    with pytest.raises(InvalidArgument, match=r"needs model: add --model"):
        small.query("layers")
