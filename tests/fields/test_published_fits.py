"""The fits of arXiv 2509.12746: its printed table again from the eight learned filters, and kernels of known scales."""

from __future__ import annotations

import numpy as np
import pytest
from real import data

from filterdb import Bank, Database, banks
from filterdb.errors import InvalidArgument, NotFound
from filterdb.fields.fits import published
from filterdb.kernels.scale_space import discrete_gaussian, mask

EIGHT = ("dy+", "dx-", "dy-", "dx+", "dx", "dy", "sharpening", "T")
"""The paper's forms of the eight filters, as impulse responses."""
DIGIT = 1e-3
"""One unit of the last printed digit: some digits of the table are rounded, others cut off (5 by C1: ours 1.30903 and .87579)."""

TABLE = {  # sigma_x, sigma_y; one sigma for C2 and D2
    1: {"A": (0.580, 0.558), "B": (0.644, 0.583), "C1": (0.360, 0.510), "C2": (0.458,), "D1": (0.491, 0.722), "D2": (0.644,)},
    2: {"A": (0.559, 0.580), "B": (0.586, 0.644), "C1": (0.555, 0.453), "C2": (0.448,), "D1": (0.581, 0.519), "D2": (0.558,)},
    3: {"A": (0.617, 0.601), "B": (0.690, 0.674), "C1": (0.701, 0.655), "C2": (0.671,), "D1": (0.483, 0.503), "D2": (0.495,)},
    4: {"A": (0.642, 0.424), "B": (0.756, 0.460), "C1": (0.563, 0.384), "C2": (0.420,), "D1": (0.500, 0.0), "D2": (0.380,)},
    5: {"A": (1.075, 0.800), "B": (1.107, 0.945), "C1": (1.309, 0.875), "C2": (1.387,), "D1": (1.300, 1.004), "D2": (1.193,)},
    6: {"A": (0.771, 1.003), "B": (0.900, 0.889), "C1": (0.973, 1.171), "C2": (1.090,), "D1": (0.984, 1.074), "D2": (1.038,)},
    8: {"A": (0.552, 0.545), "B": (0.609, 0.601), "C1": (0.637, 0.587), "C2": (0.612,), "D1": (0.615, 0.608), "D2": (0.612,)},
}  # fmt: skip
GROUPS = {
    (1, 2, 3, 4, 8): {"A": 0.563, "B": 0.620, "C2": 0.607, "D2": 0.522},
    (5, 6): {"A": 0.903, "B": 0.956, "C2": 1.133, "D2": 1.108},
}


@pytest.fixture(scope="module")
def learned() -> Bank:
    return banks.read(data() / "greedy8" / "learned.txt")


# -- the printed table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", TABLE)
@pytest.mark.parametrize("method", published.METHODS)
def test_the_printed_scales(learned: Bank, number: int, method: str) -> None:
    found = published.fit(learned.templates[number - 1], EIGHT[number - 1], method)
    printed = TABLE[number][method]
    assert (found.sigma_x, found.sigma_y) == pytest.approx((printed[0], printed[-1]), abs=DIGIT)
    if len(printed) == 1:
        assert found.sigma_x == found.sigma_y
    assert found.at_bound == (0.0 in printed)  # the paper prints ~0
    assert (found.error is None) == (method in "AB")
    assert found.alpha is None


@pytest.mark.parametrize("numbers", GROUPS)
@pytest.mark.parametrize("method", ["A", "B", "C2", "D2"])
def test_the_printed_scales_of_groups(learned: Bank, numbers: tuple[int, ...], method: str) -> None:
    kernels, forms = [learned.templates[n - 1] for n in numbers], [EIGHT[n - 1] for n in numbers]
    assert published.fit_group(kernels, forms, method) == pytest.approx(GROUPS[numbers][method], abs=DIGIT)


def test_sharpening_where_our_digits_are_not_the_printed_ones(learned: Bank) -> None:
    kernel = learned.templates[6]
    # l2: sigma .6754, alpha .5256 printed. alpha follows the DC offset, whose last digits we find otherwise, see below.
    for method in ("D1", "D2"):
        found = published.fit(kernel, "sharpening", method)
        assert found.sigma_x == found.sigma_y == pytest.approx(0.6754, abs=DIGIT)
        assert found.alpha == pytest.approx(0.5271, abs=1e-4)
    # l1: .6538 and .5216 printed. Ours is another place, and a better one.
    for method in ("C1", "C2"):
        found = published.fit(kernel, "sharpening", method)
        assert (found.sigma_x, found.alpha) == pytest.approx((0.6580, 0.4980), abs=1e-4)
        printed = published.template("sharpening", (7, 7), 0.6538, 0.6538, 0.5216)
        assert found.error is not None
        assert found.error < 0.94 * np.abs(published.normalised(kernel, "sharpening") - printed).sum()


def test_with_the_papers_own_dc_offset_the_sharpening_is_the_printed_one(learned: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "dc_offset", lambda _: -0.011775)
    found = published.fit(learned.templates[6], "sharpening", "D1")
    assert (found.sigma_x, found.alpha) == pytest.approx((0.6754, 0.5256), abs=DIGIT)


def test_the_printed_dc_offsets_but_for_their_last_digits(learned: Bank) -> None:
    offsets = [published.dc_offset(learned.templates[n - 1]) for n in (7, 8)]
    assert offsets == pytest.approx([-0.011775, -0.038633], abs=2e-5)
    # where the spread is least to all our digits: the printed values leave more
    for kernel, ours, theirs in zip(learned.templates[6:], offsets, (-0.011775, -0.038633), strict=True):
        assert area(kernel - ours) <= area(kernel - theirs)


def area(kernel: np.ndarray) -> float:
    """det V of |kernel|, written out."""
    rows, columns = np.mgrid[0 : kernel.shape[0], 0 : kernel.shape[1]]
    points, weights = np.stack([columns.ravel(), rows.ravel()]), np.abs(kernel.astype(float)).ravel()
    return float(np.linalg.det(np.cov(points, aweights=weights, ddof=0)))


def test_each_learned_filter_has_the_sign_of_its_form(learned: Bank) -> None:
    """With y down or a mirrored half pixel this would be .03 to .2 for some."""
    for kernel, form, least in zip(learned.templates, EIGHT, (0.8, 0.9, 0.85, 0.85, 0.9, 0.9, 0.98, 0.98), strict=True):
        found = published.fit(kernel, form, "D1")
        template = published.template(form, (7, 7), found.sigma_x, found.sigma_y, found.alpha or 1.0)
        h = published.normalised(kernel, form)
        assert np.corrcoef(template.ravel(), h.ravel())[0, 1] > least


# -- kernels of known scales -----------------------------------------------------------------------------------------------

DERIVATIVES = ("dx", "dx+", "dx-", "dy", "dy+", "dy-")


@pytest.mark.parametrize("form", ["T", *DERIVATIVES])
def test_b_finds_the_scales_of_its_own_forms(form: str) -> None:
    for sigmas in [(0.35, 0.6), (0.7, 0.5), (0.05, 0.45), (1.4, 0.8)]:
        found = published.fit(published.template(form, (7, 7), *sigmas), form, "B")
        # T loses its DC first, and a cropped T has some: exact only where it fades within the kernel.
        close = 1e-6 if form in DERIVATIVES else 0.06 * max(sigmas) ** 4
        assert (found.sigma_x, found.sigma_y) == pytest.approx(sigmas, abs=max(close, 1e-6)), sigmas
        assert not found.at_bound


@pytest.mark.parametrize("form", ["T", "dx", "dx+", "dy-"])
@pytest.mark.parametrize("method", ["C1", "D1", "C2", "D2"])
def test_c_and_d_find_the_scales_of_their_own_forms(form: str, method: str) -> None:
    sigmas = (0.6, 0.6) if method.endswith("2") else (0.6, 0.45)
    wide = published.fit(published.template(form, (13, 13), *sigmas), form, method)
    assert (wide.sigma_x, wide.sigma_y) == pytest.approx(sigmas, abs=1e-4)
    assert wide.error == pytest.approx(0, abs=1e-5)
    # 7x7 crops the form, so that its sum or its response to a ramp is not quite what it is scaled to.
    narrow = published.fit(published.template(form, (7, 7), *sigmas), form, method)
    assert (narrow.sigma_x, narrow.sigma_y) == pytest.approx(sigmas, abs=0.01)


@pytest.mark.parametrize("method", ["C1", "C2", "D1", "D2"])
def test_sharpening_finds_its_scale_and_alpha(method: str) -> None:
    sigma, alpha = 0.7, 0.9
    found = published.fit(published.template("sharpening", (13, 13), sigma, sigma, alpha), "sharpening", method)
    assert (found.sigma_x, found.sigma_y, found.alpha) == pytest.approx((sigma, sigma, alpha), abs=1e-4)
    # At 7x7 the removal of what is taken for DC costs alpha much: that is how sensitive it is, in the paper too.
    narrow = published.fit(published.template("sharpening", (7, 7), sigma, sigma, alpha), "sharpening", method)
    assert narrow.sigma_x == pytest.approx(sigma, abs=0.02)
    assert 0.7 * alpha < narrow.alpha < alpha


@pytest.mark.parametrize("form", DERIVATIVES)
def test_a_is_the_continuous_closed_form_of_the_weighted_variance(form: str) -> None:
    """sigma²/2 along an axis of T and 3 sigma²/2 along that of its derivative, for the variance worked out axis by axis."""
    for sigmas in [(0.5, 0.8), (1.2, 0.6)]:
        found = published.fit(published.template(form, (7, 7), *sigmas), form, "A")
        for axis, sigma in zip("xy", sigmas, strict=True):
            derivative = form.replace(axis, "", 1) if axis in form else ""
            profiles = [np.abs(cropped(scale, derivative)) for scale in (sigma, 1.0)]
            weight = profiles[0] * profiles[1]
            n = np.arange(-3, 4)
            mean = (n * weight).sum() / weight.sum()
            variance = ((n - mean) ** 2 * weight).sum() / weight.sum()
            expected = np.sqrt(2 * variance / (3 if derivative else 1))
            assert getattr(found, f"sigma_{axis}") == pytest.approx(expected, abs=1e-9)
    # A continuous theory of discrete kernels: at sigma = 1, its only own scale, it is right to a quarter.
    one = published.fit(published.template(form, (15, 15), 1, 1), form, "A")
    assert (one.sigma_x, one.sigma_y) == pytest.approx((1, 1), rel=0.25)


def cropped(sigma: float, derivative: str) -> np.ndarray:
    """A difference of T cropped to seven taps whose outermost repeats; symmetric or not, only its moments count here."""
    t = discrete_gaussian(3, sigma**2)
    return t if not derivative else np.convolve(np.pad(t, 1, mode="edge"), mask(derivative), mode="valid")


@pytest.mark.parametrize("form", ["T", "dx", "dy+", "sharpening"])
@pytest.mark.parametrize("method", ["A", "B", "C1", "D2"])
def test_gain_does_not_matter_and_dc_only_to_derivatives(form: str, method: str) -> None:
    if form == "sharpening" and method in published.BY_VARIANCE:
        return
    noise = np.random.default_rng(0).standard_normal((7, 7))
    kernel = published.template(form, (7, 7), 0.6, 0.7) + 0.01 * noise
    expected = published.fit(kernel, form, method)
    found = published.fit(-30 * kernel + 2 if form in ("T", "sharpening") else -30 * kernel, form, method)
    # the dc offset is found to 1e-9 of the taps' range, and sharpening's alpha is sensitive to it
    assert (found.sigma_x, found.sigma_y) == pytest.approx((expected.sigma_x, expected.sigma_y), abs=1e-4)
    assert (found.alpha or 0) == pytest.approx(expected.alpha or 0, abs=1e-4)
    assert (found.error or 0) == pytest.approx(expected.error or 0, abs=1e-5)


def test_transposing_swaps_the_axes() -> None:
    noise = 0.02 * np.random.default_rng(1).standard_normal((7, 7))
    for form, other in [("dx+", "dy+"), ("dx", "dy"), ("T", "T")]:
        kernel = published.template(form, (7, 7), 0.5, 0.8) + noise
        turned = kernel[::-1].T[::-1]  # about the diagonal y = x
        for method in ("A", "B", "D1"):
            here, there = published.fit(kernel, form, method), published.fit(turned, other, method)
            assert (there.sigma_x, there.sigma_y) == pytest.approx((here.sigma_y, here.sigma_x), abs=1e-4)


def test_a_template_is_the_impulse_response_of_its_form() -> None:
    """The paper's dx+ brightens left as a correlation: torch weights are impulse responses turned by 180 degrees."""
    assert published.template("dx+", (3, 3), 0, 0)[1].tolist() == [1, -1, 0]
    assert published.template("dx-", (3, 3), 0, 0)[1].tolist() == [0, 1, -1]
    assert published.template("dy+", (3, 3), 0, 0)[:, 1].tolist() == [0, -1, 1]  # bright below
    assert published.template("dy-", (3, 3), 0, 0)[:, 1].tolist() == [-1, 1, 0]
    y, x = np.mgrid[3:-4:-1, -3:4]
    for form, ramp in [("dx", x), ("dx+", x), ("dy", y), ("dy-", y)]:
        assert (published.template(form, (7, 7), 0.4, 0.4) * ramp).sum() == pytest.approx(-1, abs=1e-3)
    assert published.template("T", (7, 7), 0.4, 0.4).sum() == pytest.approx(1, abs=1e-4)
    assert published.template("sharpening", (7, 7), 0.4, 0.4, 0.8).sum() == pytest.approx(1, abs=1e-4)


def test_sizes_that_are_not_square() -> None:
    for size in [(5, 9), (9, 5)]:
        found = published.fit(published.template("dy-", size, 0.3, 0.35), "dy-", "B")
        assert (found.sigma_x, found.sigma_y) == pytest.approx((0.3, 0.35), abs=1e-6)
    # Three taps along a derivative leave two that are equal, at any scale: nothing there tells it.
    found = published.fit(published.template("dy-", (3, 5), 0.3, 0.35), "dy-", "B")
    assert (found.sigma_x, found.sigma_y, found.at_bound) == (pytest.approx(0.3, abs=1e-6), 0.0, True)


def test_a_scale_at_its_bound_is_flagged() -> None:
    found = published.fit(published.template("dx", (7, 7), 0.6, 0.0), "dx", "D1")
    assert found.sigma_y < published.AT_BOUND
    assert found.at_bound
    broad = np.add.outer(np.zeros(7), -np.sign(np.arange(-3, 4.0)))  # an edge as high as the kernel
    found = published.fit(broad, "dx", "B")
    assert found.sigma_y == 3.5
    assert found.at_bound


# -- slips -----------------------------------------------------------------------------------------------------------------

GOOD = published.template("dx", (7, 7), 0.5, 0.5)


@pytest.mark.parametrize(
    ("kernel", "form", "method", "words"),
    [
        (GOOD[:6], "dx", "B", "even size 6x7"),
        (GOOD[:, 1:], "T", "D1", "even size 7x6"),
        (GOOD[3:4], "dx", "B", "3x3 or larger, got 1x7"),
        (GOOD[:, 3:4], "dy", "B", "3x3 or larger, got 7x1"),
        (np.ones((7, 7)), "T", "A", "constant kernel has no spread"),
        (np.zeros((5, 5)), "dx", "C1", "constant kernel has no spread"),
        (np.where(GOOD < 0, np.nan, GOOD), "dx", "A", "finite numbers"),
        (GOOD[None], "dx", "A", "2-D array"),
        (GOOD, "sharpening", "A", "no fit by variance"),
        (GOOD, "sharpening", "B", "use C1, C2, D1 or D2"),
        (GOOD, "dy", "D1", "no response in common with the form dy"),
        (GOOD, "T", "C2", "no response in common with the form T"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(kernel: np.ndarray, form: str, method: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        published.fit(kernel, form, method)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r'No form "dxx"\. Did you mean "dx"'):
        published.fit(GOOD, "dxx", "B")
    with pytest.raises(NotFound, match=r'No method "D"\. Did you mean "D1" or "D2"|No method "D"\. Did you mean "D2" or "D1"'):
        published.fit(GOOD, "dx", "D")
    with pytest.raises(NotFound, match='No method "E"'):
        published.fit_group([GOOD], ["dx"], "E")
    with pytest.raises(InvalidArgument, match="2 kernels need as many forms, got 1: dx"):
        published.fit_all([GOOD, GOOD], ["dx"], "B")
    with pytest.raises(InvalidArgument, match="its own alpha"):
        published.fit_group([GOOD, published.template("sharpening", (7, 7), 0.5, 0.5)], ["dx", "sharpening"], "D2")


# -- banks -----------------------------------------------------------------------------------------------------------------


def test_a_bank_is_fitted_with_all_methods(db: Database) -> None:
    forms = ["dx+", "T", "sharpening"]
    made = Bank(name="mine", names=["a", "b", "c"], templates=[published.template(form, (7, 7), 0.5, 0.6) for form in forms])
    rows = db.fit_bank(made, forms).to_arrow_table().to_pylist()
    assert [(row["template"], row["form"], row["method"]) for row in rows] == [
        (name, form, method)
        for name, form in zip("abc", forms, strict=True) for method in published.METHODS
        if not (form == "sharpening" and method in "AB")
    ]  # fmt: skip
    assert list(rows[0]) == ["template", "form", "method", "sigma_x", "sigma_y", "alpha", "error", "at_bound"]
    [b] = [row for row in rows if (row["template"], row["method"]) == ("a", "B")]
    assert (b["sigma_x"], b["sigma_y"]) == pytest.approx((0.5, 0.6), abs=1e-5)
    assert [row["method"] for row in db.fit_bank(made, forms, ["B"]).to_arrow_table().to_pylist()] == ["B", "B"]
    for wrong, methods, words in [
        (["dx+", "T"], None, "3 kernels need as many forms, got 2: dx+, T"),
        (["dx+", "T", "sharp"], None, 'Did you mean "sharpening"'),
        (forms, ["F"], 'No method "F"'),
    ]:
        with pytest.raises((InvalidArgument, NotFound), match=words.replace("+", r"\+")):
            db.fit_bank(made, wrong, methods)
    with pytest.raises(InvalidArgument, match="even size 4x4"):
        db.fit_bank(Bank(name="even", names=["a"], templates=np.eye(4)[None]), ["T"])
    assert not db.exists()


def test_a_shipped_bank_by_its_name(db: Database) -> None:
    rows = db.fit_bank("greedy8", list(EIGHT), ["D1"]).to_arrow_table().to_pylist()
    assert len(rows) == 8
    # greedy8 has the learned filters' shapes to rho .99, so their scales are near the printed ones where these are well defined
    by_form = {row["form"]: row for row in rows}
    assert (by_form["dx"]["sigma_x"], by_form["dx"]["sigma_y"]) == pytest.approx((1.3, 1.004), abs=0.1)
    assert (by_form["T"]["sigma_x"], by_form["T"]["sigma_y"]) == pytest.approx((0.615, 0.608), abs=0.03)
