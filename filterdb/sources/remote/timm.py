"""timm's pretrained models: ``timm:NAME[.TAG]`` and globs. Names and facts come from timm, weights from where it has them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from filterdb.errors import SourceError, not_found
from filterdb.sources.assemble import refuse_empty
from filterdb.sources.local import open_file
from filterdb.sources.network import build
from filterdb.sources.options import Options, Pending, Progress
from filterdb.sources.remote.download import cached_download
from filterdb.sources.remote.hub import HubFile, open_hub
from filterdb.sources.remote.tags import datasets, top1
from filterdb.store.schema import Model, ModelFacts


def pending(spec: str, options: Options) -> list[Pending]:
    """The pretrained models of a name (its default tag), a name with a tag, or a glob over names with tags."""
    return [_pending(name, options) for name in expand(spec)]


@cache
def _tags() -> dict[str, list[str]]:
    """The pretrained tags of every architecture."""
    import timm

    tags: dict[str, list[str]] = {}
    for name in timm.list_pretrained():
        architecture, _, tag = name.partition(".")
        tags.setdefault(architecture, []).append(tag)
    return tags


def expand(spec: str) -> list[str]:
    """The full names (``arch.tag``) of the pretrained models that a name or a glob stands for."""
    import timm

    if any(sign in spec for sign in "*?["):
        found: list[str] = timm.list_pretrained(spec)
        if not found:
            raise not_found("pretrained timm model matching", spec, _tags())
        return found
    spec = timm.models.get_deprecated_models().get(spec) or spec  # an old name stands for a name with a tag
    architecture, _, tag = spec.partition(".")
    if not timm.is_model(architecture):
        raise not_found("timm model", architecture, _tags())
    tags = _tags().get(architecture)
    if tags is None:
        raise SourceError(
            f"timm has no pretrained weights for {architecture}. Give a checkpoint file and architecture={architecture}."
        )
    if tag and tag not in tags:
        raise not_found(f"pretrained tag of {architecture} called", tag, tags)
    tag = tag or _cfg(architecture).tag or ""
    return [f"{architecture}.{tag}" if tag else architecture]


def _pending(full: str, options: Options) -> Pending:
    source = f"timm:{full}"

    @contextlib.contextmanager
    def open_(progress: Progress | None = None) -> Iterator[Model]:
        yield _open(full, source, options, progress)

    return Pending(source, options.name or full, open_)


def facts_of(full: str) -> tuple[ModelFacts, Any]:
    """What timm says of ``arch.tag``, and its pretrained configuration."""
    cfg = _cfg(full)
    architecture, _, tag = full.partition(".")
    dataset, pretrain = datasets(tag)
    return ModelFacts(
        f"timm:{full}", architecture=architecture, tag=tag or None, dataset=dataset, pretrain_dataset=pretrain,
        top1=top1(full), licence=cfg.license, input_size="x".join(map(str, cfg.input_size)),
    ), cfg  # fmt: skip


def _cfg(name: str) -> Any:
    import timm

    return timm.get_pretrained_cfg(name)


def _open(full: str, source: str, options: Options, progress: Progress | None) -> Model:
    facts, cfg = facts_of(full)
    network = build(full, options.architecture_args, pointwise=options.pointwise)
    refuse_empty(network.layers, network.skipped, source)  # before anything is moved
    name = options.name or full
    if cfg.hf_hub_id:
        repo, _, revision = str(cfg.hf_hub_id).partition("@")
        file = _safe(cfg.hf_hub_filename)
        place = HubFile(repo, revision or None, file)
        return open_hub(place, name=name, facts=facts, options=options, network=network, progress=progress)
    if isinstance(cfg.url, str) and cfg.url:
        return _from_url(cfg.url, name, facts, options, network, progress)
    raise SourceError(
        f"timm does not say where the weights of {full} are. Give a checkpoint file with the architecture {facts.architecture}."
    )


def _safe(file: str | None) -> str | None:
    """The safetensors file beside the one that timm names, as timm itself prefers it."""
    if file is None or file == "pytorch_model.bin":
        return None
    if file == "open_clip_pytorch_model.bin":
        return "open_clip_model.safetensors"
    return file.removesuffix(".bin") + ".safetensors" if file.endswith(".bin") else file


def _from_url(url: str, name: str, facts: ModelFacts, options: Options, network: Any, progress: Progress | None) -> Model:
    """Weights that no hub has: the whole file, into the folder where timm would keep it."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    moved = cached_download(url, path, facts.source, progress)
    model = open_file(path, name=name, what=facts.source, facts=facts, options=options, network=network, progress=progress)
    if moved:
        model.facts = replace(model.facts, bytes_read=moved)
        model.notes.append(f"{moved / 1e6:.1f} MB: the whole file was downloaded, because it is not on a hub as safetensors")
    return model
