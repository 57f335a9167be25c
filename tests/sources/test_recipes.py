"""Recipes: every one that ships can be resolved, and one's own is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from filterdb.errors import InvalidArgument, NotFound
from filterdb.share import folder
from filterdb.sources import Options, recipes, resolve
from filterdb.sources.remote.tags import _published, datasets, top1


def test_the_recipes_that_ship() -> None:
    assert set(recipes.names()) >= {"convnext", "iclr2024", "timm", "demo"}
    for name in recipes.names():
        recipe = recipes.load(name)
        assert recipe.title
        assert recipe.citation
        found = [pending for pending in resolve(name) if pending.name is None and pending.source.startswith("timm:")]
        assert not found, "this timm does not know these"
        sources = [pending.source for pending in resolve(name)]
        assert len(set(sources)) == len(sources)


def test_all_of_timm() -> None:
    everything = {pending.source for pending in resolve("timm")}
    assert len(everything) == 721
    assert {pending.source for name in ("convnext", "iclr2024") for pending in resolve(name)} <= everything


def test_the_demo() -> None:
    (entry,) = recipes.load("demo").entries
    assert entry.path == folder("data") / "demo.safetensors"
    (pending,) = resolve("demo")
    assert (pending.source, pending.name) == ("data/demo.safetensors", "demo")


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.randn(4, 1, 3, 3)}, tmp_path / "net.pth")
    text = 'title = "mine"\ndataset = "cifar-10"\nlicence = "MIT"\n[[models]]\nsource = "net.pth"\ntop1 = 90\n'
    (tmp_path / "mine.toml").write_text(text + '[[models]]\nsource = "timm:nosuch"\n')
    first, second = resolve(tmp_path / "mine.toml", Options(licence="Apache-2.0"))
    with first.open(None) as model:
        assert (model.facts.dataset, model.facts.licence, model.facts.top1) == ("cifar-10", "Apache-2.0", 90)
    assert second.name is None
    with pytest.raises(NotFound), second.open(None):  # one line of a list fails alone
        pass


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("title = ", "cannot be read"), ('title = "x"', "lists no models"), ("models = [1]", "lists no models"),
        ('[[models]]\nname = "x"', "no source"), ('[[models]]\nsource = "x"\ndatasett = "x"', "dataset"),
        ('[[models]]\nsource = "x"\nstep = "x"', "not int"), ('[[models]]\nsource = "x"\nstep = true', "not int"),
        ('[[models]]\nsource = "demo"', "List its models"),
    ],
)  # fmt: skip
def test_recipes_with_mistakes(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises((InvalidArgument, NotFound), match=word) as caught:
        resolve(tmp_path / "mine.toml")[0].open(None).__enter__()
    assert "\n" not in str(caught.value)


def test_names_that_are_not_there() -> None:
    with pytest.raises(NotFound, match='Did you mean "convnext"'):
        recipes.load("convnex")
    with pytest.raises(NotFound):
        folder("dat")


def test_what_tags_say() -> None:
    assert datasets("sail_in22k_ft_in1k_384") == ("imagenet-1k", "imagenet-22k")
    assert datasets("dinov3_lvd1689m") == ("lvd-1689m", None)
    assert datasets("apple_mclip2_dfndr2b") == ("dfndr-2b", None)
    assert datasets("clip_laion2b_augreg_ft_in12k_in1k") == ("imagenet-1k", "imagenet-12k")
    assert datasets("") == (None, None)


def test_published_accuracies_are_of_models_that_exist() -> None:
    known = {pending.name for pending in resolve("convnext")}
    assert set(_published()) <= known
    assert top1("convnextv2_pico.fcmae_ft_in1k") == 80.3
    assert top1("convnextv2_pico.fcmae") is None
