"""torchvision's models: the file its weights point to, downloaded whole, read with its architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filterdb.errors import SourceError, not_found
from filterdb.sources import network as networks
from filterdb.sources.local import open_file
from filterdb.sources.options import Options, Pending, Progress
from filterdb.sources.remote.download import cached_download
from filterdb.store.schema import Model, ModelFacts


def pending(spec: str, options: Options) -> list[Pending]:
    """``NAME`` or ``NAME.WEIGHTS`` (``convnext_tiny.IMAGENET1K_V1``); without weights, torchvision's default ones."""
    try:
        from torchvision.models import get_model_weights, list_models
    except ImportError as error:
        raise SourceError("torchvision:... needs the package torchvision. Install it with: pip install torchvision") from error

    name, _, tag = spec.partition(".")
    if name not in list_models():
        raise not_found("torchvision model", name, list_models())
    choices: Any = get_model_weights(name)
    if not choices.__members__:
        raise SourceError(f"torchvision has no pretrained weights for {name}. Give a checkpoint file.")
    if tag and tag not in choices.__members__:
        raise not_found(f"torchvision weights of {name} called", tag, choices.__members__)
    weights = choices[tag] if tag else choices.DEFAULT
    full = f"{name}.{weights.name}"
    source = f"torchvision:{full}"

    @contextlib.contextmanager
    def open_(progress: Progress | None = None) -> Iterator[Model]:
        yield _open(name, weights, options.name or full, source, options, progress)

    return [Pending(source, options.name or full, open_)]


def _open(architecture: str, weights: Any, name: str, source: str, options: Options, progress: Progress | None) -> Model:
    import torch
    from torchvision.models import get_model

    size = weights.meta.get("min_size")
    classes = len(weights.meta.get("categories") or ())
    with torch.device("meta"):
        # not every builder takes num_classes (and detectors would fetch a backbone), so it is built as it comes
        module = get_model(architecture, weights=None, **({"weights_backbone": None} if "coco" in str(weights).lower() else {}))
    network = networks.describe(module, pointwise=options.pointwise, architecture=architecture)
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    downloaded = cached_download(weights.url, path, source, progress)
    facts = ModelFacts(
        source, architecture=architecture, tag=weights.name, input_size=f"3x{size[0]}x{size[1]}" if size else None,
        dataset="imagenet-1k" if classes == 1000 else None,
    )  # fmt: skip
    model = open_file(path, name=name, what=source, facts=facts, options=options, network=network, progress=progress)
    if downloaded:
        model.notes.append(f"{downloaded / 1e6:.1f} MB: the whole file was downloaded, torchvision's host has no safetensors")
    return model
