"""The arithmetic of kernels against numpy.linalg.lstsq and numpy.corrcoef."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from filterdb.kernels import affine_fit, centred_unit, moments, rows

kernels = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 30)), elements=st.floats(-100, 100, width=32))


@given(kernels)
def test_parts_give_the_kernel_back(f):
    parts = centred_unit(f)
    back = parts.unit * parts.deviation[:, None] + parts.mean[:, None]
    scale = np.abs(f).max(initial=1)
    # A dead kernel is its mean up to the share of its norm that deadness allows.
    np.testing.assert_allclose(back, f, atol=2e-6 * scale * np.sqrt(f.shape[1]))


@given(kernels)
def test_units_are_centred_and_of_length_one_or_dead(f):
    parts = centred_unit(f)
    assert np.isfinite(parts.unit).all()
    np.testing.assert_allclose(np.linalg.norm(parts.unit, axis=1), ~parts.dead, atol=1e-12)
    np.testing.assert_allclose(parts.unit.sum(axis=1), 0, atol=1e-8)


def test_constant_and_zero_kernels_are_dead_in_both_precisions():
    for kind in (np.float32, np.float64):
        f = np.stack([np.zeros(49), np.full(49, 0.1), np.full(49, -1e8), np.eye(1, 49)[0] * 1e-20]).astype(kind)
        assert centred_unit(f).dead.tolist() == [True, True, True, False]


@given(kernels, st.integers(0, 2**32 - 1))
def test_affine_fit_is_least_squares(f, seed):
    g = np.random.default_rng(seed).standard_normal(f.shape[1])
    gain, offset, rho, residual = affine_fit(f, g)
    design = np.stack([g, np.ones_like(g)], axis=1)
    for i, kernel in enumerate(f):
        (a, b), *_ = np.linalg.lstsq(design, kernel)
        best = np.linalg.norm(kernel - design @ [a, b])
        scale = 1 + np.abs(kernel).max()
        assert residual[i] == pytest.approx(best, abs=1e-5 * scale)
        assert np.linalg.norm(kernel - gain[i] * g - offset[i]) == pytest.approx(best, abs=1e-5 * scale)
        if np.ptp(kernel) > 1e-3:
            assert rho[i] == pytest.approx(np.corrcoef(kernel, g)[0, 1], abs=1e-9)


@pytest.mark.parametrize("scale", [1e-43, 1e-30, 1e-23, 1e-19, 1e-15, 1.0, 1e15, 1e18, 1e30, 1e36])
def test_tiny_and_huge_kernels_keep_their_direction_in_float32(scale):
    shape = np.random.default_rng(0).standard_normal((5, 49))
    stored = (shape * scale).astype(np.float32)
    exact = stored.astype(np.float64) / scale
    expected = exact - exact.mean(axis=1, keepdims=True)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = centred_unit(np.concatenate([stored, np.ones((1, 49), np.float32)]))
    assert found.dead.tolist() == [False] * 5 + [True]
    np.testing.assert_allclose(found.unit[:5], expected, atol=1e-6)
    assert moments(stored).dead.tolist() == [False] * 5


def test_a_constant_template_has_no_fit():
    with pytest.raises(ValueError, match="constant"):
        affine_fit(np.eye(4), np.ones(4))


def test_moments_are_those_of_the_raw_weights():
    f = np.array([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    found = moments(f)
    assert found.mean.tolist() == [2.5, 0]
    assert found.total.tolist() == [10, 0]
    assert found.norm.tolist() == [np.sqrt(30), 0]
    assert found.dead.tolist() == [False, True]


def test_rows_are_row_major():
    assert rows(np.arange(6).reshape(1, 2, 3)).tolist() == [[0, 1, 2, 3, 4, 5]]
