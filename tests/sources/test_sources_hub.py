"""Sources on a hub: only kernel bytes move, and no lie of the server gets into a database."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hub import COMMIT, Hub, connected, serve
from safetensors.torch import save

from filterdb.errors import FilterdbError, HubError, NotFound, SourceError
from filterdb.sources import Options, resolve
from filterdb.sources.remote.ranges import coalesce

CONFIG = {
    "architecture": "convnextv2_atto",
    "num_classes": 1000,
    "pretrained_cfg": {"tag": "fcmae_ft_in1k", "input_size": [3, 224, 224]},
}


def network(seed: int = 0) -> dict[str, torch.Tensor]:
    """Depthwise kernels between large dense tensors, as in a ConvNeXt."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for i in range(6):
        state[f"stages.{i // 2}.blocks.{i % 2}.conv_dw.weight"] = torch.randn(64, 1, 7, 7, generator=generator)
        state[f"stages.{i // 2}.blocks.{i % 2}.mlp.weight"] = torch.randn(256, 256, generator=generator)
    return state


def stored(state: dict[str, torch.Tensor]) -> list[np.ndarray]:
    return [tensor[:, 0].numpy() for key, tensor in state.items() if key.endswith("conv_dw.weight")]


@cache
def repositories() -> dict[str, dict[str, bytes]]:
    torch.manual_seed(0)
    return {
        "me/net": {"model.safetensors": save(network()), "README.md": b"hello"},
        "me/pickle": {"pytorch_model.bin": _torch_bytes(network())},
        "me/two": {"a.safetensors": save(network(1)), "b.safetensors": save(network(2))},
        "timm/convnextv2_atto.fcmae_ft_in1k": {
            "model.safetensors": save(timm.create_model("convnextv2_atto").state_dict()),
            "config.json": json.dumps(CONFIG).encode(),
        },
        "me/sharded": _shards(network()),
        "me/garbage": {"model.safetensors": b"\xff" * 50_000},
    }


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve(dict(repositories())) as hub, connected(hub, tmp_path / "cache"):
        yield hub


def _torch_bytes(state: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _shards(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    keys = list(state)
    parts = {"model-00001-of-00002.safetensors": keys[:5], "model-00002-of-00002.safetensors": keys[5:]}
    index = {"metadata": {}, "weight_map": {key: file for file, part in parts.items() for key in part}}
    files = {file: save({key: state[key] for key in part}) for file, part in parts.items()}
    return {"model.safetensors.index.json": json.dumps(index).encode(), **files}


def read(source: str, **options: Any) -> tuple[Any, list[np.ndarray]]:
    (pending,) = resolve(source, Options(**options))
    with pending.open(None) as model:
        return model, list(model.read())


def test_only_kernels_move(hub: Hub) -> None:
    model, kernels = read("hf:me/net")
    for kernel, expected in zip(kernels, stored(network()), strict=True):
        np.testing.assert_array_equal(kernel, expected)
    size = sum(kernel.nbytes for kernel in kernels)
    assert size < hub.sent < len(hub.repos["me/net"]["model.safetensors"]) / 4
    assert model.name == "net"
    assert model.facts.revision == COMMIT
    assert re.fullmatch(r"[0-9a-f]{64}", model.facts.sha256)
    assert model.facts.bytes_read == hub.sent - 2  # the two bytes of the missing config.json's error


def test_a_timm_model(hub: Hub) -> None:
    model, kernels = read("timm:convnextv2_atto.fcmae_ft_in1k")
    assert hub.sent <= 1.15 * sum(kernel.nbytes for kernel in kernels)
    assert model.facts.bytes_read == hub.sent
    assert model.facts.architecture == "convnextv2_atto"
    assert model.facts.tag == "fcmae_ft_in1k"
    assert model.facts.dataset == "imagenet-1k"
    assert model.facts.licence == "cc-by-nc-4.0"
    assert model.facts.input_size == "3x224x224"
    assert model.facts.params == 3_708_400
    layer = model.layers[0]
    assert (layer.name, layer.stride, layer.padding, layer.in_channels, layer.stage) == (
        "stages.0.blocks.0.conv_dw",
        (1, 1),
        (3, 3),
        40,
        0,
    )
    assert not model.notes


def test_a_repository_that_says_its_architecture(hub: Hub) -> None:
    model, kernels = read("hf:timm/convnextv2_atto.fcmae_ft_in1k")
    assert model.facts.architecture == "convnextv2_atto"
    assert model.facts.dataset == "imagenet-1k"
    assert len(kernels) == 12
    assert all(layer.stride == (1, 1) for layer in model.layers)


def test_other_keys_are_renamed_as_timm_does(hub: Hub) -> None:
    """The original ConvNeXt V2 checkpoints call their layers otherwise; timm's own renaming is run on shapes alone."""
    state = timm.create_model("convnextv2_atto").state_dict()
    original: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        key = re.sub(r"stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2", key.replace("conv_dw", "dwconv"))
        key = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", key.replace("stem.", "downsample_layers.0."))
        key = key.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta").replace("mlp.fc", "pwconv")
        original[key.replace("head.norm", "norm").replace("head.fc", "head")] = value
    hub.repos["me/original"] = {"model.safetensors": save(original)}
    model, kernels = read("hf:me/original", architecture="convnextv2_atto")
    assert any("renamed" in note for note in model.notes)
    np.testing.assert_array_equal(kernels[3], state[model.layers[3].name + ".weight"][:, 0].numpy())
    assert hub.sent < 2 * sum(kernel.nbytes for kernel in kernels)


def test_shards(hub: Hub) -> None:
    _, kernels = read("hf:me/sharded")
    for kernel, expected in zip(kernels, stored(network()), strict=True):
        np.testing.assert_array_equal(kernel, expected)


def test_redirects_are_followed_once_and_expire(tmp_path: Path) -> None:
    with serve({"me/net": {"model.safetensors": save(network())}}, redirect=True) as hub, connected(hub, tmp_path):
        model, kernels = read("hf:me/net", architecture=None)
        assert model.facts.revision == COMMIT
        assert sum("/resolve/" in path and path.endswith("model.safetensors") for path in hub.paths) == 1
        hub.lies("403", times=1, only_after=2)
        _, again = read("hf:me/net")
        np.testing.assert_array_equal(kernels[-1], again[-1])


def test_addresses_signed_for_one_range(tmp_path: Path) -> None:
    with serve({"me/net": {"model.safetensors": save(network())}}, redirect=True) as hub, connected(hub, tmp_path):
        hub.signs_ranges = True
        _, kernels = read("hf:me/net")
        for kernel, expected in zip(kernels, stored(network()), strict=True):
            np.testing.assert_array_equal(kernel, expected)


def test_a_file_that_is_not_safetensors_is_downloaded_whole(hub: Hub, tmp_path: Path) -> None:
    told: list[int] = []
    (pending,) = resolve("hf:me/pickle")
    with pending.open(lambda done, total: told.append(done)) as model:
        kernels = list(model.read())
    np.testing.assert_array_equal(kernels[0], stored(network())[0])
    assert any("whole" in note for note in model.notes)
    assert told
    sent = hub.sent
    model, _ = read("hf:me/pickle")  # now in the cache
    assert any("cache" in note for note in model.notes)
    assert hub.sent == sent


def test_the_cache_is_read_without_the_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("me/net", "model.safetensors", endpoint=hub.endpoint)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.paths)
    model, kernels = read("hf:me/net")
    assert len(hub.paths) == asked
    np.testing.assert_array_equal(kernels[0], stored(network())[0])
    assert model.facts.revision == COMMIT
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        read("hf:me/two/a.safetensors")


def test_names(hub: Hub) -> None:
    with pytest.raises(NotFound, match=r'Did you mean "a.safetensors"'):
        read("hf:me/two/aa.safetensors")
    with pytest.raises(HubError, match="Name one"):
        read("hf:me/two")
    with pytest.raises(HubError, match="no such"):
        read("hf:me/nothing")
    with pytest.raises(HubError, match="no such"):
        read("hf:me/net@nothing")
    assert len(read("hf:me/two@main/b.safetensors")[1]) == 6


def test_the_token_is_sent_to_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    read("hf:me/net")
    assert set(hub.tokens) == {"Bearer hf_secret"}


@pytest.mark.parametrize("lie", ["truncates", "short", "stalls", "429", "500", "503"])
def test_a_passing_trouble_is_overcome(hub: Hub, lie: str) -> None:
    hub.lies(lie, times=2, Retry_After="0")
    _, kernels = read("hf:me/net", architecture=None)
    for kernel, expected in zip(kernels, stored(network()), strict=True):
        np.testing.assert_array_equal(kernel, expected)


def test_a_retry_asks_for_the_missing_bytes_only(hub: Hub) -> None:
    read("hf:me/net")
    whole = hub.sent
    hub.sent = 0
    hub.lies("truncates", times=1, only_after=1)
    read("hf:me/net")
    assert hub.sent == whole


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("ignores-ranges", "ignores byte ranges"), ("truncates", "broke"), ("stalls", "sent nothing"), ("short", "bytes"),
        ("long", "more than"), ("other-range", "Content-Range"), ("no-content-range", "Content-Range"), ("gzip", "Content-Range"),
        ("wrong-length", "bytes"), ("moving-size", "changed"), ("401", "HF_TOKEN"), ("403", "HF_TOKEN"), ("404", "no such"),
        ("429", "429"), ("503", "503"),
    ],
)  # fmt: skip
def test_a_lie_is_one_line(hub: Hub, lie: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterdb.sources.remote.http.ATTEMPTS", 2)
    hub.lies(lie, Retry_After="0")
    with pytest.raises(FilterdbError) as caught:
        read("hf:me/net", architecture=None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hub.sent <= len(hub.repos["me/net"]["model.safetensors"]) + 1000  # a liar is not asked again and again


def test_a_long_wait_is_refused(hub: Hub) -> None:
    hub.lies("429", Retry_After="3600")
    with pytest.raises(HubError, match="429"):
        read("hf:me/net")


def test_garbage_and_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="header"):
        read("hf:me/garbage")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubError, match="no connection to"):
        read("hf:me/net")


def test_coalesce_wastes_little() -> None:
    spans = [(0, 10_000), (10_100, 20_000), (30_000, 40_000), (40_001, 50_000)]
    joined = coalesce(spans)
    assert joined == [(0, 20_000), (30_000, 50_000)]
    assert coalesce([]) == []
    assert coalesce([(3, 5)]) == [(3, 5)]
