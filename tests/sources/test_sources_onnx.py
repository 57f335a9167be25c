"""ONNX files: strides, dilations and paddings from the nodes, names from the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from filterdb.errors import SourceError
from filterdb.sources import Options, resolve
from filterdb.sources.programs.onnx_values import FROM_INPUTS
from filterdb.store.schema import Layer, Model

onnx = pytest.importorskip("onnx")


def save(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], **options: Any) -> Path:
    """A graph of these nodes and initializers."""
    helper = onnx.helper
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), str(path), **options)
    return path


def conv(weight: str, group: int, name: str = "", **attributes: Any) -> Any:
    return onnx.helper.make_node("Conv", ["x", weight], ["y"], name=name, group=group, **attributes)


def read(path: Path, **options: Any) -> tuple[Model, dict[str, np.ndarray]]:
    (pending,) = resolve(path, Options(**options))
    with pending.open(None) as model:
        return model, {layer.name: kernel for layer, kernel in zip(model.layers, model.read(), strict=True)}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_nodes_say_what_a_layer_is(tmp_path: Path) -> None:
    weights = {
        "stages.1.dw.weight": random(8, 1, 3, 5), "w2": random(16, 1, 5, 5), "w3": random(8, 1, 3, 3), "w4": random(8, 1, 2, 2),
        "one": random(8, 1, 1, 1), "dense": random(8, 8, 3, 3), "grouped": random(8, 2, 3, 3),
    }  # fmt: skip
    nodes = [
        conv("stages.1.dw.weight", 8, "/stages.1/Conv", strides=[2, 1], dilations=[1, 2], pads=[1, 4, 1, 4]),
        conv("w2", 8, "second", auto_pad="SAME_UPPER"), conv("w3", 8, pads=[0, 0, 1, 1]),
        conv("w4", 8, "second", auto_pad="VALID"),
        conv("one", 8, "one"), conv("dense", 1, "dense"), conv("grouped", 4, "grouped"),
        conv("made", 8, "made"), conv("w3", 8, "again"),
    ]  # fmt: skip
    model, kernels = read(save(tmp_path / "x.onnx", nodes, weights))
    assert model.layers == [
        Layer("stages.1.dw", 3, 5, 8, 8, (2, 1), (1, 2), (1, 4), "zeros", 1, "depthwise"),
        Layer("second", 5, 5, 16, 8, (1, 1), (1, 1), "same", "zeros", None, "multiplier"),
        Layer("Conv_2", 3, 3, 8, 8, (1, 1), (1, 1), None, "zeros", None, "depthwise"),
        Layer("second_2", 2, 2, 8, 8, (1, 1), (1, 1), (0, 0), "zeros", None, "depthwise"),
    ]
    for kernel, name in zip(kernels.values(), ["stages.1.dw.weight", "w2", "w3", "w4"], strict=True):
        np.testing.assert_array_equal(kernel, weights[name][:, 0])
    assert [skipped.names for skipped in model.skipped if skipped.reason == FROM_INPUTS] == [("made",)]
    assert model.notes == ["padding differs from side to side, and is null, in 1 layer (Conv_2)"]
    assert not model.facts.quantised
    assert read(tmp_path / "x.onnx", pointwise=True)[1]["one"].shape == (8, 1, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_precisions_and_constants(tmp_path: Path, dtype: Any) -> None:
    array = random(4, 1, 3, 3).astype(dtype)
    constant = onnx.helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(array))
    model, kernels = read(save(tmp_path / "x.onnx", [constant, conv("w", 4, "c")], {}))
    np.testing.assert_array_equal(kernels["c"], array.astype(np.float32)[:, 0])
    assert any("float64" in note for note in model.notes) == (dtype is np.float64)


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="no depthwise"):
        read(save(tmp_path / "dense.onnx", [conv("w", 1)], {"w": random(8, 8, 3, 3)}))
    weights = random(8, 1, 3, 3)
    weights[3, 0, 0, 0] = np.nan
    with pytest.raises(SourceError, match="channel 3"):
        read(save(tmp_path / "nan.onnx", [conv("w", 8)], {"w": weights}))
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SourceError, match="pip install"):
        read(tmp_path / "dense.onnx")


@pytest.mark.parametrize("name", ["strides", "dilations", "pads"])
@pytest.mark.parametrize("step", [2**31, 2**62, -(2**40)])
def test_absurd_steps_are_refused(tmp_path: Path, name: str, step: int) -> None:
    with pytest.raises(SourceError, match="c has an absurd stride, dilation or padding"):
        read(
            save(
                tmp_path / "x.onnx",
                [conv("w", 8, "c", **{name: [step] * (4 if name == "pads" else 2)})],
                {"w": random(8, 1, 3, 3)},
            )
        )
