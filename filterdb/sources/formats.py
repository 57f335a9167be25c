"""Number formats of tensors, by the names that safetensors gives them, and their bits as numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U64": "<u8", "U32": "<u4",
    "U16": "<u2", "U8": "<u1", "BOOL": "<u1", "C64": "<c8", "C128": "<c16",
}  # fmt: skip
"""Formats that numpy knows."""
_FLOAT8 = {"F8_E4M3": (4, 7), "F8_E5M2": (5, 15), "F8_E4M3FNUZ": (4, 8), "F8_E5M2FNUZ": (5, 16)}
"""Bits of the exponent, and its bias."""
SIZES = {
    **{name: int(code[2:]) for name, code in CODES.items()}, "BF16": 2, **dict.fromkeys(_FLOAT8, 1), "F8_E8M0": 1,
}  # fmt: skip
"""Bytes of a number, of the formats that can be read."""
FLOAT8 = (*_FLOAT8, "F8_E8M0")
INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
_TORCH = {
    "float64": "F64", "double": "F64", "float32": "F32", "float": "F32", "float16": "F16", "half": "F16", "bfloat16": "BF16",
    "int64": "I64", "long": "I64", "int32": "I32", "int": "I32", "int16": "I16", "short": "I16", "int8": "I8", "uint8": "U8",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL", "complex64": "C64", "cfloat": "C64", "complex128": "C128",
    "cdouble": "C128", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0", "qint8": "I8", "quint8": "U8", "qint32": "I32",
}  # fmt: skip
_STORAGES = {
    "Float": "F32", "Double": "F64", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16", "Char": "I8",
    "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64", "ComplexDouble": "C128", "QInt8": "I8", "QUInt8": "U8", "QInt32": "I32",
    "Untyped": "U8",
}  # fmt: skip


def of_torch(name: str) -> str | None:
    """The format of a dtype of torch's (``torch.float32``), None where it has none here.

    >>> of_torch("torch.half"), of_torch("torch.float8_e5m2"), of_torch("torch.quint4x2")
    ('F16', 'F8_E5M2', None)
    """
    return _TORCH.get(name.removeprefix("torch."))


def torch_name(dtype: str) -> str:
    """The name of torch's dtype of a format.

    >>> torch_name("BF16"), torch_name("U8")
    ('bfloat16', 'uint8')
    """
    return next(name for name, one in _TORCH.items() if one == dtype)


def of_storage(name: str) -> str | None:
    """The format of a class of storages (``torch.cuda.HalfStorage``), None where it has none here."""
    return _STORAGES.get(name.rpartition(".")[2].removesuffix("Storage"))


def of_numpy(code: str) -> str | None:
    """The format of a numpy dtype (``f4``), without its byte order; None where it has none here."""
    return "BOOL" if code == "b1" else next((name for name, one in CODES.items() if one[1:] == code), None)


def words(data: bytes | bytearray | memoryview, dtype: str, order: str = "<") -> NDArray[Any]:
    """The bytes as one unsigned integer a number (two for a complex one), little-endian in memory."""
    size = SIZES[dtype]
    width = size // 2 if dtype.startswith("C") else size
    read = np.frombuffer(data, f"{order}u{width}")
    return read.astype(f"<u{width}", copy=False).view(f"<V{size}" if dtype.startswith("C") else f"<u{width}")


def numbers(words: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Words as the numbers that they are: float64, integers and complex ones as they are, every other float exactly as float32.

    The result has the shape of ``words`` and may share its memory.
    """
    if dtype == "BF16":  # the upper half of a float32
        return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype in FLOAT8:
        return _float8(dtype)[words]
    read = words.view(CODES[dtype])
    return read.astype(np.float32) if dtype == "F16" else read


@cache
def _float8(dtype: str) -> NDArray[np.float32]:
    """The 256 numbers of a format of eight bits."""
    byte = np.arange(256)
    if dtype == "F8_E8M0":
        return np.append(np.ldexp(np.float32(1), byte[:255] - 127), np.nan).astype(np.float32)
    bits, bias = _FLOAT8[dtype]
    fraction_bits = 7 - bits
    exponent, fraction = byte >> fraction_bits & (1 << bits) - 1, byte & (1 << fraction_bits) - 1
    steps = np.where(exponent > 0, fraction + (1 << fraction_bits), fraction).astype(np.float64)
    size = np.ldexp(steps, np.maximum(exponent, 1) - bias - fraction_bits)
    table = np.where(byte < 128, size, -size)
    if dtype.endswith("FNUZ"):
        table[0x80] = np.nan  # what would be minus zero
    elif dtype == "F8_E4M3":
        table[[0x7F, 0xFF]] = np.nan
    else:  # as in float16, of which this is the upper byte
        table[byte & 0x7F > 0x7C] = np.nan
        table[[0x7C, 0xFC]] = np.inf, -np.inf
    return table.astype(np.float32)
