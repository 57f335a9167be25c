"""Laws of the discrete Gaussian and its derivatives, with scipy, pyscsp and a closed cosine sum as oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate2d

from filterdb.errors import InvalidArgument, NotFound
from filterdb.scale_space import MASKS, OPERATORS, Jet, cross, discrete_gaussian, profile

scales = st.floats(0, 9)


def moment(weights: np.ndarray, power: int) -> float:
    n = np.arange(len(weights)) - len(weights) // 2
    return float(n**power @ weights)


@given(scales)
def test_it_sums_to_one_and_its_variance_is_exactly_s(s: float) -> None:
    t = discrete_gaussian(60, s)
    assert t.sum() == pytest.approx(1, abs=1e-13)
    assert moment(t, 1) == pytest.approx(0, abs=1e-13)
    assert moment(t, 2) == pytest.approx(s, abs=1e-11)


@given(scales, scales)
def test_smoothing_twice_adds_the_variances(s: float, t: float) -> None:
    twice = np.convolve(discrete_gaussian(60, s), discrete_gaussian(60, t), mode="same")
    np.testing.assert_allclose(twice, discrete_gaussian(60, s + t), atol=1e-14)


@given(scales)
def test_it_equals_the_cosine_sum_that_needs_no_bessel_function(s: float) -> None:
    size, n = 32, np.arange(-3, 4)
    angle = 2 * np.pi * np.arange(size) / size
    expected = np.exp(s * (np.cos(angle) - 1)) @ np.cos(np.outer(angle, n)) / size
    np.testing.assert_allclose(discrete_gaussian(3, s), expected, atol=1e-15)


def test_pyscsp_agrees() -> None:
    pyscsp = pytest.importorskip("pyscsp.discscsp")
    for sigma in (0.3, 0.6, 1.0, 2.0):
        theirs = np.ravel(pyscsp.make1Ddiscgaussfilter(sigma, 1e-12))
        np.testing.assert_allclose(discrete_gaussian(len(theirs) // 2, sigma**2), theirs, atol=1e-9)
    for name, mask in {"dx": pyscsp.dxmask(), "dy": pyscsp.dymask(), "dxx": pyscsp.dxxmask(), "dyy": pyscsp.dyymask()}.items():
        ours = Jet(0, 0, {name: 1}).kernel(5, 5)
        pad = [((5 - side) // 2,) * 2 for side in mask.shape]
        np.testing.assert_array_equal(ours, np.pad(mask, pad), name)


def test_the_sampled_gaussian_is_another_thing_at_fine_scale() -> None:
    n, sigma = np.arange(-9, 10), 0.38
    sampled = np.exp(-(n**2) / (2 * sigma**2))
    assert moment(sampled / sampled.sum(), 2) == pytest.approx(0.059, abs=5e-4)
    assert moment(discrete_gaussian(9, sigma**2), 2) == pytest.approx(0.1444, abs=1e-9)


def test_no_scale_is_the_unit_impulse() -> None:
    np.testing.assert_array_equal(discrete_gaussian(2, 0), [0, 0, 1, 0, 0])
    for name, mask in MASKS.items():
        np.testing.assert_array_equal(profile(1, 0, name), mask)


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 1.5])
@pytest.mark.parametrize("name", ["d", "d+", "d-"])
def test_first_differences_of_a_ramp_are_one(name: str, sigma: float) -> None:
    weights = profile(30, sigma, name)
    assert weights.sum() == pytest.approx(0, abs=1e-12)
    assert moment(weights, 1) == pytest.approx(1, abs=1e-12)


@given(st.floats(0.1, 2), st.floats(0.1, 2))
def test_derivatives_of_images_x_is_right_and_y_is_up(sigma_x: float, sigma_y: float) -> None:
    rows, columns = np.mgrid[0:65, 0:65].astype(float)
    x, y = columns, -rows
    for name, image, expected in [
        ("T", x + 2 * y, 32 - 64), ("dx", 3 * x + y, 3), ("dy", x + 5 * y, 5), ("dx+", 3 * x, 3), ("dy-", 5 * y, 5),
        ("dxx", 2 * x**2 + y, 4), ("dyy", 3 * y**2 + x, 6), ("dxy", 7 * x * y, 7),
    ]:  # fmt: skip
        kernel = Jet(sigma_x, sigma_y, {name: 1}).kernel(61, 61)
        assert correlate2d(image, kernel, mode="valid")[2, 2] == pytest.approx(expected, abs=1e-6), name


def test_half_pixel_derivatives_average_to_the_central_one() -> None:
    np.testing.assert_allclose((profile(4, 0.7, "d+") + profile(4, 0.7, "d-")) / 2, profile(4, 0.7, "d"), atol=1e-15)
    np.testing.assert_allclose(profile(4, 0.7, "d-"), -profile(4, 0.7, "d+")[::-1], atol=1e-15)


@pytest.mark.parametrize("name", OPERATORS)
def test_swapping_x_and_y_transposes_about_the_diagonal_y_equals_x(name: str) -> None:
    swapped = name.translate(str.maketrans("xy", "yx")).replace("dyx", "dxy")
    kernel, other = Jet(0.6, 1.1, {name: 1}).kernel(5, 7), Jet(1.1, 0.6, {swapped: 1}).kernel(7, 5)
    np.testing.assert_allclose(other, kernel[::-1].T[::-1], atol=1e-15)


@given(st.floats(0, 3), st.floats(0, 3))
def test_a_smaller_kernel_is_the_centre_crop(sigma_x: float, sigma_y: float) -> None:
    jet = Jet(sigma_x, sigma_y, {"T": 0.3, "dx+": -1, "dyy": 2})
    np.testing.assert_array_equal(jet.kernel(9, 11)[1:-1, 2:-2], jet.kernel(7, 7))


def test_the_cross_is_its_formula_at_odd_and_even_sizes() -> None:
    k = cross(5, 7, 0.6)
    assert k[2, 3] == 2
    assert k[2, 0] == pytest.approx(1 + np.exp(-9 / 0.72))
    assert k[0, 3] == pytest.approx(1 + np.exp(-4 / 0.72))
    np.testing.assert_allclose(cross(4, 4, 0.6), cross(4, 4, 0.6).T[::-1])


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(InvalidArgument, match="odd"):
        Jet(1, 1, {"T": 1}).kernel(4, 5)
    with pytest.raises(NotFound, match="dxx"):
        Jet(1, 1, {"dxz": 1}).kernel(5, 5)
    for radius, s in [(-1, 1.0), (1, -1.0), (1, float("nan")), (1, float("inf"))]:
        with pytest.raises(InvalidArgument, match="radius"):
            discrete_gaussian(radius, s)
