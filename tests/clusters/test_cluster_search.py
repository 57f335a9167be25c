"""The nearest code: what a search through all of them finds, up to ties, for any prototypes and any kernels."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from filterdb.clusters.search import CodeSearch

TIE = 2e-6
"""Two inner products of float32 unit vectors that are this close count as equal."""
D = 48


def on_sphere(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def directions(n: int, seed: int = 0, d: int = D) -> np.ndarray:
    """Unit vectors without order."""
    return on_sphere(np.random.default_rng(seed).standard_normal((n, d)))


def curve(n: int, bends: int = 6, seed: int = 0, d: int = D) -> np.ndarray:
    """Unit vectors along a smooth closed curve: a random Fourier series."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, n)[:, None] * np.arange(1, bends + 1)
    return on_sphere(np.cos(angle) @ rng.standard_normal((bends, d)) + np.sin(angle) @ rng.standard_normal((bends, d)))


def queries(points: np.ndarray, seed: int = 1) -> np.ndarray:
    """Near the prototypes and far from them: some of them, their antipodes, halfway to the next, with noise, and anywhere."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(points), size=150)
    there, following = points[chosen], points[(chosen + 1) % len(points)]
    some = np.concatenate([there, -there, on_sphere(there + following + 1e-3 * directions(150, seed + 1))])
    noisy = [on_sphere(there + size * rng.standard_normal(there.shape)) for size in (1e-4, 0.01, 0.1)]
    anywhere = directions(150, seed + 2)
    across = anywhere - np.einsum("ij,ij->i", anywhere, there)[:, None] * there  # orthogonal to one of them
    return np.concatenate([some, *noisy, anywhere, on_sphere(across)])


def check(points: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """What is found is as near as anything, and the similarity said is its own. Returns the index."""
    index, similarity = CodeSearch(points).nearest(unit)
    assert index.shape == similarity.shape == (len(unit),)
    assert np.issubdtype(index.dtype, np.integer)
    assert len(unit) == 0 or 0 <= index.min() <= index.max() < len(points)
    best, own = np.empty(len(unit)), np.empty(len(unit))
    for start in range(0, len(unit), 4096):  # every product, in float64
        part = slice(start, start + 4096)
        products = unit[part].astype(np.float64) @ points.astype(np.float64).T
        best[part] = products.max(axis=1)
        own[part] = products[np.arange(len(products)), index[part]]
    np.testing.assert_array_less(best - own, TIE)
    np.testing.assert_allclose(similarity, own, atol=TIE)
    return index


PROTOTYPES = {
    "a smooth curve": curve(3000),
    "a curve that turns sharply": curve(3000, bends=60),
    "a curve that jumps": np.concatenate([curve(700, seed=1), curve(600, seed=2), curve(1, seed=3), curve(900, seed=4)]),
    "a curve that stands still and runs twice": np.concatenate([np.repeat(curve(300)[:1], 500, axis=0), curve(300), curve(300)]),
    "no curve": directions(1500),
    "one kernel many times": np.repeat(directions(1), 400, axis=0),
    "each kernel many times": np.repeat(directions(40), 50, axis=0),
    "all near one kernel": on_sphere(directions(1) + 1e-3 * directions(2000, seed=5)),
    "a kernel and its negative": np.concatenate([directions(1), -directions(1)]),
    "two kernels": directions(2),
    "three kernels": directions(3),
    "one kernel": directions(1),
}


@pytest.mark.parametrize("name", PROTOTYPES)
def test_as_near_as_brute_force_up_to_ties(name):
    points = PROTOTYPES[name]
    check(points, queries(points))
    check(points[::-1].copy(), queries(points, seed=7))


@pytest.mark.parametrize("d", [2, 8, 24])
def test_any_number_of_taps(d):
    points = curve(2000, bends=4, d=d)
    rng = np.random.default_rng(3)
    check(points, np.concatenate([points[::20], -points[::20], on_sphere(rng.standard_normal((500, d)))]))


@pytest.mark.parametrize("name", ["a smooth curve", "no curve"])
def test_as_near_as_a_flat_faiss_index_up_to_ties(name):
    points = PROTOTYPES[name]
    unit = queries(points)
    flat = faiss.IndexFlatIP(D)
    flat.add(points)
    theirs, place = flat.search(unit, 1)
    index, similarity = CodeSearch(points).nearest(unit)
    np.testing.assert_allclose(similarity, theirs[:, 0], atol=TIE)
    other = index != place[:, 0]
    products = np.einsum("ij,ij->i", unit.astype(np.float64), points[place[:, 0]].astype(np.float64))
    ours = np.einsum("ij,ij->i", unit.astype(np.float64), points[index].astype(np.float64))
    np.testing.assert_allclose(ours[other], products[other], atol=TIE)


def test_a_prototype_finds_itself_or_its_equal():
    points = curve(3000)
    index = check(points, points)
    np.testing.assert_allclose(np.einsum("ij,ij->i", points[index], points), 1, atol=TIE)
    index = check(directions(500), directions(500))
    assert index.tolist() == list(range(500))


def test_more_kernels_than_are_worked_on_at_a_time():
    points = curve(60, bends=2, d=5)
    rng = np.random.default_rng(8)
    check(points, on_sphere(np.concatenate([rng.standard_normal((300_000, 5)), points + 0.05 * rng.standard_normal((60, 5))])))


def test_dead_kernels_and_no_kernels_do_no_harm():
    for name in ("a smooth curve", "no curve", "two kernels", "one kernel"):
        points = PROTOTYPES[name]
        unit = queries(points)[:60]
        unit[::3] = 0
        check(points, unit)
        check(points, np.zeros((5, D), np.float32))
        check(points, np.zeros((0, D), np.float32))


def test_the_answer_does_not_depend_on_the_other_kernels():
    points = curve(3000)
    unit = queries(points)
    search = CodeSearch(points)
    index, similarity = search.nearest(unit)
    backwards, _ = search.nearest(unit[::-1].copy())
    best = (unit.astype(np.float64) @ points.astype(np.float64).T).max(axis=1)
    for other in (index, backwards[::-1], np.concatenate([search.nearest(one[None])[0] for one in unit[:50]])):
        found = np.einsum("ij,ij->i", unit[: len(other)].astype(np.float64), points[other].astype(np.float64))
        np.testing.assert_array_less(best[: len(other)] - found, TIE)
    again, same = search.nearest(unit)
    np.testing.assert_array_equal(again, index)
    np.testing.assert_array_equal(same, similarity)
