"""TFLite files: the weights of depthwise convolutions, with strides, dilations and paddings of their operators.

Kernels are correlated with the image, as in torch. DEPTHWISE_CONV_2D keeps them as (1, kh, kw, channels), where output
i * multiplier + k is the k-th of input i; a grouped CONV_2D as (channels, kh, kw, 1).
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.kernels.sizes import Pair
from filterdb.sources.options import Options, Progress
from filterdb.sources.programs.finder import Finder, Weight, kind_of_layer, one_line
from filterdb.sources.programs.tflite_program import (
    EDGE_TPU,
    INTEGERS,
    NO_NUMBERS,
    NO_SCALE,
    REALS,
    NotStored,
    Operator,
    Program,
    Subgraph,
    Tensor,
    kind_name,
)
from filterdb.store.schema import Layer, Model, ModelFacts

_NOT_OF_THE_NAME = re.compile(r"(_dequantize|:0|/ReadVariableOp|/read|/depthwise(_weights|_kernel|\d*)|/[Kk]ernel)$")
_NAMELESS = re.compile(r"(arith\.constant|tfl\.pseudo_q?const|Const|constant|)[_\d]*", re.IGNORECASE)
"""What converters call constants that lost their names."""


def open_tflite(
    path: Path, *, name: str, what: str, facts: ModelFacts, options: Options, progress: Progress | None = None
) -> Model:
    """The depthwise layers of a TFLite file, in the order of its operators."""
    found = Finder(what, options)
    try:
        program = Program(path.read_bytes(), what)
        for graph in program.subgraphs:
            for number, operator in enumerate(graph.operators):
                _offer(graph, operator, number, found)
    except (SourceError, MemoryError):
        raise
    except Exception as error:  # flatbuffers follows damaged offsets into errors of every kind
        raise SourceError(
            f"{what} is damaged, truncated or not a TensorFlow Lite file ({one_line(error)}). Fetch it again."
        ) from error
    found.finish()
    return found.model(name, facts=facts, size=path.stat().st_size, progress=progress)


def _offer(graph: Subgraph, operator: Operator, number: int, found: Finder) -> None:
    """Offer an operator's layer, if it is depthwise; and if it is an ordinary one that is asked for."""
    from tflite import BuiltinOperator as Code

    if operator.custom == b"edgetpu-custom-op":
        found.skip(EDGE_TPU, f"operator {number}")
    depthwise = operator.code == Code.DEPTHWISE_CONV_2D
    if not (depthwise or operator.code == Code.CONV_2D) or len(operator.inputs) < 2 or not operator.outputs:
        return
    image, weights, output = (graph.tensor(index) for index in (*operator.inputs[:2], operator.outputs[0]))
    layer = (_depthwise if depthwise else _grouped)(operator, image, weights)
    if layer is None and (depthwise or not found.options.ordinary):
        return
    label = output.name or f"operator {number}"
    try:
        stored = graph.stored(weights.index)
        bits, quantised = _numbers(graph.program, stored)
    except NotStored as reason:
        found.skip(str(reason), label)
        return
    if stored.shape != weights.shape:
        raise ValueError(f"{label} has weights {weights.shape}, made of {stored.shape}")
    name = _named(stored.name, output.name or f"operator_{number}")
    if layer is None:
        if len(stored.shape) == 4:
            out_channels, rows, columns, inputs = stored.shape
            dense = Weight(lambda: np.moveaxis(graph.program.numbers(stored), 3, 1), bits, quantised)
            found.offer_ordinary(name, (out_channels, inputs, rows, columns), lambda: dense)
        return
    scale, zero = graph.program.quantisation(stored)
    place = (stored.table.Buffer(), scale.tobytes(), zero.tobytes())
    read = partial(_kernels, graph.program, stored, depthwise)
    layer = replace(_undilated(graph, operator, layer), name=name)
    found.offer(layer, label, place, lambda: Weight(read, bits, quantised))


def _depthwise(operator: Operator, image: Tensor, weights: Tensor) -> Layer | None:
    from tflite import DepthwiseConv2DOptions

    if len(weights.shape) != 4 or weights.shape[0] != 1:
        raise ValueError(f"depthwise weights of shape {weights.shape}")
    _, rows, columns, channels = weights.shape
    options = _options(DepthwiseConv2DOptions, operator)
    inputs = image.shape[-1] if len(image.shape) == 4 else channels // max(1, options.DepthMultiplier())
    if inputs < 1 or channels % inputs:
        raise ValueError(f"{channels} depthwise kernels for {inputs} channels")
    # with one channel it is a convolution like any other
    return _layer(options, rows, columns, channels, inputs) if inputs > 1 else None


def _grouped(operator: Operator, image: Tensor, weights: Tensor) -> Layer | None:
    from tflite import Conv2DOptions

    if len(weights.shape) != 4 or len(image.shape) != 4 or weights.shape[3] != 1 or image.shape[3] < 2:
        return None
    channels, rows, columns, _ = weights.shape
    inputs = image.shape[3]
    return None if channels % inputs else _layer(_options(Conv2DOptions, operator), rows, columns, channels, inputs)


def _options(kind: Any, operator: Operator) -> Any:
    if operator.options is None:
        raise ValueError("a convolution without its options")
    options = kind()
    options.Init(operator.options.Bytes, operator.options.Pos)
    return options


def _layer(options: Any, rows: int, columns: int, channels: int, inputs: int) -> Layer:
    from tflite import Padding

    paddings: dict[int, Pair | Literal["same"]] = {Padding.SAME: "same", Padding.VALID: (0, 0)}
    stride = (options.StrideH(), options.StrideW())
    dilation = (max(1, options.DilationHFactor()), max(1, options.DilationWFactor()))  # files of before have no dilation
    if not all(0 < step < 2**15 for step in (*stride, *dilation)):
        raise ValueError(f"stride {stride} and dilation {dilation}")
    kind = kind_of_layer(channels, inputs)
    return Layer("", rows, columns, channels, inputs, stride, dilation, paddings.get(options.Padding()), "zeros", None, kind)


def _undilated(graph: Subgraph, operator: Operator, layer: Layer) -> Layer:
    """The layer with the dilation that older converters write as SPACE_TO_BATCH_ND before it and BATCH_TO_SPACE_ND behind it."""
    from tflite import BuiltinOperator as Code

    before = graph.made_by.get(operator.inputs[0])
    if before is None or before.code != Code.SPACE_TO_BATCH_ND or len(before.inputs) != 3:
        return layer
    try:
        blocks, pads = (graph.program.elements(graph.stored(index)) for index in before.inputs[1:])
    except NotStored:
        return replace(layer, dilation=None, padding=None)
    rows, columns = map(int, blocks.reshape(2))
    (top, _), (left, _) = pads.reshape(2, 2).tolist()
    return replace(layer, dilation=(rows, columns), padding=(int(top), int(left)))


def _numbers(program: Program, stored: Tensor) -> tuple[int, bool]:
    """The bits of a constant's real numbers, and whether they are made of integers."""
    kind = kind_name(stored.table.Type())
    if kind in REALS:
        return REALS[kind], False
    if kind not in INTEGERS:
        raise NotStored(NO_NUMBERS)
    if not program.quantisation(stored)[0].size:
        raise NotStored(NO_SCALE)
    return 32, True


def _kernels(program: Program, stored: Tensor, depthwise: bool) -> NDArray[Any]:
    """(channels, kh, kw)."""
    array = program.numbers(stored)
    return np.moveaxis(array[0], -1, 0) if depthwise else array[..., 0]


def _named(stored: str, output: str) -> str:
    """A layer's name: that of its weights, without what converters append to it."""
    parts = stored.split(";")  # of operators that were fused
    name = next((part for part in parts if "depthwise" in part.lower()), parts[0])
    while (shorter := _NOT_OF_THE_NAME.sub("", name)) != name and shorter:
        name = shorter
    return output.split(";")[0] if _NAMELESS.fullmatch(name) else name
