"""Nearest template: least squares by brute force, invariances, dead kernels, and every kernel of real checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import put, random_kernels
from hypothesis import given
from hypothesis import strategies as st
from real import data

from filterdb import Bank, Database
from filterdb.errors import BankError, NotFound, StoreError
from filterdb.search.nearest import match

REAL = ["mcunet-320kb-1mb_imagenet.pth", "proxyless-w0.3-r176_imagenet.pth", "fastvit_food101_192.onnx"]


def lstsq_residuals(kernels: np.ndarray, bank: Bank) -> tuple[np.ndarray, np.ndarray]:
    """Residual (n, m) and gain (n, m) of each kernel on each template, by numpy.linalg.lstsq in float64."""
    f = kernels.reshape(len(kernels), -1).astype(np.float64)
    residuals, gains = [], []
    for template in bank.templates.reshape(len(bank), -1).astype(np.float64):
        design = np.stack([template, np.ones_like(template)], axis=1)
        solution, *_ = np.linalg.lstsq(design, f.T)
        residuals.append(np.linalg.norm(f.T - design @ solution, axis=0))
        gains.append(solution[0])
    return np.array(residuals).T, np.array(gains).T


def check_against_lstsq(kernels: np.ndarray, bank: Bank) -> None:
    """Sign-free search leaves the least residual of all templates, with lstsq's gain; ties may fall either way."""
    found = match(kernels.reshape(len(kernels), -1), bank)
    residuals, gains = lstsq_residuals(kernels, bank)
    alive = ~found["dead"]
    n = np.arange(len(kernels))[alive]
    chosen, scale = found["template"][alive], np.linalg.norm(kernels.reshape(len(kernels), -1), axis=1)[alive]
    least = residuals[alive].min(axis=1)
    np.testing.assert_array_less(residuals[n, chosen], least + 1e-5 * scale)
    # sqrt(1 - rho^2) loses half of float32's digits where rho is near 1.
    np.testing.assert_allclose(found["residual"][alive] / scale, least / scale, atol=1e-3)
    np.testing.assert_allclose(found["gain"][alive], gains[n, chosen], rtol=1e-3, atol=1e-4 * scale.max())
    f = kernels.reshape(len(kernels), -1)[alive]
    g = bank.templates.reshape(len(bank), -1)[chosen]
    rebuilt = found["gain"][alive, None] * g + found["offset"][alive, None]
    np.testing.assert_allclose(np.linalg.norm(f - rebuilt, axis=1) / scale, least / scale, atol=1e-4)


@pytest.mark.parametrize("name", REAL)
def test_nearest_agrees_with_lstsq_on_every_kernel_of_a_real_checkpoint(tmp_path, name):
    file = data() / "weights" / name
    db = Database(tmp_path / "db")
    assert db.ingest(file)[0].status == "ingested"
    for (size,) in db.sql("SELECT DISTINCT size FROM layers ORDER BY size").fetchall():
        bank = db.bank("greedy8", size=size)
        rows = db.sql("SELECT filter_id, kernel FROM filters WHERE size = $size", size=size).to_arrow_table()
        kernels = np.array(rows["kernel"].to_pylist(), np.float32).reshape(-1, bank.kernel_h, bank.kernel_w)
        check_against_lstsq(kernels, bank)
        answer = db.nearest(bank="greedy8", size=size).df().set_index("filter_id").loc[rows["filter_id"].to_pylist()]
        found = match(kernels.reshape(len(kernels), -1), bank)
        assert answer["template"].tolist() == [bank.names[i] for i in found["template"]]
        np.testing.assert_allclose(answer["similarity"], found["similarity"], atol=1e-6)


@pytest.mark.parametrize("size", ["7x7", "5x5", "3x3"])
@pytest.mark.parametrize("bank", ["greedy8", "dog", "random"])
def test_nearest_agrees_with_lstsq_on_random_kernels(db, bank, size):
    chosen = db.bank(bank, size=size)
    check_against_lstsq(random_kernels(300, chosen.kernel_h, chosen.kernel_w), chosen)


@given(st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 1000))
def test_gain_and_offset_of_the_kernel_leave_the_template_unchanged(a, b, seed):
    bank = Bank(name="b", names=[f"t{i}" for i in range(5)], templates=random_kernels(5, 5, 5, seed=seed))
    f = random_kernels(20, 5, 5, seed=seed + 1).reshape(20, -1)
    plain, moved, turned = (match(k.astype(np.float32), bank) for k in (f, a * f + b, -a * f + b))
    firm = plain["margin"] > 1e-3
    for other, sign in ((moved, 1), (turned, -1)):
        assert (plain["template"] == other["template"])[firm].all()
        np.testing.assert_allclose(other["similarity"][firm], sign * plain["similarity"][firm], atol=1e-3)
        np.testing.assert_allclose(other["gain"][firm], sign * a * plain["gain"][firm], rtol=2e-2, atol=1e-3 * a)


def test_templates_find_themselves_and_signed_search_refuses_the_inverse(db):
    bank = db.bank("greedy8")
    put(db, "net", {"plus": bank.templates, "minus": -3 * bank.templates + 1, "flat": np.full((2, 7, 7), 0.25)})
    free = db.nearest(bank=bank).df()
    for layer, sign in (("plus", 1), ("minus", -1)):
        rows = free[free.layer == layer].sort_values("channel")
        assert rows.template.tolist() == bank.names
        np.testing.assert_allclose(rows.similarity, sign, atol=1e-5)
        np.testing.assert_allclose(rows.residual, 0, atol=5e-3)
    signed = db.nearest(bank=bank, signed=True).df()
    assert signed[signed.layer == "plus"].sort_values("channel").template.tolist() == bank.names
    minus = signed[signed.layer == "minus"].sort_values("channel")
    assert all(template != name for template, name in zip(minus.template, bank.names, strict=True))
    assert (minus.gain >= 0).all()

    flat = free[free.layer == "flat"]
    assert flat.dead.all()
    assert flat.template.isna().all()
    assert flat.similarity.isna().all()
    assert flat.gain.tolist() == [0, 0]
    assert flat.offset.tolist() == pytest.approx([0.25, 0.25])


def test_runner_up_and_margin_are_those_of_a_sort(db):
    bank = db.bank("dog")
    kernels = random_kernels(200)
    for signed in (False, True):
        found = match(kernels.reshape(200, -1), bank, signed=signed)
        rho = np.array([[np.corrcoef(k.ravel(), t.ravel())[0, 1] for t in bank.templates] for k in kernels])
        score = rho if signed else np.abs(rho)
        order = np.sort(score, axis=1)[:, ::-1]
        np.testing.assert_allclose(found["margin"], order[:, 0] - order[:, 1], atol=1e-5)
        rows = np.arange(200)
        np.testing.assert_allclose(score[rows, found["template"]], order[:, 0], atol=1e-5)
        np.testing.assert_allclose(score[rows, found["runner_up"]], order[:, 1], atol=1e-5)
        assert (found["template"] != found["runner_up"]).all()


def test_a_bank_of_one_has_no_runner_up(db):
    put(db, "net", {"conv": random_kernels(3)})
    rows = db.nearest(bank=Bank(name="one", names=["t"], templates=random_kernels(1))).df()
    assert rows.template.tolist() == ["t"] * 3
    assert rows.runner_up.isna().all()
    assert rows.margin.isna().all()


def test_only_the_models_and_layers_asked_for(db):
    for name in ("a1", "a2", "b[1]"):
        put(db, name, {"x.conv": random_kernels(3), "y.conv": random_kernels(2), "small": random_kernels(4, 3, 3)})
    assert len(db.nearest().fetchall()) == 15
    assert set(db.nearest(model="a*").df().model) == {"a1", "a2"}
    assert set(db.nearest(model=["a2", "b[1]"]).df().model) == {"a2", "b[1]"}
    assert len(db.nearest(model="a1", layer="y.*").fetchall()) == 2
    assert len(db.nearest(size="3x3").fetchall()) == 12
    assert len(db.nearest(size=3).fetchall()) == 12
    with pytest.raises(NotFound, match='Did you mean "a1"'):
        db.nearest(model="a11")
    with pytest.raises(NotFound, match=r"No kernels of size 5x5 .* There are: 3x3, 7x7"):
        db.nearest(size="5x5")
    with pytest.raises(BankError):
        db.nearest(bank=Bank(name="b", names=["t"], templates=random_kernels(1)), size="3x3")
    with pytest.raises(NotFound, match='Did you mean "greedy8"'):
        db.nearest(bank="gredy8")


def test_an_empty_database_says_what_to_do(db):
    with pytest.raises(StoreError, match="Ingest a model first"):
        db.nearest()


def test_summary_and_exemplars_are_those_of_the_rows(db):
    put(db, "net", {"conv": random_kernels(500), "flat": np.ones((3, 7, 7))})
    rows = db.nearest(bank="greedy8").df()
    summary = db.nearest_summary("greedy8").df().set_index("template")
    counts = rows.template.astype(object).fillna("(dead)").value_counts()
    assert summary.filters.to_dict() == counts.to_dict()
    assert summary.percent.sum() == pytest.approx(100)
    best = db.exemplars("greedy8", count=2)
    bank = db.bank("greedy8")
    for name, kernels in best.items():
        mine = rows[rows.template == name]
        expected = mine.similarity.abs().nlargest(2)
        template = bank.templates[bank.names.index(name)].ravel()
        found = [np.corrcoef(kernel.ravel(), template)[0, 1] for kernel in kernels]
        np.testing.assert_allclose(found, expected, atol=1e-5)  # positive: exemplars come with their sign turned
