"""ONNX weights that are not plainly there: quantised, computed from constants, in a file beside the program, or transposed."""

from __future__ import annotations

import os
import random as plain_random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub import connected, serve
from test_sources_onnx import conv, random, read, save

from filterdb import Database
from filterdb.errors import FilterdbError, InvalidArgument, SourceError
from filterdb.sources import resolve
from filterdb.sources.layers import SHARED, TRANSPOSED
from filterdb.sources.programs import onnx_values
from filterdb.store import schema

onnx = pytest.importorskip("onnx")
TensorProto, helper = onnx.TensorProto, onnx.helper
W = random(8, 1, 5, 5)


def node(kind: str, inputs: list[str], output: str = "w", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], **attributes)


def computed(path: Path, name: str = "w", opset: int = 21) -> np.ndarray:
    """What onnx's own evaluator says the whole graph computes for a name."""
    from onnx.reference import ReferenceEvaluator

    graph = onnx.load(str(path)).graph
    nodes = [one for one in graph.node if "Conv" not in one.op_type]
    output = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [], output, list(graph.initializer)), opset_imports=[helper.make_opsetid("", opset)]
    )
    return np.asarray(ReferenceEvaluator(model).run(None, {})[0])


# -- quantised ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("channels", [False, True], ids=["tensor", "channel"])
def test_dequantised_as_the_evaluator_does(tmp_path: Path, dtype: Any, channels: bool) -> None:
    rng = np.random.default_rng(0)
    limits, count = np.iinfo(dtype), 8 if channels else 1
    weights = {
        "q": rng.integers(limits.min, limits.max, (8, 1, 5, 5), dtype, endpoint=True),
        "s": rng.uniform(0.001, 0.1, count).astype(np.float32), "z": rng.integers(0, 100, count).astype(dtype),
    }  # fmt: skip
    if not channels:
        weights |= {name: weights[name].reshape(()) for name in ("s", "z")}
    path = save(tmp_path / "x.onnx", [node("DequantizeLinear", ["q", "s", "z"], axis=0), conv("w", 8, "c")], weights)
    model, kernels = read(path)
    assert model.facts.quantised
    assert model.notes == []
    np.testing.assert_array_equal(kernels["c"], computed(path)[:, 0])


def test_an_axis_in_the_middle_and_what_comes_after(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "q": rng.integers(-128, 127, (5, 5, 8, 1), np.int8), "s": rng.uniform(0.001, 0.1, 8).astype(np.float32),
        "z": np.zeros(8, np.int8),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], "r", axis=2), node("Transpose", ["r"], perm=[2, 3, 0, 1]), conv("w", 8, "c"),
    ]  # fmt: skip
    _, kernels = read(save(tmp_path / "x.onnx", nodes, weights))
    wanted = (weights["q"].astype(np.float32) * weights["s"][:, None]).transpose(2, 3, 0, 1)
    np.testing.assert_array_equal(kernels["c"], wanted[:, 0])


def test_a_network_quantised_with_operators_of_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "q": rng.integers(0, 255, (8, 1, 3, 3), np.uint8), "s": rng.uniform(0.001, 0.1, 8).astype(np.float32),
        "z": rng.integers(90, 160, 8, np.uint8), "one": np.float32(1), "zero": np.uint8(0),
    }  # fmt: skip
    nodes = [
        helper.make_node(
            "QLinearConv", ["x", "one", "zero", "q", "s", "z", "one", "zero"], ["y"], name="a_quant", group=8, strides=[2, 2]
        ),
        helper.make_node("ConvInteger", ["x", "q", "zero", "z"], ["i"], name="b", group=8),
        helper.make_node("ConvInteger", ["x", "q"], ["j"], name="c", group=8),
    ]  # fmt: skip
    model, kernels = read(save(tmp_path / "x.onnx", nodes, weights))
    whole = weights["q"].astype(np.int64)[:, 0]
    less = whole - weights["z"].astype(np.int64)[:, None, None]
    np.testing.assert_allclose(kernels["a"], less * weights["s"][:, None, None], rtol=1e-6)
    np.testing.assert_array_equal(kernels["b"], less)
    np.testing.assert_array_equal(kernels["c"], whole)
    assert model.layers[0].stride == (2, 2)
    assert model.facts.quantised
    assert model.notes == ["integers without a scale (ConvInteger), stored less their zero point: b, c"]


def test_operators_of_integers_whose_inputs_are_missing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QLinearConv", ["x", "one", "zero"], ["a"], name="a", group=8),
        helper.make_node("QLinearConv", ["x", "one", "zero", "q"], ["b"], name="b", group=8),
        helper.make_node("ConvInteger", ["x", "w"], ["c"], name="c", group=8), conv("w", 8, "d"),
    ]  # fmt: skip
    model, kernels = read(save(tmp_path / "x.onnx", nodes, {"q": W.astype(np.int8), "w": W, "one": np.float32(1)}))
    assert list(kernels) == ["d"]
    assert [names for skipped in model.skipped for names in skipped.names] == ["a", "b", "c"]


def test_attributes_that_make_no_sense(tmp_path: Path) -> None:
    for change in ({"strides": [1]}, {"pads": [1, 2]}, {"strides": 3}, {"auto_pad": 4}):
        with pytest.raises(SourceError, match="attributes of d make no sense"):
            read(save(tmp_path / "x.onnx", [conv("w", 8, "d", **change)], {"w": W}))


def test_onnxruntimes_own_domain(tmp_path: Path) -> None:
    dequantise = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], domain="com.microsoft")
    weights = {"q": np.arange(200, dtype=np.uint8).reshape(8, 1, 5, 5), "s": np.float32(0.5), "z": np.uint8(7)}
    _, kernels = read(save(tmp_path / "x.onnx", [dequantise, conv("w", 8, "c")], weights))
    np.testing.assert_array_equal(kernels["c"].ravel(), (np.arange(200) - 7) * 0.5)


def test_the_table_models_says_whether_weights_were_quantised(tmp_path: Path) -> None:
    db = Database(tmp_path / "db")
    save(tmp_path / "plain.onnx", [conv("w", 8)], {"w": W})
    weights = {"q": W.astype(np.int8), "s": np.float32(0.02)}
    save(tmp_path / "small.onnx", [node("DequantizeLinear", ["q", "s"]), conv("w", 8)], weights)
    db.ingest(tmp_path / "plain.onnx", tmp_path / "small.onnx")
    assert db.sql("SELECT model, quantised FROM models ORDER BY model").fetchall() == [("plain", False), ("small", True)]


def test_a_database_of_before_the_column_is_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.onnx", [conv("w", 8)], {"w": W})
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "MODELS", schema.MODELS.remove(schema.MODELS.get_field_index("quantised")))
        Database(tmp_path / "db").ingest(path)
    db = Database(tmp_path / "db")
    assert db.sql("SELECT model, quantised FROM models").fetchall() == [("a", None)]
    db.ingest(path, name="b")
    assert db.sql("SELECT model, quantised FROM models ORDER BY model").fetchall() == [("a", None), ("b", False)]
    assert db.verify().ok


def test_damage_is_refused_in_one_line_or_read(tmp_path: Path) -> None:
    weights = {"q": W.astype(np.int8), "s": np.full(8, 0.02, np.float32), "z": np.zeros(8, np.int8)}
    nodes = [node("DequantizeLinear", ["q", "s", "z"], "r", axis=0), node("Reshape", ["r", "n"], "w"), conv("w", 8)]
    whole = save(tmp_path / "x.onnx", nodes, weights | {"n": np.array([8, 1, 5, 5])}).read_bytes()
    beside = external(tmp_path / "beside").read_bytes()
    for seed in range(300):
        chance = plain_random.Random(seed)
        content = bytearray(beside if seed % 3 == 0 else whole)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(content))
            content[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        path = tmp_path / "beside" / "y.onnx"
        path.write_bytes(content)
        assert "\n" not in refusal(path)


def refusal(path: Path) -> str:
    """Why a file is refused; empty where it is read. Any other exception is a failure."""
    try:
        assert all(np.isfinite(kernel).all() for kernel in read(path)[1].values())
    except SourceError as error:
        return str(error)
    return ""


# -- computed -----------------------------------------------------------------------------------------------------------------


CHAINS: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "cast": ([node("Cast", ["h"], to=TensorProto.FLOAT)], {"h": W.astype(np.float16)}),
    "reshape": ([node("Reshape", ["f", "shape"])], {"f": W.ravel(), "shape": np.array([8, 1, 5, 5])}),
    "squeeze and unsqueeze": (
        [node("Squeeze", ["f"], "a"), node("Unsqueeze", ["a", "axes"])],
        {"f": W[None], "axes": np.array([1])},
    ),
    "folded batch norm": (
        [node("Add", ["v", "e"], "a"), node("Sqrt", ["a"], "b"), node("Div", ["g", "b"], "c"), node("Mul", ["f", "c"])],
        {"f": W, "v": np.abs(random(8, 1, 1, 1)), "e": np.float32(1e-5), "g": random(8, 1, 1, 1)},
    ),
    "identity and transpose": ([node("Identity", ["f"], "a"), node("Transpose", ["a"], perm=[3, 2, 0, 1])], {
        "f": np.ascontiguousarray(W.transpose(2, 3, 1, 0)),
    }),
    "half of a tensor": (
        [node("Slice", ["f", "from", "to"])],
        {"f": np.concatenate([W, W]), "from": np.array([4]), "to": np.array([12])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_constants_behind_nodes_are_computed(name: str, tmp_path: Path) -> None:
    nodes, weights = CHAINS[name]
    path = save(tmp_path / "x.onnx", [*nodes, conv("w", 8, "c")], weights)
    model, kernels = read(path)
    np.testing.assert_array_equal(kernels["c"], computed(path)[:, 0])
    assert not model.facts.quantised


def test_weights_that_come_of_constants_of_all_kinds(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value_float=0.5), helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        node("Mul", ["f", "k"], "a"), node("Unsqueeze", ["a", "axes"], "b"), node("Squeeze", ["b", "axes"]), conv("w", 8, "c"),
    ]  # fmt: skip
    np.testing.assert_array_equal(read(save(tmp_path / "x.onnx", nodes, {"f": W}))[1]["c"], W[:, 0] / 2)


def test_layers_are_named_by_the_tensor_that_is_stored(tmp_path: Path) -> None:
    nodes = [node("Cast", ["stages.0.dw.weight"], "w", to=1), conv("w", 8, "c"), node("Identity", ["stages.1.dw.weight"], "v"),
             conv("v", 8, "d"), node("Identity", ["v"], "u"), conv("u", 8, "e")]  # fmt: skip
    model, _ = read(save(tmp_path / "x.onnx", nodes, {"stages.0.dw.weight": W.astype(np.float16), "stages.1.dw.weight": W}))
    assert [(layer.name, layer.stage) for layer in model.layers] == [("stages.0.dw", 0), ("stages.1.dw", 1)]
    assert [(skipped.reason, skipped.names) for skipped in model.skipped] == [(SHARED, ("e",))]


def test_what_is_not_computed_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_values, "LIMIT", 1000)
    circle = [node("Add", ["b", "b"], "a"), node("Add", ["a", "a"], "b")]
    double = [node("Concat", [f"d{i}", f"d{i}"], f"d{i + 1}", axis=0) for i in range(9)]
    cases = {
        "comes from the input": ([node("Mul", ["x", "x"])], {}, "inputs"),
        "another operator": ([node("Einsum", ["f"], equation="abcd")], {"f": W}, "Einsum"),
        "vast": ([node("Expand", ["f", "shape"])], {"f": np.float32(1).reshape(1), "shape": np.array([2**40])}, "elements"),
        "vast by doubling": ([*double, node("Reshape", ["d9", "s"])], {"d0": W, "s": np.array([-1])}, "elements"),
        "a circle": ([*circle, node("Cast", ["a"], to=1)], {}, "nodes|inputs|computed"),
        "makes no sense": ([node("Reshape", ["f", "s"])], {"f": W, "s": np.array([7, 7])}, "cannot be computed here"),
    }
    for name, (nodes, weights, word) in cases.items():
        path = save(tmp_path / "x.onnx", [*nodes, conv("w", 8, "c"), conv("v", 8, "d")], {**weights, "v": W})
        model, kernels = read(path)
        assert list(kernels) == ["d"], name
        ((reason, names),) = [(skipped.reason, skipped.names) for skipped in model.skipped]
        assert names == ("c",)
        assert any(one in reason for one in word.split("|")), (name, reason)
        assert "\n" not in reason


# -- transposed ---------------------------------------------------------------------------------------------------------------


def test_transposed_convolutions_are_stored_as_they_are(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", group=8, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["x", "wide"], ["z"], name="wide", group=8),
        helper.make_node("ConvTranspose", ["x", "grouped"], ["t"], name="grouped", group=4),
    ]  # fmt: skip
    model, kernels = read(save(tmp_path / "x.onnx", nodes, {"w": W, "wide": random(8, 3, 3, 3), "grouped": random(8, 1, 3, 3)}))
    (layer,) = model.layers
    assert (layer.name, layer.kind, layer.stride, layer.padding) == ("up", "transposed", (2, 2), (1, 1))
    np.testing.assert_array_equal(kernels["up"], W[:, 0])
    assert [(skipped.reason, skipped.names) for skipped in model.skipped] == [(TRANSPOSED, ("wide",))]


def test_the_kernel_of_a_transposed_convolution_is_what_a_pixel_adds(tmp_path: Path) -> None:
    """As the file, filterdb and torch have it, no one turns it."""
    up = torch.nn.ConvTranspose2d(8, 8, 5, groups=8, bias=False)
    up.weight.data = torch.from_numpy(W)
    pixel = torch.zeros(1, 8, 3, 3)
    pixel[..., 1, 1] = 1
    drawn = up(pixel)[0, :, 1:6, 1:6].detach().numpy()
    _, kernels = read(save(tmp_path / "x.onnx", [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", group=8)], {"w": W}))
    np.testing.assert_array_equal(kernels["up"], drawn)


# -- ordinary convolutions ----------------------------------------------------------------------------------------------------


def test_ordinary_convolutions_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    image, dense, half = random(6, 3, 3, 3), random(4, 6, 5, 5), random(6, 2, 3, 3).astype(np.float16)
    nodes = [
        conv("stem.weight", 1, "a"), conv("dense", 1, "b"), conv("one", 1, "c"), conv("grey", 1, "d"),
        node("Cast", ["half"], "f", to=1), conv("f", 3, "e"), conv("w", 8, "g"),
    ]  # fmt: skip
    weights = {"stem.weight": image, "dense": dense, "one": random(4, 4, 1, 1), "grey": random(4, 1, 3, 3), "half": half, "w": W}
    path = save(tmp_path / "x.onnx", nodes, weights)
    model, kernels = read(path, stem=True, regular=10)
    assert list(kernels) == ["g"]
    assert [(layer.name, layer.kind, layer.out_channels, layer.in_channels) for layer in model.regular] == [
        ("stem", "stem", 6, 3), ("b", "regular", 4, 6), ("e", "regular", 6, 2),
    ]  # fmt: skip
    for one, array in zip(model.read_regular(), [image, dense, half.astype(np.float32)], strict=True):
        np.testing.assert_array_equal(one, array)
    assert [layer.kind for layer in read(path, stem=True)[0].regular] == ["stem"]
    assert read(path)[0].regular == []


# -- external data ------------------------------------------------------------------------------------------------------------


def external(folder: Path, location: str = "x.bin", **changes: Any) -> Path:
    """A program whose weights lie in x.bin, with the entries changed of where that is."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "x.bin").unlink(missing_ok=True)
    path = save(
        folder / "x.onnx", [conv("w", 8, "c")], {"w": W}, save_as_external_data=True, size_threshold=0, location="x.bin"
    )  # fmt: skip
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = str({"location": location, **changes}.get(entry.key, entry.value))
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_program(tmp_path: Path) -> None:
    model, kernels = read(path := external(tmp_path))
    np.testing.assert_array_equal(kernels["c"], W[:, 0])
    assert model.facts.bytes_read == path.stat().st_size + W.nbytes
    (tmp_path / "below").mkdir()
    (tmp_path / "x.bin").rename(tmp_path / "below" / "x.bin")
    np.testing.assert_array_equal(read(external(tmp_path, "below/x.bin"))[1]["c"], W[:, 0])


def test_nothing_is_read_outside_the_programs_own_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(W.tobytes())
    inside = tmp_path / "in"
    for location in ("../secret.bin", str(secret), "a/../../secret.bin", "..\\secret.bin", "C:\\secret.bin", ""):
        with pytest.raises(SourceError, match="outside its own folder") as caught:
            read(external(inside, location))
        assert "\n" not in str(caught.value)
    path = external(inside)
    for target in (secret, tmp_path):
        (inside / "x.bin").unlink(missing_ok=True)
        (inside / "link").unlink(missing_ok=True)
        os.symlink(target, inside / ("x.bin" if target is secret else "link"))
        with pytest.raises(SourceError, match="outside its own folder"):
            read(path if target is secret else external(inside, "link/secret.bin"))


def test_the_hubs_cache_is_links_into_one_folder(tmp_path: Path) -> None:
    real = external(tmp_path / "blobs")
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for name in ("x.onnx", "x.bin"):
        (tmp_path / "blobs" / name).rename(tmp_path / "blobs" / f"{name}-hash")
        os.symlink(f"../../blobs/{name}-hash", snapshot / name)
    assert not real.exists()
    np.testing.assert_array_equal(read(snapshot / "x.onnx")[1]["c"], W[:, 0])


def test_a_hub_gives_the_files_beside_a_program(tmp_path: Path) -> None:
    path = external(tmp_path / "made")
    files = {"onnx/model.onnx": path.read_bytes(), "onnx/x.bin": (path.parent / "x.bin").read_bytes()}
    outside = external(tmp_path / "made", "../x.bin").read_bytes()
    with serve({"me/net": files, "me/bad": {"model.onnx": outside, "x.bin": b""}}) as hub, connected(hub, tmp_path / "cache"):
        for _ in range(2):  # from the hub, then from the cache
            (pending,) = resolve("hf:me/net/onnx/model.onnx")
            with pending.open(None) as model:
                (kernels,) = model.read()
            np.testing.assert_array_equal(kernels, W[:, 0])
        with pytest.raises(SourceError, match="outside its own folder"), resolve("hf:me/bad/model.onnx")[0].open(None) as model:
            list(model.read())


def test_external_data_that_is_not_there_or_too_short(tmp_path: Path) -> None:
    for changes in ({"offset": 4}, {"offset": -4}, {"length": 12}, {"offset": "x"}, {"length": 2**60}):
        with pytest.raises(SourceError, match=r"not whole in x\.bin"):
            read(external(tmp_path, **changes))
    path = external(tmp_path)
    (tmp_path / "x.bin").unlink()
    with pytest.raises(SourceError, match="not beside it"):
        read(path)
    with pytest.raises(SourceError, match="no file name"):
        read(external(tmp_path, "a\0b"))


# -- freeze -------------------------------------------------------------------------------------------------------------------


def test_freezing_changes_what_is_stored_and_says_what_it_leaves(tmp_path: Path) -> None:
    from filterdb.banks import load
    from filterdb.frozen.files import freeze_file
    from filterdb.frozen.plan import Plan

    plan = Plan.of(load("greedy8"))
    seven = random(8, 1, 7, 7)
    path = save(
        tmp_path / "x.onnx",
        [conv("w", 8, "c"), node("Cast", ["h"], "v", to=1), conv("v", 8, "d"),
         helper.make_node("ConvTranspose", ["x", "t"], ["y"], "up", group=8)],
        {"w": seven, "h": seven.astype(np.float16), "t": 2 * seven}, save_as_external_data=True, size_threshold=0, location="b",
    )  # fmt: skip
    report = freeze_file(path, tmp_path / "y.onnx", plan)
    assert [layer.layer for layer in report.layers] == ["c"]
    assert any("are as they were: 2" in note for note in report.notes)
    before, after = read(path)[1], read(tmp_path / "y.onnx")[1]
    assert not np.array_equal(before["c"], after["c"])
    for name in ("d", "up"):
        np.testing.assert_array_equal(before[name], after[name])
    with pytest.raises(InvalidArgument, match="beside it"):
        freeze_file(path, tmp_path / "elsewhere" / "y.onnx", plan)
    computed_alone = save(tmp_path / "z.onnx", [node("Cast", ["h"], to=1), conv("w", 8)], {"h": seven.astype(np.float16)})
    with pytest.raises(FilterdbError, match="no others"):
        freeze_file(computed_alone, tmp_path / "y.onnx", plan)
