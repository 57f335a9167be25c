"""Named queries, each against a database small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import put

from filterdb import named_queries
from filterdb.errors import InvalidArgument, NotFound


def kernel(*taps: float) -> np.ndarray:
    """A 3x3 kernel from nine taps."""
    return np.array(taps, np.float32).reshape(1, 3, 3)


IDENTITY = kernel(0, 0, 0, 0, 2, 0, 0, 0, 0)  # norm 2, total 2
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
        (0, "first", "3x3", 2, 3.75, 5.5, 7.25, 100.0),
        (1, "second", "3x3", 1, 0.0, 0.0, 0.0, 0.0),
        (2, "third", "1x2", 1, 7.0, 7.0, 7.0, 100.0),
    ],
    ("shared_kernels",): [("alpha", "beta", 1)],
    ("datasets",): [("imagenet-1k", "3x3", 1, 3, 33.33), ("imagenet-1k", "1x2", 1, 1, 0.0), ("unknown", "3x3", 1, 1, 0.0)],
}  # fmt: skip


@pytest.mark.parametrize("asked", EXPECTED, ids=lambda asked: " ".join(map(str, asked)))
def test_answers_worked_out_by_hand(small, asked):
    name, *parameters = asked
    rows = small.query(name, **dict(parameters)).fetchall()
    assert [tuple(row) for row in rows] == EXPECTED[asked]


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


def test_every_query_is_documented_and_worked_out():
    worked = {asked[0] for asked in EXPECTED} | {"duplicates", "extremes"}
    assert worked == set(named_queries.names())
    assert len(worked) >= 8
    for name in named_queries.names():
        question = named_queries.load(name)
        assert question.title.endswith((".", "?"))
        assert all(parameter.help for parameter in question.parameters)


def test_every_query_runs_on_an_empty_database(db):
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
