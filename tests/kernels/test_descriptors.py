"""Descriptors: textbook kernels get their textbook words, numbers obey their laws, and nothing is NaN."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate2d, freqz

from filterdb import banks
from filterdb.errors import InvalidArgument
from filterdb.kernels.descriptors import BANDS, COLUMNS, SPREAD_OPERATORS, VERSION, describe, frequency_response
from filterdb.kernels.scale_space import Jet

RNG = np.random.default_rng(0)
SIZES = [(1, 2), (2, 1), (1, 5), (5, 1), (2, 2), (2, 3), (3, 3), (4, 4), (3, 5), (5, 5), (7, 7), (9, 9)]


def one(kernel) -> dict:
    """The row of a single kernel, None for null."""
    columns = describe(np.asarray(kernel)[None])
    return {name: values.tolist()[0] for name, values in columns.items()}


def jet(size, sigma, name):
    return Jet(sigma, sigma, {name: 1}).kernel(size, size)


def gaussian(size, sigma):
    kernel = jet(size, sigma, "T")
    return kernel / kernel.sum()


def impulse(size, row=None, column=None):
    kernel = np.zeros((size, size))
    kernel[size // 2 if row is None else row, size // 2 if column is None else column] = 1
    return kernel


def gabor(size, frequency, sigma, degrees, odd):
    """A wave of that many cycles/px under a Gaussian; the even one is balanced to have no DC."""
    t = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(t, -t)
    along = 2 * np.pi * frequency * (x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees)))
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    if odd:
        return envelope * np.sin(along)
    wave = envelope * np.cos(along)
    return wave - envelope * wave.sum() / envelope.sum()


def laplacian_of_gaussian(size, sigma):
    return Jet(sigma, sigma, {"dxx": 1, "dyy": 1}).kernel(size, size)


def checkerboard(kernel_h, kernel_w):
    return np.fromfunction(lambda row, column: (-1.0) ** (row + column), (kernel_h, kernel_w))


SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1.0]])
PREWITT = np.array([[-1, 0, 1]] * 3)
SCHARR = np.array([[-3, 0, 3], [-10, 0, 10], [-3, 0, 3.0]])
SOBEL_45 = np.array([[0, 1, 2], [-1, 0, 1], [-2, -1, 0.0]])
LAPLACIAN_5 = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]])
LAPLACIAN_9 = np.array([[1, 1, 1], [1, -8, 1], [1, 1, 1.0]])
DXX = np.array([[0, 0, 0], [1, -2, 1], [0, 0, 0.0]])
DXY = np.array([[-1, 0, 1], [0, 0, 0], [1, 0, -1.0]])
BINOMIAL_5 = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256

LOWPASS = {
    **{f"gaussian {k} {s}": gaussian(k, s) for k in (3, 5, 7, 9) for s in (0.5, 0.6, 0.8, 1, 1.5, 2, 3)},
    **{f"box {k}": np.ones((k, k)) for k in (2, 3, 4, 5, 7, 9)},
    "binomial 3": np.outer([1, 2, 1], [1, 2, 1]), "binomial 5": BINOMIAL_5, "line": np.pad(np.ones((1, 3)), ((1, 1), (0, 0))),
    "strip 1x2": np.ones((1, 2)), "strip 5x1": np.array([[1, 4, 6, 4, 1.0]]).T,
    "shifted": np.pad(gaussian(3, 0.8), ((0, 4), (4, 0))), "elongated": Jet(0.5, 2, {"T": 1}).kernel(7, 7),
}  # fmt: skip
FIRST = {
    **{f"sobel {90 * i}": (np.rot90(SOBEL, i), 90 * i) for i in range(4)},
    **{f"prewitt {90 * i}": (np.rot90(PREWITT, i), 90 * i) for i in range(4)},
    **{f"scharr {90 * i}": (np.rot90(SCHARR, i), 90 * i) for i in range(4)},
    **{f"sobel {45 + 90 * i}": (np.rot90(SOBEL_45, i), 45 + 90 * i) for i in range(4)},
    "roberts": (np.array([[0, 1], [-1, 0.0]]), 45), "strip 3": (np.array([[-1, 0, 1.0]]), 0),
    "half": (np.array([[-1], [1.0]]), 270),
    **{
        f"{name} {k} {s}": (jet(k, s, name), angle)
        for k, sigmas in ((3, (0.3, 0.5)), (5, (0.3, 0.6, 1)), (7, (0.6, 1, 1.5)), (9, (0.6, 1, 1.5, 2)))
        for s in sigmas
        for name, angle in (("dx", 0), ("dy", 90), ("dx+", 0), ("dx-", 0), ("dy+", 90), ("dy-", 90))
    },
    **{f"30 degrees {s}": (np.sqrt(3) * jet(7, s, "dx") + jet(7, s, "dy"), 30) for s in (0.5, 1, 1.5)},
    "ramp": (np.tile(np.arange(-3.0, 4), (7, 1)), 0), "offset": (SOBEL + 0.2, 0),
    "shifted": (np.pad(SOBEL, ((4, 0), (0, 4))), 0),
}  # fmt: skip
SECOND = {
    "laplacian 5": (LAPLACIAN_5, None), "laplacian 9": (LAPLACIAN_9, None), "log .5": (laplacian_of_gaussian(7, 0.5), None),
    "mehrstellen": (np.array([[1, 4, 1], [4, -20, 4], [1, 4, 1.0]]), None),
    "dxx": (DXX, 0), "dyy": (DXX.T, 90), "strip": (np.array([[1, -2, 1.0]]), 0), "strip down": (np.array([[1], [-2], [1.0]]), 90),
    "diagonal": (np.diag([1, -2, 1.0]), 135), "antidiagonal": (np.diag([1, -2, 1.0])[::-1], 45),
    "dxy": (DXY, 45), "-dxy": (-DXY, 135), "2x2": (np.array([[-1, 1], [1, -1.0]]), 45),
    **{f"dxx {s}": (jet(7, s, "dxx"), 0) for s in (0.3, 0.5, 0.6, 0.8)},
    **{f"dyy {s}": (jet(7, s, "dyy"), 90) for s in (0.3, 0.5, 0.6, 0.8)},
    **{f"dxy {s}": (jet(9, s, "dxy"), 45) for s in (0.3, 0.5, 0.8, 1, 1.5)},
}  # fmt: skip
GABORS = {
    f"gabor {k} {f} {s} {angle} {'odd' if odd else 'even'}": gabor(k, f, s, angle, odd)
    for k in (7, 9)
    for f, s in ((0.25, 2), (0.3, 1.5), (0.3, 2))
    for angle in (0, 30, 45, 90, 120)
    for odd in (False, True)
}
ROUND_BANDPASS = {
    **{f"log {k} {s}": laplacian_of_gaussian(k, s) for k, s in ((7, 1), (7, 1.2), (9, 1.2), (9, 1.5), (11, 2))},
    **{
        f"dog {k} {a} {b}": gaussian(k, a) - gaussian(k, b)
        for k in (7, 9) for a, b in ((0.8, 1.6), (1, 1.6), (1, 2), (1.2, 2))
    },
}  # fmt: skip
HIGHPASS = {
    **{f"impulse - box {k}": impulse(k) - 1 / k**2 for k in (5, 7, 9)},
    **{f"impulse - gaussian {s}": impulse(9) - gaussian(9, s) for s in (1.2, 1.5, 2, 3)},
    **{f"checkerboard {h}x{w}": checkerboard(h, w) for h, w in ((3, 3), (4, 4), (5, 5), (7, 7), (1, 4), (6, 1))},
    "columns": np.tile([1, -1, 1, -1, 1.0], (5, 1)), "dxxyy": np.outer([1, -2, 1], [1, -2, 1.0]),
}  # fmt: skip
SHARPENING = {
    "sharpen 5": impulse(3) - LAPLACIAN_5, "sharpen 9": impulse(3) - LAPLACIAN_9, "unsharp 5": 2 * impulse(5) - BINOMIAL_5,
    **{f"impulse - {a} laplacian": impulse(3) - a * LAPLACIAN_5 for a in (0.2, 0.25, 0.5, 1, 2)},
    **{f"unsharp {a} {s}": (1 + a) * impulse(7) - a * gaussian(7, s) for a in (0.5, 1, 2, 4) for s in (1, 1.5, 2)},
    "paper": impulse(7) - 0.5256 * laplacian_of_gaussian(7, 0.6754),
}  # fmt: skip
IDENTITY = {
    "impulse": impulse(5), "impulse 2": impulse(2), "corner": impulse(7, 0, 6), "shifted": impulse(5, 1, 3),
    "strip": np.array([[0, 1, 0.0]]), "noisy": impulse(7) + 0.02 * np.random.default_rng(1).standard_normal((7, 7)),
}  # fmt: skip


def table(kernels):
    return pytest.mark.parametrize("kernel", kernels.values(), ids=kernels)


@table(LOWPASS)
def test_smoothers_are_lowpass(kernel):
    for found in (one(kernel), one(-3 * kernel)):
        assert (found["band"], found["derivative_order"], found["direction"]) == ("lowpass", 0, None)
    assert found["dc_ratio"] == pytest.approx(-1)


@pytest.mark.parametrize(("kernel", "angle"), FIRST.values(), ids=FIRST)
def test_first_derivatives_have_order_1_and_the_direction_of_ascent(kernel, angle):
    for sign in (1, -1):
        found = one(sign * kernel)
        assert (found["band"], found["derivative_order"], found["isotropic"]) == ("differential", 1, False)
        turn = (found["direction"] - angle - (0 if sign == 1 else 180) + 180) % 360 - 180
        assert turn == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize(("kernel", "axis"), SECOND.values(), ids=SECOND)
def test_second_derivatives_have_order_2_and_an_axis(kernel, axis):
    found = one(kernel)
    assert (found["band"], found["derivative_order"], found["isotropic"]) == ("differential", 2, axis is None)
    assert found["direction"] == (None if axis is None else pytest.approx(axis, abs=1e-4))
    assert one(-kernel)["band"] == "differential"


@table(GABORS)
def test_gabors_are_bandpass_and_oriented(kernel, request):
    found = one(kernel)
    degrees = float(request.node.callspec.id.split()[4])
    assert (found["band"], found["isotropic"]) == ("bandpass", False)
    assert (found["orientation"] - degrees + 90) % 180 - 90 == pytest.approx(0, abs=6)


@table(ROUND_BANDPASS)
def test_laplacians_and_differences_of_gaussians_are_bandpass_of_order_2(kernel):
    for found in (one(kernel), one(-kernel)):
        assert [found[name] for name in ("band", "derivative_order", "direction", "isotropic")] == ["bandpass", 2, None, True]


@table(HIGHPASS)
def test_what_passes_all_but_slow_waves_is_highpass(kernel):
    for found in (one(kernel), one(-kernel)):
        assert found["band"] == "highpass"
        assert found["derivative_order"] in (2, None)


@table(SHARPENING)
def test_sharpening_passes_dc_and_lifts_the_rest(kernel):
    for found in (one(kernel), one(-kernel)):
        assert [found[name] for name in ("band", "derivative_order", "isotropic")] == ["sharpening", 0, True]
        assert found["nyquist_xy"] > found["dc_gain"]


@table(IDENTITY)
def test_an_impulse_is_an_identity_wherever_it_is(kernel):
    for found in (one(kernel), one(-kernel)):
        assert (found["band"], found["derivative_order"]) == ("identity", 0)


def test_a_shifted_impulse_tells_its_delay():
    found = one(impulse(5, 1, 3))
    assert (found["mean_x"], found["mean_y"], found["var_x"], found["var_y"]) == (1, 1, 0, 0)


def test_the_plainest_examples_are_far_inside_their_rules():
    plain = [
        gaussian(7, 1), np.ones((3, 3)), SOBEL, SCHARR, jet(7, 1, "dx"), laplacian_of_gaussian(9, 1.5),
        gabor(9, 0.25, 2, 0, False), impulse(3) - LAPLACIAN_5, impulse(5), checkerboard(7, 7),
    ]  # fmt: skip
    assert [one(kernel)["band_confidence"] for kernel in plain] == [pytest.approx(1, abs=0.02)] * len(plain)
    for kernel in (LAPLACIAN_5, DXX, DXY, 3 * impulse(7) - 2 * gaussian(7, 1.5), impulse(7) - gaussian(7, 2)):
        assert one(kernel)["band_confidence"] > 0.4


def test_the_word_changes_through_low_confidence():
    """From box to impulse the word changes once, and the confidence is low on both sides of the change."""
    found = [one((1 - t) * np.ones((5, 5)) / 25 + t * impulse(5)) for t in np.linspace(0, 1, 201)]
    words = [row["band"] for row in found]
    changes = [i for i in range(200) if words[i] != words[i + 1]]
    assert [words[0], words[-1]] == ["lowpass", "identity"]
    assert len(changes) <= 2
    assert all(min(found[i]["band_confidence"], found[i + 1]["band_confidence"]) < 0.1 for i in changes)


def test_noise_is_other_where_a_kernel_has_taps_enough_to_tell():
    for size, least in ((5, 0.8), (7, 0.95), (9, 0.98)):
        found = describe(np.random.default_rng(2).standard_normal((5000, size, size)))
        other = found["band"] == "other"
        assert other.mean() > least
        assert ((found["band_confidence"] > 0.5) & ~other).mean() < 0.02
    # Nine random numbers often are a smoother or a gradient, but seldom a clear one.
    found = describe(np.random.default_rng(2).standard_normal((5000, 3, 3)))
    assert ((found["band"] != "other") & (found["band_confidence"] > 0.5)).mean() < 0.25


def test_words_stay_when_a_kernel_is_padded_with_zeros():
    for kernel in (
        SOBEL,
        LAPLACIAN_5,
        DXY,
        impulse(3) - LAPLACIAN_5,
        gaussian(3, 0.8),
        checkerboard(3, 3),
        RNG.standard_normal((3, 3)),
    ):
        small, large = one(kernel), one(np.pad(kernel, 2))
        for name in ("band", "derivative_order", "isotropic", "direction"):
            assert small[name] == large[name]
        for name in (
            "band_confidence",
            "centroid",
            "bandwidth",
            "energy_low",
            "energy_mid",
            "anisotropy",
            "var_x",
            "even_energy",
        ):
            assert small[name] == pytest.approx(large[name], abs=1e-5)


def test_the_published_filters_get_the_names_the_paper_gives_them():
    bank = banks.load("greedy8")
    kernels = np.asarray(bank.templates, dtype=np.float64).reshape(-1, 7, 7)
    found = describe(kernels - kernels.mean(axis=(1, 2), keepdims=True))  # templates are known up to an offset
    names = [name.split("_")[1] for name in bank.names[:6]]  # impulse responses: turned, + and - trade places
    assert found["spread_operator"].tolist()[:6] == [name.translate(str.maketrans("+-", "-+")) for name in names]
    assert found["spread_operator"].tolist()[6:] == ["T", "T"]
    assert found["derivative_order"].tolist()[:6] == [1] * 6
    for angle, expected in zip(found["direction"].tolist(), (270, 0, 90, 180, 180, 270)):
        assert (angle - expected + 180) % 360 - 180 == pytest.approx(0, abs=15)


# -- symmetry ------------------------------------------------------------------------------------------------------------


def random_kernel(seed, size=None):
    rng = np.random.default_rng(seed)
    kernel_h, kernel_w = size or SIZES[rng.integers(len(SIZES))]
    kernel = rng.standard_normal((kernel_h, kernel_w))
    return kernel * np.abs(kernel) if rng.integers(2) else kernel  # the latter is nearer to an impulse


SAME = ("dc_ratio", "centroid", "bandwidth", "energy_low", "energy_mid", "energy_high", "anisotropy", "even_energy",
        "separable_energy", "isotropic", "half_odd_energy", "nyquist_xy", "dc_gain")  # fmt: skip
WORDS = ("band", "derivative_order")
TURNED = {"T": "T", "dx": "dy", "dy": "dx", "dx+": "dy+", "dy+": "dx-", "dx-": "dy-", "dy-": "dx+", None: None}
MIRRORED = {"dx+": "dx-", "dx-": "dx+"}


def close(found, expected, names):
    for name in names:
        close_values(found[name], expected[name])


def close_values(found, expected, period=None):
    if period is not None and found is not None and expected is not None:
        assert (found - expected + period / 2) % period - period / 2 == pytest.approx(0, abs=1e-3)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-5, rel=1e-5)
    else:
        assert found == expected


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_turned_by_90_degrees_the_numbers_turn(seed):
    kernel = random_kernel(seed)
    found, turned = one(kernel), one(np.rot90(kernel))
    close(turned, found, (*SAME, *WORDS))
    for a, b in (("nyquist_x", "nyquist_y"), ("mean_x", "mean_y"), ("var_x", "var_y"), ("weighted_var_x", "weighted_var_y")):
        close_values(turned[b], found[a])
        close_values(abs(turned[a]) if turned[a] else turned[a], abs(found[b]) if found[b] else found[b])
    close_values(turned["mean_x"], -found["mean_y"])
    close_values(turned["cov_xy"], -found["cov_xy"])
    close_values(turned["half_shift_y"], found["half_shift_x"])
    close_values(turned["half_shift_x"], -found["half_shift_y"])
    assert turned["spread_operator"] == TURNED[found["spread_operator"]]
    order = found["derivative_order"]
    for name, period in (("orientation", 180), ("direction", 360 if order == 1 else 180)):
        close_values(turned[name], None if found[name] is None else found[name] + 90, period)


@given(seeds)
def test_mirrored_the_numbers_mirror(seed):
    kernel = random_kernel(seed)
    found, mirrored = one(kernel), one(kernel[:, ::-1])
    close(mirrored, found, (*SAME, *WORDS, "nyquist_x", "mean_y", "var_x", "var_y", "weighted_mean_y", "half_shift_y"))
    for name in ("mean_x", "cov_xy", "half_shift_x"):
        close_values(mirrored[name], -found[name])
    operator = found["spread_operator"]
    assert mirrored["spread_operator"] == MIRRORED.get(operator, operator)
    order = found["derivative_order"]
    for name, period in (("orientation", 180), ("direction", 360 if order == 1 else 180)):
        close_values(mirrored[name], None if found[name] is None else 180 - found[name], period)


@given(seeds)
def test_transposed_x_and_y_change_places(seed):
    kernel = random_kernel(seed)
    found, transposed = one(kernel), one(kernel.T)  # reflected in the antidiagonal, as y is up
    close(transposed, found, (*SAME, *WORDS))
    for a, b in (("nyquist_x", "nyquist_y"), ("var_x", "var_y")):
        close_values(transposed[a], found[b])
        close_values(transposed[b], found[a])
    close_values(transposed["mean_x"], -found["mean_y"])


@given(seeds, st.floats(-20, 20), st.booleans())
def test_no_word_and_no_share_depends_on_scale_or_sign(seed, exponent, negate):
    kernel = random_kernel(seed)
    factor = (-1 if negate else 1) * 10.0**exponent
    found, scaled = one(kernel), one(kernel * factor)
    close(scaled, found, (*SAME[1:-2], *WORDS, "band_confidence", "orientation", "spread_operator", "var_x", "weighted_var_x"))
    close_values(scaled["dc_ratio"], found["dc_ratio"] * np.sign(factor))
    for name in ("dc_gain", "nyquist_x", "nyquist_y", "nyquist_xy"):
        assert scaled[name] == pytest.approx(found[name] * abs(factor), rel=1e-4, abs=1e-6 * abs(factor))
    if found["derivative_order"] == 1:
        close_values(scaled["direction"], found["direction"] + (180 if negate else 0), 360)


# -- laws ----------------------------------------------------------------------------------------------------------------


def dense(kernel, n):
    """|H|² at n midpoints an axis, with u and v."""
    middle = (np.arange(n) + 0.5) / n - 0.5
    y, x = ((np.arange(size) - (size - 1) / 2) for size in kernel.shape)
    response = np.exp(2j * np.pi * np.outer(middle, -y)) @ kernel @ np.exp(2j * np.pi * np.outer(x, middle))
    return np.abs(response) ** 2, middle[None, :], middle[:, None]


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (3, 5), (4, 4), (7, 7), (9, 9), (17, 17)], ids=str)
def test_parseval_integrals_agree_with_dense_integration(size):
    kernel = np.random.default_rng(sum(size)).standard_normal(size) * np.exp(-RNG.random() * np.arange(size[1]))
    power, u, v = dense(kernel, 1024)
    energy, radius = power.mean(), np.hypot(u, v)
    found = one(kernel)
    assert energy == pytest.approx((kernel**2).sum(), rel=1e-9)
    assert found["energy_low"] == pytest.approx((power * (radius < 1 / 6)).mean() / energy, abs=1e-3)
    assert found["energy_mid"] == pytest.approx((power * ((radius >= 1 / 6) & (radius < 1 / 3))).mean() / energy, abs=1e-3)
    assert found["energy_low"] + found["energy_mid"] + found["energy_high"] == pytest.approx(1, abs=1e-6)
    centroid = (power * radius).mean() / energy
    assert found["centroid"] == pytest.approx(centroid, abs=1e-5)
    assert found["bandwidth"] == pytest.approx(np.sqrt((power * (radius - centroid) ** 2).mean() / energy), abs=1e-5)
    tensor = np.array([[(power * a * b).mean() for a in (u, v)] for b in (u, v)])
    (lesser, greater), axes = np.linalg.eigh(tensor)
    assert found["anisotropy"] == pytest.approx((greater - lesser) / (greater + lesser), abs=1e-4)
    close_values(found["orientation"], np.degrees(np.arctan2(axes[1, 1], axes[0, 1])), 180)


@pytest.mark.parametrize("size", [(1, 2), (1, 5), (6, 1)], ids=str)
def test_a_strip_has_the_frequencies_along_it_only(size):
    kernel = RNG.standard_normal(size)
    power, u, v = dense(kernel, 1024)
    power, frequency = (power[0], np.abs(u[0])) if size[0] == 1 else (power[:, 0], np.abs(v[:, 0]))
    found = one(kernel)
    assert found["energy_low"] == pytest.approx(power[frequency < 1 / 6].sum() / power.sum(), abs=3e-3)
    assert found["centroid"] == pytest.approx((power * frequency).sum() / power.sum(), abs=1e-5)
    assert (found["anisotropy"], found["orientation"]) == (pytest.approx(1), 0 if size[0] == 1 else 90)


def test_an_impulse_has_a_flat_spectrum():
    found = one(impulse(5, 1, 4))
    assert found["energy_low"] == pytest.approx(np.pi / 36)
    assert found["energy_mid"] == pytest.approx(np.pi * (1 / 9 - 1 / 36))
    # The mean distance from the centre of a unit square.
    assert found["centroid"] == pytest.approx((np.sqrt(2) + np.arcsinh(1)) / 6)
    assert found["orientation"] is None


@pytest.mark.parametrize("size", [*SIZES, (17, 17), (20, 15)], ids=str)
def test_gains_at_dc_and_nyquist_are_the_sums_with_signs(size):
    kernel = RNG.standard_normal(size)
    found = one(kernel)
    rows, columns = (-1.0) ** np.arange(size[0])[:, None], (-1.0) ** np.arange(size[1])[None, :]
    expected = {
        "dc_gain": kernel, "nyquist_x": kernel * columns, "nyquist_y": kernel * rows, "nyquist_xy": kernel * rows * columns,
    }  # fmt: skip
    for name, signed in expected.items():
        assert found[name] == pytest.approx(abs(signed.sum()), rel=1e-5, abs=1e-6)
    assert found["dc_ratio"] == pytest.approx(kernel.sum() / np.abs(kernel).sum(), abs=1e-6)


@pytest.mark.parametrize("size", [(3, 3), (4, 5), (7, 7)], ids=str)
@pytest.mark.parametrize("n", [16, 15])
def test_frequency_response_is_numpys_with_v_up(size, n):
    kernel = RNG.standard_normal(size)
    response = frequency_response(kernel, n)
    expected = np.fft.fftshift(np.fft.fft2(kernel, s=(n, n)))
    # numpy's rows run down, and it has the conjugate: v up is its row reversed, and of -v the conjugate is that of v.
    frequencies = np.fft.fftshift(np.fft.fftfreq(n))
    for i, v in enumerate(frequencies[::-1]):
        for j, u in enumerate(frequencies):
            match = expected[np.argmin(np.abs((frequencies + v + 0.5) % 1 - 0.5)), j]
            assert abs(response[i, j]) == pytest.approx(abs(match))
            wave = np.exp(2j * np.pi * (u * (np.arange(size[1]) - (size[1] - 1) / 2)))
            column = np.exp(-2j * np.pi * (v * (np.arange(size[0]) - (size[0] - 1) / 2)))
            assert response[i, j] == pytest.approx(column @ kernel @ wave)


def test_frequency_response_is_what_a_layer_does_to_a_wave():
    kernel, (u, v) = RNG.standard_normal((5, 5)), (3 / 32, -5 / 32)
    rows, columns = np.mgrid[0:24, 0:24]
    wave = np.exp(2j * np.pi * (u * columns - v * rows))
    answer = correlate2d(wave, kernel, mode="same")[4:-4, 4:-4] / wave[4:-4, 4:-4]
    frequencies = np.fft.fftshift(np.fft.fftfreq(32))
    gain = frequency_response(kernel, 32)[list(frequencies[::-1]).index(v), list(frequencies).index(u)]
    np.testing.assert_allclose(answer, gain, atol=1e-12)


def test_frequency_response_of_a_strip_is_scipys():
    taps = RNG.standard_normal(5)
    frequencies = np.fft.fftshift(np.fft.fftfreq(32))
    expected = np.abs(freqz(taps, worN=2 * np.pi * frequencies)[1])
    np.testing.assert_allclose(np.abs(frequency_response(taps[None], 32)), np.tile(expected, (32, 1)), atol=1e-12)
    with pytest.raises(InvalidArgument, match="one kernel"):
        frequency_response(np.zeros((2, 3, 3)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_separable_energy_is_that_of_the_svd(size):
    kernels = RNG.standard_normal((50, *size)) * 10.0 ** RNG.uniform(-3, 3, (50, *size))
    s = np.linalg.svd(kernels, compute_uv=False)
    np.testing.assert_allclose(describe(kernels)["separable_energy"], s[:, 0] ** 2 / (s**2).sum(axis=1), atol=1e-6)


@given(seeds)
def test_parity_is_that_of_the_even_part(seed):
    kernel = random_kernel(seed)
    found = one(kernel)
    even = (kernel + kernel[::-1, ::-1]) / 2
    assert found["even_energy"] == pytest.approx((even**2).sum() / (kernel**2).sum(), abs=1e-5)
    wide = np.pad(kernel, 1)  # a turn about a half-pixel centre, in an array that holds it all
    best = {}
    for x in (-0.5, 0, 0.5):
        for y in (-0.5, 0, 0.5):
            if (x, y) != (0, 0):
                turned = np.roll(wide[::-1, ::-1], (int(-2 * y), int(2 * x)), axis=(0, 1))
                best[x, y] = (((wide + turned) / 2) ** 2).sum() / (kernel**2).sum()
    share = best[found["half_shift_x"], found["half_shift_y"]]
    assert found["half_even_energy"] == pytest.approx(share, abs=1e-5)
    assert found["half_even_energy"] + found["half_odd_energy"] == pytest.approx(1, abs=1e-6)
    assert abs(share - 0.5) == pytest.approx(max(abs(value - 0.5) for value in best.values()), abs=1e-5)


def test_a_half_pixel_derivative_is_odd_about_its_half_pixel_centre():
    found = one(jet(7, 0, "dx+"))
    assert (found["half_shift_x"], found["half_shift_y"]) == (0.5, 0)
    assert (found["half_odd_energy"], found["even_energy"]) == (1, 0.75)


def test_the_variance_of_a_gaussian_is_its_own_and_shifts_move_its_mean():
    for sigma_x, sigma_y in ((0.4, 0.8), (1, 2), (2.5, 1.5)):
        kernel = Jet(sigma_x, sigma_y, {"T": 1}).kernel(31, 31)
        found = one(np.roll(-2 * kernel, (-3, 2), axis=(0, 1)))
        assert (found["var_x"], found["var_y"]) == (pytest.approx(sigma_x**2, rel=1e-5), pytest.approx(sigma_y**2, rel=1e-5))
        assert (found["mean_x"], found["mean_y"]) == (pytest.approx(2, abs=1e-4), pytest.approx(3, abs=1e-4))
        assert found["cov_xy"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", SPREAD_OPERATORS)
def test_the_weighted_spread_is_the_paper_s(name):
    template = jet(7, 1, name)
    kernel = 0.3 - 2 * template + 0.05 * np.random.default_rng(3).standard_normal((7, 7)) * np.abs(template).max()
    found = one(kernel)
    assert found["spread_operator"] == name
    weight = np.abs(kernel) * np.abs(template)
    rows, columns = np.mgrid[3:-4:-1, -3:4]
    mean_x, mean_y = ((weight * p).sum() / weight.sum() for p in (columns, rows))
    assert found["weighted_mean_x"] == pytest.approx(mean_x, abs=1e-5)
    assert found["weighted_mean_y"] == pytest.approx(mean_y, abs=1e-5)
    assert found["weighted_var_y"] == pytest.approx((weight * (rows - mean_y) ** 2).sum() / weight.sum(), abs=1e-5)
    assert found["weighted_cov_xy"] == pytest.approx(
        (weight * (rows - mean_y) * (columns - mean_x)).sum() / weight.sum(), abs=1e-5
    )


# -- the contract --------------------------------------------------------------------------------------------------------

DTYPES = {"float32": np.float32, "int8": np.int8, "bool": np.bool_, "string": np.object_}
NUMBERS = [name for name, kind in COLUMNS.items() if kind == "float32"]
SOMETIMES_NULL = {"orientation", "direction", *(name for name in NUMBERS if name.startswith("weighted_"))}


def sound(columns, count):
    """Every column is there, of its type, and no value is NaN or infinite."""
    assert list(columns) == list(COLUMNS)
    for name, values in columns.items():
        assert values.shape == (count,)
        assert values.dtype == DTYPES[COLUMNS[name]]
        if COLUMNS[name] == "float32":
            assert np.isfinite(values.data).all(), name
    for name in ("energy_low", "energy_mid", "energy_high", "anisotropy", "even_energy", "half_even_energy", "half_odd_energy",
                 "separable_energy", "band_confidence"):  # fmt: skip
        assert (values := columns[name]).min() >= 0, name
        assert values.max() <= 1, name
    assert set(columns["band"].compressed()) <= set(BANDS)
    assert all(0 <= angle < 360 for angle in columns["direction"].compressed())
    assert all(0 <= angle < 180 for angle in columns["orientation"].compressed())


@given(st.sampled_from(SIZES), seeds, st.sampled_from([np.float32, np.float64]), st.floats(-20, 20), st.floats(0, 12))
def test_random_kernels_of_any_scale_have_every_number(size, seed, kind, exponent, spread):
    rng = np.random.default_rng(seed)
    kernels = rng.standard_normal((20, *size)) * 10.0 ** (exponent + rng.uniform(-spread, 0, (20, *size)))
    kernels[rng.random(kernels.shape) < 0.3] = 0
    kernels[0].flat[0] = 10.0**exponent
    kernels = kernels[np.abs(kernels).max(axis=(1, 2)) > 0].astype(kind)
    found = describe(kernels)
    sound(found, len(kernels))
    for name in NUMBERS:
        if name not in SOMETIMES_NULL:
            assert not np.ma.getmaskarray(found[name]).any(), name
    assert not np.ma.getmaskarray(found["band"]).any()


def test_integer_kernels_have_every_number():
    """Small integers make the ties and exact zeros that random numbers do not."""
    kernels = np.random.default_rng(4).integers(-2, 3, (3000, 3, 3))
    kernels = kernels[np.abs(kernels).max(axis=(1, 2)) > 0]
    found, negated = describe(kernels), describe(-kernels)
    sound(found, len(kernels))
    assert (found["band"].data == negated["band"].data).all()
    assert (found["derivative_order"].filled(-1) == negated["derivative_order"].filled(-1)).all()


@pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e-45, 1e-20, 1e20, 1e38, 1e300])
def test_the_extremes_of_floats_are_no_exception(scale):
    kernels = SOBEL[None] / 8 * scale
    found = describe(kernels)
    sound(found, 1)
    assert found["band"][0] == "differential"


def test_zero_kernels_are_null_with_a_reason_and_constants_are_boxes():
    found = describe(np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.full((3, 3), -1e-30), SOBEL, DXY]))
    sound(found, 5)
    assert found["reason"].tolist() == ["zero", "constant", "constant", None, "like no operator"]
    for name in COLUMNS:
        if name != "reason":
            assert found[name].mask[0], name
    for row in (1, 2):
        assert (found["band"][row], found["dc_ratio"][row]) == ("lowpass", 1 if row == 1 else -1)
        assert (found["var_x"][row], found["separable_energy"][row]) == (pytest.approx(2 / 3), pytest.approx(1))
        assert found["spread_operator"][row] is np.ma.masked
    assert not found["weighted_var_x"].mask[3]
    assert found["weighted_var_x"].mask[4]


def test_even_sizes_lack_only_the_weighted_spread():
    found = describe(RNG.standard_normal((10, 4, 4)))
    null = {name for name in COLUMNS if found[name].mask.all()}
    assert null - {"derivative_order", "direction"} == {"spread_operator", *(n for n in COLUMNS if n.startswith("weighted_"))}
    assert set(found["reason"]) == {"even size"}


def test_strips_and_single_taps_have_every_number():
    for size in ((1, 1), (1, 2), (2, 1), (1, 5), (5, 1), (1, 11)):
        found = describe(RNG.standard_normal((7, *size)))
        sound(found, 7)
        across = "var_y" if size[0] == 1 else "var_x"
        assert (found[across] == 0).all()
        np.testing.assert_allclose(found["separable_energy"], 1, atol=1e-6)
    assert one([[2.0]])["band"] == "identity"


@pytest.mark.parametrize("size", [3, 7, 17])
def test_a_row_depends_on_no_other(size):
    kernels = RNG.standard_normal((10_000 if size < 17 else 500, size, size)).astype(np.float32)  # several chunks
    found = describe(kernels)
    for row in (0, 1, len(kernels) // 2, len(kernels) - 1):
        alone = one(kernels[row])
        close({name: values.tolist()[row] for name, values in found.items()}, alone, COLUMNS)


def test_no_kernels_have_no_rows():
    found = describe(np.zeros((0, 7, 7)))
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(COLUMNS, (0,))


def test_the_input_is_not_changed_and_its_precision_does_not_matter():
    kernels = RNG.standard_normal((5, 7, 7)).astype(np.float32)
    before = kernels.copy()
    single, double = describe(kernels), describe(kernels.astype(np.float64))
    assert (kernels == before).all()
    for name in COLUMNS:
        assert single[name].tolist() == double[name].tolist()


def test_columns_go_to_arrow_with_their_nulls():
    types = {"float32": pa.float32(), "int8": pa.int8(), "bool": pa.bool_(), "string": pa.string()}
    found = describe(np.stack([np.zeros((5, 5)), gaussian(5, 1)]))
    batch = pa.table({name: pa.array(found[name], types[kind]) for name, kind in COLUMNS.items()})
    assert batch.to_pylist() == [{name: values.tolist()[row] for name, values in found.items()} for row in (0, 1)]
    assert VERSION >= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    kernels = np.ones((4, 3, 3))
    kernels[2, 1, 1] = bad
    with pytest.raises(InvalidArgument, match="Kernel 2 has weights that are NaN or infinite") as error:
        describe(kernels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [np.ones((3, 3)), np.ones((2, 0, 3)), np.ones((1, 3, 3), complex), np.array([[["a"]]])])
def test_what_are_no_kernels_is_refused(bad):
    with pytest.raises(InvalidArgument, match="Kernels are numbers"):
        describe(bad)
