"""The names in pickles that stand for plain containers and tensors, and what is made of them without calling what they name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from filterdb.sources import formats
from filterdb.sources.computed import Array, Computed
from filterdb.sources.pickles.machine import Global, Malformed, Rebuild, key_of
from filterdb.sources.pickles.stored import InMemory, Storage, StoredTensor, Unreadable, empty, row_major

QUANTISED = "quantised weights: their stored integers were multiplied by their scales"


class NumpyDtype:
    """A dtype of numpy's, by its code and byte order."""

    def __init__(self, code: str, order: str = "<") -> None:
        self.code, self.order = code, order

    @property
    def name(self) -> str | None:
        """The number format, None for one that is not read."""
        return formats.of_numpy(self.code) or formats.of_torch(self.code)


# -- tensors -------------------------------------------------------------------------------------------------------------------


def sizes(value: Any) -> tuple[int, ...]:
    """A tuple of sizes, steps or the like; refuses what is none."""
    if type(value) not in (tuple, list) or len(value) > 64:
        raise Malformed("has a tensor without sizes")
    if not all(type(one) is int and 0 <= one < 2**63 for one in value):
        raise Malformed("has a tensor of an absurd size")
    return tuple(value)


def view(storage: Storage, dtype: str, offset: Any, size: Any, stride: Any) -> StoredTensor:
    """A tensor, where its storage has room for it."""
    made = StoredTensor(storage, dtype, sizes((offset,))[0], sizes(size), sizes(stride))
    if math.prod(max(length, 1) for length in made.shape) >= 2**60:
        raise Malformed("has a tensor of an absurd size")
    if len(made.strides) != len(made.shape):
        raise Malformed("has a tensor with another number of steps than of sizes")
    if (made.offset + made.span) * formats.SIZES[dtype] > storage.backing.nbytes:
        raise Malformed(f"has a tensor of shape {str(made.shape)[:80]} that reaches beyond what is stored")
    return made


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    return _of_format(storage, storage.dtype, offset, size, stride) if isinstance(storage, Storage) else NotImplemented


def _of_format(storage: Storage, dtype: str | None, offset: Any, size: Any, stride: Any) -> Any:
    if dtype is None:
        return Unreadable(sizes(size), "is of a number format that is not read")
    return view(storage, dtype, offset, size, stride)


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any) -> Any:
    if not isinstance(storage, Storage) or not isinstance(dtype, Global):
        return NotImplemented
    return _of_format(storage, formats.of_torch(dtype.name), offset, size, stride)


def _quantised(storage: Any, offset: Any, size: Any, stride: Any, params: Any, *_: Any) -> Any:
    stored = _tensor(storage, offset, size, stride)
    if not isinstance(stored, StoredTensor) or type(params) is not tuple or len(params) not in (3, 4):
        return stored
    _, scale, zero, *axis = params
    if not axis and isinstance(scale, int | float) and isinstance(zero, int):
        return Computed(stored.shape, (stored,), lambda q: (q - zero) * scale, QUANTISED)
    if axis and isinstance(scale, StoredTensor) and isinstance(zero, StoredTensor):
        channels = [-1 if i == axis[0] else 1 for i in range(len(stored.shape))]

        def by_channel(q: Array, scale: Array, zero: Array) -> Array:
            return (q - zero.reshape(channels)) * scale.reshape(channels)

        if -1 in channels and scale.count == zero.count == stored.shape[axis[0]]:
            return Computed(stored.shape, (stored, scale, zero), by_channel, QUANTISED)
    return Unreadable(stored.shape, "is quantised in a way that is not known")


def _sparse(layout: Any, data: Any) -> Any:
    found = next((one for one in data[::-1] if type(one) is tuple and len(one) <= 64 and all(type(n) is int for n in one)), None)
    return NotImplemented if found is None else Unreadable(sizes(found), "is a sparse tensor")


def _meta(dtype: Any, size: Any, *_: Any) -> Any:
    return Unreadable(sizes(size), "is on the meta device, without numbers")


def _wrapper(kind: Any, dtype: Any, size: Any, *_: Any) -> Any:
    return Unreadable(sizes(size), "is a wrapper whose numbers are elsewhere")


def _first(data: Any = NotImplemented, *_: Any) -> Any:
    return data


def _parameter(data: Any = None, *_: Any) -> Any:
    return data if isinstance(data, StoredTensor | Computed | Unreadable) else NotImplemented


def _from_type(function: Any, kind: Any, args: Any, state: Any = None, *_: Any) -> Any:
    rebuild = KNOWN.get(function.name) if isinstance(function, Global) else None
    made = NotImplemented if rebuild is None else rebuild(*args)
    local = state.get("_local_tensor") if type(state) is dict else None
    # a tensor that was spread over processes, of which there was one
    whole = isinstance(made, Unreadable) and isinstance(local, StoredTensor) and local.shape == made.shape
    return local if whole else made


# -- numpy ---------------------------------------------------------------------------------------------------------------------


def _dtype(code: Any, *_: Any) -> Any:
    if isinstance(code, Global):
        return NumpyDtype(code.name.rpartition(".")[2])
    if isinstance(code, bytes):
        code = code.decode("ascii")
    return NumpyDtype(code.lstrip("<>=|"), ">" if code[:1] == ">" else "<") if type(code) is str else NotImplemented


def _scalar(dtype: Any, data: Any = b"", *_: Any) -> Any:
    data = _as_bytes(data)
    if not isinstance(dtype, NumpyDtype) or dtype.name is None or data is None or len(data) != formats.SIZES[dtype.name]:
        return NotImplemented
    return formats.numbers(formats.words(data, dtype.name, dtype.order), dtype.name)[0].item()


def _as_bytes(data: Any) -> bytes | None:
    # pickles of Python 2 write bytes as strings, and those of protocol 2 as text in Latin-1
    return data.encode("latin-1") if type(data) is str else data if type(data) is bytes else None


def _fill(array: StoredTensor, shape: Any, dtype: Any, fortran: Any, data: Any) -> StoredTensor | Unreadable:
    shape, data = sizes(shape), _as_bytes(data)
    if not isinstance(dtype, NumpyDtype) or dtype.name is None or data is None:
        # objects, texts, records: no numbers, and so no kernels
        array.shape, array.strides, array.dtype = (0,), (1,), "U8"
        return array
    strides = row_major(shape) if not fortran else row_major(shape[::-1])[::-1]
    filled = view(Storage(dtype.name, InMemory(data), dtype.order), dtype.name, 0, shape, strides)
    array.storage, array.dtype, array.shape, array.strides = filled.storage, filled.dtype, shape, strides
    return array


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Any:
    return _fill(empty(), shape, dtype, order == "F", data)


def build(target: Any, state: Any) -> Any:
    """Give its state to something that was rebuilt. Attributes of containers and of tensors are left behind."""
    if isinstance(target, StoredTensor) and target.shape == (0,) and type(state) is tuple and len(state) == 5:
        return _fill(target, *state[1:])  # an array of numpy's; tensors of torch's come whole
    if isinstance(target, NumpyDtype) and type(state) is tuple and len(state) > 1 and state[1] in ("<", ">", b"<", b">"):
        target.order = _as_bytes(state[1]).decode()  # type: ignore[union-attr]
    return target


# -- containers ----------------------------------------------------------------------------------------------------------------


def _pairs(items: Any = (), *_: Any) -> Any:
    if type(items) is dict:
        return dict(items)
    if type(items) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in items):
        return NotImplemented
    return {key_of(key): value for key, value in items}


def _list(items: Any = (), *_: Any) -> Any:
    return list(items) if type(items) in (list, tuple, set, frozenset) else NotImplemented


def _tuple(items: Any = (), *_: Any) -> Any:
    return tuple(items) if type(items) in (list, tuple) else NotImplemented


def _set(items: Any = (), *_: Any) -> Any:
    return set(map(key_of, items)) if type(items) in (list, tuple, set, frozenset) else NotImplemented


def _frozenset(items: Any = (), *_: Any) -> Any:
    return frozenset(map(key_of, items)) if type(items) in (list, tuple, set, frozenset) else NotImplemented


def _default(*_: Any) -> Any:
    return {}


def _bytes(data: Any = b"", *_: Any) -> Any:
    return data.encode("latin-1") if type(data) is str else data if type(data) is bytes else NotImplemented


def _complex(real: Any = 0.0, imaginary: Any = 0.0) -> Any:
    return complex(real, imaginary) if type(real) is type(imaginary) is float else NotImplemented


KNOWN: Mapping[str, Rebuild] = {
    "torch._utils._rebuild_tensor": _tensor, "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype, "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse, "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_wrapper_subclass": _wrapper, "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first, "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first, "torch._utils._rebuild_xla_tensor": _first,
    "torch._tensor._rebuild_from_type": _from_type, "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _parameter, "torch.nn.Parameter": _parameter, "torch.nn.parameter.Buffer": _parameter,
    "torch.autograd.variable.Variable": _parameter, "torch.Size": _tuple,
    "torch.jit._pickle.restore_type_tag": _first,
    **{f"torch.jit._pickle.build_{kind}list": _list for kind in ("int", "double", "bool", "tensor")},
    **{f"{core}.multiarray.scalar": _scalar for core in ("numpy.core", "numpy._core")},
    **{f"{core}.multiarray._reconstruct": lambda *_: empty() for core in ("numpy.core", "numpy._core")},
    **{f"{core}.numeric._frombuffer": _from_buffer for core in ("numpy.core", "numpy._core")},
    "numpy.dtype": _dtype,
    "collections.OrderedDict": _pairs, "collections.Counter": _pairs, "collections.defaultdict": _default,
    "collections.deque": _list, "builtins.dict": _pairs, "builtins.list": _list, "builtins.tuple": _tuple, "builtins.set": _set,
    "builtins.frozenset": _frozenset, "builtins.bytes": _bytes, "builtins.bytearray": _bytes, "builtins.complex": _complex,
    "_codecs.encode": _bytes,
}  # fmt: skip
"""What a call of each of these stands for."""
