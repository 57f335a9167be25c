"""Sources: everything that holds trained depthwise kernels, read as layers and their weights.

    timm:NAME[.TAG]  timm:convnextv2_*       timm's pretrained models, and globs over them
    hf:OWNER/NAME[@REVISION][/FILE]          a repository on the Hugging Face hub, or one file of it
    torchvision:NAME[.WEIGHTS]               torchvision's pretrained models
    a path                                   .safetensors, .pth, .pt, .bin, .tar, .ckpt, .pt2, .onnx, .tflite, .keras, .h5, the
                                             .index.json of a sharded checkpoint or the folder that has one
    run:FOLDER                               the checkpoints of a training run, each a model RUN@STEP
    a recipe's name, or your own .toml    a list of sources with their facts
    an nn.Module                             a network in memory (in Python)

``resolve`` names the models of a source without reading their weights. Nothing here imports torch, timm or the hub's library
before it is needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filterdb.errors import FilterdbError, InvalidArgument, SourceError, not_found
from filterdb.sources import recipes
from filterdb.sources.names import plain
from filterdb.sources.options import Options, Pending, Progress, things
from filterdb.store.schema import Model, ModelFacts

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Options", "Pending", "Progress", "assemble", "checkpoint", "computed", "held", "inverted", "layers", "local", "module",
    "names", "network", "numbers", "onnx", "options", "recipes", "resolve", "safetensors", "stored", "things", "timm", "unwrap",
]  # fmt: skip

SCHEMES = ("timm", "hf", "torchvision", "run")


def resolve(source: str | os.PathLike[str] | nn.Module, options: Options | None = None) -> list[Pending]:
    """The models that a source names. Recipes, globs and runs give several; no weights are read."""
    options = options or Options()
    found = _resolve(source, options)
    if options.name is not None and things(found) > 1:
        raise InvalidArgument(
            f"One name ({options.name}) for the {len(found)} models of {source}. Leave the name out, or name one model."
        )
    return found


def _resolve(source: str | os.PathLike[str] | nn.Module, options: Options) -> list[Pending]:
    if not isinstance(source, str | os.PathLike):
        return _from_module(source, options)
    text = os.fspath(source)
    path = Path(text)
    if _is(path, Path.is_file):  # a file may be called a:b.pth, so it wins over a scheme
        if path.suffix == ".toml":
            return _from_recipe(text, options)
        return [_from_path(path, options)]
    scheme, colon, rest = text.partition(":")
    if isinstance(source, str) and colon and scheme in SCHEMES:
        if not rest:
            what, word = ("folder", "FOLDER") if scheme == "run" else ("model", "NAME")
            raise InvalidArgument(f'"{text}" names no {what}. Write {scheme}:{word}.')
        return _from_scheme(scheme, rest, options)
    if text in recipes.names():
        return _from_recipe(text, options)
    if _is(path, Path.is_dir):
        from filterdb.sources.sharded import index_in

        if (index := index_in(path)) is not None:
            return [_from_path(index, options, text)]
        raise SourceError(
            f"{text} is a folder. Give the files in it: {text.rstrip('/')}/*.safetensors, or all steps of a training: run:{text}"
        )
    if colon and scheme.isalnum() and len(scheme) > 1 and "/" not in scheme:
        raise not_found("kind of source called", scheme, SCHEMES, advice="A path or the name of a recipe is a source too.")
    if path.suffix or len(path.parts) > 1:
        raise SourceError(f"There is no file {text}. Give a path to a checkpoint, timm:NAME, hf:OWNER/NAME, or a recipe's name.")
    raise not_found(
        "recipe", text, recipes.names(), advice="A timm model is written timm:NAME, a hub's hf:OWNER/NAME, a file as its path."
    )


def _from_module(source: Any, options: Options) -> list[Pending]:
    from torch import nn

    if not isinstance(source, nn.Module):
        raise InvalidArgument(
            f"A {type(source).__name__} is not a source. Give a path, a name such as timm:NAME, or an nn.Module."
        )
    from filterdb.sources import module

    return [module.pending(source, options)]


def _from_scheme(scheme: str, rest: str, options: Options) -> list[Pending]:
    if scheme == "timm":
        from filterdb.sources import timm

        return timm.pending(rest, options)
    if scheme == "hf":
        from filterdb.sources import hub

        return hub.pending(rest, options)
    if scheme == "run":
        return _from_run(Path(os.path.expanduser(rest)), options, rest)
    from filterdb.sources import torchvision

    return torchvision.pending(rest, options)


def _from_recipe(name: str, options: Options) -> list[Pending]:
    """All models of a recipe; what the user says wins over what the recipe says."""
    found: list[Pending] = []
    for entry in recipes.load(name).entries:
        if entry.source in recipes.names() or entry.source.endswith(".toml"):
            raise InvalidArgument(f'The recipe {name} lists the recipe "{entry.source}". List its models instead.')
        try:
            found += _from_entry(entry, options.over(entry.facts))
        except FilterdbError as error:  # one line of a long list (a model that this timm does not have) fails alone
            found.append(_failed(entry.source, error))
    return found


def _from_entry(entry: recipes.Entry, options: Options) -> list[Pending]:
    if entry.path is None:
        return _resolve(entry.source, options)
    if entry.source.startswith(recipes.RUN):
        return _from_run(entry.path, options, entry.source.removeprefix(recipes.RUN))
    return [_from_path(entry.path, options, entry.source)]


def _from_run(folder: Path, options: Options, shown: str) -> list[Pending]:
    from filterdb.sources import run

    return run.pending(folder, options, shown)


def _failed(source: str, error: FilterdbError) -> Pending:
    @contextlib.contextmanager
    def open_(progress: Progress | None = None) -> Iterator[Model]:
        raise error
        yield

    return Pending(source, None, open_)


def _from_path(path: Path, options: Options, source: str | None = None) -> Pending:
    from filterdb.sources import local

    source, name = source or str(path), options.name or local.stem(path)
    if any("\ud800" <= letter <= "\udfff" for letter in source + name):
        raise SourceError(f"{plain(source)} has a name that is not UTF-8, which a table cannot hold. Rename the file.")

    @contextlib.contextmanager
    def open_(progress: Progress | None = None) -> Iterator[Model]:
        yield local.open_file(path, name=name, what=path.name, facts=ModelFacts(source), options=options, progress=progress)

    return Pending(source, name, open_)


def _is(path: Path, test: Callable[[Path], bool]) -> bool:
    try:
        return test(path)
    except (OSError, ValueError):  # a text too long for a path, or with a NUL in it
        return False
