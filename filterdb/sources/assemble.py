"""Assembles a model from a checkpoint and, where it is known, its network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError, one_line
from filterdb.sources import computed
from filterdb.sources import layers as read_layers
from filterdb.sources import regular as ordinary_layers
from filterdb.sources.effective import effective
from filterdb.sources.network import Network, build, build_from_shapes, built_from_shapes, fit_classes, match, recognised
from filterdb.sources.options import Options
from filterdb.sources.pickles.rebuild import QUANTISED
from filterdb.sources.unwrap import unwrap
from filterdb.store.schema import Layer, Model, ModelFacts, RegularLayer, Skipped

UNKNOWN = "unknown architecture: strides, dilations, paddings and input channels are null (--architecture NAME gives them)"
FLOATS = {
    "F32": 4, "F16": 2, "BF16": 2, "F64": 8,
    "torch.float32": 4, "torch.float16": 2, "torch.bfloat16": 2, "torch.float64": 8,
}  # fmt: skip
"""Number formats that kernels are read from, with their bytes."""


class Checkpoint(Protocol):
    """A file of tensors, opened and not yet read. A leaf of its tree is anything with a shape and a dtype."""

    @property
    def tree(self) -> Mapping[Any, Any]:
        """What the file holds, as nested as it is."""

    def cost(self, leaves: Sequence[Any]) -> int | None:
        """Bytes moved in all when these leaves are read, header included."""

    def read(self, leaves: Sequence[Any]) -> Iterator[NDArray[Any]]:
        """The numbers of these leaves, in order, as float32 or float64 arrays of any layout."""


@dataclass(frozen=True)
class Located:
    """The depthwise layers of a checkpoint, and the leaf of each."""

    layers: list[Layer]
    leaves: list[Any]
    skipped: list[Skipped]
    notes: list[str]
    params: int | None
    """Of the network, where it is known."""
    regular: list[RegularLayer]
    """The ordinary convolutions that the options ask for."""
    regular_leaves: list[Any]
    architecture: str | None
    """The one that was named or recognised, if its names are those of the file."""


def locate(tree: Mapping[Any, Any], *, what: str, options: Options, network: Network | None = None) -> Located:
    """Where the depthwise kernels are in what a checkpoint holds. ``what`` is the source in the words of an error message."""
    state, notes = unwrap(tree, options.weights, what)
    state, uncomputed = effective(state)
    if empty := next((key for key, leaf in state.items() if len(leaf.shape) == 4 and 0 in leaf.shape), None):
        raise SourceError(
            f"{what}: {one_line(empty)} has no elements, {tuple(state[empty].shape)}. Nothing was stored; "
            "give a whole checkpoint."
        )
    leaves: list[Any] | None = None
    params = architecture = None
    if network is None and options.architecture is not None and built_from_shapes(options.architecture):
        network = build_from_shapes(options.architecture, state, what, pointwise=options.pointwise)
    if network is None and options.architecture is None and (known := recognised(state)) is not None:
        architecture, args = known
        network = build(architecture, args, pointwise=options.pointwise)
        notes.append(f"recognised as {architecture} (--architecture NAME chooses another)")
    if network is not None:
        network = fit_classes(network, state, pointwise=options.pointwise)
        leaves, keyed, said = match(network, state, what, by_order=options.match_keys == "order")
        notes += said
    if network is not None and leaves is not None:
        layers, skipped, params = network.layers, network.skipped, network.params
        architecture = network.architecture
        ordinary = ordinary_layers.from_module(network.module)
    else:
        layers, keys, skipped = read_layers.from_shapes(state, pointwise=options.pointwise)
        leaves, keyed = [state[key] for key in keys], state
        ordinary = ordinary_layers.from_shapes(state)
        notes += [UNKNOWN, *ordinary_layers.grey(state, keys)]
    skipped = [*skipped, *uncomputed]
    ordinary = [layer for layer in ordinary_layers.choose(ordinary, options) if f"{layer.name}.weight" in keyed]
    if not ordinary:
        refuse_empty(layers, skipped, what)
    regular_leaves = [keyed[f"{layer.name}.weight"] for layer in ordinary]
    notes += computed.said([*leaves, *regular_leaves])
    named = [(layer.name, leaf) for layer, leaf in zip(layers, leaves, strict=True)]
    for one, leaf in [*named, *((layer.name, leaf) for layer, leaf in zip(ordinary, regular_leaves, strict=True))]:
        if str(leaf.dtype) not in FLOATS:
            raise SourceError(
                f"{what}: {one_line(one)} is stored as {leaf.dtype}, which is no floating-point kernel. Give unquantised weights."
            )
    return Located(layers, leaves, skipped, notes, params, ordinary, regular_leaves, architecture)


def assemble(
    checkpoint: Checkpoint, *, name: str, what: str, facts: ModelFacts, options: Options, network: Network | None = None
) -> Model:
    """The model in a checkpoint."""
    found = locate(checkpoint.tree, what=what, options=options, network=network)
    layers, leaves = found.layers, found.leaves
    if any(FLOATS[str(leaf.dtype)] == 8 for leaf in leaves):
        found.notes.append("stored as float64: precision was reduced to float32")
    facts = facts if found.params is None else replace(facts, params=found.params)
    facts = replace(facts, architecture=facts.architecture or found.architecture)
    facts = replace(facts, quantised=QUANTISED in computed.ways(leaves))
    facts = options.facts(replace(facts, bytes_read=computed.cost(checkpoint, [*leaves, *found.regular_leaves])))
    return Model(
        name, facts, layers, lambda: kernels(computed.read(checkpoint, leaves), layers, what), found.skipped, found.notes,
        found.regular, lambda: (np.asarray(one, np.float32) for one in computed.read(checkpoint, found.regular_leaves)),
    )  # fmt: skip


def refuse_empty(layers: Sequence[Layer], skipped: Sequence[Skipped], what: str) -> None:
    """Raise if there is nothing to store, and name the skipped layers."""
    if not layers:
        left = "".join(f"; left out {len(s.names)}: {s.reason}" for s in skipped)
        raise SourceError(f"{what} holds no depthwise kernels larger than 1x1{left}. There is nothing to store.")


def kernels(arrays: Iterator[NDArray[Any]], layers: Sequence[Layer], what: str) -> Iterator[NDArray[np.float32]]:
    """The arrays as kernels: (out_channels, kernel_h, kernel_w), float32, C-contiguous, finite."""
    for layer, array in zip(layers, arrays, strict=True):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, and is refused below
            kernel = np.array(array, dtype=np.float32, order="C").reshape(layer.out_channels, layer.kernel_h, layer.kernel_w)
        finite = np.isfinite(kernel)
        if not finite.all():
            channel = int(np.argwhere(~finite)[0][0])
            raise SourceError(
                f"{what}: {one_line(layer.name)} has {int((~finite).sum())} weights that are NaN or infinite "
                f"(first in channel {channel}). "
                "Nothing was stored; give a checkpoint whose training did not diverge."
            )
        yield kernel
