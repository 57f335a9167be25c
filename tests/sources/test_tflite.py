"""TFLite files, built by the schema's own builders: kernels, geometry, quantisation, names, and damage."""

from __future__ import annotations

import contextlib
import random as plain_random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from filterdb import Database
from filterdb.errors import SourceError
from filterdb.sources import Options, resolve
from filterdb.sources.layers import SHARED
from filterdb.store.schema import Layer, Model

tflite = pytest.importorskip("tflite")
flatbuffers = pytest.importorskip("flatbuffers")
Code, Type, Padding = tflite.BuiltinOperator, tflite.TensorType, tflite.Padding
TYPES = {"float32": Type.FLOAT32, "float16": Type.FLOAT16, "int8": Type.INT8, "uint8": Type.UINT8, "int32": Type.INT32}


@dataclass
class File:
    """A program with one subgraph, under construction."""

    tensors: list[tuple[str, tuple[int, ...], int, int, tuple[Any, ...]]] = field(default_factory=list)
    """Name, shape, type, buffer, and scales, zero points and axis."""
    buffers: list[bytes] = field(default_factory=lambda: [b""])
    operators: list[tuple[int, Sequence[int], Sequence[int], dict[str, int]]] = field(default_factory=list)
    custom: str = ""
    """The name of the operators that are CUSTOM."""

    def tensor(self, name: str, shape: Sequence[int], array: np.ndarray | None = None, *quantised: Any, kind: int = 0) -> int:
        """The index of a new tensor, constant where there is an array; ``quantised`` is scales, zero points and axis."""
        number = 0
        if array is not None:
            data = np.ascontiguousarray(array).tobytes()
            if data in self.buffers:  # as the converter does
                number = self.buffers.index(data)
            else:
                number = len(self.buffers)
                self.buffers.append(data)
            kind = kind or TYPES[str(array.dtype)]
        self.tensors.append((name, tuple(shape), kind, number, quantised))
        return len(self.tensors) - 1

    def conv(
        self, weights: int, channels: int, code: int = Code.DEPTHWISE_CONV_2D, image: int | None = None, **options: int
    ) -> int:
        """A convolution of an image of so many channels; the index of its output."""
        image = self.tensor("image", (1, 32, 32, channels)) if image is None else image
        output = self.tensor(f"out{len(self.operators)}", (1, 32, 32, channels))
        self.operators.append((code, (image, weights), (output,), options))
        return output

    def operator(self, code: int, inputs: Sequence[int], output: int) -> None:
        """Any other operator."""
        self.operators.append((code, inputs, (output,), {}))

    def write(self, path: Path) -> Path:
        """The file."""
        path.write_bytes(self.data())
        return path

    def data(self) -> bytes:
        """The bytes of the file."""
        b = flatbuffers.Builder(1024)
        codes = sorted({code for code, *_ in self.operators})
        buffers = _vector(b, tflite.ModelStartBuffersVector, [self._buffer(b, data) for data in self.buffers])
        tensors = _vector(b, tflite.SubGraphStartTensorsVector, [self._tensor(b, *tensor) for tensor in self.tensors])
        operators = [self._operator(b, codes.index(code), code, *rest) for code, *rest in self.operators]
        operators = _vector(b, tflite.SubGraphStartOperatorsVector, operators)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensors)
        tflite.SubGraphAddOperators(b, operators)
        graphs = _vector(b, tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(b)])
        made = []
        for code in codes:
            word = b.CreateString(self.custom) if code == Code.CUSTOM else None
            tflite.OperatorCodeStart(b)
            if word is not None:
                tflite.OperatorCodeAddCustomCode(b, word)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
            tflite.OperatorCodeAddBuiltinCode(b, code)
            made.append(tflite.OperatorCodeEnd(b))
        made = _vector(b, tflite.ModelStartOperatorCodesVector, made)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, made)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffers)
        b.Finish(tflite.ModelEnd(b), b"TFL3")
        return bytes(b.Output())

    @staticmethod
    def _buffer(b: Any, data: bytes) -> int:
        stored = b.CreateByteVector(data) if data else None
        tflite.BufferStart(b)
        if stored is not None:
            tflite.BufferAddData(b, stored)
        return tflite.BufferEnd(b)

    @staticmethod
    def _tensor(b: Any, name: str, shape: tuple[int, ...], kind: int, number: int, quantised: tuple[Any, ...]) -> int:
        table = None
        if quantised:
            scales = b.CreateNumpyVector(np.atleast_1d(np.asarray(quantised[0], np.float32)))
            zeros = b.CreateNumpyVector(np.atleast_1d(np.asarray(quantised[1], np.int64)))
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scales)
            tflite.QuantizationParametersAddZeroPoint(b, zeros)
            tflite.QuantizationParametersAddQuantizedDimension(b, quantised[2])
            table = tflite.QuantizationParametersEnd(b)
        word, lengths = b.CreateString(name), b.CreateNumpyVector(np.array(shape, np.int32))
        tflite.TensorStart(b)
        tflite.TensorAddName(b, word)
        tflite.TensorAddShape(b, lengths)
        tflite.TensorAddType(b, kind)
        tflite.TensorAddBuffer(b, number)
        if table is not None:
            tflite.TensorAddQuantization(b, table)
        return tflite.TensorEnd(b)

    @staticmethod
    def _operator(b: Any, index: int, code: int, inputs: Sequence[int], outputs: Sequence[int], options: dict[str, int]) -> int:
        told, kind = None, {Code.DEPTHWISE_CONV_2D: "DepthwiseConv2DOptions", Code.CONV_2D: "Conv2DOptions"}.get(code)
        if kind:
            getattr(tflite, f"{kind}Start")(b)
            for key, value in {"StrideH": 1, "StrideW": 1, "Padding": Padding.SAME, **options}.items():
                getattr(tflite, f"{kind}Add{key}")(b, value)
            told = getattr(tflite, f"{kind}End")(b)
        first, second = (b.CreateNumpyVector(np.array(one, np.int32)) for one in (inputs, outputs))
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, index)
        tflite.OperatorAddInputs(b, first)
        tflite.OperatorAddOutputs(b, second)
        if kind:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, kind))
            tflite.OperatorAddBuiltinOptions(b, told)
        return tflite.OperatorEnd(b)


def _vector(b: Any, start: Any, tables: Sequence[int]) -> int:
    start(b, len(tables))
    for table in reversed(tables):
        b.PrependUOffsetTRelative(table)
    return b.EndVector()


def read(path: Path, **options: Any) -> tuple[Model, dict[str, np.ndarray]]:
    (pending,) = resolve(path, Options(**options))
    with pending.open(None) as model:
        return model, {layer.name: kernel for layer, kernel in zip(model.layers, model.read(), strict=True)}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def first(array: np.ndarray) -> np.ndarray:
    """(1, kh, kw, c) or (kh, kw, c) to (c, kh, kw)."""
    return np.moveaxis(array.reshape(array.shape[-3:]), -1, 0)


def test_operators_say_what_a_layer_is(tmp_path: Path) -> None:
    one, two, three, four = random(1, 3, 5, 8), 2 * random(1, 5, 5, 16), random(24, 3, 3, 1), 3 * random(1, 3, 3, 8)
    file = File()
    file.conv(
        file.tensor("stages.1/dw/depthwise_weights", one.shape, one), 8, StrideH=2, DilationWFactor=3, Padding=Padding.VALID
    )
    file.conv(file.tensor("b/depthwise/ReadVariableOp", two.shape, two), 8, DepthMultiplier=2)
    file.conv(file.tensor("c/Conv2D", three.shape, three), 12, Code.CONV_2D)
    file.conv(file.tensor("arith.constant7", four.shape, four), 8)
    file.conv(file.tensor("fused/BatchNorm;model/d/depthwise1;more", four.shape, 4 * four), 8)
    file.conv(file.tensor("dense", (8, 3, 3, 8), random(8, 3, 3, 8)), 8, Code.CONV_2D)
    file.conv(file.tensor("one", (1, 3, 3, 8), 5 * random(1, 3, 3, 8)), 1, DepthMultiplier=8)  # a convolution of one channel
    file.conv(file.tensor("pointwise", (1, 1, 1, 8), random(1, 1, 1, 8)), 8)
    file.conv(file.tensor("again", one.shape, one), 8)
    model, kernels = read(file.write(tmp_path / "x.tflite"))
    assert model.layers == [
        Layer("stages.1/dw", 3, 5, 8, 8, (2, 1), (1, 3), (0, 0), "zeros", 1, "depthwise"),
        Layer("b", 5, 5, 16, 8, (1, 1), (1, 1), "same", "zeros", None, "multiplier"),
        Layer("c/Conv2D", 3, 3, 24, 12, (1, 1), (1, 1), "same", "zeros", None, "multiplier"),
        Layer("out3", 3, 3, 8, 8, (1, 1), (1, 1), "same", "zeros", None, "depthwise"),
        Layer("model/d", 3, 3, 8, 8, (1, 1), (1, 1), "same", "zeros", None, "depthwise"),
    ]
    for kernel, array in zip(kernels.values(), [one, two, np.moveaxis(three[..., 0], 0, 2), four, 4 * four], strict=True):
        np.testing.assert_array_equal(kernel, first(array))
    assert (SHARED, ("out8",)) in [(skipped.reason, skipped.names) for skipped in model.skipped]
    assert (model.notes, model.facts.quantised) == ([], False)
    assert "pointwise" in read(tmp_path / "x.tflite", pointwise=True)[1]


def test_the_order_of_channels_is_torchs(tmp_path: Path) -> None:
    """What TFLite's reference kernel computes, written out for one position, is torch's grouped convolution of our kernels."""
    weights = random(1, 3, 3, 6)  # three inputs, two outputs each
    file = File()
    file.conv(file.tensor("dw", weights.shape, weights), 3, DepthMultiplier=2)
    _, kernels = read(file.write(tmp_path / "x.tflite"))
    image = np.random.default_rng(1).standard_normal((3, 3, 3)).astype(np.float32)  # (h, w, c)
    wanted = [sum(image[y, x, o // 2] * weights[0, y, x, o] for y in range(3) for x in range(3)) for o in range(6)]
    made = torch.conv2d(
        torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(kernels["dw"]).unsqueeze(1), groups=3
    ).ravel()
    np.testing.assert_allclose(made.numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("channels", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("before", [False, True], ids=["direct", "behind DEQUANTIZE"])
def test_integers_are_dequantised(tmp_path: Path, dtype: Any, channels: bool, before: bool) -> None:
    rng = np.random.default_rng(0)
    limits, count = np.iinfo(dtype), 8 if channels else 1
    stored = rng.integers(limits.min, limits.max, (1, 3, 3, 8), dtype, endpoint=True)
    scale, zero = rng.uniform(0.001, 0.1, count).astype(np.float32), rng.integers(0, 100, count)
    file = File()
    weights = file.tensor("dw", stored.shape, stored, scale, zero, 3)
    if before:
        real = file.tensor("dw_dequantize", stored.shape)
        file.operator(Code.DEQUANTIZE, [weights], real)
        weights = real
    file.conv(weights, 8)
    model, kernels = read(file.write(tmp_path / "x.tflite"))
    wanted = (stored.astype(np.float32) - zero.astype(np.float32)) * scale
    np.testing.assert_array_equal(kernels["dw"], first(wanted.astype(np.float32)))
    assert model.facts.quantised
    db = Database(tmp_path / "db")
    db.ingest(tmp_path / "x.tflite")
    assert db.sql("SELECT quantised FROM models").fetchall() == [(True,)]


def test_halves_and_integers_of_four_bits(tmp_path: Path) -> None:
    half = random(1, 3, 3, 8).astype(np.float16)
    four = np.arange(-8, 8, dtype=np.int8).repeat(5)[:75].reshape(1, 5, 5, 3)
    padded = np.append(four.ravel(), np.int8(0))
    packed = ((padded[1::2].astype(np.uint8) << 4) | (padded[::2].view(np.uint8) & 15)).astype(np.uint8)
    file = File()
    stored = file.tensor("half", half.shape, half)
    real = file.tensor("half_dequantize", half.shape)
    file.operator(Code.DEQUANTIZE, [stored], real)
    file.conv(real, 8)
    file.conv(file.tensor("four", four.shape, packed, 0.5, 0, 3, kind=Type.INT4), 3)
    _, kernels = read(file.write(tmp_path / "x.tflite"))
    np.testing.assert_array_equal(kernels["half"], first(half.astype(np.float32)))
    np.testing.assert_array_equal(kernels["four"], first(four * np.float32(0.5)))
    half_alone = File()
    half_alone.conv(half_alone.tensor("half", half.shape, half), 8)
    assert not read(half_alone.write(tmp_path / "y.tflite"))[0].facts.quantised


def test_a_dilation_that_is_written_as_batches(tmp_path: Path) -> None:
    weights = random(1, 3, 3, 8)
    file = File()
    blocks = file.tensor("blocks", (2,), np.array([2, 3], np.int32))
    pads = file.tensor("pads", (2, 2), np.array([[2, 3], [3, 5]], np.int32))
    batches = file.tensor("batches", (6, 8, 8, 8))
    file.operator(Code.SPACE_TO_BATCH_ND, [file.tensor("image", (1, 12, 18, 8)), blocks, pads], batches)
    file.conv(file.tensor("dw", weights.shape, weights), 8, image=batches, Padding=Padding.VALID)
    (layer,) = read(file.write(tmp_path / "x.tflite"))[0].layers
    assert (layer.dilation, layer.padding) == ((2, 3), (2, 3))


def test_ordinary_convolutions_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    image, dense = random(6, 3, 5, 3), random(4, 3, 3, 6)  # (out, kh, kw, in)
    file = File()
    file.conv(file.tensor("stem", image.shape, image), 3, Code.CONV_2D)
    file.conv(file.tensor("dense", dense.shape, dense), 6, Code.CONV_2D)
    path = file.write(tmp_path / "x.tflite")
    model, _ = read(path, stem=True, regular=10)
    assert [(layer.name, layer.kind, layer.out_channels, layer.in_channels) for layer in model.regular] == [
        ("stem", "stem", 6, 3), ("dense", "regular", 4, 6),
    ]  # fmt: skip
    for one, array in zip(model.read_regular(), [image, dense], strict=True):
        np.testing.assert_array_equal(one, array.transpose(0, 3, 1, 2))
    with pytest.raises(SourceError, match="no depthwise"):
        read(path)


def test_what_is_left_out(tmp_path: Path) -> None:
    weights = random(1, 3, 3, 8)
    file = File()
    file.conv(file.tensor("dw", weights.shape, weights), 8)
    file.conv(file.tensor("input", weights.shape), 8)
    file.conv(file.tensor("bare", weights.shape, weights.astype(np.int8)), 8)
    dense = file.tensor("dense", weights.shape)
    file.operator(Code.DENSIFY, [file.tensor("sparse", weights.shape, weights)], dense)
    file.conv(dense, 8)
    model, kernels = read(file.write(tmp_path / "x.tflite"))
    assert list(kernels) == ["dw"]
    assert {reason for skipped in model.skipped for reason in [skipped.reason]} == {
        "weights are computed in the graph, not stored", "integers without a scale", "sparse weights",
    }  # fmt: skip


def wrong(**changes: Any) -> bytes:
    """A file that is whole and makes no sense."""
    weights = changes.get("weights", random(1, 3, 3, 8))
    file = File()
    shape = changes.get("shape", weights.shape)
    file.conv(file.tensor("dw", shape, weights, *changes.get("quantised", ())), 8, **changes.get("options", {}))
    return file.data()


def test_what_is_compiled_for_the_edge_tpu_is_refused_by_name(tmp_path: Path) -> None:
    file = File(custom="edgetpu-custom-op")
    file.operator(Code.CUSTOM, [file.tensor("image", (1, 32, 32, 8))], file.tensor("out", (1, 32, 32, 8)))
    with pytest.raises(SourceError, match="left out 1: compiled for the Edge TPU"):
        read(file.write(tmp_path / "x.tflite"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"shape": (1, 3, 3, 16)}, "damaged"), ({"shape": (1, 300, 3, 8)}, "absurd"), ({"shape": (1, 0, 3, 8)}, "absurd"),
        ({"shape": (2, 3, 3, 8)}, "depthwise weights of shape"), ({"shape": (3, 3, 8)}, "depthwise weights of shape"),
        ({"shape": (1, 3, 3, 9)}, "9 depthwise kernels for 8"), ({"options": {"StrideH": 0}}, "stride"),
        ({"weights": np.ones((1, 3, 3, 8), np.int8), "quantised": ([1, 2, 3], 0, 3)}, "scales"),
        ({"weights": np.ones((1, 3, 3, 8), np.int8), "quantised": (np.ones(8), 0, 9)}, "axis 9"),
        ({"weights": np.full((1, 3, 3, 8), np.nan, np.float32)}, "NaN"),
    ],
)  # fmt: skip
def test_files_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(wrong(**changes))
    with pytest.raises(SourceError, match=word) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "x.tflite" in str(caught.value)


def refusal(path: Path) -> str:
    """Why a file is refused; empty where it is read. Any other exception is a failure."""
    try:
        assert all(np.isfinite(kernel).all() for kernel in read(path)[1].values())
    except SourceError as error:
        return str(error)
    return ""


def test_damage_is_refused_in_one_line_or_read(tmp_path: Path) -> None:
    whole, path = wrong(), tmp_path / "x.tflite"
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with contextlib.suppress(SourceError):  # the last bytes may be of no use
            read(path)
    for seed in range(400):
        chance = plain_random.Random(seed)
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(content))
            choices = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", bytes([chance.randrange(256)])]
            new = chance.choice(choices)
            content[place : place + len(new)] = new
        path.write_bytes(content)
        assert "\n" not in refusal(path)


def test_the_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tflite").write_bytes(wrong())
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(SourceError, match=r"pip install 'filterdb\[tflite\]'"):
        read(tmp_path / "x.tflite")
