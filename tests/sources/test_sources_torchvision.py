"""Whole files from plain servers: torchvision's models, and timm's that are on no hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hub import connected, serve

from filterdb.errors import HubError, NotFound
from filterdb.sources import resolve
from filterdb.sources.remote.download import cached_download

torchvision = pytest.importorskip("torchvision")


def test_a_model_with_its_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = torchvision.models.mobilenet_v2(weights=None)
    weights = torchvision.models.MobileNet_V2_Weights.DEFAULT
    path = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    (pending,) = resolve("torchvision:mobilenet_v2")
    assert pending.name == f"mobilenet_v2.{weights.name}"
    with pending.open(None) as model:
        kernels = list(model.read())
    assert len(kernels) == 17
    assert model.layers[1].stride == (2, 2)
    np.testing.assert_array_equal(kernels[0], network.get_submodule(model.layers[0].name).weight.detach()[:, 0].numpy())
    assert model.facts.dataset == "imagenet-1k"
    assert model.facts.params == sum(weight.numel() for weight in network.parameters())


def test_names() -> None:
    with pytest.raises(NotFound, match="mobilenet_v2"):
        resolve("torchvision:mobilenet_v22")
    with pytest.raises(NotFound, match="IMAGENET1K_V1"):
        resolve("torchvision:mobilenet_v2.IMAGENET1K")


@pytest.mark.parametrize("lie", [None, "truncates", "503", "stalls"])
def test_downloads_resume_and_are_checked(tmp_path: Path, lie: str | None) -> None:
    content = bytes(range(256)) * 4000
    named = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    with serve({"me/net": {named: content, "net-00000000.pth": content}}) as hub, connected(hub, tmp_path / "cache"):
        (tmp_path / f"{named}.part").write_bytes(content[:1000])  # of an earlier call
        if lie:
            hub.lies(lie, times=2, Retry_After="0")
        url = f"{hub.endpoint}/me/net/resolve/main/"
        assert cached_download(url + named, tmp_path / named, "x", None) == len(content)
        assert (tmp_path / named).read_bytes() == content
        assert cached_download(url + named, tmp_path / named, "x", None) == 0
        with pytest.raises(HubError, match="SHA-256"):
            cached_download(url + "net-00000000.pth", tmp_path / "net-00000000.pth", "x", None)
        assert not (tmp_path / "net-00000000.pth").exists()
