"""Training: what is frozen stays, the same settings give the same numbers, and a stopped run goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import run as run_command
from PIL import Image
from safetensors.numpy import save_file
from torch import nn

import filterdb
from filterdb import Database, banks, networks
from filterdb.errors import FilterdbError, InvalidArgument, NotFound, RunError
from filterdb.frozen.layer import FrozenDepthwiseConv2d
from filterdb.images import ImageSet, open_images
from filterdb.search.nearest import match
from filterdb.training import MODES, Saving, Settings, train
from filterdb.training.data import Batches, some_of_each
from filterdb.training.initialise import DOG_PROPORTIONS, depthwise
from filterdb.training.kernel_gradients import LR_SCALE, KernelGradients, decay, parameter_groups
from filterdb.training.modes import kernels_of, prepare

TINY: dict[str, Any] = {"patch_size": 2, "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
QUICK: dict[str, Any] = {"args": TINY, "input_size": 32, "epochs": 2, "warmup_epochs": 1, "batch_size": 8}


def settings(**more: Any) -> Settings:
    return Settings("convnext_atto", **{**QUICK, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes that can be told apart: bright and dark stripes along x, or along y."""
    root, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for label, axis in (("x", 0), ("y", 1)):
        (root / label).mkdir()
        for i in range(20):
            wave = np.sin(np.arange(20) * rng.uniform(1, 2) + rng.uniform(0, 6))
            picture = 128 + 60 * np.broadcast_to(wave, (20, 20)) + rng.normal(0, 20, (20, 20))
            picture = picture.T if axis else picture
            Image.fromarray(np.repeat(picture.clip(0, 255).astype(np.uint8)[:, :, None], 3, 2)).save(root / label / f"{i}.png")
    return root


@pytest.fixture
def images(folder: Path) -> ImageSet:
    return open_images(str(folder))


def run(images: ImageSet, out: Path, given: Settings, **more: Any) -> Any:
    return train(given, images, images, out, bank=banks.load, **more)


# -- what is frozen, and what is not -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["frozen", "frozen+bias", "frozen+gain+bias", "random-frozen"])
def test_frozen_kernels_do_not_change_by_a_bit_while_their_numbers_do(mode: str, images: ImageSet, tmp_path: Path) -> None:
    given = settings(mode=mode, bank=None if mode == "random-frozen" else "greedy8")
    before = prepare(given, 2, banks.load).network.module
    after = run(images, tmp_path / "run", given).network.module
    pairs = [(depthwise(before)[name], one) for name, one in depthwise(after).items()]
    assert len(pairs) == 4
    for old, new in pairs:
        assert isinstance(old, FrozenDepthwiseConv2d)
        assert isinstance(new, FrozenDepthwiseConv2d)
        assert torch.equal(old.templates, new.templates)
        assert torch.equal(old.index, new.index)
        assert torch.equal(old.offset, new.offset) == (mode == "frozen")
        if old.gain is not None and new.gain is not None:
            assert torch.equal(old.gain, new.gain) == (mode != "frozen+gain+bias")


@pytest.mark.parametrize("mode", ["trainable", "dog-init"])
def test_trainable_kernels_change(mode: str, images: ImageSet, tmp_path: Path) -> None:
    given = settings(mode=mode)
    before = kernels_of(prepare(given, 2, banks.load).network.module)
    after = kernels_of(run(images, tmp_path / "run", given).network.module)
    assert all((before[name] != after[name]).any() for name in before)


def test_it_learns_what_can_be_learned(images: ImageSet, tmp_path: Path) -> None:
    found = run(images, tmp_path / "run", settings(mode="frozen+bias", bank="greedy8", epochs=12, lr=3e-3))
    losses = [row["value"] for row in found.metrics if (row["split"], row["metric"]) == ("train", "loss")]
    assert found.top1 >= 0.9
    assert losses[-1] < losses[0] - 0.1


# -- where kernels come from ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_same_seed_makes_the_same_network_and_another_another(mode: str) -> None:
    bank = "greedy8" if mode.startswith("frozen") else None
    first, again, other = (
        prepare(settings(mode=mode, bank=bank, seed=seed), 2, banks.load).network.module.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_templates_drawn_at_random_are_as_long_as_the_kernels_they_replace() -> None:
    own = kernels_of(prepare(settings(), 2, banks.load).network.module)
    drawn = kernels_of(prepare(settings(bank="greedy8"), 2, banks.load).network.module)
    for name, kernels in drawn.items():
        lengths = np.sqrt(np.square(kernels).sum((1, 2, 3)))
        assert lengths == pytest.approx(np.sqrt(np.square(own[name]).sum((1, 2, 3)).mean()), rel=1e-4)


def test_dog_init_has_the_papers_proportions_and_only_templates_of_its_bank() -> None:
    wide = settings(mode="dog-init", args={**TINY, "dims": (1000, 16, 24, 32)})
    kernels = kernels_of(prepare(wide, 2, banks.load).network.module)["stages.0.blocks.0.conv_dw"][:, 0]
    templates = banks.load("dog").templates
    cos = np.einsum("nij,mij->nm", kernels, templates) / np.linalg.norm(kernels.reshape(1000, -1), axis=1)[:, None]
    cos /= np.linalg.norm(templates.reshape(len(templates), -1), axis=1)
    assert cos.max(1) == pytest.approx(1, abs=1e-5)
    kind = np.array([0, 1, 2, 2, 3, 3, 3, 3, 4, 4])[cos.argmax(1)]
    share = np.bincount(kind, minlength=5) / 1000
    assert share == pytest.approx(list(DOG_PROPORTIONS.values()), abs=0.05)


def test_a_network_of_ones_own_starts_from_a_bank() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 400, 1), nn.Conv2d(400, 400, 7, padding=3, groups=400), nn.Conv2d(400, 400, 2, groups=400)
    )
    lengths = module[1].weight.detach().square().sum((1, 2, 3))
    untouched = module[2].weight.detach().clone()
    assert filterdb.init_depthwise(module, seed=3) == ["1"]  # the bank has no templates of even sizes
    assert torch.equal(module[2].weight, untouched)
    assert all(parameter.requires_grad for parameter in module.parameters())
    first = module[1].weight.detach().clone()
    assert first.square().sum((1, 2, 3)).mean().item() == pytest.approx(lengths.mean().item(), rel=1e-4)
    filterdb.init_depthwise(module, seed=3)
    torch.testing.assert_close(module[1].weight.detach(), first, rtol=1e-5, atol=0)
    # shares of one's own: labels, names, globs
    filterdb.init_depthwise(module, "greedy8", proportions={"sharpening": 0.25, "*derivative*": 0.75}, layers="1")
    found = match(module[1].weight.detach().numpy().reshape(400, -1), banks.load("greedy8"))
    share = np.mean([banks.load("greedy8").labels[i] == "sharpening" for i in found["template"]])
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)  # four standard errors
    assert np.abs(found["similarity"]).min() > 0.9999
    for given, message in (
        ({"proportions": {"on-centre": 0.5}}, "must add up to 1"),
        ({"proportions": {"on-center": 1.0}}, 'Did you mean "on-centre"'),
        ({"proportions": {"on-centre": 1.0, "off-centre": 0.0}}, "above 0"),
        ({"layers": "nowhere"}, 'No depthwise layer "nowhere"'),
        ({"layers": "2"}, "initialises no layer"),
        ({"bank": "dgo"}, 'Did you mean "dog"'),
    ):
        with pytest.raises(FilterdbError, match=message):
            filterdb.init_depthwise(module, **given)


def test_kernels_forget_their_start(images: ImageSet, tmp_path: Path) -> None:
    """With no gradient at all, the start shrinks by about exp(-forget), half of it a warm-up that hardly moves."""
    kernel = nn.Parameter(torch.ones(4, 1, 3, 3))
    module, steps, lr = nn.Module(), 400, 2e-3
    module.kernel = kernel
    groups = parameter_groups(module, [kernel], 0.05, decay(8.0, lr, steps))
    optimiser = torch.optim.AdamW(groups[:1], lr=lr)
    for step in range(steps):  # a cosine, whose mean is half of its peak
        optimiser.param_groups[0]["lr"] = LR_SCALE * lr * 0.5 * (1 + np.cos(np.pi * step / steps))
        kernel.grad = torch.zeros_like(kernel)
        optimiser.step()
    # log(1 - x) is -x - x²/2: with x of .02 on average over 400 steps of a cosine, the second term makes another .12
    assert np.log(kernel.max().item()) == pytest.approx(-8.12, abs=0.05)
    parts = KernelGradients([kernel])
    kernel.grad = 1e-6 * torch.randn(4, 1, 3, 3)
    parts.scale()
    assert kernel.grad.square().mean().sqrt().item() == pytest.approx(1, rel=1e-3)
    # a killed run with it goes on to the same weights
    given = settings(forget=8.0, opt_betas=(0.9, 0.99), epochs=3)
    whole = run(images, tmp_path / "whole", given)

    def stop(what: str, done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "parts", given, progress=stop)
    parts_run = run(images, tmp_path / "parts", given)
    one, other = (found.network.module.state_dict() for found in (whole, parts_run))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_recipes_are_settings(tmp_path: Path) -> None:
    demo = Settings.recipe("demo")
    assert (demo.model, demo.forget, demo.opt_betas, demo.args["depths"]) == ("convnext_atto", 8.0, (0.9, 0.99), [3, 3, 3, 1])
    assert replace(demo, epochs=4) == Settings.recipe("demo", epochs=4)
    (tmp_path / "mine.toml").write_text('model = "demo"\nepochs = 2\nwarmup_epochs = 1\n')
    assert Settings.recipe(tmp_path / "mine.toml") == Settings("demo", epochs=2, warmup_epochs=1)
    (tmp_path / "typo.toml").write_text('model = "demo"\nepoch = 2\n')
    (tmp_path / "broken.toml").write_text("model = demo")
    for name, message in (
        ("dmeo", 'No training recipe "dmeo". Did you mean "demo"'), (tmp_path / "typo.toml", 'Did you mean "epochs"'),
        (tmp_path / "broken.toml", "is not a training recipe"), (tmp_path / "none.toml", "No training recipe"),
    ):  # fmt: skip
        with pytest.raises(FilterdbError, match=message):
            Settings.recipe(name)


def test_trained_kernels_are_matched_as_nearest_says(images: ImageSet, tmp_path: Path) -> None:
    source = str(run(images, tmp_path / "run", settings()).path)
    theirs = kernels_of(networks.load(source).module)
    made = prepare(settings(mode="frozen+bias", bank="greedy8", filters=source), 2, banks.load).network.module
    for name, layer in depthwise(made).items():
        found = match(theirs[name].reshape(len(theirs[name]), -1), banks.load("greedy8"))
        assert isinstance(layer, FrozenDepthwiseConv2d)
        assert layer.index.tolist() == found["template"].tolist()
        assert layer.gain is not None
        assert layer.gain.flatten().numpy() == pytest.approx(found["gain"])
        assert layer.offset.detach().flatten().numpy() == pytest.approx(found["offset"], abs=1e-7)
    rest = prepare(settings(), 2, banks.load).network.module.state_dict()
    assert torch.equal(made.state_dict()["stem.0.weight"], rest["stem.0.weight"])  # of the filters' source nothing else is taken


def test_transferred_filters_are_the_other_networks_own(images: ImageSet, tmp_path: Path) -> None:
    source = str(run(images, tmp_path / "run", settings()).path)
    theirs = kernels_of(networks.load(source).module)
    made = kernels_of(prepare(settings(mode="frozen", filters=source, seed=5), 2, banks.load).network.module)
    assert all(np.array_equal(made[name], kernels) for name, kernels in theirs.items())


def test_filters_of_the_demo_network_go_into_a_network_like_it() -> None:
    theirs = kernels_of(networks.load("demo").module)
    made = Settings("demo", mode="frozen+bias", filters="demo", input_size=32, epochs=2, warmup_epochs=1)
    mine = kernels_of(prepare(made, 10, banks.load).network.module)
    assert all(np.array_equal(mine[name], kernels) for name, kernels in theirs.items())


@pytest.mark.parametrize("mode", ["trainable", "frozen+bias", "frozen+gain+bias"])
def test_the_first_layers_are_transferred_and_frozen_and_the_rest_is_trained(mode: str, images: ImageSet, tmp_path: Path) -> None:
    source = str(run(images, tmp_path / "source", settings(seed=7)).path)
    theirs = list(kernels_of(networks.load(source).module).values())
    given = settings(mode=mode, filters=source, transfer_layers=2, seed=5)
    before = list(kernels_of(prepare(given, 2, banks.load).network.module).values())
    plain = list(kernels_of(prepare(settings(seed=5), 2, banks.load).network.module).values())
    found = run(images, tmp_path / "run", given)
    layers = list(depthwise(found.network.module).values())
    after = list(kernels_of(found.network.module).values())
    for i in (0, 1):
        assert np.array_equal(before[i], theirs[i])
        assert isinstance(layers[i], FrozenDepthwiseConv2d)
        assert np.array_equal(layers[i].templates[layers[i].index].flatten(), theirs[i].flatten())
        assert np.array_equal(after[i], theirs[i]) == (mode == "trainable")
        trained = {name for name, _ in layers[i].named_parameters()} - {"bias"}
        assert trained == {"trainable": set(), "frozen+bias": {"offset"}, "frozen+gain+bias": {"gain", "offset"}}[mode]
    for i in (2, 3):
        assert np.array_equal(before[i], plain[i])
        assert not isinstance(layers[i], FrozenDepthwiseConv2d)
        assert (after[i] != before[i]).any()


@pytest.mark.parametrize("count", [0, 1, 4])
def test_as_many_layers_are_frozen_as_are_transferred(count: int) -> None:
    made = prepare(Settings("demo", filters="demo", transfer_layers=count), 10, banks.load).network.module
    frozen = [isinstance(one, FrozenDepthwiseConv2d) for one in depthwise(made).values()]
    assert frozen == [True] * count + [False] * (10 - count)


def test_kernels_of_another_architecture_are_drawn_from_the_layer_at_the_same_depth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    few, many = rng.standard_normal((5, 1, 7, 7)), 9 * rng.standard_normal((40, 1, 7, 7))
    tensors = {"a.weight": few, "b.weight": rng.standard_normal((9, 1, 3, 3)), "c.weight": many}
    save_file({name: one.astype(np.float32) for name, one in tensors.items()}, tmp_path / "other.safetensors")
    given = settings(filters=str(tmp_path / "other.safetensors"), transfer_layers=4)
    made = list(kernels_of(prepare(given, 2, banks.load).network.module).values())
    old = list(kernels_of(prepare(settings(), 2, banks.load).network.module).values())
    for i, source in enumerate((few, few, many, many)):  # the layers have 8, 16, 24 and 32 channels
        ours, theirs = (one.reshape(len(one), -1) for one in (made[i], source))
        cos = ours @ theirs.T / np.linalg.norm(ours, axis=1)[:, None] / np.linalg.norm(theirs, axis=1)
        assert cos.max(1) == pytest.approx(1, abs=1e-5)
        times = np.bincount(cos.argmax(1), minlength=len(source))
        assert times.max() - times.min() <= 1  # none twice before all were there once
        assert np.linalg.norm(made[i]) == pytest.approx(np.linalg.norm(old[i]), rel=1e-4)
    other = prepare(replace(given, seed=1), 2, banks.load).network.module
    assert any(not np.array_equal(one, two) for one, two in zip(made, kernels_of(other).values(), strict=True))


def test_transfers_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    save_file({"a.weight": np.ones((4, 1, 5, 5), np.float32)}, tmp_path / "five.safetensors")
    for more, message in (
        ({"filters": "demo", "transfer_layers": 5}, "has 4 depthwise layers. Transfer at most 4"),
        ({"filters": "demo", "transfer_layers": -1}, "must not be less than 0"),
        ({"transfer_layers": 2}, "Name it with --filters"),
        ({"filters": "demo", "transfer_layers": 2, "bank": "greedy8"}, "leave --bank out"),
        ({"filters": "demo", "transfer_layers": 2, "forget": 8.0}, "leave it out with transfer_layers"),
        ({"filters": str(tmp_path / "five.safetensors"), "transfer_layers": 1}, "has no 7x7 kernels .* it has 5x5"),
        ({"filters": "efficientnet_lite", "transfer_layers": 1}, "stands for 3 models"),
    ):
        with pytest.raises(InvalidArgument, match=message) as error:
            prepare(settings(**more), 2, banks.load)
        assert "\n" not in str(error.value)


def test_layers_are_transferred_by_flag_and_by_recipe_and_the_run_remembers_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'model = "demo"\nfilters = "demo"\ntransfer_layers = 3\ninput_size = 32\nbatch_size = 8\n'
    )
    given = ("train", "--data", str(folder), "--val-data", str(folder), "--epochs", "1", "--warmup-epochs", "0")
    more = ("--recipe", str(tmp_path / "mine.toml"))
    run_command(*given, *more, "--out", tmp_path / "three", db=tmp_path / "filters")
    run_command(*given, *more, "--out", tmp_path / "two", "--transfer-layers", "2", db=tmp_path / "filters")
    kept = dict(Database(tmp_path / "filters").sql("SELECT model, settings FROM runs").fetchall())
    assert {name: json.loads(text)["transfer_layers"] for name, text in kept.items()} == {"three": 3, "two": 2}
    theirs = list(kernels_of(networks.load("demo").module).values())
    for name, count in (("three", 3), ("two", 2)):
        mine = list(kernels_of(networks.load(tmp_path / name / "model.safetensors").module).values())
        assert [np.array_equal(one, other) for one, other in zip(mine, theirs, strict=True)] == [
            i < count for i in range(10)
        ]  # fmt: skip
    said = run_command(*given, *more, "--out", tmp_path / "no", "--transfer-layers", "11", db=tmp_path / "filters", code=1)
    assert said.strip() == "filterdb: transfer_layers is 11, and the network has 10 depthwise layers. Transfer at most 10."


def test_shuffled_templates_have_the_same_taps_in_another_order() -> None:
    [made] = [prepare(settings(mode="frozen", bank="greedy8", shuffle=True), 2, banks.load).bank]
    assert made is not None
    before = banks.load("greedy8").templates.reshape(8, -1)
    after = made.templates.reshape(8, -1)
    assert np.array_equal(np.sort(before), np.sort(after))
    assert not np.array_equal(before, after)


# -- batches -------------------------------------------------------------------------------------------------------------------


def batches(images: ImageSet, workers: int = 0, first: int = 0, **place: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    preprocessing = {"input_size": (3, 16, 16), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    made = Batches(images, preprocessing, settings(aa="rand-m9-mstd0.5-inc1", reprob=0.5), workers=workers, **place)
    return list(made.epoch(1, first))


def test_batches_are_the_same_in_workers_and_from_any_step_on(images: ImageSet) -> None:
    whole, in_workers, rest = batches(images), batches(images, workers=1), batches(images, first=2)
    for one, other in [*zip(whole, in_workers, strict=True), *zip(whole[2:], rest, strict=True)]:
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_processes_share_an_epoch_without_a_picture_twice(images: ImageSet) -> None:
    shares = [batches(images, rank=rank, world=2) for rank in (0, 1)]
    pictures = torch.cat([x.flatten(1) for share in shares for x, _ in share])
    assert len(pictures) == 32  # 40 images in batches of 2 x 8
    assert len(torch.unique(pictures, dim=0)) == 32


def test_a_training_does_not_disturb_the_random_numbers_of_its_process(images: ImageSet) -> None:
    import random

    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    loader_only = torch.empty((), dtype=torch.int64).random_()  # what a DataLoader draws for itself
    expected = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    batches(images)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002
    assert loader_only is not None


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_fewer_images_are_of_all_classes_and_among_more(images: ImageSet, count: int) -> None:
    chosen = some_of_each(images, count, 0)
    counts = np.bincount(chosen.labelled("this"), minlength=2)
    assert len(chosen) == count
    assert abs(int(counts[0]) - int(counts[1])) <= 1
    assert set(chosen.rows) <= set(some_of_each(images, min(40, count + 3), 0).rows)


# -- stopping and going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"mode": "frozen+bias", "bank": "greedy8", "ema": 0.9, "mixup": 0.2, "drop_path": 0.1}])
def test_a_stopped_run_goes_on_to_the_same_bits(more: dict[str, Any], images: ImageSet, tmp_path: Path) -> None:
    given = settings(epochs=3, **more)
    whole = run(images, tmp_path / "whole", given)

    class Stop(BaseException):
        pass

    def stop(metrics: list[dict[str, Any]]) -> None:
        if metrics[-1]["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        run(images, tmp_path / "parts", given, told=stop)
    torch.rand(5)
    parts = run(images, tmp_path / "parts", given)
    assert parts.resumed == 2
    one, other = (found.network.module.state_dict() for found in (whole, parts))
    assert all(torch.equal(one[key], other[key]) for key in one)

    def numbers(found: Any) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in found.metrics if row["metric"] != "images_per_second"]

    assert numbers(whole) == numbers(parts)


@pytest.mark.parametrize("more", [{"drop_path": 0.1}, {"mode": "frozen+bias", "bank": "greedy8", "ema": 0.9, "accumulate": 2}])
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(more: dict[str, Any], images: ImageSet, tmp_path: Path) -> None:
    given = settings(epochs=2, batch_size=8, **more)
    whole = run(images, tmp_path / "whole", given)

    class Stop(BaseException):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done == 8:  # five batches an epoch: three of the second are done, and with accumulate two of these are kept
            raise Stop

    with pytest.raises(Stop):
        run(images, tmp_path / "parts", given, saving=Saving(save_seconds=0), progress=stop)
    torch.rand(5)
    seen: list[int] = []
    parts = run(images, tmp_path / "parts", given, progress=lambda what, done, total: seen.append(done))
    assert seen[0] == (8 if "accumulate" in more else 9)
    one, other = (found.network.module.state_dict() for found in (whole, parts))
    assert all(torch.equal(one[key], other[key]) for key in one)
    last = [[row["value"] for row in found.metrics if row["metric"] in ("loss", "top1", "lr")] for found in (whole, parts)]
    assert last[0] == last[1]


@pytest.mark.slow
def test_a_killed_process_goes_on(folder: Path, tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        return [
            sys.executable, "-c", "from filterdb.cli import main; main()", "train", "--model", "demo", "--data", str(folder),
            "--val-data", str(folder), "--out", str(out), "--epochs", "4", "--warmup-epochs", "1", "--batch-size", "8",
            "--input-size", "32", "--mode", "frozen+bias", "--bank", "greedy8", "--db", str(tmp_path / "db"),
        ]  # fmt: skip

    whole = subprocess.run(command(tmp_path / "whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    with subprocess.Popen(command(tmp_path / "parts"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        last, deadline = tmp_path / "parts" / "last.pt", time.monotonic() + 120
        while not last.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    done = subprocess.run(command(tmp_path / "parts"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resumed at epoch" in done.stdout
    one, other = (networks.load(tmp_path / name / "model.safetensors").module.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    runs = Database(tmp_path / "db").sql("SELECT status, count(*) FROM runs GROUP BY status").fetchall()
    assert runs == [("finished", 2)]


@pytest.mark.slow
def test_two_processes_train_one_network(folder: Path, tmp_path: Path) -> None:
    given = [
        "train", "--model", "demo", "--data", str(folder), "--val-data", str(folder), "--out", str(tmp_path / "run"),
        "--epochs", "2", "--warmup-epochs", "1", "--batch-size", "8", "--input-size", "32", "--mode", "frozen+bias",
        "--bank", "greedy8", "--db", str(tmp_path / "db"),
    ]  # fmt: skip
    script = tmp_path / "main.py"
    script.write_text("from filterdb.cli import main\nmain()\n")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), *given],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert networks.load(tmp_path / "run" / "model.safetensors").num_classes == 2
    assert Database(tmp_path / "db").sql("SELECT count(*) FROM runs").fetchall() == [(1,)]


# -- what is left behind -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, Any, Path]:
    place = tmp_path_factory.mktemp("trained")
    db = Database(place / "db")
    given = {key: value for key, value in QUICK.items() if key != "args"}
    return db, db.train("demo", str(folder), str(folder), place / "run", mode="frozen+bias", bank="greedy8", **given), place


def test_the_run_is_kept_and_its_network_is_an_ordinary_file(trained: tuple[Database, Any, Path], images: ImageSet) -> None:
    db, found, _ = trained
    [row] = db.sql("SELECT run_id, kind, status, mode, bank, architecture, images FROM runs").fetchall()
    assert row == (found.run_id, "train", "finished", "frozen+bias", "greedy8", "demo", 40)
    kept = db.sql("SELECT epoch, value FROM metrics WHERE metric = 'top1' AND split = 'validation' ORDER BY epoch").fetchall()
    assert [epoch for epoch, _ in kept] == [1, 2]
    assert kept[-1][1] == found.top1
    network = networks.load(found.path)
    assert not any(isinstance(one, FrozenDepthwiseConv2d) for one in network.module.modules())
    assert db.evaluate(network, images, keep=False).top1 == pytest.approx(found.top1)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(network.module(x), found.network.module(x), atol=1e-5)


def test_the_kernels_over_time_can_be_ingested(trained: tuple[Database, Any, Path]) -> None:
    db, _, place = trained
    outcomes = db.ingest(f"run:{place / 'run' / 'checkpoints'}", jobs=1, name="mine")
    assert [outcome.model for outcome in outcomes] == ["mine@0", "mine@5", "mine@10"]
    rows = db.nearest(bank="greedy8", model="mine@10").fetchall()
    assert len(rows) == 864
    assert min(abs(row[5]) for row in rows) > 0.999  # every kernel is a·g + b of the eight


# -- bad input -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"mode": "frozn"}, NotFound, "frozen"),
        ({"mode": "frozen"}, InvalidArgument, "random-frozen"),
        ({"mode": "dog-init", "bank": "greedy8"}, InvalidArgument, "--bank"),
        ({"shuffle": True}, InvalidArgument, "--bank"),
        ({"epochs": 0}, InvalidArgument, "epochs"),
        ({"warmup_epochs": 2}, InvalidArgument, "Warm up"),
        ({"ema": 2.0}, InvalidArgument, "0.999"),
        ({"batch_size": 64}, InvalidArgument, "--batch-size"),
        ({"train_images": 100}, InvalidArgument, "--train-images"),
        ({"bank": "gredy8"}, NotFound, "greedy8"),
        ({"lr": 1e12, "clip_grad": None}, RunError, "--lr"),
        ({"input_size": 8}, InvalidArgument, "--input-size"),
    ],
)  # fmt: skip
def test_bad_settings_are_told_in_one_line(
    given: dict[str, Any], kind: type[FilterdbError], words: str, images: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words) as error:
        run(images, tmp_path / "run", settings(**{"epochs": 2, **given}))
    assert "\n" not in str(error.value)


def test_out_of_memory_is_told_in_one_line_and_the_last_epoch_stays(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator itself says so: in the second epoch the loss asks for a petabyte."""
    losses = nn.CrossEntropyLoss.forward
    monkeypatch.setattr(
        nn.CrossEntropyLoss,
        "forward",
        lambda self, *given: torch.empty(10**15) if (tmp_path / "run" / "last.pt").exists() else losses(self, *given),
    )
    with pytest.raises(RunError, match=r"Out of memory on cpu with batches of \d+\. Lower --batch-size") as error:
        run(images, tmp_path / "run", settings(epochs=2))
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert run(images, tmp_path / "run", settings(epochs=2)).resumed == 1


def test_a_network_without_depthwise_layers_cannot_be_frozen() -> None:
    with pytest.raises(InvalidArgument, match="no depthwise layers"):
        prepare(Settings("resnet10t", mode="frozen+bias", bank="greedy8", epochs=2, warmup_epochs=1), 2, banks.load)


def test_a_folder_with_another_training_is_not_touched(images: ImageSet, tmp_path: Path) -> None:
    run(images, tmp_path / "run", settings())
    before = (tmp_path / "run" / "last.pt").read_bytes()
    with pytest.raises(RunError, match=r"lr 0\.001, not 0\.01"):
        run(images, tmp_path / "run", settings(lr=0.01))
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_other_classes_are_refused(images: ImageSet, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for label in ("x", "z"):
        (other / label).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(other / label / "0.png")
    with pytest.raises(RunError, match="other classes"):
        train(settings(), images, open_images(str(other)), tmp_path / "run", bank=banks.load)
