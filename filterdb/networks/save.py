"""Saves a network as a safetensors file that timm loads, with the metadata to build and use it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filterdb.errors import InvalidArgument, StoreError
from filterdb.networks.network import Network, described, preprocessing_of, unwrapped
from filterdb.version import __version__

if TYPE_CHECKING:
    from torch import nn


def save(network: Network | nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the state dict, with the metadata that ``load`` needs: architecture, args, num_classes, preprocessing.

    ``timm.create_model(architecture, checkpoint_path=path, num_classes=…, **args)`` loads it as well.

    Args:
        network: a network, or a module that timm built.
        path: where to; it is there whole or not at all.
        metadata: whatever else is to be known, and what is to be said otherwise: text, or anything that JSON can say.

    Returns:
        The path.

    Raises:
        InvalidArgument: a name that does not end in .safetensors, weights on the meta device, metadata that JSON cannot say.
        StoreError: the file cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InvalidArgument(f"{path.name} does not end in .safetensors. Name it so: other programs tell the format by it.")
    module = unwrapped(network.module if isinstance(network, Network) else network)
    about: dict[str, Any] = {"format": "pt", "filterdb": __version__, **_about(network, module), **(metadata or {})}
    try:
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items() if value is not None}
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"The metadata of {path.name} cannot be written as JSON: {error}. Give plain values.") from error
    state, seen = {}, set()
    for key, value in module.state_dict().items():
        if value.is_meta:
            raise InvalidArgument(f"{key} is on the meta device, which has no weights. Load the weights first.")
        plain = value.detach().cpu().contiguous()
        # the format wants tensors that share no memory; two names of one weight become two weights
        state[key] = plain.clone() if plain.untyped_storage().data_ptr() in seen else plain
        seen.add(state[key].untyped_storage().data_ptr())
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, partial, metadata=texts)
        partial.replace(path)
    except Exception as error:  # safetensors has an error of its own for a full disk
        raise StoreError(f"{path} cannot be written: {' '.join(str(error).split())[:200]}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def _about(network: Network | nn.Module, module: nn.Module) -> dict[str, Any]:
    """What ``load`` needs to know."""
    architecture, args = (network.architecture, network.args) if isinstance(network, Network) else described(module)
    if isinstance(network, Network):
        preprocessing: Mapping[str, Any] = network.preprocessing
    else:
        preprocessing = preprocessing_of(module) if getattr(module, "pretrained_cfg", None) else {}
    plain = {key: value for key, value in args.items() if _is_plain(value)}
    classes = getattr(module, "num_classes", None)
    return {
        # an argument that is code, such as a layer's class, cannot be written; then the file does not say how to build it
        "architecture": architecture if len(plain) == len(args) else None,
        "args": {key: value for key, value in plain.items() if key != "num_classes"},
        "num_classes": classes if isinstance(classes, int) else None,
        "preprocessing": dict(preprocessing) or None,
    }


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
