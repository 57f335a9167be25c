"""timm as it is installed: the layers of known networks, and (slowly) of all of them."""

from __future__ import annotations

import pytest
import timm

from filterdb.errors import FilterdbError, NotFound, SourceError
from filterdb.sources import resolve
from filterdb.sources.network import build
from filterdb.sources.remote.timm import facts_of


def test_convnextv2_huge() -> None:
    network = build("convnextv2_huge.fcmae_ft_in22k_in1k_384", {})
    assert len(network.layers) == 36
    assert sum(layer.out_channels for layer in network.layers) == 49_632
    assert {(layer.kernel_h, layer.kernel_w, layer.stride, layer.padding) for layer in network.layers} == {(7, 7, (1, 1), (3, 3))}
    assert network.params == 660_289_640


def test_facts() -> None:
    facts, _ = facts_of("convnextv2_huge.fcmae_ft_in1k")
    assert (facts.architecture, facts.tag, facts.top1) == ("convnextv2_huge", "fcmae_ft_in1k", 86.3)
    assert (facts.licence, facts.input_size, facts.dataset) == ("cc-by-nc-4.0", "3x224x224", "imagenet-1k")


def test_names() -> None:
    default = timm.get_pretrained_cfg("convnext_atto")
    assert default
    assert [pending.name for pending in resolve("timm:convnext_atto")] == [f"convnext_atto.{default.tag}"]
    assert [pending.name for pending in resolve("timm:tf_efficientnet_b0_ns")] == ["tf_efficientnet_b0.ns_jft_in1k"]
    assert len(resolve("timm:convnextv2_*")) == len(timm.list_pretrained("convnextv2_*"))
    with pytest.raises(NotFound, match="convnextv2_huge"):
        resolve("timm:convnextv2_hug")
    with pytest.raises(NotFound, match="fcmae_ft_in1k"):
        resolve("timm:convnextv2_huge.fcmae_ft_1k")
    with pytest.raises(SourceError, match="no pretrained weights"):
        resolve("timm:convnext_atto_rms")
    with pytest.raises(NotFound):
        resolve("timm:nothing_*")


def test_a_model_without_depthwise_layers_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (pending,) = resolve("timm:resnet18.a1_in1k")
    with pytest.raises(SourceError, match="no depthwise kernels"), pending.open(None):
        pass


def test_same_padding_and_multipliers() -> None:
    same = build("tf_efficientnet_b0", {}).layers
    assert {layer.padding for layer in same if layer.stride == (2, 2)} == {"same"}
    assert {layer.kind for layer in build("pit_b_224", {}).layers} == {"multiplier"}
    assert {(layer.kernel_h, layer.kernel_w) for layer in build("inception_next_atto", {}).layers} == {(3, 3), (1, 9), (9, 1)}


@pytest.mark.slow
def test_every_architecture() -> None:
    """timm.toml lists what the installed timm has: all tags of architectures with depthwise kernels larger than 1x1."""
    listed = {pending.source.removeprefix("timm:") for pending in resolve("timm")}
    found: set[str] = set()
    filters = 0
    for architecture in timm.list_models():
        try:
            layers = build(architecture, {}).layers
        except FilterdbError:
            continue
        if layers:
            tags = timm.list_pretrained(f"{architecture}.*")
            found.update(tags)
            filters += len(tags) * sum(layer.out_channels for layer in layers)
    assert found == listed
    assert len(found) == 721
    assert filters == 12_678_333
