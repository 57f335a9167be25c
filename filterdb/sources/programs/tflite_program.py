"""A TFLite file as a table of tables: operators, tensors, and the constants behind them. Nothing is run.

The package tflite is the schema, as the FlatBuffers compiler made it. It follows every offset that a file gives, so each number
of a damaged file is suspect here: counts are held against the size of the file, and indices against counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.sources.programs.finder import dequantise

OPERATORS = 2**17
"""Of all subgraphs together, at most."""
SPARSE = "sparse weights"
COMPUTED = "weights are computed in the graph, not stored"
NO_SCALE = "integers without a scale"
NO_NUMBERS = "weights of a type that is no number"
EDGE_TPU = "compiled for the Edge TPU, with the weights in a form of its own (give the file that edgetpu_compiler was given)"


class NotStored(Exception):
    """Why a tensor has no numbers that can be read, in the words of a reason for leaving its layer out."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a subgraph, as the file describes it."""

    index: int
    name: str
    shape: tuple[int, ...]
    table: Any
    """tflite.Tensor."""


@dataclass(frozen=True)
class Operator:
    """An operator with the indices of its tensors; -1 is an input that is left out."""

    code: int
    """Of tflite.BuiltinOperator."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    """The flatbuffers table of its options, or None."""
    custom: bytes = b""
    """The name of an operator that is none of TensorFlow's."""


@dataclass
class Subgraph:
    """A subgraph, with its tensors by index."""

    program: Program
    table: Any
    operators: list[Operator] = field(default_factory=list)
    made_by: dict[int, Operator] = field(default_factory=dict)
    """Index of an output to its operator."""

    def tensor(self, index: int) -> Tensor:
        """A tensor; raises IndexError for an index that is none."""
        if not 0 <= index < self.table.TensorsLength():
            raise IndexError(f"there is no tensor {index}")
        table = self.table.Tensors(index)
        shape = tuple(int(length) for length in _vector(table.ShapeAsNumpy()))
        return Tensor(index, (table.Name() or b"").decode("utf-8", "replace"), shape, table)

    def stored(self, index: int) -> Tensor:
        """The constant that a tensor is: itself, or the one behind the DEQUANTIZE that makes it.

        Raises:
            NotStored: it is neither.
        """
        from tflite import BuiltinOperator as Code

        tensor = self.tensor(index)
        made = self.made_by.get(index)
        if made is not None:
            if made.code == Code.DENSIFY:
                raise NotStored(SPARSE)
            if made.code != Code.DEQUANTIZE or len(made.inputs) != 1:
                raise NotStored(COMPUTED)
            inner = self.made_by.get(made.inputs[0])
            if inner is not None:
                raise NotStored(SPARSE if inner.code == Code.DENSIFY else COMPUTED)
            tensor = self.tensor(made.inputs[0])
        if not len(self.program.buffer(tensor)):
            raise NotStored(COMPUTED)
        if tensor.table.Sparsity() is not None:
            raise NotStored(SPARSE)
        return tensor


class Program:
    """A TFLite file in memory.

    Raises:
        SourceError: the package tflite is missing.
        Exception: whatever flatbuffers makes of damage, here and in every method.
    """

    def __init__(self, data: bytes, what: str) -> None:
        try:
            import tflite
        except ImportError as error:
            raise SourceError(
                f"{what}: reading TFLite needs the package tflite. Install it with: pip install 'filterdb[tflite]'"
            ) from error
        self.data = data
        self.model = tflite.Model.GetRootAs(data, 0)
        self._codes = [
            # files of before have the second alone
            (max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), code.CustomCode() or b"")
            for code in (self.model.OperatorCodes(i) for i in range(self._checked(self.model.OperatorCodesLength())))
        ]
        self.subgraphs = list(self._subgraphs())

    def _checked(self, count: int) -> int:
        """A count of things that take at least four bytes each."""
        if not 0 <= count <= len(self.data) // 4:
            raise ValueError(f"{count} entries in {len(self.data)} bytes")
        return count

    def _subgraphs(self) -> Iterator[Subgraph]:
        operators = 0
        for number in range(self._checked(self.model.SubgraphsLength())):
            table = self.model.Subgraphs(number)
            self._checked(table.TensorsLength())
            operators += self._checked(table.OperatorsLength())
            if operators > OPERATORS:
                raise ValueError(f"more than {OPERATORS} operators")
            graph = Subgraph(self, table)
            for place in range(table.OperatorsLength()):
                operator = self._operator(table.Operators(place))
                graph.operators.append(operator)
                graph.made_by.update(dict.fromkeys(operator.outputs, operator))
            yield graph

    def _operator(self, table: Any) -> Operator:
        inputs, outputs = (tuple(map(int, _vector(part))) for part in (table.InputsAsNumpy(), table.OutputsAsNumpy()))
        code, custom = self._codes[table.OpcodeIndex()]
        return Operator(code, inputs[:3], outputs[:1], table.BuiltinOptions(), custom)

    def buffer(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The bytes of a tensor that is constant; empty where it is not."""
        number = tensor.table.Buffer()
        if number >= self._checked(self.model.BuffersLength()):
            raise IndexError(f"there is no buffer {number}")
        buffer = self.model.Buffers(number)
        if buffer.Size() > 0:  # of a file beyond 2 GB: the bytes lie behind the tables
            return np.frombuffer(self.data, np.uint8, buffer.Size(), buffer.Offset())
        return np.asarray(_vector(buffer.DataAsNumpy()), np.uint8)

    def numbers(self, tensor: Tensor) -> NDArray[Any]:
        """The real numbers of a constant, in its shape: as they are, or what its integers stand for.

        Raises:
            ValueError: bytes that are not those of the shape.
        """
        stored = self.elements(tensor)
        if stored.dtype.kind == "f":
            return stored
        scale, zero = self.quantisation(tensor)
        return dequantise(stored, scale, zero, tensor.table.Quantization().QuantizedDimension())

    def quantisation(self, tensor: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
        """Scales and zero points; empty where there are none."""
        table = tensor.table.Quantization()
        if table is None:
            return np.empty(0), np.empty(0)
        return np.asarray(_vector(table.ScaleAsNumpy())), np.asarray(_vector(table.ZeroPointAsNumpy()))

    def elements(self, tensor: Tensor) -> NDArray[Any]:
        """What a constant holds, in its shape: its integers, or real numbers.

        Raises:
            ValueError: bytes that are not those of the shape.
        """
        data, kind = self.buffer(tensor), tensor.table.Type()
        count = math.prod(tensor.shape)
        if kind == _type("INT4"):  # two in a byte, the lower half first
            if data.size != (count + 1) // 2:
                raise ValueError(f"{data.size} bytes for {count} numbers of four bits")
            halves = np.stack([data << 4, data], 1).reshape(-1).view(np.int8) >> 4
            return halves[:count].reshape(tensor.shape)
        if kind == _type("BFLOAT16"):
            wide = data.view("<u2").astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).reshape(tensor.shape)
        return data.view(_TYPES[kind_name(kind)]).reshape(tensor.shape)


_TYPES = {
    "FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "INT8": "i1", "UINT8": "u1", "INT16": "<i2", "INT32": "<i4",
}  # fmt: skip
REALS = {"FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "FLOAT64": 64}
"""Types of real numbers, with their bits."""
INTEGERS = ("INT4", "INT8", "UINT8", "INT16", "INT32")


def _type(name: str) -> int:
    import tflite

    return int(getattr(tflite.TensorType, name, -1))


def kind_name(number: int) -> str:
    """The name of a type's number, such as FLOAT16; empty where the schema has none."""
    import tflite

    return next((name for name, value in vars(tflite.TensorType).items() if value == number and name.isupper()), "")


def _vector(found: Any) -> Any:
    """A vector as the schema's readers give it, which is 0 where there is none."""
    return found if isinstance(found, np.ndarray) else ()
