"""ONNX files: the weights of grouped convolutions, with the strides, dilations and paddings of their nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.kernels.sizes import Pair
from filterdb.sources import layers as read_layers
from filterdb.sources.assemble import kernels, refuse_empty
from filterdb.sources.options import Options, Progress
from filterdb.store.schema import Kind, Layer, Model, ModelFacts, Skipped

QUANTISED = "quantised weights are not kernels"
COMPUTED = "weights are computed in the graph, not stored"
ASYMMETRIC = "its padding is not the same on both sides, so it is null"


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX program in memory, and where the weights of its depthwise layers are in it."""

    model: Any
    """onnx.ModelProto."""
    layers: list[Layer]
    """In the order of the nodes."""
    tensors: list[Any]
    """onnx.TensorProto of each layer, parts of ``model``."""
    skipped: list[Skipped]


def read_onnx(path: Path, what: str, options: Options) -> OnnxFile:
    """An ONNX file and its depthwise layers."""
    try:
        import onnx
    except ImportError as error:
        raise SourceError(
            f"{what}: reading ONNX needs the package onnx. Install it with: pip install 'filterdb[onnx]'"
        ) from error

    try:
        model = onnx.load(str(path), load_external_data=False)
        graph = model.graph
        weights = {tensor.name: tensor for tensor in graph.initializer}
        weights |= {node.output[0]: tensor for node in graph.node if (tensor := _constant(node)) is not None}
    except Exception as error:  # protobuf's errors have no common base
        raise SourceError(
            f"{what} is damaged, truncated or not an ONNX file ({type(error).__name__}). Fetch it again."
        ) from error
    if not graph.node:
        raise SourceError(f"{what} is not an ONNX file, or one without a graph. Fetch it again.")

    made_by = {output: node.op_type for node in graph.node for output in node.output}
    floats = [getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")]
    layers: list[Layer] = []
    tensors: list[Any] = []
    skipped: dict[str, list[str]] = {}
    taken: set[str] = set()
    stored: set[str] = set()
    for number, node in enumerate(graph.node):
        label = node.name or f"{node.op_type}_{number}"
        if node.op_type in ("QLinearConv", "ConvInteger") and _attributes(node).get("group", 1) > 1:
            skipped.setdefault(QUANTISED, []).append(label)
        elif node.op_type == "ConvTranspose" and _attributes(node).get("group", 1) > 1:
            skipped.setdefault(read_layers.TRANSPOSED, []).append(label)
        if node.op_type != "Conv" or len(node.input) < 2:
            continue
        attributes = _attributes(node)
        groups, source = attributes.get("group", 1), node.input[1]
        if not isinstance(groups, int) or groups < 2:
            continue
        tensor = weights.get(source)
        if tensor is None:
            skipped.setdefault(QUANTISED if made_by.get(source) == "DequantizeLinear" else COMPUTED, []).append(label)
            continue
        shape = tuple(tensor.dims)
        if len(shape) != 4 or shape[1] != 1 or shape[0] % groups:
            continue  # grouped, and not depthwise
        if min(shape) < 1 or shape[0] > 2**24 or max(shape[2:]) > read_layers.LARGEST:
            raise SourceError(f"{what}: {label} has the absurd shape {shape}. Nothing was stored; fetch the file again.")
        if shape[2:] == (1, 1) and not options.pointwise:
            skipped.setdefault(read_layers.POINTWISE, []).append(label)
            continue
        if source in stored:
            skipped.setdefault(read_layers.SHARED, []).append(label)
            continue
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise SourceError(f"{what} keeps its weights in another file. Save it as one file: onnx.save(onnx.load(...), ...).")
        if tensor.data_type not in floats:
            skipped.setdefault(QUANTISED, []).append(label)
            continue
        stored.add(source)
        unique = _unique(source.removesuffix(".weight") if source.endswith(".weight") else label, taken)
        layers.append(_layer(unique, shape, groups, attributes))
        tensors.append(tensor)

    known = [Skipped(reason, tuple(names)) for reason, names in skipped.items()]
    refuse_empty(layers, known, what)
    layers = [
        Layer(**{**vars(layer), "stage": stage})
        for layer, stage in zip(layers, read_layers.stages_of([layer.name for layer in layers]), strict=True)
    ]
    return OnnxFile(model, layers, tensors, known)


def open_onnx(
    path: Path, *, name: str, what: str, facts: ModelFacts, options: Options, progress: Progress | None = None
) -> Model:
    """The depthwise layers of an ONNX file, in the order of its nodes."""
    return as_model(read_onnx(path, what, options), path, name=name, what=what, facts=facts, options=options, progress=progress)


def as_model(
    file: OnnxFile, path: Path, *, name: str, what: str, facts: ModelFacts, options: Options, progress: Progress | None = None
) -> Model:
    """The model in an ONNX file that was read."""
    from onnx import TensorProto, numpy_helper

    layers, tensors = file.layers, file.tensors
    notes = [f"{layer.name}: {ASYMMETRIC}" for layer in layers if layer.padding is None]
    if any(tensor.data_type == TensorProto.DOUBLE for tensor in tensors):
        notes.append("stored as float64: precision was reduced to float32")

    def read() -> Iterator[NDArray[Any]]:
        for number, (tensor, layer) in enumerate(zip(tensors, layers, strict=True), 1):
            try:
                array = np.asarray(numpy_helper.to_array(tensor))
                size = layer.out_channels * layer.kernel_h * layer.kernel_w
                if array.size != size:
                    raise ValueError(f"{array.size} elements for {size}")
            except Exception as error:  # whatever onnx makes of damaged raw data
                raise SourceError(f"{what}: the weights of {layer.name} are damaged ({error}). Fetch the file again.") from error
            if progress:
                progress(path.stat().st_size * number // len(tensors), path.stat().st_size)
            yield array

    facts = options.facts(facts)
    return Model(name, facts, layers, lambda: kernels(read(), layers, what), file.skipped, notes)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _constant(node: Any) -> Any | None:
    """The tensor of a Constant node, or None."""
    if node.op_type != "Constant" or len(node.output) != 1:
        return None
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)


def _unique(name: str, taken: set[str]) -> str:
    """The name, numbered where another layer has it."""
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    taken.add(unique)
    return unique


def _layer(name: str, shape: tuple[int, ...], groups: int, attributes: dict[str, Any]) -> Layer:
    kind: Kind = "multiplier" if shape[0] > groups else "depthwise"
    return Layer(
        name, shape[2], shape[3], shape[0], groups, _pair(attributes.get("strides")), _pair(attributes.get("dilations")),
        _padding(attributes), "zeros", None, kind,
    )  # fmt: skip


def _pair(values: Iterable[int] | None) -> Pair:
    rows, columns = list(values or (1, 1))[:2]
    return int(rows), int(columns)


def _padding(attributes: dict[str, Any]) -> Pair | Literal["same"] | None:
    automatic = attributes.get("auto_pad", b"NOTSET")
    if automatic.startswith(b"SAME"):
        return "same"
    if automatic == b"VALID":
        return 0, 0
    top, left, bottom, right = [int(value) for value in attributes.get("pads", (0, 0, 0, 0))]
    return (top, left) if (top, left) == (bottom, right) else None
