"""ONNX files: the weights of depthwise convolutions, with the strides, dilations and paddings of their nodes.

Kernels are correlated with the image, as in torch. A transposed convolution does the reverse: each input pixel adds its kernel,
unturned, to the output. Its kernels are stored as they are in the file, that is, as the patterns that appear in the output; as a
correlation that gathers input pixels they would be turned by 180 degrees. The kind of such layers is "transposed".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from filterdb.errors import SourceError
from filterdb.kernels.sizes import Pair
from filterdb.sources.layers import NOT_FLOAT, TRANSPOSED, sheet
from filterdb.sources.options import Options, Progress
from filterdb.sources.programs.finder import Finder, Weight, dequantise, kind_of_layer, listed, one_line, unequal
from filterdb.sources.programs.onnx_values import NotConstant, Values
from filterdb.store.schema import Layer, Model, ModelFacts

NO_SCALE = "integers without a scale (ConvInteger), stored less their zero point"
OPERATORS = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "QLinearConv", "ConvInteger")
"""Convolutions; the fused ones are onnxruntime's, with the weights where Conv has them."""

INTEGER: Mapping[str, tuple[str, ...]] = {
    "QLinearConv": ("x", "x_scale", "x_zero", "weight", "scale", "zero"), "ConvInteger": ("x", "weight", "x_zero", "zero"),
}  # fmt: skip
"""Convolutions of integers, and what their inputs are."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX program in memory, and where the weights of its depthwise layers are."""

    model: Any
    """onnx.ModelProto."""
    values: Values
    found: Finder
    """Its layers are in the order of the nodes."""

    def stored(self) -> Finder:
        """Of the layers those that convolve with numbers that lie in the file, or beside it, as they are; each has a leaf."""
        pairs = zip(self.found.layers, self.found.weights, strict=True)
        kept = [(layer, weight) for layer, weight in pairs if weight.leaf is not None and layer.kind != "transposed"]
        return replace(self.found, layers=[layer for layer, _ in kept], weights=[weight for _, weight in kept])


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
        values = Values(model, path, what)
    except Exception as error:  # protobuf's errors have no common base
        raise SourceError(
            f"{what} is damaged, truncated or not an ONNX file ({type(error).__name__}). Fetch it again."
        ) from error
    if not model.graph.node:
        raise SourceError(f"{what} is not an ONNX file, or one without a graph. Fetch it again.")

    found = Finder(what, options)
    no_scale: list[str] = []
    for number, node in enumerate(model.graph.node):
        if node.op_type not in OPERATORS:
            continue
        label = _text(node.name) or f"{node.op_type}_{number}"
        taken = len(found.layers)
        _offer(node, label, values, found)
        if node.op_type == "ConvInteger":
            no_scale += [layer.name for layer in found.layers[taken:]]
    found.finish()
    found.notes += unequal(found.layers)
    if no_scale:
        found.notes.append(f"{NO_SCALE}: {listed(no_scale)}")
    return OnnxFile(model, values, found)


def open_onnx(
    path: Path, *, name: str, what: str, facts: ModelFacts, options: Options, progress: Progress | None = None
) -> Model:
    """The depthwise layers of an ONNX file, in the order of its nodes."""
    file = read_onnx(path, what, options)
    model = file.found.model(name, facts=facts, size=path.stat().st_size, progress=progress)
    if facts.bytes_read is not None:
        leaves = [weight.leaf for weight in file.found.weights if weight.leaf is not None]
        model.facts = replace(model.facts, bytes_read=facts.bytes_read + file.values.external_bytes(leaves))
    return model


@dataclass(frozen=True)
class _Weights:
    """The weights of one node: their shape as it is in the graph, what tells them apart, and how they are read."""

    shape: tuple[int, ...]
    place: Hashable
    weight: Weight
    name: str
    """Of the tensor that is stored."""


def _offer(node: Any, label: str, values: Values, found: Finder) -> None:
    """Offer a node's layer, if it is depthwise; and if it is an ordinary one that is asked for."""
    attributes = _attributes(node, label, found.what)
    groups = attributes.get("group", 1)
    transposed = node.op_type == "ConvTranspose"
    least = 1 if found.options.ordinary and not transposed else 2
    if not isinstance(groups, int) or groups < least or len(node.input) < 2:
        return
    try:
        weights = _of_integers(node, values) if node.op_type in INTEGER else _of_reals(node.input[1], values)
    except NotConstant as reason:
        found.skip(str(reason), label)
        return
    shape = weights.shape
    if not 3 <= len(shape) <= 5 or shape[0] % groups or (transposed and shape[0] != groups):
        return
    if (shape[1] != 1 or groups == 1) and not transposed:
        if weights.weight.bits:
            found.offer_ordinary(_name(node, weights, label), shape, lambda: weights.weight)
    elif shape[1] != 1:
        found.skip(TRANSPOSED, label)
    elif weights.weight.bits == 0:
        found.skip(NOT_FLOAT, label)
    else:
        layer = _layer(_name(node, weights, label), shape, groups, attributes, found.what)
        layer = replace(layer, kind="transposed") if transposed else layer
        found.offer(layer, label, weights.place, lambda: weights.weight)


def _name(node: Any, weights: _Weights, label: str) -> str:
    """The module whose weights these are, where their name says it, else the node."""
    # onnxruntime's quantiser appends to names: without that, a network has the same layers before and after
    stored = _text(weights.name).removesuffix("_quantized")
    module = _WEIGHT.sub("", stored)
    name = module if module != stored else label
    return name.removesuffix("_quant") if node.op_type in INTEGER else name


def _of_reals(name: str, values: Values) -> _Weights:
    """Weights that are real numbers where the node takes them."""
    tensor = values.tensor(name)
    if tensor is not None:
        bits = _BITS.get(tensor.data_type, 0)
        return _Weights(tuple(tensor.dims), tensor.name, Weight(lambda: values.read(tensor), bits, leaf=tensor), tensor.name)
    value = values.fold(name)
    array = value.array
    real = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    place = (value.leaves, hashlib.blake2b(array.tobytes()).digest())
    weight = Weight(lambda: array, 8 * array.dtype.itemsize if real else 0, value.quantised)
    return _Weights(array.shape, place, weight, values.origin(name))


def _of_integers(node: Any, values: Values) -> _Weights:
    """Weights of a node that takes integers: their zero points, and in QLinearConv their scales, are inputs beside them."""
    names = dict(zip(INTEGER[node.op_type], node.input, strict=False))
    if "weight" not in names or ("scale" in INTEGER[node.op_type] and "scale" not in names):
        raise NotConstant("inputs of the operator are missing")
    stored = values.array(names["weight"])
    if stored.dtype.kind not in "iu":
        raise NotConstant("weights are not the integers that the operator takes")
    scale = values.array(names["scale"]) if "scale" in names else np.ones(1, np.float32)
    zero = values.array(names["zero"]) if names.get("zero") else None
    place = (names["weight"], scale.tobytes(), b"" if zero is None else zero.tobytes())
    weight = Weight(partial(dequantise, stored, scale, zero), quantised=True)
    return _Weights(stored.shape, place, weight, values.origin(names["weight"]))


_WEIGHT = re.compile(r"(?<=.)(\.parametrizations\.weight\.original\d|\.weight(_[vg])?)$")
"""What torch appends to the name of a module for its weight, plain or in parts."""
_BITS: Mapping[int, int] = {1: 32, 10: 16, 11: 64, 16: 16}
"""Of the real numbers among onnx.TensorProto.DataType: FLOAT, FLOAT16, DOUBLE, BFLOAT16."""


def _text(name: str | bytes) -> str:
    """A name; protobuf leaves one that is not UTF-8 as bytes."""
    return name if isinstance(name, str) else name.decode("utf-8", "replace")


def _attributes(node: Any, label: str, what: str) -> dict[str, Any]:
    from onnx import helper

    try:
        return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    except ValueError as error:  # a type that onnx does not know
        raise SourceError(
            f"{what}: the attributes of {label} make no sense ({one_line(error)}). Fetch the file again."
        ) from error


def _layer(name: str, shape: tuple[int, ...], groups: int, attributes: dict[str, Any], what: str) -> Layer:
    try:
        ndim = len(shape) - 2
        stride, dilation = (_pair(attributes.get(name) or (1,) * ndim, ndim, 1) for name in ("strides", "dilations"))
        padding = _padding(attributes, ndim)
    except (TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{what}: the attributes of {name} make no sense ({one_line(error)}). Fetch the file again.") from error
    return Layer(
        name, *sheet(shape[2:]), shape[0], groups, stride, dilation, padding, "zeros", None, kind_of_layer(shape[0], groups),
        len(shape) - 2,
    )  # fmt: skip


def _pair(values: Iterable[int], ndim: int, without: int) -> Pair:
    """Along rows and columns, the last two axes; one dimension has ``without`` along rows."""
    numbers = list(values)
    if len(numbers) != ndim:
        raise ValueError(f"{len(numbers)} numbers for {ndim} dimensions")
    *_, rows, columns = [without, *numbers]
    return int(rows), int(columns)


def _padding(attributes: dict[str, Any], ndim: int) -> Pair | Literal["same"] | None:
    automatic = attributes.get("auto_pad", b"NOTSET")
    if automatic.startswith(b"SAME"):
        return "same"
    if automatic == b"VALID":
        return 0, 0
    pads = [int(value) for value in attributes.get("pads", (0,) * 2 * ndim)]
    if len(pads) != 2 * ndim:
        raise ValueError(f"{len(pads)} pads for {ndim} dimensions")
    return _pair(pads[:ndim], ndim, 0) if pads[:ndim] == pads[ndim:] else None
