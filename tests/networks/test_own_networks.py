"""Networks that timm does not know are frozen, searched and evaluated again; a wrong architecture is told of."""

from __future__ import annotations

import json
from pathlib import Path

import command
import numpy as np
import pytest
import torch
from pictures import write_rows
from real import data
from torch import nn

from filterdb import Database
from filterdb.errors import FilterdbError
from filterdb.images import Images, open_images
from filterdb.networks import Network, load
from filterdb.networks.evaluation import evaluate
from filterdb.networks.network import PREPROCESSING
from filterdb.networks.statistics import THRESHOLD, Watch

here = command.here

CODE = '''
from torch import nn


class Own(nn.Module):
    """Two depthwise layers with batch norms, and a shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.dw = nn.Sequential(nn.Conv2d(12, 12, 7, padding=3, groups=12), nn.BatchNorm2d(12), nn.ReLU())
        self.dw2 = nn.Sequential(nn.Conv2d(12, 12, 7, padding=3, groups=12), nn.BatchNorm2d(12))
        self.head = nn.Linear(12, 7)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.dw(x)
        return self.head((x + self.dw2(x)).mean((2, 3)))


def net():
    return Own()
'''
SAID = {
    "input_size": (3, 16, 16),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}


@pytest.fixture
def code(tmp_path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path / 'mine.py'}:net"


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    return write_rows(tmp_path / "s.parquet", [*range(40)], rng.integers(0, 7, 40).tolist())


@pytest.fixture
def module(code, photos) -> nn.Module:
    """With statistics of the photographs."""
    from filterdb.frozen.recalibrate import recalibrate
    from filterdb.images import batches
    from filterdb.sources import own

    torch.manual_seed(0)
    made = own.build(code, {}).eval()
    recalibrate(made, [x for x, _ in batches(open_images(str(photos)), Network.of(made, SAID).preprocessing)])
    return made


def test_a_module_is_frozen_and_evaluated_again_with_its_code(tmp_path, code, photos, module):
    db, out = Database(tmp_path / "db"), tmp_path / "out.safetensors"
    report = db.freeze(module, out, "greedy8", preprocessing=SAID)
    assert (report.replaced, report.kept) == (24, 0)
    again = load(out, architecture=code)
    assert {key: again.preprocessing[key] for key in SAID} == SAID
    frozen = db.frozen_model(module, "greedy8")
    found = db.evaluate(out, photos, architecture=code, original=Network.of(module, SAID))
    in_memory = db.evaluate(frozen, Images(photos, preprocessing=SAID), original=module)
    assert found.metrics() == pytest.approx(in_memory.metrics(), rel=1e-5)
    assert (found.warning, in_memory.warning) == (None, None)  # the kernels were changed knowingly
    row = db.query("evaluations").df().set_index("run_id").loc[found.run_id]
    for name in ("top1", "top1_se", "top1_difference", "top1_difference_se"):
        assert row[name] == pytest.approx(100 * getattr(found, name), abs=0.006)


def test_a_module_is_repaired_and_searched_on_images(tmp_path, photos, module, code):
    db, out = Database(tmp_path / "db"), tmp_path / "out.safetensors"
    images = Images(photos, preprocessing=SAID)
    report = db.freeze(module, out, "greedy8", repair="pointwise", data=images)
    assert report.mode == "replaced+repaired"
    assert db.evaluate(out, photos, architecture=code).images == 40
    found = db.greedy(module, bank="greedy8", objective="accuracy", data=images)
    expected = db.evaluate(module, images)
    assert found.original["top1"] == pytest.approx(expected.top1)
    assert found.original["top1_se"] == pytest.approx(expected.top1_se)
    assert [step.templates for step in found.steps] == [8, 7, 6, 5, 4, 3, 2, 1]
    energy = db.greedy(module, bank="greedy8")
    assert energy.kernels == 24


def test_a_module_without_preprocessing_is_refused(tmp_path, photos, module):
    db = Database(tmp_path / "db")
    for call in (
        lambda: db.evaluate(module, photos),
        lambda: db.freeze(module, tmp_path / "o.safetensors", "greedy8", repair="recalibrate", data=photos),
        lambda: db.greedy(module, bank="greedy8", objective="accuracy", data=photos),
    ):
        with pytest.raises(FilterdbError, match="Give the preprocessing"):
            call()
    with pytest.raises(FilterdbError, match="word of the preprocessing"):
        db.freeze(module, tmp_path / "o.safetensors", "greedy8", preprocessing={"size": 3})


def test_files_of_own_code_on_the_command_line(tmp_path, code, photos, module, here):
    """A file with other names: by order, with its preprocessing written into it."""
    from safetensors.torch import save_file

    db, source, out = tmp_path / "db", tmp_path / "other.safetensors", tmp_path / "out.safetensors"
    state = {f"w{i:03}": leaf.clone() for i, leaf in enumerate(module.state_dict().values()) if leaf.ndim}
    save_file(state, source)
    flags = ("--architecture", code, "--match-keys", "order")
    images = ("--input-size", "16", "--crop-pct", "1", "--preprocessing", "mean=.5,.5,.5", "--preprocessing", "std=.25,.25,.25")
    images = (*images, "--preprocessing", "interpolation=bilinear")
    here("freeze", source, "--out", out, *flags, *images, db=db)
    told = json.loads(here("evaluate", out, "--data", photos, *flags, "--json", db=db))
    expected = Database(db).evaluate(Database(db).frozen_model(module), Images(photos, preprocessing=SAID))
    assert told["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert told["top1_se"] == pytest.approx(expected.top1_se)
    text = here("greedy", source, "--bank", "greedy8", *flags, *images, "--data", photos, "--objective", "accuracy", db=db)
    assert "top1_se" in text
    assert "give both" in here("greedy", source, "--bank", "greedy8", "--match-keys", "order", code=1, db=db)
    assert "NAME=VALUE" in here("evaluate", out, "--data", photos, *flags, "--preprocessing", "mean", code=1, db=db)
    assert "is no mean" in here("evaluate", out, "--data", photos, *flags, "--preprocessing", "mean=grey", code=1, db=db)
    torch.save(state, tmp_path / "o.pth")
    assert "no room" in here("freeze", tmp_path / "o.pth", "--out", tmp_path / "p.pth", *flags, *images, code=1, db=db)
    assert set(SAID) < set(PREPROCESSING)


# -- wrong architectures -------------------------------------------------------------------------------------------------------


def test_the_distance_is_that_of_its_formula(module):
    """On a network of one batch norm, against numpy in float64."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean.copy_(torch.tensor([0.0, 1, -1, 0.5]))
    norm.running_var.copy_(torch.tensor([1.0, 2, 0.5, 3]))
    network = Network("one", nn.Sequential(norm).eval(), {}, "one")
    x = torch.randn(40, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 0.3
    with Watch(network) as watch:
        for part in x.split(7):
            network.module(part)
            watch.add(len(part))
    seen = x.double().numpy()
    known = norm.running_var.double().numpy() + norm.eps
    r = (seen.var((0, 2, 3)) + norm.eps) / known
    kl = (r - 1 - np.log(r) + (seen.mean((0, 2, 3)) - norm.running_mean.double().numpy()) ** 2 / known) / 2
    assert watch.distance() == pytest.approx(np.median(kl), rel=1e-4)
    assert not norm._forward_pre_hooks


@pytest.mark.parametrize(
    "silent", [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(3, 3)]
)
def test_without_trained_batch_norms_nothing_is_said(silent):
    network = Network("one", nn.Sequential(silent).eval(), {}, "one")
    with Watch(network) as watch:
        network.module(100 * torch.randn(16, 3, 8, 8))
        watch.add(16)
    assert (watch.distance(), watch.warning()) == (None, None)


def test_an_own_network_with_another_activation_is_warned_of(tmp_path, code, photos, module):
    db, images = Database(tmp_path / "db"), Images(photos, preprocessing=SAID)
    assert db.evaluate(module, images).warning is None
    module.stem[2] = nn.Identity()
    module.dw[2] = nn.Identity()
    module.stem[0].weight.data.mul_(3)
    warning = db.evaluate(module, images).warning
    assert warning.startswith("warning: the batch norms see other inputs")
    assert "\n" not in warning
    report = db.freeze(module, tmp_path / "o.safetensors", "greedy8", repair="pointwise", data=images)
    assert any(note.startswith("warning: the batch norms") for note in report.notes)
    for _ in range(2):  # the second time, from what is kept
        found = db.greedy(module, bank="greedy8", objective="kl", data=images)
        assert found.settings["warning"] == warning


@pytest.mark.parametrize(
    ("architecture", "file", "block"),
    [("mcunet_in3", "mcunet-320kb-1mb_imagenet.pth", 10), ("proxyless_w0.3", "proxyless-w0.3-r176_imagenet.pth", 18)],
)
def test_real_weights_under_a_wrong_wiring_are_told(architecture, file, block):
    photographs = open_images(str(data() / "images" / "imagenet-1000-sample.parquet")).limit(32)
    network = load(data() / "weights" / file, architecture=architecture)
    right = evaluate(network, photographs, device="cpu")
    assert (right.warning, right.norm_distance < THRESHOLD / 3, right.top1 > 0.6) == (None, True, True)
    network.module.blocks[block].residual = False
    wrong = evaluate(network, photographs, device="cpu")
    assert (wrong.top1 < 0.1, wrong.norm_distance > 1.5 * THRESHOLD) == (True, True)
    assert "architecture" in wrong.warning


MOBILENET = """
from torch import nn

WIDTHS = [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)], (
    [(64, 128, 2)] + 5 * [(128, 128, 1)]), [(128, 256, 2), (256, 256, 1)]


def act(slope):
    return nn.LeakyReLU(slope)


def block(a, b, stride, slope):
    return nn.Sequential(
        nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False), nn.BatchNorm2d(a), act(slope),
        nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), act(slope),
    )


class MobileNet(nn.Module):
    def __init__(self, slope):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), act(slope))
        self.stage1, self.stage2, self.stage3 = (nn.Sequential(*(block(*one, slope) for one in stage)) for stage in WIDTHS)
        self.stage1.insert(0, stem)
        self.fc = nn.Linear(256, 1000)

    def forward(self, x):
        return self.fc(self.stage3(self.stage2(self.stage1(x))).mean((2, 3)))


def relu():
    return MobileNet(0.0)


def leaky():
    return MobileNet(0.1)


def none():
    return MobileNet(1.0)
"""


def test_a_real_network_of_ones_own_code(tmp_path):
    """MobileNetV1 .25 of RetinaFace, which timm does not have. Its code today has slopes of .1; these weights had ReLU."""
    (tmp_path / "mobile.py").write_text(MOBILENET)
    db, file = Database(tmp_path / "db"), data() / "weights" / "retinaface_mobilenet025.pth.tar"
    photographs = Images(str(data() / "images" / "imagenet-1000-sample.parquet"), limit=128)
    relu, leaky, none = (
        db.evaluate(file, photographs, architecture=f"{tmp_path / 'mobile.py'}:{name}") for name in ("relu", "leaky", "none")
    )
    assert (relu.warning, relu.norm_distance < 0.03) == (None, True)
    assert relu.top1 > leaky.top1 + 0.05
    assert "warning" in leaky.warning
    assert (none.top1 < 0.05, none.norm_distance > 1) == (True, True)
