"""Similar kernels: the index against brute force up to ties, kept as models come and go."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import put, random_kernels

from filterdb import Database
from filterdb.errors import InvalidArgument, NotFound
from filterdb.search import index


def correlations(db: Database, kernel: np.ndarray) -> dict[int, float]:
    """Pearson correlation with every kernel of the database, by numpy.corrcoef."""
    rows = db.sql("SELECT filter_id, kernel FROM filters WHERE size = $s AND NOT dead", s="x".join(map(str, kernel.shape)))
    return {i: float(np.corrcoef(kernel.ravel(), other)[0, 1]) for i, other in rows.fetchall()}


def check(db: Database, query, kernel: np.ndarray, own: int | None, *, k: int = 10, signed: bool = True, **options) -> None:
    """The answer is a best k up to ties: every score is right, and no kernel left out is better than the last one."""
    truth = {i: rho for i, rho in correlations(db, kernel).items() if i != own}
    rows = db.similar(query, k, signed=signed, **options).fetchall()
    score = (lambda rho: rho) if signed else abs
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row[1] for row in rows}) == len(rows) == min(k, len(truth))
    for _, filter_id, _, _, _, similarity in rows:
        assert similarity == pytest.approx(truth[filter_id], abs=1e-5)
    kept = [score(truth[row[1]]) for row in rows]
    assert kept == sorted(kept, reverse=True) or np.allclose(kept, sorted(kept, reverse=True), atol=1e-5)
    left = [score(rho) for i, rho in truth.items() if i not in {row[1] for row in rows}]
    assert max(left, default=-2) <= min(kept) + 1e-5


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_the_best_k_up_to_ties(db, signed, exact):
    kernels = random_kernels(60, 3, 3)
    put(db, "a", {"conv": np.concatenate([kernels, kernels[:5], -kernels[:7]]), "flat": np.ones((2, 3, 3))})
    put(db, "b", {"conv": random_kernels(40, 3, 3, seed=1), "big": random_kernels(9)})
    first = db.sql("SELECT filter_id FROM filters WHERE model = 'a' AND layer = 'conv' AND channel = 3").fetchall()[0][0]
    for query, own in ((first, first), (str(first), first), ("a:conv:3", first), (kernels[3], None)):
        check(db, query, kernels[3], own, signed=signed, exact=exact)
    check(db, random_kernels(1, 3, 3, seed=9)[0], random_kernels(1, 3, 3, seed=9)[0], None, k=500, signed=signed, exact=exact)


def test_the_index_follows_the_database(db):
    query = random_kernels(1, 5, 5, seed=99)[0]
    for step in range(4):
        put(db, f"net{step % 3}", {"conv": random_kernels(30 + step, 5, 5, seed=step)})
        check(db, query, query, None)
    db.remove("net1")
    check(db, query, query, None)
    assert {row[2] for row in db.similar(query, 100).fetchall()} == {"net0", "net2"}
    # Another process, or the same one tomorrow, finds the index on disk.
    files = list((db.path / "index" / "5x5").glob("*.faiss"))
    assert len(files) == 1
    check(Database(db.path), query, query, None)
    assert list((db.path / "index" / "5x5").glob("*.faiss")) == files


def test_a_new_model_extends_the_index_without_building_it_again(db, monkeypatch):
    put(db, "a", {"conv": random_kernels(50, 5, 5)})
    query = random_kernels(1, 5, 5, seed=99)[0]
    check(db, query, query, None)
    monkeypatch.setattr(index.KernelIndex, "_build", lambda *_: pytest.fail("built again"))
    put(db, "b", {"conv": random_kernels(50, 5, 5, seed=1)})
    check(db, query, query, None)


def test_a_damaged_index_is_rebuilt(db):
    put(db, "a", {"conv": random_kernels(50, 5, 5)})
    query = random_kernels(1, 5, 5, seed=99)[0]
    check(db, query, query, None)
    next((db.path / "index" / "5x5").glob("*.faiss")).write_bytes(b"nonsense")
    check(Database(db.path), query, query, None)
    (db.path / "index" / "5x5" / "index.json").write_text("{")
    check(Database(db.path), query, query, None)


def test_above_the_flat_limit_recall_is_measured_against_brute_force(db, monkeypatch):
    monkeypatch.setattr(index, "FLAT_LIMIT", 2000)
    rng = np.random.default_rng(0)
    shapes = rng.standard_normal((12, 25))
    kernels = (
        (shapes[rng.integers(12, size=12_000)] + 0.4 * rng.standard_normal((12_000, 25))).astype(np.float32).reshape(-1, 5, 5)
    )
    put(db, "a", {"conv": kernels[:5000]})
    db.similar(kernels[0], exact=False)
    assert not db._index(db._view(), 5, 5).exact
    put(db, "b", {"conv": kernels[5000:]})  # more than doubled: trained again
    found = db._index(db._view(), 5, 5)
    assert len(found) == 12_000
    assert found._stamp.trained_on == 12_000
    hits = 0
    for i in range(0, 12_000, 240):
        truth = {row[1]: row[5] for row in db.similar(kernels[i], 10, exact=True).fetchall()}
        answer = db.similar(kernels[i], 10).fetchall()
        hits += sum(row[5] >= min(truth.values()) - 1e-6 for row in answer)
    assert hits / (10 * 50) >= 0.99


@pytest.mark.parametrize("limit", [200_000, 100])
def test_the_index_knows_the_direction_of_each_filter(db, monkeypatch, limit):
    """A filter's neighbours are found without reading it, also after the index was extended and read again."""
    monkeypatch.setattr(index, "FLAT_LIMIT", limit)
    put(db, "a", {"conv": random_kernels(900, 3, 3), "flat": np.ones((2, 3, 3))})
    put(db, "b", {"conv": random_kernels(50, 5, 5)})
    for added in (None, "c", "d"):
        if added:
            put(db, added, {"conv": random_kernels(100, 3, 3, seed=ord(added))})
        for opened in (db, Database(db.path)):
            found = opened._index(opened._view(), 3, 3)
            for name in ("a:conv:5", f"{added or 'a'}:conv:7"):
                kernel, filter_id = opened._view().kernel(name)
                centred = kernel.ravel() - kernel.mean()
                assert found.direction(filter_id) == pytest.approx(centred / np.linalg.norm(centred), abs=1e-6)
                assert opened.similar(filter_id, 3).fetchall() == opened.similar(name, 3).fetchall()
    flat = db._view().filter("a:flat:0")
    assert found.direction(flat.filter_id) is None
    with pytest.raises(InvalidArgument, match="constant"):
        db.similar(flat.filter_id)


def test_a_kernel_is_read_from_its_own_row_group(db):
    big, small = random_kernels(9000, 3, 3), random_kernels(30, 5, 5)
    put(db, "a", {"first": small, "second": big})
    put(db, "b", {"first": big[:4]})
    for layer, channel, kernel in [
        ("first", 29, small[29]),
        ("second", 0, big[0]),
        ("second", 4096, big[4096]),
        ("second", 8999, big[-1]),
    ]:
        found, filter_id = db._view().kernel(f"a:{layer}:{channel}")
        assert np.array_equal(found, kernel)
        assert np.array_equal(db._view().kernel(filter_id)[0], kernel)
    for missing in ("a:second:9000", filter_id + 1, 7):
        with pytest.raises(NotFound, match="No filter"):
            db._view().kernel(missing)


def test_only_some_models_or_an_old_version(db):
    put(db, "a", {"conv": random_kernels(20)})
    version = db.version
    put(db, "b", {"conv": random_kernels(20, seed=1)})
    query = random_kernels(1, seed=5)[0]
    assert {row[2] for row in db.similar(query, 50, model="b").fetchall()} == {"b"}
    assert {row[2] for row in Database(db.path, as_of=version).similar(query, 50).fetchall()} == {"a"}
    with pytest.raises(InvalidArgument, match="search exactly"):
        db.similar(query, model="b", exact=False)


def test_bad_queries(db):
    put(db, "a", {"conv": random_kernels(5), "flat": np.ones((1, 7, 7))})
    for query, words in [
        (12345, 'No filter "12345"'), ("a:conv:99", 'No filter "a:conv:99"'), ("nett:conv:0", 'No model "nett"'),
        (random_kernels(1, 3, 3)[0], "No kernels of size 3x3"),
    ]:  # fmt: skip
        with pytest.raises(NotFound, match=words):
            db.similar(query)
    for query, words in [
        ("a-conv-0", "MODEL:LAYER:CHANNEL"), ("a:flat:0", "constant"), (np.ones((7, 7)), "constant"),
        (np.ones(49), "2-D"), (np.full((7, 7), np.nan), "finite"),
    ]:  # fmt: skip
        with pytest.raises(InvalidArgument, match=words):
            db.similar(query)
    with pytest.raises(InvalidArgument, match="at least 1"):
        db.similar("a:conv:0", k=0)
