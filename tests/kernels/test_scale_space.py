"""Laws of the discrete Gaussian and its derivatives, with scipy, pyscsp and a closed cosine sum as oracles."""

from __future__ import annotations

from itertools import product
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate2d
from scipy.special import ive

from filterdb.errors import InvalidArgument, NotFound
from filterdb.kernels.scale_space import (
    LAPLACIAN,
    MASKS,
    OPERATORS,
    DoG,
    GaussianDerivative,
    Jet,
    Sharpening,
    cross,
    differentiable,
    discrete_gaussian,
    mask,
    masks_of,
    n_jet,
    odd_size,
    profile,
)

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
    masks = {"dx": pyscsp.dxmask(), "dy": pyscsp.dymask(), "dxx": pyscsp.dxxmask(), "dyy": pyscsp.dyymask()}
    for name, theirs in masks.items():
        ours = Jet(0, 0, {name: 1}).kernel(5, 5)
        pad = [((5 - side) // 2,) * 2 for side in theirs.shape]
        np.testing.assert_array_equal(ours, np.pad(theirs, pad), name)


def test_the_sampled_gaussian_is_another_thing_at_fine_scale() -> None:
    n, sigma = np.arange(-9, 10), 0.38
    sampled = np.exp(-(n**2) / (2 * sigma**2))
    assert moment(sampled / sampled.sum(), 2) == pytest.approx(0.059, abs=5e-4)
    assert moment(discrete_gaussian(9, sigma**2), 2) == pytest.approx(0.1444, abs=1e-9)


def test_no_scale_is_the_unit_impulse() -> None:
    np.testing.assert_array_equal(discrete_gaussian(2, 0), [0, 0, 1, 0, 0])
    for name, weights in MASKS.items():
        np.testing.assert_array_equal(profile(1, 0, name), weights)


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


# -- derivatives of any order ----------------------------------------------------------------------------------------------


def test_the_names_of_derivatives_and_their_masks():
    assert n_jet(0) == ["T"]
    assert n_jet(3) == ["T", "dx", "dy", "dxx", "dxy", "dyy", "dxxx", "dxxy", "dxyy", "dyyy"]
    assert [len(n_jet(order)) for order in range(6)] == [(order + 1) * (order + 2) // 2 for order in range(6)]
    assert {name: masks_of(name) for name in OPERATORS} == OPERATORS
    assert masks_of("dxxxyy") == ("ddd", "dd")
    for order in range(5):
        for name in n_jet(order):
            along_x, along_y = masks_of(name)
            assert (along_x, along_y) == ("d" * name.count("x"), "d" * name.count("y"))


@pytest.mark.parametrize("name", ["", "d", "dz", "dyx", "x", "t", "dx+y", "dxx+", "dxy-", "dx++", "dx +", "T+", "dx\n"])
def test_what_is_no_derivative_is_refused_with_what_there_is(name):
    with pytest.raises(NotFound, match="No derivative") as caught:
        masks_of(name)
    assert "dxy" in str(caught.value)


def test_masks_beyond_the_second_are_products_of_the_first_two():
    np.testing.assert_array_equal(mask("d"), [-0.5, 0, 0.5])
    np.testing.assert_array_equal(mask("ddd"), [-0.5, 1, 0, -1, 0.5])
    np.testing.assert_array_equal(mask("dddd"), [1, -4, 6, -4, 1])
    np.testing.assert_array_equal(mask(""), [1])
    with pytest.raises(ValueError, match="read-only"):
        mask("ddd")[0] = 7


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.3])
@pytest.mark.parametrize("order", range(1, 7))
def test_an_order_gives_one_on_its_power_and_nothing_on_lower_ones(order, sigma):
    weights = profile(40, sigma, "d" * order)
    n = np.arange(-40, 41.0)
    for power in range(order):
        assert weights @ n**power == pytest.approx(0, abs=1e-7)
    assert weights @ n**order / factorial(order) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize(("order_x", "order_y"), [(3, 0), (2, 1), (1, 2), (0, 3), (2, 2)])
def test_mixed_orders_on_their_powers_in_the_plane(order_x, order_y):
    rows, columns = np.mgrid[0:41, 0:41].astype(float) - 20
    x, y = columns, -rows
    kernel = GaussianDerivative(order_x, order_y, 0.8, 1.4).kernel(41)
    for powers in product(range(4), repeat=2):
        if sum(powers) <= order_x + order_y:
            expected = factorial(order_x) * factorial(order_y) if powers == (order_x, order_y) else 0
            assert (kernel * x ** powers[0] * y ** powers[1]).sum() == pytest.approx(expected, abs=1e-6), powers


def test_smoothing_a_derivative_adds_the_variances():
    """(dx T(s)) * T(t) = dx T(s + t)."""
    first, second = profile(40, 0.7**0.5, "d"), discrete_gaussian(40, 1.1)
    np.testing.assert_allclose(np.convolve(first, second, mode="same")[5:-5], profile(40, 1.8**0.5, "d")[5:-5], atol=1e-14)


# -- kernels that know their parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order_x", range(4))
@pytest.mark.parametrize("order_y", range(4))
def test_a_gaussian_derivative_is_its_jet(order_x, order_y):
    field = GaussianDerivative(order_x, order_y, 0.49, 1.21)
    assert field.operator == ("d" + "x" * order_x + "y" * order_y if order_x + order_y else "T")
    np.testing.assert_array_equal(field.kernel(7, 5), Jet(0.7, 1.1, {field.operator: 1}).kernel(7, 5))


@pytest.mark.parametrize(
    ("orders", "shifts", "operator"),
    [
        ((1, 0), (0.5, 0), "dx+"), ((1, 0), (-0.5, 0), "dx-"), ((0, 1), (0, 0.5), "dy+"), ((0, 1), (0, -0.5), "dy-"),
        ((1, 0), (0, 0), "dx"), ((1, 0), (-0.0, 0.0), "dx"),
    ],
)  # fmt: skip
def test_half_pixel_shifts_have_names(orders, shifts, operator):
    field = GaussianDerivative(*orders, 0.36, 0.64, *shifts)
    assert field.operator == operator
    kernel = field.kernel(25)
    np.testing.assert_array_equal(kernel, Jet(0.6, 0.8, {operator: 1}).kernel(25))
    # the centre of |kernel| lies where the derivative is taken; y is up
    y, x = np.mgrid[12:-13:-1, -12:13]
    size = np.abs(kernel) / np.abs(kernel).sum()
    assert ((x * size).sum(), (y * size).sum()) == pytest.approx(shifts, abs=1e-6)


@pytest.mark.parametrize(
    ("orders", "shifts"),
    [
        ((0, 0), (0.5, 0)), ((2, 0), (0.5, 0)), ((1, 1), (0.5, 0)), ((1, 0), (0, 0.5)), ((1, 0), (0.5, 0.5)), ((0, 1), (0.5, 0)),
        ((1, 0), (0.25, 0)), ((1, 0), (1, 0)), ((1, 0), (0.5, -0.0001)), ((1, 0), (float("nan"), 0)),
    ],
)  # fmt: skip
def test_other_shifts_are_refused(orders, shifts):
    with pytest.raises(InvalidArgument, match=r"shift is ±½ px along the axis of a first derivative"):
        GaussianDerivative(*orders, 1, 1, *shifts).kernel(5)


def test_orders_sizes_and_scales_that_cannot_be_are_refused():
    assert GaussianDerivative(1.0, 2.0, 1, 1).operator == "dxyy"
    for orders in [(-1, 0), (0, -2), (0.5, 0), (float("nan"), 0), (0, float("inf"))]:
        with pytest.raises(InvalidArgument, match="whole numbers from 0"):
            GaussianDerivative(*orders, 1, 1).kernel(5)
    for s in [-1e-9, float("nan"), float("inf")]:
        for scales in ((s, 1), (1, s)):
            with pytest.raises(InvalidArgument):
                GaussianDerivative(0, 0, *scales).kernel(5)
        for other in (Sharpening(s, 1), DoG(1, s), DoG(s, 1)):
            with pytest.raises(InvalidArgument):
                other.kernel(5)
    for one in (GaussianDerivative(1, 0, 1, 1), Sharpening(1, 1), DoG(1, 2), Jet(1, 1, {"T": 1})):
        for size in ((4, None), (5, 4), (4, 5), (0, None)):
            with pytest.raises(InvalidArgument, match="Use odd sizes"):
                one.kernel(*size)
    for order in (-1, -5):
        with pytest.raises(InvalidArgument, match="0 or more"):
            n_jet(order)
    assert odd_size(3) == (3, 3)
    assert odd_size(1, 9) == (1, 9)


def test_sharpening_passes_dc_and_lifts_detail():
    kernel = Sharpening(0.4, 0.6).kernel(31)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    impulse = np.zeros((31, 31))
    impulse[15, 15] = 1
    laplacian = Jet(0.4**0.5, 0.4**0.5, LAPLACIAN).kernel(31)
    np.testing.assert_allclose(kernel, impulse - 0.6 * laplacian, atol=1e-15)
    np.testing.assert_array_equal(Sharpening(0.4, 0).kernel(5), impulse[13:18, 13:18])
    response = np.abs(np.fft.fft2(np.fft.ifftshift(kernel)))
    assert response[0, 0] == pytest.approx(1)
    assert response.min() >= 1 - 1e-12
    assert response.max() > 1.5
    # At scale 0 it is the five-point stencil itself.
    np.testing.assert_allclose(Sharpening(0, 1).kernel(3), [[0, -1, 0], [-1, 5, -1], [0, -1, 0]])


def test_a_difference_of_gaussians_is_one():
    np.testing.assert_allclose(
        DoG(0.3, 1.2, 0.7).kernel(5, 7),
        Jet(0.3**0.5, 0.3**0.5, {"T": 1}).kernel(5, 7) - 0.7 * Jet(1.2**0.5, 1.2**0.5, {"T": 1}).kernel(5, 7), atol=1e-15,
    )  # fmt: skip
    assert DoG(0.3, 1.2).kernel(41).sum() == pytest.approx(0, abs=1e-12)
    np.testing.assert_array_equal(DoG(0.5, 0.5).kernel(5), np.zeros((5, 5)))


def test_the_laplacian_is_the_diffusion_of_t():
    """d/ds T = laplacian / 2: what the fits differentiate by."""
    s, step = 0.7, 1e-5
    change = (Jet((s + step) ** 0.5, (s + step) ** 0.5, {"T": 1}).kernel(9) -
              Jet((s - step) ** 0.5, (s - step) ** 0.5, {"T": 1}).kernel(9)) / (2 * step)  # fmt: skip
    np.testing.assert_allclose(change, Jet(s**0.5, s**0.5, LAPLACIAN).kernel(9) / 2, atol=1e-9)


# -- the same in torch -----------------------------------------------------------------------------------------------------

VARIANCES = [0.0, 1e-6, 1e-3, 0.04, 0.25, 1.0, 2.7, 9.0, 17.5, 30.0]
NAMES = [*OPERATORS, "dxxx", "dxxy", "dxyy", "dyyy", "dxxyy"]


@pytest.mark.parametrize("size", [3, 5, 7, 9, 11, 13, 19, 27])
def test_torch_agrees_with_numpy_for_all_operators_sizes_and_scales(size):
    s = torch.tensor(VARIANCES, dtype=torch.float64)
    for name in NAMES:
        ours = differentiable.kernel(name, s, s.flip(0), size)
        for found, s_x, s_y in zip(ours.numpy(), VARIANCES, VARIANCES[::-1], strict=True):
            expected = Jet(s_x**0.5, s_y**0.5, {name: 1}).kernel(size)
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"{name} {s_x} {s_y}")


@given(st.floats(0, 30), st.integers(0, 13))
def test_torch_agrees_with_scipys_bessel_function_at_any_scale(s, radius):
    found = differentiable.discrete_gaussian(radius, torch.tensor(s, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), ive(np.abs(np.arange(-radius, radius + 1)), s), atol=1e-14)


def test_batches_of_any_shape_and_sizes_that_are_not_square():
    s = torch.rand(2, 3, 4, dtype=torch.float64) * 4
    assert differentiable.discrete_gaussian(3, s).shape == (2, 3, 4, 7)
    assert differentiable.profiles(2, s, ("", "d", "dd")).shape == (2, 3, 4, 3, 5)
    found = differentiable.kernel("dxy", s, s[:, :1], 5, 9)
    assert found.shape == (2, 3, 4, 5, 9)
    expected = Jet(float(s[1, 2, 3]) ** 0.5, float(s[1, 0, 3]) ** 0.5, {"dxy": 1}).kernel(5, 9)
    np.testing.assert_allclose(found[1, 2, 3], expected, atol=1e-13)
    assert differentiable.kernel("T", torch.tensor(1.0), torch.tensor(1.0), 3).shape == (3, 3)
    assert differentiable.discrete_gaussian(3, torch.zeros(0)).shape == (0, 7)
    # each row of several differences is what one alone gives, and does not depend on its neighbours in the batch
    several = differentiable.profiles(3, torch.tensor([0.2, 30.0], dtype=torch.float64), ("", "d+", "dd"))
    for row, s_ in enumerate((0.2, 30.0)):
        for i, name in enumerate(("", "d+", "dd")):
            np.testing.assert_allclose(several[row, i], profile(3, s_**0.5, name), atol=1e-13)


def test_half_precision_of_the_caller_is_kept_and_close():
    s = torch.tensor([0.0, 0.05, 1.0, 9.0])
    found = differentiable.kernel("dx", s, s, 7)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, differentiable.kernel("dx", s.double(), s.double(), 7), atol=1e-6)


@pytest.mark.parametrize("name", ["T", "dx", "dy-", "dxx", "dxxy"])
def test_gradients_in_the_variances(name):
    s_x = torch.tensor([0.3, 1.0, 6.0], dtype=torch.float64, requires_grad=True)
    s_y = torch.tensor([2.0, 0.1, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: differentiable.kernel(name, x, y, 5, 7), (s_x, s_y))


def test_the_gradient_at_no_scale_is_diffusion():
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    t = differentiable.discrete_gaussian(2, s)
    np.testing.assert_allclose(t.detach(), [0, 0, 1, 0, 0], atol=1e-15)
    slopes = [torch.autograd.grad(t[i], s, retain_graph=True)[0].item() for i in range(5)]
    np.testing.assert_allclose(slopes, [0, 0.5, -1, 0.5, 0], atol=1e-14)


def test_torch_refuses_what_numpy_refuses():
    for s in (-1e-12, float("nan"), float("inf")):
        with pytest.raises(InvalidArgument, match="finite variances"):
            differentiable.discrete_gaussian(3, torch.tensor([1.0, s]))
    with pytest.raises(InvalidArgument, match="odd"):
        differentiable.kernel("T", torch.tensor(1.0), torch.tensor(1.0), 4)
    with pytest.raises(NotFound, match="No derivative"):
        differentiable.kernel("dz", torch.tensor(1.0), torch.tensor(1.0), 5)
