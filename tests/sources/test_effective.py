"""Weights that a file holds in parts: as torch computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations as new
from torch.nn.utils import parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from filterdb import banks
from filterdb.errors import SourceError
from filterdb.frozen.files import freeze_file
from filterdb.frozen.plan import Plan
from filterdb.sources import resolve
from filterdb.sources.effective import NO_SCALE, NOT_COMPUTED
from filterdb.sources.layers import NOT_FLOAT
from filterdb.store.schema import Model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def read(path: Path) -> tuple[Model, dict[str, np.ndarray]]:
    (pending,) = resolve(path)
    with pending.open(None) as model:
        return model, {layer.name: kernel for layer, kernel in zip(model.layers, model.read(), strict=True)}


def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, 5, groups=8)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


WAYS: dict[str, Callable[[nn.Conv2d], Any]] = {
    "weight_norm": old_weight_norm, "weight_norm of dim 1": lambda one: old_weight_norm(one, dim=1),
    "weight_norm of dim 2": lambda one: old_weight_norm(one, dim=2),
    "weight_norm of all": lambda one: old_weight_norm(one, dim=None),
    "weight_norm, new": new.weight_norm, "weight_norm of all, new": lambda one: new.weight_norm(one, dim=None),
    "weight_norm of dim 3, new": lambda one: new.weight_norm(one, dim=3),
    "spectral_norm": old_spectral_norm, "spectral_norm of dim 2": lambda one: old_spectral_norm(one, dim=2),
    "spectral_norm, new": new.spectral_norm, "pruning": lambda one: prune.l1_unstructured(one, "weight", 0.4),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".whole.pth"])
def test_effective_weights_are_torchs(tmp_path: Path, way: str, suffix: str) -> None:
    layer = WAYS[way](conv())
    network = nn.Sequential(nn.Conv2d(3, 8, 3), layer if layer is not None else conv(), old_weight_norm(nn.Conv2d(8, 4, 3)))
    network.train()
    for _ in range(3):
        network(torch.randn(1, 3, 12, 12))
    network.eval()
    network(torch.randn(1, 3, 12, 12))
    path = tmp_path / f"x{suffix}"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path) if suffix == ".safetensors" else torch.save(
        network if "whole" in suffix and "new" not in way else network.state_dict(), path
    )
    model, kernels = read(path)
    assert list(kernels) == ["1"]
    np.testing.assert_allclose(kernels["1"], network[1].weight.detach()[:, 0], rtol=1e-5, atol=1e-7)
    said = way.partition(" ")[0].rstrip(",")
    assert f"1 layer with {said}: their effective weights were computed" in model.notes
    assert model.skipped == []


def test_what_cannot_be_computed_is_named(tmp_path: Path) -> None:
    network = nn.ModuleDict(
        {"plain": conv(), "turned": nn.Conv2d(8, 8, 5, groups=8), "doubled": conv(), "both": conv(), "dense": nn.Conv2d(8, 8, 5)}
    )
    new.orthogonal(network["turned"])
    for name in ("doubled", "both", "dense"):
        parametrize.register_parametrization(network[name], "weight", Doubled())
    new.spectral_norm(network["both"])
    torch.save(network.state_dict(), tmp_path / "x.pth")
    model, kernels = read(tmp_path / "x.pth")
    assert list(kernels) == ["plain"]
    assert [(one.reason, one.names) for one in model.skipped] == [
        (NOT_COMPUTED, ("turned.weight", "doubled.weight", "both.weight"))
    ]


def test_names_that_only_look_alike(tmp_path: Path) -> None:
    state = {"a.weight_v": torch.randn(8, 1, 3, 3), "b.weight_g": torch.randn(8, 1, 3, 3), "b.weight_v": torch.randn(6, 1, 5, 5)}
    torch.save(state, tmp_path / "x.pth")
    model, kernels = read(tmp_path / "x.pth")
    assert list(kernels) == ["a.weight_v"]
    assert [one.names for one in model.skipped] == [("b.weight",)]


def test_computed_weights_are_not_replaced_in_files(tmp_path: Path) -> None:
    save_file(old_weight_norm(conv()).state_dict(), tmp_path / "x.safetensors")
    torch.save(old_weight_norm(conv()).state_dict(), tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        with pytest.raises(SourceError, match=r"cannot be replaced|cannot be computed") as caught:
            freeze_file(tmp_path / name, tmp_path / f"out.{name}", Plan.of(banks.load("greedy8")))
        assert "\n" not in str(caught.value)


# -- quantised -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize("scale", ["weight_scale", "weight_scale_inv", "scale"])
@pytest.mark.parametrize("shape", [(), (1,), (8,), (8, 1), (8, 1, 1, 1)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_scales(tmp_path: Path, dtype: torch.dtype, scale: str, shape: tuple[int, ...], suffix: str) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(8, 1, 5, 5) * 30).to(dtype)
    scales = torch.rand(shape) + 0.5
    state = {"a.weight": weight, f"a.{scale}": scales.bfloat16()}
    path = tmp_path / f"x{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model, kernels = read(path)
    factor = state[f"a.{scale}"].float()
    wanted = weight.float() * (factor.reshape(-1, 1, 1, 1) if factor.numel() > 1 else factor.reshape(()))
    np.testing.assert_allclose(kernels["a"], wanted[:, 0], rtol=1e-6)
    assert any("quantised weights" in note for note in model.notes)
    assert model.facts.quantised


def test_zero_points(tmp_path: Path) -> None:
    state = {
        "a.weight": torch.randint(0, 255, (8, 1, 3, 3), dtype=torch.uint8), "a.weight_scale": torch.rand(8),
        "a.weight_zero_point": torch.randint(100, 150, (8,), dtype=torch.int32),
    }  # fmt: skip
    save_file(state, tmp_path / "x.safetensors")
    shift, scale = (state[f"a.weight_{key}"].view(8, 1, 1, 1) for key in ("zero_point", "scale"))
    np.testing.assert_allclose(
        read(tmp_path / "x.safetensors")[1]["a"], ((state["a.weight"].float() - shift) * scale)[:, 0], rtol=1e-6
    )


def test_integers_without_a_scale_are_named(tmp_path: Path) -> None:
    state = {
        "a.weight": torch.randn(8, 1, 3, 3), "b.weight": torch.randn(8, 1, 3, 3).to(torch.float8_e4m3fn),
        "c.weight": torch.ones(8, 1, 3, 3, dtype=torch.int8), "d.weight": torch.ones(8, 1, 3, 3, dtype=torch.int8),
        "d.weight_scale": torch.ones(4), "e.weight": torch.ones(8, 1, 3, 3, dtype=torch.uint8), "e.weight_scale": torch.ones(1),
    }  # fmt: skip
    save_file(state, tmp_path / "x.safetensors")
    torch.save(state, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        model, kernels = read(tmp_path / name)
        assert list(kernels) == ["a"]
        skipped = {one.reason: set(one.names) for one in model.skipped}
        assert skipped == {NOT_FLOAT: {"b.weight", "c.weight"}, NO_SCALE: {"d.weight", "e.weight"}}
