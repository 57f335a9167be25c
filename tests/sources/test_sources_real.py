"""The real checkpoints: counts as their manifest has them, kernels bit-equal to what torch and onnx read."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real import data, each, manifest

from filterdb.sources import resolve
from filterdb.store.schema import Model


def read(path: Path) -> tuple[Model, list[np.ndarray]]:
    (pending,) = resolve(path)
    with pending.open(None) as model:
        return model, list(model.read())


def arrays(path: Path) -> list[np.ndarray]:
    """Every 4-D array in a file, read without us."""
    if path.suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        graph = onnx.load(str(path)).graph
        constants = [attribute.t for node in graph.node for attribute in node.attribute if node.op_type == "Constant"]
        found = [onnx.numpy_helper.to_array(tensor) for tensor in [*graph.initializer, *constants]]
        return [array for array in found if array.ndim == 4]
    if path.suffix == ".tflite":
        return [np.moveaxis(array[:1], -1, 0).astype(np.float32) for array in real_constants(path) if array.ndim == 4]

    def walk(held: Any) -> list[np.ndarray]:
        if isinstance(held, torch.Tensor):
            return [held.numpy()] if held.ndim == 4 and held.is_floating_point() else []
        return [array for inner in held.values() for array in walk(inner)] if isinstance(held, dict) else []

    with torch.serialization.safe_globals([Namespace]):
        return walk(torch.load(path, map_location="cpu", weights_only=True))


def real_constants(path: Path) -> list[np.ndarray]:
    """Every real constant in a TFLite file, in its own layout."""
    tflite = pytest.importorskip("tflite")
    model = tflite.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    found = []
    for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
        code = {tflite.TensorType.FLOAT32: "<f4", tflite.TensorType.FLOAT16: "<f2"}.get(tensor.Type())
        buffer = model.Buffers(tensor.Buffer())
        if code and buffer.DataLength():
            found.append(buffer.DataAsNumpy().view(code).reshape(tensor.ShapeAsNumpy()))
    return found


@each(manifest())
def test_a_real_file(entry: dict[str, Any]) -> None:
    path = data() / "weights" / entry["file"]
    model, kernels = read(path)
    counts: Counter[str] = Counter()
    for layer, kernel in zip(model.layers, kernels, strict=True):
        assert kernel.shape == (layer.out_channels, layer.kernel_h, layer.kernel_w)
        counts[str(layer.kernel_h) if layer.kernel_h == layer.kernel_w else f"{layer.kernel_h}x{layer.kernel_w}"] += len(kernel)
    assert counts == entry["depthwise_kernels"]
    assert model.facts.sha256 == entry["sha256"]
    there = {array.tobytes() for array in arrays(path) if array.shape[1] == 1}
    assert all(kernel.tobytes() in there for kernel in kernels)
    names = [layer.name for layer in model.layers]
    assert len(set(names)) == len(names)


def test_there_is_a_manifest() -> None:
    assert len(manifest()) == 21 or not data()
