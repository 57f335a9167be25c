"""A network that is already in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.sources import network as networks
from filterdb.sources import regular
from filterdb.sources.assemble import kernels, refuse_empty
from filterdb.sources.options import Options, Pending, Progress
from filterdb.store.schema import Model, ModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("_orig_mod", "module")
"""Where torch.compile and DataParallel keep the network itself."""


def pending(module: nn.Module, options: Options) -> Pending:
    """The network as a pending model."""
    while (wrapped := next((module.get_submodule(key) for key in _WRAPPERS if set(module._modules) == {key}), None)) is not None:
        module = wrapped
    inner = module
    source, name = f"module:{type(inner).__name__}", options.name or type(inner).__name__

    @contextlib.contextmanager
    def open_(progress: Progress | None = None) -> Iterator[Model]:
        yield from_module(inner, name=name, facts=ModelFacts(source), options=options, progress=progress)

    return Pending(source, name, open_)


def from_module(module: nn.Module, *, name: str, facts: ModelFacts, options: Options, progress: Progress | None = None) -> Model:
    """The depthwise layers of a network with its weights."""
    network = networks.describe(module, pointwise=options.pointwise)
    what = facts.source
    ordinary = regular.choose(regular.from_module(module), options)
    if not ordinary:
        refuse_empty(network.layers, network.skipped, what)
    weights = [cast("Tensor", module.get_submodule(layer.name).weight) for layer in network.layers]
    if any(weight.is_meta for weight in weights):
        raise SourceError(f"{what} is on the meta device, which has no weights. Load the weights first.")
    total = sum(weight.numel() * weight.element_size() for weight in weights)

    def read() -> Iterator[NDArray[Any]]:
        done = 0
        for weight in weights:
            done += weight.numel() * weight.element_size()
            if progress:
                progress(done, total)
            yield _numbers(weight)

    def read_regular() -> Iterator[NDArray[np.float32]]:
        for layer in ordinary:
            yield _numbers(cast("Tensor", module.get_submodule(layer.name).weight)).astype(np.float32)

    notes = [
        f"{layer.name} is parametrised: what its weight computes to was stored"
        for layer in network.layers
        if hasattr(module.get_submodule(layer.name), "parametrizations")
    ]
    if any(str(weight.dtype) == "torch.float64" for weight in weights):
        notes.append("stored as float64: precision was reduced to float32")
    known = options.facts(replace(facts, params=network.params, bytes_read=0))
    return Model(
        name, known, network.layers, lambda: kernels(read(), network.layers, what), network.skipped, notes, ordinary, read_regular
    )


def _numbers(weight: Tensor) -> NDArray[Any]:
    """The numbers of a weight: float64 stays, everything else becomes float32."""
    import torch

    plain = weight.detach().cpu()
    return (plain if plain.dtype == torch.float64 else plain.float()).numpy()
