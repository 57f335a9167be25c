"""The constants of an ONNX graph: stored in the file or beside it, or computed from such by nodes in between.

Exporters and quantisers put nodes between the numbers that they store and the convolution that uses them: Cast behind float16,
DequantizeLinear behind integers, Reshape, Transpose, a Mul by the scale of a batch normalisation. Where everything that leads to
a weight is constant, it is computed here, node by node, by onnx's own reference evaluator. Only operators that are known to be
harmless run, and none whose output would be vast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.sources.programs.finder import one_line

COMPUTED = "weights are computed in the graph"
FROM_INPUTS = "weights are no constants: they come from the graph's inputs"
LIMIT = 2**26
"""Elements of an array that is computed, at most."""
NODES = 64
"""Nodes between a weight and what is stored, at most."""

_SHAPED = frozenset({"Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast", "CastLike", "Slice", "Split",
    "Concat", "Shape", "Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Log", "Sign", "Round", "Floor", "Ceil", "Tanh", "Sigmoid",
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
"""Operators whose outputs have no more elements than their inputs together."""
_QUANTISE = ("QuantizeLinear", "DequantizeLinear")
_SPREAD = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Sum", "Max", "Min", "Clip", "Where", "Equal", "Less", "Greater"})
"""Operators whose inputs are spread over each other."""
_GROWN: Mapping[str, Callable[[Sequence[NDArray[Any]]], int]] = {
    "Expand": lambda inputs: math.prod(np.broadcast_shapes(inputs[0].shape, tuple(map(int, inputs[1].ravel())))),
    "Gather": lambda inputs: inputs[0].size * inputs[1].size,
    "ConstantOfShape": lambda inputs: math.prod(map(int, inputs[0].ravel())),
    "Tile": lambda inputs: inputs[0].size * math.prod(map(int, inputs[1].ravel())),
    "Pad": lambda inputs: math.prod(length + int(np.abs(inputs[1]).sum()) for length in inputs[0].shape),
}
"""Operators whose inputs say how large the output is: at most so many elements."""


@dataclass(frozen=True)
class Value:
    """A constant that was computed."""

    array: NDArray[Any]
    quantised: bool
    """Whether integers are stored, of which it was made."""
    leaves: frozenset[str]
    """The names of what is stored."""


class NotConstant(Exception):
    """Why a weight has no numbers of its own, in the words of a reason for leaving its layer out."""


@dataclass
class Values:
    """Where the numbers of a graph are."""

    model: Any
    """onnx.ModelProto, loaded without external data."""
    path: Path
    what: str
    stored: dict[str, Any] = field(default_factory=dict)
    """Name to onnx.TensorProto: initializers and the values of Constant nodes."""
    made_by: dict[str, Any] = field(default_factory=dict)
    """Name of an output to its node."""

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.stored.update({tensor.name: tensor for tensor in graph.initializer})
        for node in graph.node:
            if (tensor := _constant(node)) is not None:
                self.stored[node.output[0]] = tensor
            self.made_by.update({output: node for output in node.output if output})

    def tensor(self, name: str) -> Any | None:
        """The stored tensor of a name, seen through Identity nodes; None where it is computed or an input."""
        for _ in range(NODES):
            node = self.made_by.get(name)
            if name in self.stored or node is None or node.op_type != "Identity" or len(node.input) != 1:
                break
            name = node.input[0]
        return self.stored.get(name)

    def origin(self, name: str) -> str:
        """The name of the stored tensor that a computed one mainly comes of: the first input of each node that is constant."""
        for _ in range(NODES):
            node = self.made_by.get(name)
            if name in self.stored or node is None:
                break
            name = next((one for one in node.input if self._leads_to_stored(one)), name)
        return name

    def _leads_to_stored(self, name: str) -> bool:
        tensor = self.stored.get(name)
        return len(tensor.dims) > 1 if tensor is not None else name in self.made_by

    def read(self, tensor: Any) -> NDArray[Any]:
        """The numbers of a stored tensor.

        Raises:
            SourceError: damage; or they lie in a file that is missing, too short, or outside the program's own folder.
        """
        from onnx import TensorProto, numpy_helper

        if tensor.data_location == TensorProto.EXTERNAL:
            whole = TensorProto()
            whole.CopyFrom(tensor)
            self.take_in(whole)
            tensor = whole
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except Exception as error:  # whatever onnx makes of damaged raw data
            raise SourceError(
                f"{self.what}: the numbers of {tensor.name[:80]} are damaged ({one_line(error)}). Fetch the file again."
            ) from error

    def array(self, name: str) -> NDArray[Any]:
        """The numbers of a name, stored or computed; raises what ``fold`` raises."""
        tensor = self.tensor(name)
        return self.fold(name).array if tensor is None else self.read(tensor)

    def take_in(self, tensor: Any) -> None:
        """Put the numbers of an external tensor into the program itself; others stay as they are."""
        from onnx import TensorProto

        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = self._external(tensor)
            tensor.ClearField("data_location")
            del tensor.external_data[:]

    def _external(self, tensor: Any) -> bytes:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = beside(self.path, entries.get("location", ""), self.what)
        wanted = _bytes_of(tensor)
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or wanted)
            if length != wanted or not 0 <= offset <= file.stat().st_size - length:
                raise ValueError
            with file.open("rb") as opened:
                opened.seek(offset)
                data = opened.read(length)
            if len(data) != length:
                raise ValueError
        except (ValueError, OSError) as error:
            raise SourceError(
                f"{self.what}: {tensor.name[:80]} is not whole in {file.name}, where its numbers are. Fetch both files again."
            ) from error
        return data

    def external_bytes(self, tensors: Iterable[Any]) -> int:
        """How many bytes of these tensors lie in files beside the program."""
        from onnx import TensorProto

        return sum(_bytes_of(tensor) for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL)

    def fold(self, name: str) -> Value:
        """What a name computes to.

        Raises:
            NotConstant: not everything that leads to it is constant, known and small.
            SourceError: numbers that lie outside the file and cannot be had.
        """
        try:
            nodes = list(self._leading_to(name))
            return self._run(nodes, name)
        except (NotConstant, SourceError):
            raise
        except Exception as error:  # whatever the evaluator makes of nodes that make no sense
            raise NotConstant(f"{COMPUTED}, and it cannot be computed here ({one_line(error)})") from error

    def _leading_to(self, name: str) -> Iterator[Any]:
        """The nodes that compute a name, each after those that it needs."""
        seen: set[int] = set()

        def visit(wanted: str, depth: int) -> Iterator[Any]:
            if not wanted or wanted in self.stored:
                return
            node = self.made_by.get(wanted)
            if node is None:
                raise NotConstant(FROM_INPUTS)
            if id(node) in seen:
                return
            seen.add(id(node))
            if len(seen) > NODES or depth > NODES:
                raise NotConstant(f"{COMPUTED} by more than {NODES} nodes")
            if not _may_run(node):
                raise NotConstant(f"{COMPUTED} by {node.op_type}, which filterdb does not run")
            for one in node.input:
                yield from visit(one, depth + 1)
            yield node

        yield from visit(name, 0)

    def _run(self, nodes: Sequence[Any], name: str) -> Value:
        arrays: dict[str, NDArray[Any]] = {}
        leaves: set[str] = set()
        quantised = False
        for node in nodes:
            for one in node.input:
                if one and one not in arrays:
                    leaves.add(one)
                    arrays[one] = self._leaf(one)
            inputs = [arrays[one] for one in node.input if one]
            if _most(node, inputs) > LIMIT:
                raise NotConstant(f"{COMPUTED} by {node.op_type} with more than {LIMIT:,} elements")
            outputs = _evaluate(node, {one: arrays[one] for one in node.input if one}, self.model.opset_import)
            arrays.update(zip(node.output, outputs, strict=True))
            quantised |= _dequantises(node, inputs)
        return Value(arrays[name], quantised, frozenset(leaves))

    def _leaf(self, name: str) -> NDArray[Any]:
        tensor = self.stored[name]
        if math.prod(tensor.dims) > LIMIT:
            raise NotConstant(f"{COMPUTED} from more than {LIMIT:,} elements")
        return self.read(tensor)


def locations(path: Path) -> list[str]:
    """The files that a program names for its numbers, as far as these lie in its own folder; none if it cannot be read."""
    try:
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
        held = [*graph.initializer, *filter(None, map(_constant, graph.node))]
        named = [entry.value for tensor in held for entry in tensor.external_data if entry.key == "location"]
    except Exception:  # whoever reads it next says why
        return []
    return [one for one in dict.fromkeys(named) if one and _is_inside(one)]


def _is_inside(location: str) -> bool:
    """Whether a path leads nowhere up: neither absolute, on any system, nor with ``..`` in it."""
    parts = location.replace("\\", "/").split("/")
    return not location.startswith(("/", "\\")) and ":" not in parts[0] and ".." not in parts


def beside(path: Path, location: str, what: str) -> Path:
    """The file of external data that a program names, which must lie in the program's own folder, or below it.

    Raises:
        SourceError: it would be elsewhere, by an absolute path, by ``..`` or by a link; or it is not there.
    """
    named = path.parent / location
    # In the hub's cache both are links into one folder: beside the program is also what is beside the file that it links to.
    folders = {path.parent.resolve(), path.resolve().parent}
    try:
        there = named.resolve() if location and _is_inside(location) else None
        if there is None or not any(there.is_relative_to(folder) for folder in folders):
            raise SourceError(
                f"{what} keeps numbers in {location[:120]!r}, outside its own folder, where nothing is read. "
                "Save it as one file: onnx.save(onnx.load(...), ...)."
            )
        if not there.is_file():
            raise SourceError(f"{what} keeps numbers in {location[:120]}, which is not beside it. Fetch that file too.")
    except (OSError, ValueError) as error:  # a name with a NUL in it, or too long
        raise SourceError(f"{what} keeps numbers in {location[:120]!r}, which is no file name. Fetch it again.") from error
    return there


def _bytes_of(tensor: Any) -> int:
    """The bytes of a tensor's numbers, as its type and shape say."""
    from onnx import TensorProto, helper

    count = math.prod(tensor.dims)
    if tensor.data_type in {getattr(TensorProto, name, None) for name in ("INT4", "UINT4", "FLOAT4E2M1")}:
        return (count + 1) // 2
    return count * int(np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)


def _constant(node: Any) -> Any | None:
    """The tensor of a Constant node, or None."""
    from onnx import numpy_helper

    if node.op_type != "Constant" or len(node.output) != 1:
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        kinds = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}
        if (kind := kinds.get(attribute.name)) is not None:
            dtype = np.float32 if "float" in attribute.name else np.int64
            return numpy_helper.from_array(np.array(getattr(attribute, kind), dtype), node.output[0])
    return None


def _may_run(node: Any) -> bool:
    from onnx import TensorProto

    known = node.op_type in _SHAPED or node.op_type in _SPREAD or node.op_type in _GROWN
    # onnxruntime's quantiser writes the operators of later versions under a domain of its own
    ours = node.domain in ("", "ai.onnx") or (node.domain == "com.microsoft" and node.op_type in _QUANTISE)
    plain = all(attribute.t.data_location != TensorProto.EXTERNAL for attribute in node.attribute)
    return known and ours and plain


def _most(node: Any, inputs: Sequence[NDArray[Any]]) -> int:
    """How many elements a node's outputs have at most."""
    if node.op_type in _SPREAD:
        return math.prod(np.broadcast_shapes(*(one.shape for one in inputs)))
    if (grown := _GROWN.get(node.op_type)) is not None:
        return grown(inputs)
    return sum(one.size for one in inputs)


def _dequantises(node: Any, inputs: Sequence[NDArray[Any]]) -> bool:
    """Whether a node makes real numbers of several integers: a Cast too, but not one of a shape."""
    if not inputs or inputs[0].dtype.kind not in "iu":
        return False
    return inputs[0].size > 1 if node.op_type == "DequantizeLinear" else node.op_type == "Cast" and inputs[0].ndim > 1


def _evaluate(node: Any, inputs: Mapping[str, NDArray[Any]], opsets: Any) -> list[NDArray[Any]]:
    """The outputs of one node."""
    from onnx import NodeProto, TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    plain = NodeProto()
    plain.CopyFrom(node)
    if node.op_type in _QUANTISE:
        # the evaluator has them from version 19 on; they mean the same before, and in onnxruntime's own domain
        version = max([21, *(one.version for one in opsets if one.domain in ("", "ai.onnx"))])
        plain.domain, opsets = "", [helper.make_opsetid("", version)]
    values = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in inputs]
    made = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
    model = helper.make_model(helper.make_graph([plain], "one", values, made), opset_imports=list(opsets))
    with np.errstate(all="ignore"):  # what is not finite is refused with the layer's name
        outputs = ReferenceEvaluator(model).run(None, dict(inputs))
    return [np.asarray(one) for one in outputs]
