"""Small whole files of every kind that filterdb reads, and what damage and malice make of them."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import test_keras
import test_onnx_weights
import test_pickles
import test_sharded
import test_sources_onnx
import test_tflite
import torch
from pickles import module
from safetensors.torch import save

Files = Mapping[str, bytes]
"""By name; the first is the one to ingest."""
EXTREMES = (
    0,
    1,
    2,
    127,
    255,
    256,
    2**15,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
WORDS = (
    b"0",
    b"-1",
    b"99999999999999999999",
    b"2147483648",
    b"1e999",
    b"NaN",
    b"null",
    b'""',
    b"[]",
    b"{}",
    b"true",
    b"[[[[[[[[",
    b"\\ud800",
)
"""What a number in a text becomes."""


# -- whole files ---------------------------------------------------------------------------------------------------------------


def command(marker: Path) -> bytes:
    """Instructions to run a command, which may stand before any pickle: what it returns is dropped again."""
    return b"cos\nsystem\n(V" + f"touch {marker}".encode() + b"\ntR0"


def armed(data: bytes, marker: Path) -> bytes:
    """A file of torch's whose pickles would leave a mark if they were run."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return command(marker) + data
    entries = unpacked(data)
    return packed({name: command(marker) + one if name.endswith(".pkl") else one for name, one in entries.items()})


def whole_files(folder: Path, marker: Path) -> dict[str, Files]:
    """One file of each kind, or the files that belong together."""
    torch.manual_seed(0)
    network = module().eval().requires_grad_(False)
    state = network.state_dict()
    held = {"args": test_pickles.Named(), "epoch": 3, "model": state, "optimizer": {"lr": 0.1, "m": [torch.randn(8)]}}
    image = torch.zeros(1, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(network, image)
        exported = torch.export.export(network, (image,))
        torchs = {
            "torch zip": written(lambda file: torch.save(held, file)),
            "torch before 1.6": written(lambda file: torch.save(held, file, _use_new_zipfile_serialization=False)),
            "torch before 0.1.10 (tar)": oldest(folder),
            "whole module": written(lambda file: torch.save(network, file)),
            "TorchScript": written(lambda file: torch.jit.save(program, file)),
            "torch.export (.pt2)": written(lambda file: torch.export.save(exported, file)),
        }
    loaded = {
        kind: {"net.pt2" if "pt2" in kind else "net.pth": data if "tar" in kind else armed(data, marker)}
        for kind, data in torchs.items()
    }
    return {
        "safetensors": {"net.safetensors": save(state, {"step": "1000"})}, "sharded": test_sharded.files(), **loaded,
        **onnx_files(folder), **tflite_files(), **keras_files(folder),
    }  # fmt: skip


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    """What is written into a file."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def oldest(folder: Path) -> bytes:
    """A file as the first versions of torch wrote it."""
    return test_pickles.oldest(folder / "old.pth", {"a": torch.randn(8, 1, 3, 3), "b": torch.randn(4, 1, 5, 5)}).read_bytes()


def onnx_files(folder: Path) -> dict[str, Files]:
    """Plain, quantised, and with the weights in a file beside the program."""
    random_array = test_sources_onnx.random
    weights = {"a.weight": random_array(8, 1, 5, 5), "b": random_array(16, 1, 3, 3)}
    convs = [test_sources_onnx.conv("a.weight", 8, strides=[2, 2], pads=[2, 2, 2, 2]), test_sources_onnx.conv("b", 8, "b")]
    plain = test_sources_onnx.save(folder / "plain.onnx", convs, weights).read_bytes()
    numbers = np.random.default_rng(0)
    quantised = {
        "q": numbers.integers(-128, 127, (8, 1, 5, 5), np.int8), "s": numbers.uniform(0.01, 0.1, 8).astype(np.float32),
        "z": np.zeros(8, np.int8), "u": numbers.integers(0, 255, (8, 1, 3, 3), np.uint8), "one": np.float32(1),
        "zero": np.uint8(0),
    }  # fmt: skip
    nodes = [
        test_onnx_weights.node("DequantizeLinear", ["q", "s", "z"], axis=0), test_sources_onnx.conv("w", 8, "c"),
        onnx.helper.make_node("QLinearConv", ["x", "one", "zero", "u", "one", "zero", "one", "zero"], ["y"], group=8),
    ]  # fmt: skip
    integers = test_sources_onnx.save(folder / "quantised.onnx", nodes, quantised).read_bytes()
    options = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0}
    beside = test_sources_onnx.save(folder / "net.onnx", convs, weights, **options).read_bytes()
    return {
        "ONNX": {"net.onnx": plain}, "ONNX, quantised": {"net.onnx": integers},
        "ONNX, external": {"net.onnx": beside, "net.data": (folder / "net.data").read_bytes()},
    }  # fmt: skip


def tflite_files() -> dict[str, Files]:
    """Of real numbers, and of integers with a scale for each channel."""
    numbers = np.random.default_rng(0)
    real, integer = test_tflite.File(), test_tflite.File()
    array = numbers.standard_normal((1, 5, 5, 8)).astype(np.float32)
    image = real.conv(real.tensor("dw", array.shape, array), 8, StrideH=2)
    real.conv(real.tensor("dw2", (1, 3, 3, 8), array[:, 1:4, 1:4]), 8, image=image)
    scales = (numbers.uniform(0.01, 0.1, 8).astype(np.float32), np.zeros(8, np.int64), 3)
    integer.conv(integer.tensor("dw", array.shape, numbers.integers(-128, 127, array.shape, np.int8), *scales), 8)
    return {"TFLite": {"net.tflite": real.data()}, "TFLite, quantised": {"net.tflite": integer.data()}}


def keras_files(folder: Path) -> dict[str, Files]:
    """An archive of Keras 3, and a whole model in HDF5."""
    data = test_keras.weights(test_keras.ARRAYS, test_keras.NAMES)
    archive = test_keras.archive(folder / "net.keras", data).read_bytes()
    config = {"class_name": "Functional", "config": {"name": "net", "layers": [test_keras.layer("DepthwiseConv2D", "dw")]}}
    root = {"model_config": json.dumps(config)}
    hdf5 = test_keras.weights({"model_weights/dw/dw/depthwise_kernel:0": test_keras.FIRST}, root=root)
    return {"Keras (.keras)": {"net.keras": archive}, "Keras (.h5)": {"net.h5": hdf5}}


# -- what becomes of them ------------------------------------------------------------------------------------------------------

Mutation = Callable[[random.Random, bytearray, bytes], object]
"""Changes bytes; the last argument is another whole file."""


def flip(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Turn some bits over."""
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def truncate(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Cut the end off."""
    del data[chance.randrange(len(data)) :]


def insert(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Put random bytes in."""
    place = chance.randrange(len(data))
    data[place:place] = chance.randbytes(chance.choice((1, 4, 8, 64, 1000)))


def remove(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Take bytes out."""
    place = chance.randrange(len(data))
    del data[place : place + chance.randint(1, 64)]


def splice(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Copy a piece of the file, or of one of another kind, over another place."""
    source = chance.choice((bytes(data), other))
    start, place, length = chance.randrange(len(source)), chance.randrange(len(data)), chance.choice((4, 16, 64, 512))
    piece = source[start : start + length]
    data[place : place + chance.choice((0, len(piece)))] = piece


def header(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Set a number near the beginning or the end, where lengths and tables are, to an extreme."""
    width = chance.choice((1, 2, 4, 8))
    place = chance.randrange(min(len(data), 64)) if chance.random() < 0.7 else max(0, len(data) - chance.randint(1, 64))
    data[place : place + width] = extreme(chance, len(data), width)


def number(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Set what may be a number anywhere to an extreme."""
    width = chance.choice((1, 2, 4, 8))
    place = chance.randrange(len(data)) // width * width
    data[place : place + width] = extreme(chance, len(data), width)


def word(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Set a number that is written as text, as in JSON and old pickles, to an extreme."""
    found = list(re.finditer(rb"-?\d+", bytes(data[: 2**16])))
    if found:
        one = chance.choice(found)
        data[one.start() : one.end()] = chance.choice(WORDS)


def repeat(chance: random.Random, data: bytearray, other: bytes) -> None:
    """Write a piece many times."""
    place = chance.randrange(len(data))
    piece = bytes(data[place : place + chance.choice((1, 8, 64))])
    data[place:place] = piece * chance.choice((2, 100, 2000))


MUTATIONS: tuple[Mutation, ...] = (flip, truncate, insert, remove, splice, header, number, word, repeat)


def extreme(chance: random.Random, size: int, width: int) -> bytes:
    """A number that no file means, or one about as large as the file."""
    value = chance.choice((*EXTREMES, size, size - 1, size + 1, 2**64 - size))
    return (value % 2 ** (8 * width)).to_bytes(width, chance.choice(("little", "little", "big")))


def mutated(chance: random.Random, files: Files, other: bytes) -> dict[str, bytes]:
    """The files with one of them changed; a zip file by half inside, with right checksums, so that what is in it is read."""
    name = chance.choice(list(files))
    data = files[name]
    if data.startswith(b"PK") and chance.random() < 0.6:
        entries = unpacked(data)
        # what says what the numbers are matters more than the numbers
        inner = [one for one in entries if entries[one] and (not one.rpartition("/")[2].isdigit() or chance.random() < 0.1)]
        entry = chance.choice(inner)
        return {**files, name: packed({**entries, entry: changed(chance, entries[entry], other)})}
    return {**files, name: changed(chance, data, other)}


def changed(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """One to three mutations."""
    array = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if array:
            chance.choice(MUTATIONS)(chance, array, other)
    return bytes(array)


def unpacked(data: bytes) -> dict[str, bytes]:
    """The entries of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: Mapping[str, bytes]) -> bytes:
    """A zip file."""

    def write(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in entries.items():
                archive.writestr(zipfile.ZipInfo(name), data)  # of one date, so that the same seed makes the same file

    return written(write)


def check_armed(marker: Path) -> None:
    """Python's own unpickler does leave the mark, so that its absence means something."""
    pickle.loads(command(marker) + b"N.")
    os.remove(marker)
