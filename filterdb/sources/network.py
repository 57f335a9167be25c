"""Networks of a known architecture, built without weights, with their layers matched to the keys of a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filterdb.errors import InvalidArgument, SourceError, not_found
from filterdb.sources import layers as read_layers
from filterdb.sources import own, renaming
from filterdb.store.schema import Layer, Skipped

if TYPE_CHECKING:
    from torch import nn
    from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Network:
    """An architecture's modules on the meta device: shapes and no numbers."""

    module: nn.Module
    layers: list[Layer]
    skipped: list[Skipped]
    params: int
    architecture: str | None = None
    args: Mapping[str, Any] | None = None
    """What timm built it with; None where something else built it."""


def describe(
    module: nn.Module, *, pointwise: bool, architecture: str | None = None, args: Mapping[str, Any] | None = None
) -> Network:
    """The depthwise layers and the size of a network."""
    found, skipped = read_layers.from_module(module, pointwise=pointwise)
    return Network(module, found, skipped, sum(weight.numel() for weight in module.parameters()), architecture, args)


def build(architecture: str, args: Mapping[str, Any], *, pointwise: bool = False) -> Network:
    """A timm architecture (``name`` or ``name.tag``) on the meta device; nothing is downloaded and no weight is made.

    The name may come from a file or a hub, so none of the user's own code is ever run here.
    """
    import timm
    import torch

    from filterdb.sources.inverted import PLANS

    if not timm.is_model(architecture):
        raise not_found("architecture", architecture.partition(".")[0], [*timm.list_models(), *PLANS])
    try:
        with torch.device("meta"), _unfilled():
            module = timm.create_model(architecture, pretrained=False, **args)
    except Exception as error:  # timm's constructors can raise anything on wrong arguments
        given = ", ".join(f"{key}={value!r}" for key, value in args.items()) or "its own arguments"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidArgument(f"timm cannot build {architecture} with {given}: {reason}. Fix architecture_args.") from error
    return describe(module, pointwise=pointwise, architecture=architecture, args=args)


def _unfilled() -> TorchFunctionMode:
    """Filling a tensor in place does nothing. Meta tensors hold no numbers, and initialising them is most of a build."""
    from torch import Tensor
    from torch.nn import init
    from torch.overrides import TorchFunctionMode

    t = Tensor
    fills = {t.uniform_, t.normal_, t.fill_, t.zero_, t.erfinv_, t.mul_, t.add_, t.clamp_}
    fills |= {getattr(init, name) for name in dir(init) if name.endswith("_") and not name.startswith("_")}

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in fills:
                tensor = args[0] if args else kwargs["tensor"]
                if tensor.is_meta:
                    return tensor
            return func(*args, **kwargs)

    return Unfilled()


def build_own(architecture: str, args: Mapping[str, Any], *, pointwise: bool = False) -> Network:
    """An architecture of the user's own, as its function makes it. Only for a name that the user gave."""
    module = own.build(architecture, args)
    return describe(module, pointwise=pointwise, architecture=architecture, args=None)


def built_from_shapes(architecture: str) -> bool:
    """Whether an architecture is one of ``filterdb.sources.inverted``, which a state dict's shapes say most of."""
    from filterdb.sources.inverted import PLANS

    return architecture in PLANS


def build_from_shapes(architecture: str, state: Mapping[str, Any], what: str, *, pointwise: bool = False) -> Network:
    """Such an architecture on the meta device.

    Raises:
        SourceError: the state dict is not one of such a network.
    """
    import torch

    from filterdb.sources import inverted

    with torch.device("meta"):
        ghosts = {key: torch.empty(tuple(leaf.shape)) for key, leaf in state.items()}
        module = inverted.build(architecture, ghosts, what)
    return describe(module, pointwise=pointwise, architecture=architecture)


def fit_classes(network: Network, state: Mapping[str, Any], *, pointwise: bool = False) -> Network:
    """The network with as many classes as the checkpoint's classifier has, so that its parameters are counted rightly."""
    classifier = (getattr(network.module, "pretrained_cfg", None) or {}).get("classifier")
    leaf = state.get(f"{classifier}.weight") if isinstance(classifier, str) else None
    if network.architecture is None or network.args is None or leaf is None or "num_classes" in network.args:
        return network
    classes = int(leaf.shape[0])
    if classes == getattr(network.module, "num_classes", classes):
        return network
    return build(network.architecture, {**network.args, "num_classes": classes}, pointwise=pointwise)


def recognised(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The architecture whose tensors a file has under another project's names, and its arguments."""
    for names in renaming.tables():
        if names.classifier not in state:
            continue
        args = {"num_classes": int(state[names.classifier].shape[0])}
        for architecture in names.architectures:
            wanted = build(architecture, args).module.state_dict()
            found = names.renamed(state, wanted)
            if found is not None and renaming.agree(found, wanted):
                return architecture, args
    return None


def match(
    network: Network, state: Mapping[str, Any], what: str, *, by_order: bool = False
) -> tuple[list[Any] | None, Mapping[str, Any], list[str]]:  # fmt: skip
    """The leaf of each layer, or None where the keys are not this network's; all leaves by its keys; what the user should know.

    Keys are the modules' names with ``.weight``, as they are, under one prefix, after the renaming that timm does for this
    architecture, which is run on shapes alone, or another project's names of it (``filterdb.sources.renaming``). ``by_order``
    matches tensors by their order, where names differ and all shapes agree.
    """
    wanted = [f"{layer.name}.weight" for layer in network.layers]
    if not wanted:
        return [], state, []
    notes: list[str] = []
    found = state
    if not all(key in found for key in wanted):
        prefixes = [key.removesuffix(wanted[0]) for key in state if key.endswith("." + wanted[0])]
        prefix = next((p for p in prefixes if all(p + key in state for key in wanted)), None)
        renamed = None if prefix else _renamed_by_timm(network.module, state)
        named = None if prefix else renaming.renamed(state, network.module)
        ordered = None if prefix or named else renaming.by_order(state, network.module)
        if prefix:
            found = {key.removeprefix(prefix): leaf for key, leaf in state.items() if key.startswith(prefix)}
            notes.append(f"the network's keys have the prefix {prefix}")
        elif renamed is not None and all(key in renamed for key in wanted):
            found = renamed
            notes.append("the file's keys are not the modules' names: renamed as timm does when it loads the file")
        elif named is not None:
            found = named[0]
            notes.append(f"the file has the names of {named[1]}: read as those of timm")
        elif by_order and ordered is not None:
            found = ordered
            notes.append(renaming.matched(state, ordered))
        else:
            missing = next(key for key in wanted if key not in found)
            owner = network.architecture
            reason = f"the file's keys are not those of {owner} ({missing} is missing): layers read from shapes instead"
            if by_order:
                raise SourceError(
                    f"{what}: its tensors are not those of {network.architecture} in order and shape. Match by name."
                )
            if ordered is not None:
                reason += ". All tensors agree in order and shape: match them with --match-keys order"
            return None, state, [reason]
    leaves = [found[key] for key in wanted]
    for layer, leaf in zip(network.layers, leaves, strict=True):
        expected = layer.weight_shape
        if tuple(leaf.shape) != expected:
            raise SourceError(
                f"{what}: {layer.name} is {tuple(leaf.shape)} where {network.architecture} has {expected}. "
                "Give the right architecture or architecture_args, or leave the architecture out."
            )
    return leaves, found, notes


def _renamed_by_timm(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The leaves under the keys that timm's filter for this architecture gives them, or None where it cannot be said.

    The filter is run on meta tensors of the same shapes: it moves no numbers, and outputs are recognised by identity. A filter
    that computes new tensors from old ones leaves no trace, and those keys are missing here.
    """
    import torch

    filters = vars(sys.modules[type(module).__module__])
    rename = filters.get("checkpoint_filter_fn") or filters.get("_filter_fn")
    if rename is None:
        return None
    ghosts = {key: torch.empty(tuple(leaf.shape), device="meta") for key, leaf in state.items()}
    origin = {id(ghost): key for key, ghost in ghosts.items()}
    try:
        renamed = rename(dict(ghosts), module)
        return {
            key: state[origin[id(ghost)]]
            for key, ghost in renamed.items()
            if id(ghost) in origin  # a filter's own tensors are not in the file
        }
    except Exception:  # the filter expects keys of another kind of file, or numbers
        return None
