"""``db.kernels``: the very bytes that were ingested, with their ids, as NumPy and as torch."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import put, random_kernels

from filterdb import Database
from filterdb.errors import FilterdbError, InvalidArgument, NotFound

A, B, SMALL = random_kernels(6), random_kernels(4, seed=1), random_kernels(5, 3, 3)


@pytest.fixture
def filled(db: Database) -> Database:
    put(db, "a", {"first": A, "small": SMALL})
    put(db, "b", {"second": B})
    return db


def test_kernels_are_what_was_ingested(filled: Database) -> None:
    found = filled.kernels(size="7x7")
    assert (found.shape, found.dtype, isinstance(found, np.ndarray)) == ((10, 7, 7), np.float32, True)
    np.testing.assert_array_equal(found, np.concatenate([A, B]))
    ids = [row[0] for row in filled.sql("SELECT filter_id FROM filters WHERE size = '7x7' ORDER BY model, channel").fetchall()]
    assert found.ids.tolist() == ids
    np.testing.assert_array_equal(filled.kernels("a", size=7), A)
    np.testing.assert_array_equal(filled.kernels(model="a", layer="s*"), SMALL)
    np.testing.assert_array_equal(filled.kernels(["b"]), B)
    np.testing.assert_array_equal(filled.kernels(size=7, limit=8), np.concatenate([A, B])[:8])


def test_a_tensor_shares_the_memory(filled: Database) -> None:
    found = filled.kernels("b")
    tensor = found.torch()
    tensor[0, 0, 0] = 5
    assert found[0, 0, 0] == 5
    assert tuple(tensor.shape) == (4, 7, 7)


def test_rows_keep_their_ids_and_results_have_none(filled: Database) -> None:
    found = filled.kernels("a", size=7)
    for rows in (slice(1, 4), [3, 0], np.array([True, False] * 3), slice(None, None, -1)):
        assert found[rows].ids.tolist() == found.ids[rows].tolist()
    assert found[2:, 1:3].ids.tolist() == found.ids[2:].tolist()
    assert (found[0].ids if hasattr(found[0], "ids") else None) is None
    assert (found - found.mean((1, 2), keepdims=True)).ids is None
    assert np.flip(found, 0).ids.tolist() == found.ids[::-1].tolist()


def test_a_query_chooses_and_orders(filled: Database) -> None:
    sql = "SELECT filter_id FROM filters WHERE size = '7x7' ORDER BY norm DESC"
    found = filled.kernels(sql=sql + ";", limit=3)
    norms = np.linalg.norm(np.concatenate([A, B]).reshape(10, -1), axis=1)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(found).reshape(3, -1), axis=1), np.sort(norms)[::-1][:3], rtol=1e-6)
    assert found.ids.tolist() == [row[0] for row in filled.sql(sql).fetchall()[:3]]
    assert filled.kernels(sql="SELECT filter_id FROM filters -- all", size="3x3").shape == (5, 3, 3)


def test_slips(filled: Database, tmp_path) -> None:
    for given, kind, message in (
        ({}, InvalidArgument, "3x3, 7x7. Choose one with size"),
        ({"model": "c"}, NotFound, 'No model "c"'),
        ({"model": "a", "size": 5}, FilterdbError, "5x5"),
        ({"model": "b", "size": 3}, FilterdbError, "3x3"),
        ({"limit": 0}, InvalidArgument, "at least one"),
        ({"sql": "SELECT 1 AS x"}, InvalidArgument, "needs a column filter_id"),
        ({"sql": "SELECT filter_id FROM filters"}, InvalidArgument, "Choose one with size"),
        ({"sql": "SELECT 1::BIGINT AS filter_id"}, NotFound, "chooses no filter"),
        ({"sql": "SELECT filter_id FROM filters", "model": "a"}, InvalidArgument, "leave model and layer out"),
    ):
        with pytest.raises(kind, match=message):
            filled.kernels(**given)
    with pytest.raises(FilterdbError):
        Database(tmp_path / "nowhere").kernels()


def test_a_database_shows_itself_in_a_notebook(filled: Database) -> None:
    page = filled._repr_html_()
    assert "15 filters of 2 models" in page
    assert "<td>a</td><td></td><td>2</td><td>11</td><td>3x3, 7x7</td>" in page
