"""The shapes of trained kernels: laws of their families, textbook kernels by name, and how often noise looks like one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterdb import banks
from filterdb.kernels import centred_unit, shapes

SIZES = [(3, 3), (5, 5), (7, 7), (9, 9), (5, 7)]
OPPOSITE = {
    "on_centre": "off_centre", "on_cross": "off_cross", "on_square": "off_square", "dx_plus": "dx_minus", "dy_plus": "dy_minus",
}  # fmt: skip
NEGATED = OPPOSITE | {b: a for a, b in OPPOSITE.items()} | {"second_derivative": "second_derivative"}


def unit(kernels: np.ndarray) -> np.ndarray:
    """Kernels (n, h, w) as centred unit rows."""
    return centred_unit(np.asarray(kernels, np.float64)).unit.astype(np.float32)


def scores(kernels: np.ndarray) -> dict[str, np.ndarray]:
    """How well kernels (n, h, w) fit each shape of their size, by name."""
    names, table = shapes.fit(unit(kernels), *kernels.shape[1:])
    return dict(zip(names, table.T, strict=True))


def name_of(kernel: np.ndarray) -> str:
    """The shape that a kernel fits best."""
    found = scores(kernel[None])
    return max(found, key=lambda name: found[name][0])


def inside(small: list[list[float]] | np.ndarray, size: int) -> np.ndarray:
    """A small kernel in the middle of zeros, (size, size)."""
    small = np.array(small, np.float64)
    around = [((size - n) // 2, size - n - (size - n) // 2) for n in small.shape]
    return np.pad(small, around)


def noise(size: tuple[int, int], n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, *size))


# -- families --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_ideal_kernels_are_centred_and_of_unit_length_and_fit_their_own_shape_perfectly(size):
    names = shapes.shapes_at(*size)
    assert len(names) == (11 if size == (5, 5) else 9)
    for name in names:
        ideal = shapes.family(name, *size)
        assert ideal.shape == (len(ideal), size[0] * size[1])
        np.testing.assert_allclose(ideal.sum(axis=1), 0, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(ideal, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(shapes.similarity(ideal, name, *size), 1, atol=1e-6)
        with pytest.raises(ValueError, match="read-only"):
            ideal[0, 0] = 1


def test_sizes_without_a_centre_pixel_or_room_around_it_have_no_shapes():
    for size in [(2, 2), (4, 4), (6, 6), (7, 4), (4, 7), (1, 9), (9, 1), (1, 1), (5, 1)]:
        assert shapes.shapes_at(*size) == []
        names, table = shapes.fit(np.zeros((3, size[0] * size[1]), np.float32), *size)
        assert names == []
        assert table.shape == (3, 0)


def test_squares_are_told_apart_at_5x5_only():
    for size in SIZES:
        assert [name for name in shapes.shapes_at(*size) if "square" in name] == (
            ["on_square", "off_square"] if size == (5, 5) else []
        )


@pytest.mark.parametrize("size", SIZES)
def test_the_names_say_where_the_kernel_is_bright(size):
    h, w = size
    right = np.tile(np.arange(w) - (w - 1) / 2, (h, 1)).ravel()
    up = np.repeat((h - 1) / 2 - np.arange(h), w)
    for name, ramp in [("dx_plus", right), ("dx_minus", -right), ("dy_plus", up), ("dy_minus", -up)]:
        ideal = shapes.family(name, h, w)
        across = up if name.startswith("dx") else right
        assert (ideal @ ramp > 0.1).all(), name
        np.testing.assert_allclose(ideal @ across, 0, atol=1e-5)
    for name, sign in [("on_centre", 1), ("off_centre", -1), ("on_cross", 1), ("off_cross", -1)]:
        ideal = sign * shapes.family(name, h, w)
        assert (ideal.argmax(axis=1) == h * w // 2).all(), name


@pytest.mark.parametrize("size", SIZES)
def test_the_negative_of_a_kernel_has_the_opposite_shape(size):
    kernels = noise(size)
    plain, negated = scores(kernels), scores(-kernels)
    for name in plain:
        np.testing.assert_allclose(negated[NEGATED[name]], plain[name], atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_turned_and_mirrored_kernels_have_their_derivatives_turned_and_mirrored_and_nothing_else(size):
    kernels = noise(size)
    plain = scores(kernels)
    laws = {
        # y is up and row 0 on top: transposed, bright right becomes bright below.
        "transposed": (
            kernels.transpose(0, 2, 1),
            {"dx_plus": "dy_minus", "dy_minus": "dx_plus", "dx_minus": "dy_plus", "dy_plus": "dx_minus"},
        ),
        "left and right": (kernels[:, :, ::-1], {"dx_plus": "dx_minus", "dx_minus": "dx_plus"}),
        "up and down": (kernels[:, ::-1], {"dy_plus": "dy_minus", "dy_minus": "dy_plus"}),
        "a quarter turn counter-clockwise": (
            np.rot90(kernels, axes=(1, 2)),
            {"dx_plus": "dy_plus", "dy_plus": "dx_minus", "dx_minus": "dy_minus", "dy_minus": "dx_plus"},
        ),
    }
    for law, (moved, becomes) in laws.items():
        found = scores(moved)
        for name in plain:
            np.testing.assert_allclose(found[becomes.get(name, name)], plain[name], atol=1e-6, err_msg=f"{law}: {name}")


@given(st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 1000))
def test_gain_and_offset_leave_the_fit_unchanged(a, b, seed):
    kernels = np.random.default_rng(seed).standard_normal((5, 7, 7))
    plain, moved = scores(kernels), scores(a * kernels + b)
    for name in plain:
        np.testing.assert_allclose(moved[name], plain[name], atol=1e-5)


def test_the_fit_is_the_largest_pearson_correlation_and_best_is_the_kernel_that_has_it():
    kernels = noise((5, 5), 6)
    for name, found in scores(kernels).items():
        ideal = shapes.family(name, 5, 5)
        for kernel, row, similarity in zip(kernels, unit(kernels), found, strict=True):
            truth = max(np.corrcoef(kernel.ravel(), other)[0, 1] for other in ideal)
            assert similarity == pytest.approx(truth, abs=1e-6)
            best = shapes.best(row, name, 5, 5)
            assert best.shape == (5, 5)
            assert np.corrcoef(kernel.ravel(), best.ravel())[0, 1] == pytest.approx(truth, abs=1e-6)


def test_dead_kernels_fit_nothing_and_are_never_nan():
    found = scores(np.stack([np.zeros((5, 5)), np.full((5, 5), 0.1)]))
    assert all((values == 0).all() for values in found.values())


# -- names -----------------------------------------------------------------------------------------------------------------

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])  # bright right
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])  # a hole in the middle
SECOND = np.array([[1, -2, 1], [2, -4, 2], [1, -2, 1]])


@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_textbook_derivatives_get_their_names(size):
    for name, kernel in [
        ("dx_plus", SOBEL), ("dx_minus", -SOBEL), ("dy_minus", SOBEL.T), ("dy_plus", -SOBEL.T),
        ("dx_plus", np.sign(SOBEL)), ("dy_plus", -np.sign(SOBEL.T)),  # Prewitt
        ("dx_plus", [[0, -1, 1]]), ("dx_plus", [[-1, 1, 0]]), ("dy_plus", [[1], [-1], [0]]),  # half a pixel off
        ("second_derivative", [[1, -2, 1]]), ("second_derivative", [[1], [-2], [1]]), ("second_derivative", -SECOND),
        ("second_derivative", SECOND.T), ("second_derivative", [[-1, 0, 1], [0, 0, 0], [1, 0, -1]]),
        ("off_centre", LAPLACIAN), ("on_centre", -LAPLACIAN), ("off_centre", 1 - 9 * inside([[1]], 3)),
        ("on_centre", [[1]]), ("off_centre", [[-1]]),
    ]:  # fmt: skip
        kernel = inside(kernel, size)
        assert name_of(kernel) == name
        assert scores(kernel[None])[name][0] > 0.88


@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.0, 1.3, 1.6])
def test_a_sampled_gaussian_is_a_centre(sigma):
    x = np.arange(-3, 4)
    gaussian = np.exp(-(x[:, None] ** 2 + x**2) / (2 * sigma**2))
    assert name_of(gaussian) == "on_centre"
    assert name_of(-gaussian) == "off_centre"
    assert scores(gaussian[None])["on_centre"][0] > 0.97


@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_a_plus_that_reaches_the_border_is_a_cross(size):
    plus = np.zeros((size, size))
    plus[size // 2] = plus[:, size // 2] = 1
    assert name_of(plus) == "on_cross"
    assert name_of(-plus) == "off_cross"


def test_a_block_is_a_square_at_5x5_wherever_it_lies_near_the_centre():
    for side, top, left in [(2, 1, 1), (2, 2, 1), (3, 1, 1), (3, 0, 2), (4, 0, 1)]:
        block = np.zeros((5, 5))
        block[top : top + side, left : left + side] = 1
        for name, sign in [("on_square", 1), ("off_square", -1)]:
            assert name_of(sign * block) == name
            assert scores(sign * block[None])[name][0] == pytest.approx(1, abs=1e-6)


def test_the_eight_learned_filters_get_the_names_of_where_they_are_bright():
    # The number of each is that of the published list; their labels say where they are bright.
    expected = {
        "1_dy+": "dy_minus", "2_dx-": "dx_plus", "3_dy-": "dy_plus", "4_dx+": "dx_minus", "5_dx": "dx_minus",
        "6_dy": "dy_minus", "7_sharpen": "on_centre", "8_smooth": "on_centre",
    }  # fmt: skip
    bright = {"dy_minus": "bright below", "dy_plus": "bright above", "dx_plus": "bright right", "dx_minus": "bright left"}
    bank = banks.load("greedy8")
    assert {name: name_of(kernel) for name, kernel in zip(bank.names, bank.templates, strict=True)} == expected
    for name, label in zip(bank.names, bank.labels, strict=True):
        assert bright.get(expected[name], "") in label
    for kernel, name in zip(bank.templates, expected.values(), strict=True):
        assert scores(kernel[None])[name][0] > 0.85


@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_the_ideal_bank_gets_its_own_names_and_words(size):
    bank = banks.load("dog", size=size)
    for name, label, kernel in zip(bank.names, bank.labels, bank.templates, strict=True):
        own = "second_derivative" if name in ("dxx", "dyy") else name
        assert name_of(kernel) == own
        if own == name:
            assert shapes.SHAPES[name] == label


def test_noise_seldom_looks_like_a_shape():
    kernels = noise((7, 7), 5000)
    best = np.max(list(scores(kernels).values()), axis=0)
    assert (best > 0.7).mean() < 0.001
    assert 0 < (best > 0.5).mean() < 0.05
