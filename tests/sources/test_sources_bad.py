"""Bad input: one line, of our own type, and nothing executed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from filterdb import Database
from filterdb.errors import FilterdbError, SourceError
from filterdb.sources import resolve
from filterdb.sources.names import plain_keys


def read(path: Path) -> list[np.ndarray]:
    (pending,) = resolve(path)
    with pending.open(None) as model:
        return list(model.read())


def refused(path: Path, *words: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx", ".bin", ".xyz"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git-lfs"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"Salted__0123456789abcdef", "encrypted"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x00" * 3, ""),
        (b"hello, this is no checkpoint at all", ""),
        (os.urandom(2000).replace(b"PK", b"xx"), ""),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, suffix: str, content: bytes, word: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    refused(path, word)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.param", b"7767517\n2 2\n", ("ncnn", ".onnx")), ("x.param.bin", b"\xdd\x85\x76\x00rest", ("ncnn",)),
        ("x.caffemodel", b"\x0a\x03net", ("Caffe", "caffe2onnx")), ("x.mlmodel", b"\x08\x04", ("Core ML", ".onnx")),
        ("x.pdparams", b"\x80\x02}q", ("Paddle", "paddle2onnx")), ("x.gguf", b"GGUF\3\0\0\0", ("GGUF", ".safetensors")),
        ("x.bin", b"GGUF\3\0\0\0", ("GGUF", ".safetensors")), ("x.pb", b"\x0a\x10", ("TensorFlow graph", "tf2onnx")),
        ("x.task", b"PK\x03\x04rest", ("MediaPipe", ".tflite")), ("x.mnn", b"rest", ("MNN", ".onnx")),
        ("net-0000.params", b"\x12\x01\0\0\0\0\0\0\0\0", ("MXNet", "export_model")),
    ],
)  # fmt: skip
def test_files_of_other_frameworks_are_named_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, *words)


def test_a_torch_file_may_be_called_anything(tmp_path: Path) -> None:
    for name in ("net.params", "net.pb", "net.param"):
        torch.save({"a.weight": torch.zeros(8, 1, 3, 3)}, tmp_path / name)
        assert len(read(tmp_path / name)) == 1


def test_weights_of_ncnn_are_known_by_the_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "x.param").write_bytes(b"7767517\n2 2\n")
    (tmp_path / "x.bin").write_bytes(b"\x47\x6b\x30\x01rest")
    refused(tmp_path / "x.bin", "ncnn")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a.weight": torch.zeros(8, 1, 3, 3), "x": Evil()}, "evil.pth", _use_new_zipfile_serialization=not legacy)
    assert len(read(Path("evil.pth"))) == 1
    Path("plain.bin").write_bytes(pickle.dumps(Evil()))
    refused(Path("plain.bin"), "no tensors")
    assert not Path("evil").exists()


def test_other_contents(tmp_path: Path) -> None:
    for name, held in {"list": [torch.zeros(2)], "tensor": torch.zeros(8, 1, 3, 3), "numbers": {"a": 1}, "empty": {}}.items():
        torch.save(held, tmp_path / f"{name}.pth")
        refused(tmp_path / f"{name}.pth")
    torch.save({"a.weight": torch.zeros(8, 8, 3, 3), "one.weight": torch.zeros(8, 1, 1, 1)}, tmp_path / "dense.pth")
    refused(tmp_path / "dense.pth", "no depthwise", "left out 1: 1x1")
    torch.save({"a.weight": torch.zeros(8, 1, 0, 7)}, tmp_path / "zero.pth")
    refused(tmp_path / "zero.pth", "no elements")
    torch.save({"a.weight": torch.zeros(1).expand(2**40, 1, 7, 7)}, tmp_path / "vast.pth")
    refused(tmp_path / "vast.pth", "larger than")
    around: dict[str, Any] = {"a.weight": torch.zeros(8, 1, 3, 3)}
    around |= {"again": around, "model": around}
    torch.save(around, tmp_path / "around.pth")
    assert len(read(tmp_path / "around.pth")) == 1


def test_zips_that_are_no_checkpoints(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    (tmp_path / "x.npz").rename(tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "data.pkl")
    torch.save({"a.weight": torch.zeros(8, 1, 3, 3)}, tmp_path / "y.pth")
    content = bytearray((tmp_path / "y.pth").read_bytes())
    central = content.find(b"PK\x01\x02")
    content[central + 8] |= 1  # the flag of an encrypted entry
    (tmp_path / "locked.pth").write_bytes(content)
    refused(tmp_path / "locked.pth", "encrypted")
    assert zipfile.is_zipfile(tmp_path / "y.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite(tmp_path: Path, value: float, suffix: str) -> None:
    weight = torch.zeros(8, 1, 3, 3, dtype=torch.float64)
    weight[5, 0, 1, 1] = value
    path = tmp_path / f"x{suffix}"
    path.write_bytes(save({"deep.dw.weight": weight})) if suffix == ".safetensors" else torch.save(
        {"deep.dw.weight": weight}, path
    )
    refused(path, "deep.dw", "channel 5", "Nothing was stored")


@pytest.mark.parametrize("cut", [1, 9, 40, 200, 700])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".legacy.pth"])
def test_truncated(tmp_path: Path, cut: int, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    state = {"a.weight": torch.randn(8, 1, 3, 3), "b.weight": torch.randn(8, 1, 3, 3)}
    if suffix == ".safetensors":
        path.write_bytes(save(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pth")
    content = path.read_bytes()
    path.write_bytes(content[: max(1, len(content) - cut)])
    refused(path)


def header(path: Path, text: str, data: int = 288) -> None:
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + b"\0" * data)


GOOD = {"dtype": "F32", "shape": [8, 1, 3, 3], "data_offsets": [0, 288]}


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({**GOOD, "data_offsets": [4, 292]}, "hole"), ({**GOOD, "data_offsets": [0, 284]}, "bytes for"),
        ({**GOOD, "data_offsets": [288, 0]}, "offsets"), ({**GOOD, "shape": [8, 1, 3]}, "bytes for"),
        ({**GOOD, "shape": [2**60, 1, 3, 3]}, "bytes for"), ({**GOOD, "shape": [-8, 1, 3, 3]}, "shape"),
        ({**GOOD, "shape": [8.0, 1, 3, 3]}, "shape"), ({**GOOD, "shape": [True, 1, 3, 3]}, "shape"),
        ({**GOOD, "dtype": "X"}, "dtype"),
        ({**GOOD, "dtype": "I32"}, ""), ({"dtype": "F32"}, "exactly"), ([], "exactly"), ({**GOOD, "extra": 1}, "exactly"),
        ({"dtype": "F32", "shape": [0, 1, 3, 3], "data_offsets": [0, 0]}, ""),
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path: Path, entry: Any, word: str) -> None:
    header(tmp_path / "x.safetensors", json.dumps({"a.weight": entry}))
    refused(tmp_path / "x.safetensors", word)


def test_more_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    good = json.dumps(GOOD)
    header(path, f'{{"a.weight": {good}, "a.weight": {good}}}')
    refused(path, "twice")
    header(path, json.dumps({"a.weight": GOOD, "b.weight": GOOD}))
    refused(path, "overlaps")
    header(path, json.dumps({"a.weight": GOOD}), data=200)
    refused(path, "truncated")
    header(path, json.dumps({"a.weight": GOOD}), data=300)
    refused(path, "too long")
    header(path, "{" + "[" * 100_000)
    refused(path, "JSON")
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    refused(path, "header would take")
    header(path, json.dumps({"a.weight": GOOD, "__metadata__": {"x": 1}}))
    refused(path, "__metadata__")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a.weight": torch.zeros(8, 1, 3, 3)}, path)
    (pending,) = resolve(path)
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read"), pending.open(None):
        pass


@pytest.fixture(scope="module")
def seeds() -> dict[str, bytes]:
    """Small checkpoints of each format."""
    import io

    from onnx import TensorProto, helper, numpy_helper

    state = {"a.weight": torch.randn(4, 1, 3, 3), "b.weight": torch.randn(4, 1, 5, 5)}
    files = {"safetensors": save(state)}
    for name, zipped in (("pth", True), ("tar", False)):
        buffer = io.BytesIO()
        torch.save({"state_dict": state}, buffer, _use_new_zipfile_serialization=zipped)
        files[name] = buffer.getvalue()
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=4)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(state["a.weight"].numpy(), "w")],
    )  # fmt: skip
    return {**files, "onnx": helper.make_model(graph).SerializeToString()}


@examples(10)
@given(data=st.data())
def test_mutations_are_refused_or_read(
    seeds: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(seeds)))
    content = bytearray(seeds[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["set", "flip", "cut", "insert", "copy"]))
        if action == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif action == "flip":
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        elif action == "cut":
            del content[place : place + data.draw(st.integers(1, 200))]
        elif action == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            other = data.draw(st.integers(0, max(0, len(content) - 1)))
            content[place : place + 8] = content[other : other + 8]
        if not content:
            break
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    with contextlib.suppress(FilterdbError):
        assert all(np.isfinite(kernel).all() for kernel in read(path))


@pytest.mark.parametrize("key", ["\\ud800", "a\\u0000b", "\\u001b[31m", "a\\nb", "x" * 3000])
def test_names_are_made_plain(tmp_path: Path, key: str) -> None:
    numbers = np.ones((8, 1, 3, 3), np.float32).tobytes()
    entry = '{"dtype": "F32", "shape": [8, 1, 3, 3], "data_offsets": [0, 288]}'
    header = f'{{"{key}.dw.weight": {entry}}}'.encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + numbers)
    db = Database(tmp_path / "db")
    (outcome,) = db.ingest(tmp_path / "x.safetensors", check=False)
    if outcome.error is None:
        (layer,) = db.sql("SELECT DISTINCT layer FROM filters").df()["layer"]
        assert layer.isprintable()
        assert layer.endswith("?b.dw" if key.startswith("a") else ".dw")
    else:
        assert len(key) > 255
        assert len(outcome.error) < 500


def test_two_names_that_become_one_are_both_kept() -> None:
    assert plain_keys({"a\n": 1, "a?": 2, "a\r": 3}) == {"2.a?": 1, "a?": 2, "3.a?": 3}


def test_an_error_is_one_line_fit_for_a_terminal(tmp_path: Path) -> None:
    name = "x" * 40 + "\x1b[2J\n" + "y" * 3000
    index = {"weight_map": {"a.weight": f"{name}.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (outcome,) = Database(tmp_path / "db").ingest(tmp_path, check=False)
    assert outcome.error is not None
    assert outcome.error.isprintable()
    assert len(outcome.error) < 500


def test_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.pth")
    torch.save({"a.weight": torch.ones(8, 1, 3, 3)}, path)
    with pytest.raises(SourceError, match="Rename the file"):
        resolve(path)
