"""Banks: what they hold, how they scale, what they refuse, and that files give back what was written."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.signal import correlate2d

from filterdb import banks
from filterdb.banks import Bank
from filterdb.errors import BankError, FilterdbError, InvalidArgument, NotFound
from filterdb.kernels import centred_unit

LEARNED = Path(__file__).parents[3] / "shared" / "data" / "greedy8" / "learned.txt"
needs_learned = pytest.mark.skipif(not LEARNED.is_file(), reason="shared/data/greedy8/learned.txt is not here")

PUBLISHED = {
    "A": [0.842, 0.944, 0.914, 0.904, 0.942, 0.944, 0.997, 0.994],
    "B": [0.837, 0.939, 0.910, 0.906, 0.946, 0.954, 0.997, 0.997],
    "C1": [0.846, 0.945, 0.909, 0.899, 0.936, 0.928, 0.997, 0.997],
    "C2": [0.844, 0.945, 0.912, 0.887, 0.891, 0.928, 0.997, 0.997],
    "D1": [0.844, 0.945, 0.911, 0.891, 0.936, 0.939, 0.997, 0.997],
    "D2": [0.837, 0.945, 0.911, 0.884, 0.926, 0.939, 0.997, 0.997],
}
"""Signed similarity of each published form to its learned filter, measured here."""


def similarities(bank: Bank, other: Bank) -> np.ndarray:
    return np.einsum("ij,ij->i", bank.unit, other.unit)


# What ships


def test_every_shipped_bank_is_whole() -> None:
    assert banks.shipped() == ["greedy8", "greedy9", "greedy8_published", "dog", "random", "smoothed_random", "impulse", "box"]
    for name in banks.shipped():
        bank = banks.load(name)
        assert (bank.name, bank.size, bank.scalable) == (name, "7x7", True)
        assert bank.templates.dtype == np.float32
        assert bank.templates.shape == (len(bank), 7, 7)
        assert len(bank.labels) == len(bank.names) == len(bank) > 0
        assert bank.made_by
        np.testing.assert_allclose(np.linalg.norm(bank.unit, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(bank.unit.sum(axis=1), 0, atol=1e-6)
        assert "\n" not in repr(bank)


@needs_learned
def test_greedy8_is_the_learned_eight_with_their_signs() -> None:
    assert (similarities(banks.load("greedy8"), banks.read(LEARNED)) > 0.99).all()


@needs_learned
@pytest.mark.parametrize("method", PUBLISHED)
def test_the_published_forms_point_the_way_of_the_learned_eight(method: str) -> None:
    rho = similarities(banks.load("greedy8_published", method=method), banks.read(LEARNED))
    np.testing.assert_allclose(rho, PUBLISHED[method], atol=1e-3)


@needs_learned
def test_a_flipped_or_mirrored_published_form_would_be_noticed() -> None:
    bank, learned = banks.load("greedy8_published"), banks.read(LEARNED)
    for turn in (bank.templates[:, ::-1], bank.templates[:, :, ::-1]):
        turned = Bank("turned", bank.names, turn)
        assert similarities(turned, learned).min() < 0.2


@pytest.mark.parametrize("name", ["greedy8", "greedy8_published"])
def test_jets_keep_their_scale_in_pixels_so_a_smaller_kernel_is_the_centre_crop(name: str) -> None:
    large = banks.load(name, size="11x9")
    np.testing.assert_array_equal(large.at("7x7").templates, large.templates[:, 2:-2, 1:-1])
    np.testing.assert_array_equal(large.at(7).templates, banks.load(name).templates)


@pytest.mark.parametrize("size", ["3x3", "5x5", "7x7", "27x27", "5x9"])
def test_dog_has_its_symmetries_at_every_odd_size(size: str) -> None:
    bank = banks.load("dog", size=size)
    k = dict(zip(bank.names, bank.templates))
    for plus, minus in [("on_centre", "off_centre"), ("on_cross", "off_cross"), ("dx_plus", "dx_minus"), ("dy_plus", "dy_minus")]:
        np.testing.assert_array_equal(k[plus], -k[minus])
    for even in ("on_centre", "on_cross", "dxx", "dyy"):
        np.testing.assert_allclose(k[even], k[even][::-1, ::-1], atol=1e-7)
    centre = bank.kernel_h // 2, bank.kernel_w // 2
    assert k["on_centre"][centre] == k["on_centre"].max()
    assert k["on_cross"][centre] == k["on_cross"].max()
    rows, columns = np.mgrid[: bank.kernel_h, : bank.kernel_w].astype(np.float32)
    for name, image in {"dx_plus": columns, "dy_plus": -rows, "dxx": (columns - centre[1]) ** 2}.items():
        assert correlate2d(image, k[name], mode="valid")[0, 0] > 0, name
    # Apart from the pairs of opposites no two templates say the same, even on 3x3.
    similar = np.abs(bank.unit @ bank.unit.T)
    similar[similar > 1 - 1e-6] = 0
    assert similar.max() < 0.95


def test_controls_are_seeded_and_take_options() -> None:
    for name in ("random", "smoothed_random", "impulse"):
        one, again, other = banks.load(name, seed=3), banks.load(name, seed=3), banks.load(name, seed=4)
        np.testing.assert_array_equal(one.templates, again.templates)
        assert not np.array_equal(one.templates, other.templates)
        assert len(banks.load(name, count=3)) == 3
        np.testing.assert_array_equal(one.at("5x5").templates, banks.load(name, size="5x5", seed=3).templates)
    smooth, rough = banks.load("smoothed_random", sigma=2.0, count=64), banks.load("smoothed_random", sigma=0, count=64)

    def neighbours(bank: Bank) -> float:
        return float((bank.templates[:, :, 1:] * bank.templates[:, :, :-1]).mean() / (bank.templates**2).mean())

    assert neighbours(smooth) > 0.9 > 0.1 > abs(neighbours(rough))


def test_impulses_and_boxes_are_what_their_names_say() -> None:
    impulses = banks.load("impulse")
    for name, template in zip(impulses.names, impulses.templates):
        row, column = map(int, name[1:].split("c"))
        assert template[row, column] == 1 == template.sum()
    boxes = banks.load("box")
    assert [int(template.sum()) for template in boxes.templates] == [4, 9, 16, 25, 36]
    np.testing.assert_array_equal(boxes.templates[1], np.pad(np.ones((3, 3)), 2))
    assert banks.load("box", size="1x5").templates.sum(axis=(1, 2)).tolist() == [2, 3, 4]


# Scaling and asking


@pytest.mark.parametrize("name", ["greedy8", "greedy8_published", "dog"])
def test_sizes_without_a_centre_pixel_or_a_second_dimension_say_why_not(name: str) -> None:
    with pytest.raises(BankError, match="even size 4x4"):
        banks.load(name, size="4x4")
    with pytest.raises(BankError, match="along x and y"):
        banks.load(name).at("1x5")


def test_numbers_alone_do_not_scale() -> None:
    bank = replace(banks.load("dog"), scale=None)
    assert bank.at("7x7") is bank
    with pytest.raises(BankError, match="without a formula"):
        bank.at("5x5")
    assert replace(banks.load("dog"), name="mine").at(5).name == "mine"


def test_banks_travel_to_other_processes() -> None:
    bank = pickle.loads(pickle.dumps(banks.load("greedy8_published", method="C1")))
    np.testing.assert_array_equal(bank.at(5).templates, banks.load("greedy8_published", size=5, method="C1").templates)


def test_unknown_words_name_the_near_misses() -> None:
    with pytest.raises(NotFound, match=r'No bank "gredy8"\. Did you mean "greedy8"'):
        banks.load("gredy8")
    with pytest.raises(NotFound, match='Did you mean "method"'):
        banks.load("greedy8_published", metod="B")
    with pytest.raises(NotFound, match="A, B, C1, C2, D1, D2"):
        banks.load("greedy8_published", method="E")
    for options in ({"count": 0}, {"seed": -1}, {"count": 2.5}):
        with pytest.raises(InvalidArgument):
            banks.load("random", **options)
    with pytest.raises(InvalidArgument, match="sigma"):
        banks.load("smoothed_random", sigma=float("nan"))
    with pytest.raises(BankError, match="5 different"):
        banks.load("impulse", size="1x5")


# What a bank refuses

EDGE = np.array([[1.0, 0, -1]] * 3)


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], np.zeros((0, 3, 3)), "at least one"),
        (["a"], EDGE, "at least one, rows, columns"),
        (["a", "b"], [EDGE], "as many names"),
        (["a", "a"], [EDGE, -EDGE], "given twice"),
        (["a", ""], [EDGE, -EDGE], "printable"),
        (["a\nb"], [EDGE], "printable"),
        (["a"], [EDGE * np.nan], "not finite"),
        (["a"], [EDGE * 1e300], "not finite"),
        (["a"], [EDGE * 0 + 0.1], "constant"),
        (["a"], [EDGE * 0], "constant"),
    ],
)
def test_what_is_no_bank_is_refused_in_one_line(names: list[str], templates: Any, message: str) -> None:
    with pytest.raises(BankError, match=message) as caught:
        Bank(name="bad", names=names, templates=templates)
    assert "\n" not in str(caught.value)


def test_templates_are_copied_and_cannot_be_changed() -> None:
    mine = EDGE[None].copy()
    bank = Bank(name="edge", names=["e"], templates=mine)
    mine[:] = 0
    assert bank.templates[0, 0, 0] == 1
    assert bank.labels == ["e"]
    with pytest.raises(ValueError, match="read-only"):
        bank.templates[0] = 0


# Files

printable = st.characters(codec="utf-8", exclude_categories=["C", "Z"])
words = st.text(printable | st.sampled_from(' :,"#'), min_size=1, max_size=12).map(lambda word: word.strip() or "blank")


@st.composite
def any_bank(draw: st.DrawFn) -> Bank:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 5)))
    taps = st.floats(width=32, allow_nan=False, allow_infinity=False)
    templates = draw(hnp.arrays(np.float32, shape, elements=taps))
    templates[centred_unit(templates.astype(float)).dead] = np.eye(shape[1] * shape[2])[0].reshape(shape[1:])
    names = draw(st.lists(words, min_size=shape[0], max_size=shape[0], unique=True))
    labels = draw(st.lists(words, min_size=shape[0], max_size=shape[0]))
    return Bank(name=draw(words), names=names, templates=templates, labels=labels)


@given(any_bank(), st.sampled_from(["npy", "csv", "txt", "json"]))
def test_what_is_written_reads_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, bank: Bank, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"bank.{suffix}"
    banks.write(bank, path)
    back = banks.read(path)
    assert back.templates.tobytes() == bank.templates.tobytes()
    assert back.names == (bank.names if suffix != "npy" else [str(n) for n in range(1, len(bank) + 1)])
    if suffix in ("csv", "json"):
        assert back.labels == bank.labels
    if suffix == "json":
        assert (back.name, back.citation, back.made_by) == (bank.name, bank.citation, bank.made_by or "read from bank.json")


@needs_learned
def test_the_learned_file_reads_as_it_is_published() -> None:
    bank = banks.read(LEARNED)
    assert bank.names == [f"Filter {number}" for number in range(1, 9)]
    assert bank.size == "7x7"
    assert bank.templates[0, 4, 3] == np.float32(0.936427)


def test_plain_files_of_other_tools_are_read(tmp_path: Path) -> None:
    rows = ["1,0,-1,2,0,-2,1,0,-1", "0,0,0,0,1,0,0,0,0"]
    layouts = {
        "bare": "\n".join(rows),
        "named": "edge," + rows[0] + "\nimpulse," + rows[1],
        "header": "name," + ",".join("abcdefghi") + "\n" + "\n".join(["edge," + rows[0], "impulse," + rows[1]]),
        "pandas": "," + ",".join("012345678") + "\n" + "\n".join(["0," + rows[0], "1," + rows[1]]),
    }
    for name, text in layouts.items():
        (tmp_path / f"{name}.csv").write_text("\ufeff" + text + "\n\n", encoding="utf-8")
        bank = banks.read(tmp_path / f"{name}.csv")
        assert bank.name == name
        assert bank.size == "3x3"
        assert bank.names == {"bare": ["1", "2"], "pandas": ["0", "1"]}.get(name, ["edge", "impulse"])
        assert bank.templates[0].tolist() == [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
    (tmp_path / "blocks.txt").write_text("1 0\n0 0\n\n\n0, 1\n0, 0\n")
    assert banks.read(tmp_path / "blocks.txt").templates.tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]]]
    np.save(tmp_path / "torch.npy", np.eye(9)[:3].reshape(3, 1, 3, 3))
    assert banks.read(tmp_path / "torch.npy", name="t", labels=["x", "y", "z"]).labels == ["x", "y", "z"]
    np.save(tmp_path / "flat.npy", np.eye(5)[:2])
    assert banks.read(tmp_path / "flat.npy", size="1x5").size == "1x5"


def test_a_toml_of_jets_scales(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[[template]]\nname = "edge"\nscales = [{ sigma = [1.0, 0.5], "dx+" = 1 }]\n')
    bank = banks.read(path, citation="me")
    assert (bank.size, bank.at("5x5").size, bank.citation) == ("7x7", "5x5", "me")
    assert banks.read(path, size=9).size == "9x9"


BAD_FILES = {
    "ragged.csv": ("1,0,0,0\n1,0,0\n", "line 2 has 3 numbers"),
    "words.csv": ("1,0,0,0\n1,0,zero,0\n", '"zero" is not a number'),
    "typo.csv": ("1,O,0,0\n1,0,0,0\n", '"O" is not a number'),
    "nan.csv": ("1,nan,0,0\n", "not finite"),
    "count.csv": ("1,0,0,0,0\n", "5 numbers in a template are not a square"),
    "empty.csv": ("", "is empty"),
    "header.csv": ("name,a,b,c,d\n", "no templates"),
    "twice.csv": ("a,1,0,0,0\na,0,1,0,0\n", "given twice"),
    "flat.csv": ("1,1,1,1\n", "constant"),
    "late.csv": ("a,name,b,c,d\n1,x,0,0,0\n", "before the taps"),
    "quote.csv": ('"1,0,0,0\n', "cannot be read"),
    "ragged.txt": ("a:\n1 0\n0\n", "row 2 of the block at line 1 has 1 numbers"),
    "uneven.txt": ("a:\n1 0\n0 0\nb:\n1 0\n", "the block at line 4 has 1 rows"),
    "words.txt": ("a:\n1 x\n", 'line 2: "x" is not a number'),
    "empty.txt": ("\n\n", "is empty"),
    "bare.txt": ("a:\nb:\n1 0\n", "line 1 has no numbers"),
    "mixed.txt": ("1 0\n0 0\na:\n1 0\n0 0\n", "before the first"),
    "twice.txt": ("a:\n1 0\na:\n0 1\n", "given twice"),
    "nan.txt": ("a:\n1 inf\n", "not finite"),
    "list.json": ("[]", "an object"),
    "broken.json": ('{"templates": ', "cannot be read"),
    "deep.json": ("[" * 100_000, "cannot be read"),
    "ragged.json": ('{"templates": [[[1, 0], [1]]]}', "ragged"),
    "words.json": ('{"templates": [[["a", "b"]]]}', "lists of k_h rows"),
    "names.json": ('{"names": [1], "templates": [[[1, 0]]]}', "list of texts"),
    "count.json": ('{"names": ["a", "b"], "templates": [[[1, 0]]]}', "as many names"),
    "fake.npy": ("1 2 3", "cannot be read"),
    "bank.xyz": ("1", "is read from"),
    "broken.toml": ("name = ", "cannot be read"),
    "empty.toml": ("", "'name' is missing"),
    "none.toml": ('name = "x"\ntemplate = []\n', "at least one"),
    "operator.toml": ('name = "x"\n[[template]]\nname = "a"\nscales = [{ sigma = [1, 1], dz = 1 }]\n', 'No derivative "dz"'),
    "sigma.toml": ('name = "x"\n[[template]]\nname = "a"\nscales = [{ sigma = [1], T = 1 }]\n', "looks like"),
    "nan.toml": ('name = "x"\n[[template]]\nname = "a"\nscales = [{ sigma = [nan, 1], T = 1 }]\n', "finite s"),
    "shape.toml": ('name = "x"\ntemplate = 3\n', "looks like"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_one_line(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(BankError) as caught:
        banks.read(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hostile_and_wrong_arrays_get_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BankError, match="cannot be read"):
        banks.read(path)
    np.save(path, np.eye(9).reshape(9, 3, 3))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BankError, match="cannot be read"):
        banks.read(path)
    for array, message in [
        (np.ones((2, 3, 3), complex), "real numbers"), (np.ones(9), "shape"), (np.ones((2, 3, 3, 3)), "shape"),
        (np.eye(9).reshape(9, 3, 3), "3x3, asked for 5x5"), (np.ones((2, 24)), "not 5x5"),
    ]:  # fmt: skip
        np.save(path, array)
        with pytest.raises(BankError, match=message):
            banks.read(path, size="5x5")


def test_missing_files_and_folders_get_one_line(tmp_path: Path) -> None:
    for name in ("no.csv", "no.npy", "no.toml", "no.json", "no.txt"):
        with pytest.raises(BankError, match="No such file"):
            banks.read(tmp_path / name)
    with pytest.raises(BankError, match="cannot be written"):
        banks.write(banks.load("box"), tmp_path / "no" / "box.csv")
    with pytest.raises(BankError, match="is written as"):
        banks.write(banks.load("box"), tmp_path / "box.xyz")


@given(st.binary(max_size=200), st.sampled_from(["npy", "csv", "txt", "json", "toml"]))
def test_any_bytes_are_a_bank_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_bytes(content)
    try:
        banks.read(path)
    except FilterdbError as error:
        assert "\n" not in str(error)  # noqa: PT017 - not every input is an error


def test_json_carries_the_words(tmp_path: Path) -> None:
    bank = banks.load("greedy8")
    banks.write(bank, tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text())["citation"] == bank.citation
    assert banks.read(tmp_path / "b.json").made_by == bank.made_by


# greedy9


def test_greedy9_is_the_eight_and_a_smoother_that_the_padding_shifts() -> None:
    eight, nine = banks.load("greedy8"), banks.load("greedy9")
    assert nine.names == [*eight.names, "9_wide"]
    np.testing.assert_array_equal(nine.templates[:8], eight.templates)
    assert nine.by_padding
    assert not eight.by_padding
    assert eight.at(7, (0.5, -0.5)) is eight  # nothing of it follows the padding


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.0), (0.0, -0.5)])
def test_a_shifted_smoother_stands_half_a_pixel_off_and_is_as_wide(shift: tuple[float, float]) -> None:
    """At 15x15 the crop has no influence: centroid (x right, y up) and variance are those of the formula."""
    kernel = banks.load("greedy9").at(15, shift).templates[8].astype(np.float64)
    x = np.arange(15) - 7.0
    for along, wanted in ((kernel.sum(0), shift[0]), (kernel.sum(1)[::-1], shift[1])):
        along = along / along.sum()
        assert along @ x == pytest.approx(wanted, abs=1e-5)
        assert along @ (x - wanted) ** 2 == pytest.approx(1.1**2, abs=1e-4)


def test_shifted_templates_have_names_of_their_own_and_survive_pickling() -> None:
    shifted = pickle.loads(pickle.dumps(banks.load("greedy9"))).at("5x5", (0.5, -0.5))
    assert (shifted.name, shifted.size, shifted.names[8]) == ("greedy9", "5x5", "9_wide lower right")
    np.testing.assert_array_equal(shifted.at(7).templates, banks.load("greedy9").templates)


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ('shift = "corner"\nscales = [{ sigma = [1, 1], T = 1 }]', "shift = 'corner' is not known"),
        ('shift = "padding"\nscales = [{ sigma = [0.3, 1], T = 1 }]', "cannot be shifted by half a pixel"),
    ],
)
def test_a_shift_that_cannot_be_is_one_line(tmp_path: Path, template: str, error: str) -> None:
    (tmp_path / "own.toml").write_text(f'name = "own"\n[[template]]\nname = "a"\n{template}\n')
    with pytest.raises(BankError, match=error):
        banks.read(tmp_path / "own.toml").at(7, (0.5, 0.5))
