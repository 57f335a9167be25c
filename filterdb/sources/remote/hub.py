"""Hugging Face repositories: ``hf:OWNER/NAME[@REVISION][/FILE]``.

The local cache is looked at first. Otherwise the header of a safetensors file and the depthwise tensors alone are fetched; a file
of another format is downloaded whole into the cache, and a note says so.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filterdb.errors import FilterdbError, HubError, InvalidArgument, not_found
from filterdb.sources import sharded
from filterdb.sources.assemble import assemble
from filterdb.sources.local import SUFFIXES, named_network, open_file
from filterdb.sources.network import Network, build
from filterdb.sources.options import Options, Pending, Progress
from filterdb.sources.remote.http import Missing, Remote, endpoint, get_small, offline
from filterdb.sources.remote.ranges import HubSafetensors
from filterdb.store.schema import Model, ModelFacts

DEFAULT = "model.safetensors"
INDEX = ".safetensors.index.json"
PICKLED_INDEX = ".bin.index.json"
_NOT_OF_THE_NETWORK = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable")
"""Arguments of timm.create_model that a stranger's config.json has no say in: they would load other files."""
_SPEC = re.compile(r"(?P<repo>[\w.\-]+/[\w.\-]+)(?:@(?P<revision>refs/pr/\d+|refs/convert/[\w.\-]+|[^/@]+))?(?:/(?P<file>.+))?")


@dataclass(frozen=True)
class HubFile:
    """A file in a repository; ``file`` None means the repository's weights, wherever they are."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def url(self, file: str) -> str:
        """Where the hub serves a file of this repository."""
        return f"{endpoint()}/{self.repo}/resolve/{quote(self.revision or 'main', safe='')}/{quote(file)}"


def parse(spec: str) -> HubFile:
    """The parts of ``OWNER/NAME[@REVISION][/FILE]``."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise InvalidArgument(
            f'"hf:{spec}" does not name a repository. Write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME/FILE.'
        )
    return HubFile(found["repo"], found["revision"], found["file"])


def pending(spec: str, options: Options) -> list[Pending]:
    """A repository, or a file of one, as a pending model."""
    place = parse(spec)
    source = f"hf:{spec}"
    name = options.name or place.repo.rpartition("/")[2]

    @contextlib.contextmanager
    def open_(progress: Progress | None = None) -> Iterator[Model]:
        facts, network, pinned = ModelFacts(source), named_network(options), place
        config = _config(place, source) if network is None else None
        if config is not None:
            facts, network = _timm_style(config, facts, options)
        yield open_hub(pinned, name=name, facts=facts, options=options, network=network, progress=progress)

    return [Pending(source, name, open_)]


def open_hub(
    place: HubFile, *, name: str, facts: ModelFacts, options: Options, network: Network | None, progress: Progress | None
) -> Model:
    """The model in a repository: from the cache, by ranges, or by a whole download."""
    what = facts.source
    file = place.file or DEFAULT
    cached = _cached_weights(place)
    if cached is not None:
        return _from_cache(cached, name, facts, options, network, progress)
    notes: list[str] = []
    try:
        if file.endswith(".safetensors"):
            return _by_ranges(place, [file], name, facts, options, network, progress)
    except Missing as missing:
        file = _other_file(place, file, missing)
        notes.append(f"read from {file}")
    if file.endswith(INDEX):
        shards = _shards(place, file, what)
        model = _by_ranges(place, shards, name, facts, options, network, progress)
    elif file.endswith(".safetensors"):
        model = _by_ranges(place, [file], name, facts, options, network, progress)
    else:
        parts = _shards(place, file, what) if file.endswith(PICKLED_INDEX) else []
        paths = [_download(place, one, what, progress) for one in (file, *parts)]
        paths += [_download(place, one, what, progress) for one in _beside(paths[0], file)]
        moved = sum(path.stat().st_size for path in paths)
        model = _from_cache(paths[0], name, facts, options, network, progress)
        model.facts = replace(model.facts, bytes_read=moved)
        notes = [f"{moved / 1e6:.1f} MB: the whole of {file} was downloaded, because it is not safetensors"]
    model.notes += notes
    return model


def _beside(path: Path, file: str) -> list[str]:
    """The files of the repository that hold numbers of an ONNX program that was downloaded; for other files none."""
    if not file.endswith(".onnx"):
        return []
    from filterdb.sources.programs.onnx_values import locations

    folder = file.rpartition("/")[0]
    return [f"{folder}/{one}" if folder else one for one in locations(path)]


def _by_ranges(
    place: HubFile, files: Sequence[str], name: str, facts: ModelFacts, options: Options, network: Network | None,
    progress: Progress | None,
) -> Model:  # fmt: skip
    remotes = {file: Remote(place.url(file), facts.source) for file in files}
    checkpoint = HubSafetensors(remotes, facts.source, progress)
    first = remotes[files[0]]
    facts = replace(facts, revision=first.commit, sha256=first.sha256 if len(files) == 1 else None)
    return assemble(checkpoint, name=name, what=facts.source, facts=facts, options=options, network=network)


def _from_cache(
    path: Path, name: str, facts: ModelFacts, options: Options, network: Network | None, progress: Progress | None
) -> Model:
    parts = path.parts
    revision = parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
    blob = path.resolve().name  # the cache names large files by their SHA-256
    facts = replace(facts, revision=revision, sha256=blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None)
    model = open_file(
        path, name=name, what=facts.source, facts=facts, options=options, network=network, progress=progress,
        hashed=facts.sha256 is None,
    )  # fmt: skip
    model.notes.append("read from the hub's local cache")
    return model


_PREFERRED = (
    "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin", "pytorch_model.pth", "model.pth", "model.onnx",
)  # fmt: skip


def _other_file(place: HubFile, file: str, missing: Missing) -> str:
    """The file to read where the one that was asked for is not there."""
    if missing.code in ("RepoNotFound", "RevisionNotFound"):
        raise missing
    files = _files(place, missing)
    weights = [other for other in files if other.endswith((*SUFFIXES, INDEX, PICKLED_INDEX))]
    if place.file is not None:
        raise not_found(f"file of {place.repo} called", file, weights or files)
    chosen = next((other for other in _PREFERRED if other in weights), None)
    if chosen is None:
        chosen = weights[0] if len(weights) == 1 else _only_index(weights)
    if chosen is None:
        listed = ", ".join(weights[:8]) or "none"
        raise HubError(f"hf:{place.repo} has no {DEFAULT}; its weight files: {listed}. Name one: hf:{place.repo}/FILE")
    return chosen


def _only_index(weights: Sequence[str]) -> str | None:
    """The one index among files of weights, where all of them lie beside it."""
    folders = {file.rpartition("/")[0] for file in weights}
    indices = [file for file in weights if file.endswith(sharded.SUFFIX)]
    return indices[0] if len(indices) == len(folders) == 1 else None


def _files(place: HubFile, missing: Missing) -> list[str]:
    revision = quote(place.revision or "main", safe="")
    try:
        answer = json.loads(get_small(f"{endpoint()}/api/models/{place.repo}/revision/{revision}", f"hf:{place.repo}"))
        return [entry["rfilename"] for entry in answer["siblings"]]
    except (ValueError, KeyError, TypeError, Missing) as error:
        raise missing from error


def _shards(place: HubFile, file: str, what: str) -> list[str]:
    """The files of a sharded checkpoint, in the order of its index."""
    files = sharded.shards(get_small(place.url(file), what), f"{what}: {file}")
    folder = file.rpartition("/")[0]
    return [f"{folder}/{shard}" if folder else shard for shard in dict.fromkeys(files.values())]


def _config(place: HubFile, what: str) -> Mapping[str, Any] | None:
    """The repository's config.json where it is timm's."""
    folder = (place.file or "").rpartition("/")[0]
    file = f"{folder}/config.json" if folder else "config.json"
    cached = _cached(place, file)
    try:
        if cached is None and (offline() or _cached_weights(place) is not None):
            return None  # the weights are here, so the network is not needed
        config = json.loads(cached.read_bytes() if cached else get_small(place.url(file), what))
    except (Missing, ValueError):
        return None
    return config if isinstance(config, dict) and isinstance(config.get("architecture"), str) else None


def _timm_style(config: Mapping[str, Any], facts: ModelFacts, options: Options) -> tuple[ModelFacts, Network | None]:
    """Facts and network from timm's config.json; no network where this timm does not have the architecture."""
    from filterdb.sources.remote.tags import datasets

    cfg = config.get("pretrained_cfg")
    cfg = cfg if isinstance(cfg, dict) else {}
    architecture, tag = config["architecture"], cfg.get("tag") if isinstance(cfg.get("tag"), str) else None
    dataset, pretrain = datasets(tag or "")
    shape = cfg.get("input_size")
    licence = cfg.get("license")
    facts = replace(
        facts, architecture=architecture, tag=tag, dataset=dataset, pretrain_dataset=pretrain,
        licence=licence if isinstance(licence, str) else None,
        input_size="x".join(map(str, shape)) if isinstance(shape, list) else None,
    )  # fmt: skip
    given = config.get("model_args")
    args = {key: value for key, value in given.items() if key not in _NOT_OF_THE_NETWORK} if isinstance(given, dict) else {}
    if isinstance(config.get("num_classes"), int):
        args.setdefault("num_classes", config["num_classes"])
    try:
        return facts, build(architecture, {**args, **options.architecture_args}, pointwise=options.pointwise)
    except FilterdbError:
        return facts, None


def _cached_weights(place: HubFile) -> Path | None:
    """The weights in the hub's local cache: a whole file, or an index with all its shards."""
    for file in (place.file,) if place.file else (DEFAULT, *_PREFERRED):
        path = _cached(place, file)
        if path is None:
            continue
        folder = f"{file.rpartition('/')[0]}/" if "/" in file else ""
        parts = sharded.shards(path.read_bytes(), f"{place.repo}: {file}") if file.endswith(sharded.SUFFIX) else {}
        if all(_cached(place, folder + part) for part in parts.values()):
            return path
    return None


def _cached(place: HubFile, file: str) -> Path | None:
    """The file in the hub's local cache, if it is there whole."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place.repo, file, revision=place.revision or "main")
    return Path(found) if isinstance(found, str) else None


def _download(place: HubFile, file: str, what: str, progress: Progress | None) -> Path:
    """The whole file, by the hub's own library, which resumes and keeps it in the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """The library's progress, told to ours."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.so_far, self.whole = int(kwargs.get("initial") or 0), kwargs.get("total")
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.so_far += int(n or 0)
            if progress:
                progress(self.so_far, self.whole)
            return None

    try:
        return Path(hf_hub_download(place.repo, file, revision=place.revision, endpoint=endpoint(), tqdm_class=Bar))
    except Exception as error:  # the library's errors and those of its HTTP client have no common base
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise HubError(
            f"{what}: {file} could not be downloaded ({type(error).__name__}: {line}). Try again, or give a local file."
        ) from error
