"""Networks that run: from the hub, from files of many kinds, from memory; saved, loaded by timm, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from hub import connected, serve
from real import data, manifest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from filterdb import Database
from filterdb.errors import FilterdbError, HubError, InvalidArgument, NotFound, SourceError, StoreError
from filterdb.networks import Network, load, save
from filterdb.sources import inverted

SMALL = "test_convnext"
"""timm's own convnext for tests: 0.3 million numbers."""
REAL = {"mcunet_in3": "mcunet-320kb-1mb_imagenet.pth", "proxyless_w0.3": "proxyless-w0.3-r176_imagenet.pth"}


def module(seed: int = 0, architecture: str = SMALL, **args: object) -> nn.Module:
    """A network of timm's with random weights, normalisations included."""
    torch.manual_seed(seed)
    made = timm.create_model(architecture, **args).eval()
    with torch.no_grad():
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) * 0.2 + 0.01)
    return made


def logits(net: nn.Module, side: int = 64) -> torch.Tensor:
    """Of two fixed images."""
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        return net(torch.randn(2, 3, side, side, generator=generator))


def same(a: nn.Module, b: nn.Module) -> bool:
    """Equal to the last bit."""
    return torch.equal(logits(a), logits(b))


# -- save and load -------------------------------------------------------------------------------------------------------------


def test_a_saved_network_reopens_alone_and_in_timm(tmp_path):
    net = module(num_classes=7, dims=(16, 24, 32, 40), drop_path_rate=0.1)
    path = save(net, tmp_path / "new" / "net.safetensors", {"bank": "greedy8", "templates": [1, 2]})
    found = load(path)
    assert same(found.module, net)
    assert not found.module.training
    assert (found.name, found.architecture, found.num_classes, found.source) == ("net", SMALL, 7, str(path))
    assert found.args == {"dims": [16, 24, 32, 40], "drop_path_rate": 0.1}
    assert found.metadata == {"bank": "greedy8", "templates": "[1, 2]"}
    cfg = timm.get_pretrained_cfg(SMALL)
    assert found.preprocessing == {
        "input_size": cfg.input_size, "interpolation": cfg.interpolation, "mean": cfg.mean, "std": cfg.std,
        "crop_pct": cfg.crop_pct, "crop_mode": cfg.crop_mode,
    }  # fmt: skip
    theirs = timm.create_model(SMALL, checkpoint_path=str(path), num_classes=7, **found.args).eval()
    assert same(theirs, net)
    assert sorted(load_file(path)) == sorted(net.state_dict())
    assert not list(path.parent.glob(".*"))


def test_what_is_said_of_the_images_travels_with_the_file(tmp_path):
    said = {"input_size": (3, 48, 48), "crop_pct": 1.0, "mean": (0.1, 0.2, 0.3)}
    net = Network.of(module(), said)
    assert net.preprocessing["input_size"] == (3, 48, 48)
    again = load(save(net, tmp_path / "net.safetensors"))
    assert again.preprocessing == net.preprocessing
    assert load(tmp_path / "net.safetensors", preprocessing={"crop_pct": 0.5}).preprocessing == net.preprocessing | {
        "crop_pct": 0.5
    }
    third = load(save(again, tmp_path / "again.safetensors"))
    assert (third.preprocessing, third.architecture, third.args) == (net.preprocessing, SMALL, {})


def test_wrappers_are_taken_off_and_shared_weights_are_kept(tmp_path):
    net = module()
    wrapped = nn.DataParallel(torch.compile(net))
    assert same(load(save(wrapped, tmp_path / "a.safetensors")).module, net)
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    save(tied, tmp_path / "tied.safetensors", {"architecture": "mine"})
    kept = load_file(tmp_path / "tied.safetensors")
    assert torch.equal(kept["a.weight"], kept["b.weight"])


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        save(module(), tmp_path / "file" / "net.safetensors")
    with pytest.raises(InvalidArgument, match=r"does not end in \.safetensors"):
        save(module(), tmp_path / "net.pth")
    with pytest.raises(InvalidArgument, match="cannot be written as JSON"):
        save(module(), tmp_path / "net.safetensors", {"x": {1, 2}})
    with torch.device("meta"):
        ghost = timm.create_model(SMALL)
    with pytest.raises(InvalidArgument, match="meta device"):
        save(ghost, tmp_path / "net.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_argument_that_is_code_leaves_the_architecture_to_be_said(tmp_path):
    net = module(act_layer=nn.ReLU)
    path = save(net, tmp_path / "net.safetensors")
    with safe_open(path, "pt") as file:
        assert "architecture" not in file.metadata()
    with pytest.raises(InvalidArgument, match="does not say its architecture"):
        load(path)
    assert same(load(path, architecture=SMALL, args={"act_layer": nn.ReLU}).module, net)


# -- files of others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["plain", "module", "state_dict", "ema", "compiled", "safetensors"])
def test_checkpoints_of_training_are_unwrapped(tmp_path, layout):
    net, other = module(1, num_classes=11), module(2, num_classes=11)
    state = net.state_dict()
    held = {
        "plain": state,
        "module": {f"module.{key}": value for key, value in state.items()},
        "state_dict": {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}},
        "ema": {"state_dict": other.state_dict(), "state_dict_ema": {f"module.{key}": value for key, value in state.items()}},
        "compiled": {"model": {f"_orig_mod.{key}": value for key, value in state.items()}},
    }
    path = tmp_path / ("net.safetensors" if layout == "safetensors" else "net.pth")
    if layout == "safetensors":
        save_file(state, path)
    else:
        torch.save(held[layout], path)
    found = load(path, architecture=SMALL)
    assert found.num_classes == 11
    assert same(found.module, net)


def test_half_precision_files_run_in_single(tmp_path):
    save_file({key: value.half() for key, value in module().state_dict().items()}, tmp_path / "net.safetensors")
    found = load(tmp_path / "net.safetensors", architecture=SMALL)
    assert {tensor.dtype for tensor in found.module.state_dict().values()} == {torch.float32}


def test_keys_of_the_authors_are_renamed_as_timm_does(tmp_path):
    """ConvNeXt's authors call the depthwise layer dwconv and the stem downsample_layers.0."""
    net = timm.create_model("convnext_atto", num_classes=3, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)).eval()
    renamed = {}
    for key, value in net.state_dict().items():
        theirs = key.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.").replace("head.fc.", "head.")
        theirs = theirs.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace(".mlp.fc1", ".pwconv1")
        theirs = theirs.replace(".mlp.fc2", ".pwconv2")
        parts = theirs.split(".")
        if len(parts) > 2 and parts[2] == "downsample":
            theirs = ".".join(["downsample_layers", parts[1], *parts[3:]])
        renamed[theirs] = value
    torch.save({"model": renamed}, tmp_path / "net.pth")
    found = load(tmp_path / "net.pth", architecture="convnext_atto", num_classes=3, args={"depths": (1,) * 4, "dims": (8,) * 4})
    assert same(found.module, net)


@pytest.mark.parametrize("architecture", REAL)
def test_ingest_knows_the_same_architectures(tmp_path, architecture):
    """Strides and the order of layers are those of the network that runs; its sibling's name is refused."""
    path, (other,) = data() / "weights" / REAL[architecture], set(REAL) - {architecture}
    db = Database(tmp_path / "db")
    db.ingest(path, architecture=architecture, name="net")
    modules = load(path, architecture=architecture).module.named_modules()
    wanted = [
        (name, conv.stride[0], conv.padding[0], conv.out_channels) for name, conv in modules
        if isinstance(conv, nn.Conv2d) and conv.groups > 1
    ]  # fmt: skip
    assert db.sql("SELECT layer, stride, padding, out_channels FROM layers ORDER BY depth").fetchall() == wanted
    with pytest.raises(SourceError, match=f"is no {other}: it has .. blocks, not .."):
        db.ingest(path, architecture=other)


def test_a_head_is_new_only_where_one_asks_for_it(tmp_path):
    path = save(module(num_classes=7), tmp_path / "net.safetensors")
    assert load(path, num_classes=7).num_classes == 7
    with pytest.raises(InvalidArgument, match="has 7 classes, not 9"):
        load(path, num_classes=9)
    fresh = load(path, num_classes=9, new_head=True)
    assert (fresh.num_classes, logits(fresh.module).shape) == (9, (2, 9))
    old = load(path).module.state_dict()
    assert all(torch.equal(value, old[key]) for key, value in fresh.module.state_dict().items() if "head.fc" not in key)


def test_the_demo_is_there_by_its_name():
    demo = load("demo")
    assert (demo.name, demo.num_classes, demo.preprocessing["input_size"]) == ("demo", 100, (3, 64, 64))


# -- inverted bottlenecks ------------------------------------------------------------------------------------------------------


def by_hand(state: dict[str, torch.Tensor], x: torch.Tensor, strided: set[int], epsilon: float) -> torch.Tensor:
    """The recipe of the checkpoints' manifest, word by word, without modules."""

    def layer(x: torch.Tensor, name: str, stride: int, relu: bool) -> torch.Tensor:
        w = state[f"{name}.conv.weight"]
        x = F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2, groups=x.shape[1] // w.shape[1])
        mean, var, scale, shift = (state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, mean, var, scale, shift, eps=epsilon)
        return x.clamp(0, 6) if relu else x

    x = layer(x, "first_conv", 2, True)
    for i in sorted({int(key.split(".")[1]) for key in state if key.startswith("blocks.")}):
        name, y = f"blocks.{i}.mobile_inverted_conv", x
        if f"{name}.inverted_bottleneck.conv.weight" in state:
            y = layer(y, f"{name}.inverted_bottleneck", 1, True)
        y = layer(y, f"{name}.depth_conv", 2 if i in strided else 1, True)
        y = layer(y, f"{name}.point_linear", 1, False)
        x = x + y if i not in strided and x.shape == y.shape else y
    if "feature_mix_layer.conv.weight" in state:
        x = layer(x, "feature_mix_layer", 1, True)
    return x.mean((2, 3)) @ state["classifier.linear.weight"].T + state["classifier.linear.bias"]


@pytest.mark.parametrize("name", REAL)
def test_the_real_networks_are_what_their_manifest_says(tmp_path, name):
    path = data() / "weights" / REAL[name]
    said = next(one["how_to_run"] for one in manifest() if one["file"] == REAL[name])
    strided = {int(word) for word in said["stride_2"][1].removeprefix("blocks ").split(", ")}
    assert (inverted.PLANS[name].strided, inverted.PLANS[name].epsilon) == (strided, said["batch_norm_eps"])
    net = load(path, architecture=name)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert list(net.module.state_dict()) == list(state)
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(net.module(x), by_hand(state, x, strided, said["batch_norm_eps"]), rtol=1e-4, atol=1e-4)
    assert (net.num_classes, net.preprocessing["input_size"]) == (1000, (3, 176, 176))
    again = load(save(net, tmp_path / "net.safetensors", {"mode": "copied"}))
    assert (again.architecture, again.metadata) == (name, {"mode": "copied"})
    assert same(again.module, net.module)
    assert logits(load(path, architecture=name, num_classes=5, new_head=True).module).shape == (2, 5)


# -- the hub -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has timm's weights of the small network, and a repository that timm saved."""
    from huggingface_hub import constants

    cfg = timm.get_pretrained_cfg(SMALL)
    (tmp_path / "repos").mkdir()
    save_file(module(8).state_dict(), tmp_path / "repos" / "a")
    save_file(module(9, num_classes=4).state_dict(), tmp_path / "repos" / "b")
    config = {"architecture": SMALL, "num_classes": 4, "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 4}}
    repos = {
        cfg.hf_hub_id: {"model.safetensors": (tmp_path / "repos" / "a").read_bytes()},
        "me/mine": {"model.safetensors": (tmp_path / "repos" / "b").read_bytes(), "config.json": json.dumps(config).encode()},
    }
    with serve(repos) as server, connected(server, tmp_path / "cache"):
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield server


def test_pretrained_networks_come_from_the_hub(hub):
    found = load(f"timm:{SMALL}")
    assert same(found.module, module(8))
    tag = timm.get_pretrained_cfg(SMALL).tag
    assert (found.name, found.source, found.architecture) == (f"{SMALL}.{tag}", f"timm:{SMALL}", SMALL)
    with pytest.raises(InvalidArgument, match="has 1000 classes, not 3"):
        load(f"timm:{SMALL}", num_classes=3)
    assert load(f"timm:{SMALL}", num_classes=3, new_head=True).num_classes == 3
    mine = load("hf:me/mine")
    assert same(mine.module, module(9, num_classes=4))
    assert (mine.num_classes, mine.preprocessing["input_size"]) == (4, (3, 32, 32))


def test_a_hub_that_does_not_answer_is_told_in_one_line(hub):
    for lie in ("404", "401"):
        hub.lies(lie)
        with pytest.raises(HubError, match=rf"timm:{SMALL} cannot be had .* give a checkpoint file") as told:
            load(f"timm:{SMALL}")
        assert "\n" not in str(told.value)
    with pytest.raises(HubError, match="hf:me/yours cannot be had"):
        load("hf:me/yours")


# -- bad input -----------------------------------------------------------------------------------------------------------------


def test_bad_sources_are_told_in_one_line(tmp_path: Path):
    path = save(module(), tmp_path / "net.safetensors")
    torch.save(module(architecture="test_resnet").state_dict(), tmp_path / "resnet.pth")
    torch.save({**module().state_dict(), "stem.0.weight": torch.ones(9, 3, 4, 4)}, tmp_path / "shape.pth")
    torch.save({"epoch": 1}, tmp_path / "nothing.pth")
    (tmp_path / "code.pth").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08")
    cases = [
        ((path,), {"architecture": "test_convnxt"}, NotFound, 'Did you mean "test_convnext"'),
        ((path,), {"architecture": "mcunet"}, NotFound, "mcunet_in3"),
        ((path,), {"architecture": "mcunet_in3"}, SourceError, r"is no mcunet_in3: it lacks first_conv\.conv\.weight"),
        ((path,), {"architecture": SMALL, "args": {"dpths": 3}}, InvalidArgument, "timm cannot build"),
        ((tmp_path / "resnet.pth",), {"architecture": SMALL}, SourceError, r"keys missing \(stem.* keys not its own"),
        ((tmp_path / "resnet.pth",), {}, InvalidArgument, "does not say its architecture"),
        ((tmp_path / "shape.pth",), {"architecture": SMALL}, SourceError, r"stem\.0\.weight is \(9, 3, 4, 4\) where"),
        ((tmp_path / "nothing.pth",), {"architecture": SMALL}, SourceError, "holds no tensors"),
        ((tmp_path / "code.pth",), {"architecture": SMALL}, SourceError, "holds no tensors"),
        ((tmp_path / "net.onnx",), {"architecture": SMALL}, SourceError, "is an ONNX program"),
        ((tmp_path / "gone.pth",), {}, SourceError, "There is no file"), ((tmp_path,), {}, SourceError, "is a folder"),
        (("dmo",), {}, NotFound, 'Did you mean "demo"'), (("small_nets",), {}, InvalidArgument, "is not one checkpoint file"),
        (("tim:resnet18",), {}, NotFound, 'Did you mean "timm"'), (("timm:",), {}, InvalidArgument, "names no model"),
        (("timm:convnextv2_ato",), {}, NotFound, 'Did you mean "convnextv2_atto"'),
        (("timm:convnextv2_*",), {}, InvalidArgument, "Name one"),
        (("timm:convnext_atto",), {"architecture": "x"}, InvalidArgument, "says its architecture itself"),
        ((path,), {"preprocessing": {"crop": 1}}, NotFound, 'Did you mean "crop_pct"'),
        ((path,), {"preprocessing": {"input_size": 64}}, InvalidArgument, "is not channels, height and width"),
    ]  # fmt: skip
    for given, options, kind, says in cases:
        with pytest.raises(kind, match=says) as told:
            load(*given, **options)
        assert isinstance(told.value, FilterdbError)
        assert "\n" not in str(told.value)


def test_a_module_of_ones_own_needs_its_preprocessing():
    mine = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(InvalidArgument, match="A Sequential does not say how its images are prepared"):
        Network.of(mine)
    net = Network.of(mine, {"input_size": (3, 2, 2)})
    assert (net.name, net.source, net.architecture, net.num_classes) == ("Sequential", "module:Sequential", None, None)
