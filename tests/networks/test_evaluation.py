"""Evaluation: equal to counting by hand in numpy, whatever the batches and workers; refusals in one line; real accuracies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_rows
from real import data
from tiny import CLASSES, CONFIG, COUNT, Tiny
from torch import nn

from filterdb.errors import DataError, FilterdbError, InvalidArgument, RunError
from filterdb.images import ImageSet, open_images, transform
from filterdb.networks import Network, load
from filterdb.networks.evaluation import Evaluation, evaluate, logits
from filterdb.networks.shares import paired_error, standard_error


class Says(nn.Module):
    """A network whose logits are what a function makes of the number of images."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(x)


def tiny(classes: int = CLASSES, seed: int = 0) -> Network:
    return Network.of(Tiny(classes, seed), CONFIG, name=f"tiny{seed}")


def says(answer) -> Network:
    return Network.of(Says(answer), CONFIG, name="says")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ImageSet:
    """Pictures with labels drawn at random; some classes may not occur."""
    labels = np.random.default_rng(0).integers(0, CLASSES, COUNT).tolist()
    return open_images(str(write_rows(tmp_path_factory.mktemp("set") / "s.parquet", [*range(COUNT)], labels, group=5)))


def one_by_one(network: Network, images: ImageSet) -> np.ndarray:
    """Logits in float64, one image at a time."""
    change, module = transform(network.preprocessing), network.module.eval()
    with torch.inference_mode():
        return np.stack([module(change(images[i][0])[None])[0].double().numpy() for i in range(len(images))])


def by_hand(mine: np.ndarray, labels: np.ndarray | None, theirs: np.ndarray | None = None) -> dict[str, float]:
    """Every number as its definition says."""

    def log_softmax(row: np.ndarray) -> np.ndarray:
        return row - row.max() - math.log(np.exp(row - row.max()).sum())

    found: dict[str, float] = {}
    if labels is not None:
        order = np.argsort(-mine, axis=1, kind="stable")
        found["top1"] = np.mean([order[i, 0] == label for i, label in enumerate(labels)])
        if mine.shape[1] > 5:
            found["top5"] = np.mean([label in order[i, :5] for i, label in enumerate(labels)])
        found["loss"] = -np.mean([log_softmax(mine[i])[label] for i, label in enumerate(labels)])
    if labels is not None and theirs is not None:
        right, other = (np.argsort(-one, axis=1, kind="stable")[:, 0] == labels for one in (mine, theirs))
        differences = right.astype(float) - other
        found["top1_difference"] = differences.mean()
        found["top1_difference_se"] = differences.std() / math.sqrt(len(differences))
    if theirs is not None:
        found["agreement"] = np.mean(mine.argmax(1) == theirs.argmax(1))
        pairs = [(log_softmax(p), log_softmax(q)) for p, q in zip(theirs, mine)]
        found["kl"] = np.mean([(np.exp(p) * (p - q)).sum() for p, q in pairs])
    for name in {"top1", "top5", "agreement"} & set(found):
        found[f"{name}_se"] = math.sqrt(found[name] * (1 - found[name]) / len(mine))
    return found


def close(found: Evaluation, expected: dict[str, float]) -> bool:
    return found.metrics() == pytest.approx(expected, rel=1e-5, abs=1e-7)


# -- the numbers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_numbers_are_those_of_counting_by_hand(images, size, workers):
    mine, theirs = tiny(), tiny(seed=1)
    expected = by_hand(one_by_one(mine, images), images.labels, one_by_one(theirs, images))
    assert 0 < expected["top1"] < expected["top5"] < 1
    assert 0 < expected["agreement"] < 1
    found = evaluate(mine, images, original=theirs, batch_size=size, workers=workers, device="cpu")
    assert close(found, expected)
    assert (found.images, found.device, found.notes, found.run_id) == (COUNT, "cpu", (), None)


@given(st.integers(2, 12), st.integers(1, 30), st.integers(0, 2**31), st.integers(1, 40), st.booleans())
def test_any_logits(images, classes, n, seed, size, tied):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, classes)) * 10
    other = rng.standard_normal((n, classes)) * 10
    rows, other = (np.round(rows / 5), np.round(other / 5)) if tied else (rows, other)
    labels = rng.integers(0, classes, n)
    part = ImageSet("part", images._pictures, [*labels, *[0] * (COUNT - n)]).subset(np.arange(n))
    at = iter(range(0, n + size, size))
    network = says(lambda x: torch.tensor(rows[(start := next(at)) : start + len(x)]))
    found = evaluate(network, part, original=torch.tensor(other), batch_size=size, device="cpu")
    assert close(found, by_hand(rows, labels, other))


def test_equal_logits_count_in_the_order_of_the_classes(images):
    """As numpy's argmax does: otherwise half precision, where ties abound, would give other numbers on other devices."""
    found = evaluate(says(lambda x: torch.zeros(len(x), CLASSES)), images)
    assert found.top1 == np.mean(images.labels == 0)
    assert found.top5 == np.mean(images.labels < 5)
    assert found.loss == pytest.approx(math.log(CLASSES))


def test_kl_is_in_nats_and_from_the_original(images):
    p, q = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    original = torch.tensor(np.log(p)).expand(COUNT, 2)
    two = ImageSet("two", images._pictures, [0] * COUNT)
    found = evaluate(says(lambda x: torch.tensor(np.log(q)).expand(len(x), 2)), two, original=original)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum())
    assert found.kl != pytest.approx((q * np.log(q / p)).sum(), rel=0.1)


def test_a_network_agrees_with_itself(images):
    mine = tiny()
    own = evaluate(mine, images, original=mine)
    assert (own.agreement, own.kl) == (1, 0)
    other = tiny(seed=1)
    kept = evaluate(mine, images, original=logits(other, images, batch_size=5))
    assert close(kept, evaluate(mine, images, original=other).metrics())
    near = Network(other.name, other.module, other.preprocessing | {"crop_pct": 0.5}, "near")
    expected = by_hand(one_by_one(mine, images), images.labels, one_by_one(near, images))
    assert close(evaluate(mine, images, original=near), expected)  # each sees the images as it wants them


def test_few_classes_have_no_top5(images):
    five = ImageSet("five", images._pictures, images.labels % 5)
    found = evaluate(tiny(5), five)
    assert (found.top5, found.notes) == (None, ("no top-5: there are only 5 classes",))
    six = ImageSet("six", images._pictures, images.labels % 6)
    assert evaluate(tiny(6), six).top5 is not None


def test_unlabelled_images_compare_with_the_original_alone(images):
    bare = ImageSet("bare", images._pictures, None)
    found = evaluate(tiny(), bare, original=tiny(seed=1))
    assert close(found, by_hand(one_by_one(tiny(), images), None, one_by_one(tiny(seed=1), images)))
    assert (found.top1, found.loss, found.notes) == (None, None, ("no labels: agreement and KL alone",))
    with pytest.raises(DataError, match="an evaluation without an original needs labels"):
        evaluate(tiny(), bare)


# -- how it is run -------------------------------------------------------------------------------------------------------------


def test_channels_last_and_half_precision_change_little(images):
    plain = evaluate(tiny(), images)
    assert close(evaluate(tiny(), images, channels_last=True), plain.metrics())
    half = evaluate(tiny(), images, amp=True)
    assert half.loss != plain.loss
    assert half.loss == pytest.approx(plain.loss, rel=0.02)


def test_the_network_is_left_in_the_mode_in_which_it_came(images):
    mine = tiny()
    mine.module.train()
    mine.module.norm.eval()
    before = {name: tensor.clone() for name, tensor in mine.module.state_dict().items()}
    evaluate(mine, images)
    assert (mine.module.training, mine.module.drop.training, mine.module.norm.training) == (True, True, False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.module.state_dict().items())
    with pytest.raises(RunError):
        evaluate(mine, ImageSet("wrong", images._pictures, [CLASSES] * COUNT))
    assert mine.module.training


def test_progress_is_told(images):
    told: list[tuple[str, int, int]] = []
    evaluate(tiny(), images, batch_size=10, progress=lambda *one: told.append(one))
    assert told == [(images.name, done, COUNT) for done in (0, 10, 20, 30, 37)]


# -- refusals ------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_evaluated_is_told_in_one_line(images):
    named = ImageSet("named", images._pictures, [0] * COUNT, ["a", "b"])
    beyond = ImageSet("beyond", images._pictures, [CLASSES] * COUNT)
    some = ImageSet("some", images._pictures, [-1] + [0] * (COUNT - 1))
    with torch.device("meta"):
        ghost = Tiny()
    full = torch.zeros(COUNT, CLASSES)
    cases = [
        (says(lambda x: torch.full((len(x), CLASSES), math.nan)), images, {}, RunError, "says gives NaN or infinite logits. Its"),
        (says(lambda x: torch.full((len(x), CLASSES), math.inf)), images, {"amp": True}, RunError, "Run it without amp"),
        (says(lambda x: torch.empty(len(x), 10**14)), images, {"batch_size": 8}, RunError, "ran out of memory with batches of 8"),
        (says(lambda x: x), images, {}, RunError, r"gives \(37, 3, 8, 8\) for 37 images, not logits"),
        (says(lambda x: [x]), images, {}, RunError, "gives list for 37 images, not logits"),
        (says(lambda x: x @ torch.ones(5, 2)), images, {}, RunError, "says cannot be run on images of 3x8x8: "),
        (tiny(), beyond, {}, RunError, "beyond has the label 9, tiny0 has 9 classes, counted from 0"),
        (tiny(), named, {}, RunError, "named has 2 classes, tiny0 has 9: the labels do not mean its classes"),
        (tiny(), some, {}, DataError, "needs labels, and 1 of 37 images have none"),
        (tiny(), images.subset([]), {}, InvalidArgument, "no images are left"),
        (tiny(), images, {"original": tiny(8)}, RunError, "The original has 8 classes, the network 9"),
        (tiny(), images, {"original": full[1:]}, InvalidArgument, r"Logits \(36, 9\) of an original are not those of 37 images"),
        (tiny(), images, {"device": "hal9000"}, RunError, "tiny0 cannot go to the device hal9000"),
        (Network.of(ghost, CONFIG), images, {}, RunError, "is on the meta device, which has no weights"),
    ]  # fmt: skip
    for network, given_images, options, kind, message in cases:
        with pytest.raises(kind, match=message) as told:
            evaluate(network, given_images, **options)
        assert isinstance(told.value, FilterdbError)
        assert "\n" not in str(told.value)


def test_standard_errors_are_those_of_drawing_the_images_again():
    """The spread of a thousand bootstrap samples, of a share and of a difference of pairs."""
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    mine, theirs = (hard + 0.2 * rng.standard_normal(400) < at for at in (0.6, 0.5))
    drawn = rng.integers(0, 400, (4000, 400))
    share = standard_error(mine.mean(), 400)
    assert share == pytest.approx(mine[drawn].mean(1).std(), rel=0.05)
    pairs = paired_error(int((mine & ~theirs).sum()), int((theirs & ~mine).sum()), 400)
    assert pairs == pytest.approx((mine[drawn].mean(1) - theirs[drawn].mean(1)).std(), rel=0.05)
    assert pairs < 0.8 * math.hypot(share, standard_error(theirs.mean(), 400))  # what unpaired images would give


# -- the real networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "file", "hits", "among_five"),
    [("mcunet_in3", "mcunet-320kb-1mb_imagenet.pth", 141, 184), ("proxyless_w0.3", "proxyless-w0.3-r176_imagenet.pth", 136, 171)],
)
def test_real_networks_know_real_photographs(architecture, file, hits, among_five):
    """Counts of hits; all 1,000 give 685 and 630, and .700 and .642 are on record with an interpolation that is not."""
    photographs = open_images(str(data() / "images" / "imagenet-1000-sample.parquet")).limit(200)
    network = load(data() / "weights" / file, architecture=architecture)
    found = evaluate(network, photographs, device="cpu")
    assert (round(200 * found.top1), round(200 * found.top5)) == (hits, among_five)


def test_the_demo_network_has_the_accuracy_that_it_came_with():
    """30.72 % of all 5,000, counted when it was trained; of these 300 it has 97."""
    sample = open_images(str(data() / "images" / "tiny-imagenet-100-val.parquet")).limit(300)
    assert round(300 * evaluate(load("demo"), sample, device="cpu").top1) == 97
