"""Checkpoints in several files: read through their index, from a disk, a folder and a hub."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub import Hub, connected, serve
from safetensors.torch import save

from filterdb import banks
from filterdb.errors import SourceError
from filterdb.frozen.files import freeze_file
from filterdb.frozen.plan import Plan
from filterdb.networks import load
from filterdb.sources import resolve
from filterdb.store.schema import Model

KEYS = ("a.conv_dw.weight", "a.mlp.weight", "b.conv_dw.weight", "b.mlp.weight")


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {key: torch.randn(16, 1, 5, 5) if "dw" in key else torch.randn(256, 256) for key in KEYS}


def pickled(tensors: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def files(kind: str = "safetensors") -> dict[str, bytes]:
    """The files of a sharded checkpoint, by name."""
    write, stem = (save, "model") if kind == "safetensors" else (pickled, "pytorch_model")
    parts = {f"{stem}-0000{i + 1}-of-00002.{kind}": KEYS[2 * i : 2 * i + 2] for i in range(2)}
    index = {"metadata": {"total_size": 1}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    shards = {file: write({key: state()[key] for key in keys}) for file, keys in parts.items()}
    return {f"{stem}.{kind}.index.json": json.dumps(index).encode(), **shards}


def put(folder: Path, kind: str = "safetensors", **changes: Any) -> Path:
    """Write them, with another map where one is given, and return the index."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(kind).items():
        (folder / name).write_bytes(content)
    index = next(folder.glob("*.index.json"))
    index.write_text(json.dumps({**json.loads(index.read_text()), **changes}))
    return index


def read(source: Any) -> tuple[Model, dict[str, np.ndarray]]:
    (pending,) = resolve(source)
    with pending.open(None) as model:
        return model, {layer.name: kernel for layer, kernel in zip(model.layers, model.read(), strict=True)}


def check(kernels: dict[str, np.ndarray]) -> None:
    assert list(kernels) == ["a.conv_dw", "b.conv_dw"]
    for name, kernel in kernels.items():
        np.testing.assert_array_equal(kernel, state()[f"{name}.weight"][:, 0])


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_and_its_folder(tmp_path: Path, kind: str) -> None:
    index = put(tmp_path / "net", kind)
    for source in (index, tmp_path / "net", f"{tmp_path}/net/"):
        model, kernels = read(source)
        check(kernels)
        assert model.name == "net"
        assert model.facts.sha256 is None
        assert model.facts.bytes_read is not None
        assert model.facts.bytes_read < 10_000  # the kernels and two headers


def test_progress_is_told(tmp_path: Path) -> None:
    (pending,) = resolve(put(tmp_path))
    told: list[tuple[int, int | None]] = []
    with pending.open(lambda done, total: told.append((done, total))) as model:
        list(model.read())
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/../../x.safetensors",
        "..\\x.safetensors",
        "C:\\x.safetensors",
        "http://x/y.safetensors",
    ],
)
def test_shards_elsewhere_are_refused(tmp_path: Path, shard: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(save(state()))
    index = put(tmp_path / "net", weight_map={key: shard for key in KEYS})
    with pytest.raises(SourceError, match="outside of its folder"):
        read(index)
    with serve({"me/net": {index.name: index.read_bytes(), "x.safetensors": save(state())}}) as hub, connected(hub, tmp_path):
        with pytest.raises(SourceError, match="outside of its folder"):
            read("hf:me/net")
        assert not any("x.safetensors" in path for path in hub.paths)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weight_map": {}}, "names no shards"), ({"weight_map": 3}, "no weight_map"),
        ({"weight_map": {"a": 3}}, "no file of weights"),
        ({"weight_map": {"a": "x.sh"}}, "no file of weights"), ({"weight_map": {"a": ""}}, "no file of weights"),
        ({"weight_map": {"a": "gone.safetensors"}}, "must lie beside"),
        ({"weight_map": {"zzz": "model-00001-of-00002.safetensors"}}, "is not in model-00001"),
        ({"weight_map": {"a": "model-00002-of-00002.safetensors\0"}}, "no file of weights"),
    ],
)  # fmt: skip
def test_an_index_that_lies(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        read(put(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert "model.safetensors.index.json" in str(caught.value)


def test_an_index_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{" + "[" * 100_000)
    with pytest.raises(SourceError, match="no weight_map"):
        read(tmp_path)
    (tmp_path / "other.bin.index.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").rename(tmp_path / "more.bin.index.json")
    with pytest.raises(SourceError, match="is a folder"):
        read(tmp_path)


def test_an_index_is_no_one_file(tmp_path: Path) -> None:
    index = put(tmp_path)
    with pytest.raises(SourceError, match="Freeze its shards"):
        freeze_file(index, tmp_path / "out.safetensors", Plan.of(banks.load("greedy8")))
    with pytest.raises(SourceError, match="in one file"):
        load(index, architecture="convnext_atto")


# -- on a hub ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    repos = {"me/net": files(), "me/old": files("bin"), "me/both": {**files("bin"), **files()}}
    repos["me/inner"] = {f"unet/{name}": content for name, content in files().items()}
    with serve(repos) as hub, connected(hub, tmp_path / "cache"):
        yield hub


@pytest.mark.parametrize("source", ["hf:me/net", "hf:me/both", "hf:me/inner", "hf:me/net/model.safetensors.index.json"])
def test_shards_on_a_hub_are_read_by_ranges(hub: Hub, source: str) -> None:
    model, kernels = read(source)
    check(kernels)
    assert model.facts.bytes_read is not None
    assert model.facts.bytes_read < 50_000  # of 530 kB
    assert hub.sent < 60_000


def test_pickled_shards_on_a_hub_are_downloaded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model, kernels = read("hf:me/old")
    check(kernels)
    assert model.facts.bytes_read == sum(map(len, files("bin").values()))
    assert any("downloaded" in note for note in model.notes)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check(read("hf:me/old")[1])
