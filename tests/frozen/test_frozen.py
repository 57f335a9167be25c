"""Networks whose depthwise kernels are replaced: what nearest says is what the network has, and nothing else changes by a bit."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from real import data
from safetensors import safe_open
from timm.layers import create_conv2d
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from filterdb import Database, FrozenDepthwiseConv2d, Images, banks
from filterdb.banks import Bank
from filterdb.errors import BankError, DataError, InvalidArgument, NotFound, SourceError
from filterdb.frozen import inputs, pointwise, steps
from filterdb.frozen.choices import Matching, Repair
from filterdb.frozen.plan import Plan, half_pixel
from filterdb.frozen.recalibrate import norms, recalibrate
from filterdb.frozen.replace import by_weights, freeze, replace, replacement, replacements
from filterdb.frozen.report import distinct
from filterdb.frozen.swap import freeze_layers
from filterdb.networks import load
from filterdb.search import nearest
from filterdb.sources.layers import from_module
from filterdb.store.schema import Layer

GREEDY = banks.load("greedy8")
PLAN = Plan.of(GREEDY)


def demo() -> nn.Module:
    """The ConvNeXt that ships: ten layers of 7x7."""
    return load("demo").module


def depthwise(channels: int, out: int, kernel: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, groups=channels, **options)


class Small(nn.Module):
    """Two depthwise layers with batch norm, a pointwise layer after each, and a classifier."""

    def __init__(self, seed: int = 0, *, norm: bool = True, bias: bool = False):
        super().__init__()
        torch.manual_seed(seed)

        def after(channels: int) -> nn.Module:
            return nn.BatchNorm2d(channels) if norm else nn.Identity()

        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), after(8), nn.ReLU(),
            depthwise(8, 8, 7, padding=3, bias=bias), after(8), nn.ReLU(), nn.Conv2d(8, 12, 1, bias=bias), after(12),
            nn.Dropout(0.5), depthwise(12, 24, 5, padding=2, bias=bias), after(24), nn.ReLU(),
            nn.Conv2d(24, 6, 1, bias=bias), after(6),
        )  # fmt: skip
        self.head = nn.Linear(6, 4)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def images(n: int = 16, side: int = 20, seed: int = 0) -> Tensor:
    """Smooth pictures, as real ones are."""
    noise = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(noise, 5, 1, 2) * 5


def same(one: nn.Module, other: nn.Module, but: tuple[str, ...] = ()) -> bool:
    """Whether two state dicts are equal bit for bit, but for some keys."""
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b)
    return all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a if key not in but)


# the laws


def own_bank(module: nn.Module, size: int) -> Bank:
    kernels = [
        m.weight.detach()[:, 0]
        for m in module.modules()
        if isinstance(m, nn.Conv2d) and m.groups > 1 and m.kernel_size[0] == size
    ]
    stacked = torch.cat(kernels).float().numpy()
    return Bank("own", [str(number) for number in range(len(stacked))], stacked)


def test_a_bank_of_its_own_kernels_gives_equal_logits() -> None:
    network = demo()
    made = freeze(network, Plan.of(own_bank(network, 7)))
    x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(made.module(x), network(x), rtol=1e-5, atol=1e-5)
    assert made.report.replaced == made.report.kernels == made.report.unique_after == 864
    assert made.report.mean("energy_kept") == pytest.approx(1)


def test_kernels_that_are_templates_with_gain_and_offset_change_nothing_either() -> None:
    network = demo()
    bank = own_bank(network, 7)
    rng = np.random.default_rng(0)
    gains, offsets = rng.uniform(0.1, 3, (2, 864, 1, 1)) * rng.choice([-1, 1], (2, 864, 1, 1))
    lengths = np.linalg.norm(bank.templates, axis=(1, 2), keepdims=True) / 7
    turned = Bank("turned", bank.names, gains * bank.templates + 0.1 * offsets * lengths)
    made = freeze(network, Plan.of(turned))
    for name, weight in made.module.state_dict().items():
        torch.testing.assert_close(weight, network.state_dict()[name], rtol=0, atol=1e-5 * float(weight.abs().max()))


@pytest.mark.parametrize("signed", [False, True])
def test_replacement_agrees_with_nearest_row_by_row(signed: bool, tmp_path: Path) -> None:
    db = Database(tmp_path / "db")
    network = demo()
    db.ingest(network, name="net")
    module = db.frozen_model(network, "greedy8", matching=Matching(signed=signed), plain=True)
    again = Database(tmp_path / "again")
    again.ingest(module, name="net")
    now = {row[:2]: np.array(row[2]) for row in again.sql("SELECT layer, channel, kernel FROM filters").fetchall()}
    rows = db.nearest("greedy8", signed=signed).to_arrow_table().to_pylist()
    assert len(rows) == len(now) == 864
    for row in rows:
        template = GREEDY.templates[GREEDY.names.index(row["template"])].ravel()
        expected = row["gain"] * template + row["offset"]
        np.testing.assert_allclose(now[row["layer"], row["channel"]], expected, atol=1e-6 * np.abs(expected).max() + 1e-9)
    used = Counter((row["layer"], row["template"]) for row in rows if row["gain"] != 0)
    for one in module.frozen_report.layers:
        assert one.unique_after == len([key for key in used if key[0] == one.layer])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["greedy8", "dog", "random"])
def test_frozen_twice_is_frozen_once(dtype: torch.dtype, name: str) -> None:
    network = Small().to(dtype)
    plan = Plan.of(banks.load(name), resize="formula")
    once = freeze(network, plan).module
    twice = freeze(once, plan)
    assert same(once, twice.module)
    assert next(once.parameters()).dtype == dtype
    assert twice.report.unique_before == twice.report.unique_after or dtype in (torch.float16, torch.bfloat16)


@given(st.integers(0, 10_000), st.booleans(), st.floats(-6, 6), st.floats(-3, 3))
def test_replace_is_the_best_fit_of_all_templates(seed: int, signed: bool, exponent: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    kernels = ((rng.standard_normal((5, 7, 7)) + shift) * 10.0**exponent).astype(np.float32)
    made = replace(kernels, GREEDY, signed=signed).reshape(5, -1).astype(np.float64)
    for kernel, new in zip(kernels.reshape(5, -1).astype(np.float64), made, strict=True):
        best = np.inf
        for template in GREEDY.templates.reshape(8, -1).astype(np.float64):
            columns = np.stack([template, np.ones(49)], 1)
            solved = np.linalg.lstsq(columns, kernel, rcond=None)[0]
            if signed and solved[0] < 0:
                solved = np.array([0, kernel.mean()])
            best = min(best, float(np.linalg.norm(kernel - columns @ solved)))
        assert np.linalg.norm(kernel - new) == pytest.approx(best, rel=1e-4, abs=1e-6 * float(np.linalg.norm(kernel)))
    assert np.array_equal(replace(made.reshape(5, 7, 7), GREEDY, signed=signed), made.reshape(5, 7, 7).astype(np.float32))


def test_constant_kernels_become_their_offset_and_signed_ones_may_too() -> None:
    kernels = np.stack([np.zeros((7, 7)), np.full((7, 7), 3.0), -GREEDY.templates[7], GREEDY.templates[7]]).astype(np.float32)
    only = Bank("one", ["smooth"], GREEDY.templates[7:])
    np.testing.assert_allclose(replace(kernels, only), kernels, atol=1e-6)
    signed = replace(kernels, only, signed=True)
    np.testing.assert_allclose(signed[[0, 1, 3]], kernels[[0, 1, 3]], atol=1e-6)
    np.testing.assert_allclose(signed[2], kernels[2].mean(), atol=1e-6)
    network = Small()
    with torch.no_grad():
        network.body[3].weight[:2] = 0.25
    report = freeze(network, PLAN).report
    assert [report.dead, report.replaced, report.kept, report.kernels] == [2, 6, 24, 32]


# which layers, which banks


def test_only_depthwise_weights_change_and_the_network_given_stays() -> None:
    network, before = Small(), copy.deepcopy(Small())
    made = freeze(network, PLAN)
    assert same(network, before)
    assert same(network, made.module, but=("body.3.weight",))
    assert type(made.module) is Small
    assert freeze(network, PLAN, in_place=True).module is network
    assert same(network, made.module)


def test_sizes_that_the_bank_lacks_stay_and_are_counted() -> None:
    report = freeze(Small(), PLAN).report
    assert [(one.layer, one.bank, one.kernels) for one in report.layers] == [("body.3", "greedy8", 8), ("body.9", None, 24)]
    assert report.layers[1].reason == "the bank greedy8 is of 7x7"
    assert (report.kept, report.unique_before) == (24, 32)
    assert report.unique_after == report.layers[0].unique_after + 24


def test_smaller_kernels_by_formula_or_by_the_centre_crop() -> None:
    learned = Bank("numbers", GREEDY.names, GREEDY.templates)  # no formula
    network = Small()
    one, other = (freeze(network, Plan.of(bank, resize=how)) for bank, how in ((GREEDY, "formula"), (learned, "crop")))
    for key, weight in one.module.state_dict().items():  # greedy8's formula gives the centre crop
        torch.testing.assert_close(weight, other.module.state_dict()[key], rtol=0, atol=1e-6)
    assert one.report.kept == 0
    dog = [freeze(network, Plan.of(banks.load("dog"), resize=how)).module for how in ("formula", "crop")]
    assert not torch.equal(dog[0].body[9].weight, dog[1].body[9].weight)
    with pytest.raises(BankError, match="without a formula"):
        freeze(network, Plan.of(learned, resize="formula"))


def test_layers_and_sizes_have_banks_of_their_own() -> None:
    network = demo()
    dog, box = banks.load("dog"), banks.load("box")
    plan = Plan.of({"": GREEDY, "stages.1.*": dog, "stages.1.blocks.2.conv_dw": box, "stages.3.*": None})
    found = {one.layer: one.bank for one in freeze(network, plan).report.layers}
    assert {bank for layer, bank in found.items() if layer.startswith(("stages.0", "stages.2"))} == {"greedy8"}
    assert [found[f"stages.1.blocks.{i}.conv_dw"] for i in range(3)] == ["dog", "dog", "box"]
    assert found["stages.3.blocks.0.conv_dw"] is None
    sizes = Plan.of({"5x5": banks.load("dog", size=5), "7": GREEDY})
    assert [one.bank for one in freeze(Small(), sizes).report.layers] == ["greedy8", "dog"]
    some = freeze(network, Plan.of(GREEDY, layers=["stages.0.*", "stages.3.blocks.0.conv_dw"])).report
    assert sum(one.bank is not None for one in some.layers) == 4


@pytest.mark.parametrize(
    ("plan", "kind", "message"),
    [
        (lambda: Plan.of(GREEDY, layers="body.4"), NotFound, 'No depthwise layer "body.4"'),
        (lambda: Plan.of({"": GREEDY, "head*": GREEDY}), NotFound, 'No depthwise layer "head[*]"'),
        (lambda: Plan.of(banks.load("greedy8", size=9)), InvalidArgument, "5x5, 7x7 kernels"),
        (lambda: Plan.of(GREEDY, layers="body.9"), InvalidArgument, "the bank greedy8 is of 7x7"),
        (lambda: Plan.of({"3x3": GREEDY}), InvalidArgument, "No bank for 3x3: the bank greedy8 is of 7x7"),
        (lambda: Plan.of({"9x9": GREEDY}, resize="formula"), NotFound, 'No depthwise layer of size "9x9"'),
        (lambda: Plan.of({"body.3": None, "7x7": GREEDY}), InvalidArgument, "body.3 was to stay; no bank was given for it"),
        (lambda: Plan.of({"": None}), InvalidArgument, "No bank was given"),
        (lambda: Plan.of(GREEDY, resize="stretch"), InvalidArgument, "none, formula or crop"),  # type: ignore[arg-type]
    ],
)
def test_plans_that_change_nothing_are_refused(plan: Callable[[], Plan], kind: type[Exception], message: str) -> None:
    network = Small()
    with pytest.raises(kind, match=message) as error:
        freeze(network, plan())
    assert "\n" not in str(error.value)


def test_networks_that_cannot_be_frozen_are_refused() -> None:
    with pytest.raises(SourceError, match="no depthwise kernels"):
        freeze(nn.Conv2d(3, 4, 7), PLAN)
    with torch.device("meta"):
        empty = depthwise(4, 4, 7)
    with pytest.raises(SourceError, match="meta device"):
        freeze(nn.Sequential(empty), PLAN)
    broken = Small()
    with torch.no_grad():
        broken.body[3].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(SourceError, match="NaN"):
        freeze(broken, PLAN)


def test_computed_weights_become_plain_ones() -> None:
    normed = nn.Sequential(weight_norm(depthwise(4, 4, 7)))
    plain = freeze(normed, PLAN).module
    assert list(plain.state_dict()) == ["0.bias", "0.weight"]
    torch.testing.assert_close(
        plain[0].weight[:, 0], torch.from_numpy(replace(normed[0].weight.detach()[:, 0].numpy(), GREEDY)), rtol=0, atol=1e-6
    )
    network = Small()
    parts = {one.layer.name: one.parts for one in replacements(network, PLAN) if one.bank is not None}
    swapped = freeze_layers(copy.deepcopy(network), parts)
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(swapped(x), freeze(network, PLAN).module(x))
    assert same(freeze(swapped, PLAN).module, freeze(network, PLAN).module, but=("body.3.weight",))


# the report


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 5))
def test_distinct_kernels_are_told_up_to_gain_and_offset(seed: int, n: int, copies: int) -> None:
    rng = np.random.default_rng(seed)
    kernels = rng.standard_normal((n, 5, 5))
    gains, offsets = rng.uniform(0.5, 5, (2, n * copies, 1, 1)) * rng.choice([-1, 1], (2, n * copies, 1, 1))
    many = (gains * kernels.repeat(copies, 0) + offsets).astype(np.float32)
    assert distinct([many, np.zeros((2, 5, 5))]) == n
    assert distinct([many, rng.standard_normal((1, 3, 3))]) == n + 1
    assert distinct([np.ones((3, 7, 7))]) == 0


def test_distinct_does_not_merge_many_real_kernels() -> None:
    many = np.random.default_rng(0).standard_normal((50_000, 7, 7)).astype(np.float32)
    assert distinct([many, many[:7]]) == 50_000


def test_the_energies_of_the_report_are_those_of_nearest() -> None:
    network = demo()
    made = freeze(network, PLAN)
    for one in made.report.layers:
        old = network.get_submodule(one.layer).weight.detach()[:, 0].flatten(1).numpy()
        found = nearest.match(old, GREEDY)
        assert one.energy_kept == pytest.approx(float((found["similarity"] ** 2).mean()), abs=1e-4)
        assert one.similarity == pytest.approx(float(np.abs(found["similarity"]).mean()), abs=1e-4)
        raw = 1 - found["residual"] ** 2 / (old**2).sum(axis=1)
        assert one.raw_energy_kept == pytest.approx(float(raw.mean()), abs=1e-4)
    totals = made.report.totals()
    assert totals["energy_kept"] == pytest.approx(
        sum(one.energy_kept * one.replaced for one in made.report.layers) / made.report.replaced
    )


# recalibration


@pytest.mark.parametrize("batch", [3, 5, 16])
def test_the_first_norm_gets_the_pooled_statistics_whatever_the_batches(batch: int) -> None:
    network, x = Small(), images()
    assert recalibrate(network, x.split(batch)) == 16
    with torch.no_grad():
        seen = network.body[0](x).double()
    norm = network.body[1]
    torch.testing.assert_close(norm.running_mean.double(), seen.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), seen.var((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_one_batch_of_all_images_is_what_training_mode_computes() -> None:
    network, x = Small(), images()
    oracle = copy.deepcopy(network)
    for norm in norms(oracle).values():
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        oracle(x)
    recalibrate(network, [x])
    for name, norm in norms(network).items():
        torch.testing.assert_close(norm.running_mean, norms(oracle)[name].running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, norms(oracle)[name].running_var, rtol=1e-4, atol=1e-5)


def test_recalibration_changes_running_statistics_and_nothing_else() -> None:
    network = Small()
    network.body[4].train()
    network.body[4].momentum = 0.3
    before = copy.deepcopy(network)
    recalibrate(network, [(images(), "labels")])
    moved = tuple(f"{name}.{what}" for name in norms(network) for what in ("running_mean", "running_var"))
    assert same(network, before, but=moved)
    assert not any(torch.equal(network.state_dict()[key], before.state_dict()[key]) for key in moved)
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert network.body[4].momentum == 0.3
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_recalibration_by_difference_keeps_every_bit_of_what_did_not_change() -> None:
    network, x = Small(), images()
    copied = copy.deepcopy(network)
    assert recalibrate(copied, x.split(5), network) == 16
    assert same(copied, network)
    # a bank that holds every kernel replaces nothing
    kernels = network.body[3].weight.detach().numpy()[:, 0]
    own = Bank("own", [str(i) for i in range(len(kernels))], kernels)
    size = f"{own.kernel_h}x{own.kernel_w}"
    made = steps.frozen(network, Plan.of({size: own}, layers="body.3"), repair=Repair(recalibrate=True), batches=[x])
    assert same(made.module, network)
    assert made.report.notes[0].endswith("moved by what changed")


def test_recalibration_by_difference_moves_by_what_changed() -> None:
    """The first layer's outputs doubled and shifted: its norm's mean and variance follow exactly, whatever they were."""
    network, x = Small(), images()
    changed = copy.deepcopy(network)
    with torch.no_grad():
        changed.body[0].weight.mul_(2)
    recalibrate(changed, x.split(5), network)
    with torch.no_grad():
        seen = network.body[0](x).double()
    old, new = network.body[1], changed.body[1]
    bias = network.body[0].bias.detach().double() if network.body[0].bias is not None else 0.0
    torch.testing.assert_close(
        new.running_mean.double(), old.running_mean.double() + seen.mean((0, 2, 3)) - bias, rtol=1e-4, atol=1e-5
    )  # fmt: skip
    torch.testing.assert_close(new.running_var, 4 * old.running_var, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_recalibrated_is_one_line() -> None:
    with pytest.raises(InvalidArgument, match="nothing to recalibrate"):
        recalibrate(demo(), [images()])
    with pytest.raises(DataError, match="No images"):
        recalibrate(Small(), [])
    flat = nn.Sequential(nn.Conv2d(3, 4, 20), nn.BatchNorm2d(4))
    before = copy.deepcopy(flat)
    with pytest.raises(DataError, match="more images at a time"):
        recalibrate(flat, [images(1)])
    assert same(flat, before)
    assert flat.training


# templates by what a layer sees


@pytest.mark.parametrize(
    "conv",
    [
        depthwise(4, 4, 7, padding=3), depthwise(4, 8, 5, stride=2), depthwise(4, 4, 3, padding="same", dilation=2),
        depthwise(4, 4, 5, padding=2, padding_mode="reflect"), depthwise(4, 4, 3, padding="valid"),
        timm.layers.Conv2dSame(4, 4, 5, stride=2, groups=4), nn.Conv2d(4, 4, (3, 7), padding=(1, 3), groups=4),
    ],
    ids=["plain", "multiplier and stride", "same and dilated", "reflect", "valid", "timm's same", "strip"],
)  # fmt: skip
def test_windows_are_what_the_convolution_sees(conv: nn.Conv2d) -> None:
    network, x = nn.Sequential(nn.Conv2d(3, 4, 1), conv).eval(), images(6, 12)
    windows = inputs.observe(network, ["1"], x.split(4), images=6)["1"]
    with torch.no_grad():
        out = network(x).double() - (conv.bias[:, None, None] if conv.bias is not None else 0)
        weight = conv.weight.flatten(1).double()
    each = conv.out_channels // 4
    assert windows.count == out.shape[0] * out.shape[2] * out.shape[3]
    mean, second = (m.repeat_interleave(each, 0) for m in (windows.mean, windows.moments(centred=False)))
    torch.testing.assert_close((weight * mean).sum(1), out.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    power = torch.einsum("cd,cde,ce->c", weight, second, weight)
    torch.testing.assert_close(power, (out**2).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    centred = windows.moments(centred=True).repeat_interleave(each, 0)
    spread = torch.einsum("cd,cde,ce->c", weight, centred, weight)
    torch.testing.assert_close(spread, out.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10_000), st.booleans())
def test_with_white_inputs_the_closest_outputs_are_the_closest_weights(seed: int, signed: bool) -> None:
    kernels = np.random.default_rng(seed).standard_normal((6, 49)).astype(np.float32)
    kernels[0] = 0.5
    white = torch.eye(49).double().expand(3, -1, -1)
    found, wanted = inputs.closest(kernels, GREEDY, white, signed=signed), nearest.match(kernels, GREEDY, signed=signed)
    assert np.array_equal(found["template"], wanted["template"])
    for name in ("gain", "offset", "similarity"):
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-5)


def test_the_closest_outputs_are_the_least_squares_of_all_templates() -> None:
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((4, 9)).astype(np.float32)
    windows = rng.standard_normal((4, 30, 9)) + 0.5
    metric = torch.from_numpy(np.einsum("cnd,cne->cde", windows, windows) / 30)
    bank = banks.load("random", size=3, count=5)
    found = inputs.closest(kernels, bank, metric)
    ridge = inputs.RIDGE * metric.diagonal(dim1=1, dim2=2).mean(1).numpy()
    for c in range(4):
        rows = np.concatenate([windows[c] / np.sqrt(30), np.sqrt(ridge[c]) * np.eye(9)])
        costs = []
        for template in bank.templates.reshape(5, -1).astype(np.float64):
            columns = rows @ np.stack([template, np.ones(9)], 1)
            solved = np.linalg.lstsq(columns, rows @ kernels[c], rcond=None)[0]
            costs.append((float(((rows @ kernels[c] - columns @ solved) ** 2).sum()), *solved))
        best = int(np.argmin([cost for cost, *_ in costs]))
        assert found["template"][c] == best
        np.testing.assert_allclose([found["gain"][c], found["offset"][c]], costs[best][1:], rtol=1e-4)


def test_matching_by_inputs_brings_the_outputs_closer() -> None:
    network, x = demo(), images(24, 64)
    one, other = (steps.frozen(network, PLAN, match=by, batches=[x]).module for by in ("weights", "inputs"))

    def error(made: nn.Module, name: str) -> float:
        """Of a layer alone: what it makes of the inputs that it has in the original."""
        held: list[Tensor] = []
        hook = network.get_submodule(name).register_forward_hook(lambda layer, i, o: held.extend((i[0], o)))
        with torch.no_grad():
            network(x)
            hook.remove()
            return float((made.get_submodule(name)(held[0]) - held[1]).pow(2).mean())

    names = [report.layer for report in freeze(network, PLAN).report.layers]
    assert all(error(other, name) < error(one, name) for name in names)


# gains and biases for networks without batch norm


@pytest.mark.parametrize("bias", [True, False])
def test_corrected_layers_keep_the_mean_and_variance_of_their_channels(bias: bool) -> None:
    network, x = Small(norm=False, bias=bias), images(32)
    plan = Plan.of(GREEDY, resize="formula")
    made = steps.frozen(network, plan, repair=Repair(correct=True), batches=[x])
    changed = tuple(f"body.{i}.{what}" for i in (3, 9) for what in ("weight", "bias"))
    assert same(network, made.module, but=changed)

    def outputs(module: nn.Module) -> list[Tensor]:
        found: list[Tensor] = []
        hooks = [
            module.body[i].register_forward_hook(lambda layer, i, o: found.append(o.movedim(1, 0).flatten(1))) for i in (3, 9)
        ]
        with torch.no_grad():
            module(x)
        for hook in hooks:
            hook.remove()
        return found

    plain = freeze(network, plan).module
    outs = zip((3, 9), outputs(network), outputs(made.module), outputs(plain), strict=True)
    for i, wanted, there, before in outs:
        gain = (made.module.body[i].weight / plain.body[i].weight).flatten(1).mean(1)
        able = gain < 4.99  # a channel that hardly answers is not blown up
        assert able.float().mean() > 0.9
        assert not torch.allclose(before.var(1), wanted.var(1), rtol=0.05)
        torch.testing.assert_close(there.var(1)[able], wanted.var(1)[able], rtol=1e-3, atol=1e-6)
        if bias:
            torch.testing.assert_close(there.mean(1), wanted.mean(1), rtol=1e-3, atol=1e-4)
    # the kernels are still gain * template + offset, and the parts say so
    assert freeze(made.module, plan).report.mean("energy_kept") == pytest.approx(1)
    swapped = freeze_layers(copy.deepcopy(made.module), made.parts)
    with torch.no_grad():
        torch.testing.assert_close(swapped(x), made.module(x), rtol=1e-4, atol=1e-5)
    assert made.report.mode == "replaced+corrected"


def test_a_network_that_was_not_changed_is_not_corrected() -> None:
    network, x = demo(), images(8, 64)
    whole = copy.deepcopy(network)
    from filterdb.frozen.correct import correct

    gains = correct(network, whole, [one.layer.name for one in replacements(network, PLAN)], [x[:4], x[4:]])
    assert all(torch.allclose(gain, torch.ones_like(gain), atol=1e-4) for gain in gains.values())
    with torch.no_grad():
        torch.testing.assert_close(whole(x), network(x), rtol=1e-3, atol=1e-3)


# two templates


def pairs(kernel: np.ndarray, bank: Bank, rows: np.ndarray, first: int) -> float:
    """The least squares of a kernel by its first template, any other and a constant, as ``rows`` weigh taps."""
    flat = bank.templates.reshape(len(bank), -1).astype(np.float64)
    costs = []
    for other in range(len(bank)):
        columns = rows @ np.stack([flat[first], flat[other], np.ones(len(kernel))], 1)
        solved = np.linalg.lstsq(columns, rows @ kernel, rcond=None)[0]
        costs.append(float(((rows @ kernel - columns @ solved) ** 2).sum()))
    return min(costs)


@pytest.mark.parametrize("by", ["weights", "inputs"])
def test_a_mixture_takes_the_best_second_template(by: str) -> None:
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((6, 7, 7)).astype(np.float32)
    kernels[5] = 2.0
    windows = rng.standard_normal((6, 80, 49)) + 0.5
    metric = torch.from_numpy(np.einsum("cnd,cne->cde", windows, windows) / 80)
    match = by_weights(False, 1.0)
    if by == "inputs":
        match = lambda layer, some, bank: inputs.closest(some, bank, metric, mix=1.0)  # noqa: E731
    made = replacement(Layer("x", 7, 7, 6), kernels, PLAN, match)
    ridge = inputs.RIDGE * metric.diagonal(dim1=1, dim2=2).mean(1).numpy()
    for c in range(5):
        rows = np.eye(49)
        if by == "inputs":
            rows = np.concatenate([windows[c] / np.sqrt(80), np.sqrt(ridge[c]) * np.eye(49)])
        lost = float(((rows @ (made.new[c] - kernels[c]).ravel().astype(np.float64)) ** 2).sum())
        wanted = pairs(kernels[c].ravel().astype(np.float64), GREEDY, rows, int(made.found["template"][c]))
        assert lost == pytest.approx(wanted, rel=1e-4)
    np.testing.assert_allclose(made.new[5], 2.0, atol=1e-6)
    # a layer to be trained has the mixtures as templates of their own
    from filterdb.frozen.layer import FrozenDepthwiseConv2d

    layer = FrozenDepthwiseConv2d(6, 6, 7, bias=False, parts=made.parts)
    np.testing.assert_allclose(layer.weight.detach()[:, 0].numpy(), made.new, atol=1e-6)


def test_only_kernels_that_one_template_keeps_little_of_are_mixed() -> None:
    network = demo()
    energy = [freeze(network, Plan.of(GREEDY, mix=mix)).report for mix in (0, 0.3, 1)]
    assert [sum(one.two for one in report.layers) for report in energy] == [
        0, sum(int((nearest.match(k, GREEDY)["similarity"] ** 2 < 0.3).sum()) for k in kernels_of(network)), 864,
    ]  # fmt: skip
    kept = [report.mean("energy_kept") for report in energy]
    assert kept[0] < kept[1] < kept[2]
    assert energy[0].unique_after == 8 < energy[1].unique_after < energy[2].unique_after <= 864
    for wrong, message in (({"mix": 2}, "no share"), ({"mix": 0.5, "signed": True}, "either sign")):
        with pytest.raises(InvalidArgument, match=message):
            Plan.of(GREEDY, **wrong)


def kernels_of(network: nn.Module) -> list[np.ndarray]:
    return [m.weight.detach().flatten(1).numpy() for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]


# repaired pointwise layers


def test_the_follower_of_a_layer_is_the_one_that_mixes_its_channels() -> None:
    assert pointwise.followers(Small(), ["body.3", "body.9"], images(2)) == {"body.3": "body.6", "body.9": "body.12"}
    squeezed = timm.create_model("mobilenetv3_small_050").eval()  # squeeze and excitation stand between
    layers = [name for name, one in squeezed.named_modules() if isinstance(one, nn.Conv2d) and one.groups == one.in_channels > 1]
    found = pointwise.followers(squeezed, layers, images(2, 64))
    assert set(found) == set(layers)
    assert not [name for name in found.values() if ".se." in name]
    assert all(squeezed.get_submodule(b).in_channels == squeezed.get_submodule(a).out_channels for a, b in found.items())
    assert pointwise.followers(demo(), ["stages.0.blocks.0.conv_dw"], images(2, 64)) == {
        "stages.0.blocks.0.conv_dw": "stages.0.blocks.0.mlp.fc1"
    }


@pytest.mark.parametrize(("norm", "bias"), [(True, False), (False, True), (False, False)])
def test_repairing_what_is_whole_changes_nothing_and_what_is_broken_for_the_better(norm: bool, bias: bool) -> None:
    network, x = Small(norm=norm, bias=bias), images(32)
    if norm:
        recalibrate(network, [x])
    whole = copy.deepcopy(network)
    assert pointwise.solve_pointwise(network, whole, ["body.3", "body.9"], [x]) == ["body.6", "body.12"]
    if norm:
        recalibrate(whole, [x])
    with torch.no_grad():
        torch.testing.assert_close(whole(x), network(x), rtol=1e-3, atol=1e-3)
    plan = Plan.of(GREEDY, resize="formula")
    one = steps.frozen(network, plan, repair=Repair(recalibrate=norm), batches=[x])
    mended = freeze(network, plan).module
    pointwise.solve_pointwise(network, mended, ["body.3", "body.9"], [x], ridge=0.01)
    if norm:
        recalibrate(mended, [x])
    with torch.no_grad():
        errors = [float((made(x) - network(x)).pow(2).mean()) for made in (mended, one.module)]
    assert errors[0] < 0.9 * errors[1]
    other = steps.frozen(network, plan, repair=Repair(pointwise=True), batches=[x])
    moved = tuple(f"body.{i}.{what}" for i in ((6, 12) if norm else (3, 6, 9, 12)) for what in ("weight", "bias"))
    stats = tuple(f"{name}.{what}" for name in norms(network) for what in ("running_mean", "running_var"))
    assert same(one.module, other.module, but=moved + stats)
    assert other.report.mode == "replaced+repaired"
    assert "2 pointwise layers were solved again" in other.report.notes
    assert "all this on 32 unlabelled images" in other.report.notes


# the verbs


@pytest.fixture
def parquet() -> str:
    return str(data() / "images" / "imagenet-1000-sample.parquet")


MCUNET = "mcunet-320kb-1mb_imagenet.pth"


def test_a_real_network_is_frozen_recalibrated_and_loads_again(parquet: str, tmp_path: Path) -> None:
    """Label-free recalibration brings a replaced network closer to the original on images that it did not see."""
    db = Database(tmp_path / "db")
    source, out = data() / "weights" / MCUNET, tmp_path / "frozen.safetensors"
    options: dict[str, Any] = {"architecture": "mcunet_in3", "bank": "greedy8"}
    report = db.freeze(source, out, repair="recalibrate", data=Images(parquet, part="0/2", limit=48), **options)
    assert report.mode == "replaced+recalibrated"
    assert [report.replaced, report.kept] == [1544, 1872]
    with safe_open(out, "pt") as file:
        words = file.metadata()
    assert {key: words[key] for key in ("architecture", "bank", "mode")} == {
        "architecture": "mcunet_in3", "bank": "greedy8", "mode": "replaced+recalibrated",
    }  # fmt: skip
    plain = db.frozen_model(source, plain=True, **options)
    unseen = Images(parquet, part="1/2", limit=32)
    seen: dict[str, Any] = {"keep": False, "original": source, "architecture": "mcunet_in3"}
    before, after = db.evaluate(plain, unseen, **seen), db.evaluate(out, unseen, **seen)
    assert after.kl < before.kl / 2
    assert after.agreement > before.agreement
    assert same(load(out).module, plain, but=tuple(key for key in plain.state_dict() if "running" in key))


def test_a_frozen_model_loads_in_timm_and_says_what_it_is(tmp_path: Path) -> None:
    db, out = Database(tmp_path / "db"), tmp_path / "demo.safetensors"
    report = db.freeze("demo", out, "greedy8", matching=Matching(signed=True))
    network = load(out)
    assert (network.architecture, network.metadata["bank"], report.signed) == ("convnext_atto", "greedy8", True)
    made = timm.create_model("convnext_atto", checkpoint_path=str(out), num_classes=100, **network.args)
    assert same(made, db.frozen_model("demo", "greedy8", matching=Matching(signed=True), plain=True))


def test_images_are_asked_for_where_they_are_needed(parquet: str, tmp_path: Path) -> None:
    db = Database(tmp_path / "db")
    for wrong, message in (
        ({"matching": "inputs"}, "Images are needed"),
        ({"repair": "pointwise"}, "Images are needed"),
        ({"repair": Repair(correct=True)}, "Images are needed"),
        ({"repair": "recalibrat", "data": parquet}, 'No repair "recalibrat". Did you mean "recalibrate"'),
        ({"repair": "recalibrate", "data": Images(parquet, limit=2)}, "nothing to recalibrate"),
        ({"repair": "recalibrate", "data": str(tmp_path / "gone.parquet")}, "There is no"),
        ({"data": parquet}, "The images of data are not used"),
    ):
        with pytest.raises((InvalidArgument, DataError, NotFound), match=message):
            db.freeze("demo", tmp_path / "x.safetensors", **wrong)
    with pytest.raises(InvalidArgument, match=r"must end in \.safetensors"):
        db.freeze("demo", tmp_path / "x.pth")
    with pytest.raises(NotFound, match="greedy8"):
        db.frozen_model("demo", "greedy7")
    assert not list(tmp_path.glob("x.*"))
    with pytest.raises(InvalidArgument, match="weights or inputs"):
        Matching("outputs")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="none, formula or crop"):
        db.freeze("demo", tmp_path / "x.safetensors", matching=Matching(resize="stretch"))


# a frozen network in a training of one's own


@pytest.mark.parametrize("train", [(), "offset", ("offset", "gain")])
def test_no_optimiser_reaches_the_templates_of_a_frozen_model(train: Any, tmp_path: Path) -> None:
    """The layers are frozen, compute what the plain network computes, and after steps of SGD still are a·g + b of the bank."""
    db = Database(tmp_path / "db")
    module, plain = db.frozen_model("demo", "greedy8", train=train), db.frozen_model("demo", "greedy8", plain=True)
    frozen = {name: one for name, one in module.named_modules() if isinstance(one, FrozenDepthwiseConv2d)}
    assert len(frozen) == 10
    assert not any(isinstance(one, FrozenDepthwiseConv2d) for one in plain.modules())
    x = images(4, 64)
    torch.testing.assert_close(module(x), plain(x), rtol=1e-3, atol=1e-4)
    trained = {name.rpartition(".")[2] for name, _ in module.named_parameters() if name.rpartition(".")[0] in frozen}
    assert trained - {"bias"} == ({train} if isinstance(train, str) else set(train))
    before = {name: one.templates.clone() for name, one in frozen.items()}
    offsets = {name: one.offset.detach().clone() for name, one in frozen.items()}
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module.train()(x).square().mean().backward()
    optimiser.step()
    assert all(torch.equal(one.templates, before[name]) for name, one in frozen.items())
    assert any(not torch.equal(one.offset.detach(), offsets[name]) for name, one in frozen.items()) == ("offset" in trained)
    kernels = frozen["stages.0.blocks.0.conv_dw"].weight.detach()[:, 0].numpy()
    found = nearest.match(kernels.reshape(len(kernels), -1), banks.load("greedy8"))
    assert np.abs(found["similarity"]).min() > 0.9999
    with pytest.raises(NotFound, match=r"offset"):
        db.frozen_model("demo", train="taps")


# templates by padding


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["symmetric", "same"])
def test_a_template_by_padding_stands_above_the_centre_of_its_output_pixel(size: int, stride: int, kind: str) -> None:
    """On a ramp, a smoother at the right place gives the mean coordinate of the pixels that each output covers."""
    options: dict[str, Any] = {"stride": stride, "groups": 2, "bias": False}
    conv = create_conv2d(2, 2, size, padding="same" if kind == "same" else size // 2, **options)
    layer = from_module(nn.Sequential(conv))[0][0]
    template = banks.load("greedy9").at(15, half_pixel(layer)).templates[8]
    edge = (15 - size) // 2
    middle = torch.from_numpy(template[edge : 15 - edge, edge : 15 - edge].copy())
    with torch.no_grad():
        conv.weight.copy_(middle / middle.sum())
        down, right = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        out = conv(torch.stack([down, right])[None])[0, :, 4:-4, 4:-4]
    wanted = torch.arange(out.shape[-1]) * stride + 4 * stride + (stride - 1) / 2
    # the small kernels cut the smoother off, and a cut one off its centre leans back a little
    tolerance = {3: 0.35, 5: 0.15, 7: 0.03}[size]
    torch.testing.assert_close(out[0], wanted[:, None].expand_as(out[0]), rtol=0, atol=tolerance)
    torch.testing.assert_close(out[1], wanted[None].expand_as(out[1]), rtol=0, atol=tolerance)
    if stride == 1:
        assert half_pixel(layer) == (0.0, 0.0)


def test_a_strided_network_gets_the_shifted_template_and_counts_it_apart() -> None:
    strided = nn.Sequential(nn.Conv2d(8, 8, 7, 1, 3, groups=8), nn.Conv2d(8, 8, 7, 2, 3, groups=8))
    one = banks.load("greedy9").templates[8]
    other = banks.load("greedy9").at(7, (0.5, -0.5)).templates[8]
    with torch.no_grad():
        strided[0].weight.copy_(torch.from_numpy(one.copy()).expand(8, 1, 7, 7))
        strided[1].weight.copy_(torch.from_numpy(other.copy()).expand(8, 1, 7, 7))
    made = freeze(strided, Plan.of(banks.load("greedy9")))
    assert same(made.module, strided)
    assert made.report.unique_after == 2
    assert made.report.mean("energy_kept") == pytest.approx(1, abs=1e-6)
