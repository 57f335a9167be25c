"""Checkpoints on disk: what is stored is bit-equal to what is in the file, and called what it is."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import create_conv2d
from torch import nn

from filterdb.errors import FilterdbError, InvalidArgument, NotFound, SourceError
from filterdb.sources import Options, resolve
from filterdb.sources.layers import EXPERTS, POINTWISE, SHARED, TRANSPOSED, from_module, stages_of
from filterdb.sources.unwrap import unwrap
from filterdb.store.schema import Model


def read(source: Any, **options: Any) -> tuple[Model, dict[str, np.ndarray]]:
    """The model and its kernels by layer."""
    (pending,) = resolve(source, Options(**options))
    with pending.open(None) as model:
        kernels = list(model.read())
    assert all(kernel.dtype == np.float32 and kernel.flags.c_contiguous for kernel in kernels)
    return model, {layer.name: kernel for layer, kernel in zip(model.layers, kernels, strict=True)}


class Zoo(nn.Module):
    """One of each kind of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.multiplier = nn.Conv2d(8, 24, 3, groups=8)
        self.dilated = nn.Conv2d(24, 24, 5, dilation=(2, 3), groups=24)
        self.strided = nn.Conv2d(24, 24, 3, stride=(2, 1), groups=24, padding=1)
        self.row = nn.Conv2d(24, 24, (1, 5), groups=24, padding=(0, 2))
        self.column = nn.Conv2d(24, 24, (5, 1), groups=24, padding="same")
        self.even = nn.Conv2d(24, 24, (2, 4), groups=24, padding_mode="reflect")
        self.same = create_conv2d(24, 24, 3, stride=2, padding="same", depthwise=True)
        self.pointwise = nn.Conv2d(24, 24, 1, groups=24)
        self.dense = nn.Conv2d(24, 24, 3)
        self.grouped = nn.Conv2d(24, 24, 3, groups=4)
        self.single = nn.Conv2d(1, 24, 3)
        self.up = nn.ConvTranspose2d(24, 24, 4, stride=2, padding=1, groups=24)
        self.wide = nn.ConvTranspose2d(24, 48, 4, groups=24)
        self.tied = nn.Conv2d(24, 24, (1, 5), groups=24)
        self.tied.weight = self.row.weight


def test_a_module_is_stored_as_what_it_is() -> None:
    zoo = Zoo()
    model, kernels = read(zoo)
    layers = {layer.name: layer for layer in model.layers}
    assert list(layers) == ["plain", "multiplier", "dilated", "strided", "row", "column", "even", "same", "up"]
    assert (layers["up"].kind, layers["up"].stride, layers["up"].padding) == ("transposed", (2, 2), (1, 1))
    for name, kernel in kernels.items():
        np.testing.assert_array_equal(kernel, zoo.state_dict()[f"{name}.weight"][:, 0].numpy())
    assert layers["plain"].padding == (3, 3)
    assert (layers["multiplier"].kind, layers["multiplier"].in_channels, layers["multiplier"].out_channels) == (
        "multiplier",
        8,
        24,
    )
    assert layers["dilated"].dilation == (2, 3)
    assert layers["strided"].stride == (2, 1)
    assert (layers["row"].kernel_h, layers["row"].kernel_w, layers["row"].padding) == (1, 5, (0, 2))
    assert layers["column"].padding == "same"
    assert (layers["even"].kernel_h, layers["even"].kernel_w, layers["even"].padding_mode) == (2, 4, "reflect")
    assert (layers["same"].padding, layers["same"].stride) == ("same", (2, 2))
    assert {(skipped.reason, skipped.names) for skipped in model.skipped} == {
        (POINTWISE, ("pointwise",)), (TRANSPOSED, ("wide",)), (SHARED, ("tied",)),
    }  # fmt: skip
    assert model.name == "Zoo"
    assert model.facts.params == sum(weight.numel() for weight in zoo.parameters())


def test_pointwise_layers_can_be_asked_for() -> None:
    _, kernels = read(Zoo(), pointwise=True)
    assert kernels["pointwise"].shape == (24, 1, 1)


def test_wrappers_are_taken_off() -> None:
    assert list(read(nn.DataParallel(Zoo()))[1]) == list(read(Zoo())[1])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".unknown"])
def test_a_state_dict_by_shape(tmp_path: Path, suffix: str) -> None:
    state = {
        "stages.0.0.dw.weight": torch.randn(8, 1, 7, 7), "stages.1.0.dw.weight": torch.randn(6, 1, 1, 5),
        "dense.weight": torch.randn(8, 8, 3, 3),
        "mask": torch.randn(8, 1, 4, 4), "one.weight": torch.randn(8, 1, 1, 1),
        "quantised.weight": torch.ones(8, 1, 3, 3, dtype=torch.int8),
    }  # fmt: skip
    path = tmp_path / f"net.v2{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model, kernels = read(path)
    assert model.name == ("net.v2.unknown" if suffix == ".unknown" else "net.v2")
    assert sorted(kernels) == ["stages.0.0.dw", "stages.1.0.dw"]
    for name, kernel in kernels.items():
        np.testing.assert_array_equal(kernel, state[name + ".weight"][:, 0].numpy())
    layer = next(layer for layer in model.layers if layer.stage == 1)
    assert (layer.kernel_h, layer.kernel_w, layer.stride, layer.padding, layer.in_channels) == (1, 5, None, None, None)
    assert sum(len(skipped.names) for skipped in model.skipped) == 3
    assert any("unknown architecture" in note for note in model.notes)
    assert model.facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.facts.bytes_read is not None


def test_the_legacy_format(tmp_path: Path) -> None:
    weight = torch.randn(8, 1, 3, 3)
    torch.save({"state_dict": {"module.dw.weight": weight}}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    _, kernels = read(tmp_path / "old.pth")
    np.testing.assert_array_equal(kernels["dw"], weight[:, 0].numpy())


def test_a_compressed_zip_is_not_mapped(tmp_path: Path) -> None:
    """torch maps entries by their place in the file, and would take compressed bytes for numbers."""
    import zipfile

    weight = torch.zeros(8, 1, 3, 3) + torch.arange(8).view(8, 1, 1, 1)
    torch.save({"dw.weight": weight}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as old,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    try:
        _, kernels = read(tmp_path / "small.pth")
    except SourceError:
        return  # refused is right as well
    np.testing.assert_array_equal(kernels["dw"], weight[:, 0].numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_precisions(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    weight = torch.randn(8, 1, 5, 5).to(dtype)
    path = tmp_path / f"x{suffix}"
    save_file({"dw.weight": weight}, path) if suffix == ".safetensors" else torch.save({"dw.weight": weight}, path)
    model, kernels = read(path)
    np.testing.assert_array_equal(kernels["dw"], weight.float()[:, 0].numpy())
    assert any("float64" in note for note in model.notes) == (dtype is torch.float64)


def test_a_known_architecture(tmp_path: Path) -> None:
    network = timm.create_model("convnextv2_atto", num_classes=7)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    model, kernels = read(tmp_path / "mine.safetensors", architecture="convnextv2_atto", dataset="cifar-10", step=5)
    assert len(kernels) == 12
    for name, kernel in kernels.items():
        np.testing.assert_array_equal(kernel, network.state_dict()[f"{name}.weight"][:, 0].numpy())
    assert model.facts.params == sum(weight.numel() for weight in network.parameters())
    assert (model.facts.architecture, model.facts.dataset, model.facts.step) == ("convnextv2_atto", "cifar-10", 5)
    assert [layer.stage for layer in model.layers] == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3]
    assert model.notes == []


def test_a_prefix_of_the_networks_keys(tmp_path: Path) -> None:
    state = {f"backbone.{key}": value for key, value in timm.create_model("convnext_atto").state_dict().items()}
    torch.save({**state, "head.weight": torch.zeros(3, 3)}, tmp_path / "detector.pth")
    model, kernels = read(tmp_path / "detector.pth", architecture="convnext_atto")
    assert "stages.0.blocks.0.conv_dw" in kernels
    assert any("prefix backbone." in note for note in model.notes)


def test_a_wrong_architecture(tmp_path: Path) -> None:
    torch.save(timm.create_model("convnext_atto").state_dict(), tmp_path / "atto.pth")
    with pytest.raises(SourceError, match="Give the right architecture"):
        read(tmp_path / "atto.pth", architecture="convnext_femto")
    model, kernels = read(tmp_path / "atto.pth", architecture="mobilenetv3_small_050")
    assert len(kernels) == 12
    assert any("shapes instead" in note for note in model.notes)
    with pytest.raises(NotFound, match="convnext_atto"):
        read(tmp_path / "atto.pth", architecture="convnext_ato")
    with pytest.raises(InvalidArgument, match="wings"):
        read(tmp_path / "atto.pth", architecture="convnext_atto", architecture_args={"wings": 2})


def test_branches_and_experts() -> None:
    layers, _ = from_module(timm.create_model("mobileone_s0"))
    assert {layer.kind for layer in layers} == {"branch"}
    layers, _ = from_module(timm.create_model("fastvit_t8"))
    assert {layer.kind for layer in layers if layer.name.endswith(("large_conv.conv", "small_conv.conv"))} == {"branch"}
    assert {layer.kind for layer in layers if "mlp.conv" in layer.name} == {"depthwise"}
    _, skipped = from_module(timm.create_model("efficientnet_cc_b0_4e"))
    assert [len(part.names) for part in skipped if part.reason == EXPERTS] == [8]


def test_stages() -> None:
    assert stages_of(["blocks.0.0.fn.0", "blocks.1.0.fn.0"]) == [None, None]  # ConvMixer has blocks and no stages
    assert stages_of(["layers.0.blocks.0.dw", "layers.3.blocks.1.dw"]) == [0, 3]
    assert stages_of(["stage0.dw", "stage1.dw"]) == [0, 1]
    assert stages_of(["stage1.dw", "stage2.dw"]) == [0, 1]


def shaped(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.randn(8, 1, 3, 3) for name in names}


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "params", "params_ema", "net", "module", "ema", "generator", "state_dict_ema"]
)
def test_nesting(key: str) -> None:
    inner = shaped("a.weight", "b.weight")
    assert unwrap({key: inner, "epoch": 3}, "auto", "x")[0] == inner
    assert list(
        unwrap({"checkpoint": {key: {f"module.{name}": value for name, value in inner.items()}}}, "auto", "x")[0]
    ) == list(inner)


@pytest.mark.parametrize(
    ("average", "raw"), [("params_ema", "params"), ("model_ema", "model"), ("ema", "model"), ("state_dict_ema", "state_dict")]
)
def test_average_and_raw_weights_are_one_network(average: str, raw: str) -> None:
    tree = {raw: shaped("a.weight"), average: shaped("a.weight"), "optimizer": {"state": shaped("a.weight")}}
    state, notes = unwrap(tree, "auto", "x")
    assert state == tree[average]
    assert average in notes[0]
    assert unwrap(tree, "ema", "x")[0] == tree[average]
    assert unwrap(tree, "raw", "x")[0] == tree[raw]
    with pytest.raises(SourceError, match="EMA"):
        unwrap({raw: shaped("a.weight")}, "ema", "x")
    with pytest.raises(SourceError, match="raw"):
        unwrap({average: shaped("a.weight")}, "raw", "x")


def test_the_same_network_twice() -> None:
    tree = {"model": shaped("a.weight"), "best_model": shaped("a.weight")}
    state, notes = unwrap(tree, "auto", "x")
    assert state == tree["model"]
    assert "best_model" in notes[0]


def test_average_in_a_flat_state_dict() -> None:
    flat = shaped("model.a.weight", "ema_model.a.weight")
    assert unwrap(flat, "auto", "x")[0] == {"a.weight": flat["ema_model.a.weight"]}
    assert unwrap(flat, "raw", "x")[0] == {"a.weight": flat["model.a.weight"]}
    attention = shaped("conv.weight", "ema.conv3.weight")  # an attention block of that name is no average
    assert unwrap(attention, "auto", "x")[0] == attention


def test_two_networks_in_one_file() -> None:
    tree = {"generator": shaped("a.weight"), "generator_ema": shaped("a.weight"), "discriminator": shaped("a.weight")}
    state, notes = unwrap(tree, "auto", "x")
    assert list(state) == ["generator_ema.a.weight", "discriminator.a.weight"]
    assert any("several networks" in note for note in notes)


def test_tensors_that_share_their_numbers(tmp_path: Path) -> None:
    weight = torch.randn(8, 1, 3, 3)
    torch.save(OrderedDict([("a.weight", weight), ("b.weight", weight)]), tmp_path / "tied.pth")
    model, kernels = read(tmp_path / "tied.pth")
    assert list(kernels) == ["a"]
    assert [(skipped.reason, skipped.names) for skipped in model.skipped] == [(SHARED, ("b.weight",))]


def test_a_choice_that_is_none() -> None:
    with pytest.raises(InvalidArgument, match="auto, ema or raw"):
        Options(weights="best")  # type: ignore[arg-type]


def test_a_name_is_for_one_model() -> None:
    with pytest.raises(InvalidArgument, match="One name"):
        resolve("timm:convnextv2_*", Options(name="x"))


def test_a_file_wins_over_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(shaped("a.weight"), "timm:convnext_atto")
    assert list(read("timm:convnext_atto")[1]) == ["a"]


@pytest.mark.parametrize(
    "source", ["", "nosuch", "no/such.pth", "tim:x", "timm:", "timm:nosuch", "hf:x", "torchvision:nosuch", "a\0b", 5, "."]
)
def test_names_that_mean_nothing(source: Any) -> None:
    with pytest.raises(FilterdbError) as caught:
        resolve(source)
    assert "\n" not in str(caught.value)


def test_importing_is_light() -> None:
    import subprocess
    import sys

    heavy = "{'torch', 'timm', 'faiss', 'onnx', 'huggingface_hub'}"
    code = f"import filterdb.sources, filterdb.sources.recipes, sys; print(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(("channels", "noted"), [(1, True), (3, False)])
def test_a_first_convolution_of_a_grey_image_is_noted(tmp_path: Path, channels: int, noted: bool) -> None:
    shapes = {"conv1": (16, channels, 3, 3), "dw": (16, 1, 3, 3), "conv2": (32, 16, 3, 3)}
    torch.save({f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "x.pth")
    (pending,) = resolve(tmp_path / "x.pth")
    with pending.open(None) as model:
        assert any("conv1 comes first, and may be" in note for note in model.notes) == noted
