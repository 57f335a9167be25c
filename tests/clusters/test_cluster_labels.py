"""The labelled spectrum: the best of all labellings, the same names from either end, and a file that a person can edit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterdb.clusters import Classifier, labels
from filterdb.clusters.labels import FLOOR, Stretch
from filterdb.errors import InvalidArgument
from filterdb.kernels import centred_unit, shapes


def spectrum(*names: str, noise: float = 0.0, codes: int = 300, seed: int = 0) -> np.ndarray:
    """(codes, 49) kernels that go from one ideal shape to the next; a name that is no shape is a kernel of pure noise."""
    rng = np.random.default_rng(seed)

    def stop(name: str) -> np.ndarray:
        if name not in shapes.SHAPES:
            return rng.standard_normal(49)
        ideal = shapes.family(name, 7, 7).astype(np.float64)
        return ideal[len(ideal) // 2]

    stops = np.array([stop(name) for name in names for _ in range(2)])  # each stays a while
    places = np.linspace(0, 1, len(stops))
    path = np.stack([np.interp(np.linspace(0, 1, codes), places, stops[:, i]) for i in range(49)], axis=1)
    return centred_unit(path + noise * rng.standard_normal(path.shape)).unit.astype(np.float32)


def label(kernels: np.ndarray) -> list[Stretch]:
    return labels.label(np.linspace(0, 1, len(kernels)), kernels, 7, 7)


def classifier(*stretches: Stretch, name: str = "mine") -> Classifier:
    """An autoencoder's classifier that is not asked anything, so that it needs no weights."""
    return Classifier(name, "autoencoder", 7, 7, 0.3, stretches, {})


def facts(made: Classifier) -> tuple[object, ...]:
    """What labels can change, and what they must not."""
    return made.name, made.size, made.threshold, tuple(made.stretches), made.weights


# -- the best labelling ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 4), st.floats(0, 1), st.integers(0, 10_000))
def test_the_path_is_the_best_of_all_paths(codes, count, switch, seed):
    scores = np.random.default_rng(seed).random((codes, count))

    def worth(path: tuple[int, ...]) -> float:
        return sum(scores[i, own] for i, own in enumerate(path)) - switch * sum(a != b for a, b in pairwise(path))

    found = labels._best_path(scores, switch)
    assert found.shape == (codes,)
    assert worth(tuple(found)) == pytest.approx(max(map(worth, product(range(count), repeat=codes))), abs=1e-12)


def test_a_spectrum_gets_the_names_it_was_made_of_in_their_order():
    made = ["dx_plus", "on_centre", "on_cross", "dy_minus", "noise", "off_centre", "second_derivative"]
    found = label(spectrum(*made, codes=500))
    names = [one.name for one in found]
    # On its way from one shape to the next the path is at times like neither of them, or like a third.
    kept = [name if name != "noise" else shapes.OTHER for name in made]
    rest = iter(names)
    assert all(name in rest for name in kept), names
    for one in found:
        if one.name != shapes.OTHER:
            assert FLOOR - 0.05 < one.similarity <= 1
        else:
            assert one.similarity < FLOOR + 0.05
        assert 0 <= one.confidence <= 1


@pytest.mark.parametrize("seed", range(6))
def test_stretches_cover_all_codes_and_neighbours_differ(seed):
    names = np.random.default_rng(seed).choice([*[*shapes.SHAPES][:9], "noise"], 6)
    found = label(spectrum(*names, noise=0.04 * seed, seed=seed))
    assert (found[0].start, found[-1].stop) == (0, 1)
    for one, following in pairwise(found):
        assert one.start < one.stop == following.start
        assert one.name != following.name
    assert labels.check(found, 0, 1, "x") == found


@pytest.mark.parametrize("seed", range(6))
def test_the_same_names_whichever_end_the_codes_start_from(seed):
    names = np.random.default_rng(seed).choice([*[*shapes.SHAPES][:9], "noise"], 6)
    kernels = spectrum(*names, noise=0.04 * seed, seed=seed)
    found, turned = label(kernels), label(kernels[::-1])
    assert [one.name for one in turned] == [one.name for one in found[::-1]]
    for one, other in zip(found[::-1], turned, strict=True):
        assert (other.start, other.stop) == pytest.approx((1 - one.stop, 1 - one.start), abs=1e-12)
        assert (other.similarity, other.confidence) == pytest.approx((one.similarity, one.confidence), abs=1e-6)


def test_a_short_way_into_another_shape_is_no_class_of_its_own_and_the_whole_way_is():
    centre, cross = shapes.family("on_centre", 7, 7)[20].astype(np.float64), shapes.family("on_cross", 7, 7)[5].astype(np.float64)
    whole = np.degrees(np.arccos(centre @ cross))
    across = (cross - centre * (centre @ cross)) / np.sin(np.radians(whole))

    def at(degrees: np.ndarray) -> np.ndarray:
        angle = np.radians(degrees)[:, None]
        return (np.cos(angle) * centre + np.sin(angle) * across).astype(np.float32)

    def there_and_back(degrees: float) -> list[Stretch]:
        return label(at(degrees - np.abs(np.linspace(-degrees, degrees, 4001))))

    way = np.linspace(0, whole, 500)
    names, scores = shapes.fit(at(way), 7, 7)
    passed = way[np.flatnonzero(scores.argmax(axis=1) == names.index("on_cross"))[0]]  # from here on the cross fits better
    assert 5 < passed < whole - 5
    assert [one.name for one in there_and_back(passed + 1)] == ["on_centre"]
    found = there_and_back(whole)
    assert [one.name for one in found] == ["on_centre", "on_cross", "on_centre"]
    assert found[1].start == pytest.approx(1 - found[1].stop)
    assert found[1].start == pytest.approx(passed / whole / 2, abs=0.01)


def test_how_fast_the_codes_run_along_the_curve_does_not_matter():
    made = spectrum("dx_plus", "on_centre", "noise", "dy_minus", "off_cross", codes=4001)
    even = label(made[::4])
    for power in (0.6, 1.7):
        places = np.linspace(0, 1, 1001) ** power
        uneven = label(made[np.round(4000 * places).astype(int)])
        assert [one.name for one in uneven] == [one.name for one in even]
        for one, other in zip(even, uneven, strict=True):
            assert other.stop**power == pytest.approx(one.stop, abs=0.01)


def test_confidence_is_high_where_one_shape_fits_alone_and_low_where_two_do():
    [sure] = label(np.repeat(shapes.family("dx_plus", 7, 7)[40][None], 10, axis=0))
    assert sure.similarity == pytest.approx(1, abs=1e-6)
    assert sure.confidence > 0.99
    centre, cross = shapes.family("on_centre", 7, 7), shapes.family("on_cross", 7, 7)
    i, j = np.unravel_index((centre @ cross.T).argmax(), (len(centre), len(cross)))
    [unsure] = label(np.repeat(centred_unit((centre[i] + cross[j])[None]).unit, 10, axis=0))
    assert unsure.confidence < 0.5
    [nothing] = label(centred_unit(np.random.default_rng(0).standard_normal((1, 49))).unit.astype(np.float32))
    assert nothing.name == shapes.OTHER
    assert nothing.similarity < FLOOR
    assert nothing.confidence == pytest.approx((FLOOR - nothing.similarity) / FLOOR)


def test_the_centres_of_k_means_are_a_class_each_even_if_two_are_alike():
    kernels = np.stack([shapes.family(name, 7, 7)[10] for name in ("off_cross", "off_cross", "dy_plus")])
    found = labels.label(np.arange(3), kernels, 7, 7, contiguous=False)
    assert [(one.name, one.start, one.stop) for one in found] == [("off_cross", 0, 1), ("off_cross", 1, 2), ("dy_plus", 2, 3)]


def test_where_no_shapes_are_defined_all_is_other():
    [found] = labels.label(np.linspace(0, 1, 50), np.eye(50, 16, dtype=np.float32), 4, 4)
    assert (found.name, found.start, found.stop) == (shapes.OTHER, 0, 1)


def test_a_code_at_a_bound_belongs_to_the_stretch_that_begins_there():
    stretches = [Stretch("a", 0, 0.25), Stretch("b", 0.25, 0.5), Stretch("a", 0.5, 1)]
    codes = [0, 0.1, 0.25 - 1e-5, 0.25, 0.25 + 1e-5, 0.5 - 1e-5, 0.5, 1]
    assert labels.of_codes(stretches, np.array(codes)) == ["a", "a", "a", "b", "b", "b", "a", "a"]
    assert labels.of_codes([Stretch("only", 0, 1)], np.array([0, 1])) == ["only", "only"]
    numbers = [Stretch(f"centre {i}", i, i + 1) for i in range(3)]
    assert labels.of_codes(numbers, np.arange(3)) == ["centre 0", "centre 1", "centre 2"]


# -- the file --------------------------------------------------------------------------------------------------------------

STRETCHES = [
    Stretch("on_centre", 0.0, 0.1 + 0.2, 0.987654321, 0.123456789),
    Stretch("other", 0.1 + 0.2, 1 / 3, 0.5, 0.25),
    Stretch("dx_plus", 1 / 3, 1.0, 0.9, 0.8),
]


def write(path: Path, made: Classifier) -> None:
    labels.write(
        path, made.stretches, classifier=made.name, kernel_h=made.kernel_h, kernel_w=made.kernel_w, threshold=made.threshold
    )


def test_written_and_read_back_is_identical(tmp_path):
    made = classifier(*STRETCHES)
    write(tmp_path / "labels.toml", made)
    again = made.labelled(labels.read(tmp_path / "labels.toml"))
    assert facts(again) == facts(made)
    assert list(again.stretches) == STRETCHES  # similarity and confidence too, though the file has them only for the eye
    write(tmp_path / "again.toml", again)
    text = (tmp_path / "labels.toml").read_text()
    assert (tmp_path / "again.toml").read_text() == text.replace("labels.toml", "again.toml")


@pytest.mark.parametrize("seed", range(3))
def test_what_was_labelled_automatically_can_be_written_and_read_back(tmp_path, seed):
    made = classifier(*label(spectrum("dx_plus", "noise", "off_cross", "on_centre", noise=0.05, seed=seed)))
    write(tmp_path / "labels.toml", made)
    assert facts(made.labelled(labels.read(tmp_path / "labels.toml"))) == facts(made)


def test_a_person_may_rename_split_and_give_any_name(tmp_path):
    made = classifier(*STRETCHES)
    file = tmp_path / "labels.toml"
    write(file, made)
    odd = 'Größe "x" \\ 1 # not a comment'
    text = file.read_text().replace("threshold = 0.3 ", "threshold = 0.25 ")
    text = text.replace('class = "other"', "class = '''" + odd + "'''")
    file.write_text(text + '\n[[stretch]]\nclass = "mine"\nfrom = 0.75\nto = 1\n', encoding="utf-8")
    changed = file.read_text().replace("to = 1.0\n", "to = 0.75\n")
    file.write_text(changed, encoding="utf-8")
    found = made.labelled(labels.read(file))
    assert found.threshold == 0.25
    assert [one.name for one in found.stretches] == ["on_centre", odd, "dx_plus", "mine"]
    assert found.classes == ["on_centre", "dx_plus", odd, "mine", "other"]
    assert found.stretches[0] == STRETCHES[0]
    assert all(one.similarity is one.confidence is None for one in found.stretches[1:])  # a person's, or with other bounds
    write(tmp_path / "again.toml", found)
    assert facts(made.labelled(labels.read(tmp_path / "again.toml"))) == facts(found)


def test_the_order_of_the_file_and_the_missing_threshold_and_size_do_not_matter(tmp_path):
    file = tmp_path / "l.toml"
    file.write_text('[[stretch]]\nclass="b"\nfrom=0.5\nto=1\n[[stretch]]\nclass="a"\nfrom=0\nto=0.5\n')
    found = classifier(*STRETCHES).labelled(labels.read(file))
    assert [(one.name, one.start, one.stop) for one in found.stretches] == [("a", 0, 0.5), ("b", 0.5, 1)]
    assert found.threshold == 0.3


A, B = "[[stretch]]\nclass='a'\nfrom=0\nto=0.5\n", "[[stretch]]\nclass='b'\nfrom=0.5\nto=1\n"
SLIPS = {
    "a gap": (A + B.replace("0.5", "0.625"), "the codes from 0.5 to 0.625 have no class. Close the gap"),
    "a gap at the start": (A.replace("=0\n", "=0.125\n") + B, "the codes from 0 to 0.125 have no class"),
    "an overlap": (A + B.replace("0.5", "0.375"), 'the codes from 0.375 to 0.5 have two classes, "b" and the one before it'),
    "one inside another": (
        A + B + "[[stretch]]\nclass='c'\nfrom=0.25\nto=0.375\n", 'the codes from 0.25 to 0.375 have two classes, "c"',
    ),
    "an end too early": (A, "the codes from 0.5 to 1 have no class, the last stretch ends at 0.5"),
    "a start too early": (A.replace("=0\n", "=-0.25\n") + B, 'codes begin at 0, the stretch "a" begins at -0.25'),
    "an end too late": (A + B.replace("to=1", "to=1.5"), "codes end at 1, the last stretch ends at 1.5"),
    "a stretch that goes down": (A + B.replace("to=1", "to=0.25"), 'the stretch "b" runs from 0.5 to 0.25. It must go up'),
    "a bound that is no number": (A + B.replace("0.5", "nan"), "It must go up"),
    "no class": (A + "[[stretch]]\nfrom=0.5\nto=1\n", "stretch 2 needs class (a text), from and to (numbers)"),
    "no from": ("[[stretch]]\nclass='a'\nto=1\n", "stretch 1 needs class (a text), from and to (numbers)"),
    "no to": (A + "[[stretch]]\nclass='b'\nfrom=0.5\n", "stretch 2 needs class (a text), from and to (numbers)"),
    "a truth for a number": (A.replace("=0\n", "=false\n") + B, "stretch 1 needs class (a text), from and to (numbers)"),
    "an empty name": (A.replace("'a'", "''") + B, "a class needs a name in printable characters, got ''"),
    "a name with a line break": (A.replace("'a'", '"a\\nb"') + B, "a class needs a name in printable characters"),
    "another size": ("size='5x5'\n" + A + B, 'labels 5x5 kernels, and the classifier "mine" classifies 7x7 kernels'),
    "a threshold of nothing": ("threshold=0\n" + A + B, "threshold = 0. Give a cosine dissimilarity above 0"),
    "a threshold beyond all": ("threshold=2.5\n" + A + B, "threshold = 2.5. Give a cosine dissimilarity"),
    "a threshold in words": ("threshold='low'\n" + A + B, "threshold = 'low'. Give a cosine dissimilarity"),
    "no stretch": ("threshold=0.3\n", "has no [[stretch]]. Each has class, from and to"),
    "stretches that are none": ("stretch=[1, 2]\n", "has no [[stretch]]"),
    "no TOML": ("[[stretch]\nclass=", "cannot be read as labels: Expected"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_file_is_one_clear_line(tmp_path, slip):
    text, words = SLIPS[slip]
    (tmp_path / "labels.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidArgument) as caught:
        classifier(*STRETCHES).labelled(labels.read(tmp_path / "labels.toml"))
    message = str(caught.value)
    assert message.startswith("labels.toml")
    assert words in message
    assert "\n" not in message


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InvalidArgument, match=r"none\.toml cannot be read as labels: No such file"):
        labels.read(tmp_path / "none.toml")
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InvalidArgument, match=r"^picture\.toml cannot be read as labels: [^\n]*$"):
        labels.read(tmp_path / "picture.toml")


def test_a_classifier_refuses_stretches_that_do_not_cover_its_codes():
    with pytest.raises(InvalidArgument, match=r'Classifier "mine": the codes from 0\.5 to 1 have no class'):
        classifier(Stretch("a", 0, 0.5))
    with pytest.raises(InvalidArgument, match=r"threshold 0 is no cosine dissimilarity"):
        replace(classifier(*STRETCHES), threshold=0)
    with pytest.raises(InvalidArgument, match="needs a name"):
        classifier(*STRETCHES, name=" ")
    centres = {"centres": np.eye(2, 49, dtype=np.float32)}
    with pytest.raises(InvalidArgument, match="the codes from 1 to 2 have no class"):
        Classifier("k", "kmeans", 7, 7, 0.3, [Stretch("a", 0, 1)], centres)
