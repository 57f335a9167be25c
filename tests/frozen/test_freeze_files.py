"""Checkpoints frozen from file to file: only depthwise kernels change, and everything else to the last bit stays."""

from __future__ import annotations

import json
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from real import data, each, manifest
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from filterdb import Database, banks
from filterdb.cli.app import app
from filterdb.errors import FilterdbError, InvalidArgument, NotFound, SourceError, StoreError
from filterdb.frozen import files
from filterdb.frozen.files import encode, freeze_file
from filterdb.frozen.plan import Plan
from filterdb.search import nearest
from filterdb.sources import resolve

GREEDY = banks.load("greedy8")
PLAN = Plan.of(GREEDY)
CROPPED = Plan.of(GREEDY, resize="crop")
WITH_CODE = "fastvit_food101_192.pth.tar"
"""Holds an argparse.Namespace, which would have to be made to be written again."""
WRITABLE = [entry for entry in manifest() if entry["file"] != WITH_CODE and not entry["file"].endswith(".tflite")]


def read(path: Path) -> tuple[list[Any], dict[str, np.ndarray]]:
    """The layers of a file, and the kernels of each, as ingest reads them."""
    [pending] = resolve(path)
    with pending.open(None) as model:
        return model.layers, dict(zip((layer.name for layer in model.layers), model.read(), strict=True))


def tensors(held: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in what a checkpoint holds, by its path."""
    if isinstance(held, torch.Tensor):
        return {path: held}
    pairs = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list | tuple) else ()
    return {name: one for key, value in pairs for name, one in tensors(value, f"{path}/{key}").items()}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def state(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A network's state: two depthwise layers of 7x7, one of 5x5, and what must not change."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng).to(dtype)

    return {
        "stem.weight": draw(8, 3, 7, 7), "a.conv_dw.weight": draw(8, 1, 7, 7), "a.conv_dw.bias": draw(8),
        "a.pw.weight": draw(16, 8, 1, 1), "b.conv_dw.weight": draw(16, 1, 5, 5), "c.conv_dw.weight": draw(16, 1, 7, 7),
        "norm.num_batches_tracked": torch.tensor(7), "head.weight": draw(10, 16), "empty": torch.zeros(0, 3),
    }  # fmt: skip


# real checkpoints


@each(WRITABLE)
def test_a_real_checkpoint_is_frozen_and_reopens(entry: dict[str, Any], tmp_path: Path) -> None:
    source, out = data() / "weights" / entry["file"], tmp_path / entry["file"]
    report = freeze_file(source, out, CROPPED)
    layers, before = read(source)
    after_layers, after = read(out)
    assert after_layers == layers
    assert report.replaced + report.dead == report.kernels
    by_name = {layer.name: layer for layer in layers}
    for name, kernels in before.items():
        bank = CROPPED.bank_for(by_name[name])
        found = nearest.match(kernels.reshape(len(kernels), -1), bank)
        expected = found["gain"][:, None, None] * bank.templates[found["template"]] + found["offset"][:, None, None]
        scale = np.abs(kernels).max(axis=(1, 2), keepdims=True)
        assert (np.abs(after[name] - expected) <= 2e-6 * scale + 1e-30).all()
    # what is no depthwise kernel is what it was, and frozen twice is frozen once
    again = tmp_path / f"again_{entry['file']}"
    freeze_file(out, again, CROPPED)
    if source.suffix == ".onnx":
        one, other, twice = (onnx.load(path) for path in (source, out, again))
        changed = {name: numpy_helper.to_array(t) for name, t in initializers(one).items()}
        now = {name: numpy_helper.to_array(t) for name, t in initializers(other).items()}
        assert [n.SerializeToString() for n in one.graph.node if n.op_type != "Constant"] == [
            n.SerializeToString() for n in other.graph.node if n.op_type != "Constant"
        ]
        assert initializers(other) == initializers(twice)
        rest = [name for name in changed if not (changed[name].ndim == 4 and changed[name].shape[1] == 1)]
        assert list(changed) == list(now)
        assert all(changed[name].tobytes() == now[name].tobytes() for name in rest)
    else:
        one, other, twice = (tensors(torch.load(path, map_location="cpu", weights_only=True)) for path in (source, out, again))
        assert list(one) == list(other)
        assert all(raw(other[name]) == raw(twice[name]) for name in other)
        kept = [name for name, tensor in one.items() if not (tensor.ndim == 4 and tensor.shape[1] == 1)]
        assert all(raw(one[name]) == raw(other[name]) and one[name].dtype == other[name].dtype for name in kept)


def initializers(model: Any) -> dict[str, Any]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    return found | {node.output[0]: a.t for node in constants for a in node.attribute if a.name == "value"}


@each([entry for entry in manifest() if entry not in WRITABLE])
def test_a_real_file_that_cannot_be_written_is_one_line(entry: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FilterdbError) as error:
        freeze_file(data() / "weights" / entry["file"], tmp_path / entry["file"], PLAN)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


# safetensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_safetensors_keep_keys_dtypes_bytes_and_metadata(dtype: torch.dtype, tmp_path: Path) -> None:
    source, out, again = (tmp_path / f"{name}.safetensors" for name in ("source", "out", "again"))
    held = state(dtype=dtype)
    save_file(held, source, metadata={"format": "pt", "who": "me"})
    report = freeze_file(source, out, PLAN)
    assert [report.kernels, report.replaced, report.kept] == [40, 24, 16]
    with safe_open(source, "pt") as one, safe_open(out, "pt") as other:
        assert list(json.loads(head(source))["a.conv_dw.weight"]) == list(json.loads(head(out))["a.conv_dw.weight"])
        order = [key for key in json.loads(head(source)) if key != "__metadata__"]
        assert [key for key in json.loads(head(out)) if key != "__metadata__"] == order
        for key in one.keys():  # noqa: SIM118
            before, after = one.get_tensor(key), other.get_tensor(key)
            assert before.dtype == after.dtype
            frozen = key in ("a.conv_dw.weight", "c.conv_dw.weight")
            assert (raw(before) == raw(after)) != frozen
            if frozen:
                plain = before.float().numpy()[:, 0]
                found = nearest.match(plain.reshape(len(plain), -1), GREEDY)
                wanted = found["gain"][:, None, None] * GREEDY.templates[found["template"]] + found["offset"][:, None, None]
                assert torch.equal(after[:, 0], torch.from_numpy(wanted).to(dtype))
        words = other.metadata()
        assert {key: words[key] for key in ("format", "who", "bank", "mode")} == {
            "format": "pt", "who": "me", "bank": "greedy8", "mode": "replaced",
        }  # fmt: skip
        assert json.loads(words["frozen"])["replaced"] == 24
    freeze_file(out, again, PLAN)
    assert out.read_bytes()[8 + len(head(out)) :] == again.read_bytes()[8 + len(head(again)) :]


def head(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_numbers_are_rounded_as_torch_rounds_them(dtype: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 50_000, np.uint32).view(np.float32)
    numbers = np.concatenate([bits[np.isfinite(bits) & (np.abs(bits) < 6e4)], [0, -0.0, 1e-40, 1.00390625, 1.01171875]])
    numbers = numbers.astype(np.float32)
    assert encode(numbers, dtype).tobytes() == raw(torch.from_numpy(numbers).to(getattr(torch, dtype)))


# torch


def checkpoint() -> dict[str, Any]:
    """As a training writes it: weights, their average, an optimiser with tensors of the same shapes, and shared memory."""
    model, average = OrderedDict(state(0)), OrderedDict(state(1))
    model._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    moments = {number: {"exp_avg": tensor.clone(), "step": 3} for number, tensor in enumerate(model.values())}
    buffer = torch.randn(8 * 49 + 5)
    model["flat.conv_dw.weight"] = average["flat.conv_dw.weight"] = buffer[5:].view(8, 1, 7, 7)
    return {
        "epoch": 3,
        "state_dict": model,
        "state_dict_ema": average,
        "optimizer": {"state": moments},
        "flat": buffer,
        "words": ["a", (1, 2)],
    }


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_training_checkpoint_keeps_all_but_its_depthwise_kernels(new: bool, tmp_path: Path) -> None:
    source, out = tmp_path / "last.pth", tmp_path / "frozen.pth"
    torch.save(checkpoint(), source, _use_new_zipfile_serialization=new)
    report = freeze_file(source, out, PLAN)
    assert zipfile.is_zipfile(out) == new
    before, after = (torch.load(path, weights_only=True) for path in (source, out))
    one, other = tensors(before), tensors(after)
    assert list(one) == list(other)
    names = [f"/{part}/{layer}.conv_dw.weight" for part in ("state_dict", "state_dict_ema") for layer in ("a", "c", "flat")]
    assert {name for name in one if raw(one[name]) != raw(other[name])} == {*names, "/flat"}
    for name in names:
        kernels = one[name][:, 0].numpy()
        np.testing.assert_allclose(other[name][:, 0].numpy(), frozen(kernels), atol=1e-6)
    # the view and the buffer still share their memory
    after["flat"].zero_()
    assert not after["state_dict"]["flat.conv_dw.weight"].any()
    assert after["state_dict"]._metadata == {"": {"version": 1}}
    assert (after["epoch"], after["words"]) == (3, ["a", (1, 2)])
    sets = {one.layer for one in report.layers}
    assert {"a.conv_dw", "a.conv_dw (raw)", "b.conv_dw", "b.conv_dw (raw)"} <= sets
    # ingest sees the very kernels that were written
    assert np.array_equal(read(out)[1]["a.conv_dw"], other["/state_dict_ema/a.conv_dw.weight"][:, 0].numpy())


def frozen(kernels: np.ndarray) -> np.ndarray:
    found = nearest.match(kernels.reshape(len(kernels), -1), GREEDY)
    return found["gain"][:, None, None] * GREEDY.templates[found["template"]] + found["offset"][:, None, None]


def test_the_same_file_comes_out_each_time_and_nothing_is_executed(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    for name in ("b.pth", "c.pth"):
        freeze_file(tmp_path / "a.pth", tmp_path / name, PLAN)
    assert (tmp_path / "b.pth").read_bytes() == (tmp_path / "c.pth").read_bytes()
    torch.save({"state_dict": state(), "args": Namespace(lr=1)}, tmp_path / "code.pth")
    with pytest.raises(SourceError, match="needs code"):
        freeze_file(tmp_path / "code.pth", tmp_path / "d.pth", PLAN)


# onnx


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"])
@pytest.mark.parametrize("as_bytes", [True, False], ids=["raw", "fields"])
def test_onnx_tensors_are_changed_in_the_field_that_holds_them(kind: str, as_bytes: bool, tmp_path: Path) -> None:
    code = getattr(onnx.TensorProto, kind)
    dtype = {"FLOAT": "float32", "FLOAT16": "float16", "DOUBLE": "float64", "BFLOAT16": "bfloat16"}[kind]
    kernels = torch.randn(4, 1, 7, 7, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    plain = kernels.float().numpy()
    if as_bytes:
        weight = helper.make_tensor("w", code, (4, 1, 7, 7), raw(kernels), raw=True)
    else:
        weight = helper.make_tensor("w", code, (4, 1, 7, 7), plain.ravel().tolist())
    assert weight.HasField("raw_data") == as_bytes
    rest = helper.make_tensor("rest", onnx.TensorProto.FLOAT, (3,), [1.0, 2.0, 3.0])
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=4, kernel_shape=[7, 7], name="dw")
    value = [helper.make_tensor_value_info(name, code, None) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:], [weight, rest]))
    model.metadata_props.add(key="who", value="me")
    onnx.save(model, str(tmp_path / "a.onnx"))
    freeze_file(tmp_path / "a.onnx", tmp_path / "b.onnx", PLAN)
    made = onnx.load(str(tmp_path / "b.onnx"))
    after = made.graph.initializer[0]
    assert after.HasField("raw_data") == as_bytes
    wanted = torch.from_numpy(frozen(plain[:, 0])).to(kernels.dtype).float().numpy()
    assert np.array_equal(np.asarray(numpy_helper.to_array(after)).astype(np.float32)[:, 0], wanted)
    assert made.graph.initializer[1] == rest
    assert made.graph.node == model.graph.node
    words = {one.key: one.value for one in made.metadata_props}
    assert (words["who"], words["bank"]) == ("me", "greedy8")
    assert json.loads(words["frozen"])["replaced"] == 4


# bad input


def test_what_cannot_be_frozen_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_file(state(), good)
    no_depthwise = tmp_path / "plain.safetensors"
    save_file({"conv.weight": torch.randn(8, 3, 3, 3)}, no_depthwise)
    diverged = tmp_path / "nan.safetensors"
    save_file(state() | {"a.conv_dw.weight": torch.full((8, 1, 7, 7), torch.nan)}, diverged)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-9])
    out = tmp_path / "out" / "x.safetensors"
    cases: list[tuple[Path, Path, Plan, type[FilterdbError], str]] = [
        (no_depthwise, out, PLAN, SourceError, "no depthwise kernels"),
        (diverged, out, PLAN, SourceError, "NaN"),
        (cut, out, PLAN, SourceError, "truncated"),
        (tmp_path / "gone.pth", out, PLAN, SourceError, "cannot be read"),
        (good, good, PLAN, InvalidArgument, "the source itself"),
        (good, tmp_path, PLAN, InvalidArgument, "is a folder"),
        (good, out.with_suffix(".pth"), PLAN, InvalidArgument, "must end in .safetensors, got x.pth"),
        (good, out, Plan.of(banks.load("greedy8", size=9)), InvalidArgument, "the layers have 5x5, 7x7 kernels"),
        (good, out, Plan.of(GREEDY, layers="d.*"), NotFound, 'No depthwise layer "d.*"'),
        (good, good / "x.safetensors", PLAN, StoreError, "cannot be written"),
    ]  # fmt: skip
    for source, target, plan, kind, message in cases:
        with pytest.raises(kind) as error:
            freeze_file(source, target, plan)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert not out.parent.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    out = tmp_path / "b.safetensors"
    out.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.shutil, "copyfileobj", full)
    with pytest.raises(StoreError, match="No space left"):
        freeze_file(tmp_path / "a.safetensors", out, PLAN)
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}


# the verb and the command


def test_freeze_on_the_command_line(tmp_path: Path) -> None:
    source, place = tmp_path / "net.safetensors", ["--db", str(tmp_path / "db")]
    save_file(state(), source)
    run = CliRunner()
    done = run.invoke(app, ["freeze", str(source), "--out", str(tmp_path / "a.safetensors"), *place])
    assert done.exit_code == 0
    assert "24 of 40 kernels replaced, 0 constant, 16 stay" in done.stdout
    assert "16 stay: the bank greedy8 is of 7x7" in done.stdout
    db = Database(tmp_path / "db")
    db.ingest(source, name="net")
    db.create_bank("five", kmeans=3, size="5x5")
    flags = ["--bank", "7x7=dog", "--bank", "five", "--bank", "a.*=greedy8", "--signed", "--json"]
    done = run.invoke(app, ["freeze", str(source), *flags, "--out", str(tmp_path / "b.safetensors"), *place])
    assert {one["layer"]: one["bank"] for one in json.loads(done.stdout)["layers"]} == {
        "a.conv_dw": "greedy8", "b.conv_dw": "five", "c.conv_dw": "dog",
    }  # fmt: skip
    rows = db.nearest("dog", layer="c.conv_dw", signed=True).to_arrow_table().to_pylist()
    bank = db.bank("dog")
    after = read(tmp_path / "b.safetensors")[1]["c.conv_dw"]
    for row in rows:
        np.testing.assert_allclose(
            after[row["channel"]], row["gain"] * bank.templates[bank.names.index(row["template"])] + row["offset"], atol=1e-6
        )
