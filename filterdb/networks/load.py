"""Loads the network that a source names."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filterdb.errors import FilterdbError, HubError, InvalidArgument, SourceError, not_found
from filterdb.networks.network import Network, described, preprocessing_of
from filterdb.sources import own, recipes, renaming

if TYPE_CHECKING:
    from torch import Tensor, nn

    from filterdb.networks.weights import Weights

SHIPPED = {"demo": {"input_size": (3, 64, 64), "crop_pct": 1.0}}
"""How the images of networks that ship as bare weights are prepared, where that is not what timm says of their architecture."""


def load(
    source: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    num_classes: int | None = None,
    args: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    new_head: bool = False,
    match_keys: Literal["name", "order"] = "name",
) -> Network:
    """A network with its weights, in eval mode, on the CPU.

    Args:
        source: ``timm:NAME[.TAG]`` with timm's pretrained weights, ``hf:OWNER/NAME`` for a model that timm saved on the hub, a
            checkpoint file, or the name of a recipe that has one file.
        architecture: the architecture of a file: a timm name, ``mcunet_in3`` or ``proxyless_w0.3``, or your own code as
            ``package.module:function`` or ``file.py:function``. Files that ``filterdb.networks.save`` wrote say it themselves.
        num_classes: how many classes it must have; by default as many as its weights have.
        args: keyword arguments for ``timm.create_model``, where the network is a variation of the architecture.
        preprocessing: values of timm's data configuration that override the source: input_size (3, h, w), crop_pct …
        match_keys: "order" matches the tensors of a file by their order, where names differ and all shapes agree.
        new_head: where ``num_classes`` differs from the weights', put an untrained classifier in the place of theirs.

    Returns:
        The network.

    Raises:
        NotFound: no such architecture, tag or recipe; the message lists the near misses.
        InvalidArgument: a source that names nothing, a file without an architecture, another number of classes.
        SourceError: a file that cannot be read, or whose weights are not those of the architecture.
        HubError: pretrained weights that are not available.
    """
    text = os.fspath(source)
    path, said = Path(text).expanduser(), dict(args or {})
    scheme, colon, name = text.partition(":")
    if not path.is_file() and colon and scheme in ("timm", "hf"):
        network = _pretrained(scheme, name, text, architecture, said, preprocessing)
    elif not path.is_file() and text in recipes.names():
        path, facts = _of_recipe(text)
        network = _from_file(
            path, text, text, architecture or facts.get("architecture"), {**facts.get("architecture_args", {}), **said},
            num_classes, new_head, {**SHIPPED.get(text, {}), **(preprocessing or {})}, match_keys == "order",
        )  # fmt: skip
    elif path.is_file():
        from filterdb.sources.local import stem

        network = _from_file(
            path, stem(path), text, architecture, said, num_classes, new_head, preprocessing, match_keys == "order"
        )
    else:
        raise _nothing(text, scheme if colon else None, path)
    if num_classes is not None and network.num_classes not in (None, num_classes):
        _new_head(network, num_classes, new_head)
    return network


def new(
    architecture: str,
    *,
    num_classes: int | None = None,
    args: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Network:
    """An untrained network, drawn by torch's random numbers.

    Args:
        architecture: a timm name, or a recipe's name for the architecture of its one file, such as demo.
        num_classes, args, preprocessing: as for ``load``.

    Raises:
        NotFound: no such architecture.
        InvalidArgument: arguments that timm cannot build it with.
    """
    import timm

    said, known, cfg = dict(args or {}), architecture, dict(preprocessing or {})
    if not timm.is_model(architecture) and architecture in recipes.names():
        _, facts = _of_recipe(architecture)
        known = str(facts.get("architecture"))
        said = {**facts.get("architecture_args", {}), **said}
        cfg = {**SHIPPED.get(architecture, {}), **cfg}
    if not timm.is_model(known) and not own.is_own(known):
        raise not_found("architecture", architecture, timm.list_models())
    if num_classes is not None:
        said["num_classes"] = num_classes
    module = _build(known, said)
    made = {key: value for key, value in said.items() if key != "num_classes"}
    return Network(architecture, module.eval(), preprocessing_of(module, cfg), architecture, known, made)


def _nothing(text: str, scheme: str | None, path: Path) -> FilterdbError:
    if path.is_dir():
        return SourceError(f"{text} is a folder. Give the checkpoint file in it.")
    if scheme is not None and "/" not in scheme and len(scheme) > 1:
        return not_found("kind of network called", scheme, ("timm", "hf"), advice="A checkpoint file is a network too.")
    if path.suffix or len(path.parts) > 1:
        return SourceError(f"There is no file {text}. Give a checkpoint file, timm:NAME, or hf:OWNER/NAME.")
    return not_found("recipe", text, recipes.names(), advice="A timm model is written timm:NAME, a file as its path.")


# -- weights from the hub ------------------------------------------------------------------------------------------------------


def _pretrained(
    scheme: str, name: str, source: str, architecture: str | None, args: dict[str, Any], preprocessing: Mapping[str, Any] | None
) -> Network:
    """A model of timm's, with the weights that timm or a repository on the hub has for it."""
    import timm

    if architecture is not None:
        raise InvalidArgument(f"{source} says its architecture itself: leave {architecture} out.")
    if not name:
        raise InvalidArgument(f'"{source}" names no model. Write {scheme}:NAME.')
    if scheme == "timm":
        from filterdb.sources.remote.timm import expand

        full = expand(name)
        if len(full) > 1:
            raise InvalidArgument(f"{source} stands for {len(full)} models. Name one: timm:{full[0]}.")
        name = full[0]
    try:
        module = timm.create_model(name if scheme == "timm" else f"hf-hub:{name}", pretrained=True, **args)
    except Exception as error:  # timm's, the hub's, its HTTP client's and safetensors' errors have no common base
        raise HubError(
            f"{source} cannot be had ({type(error).__name__}: {_line(error)}). Without the hub, give a checkpoint file with its "
            "architecture."
        ) from error
    known, made = described(module)
    return Network(name, module.eval(), preprocessing_of(module, preprocessing), source, known, made)


# -- weights from a file -------------------------------------------------------------------------------------------------------


def _of_recipe(name: str) -> tuple[Path, dict[str, Any]]:
    entries = recipes.load(name).entries
    if len(entries) != 1 or entries[0].path is None or not entries[0].path.is_file():
        raise InvalidArgument(f"The recipe {name} is not one checkpoint file. Name one of its models.")
    return entries[0].path, entries[0].facts


def _from_file(
    path: Path, name: str, source: str, architecture: str | None, args: dict[str, Any], num_classes: int | None, new_head: bool,
    preprocessing: Mapping[str, Any] | None, by_order: bool,
) -> Network:  # fmt: skip
    from filterdb.networks.weights import BUILDING, read
    from filterdb.sources import inverted
    from filterdb.sources.network import recognised

    weights = read(path)
    what, written = path.name, weights.metadata
    known = architecture or written.get("architecture")
    if architecture is None:
        own.refuse(known, what)
    if known is None and (found := recognised(weights.state)) is not None:
        known, args = found[0], {**found[1], **args}
    if known is None:
        raise InvalidArgument(
            f"{what} does not say its architecture. Name it: a timm architecture, or {' or '.join(inverted.PLANS)}."
        )
    if architecture in (None, written.get("architecture")):
        args = {**written.get("args", {}), **args}
    module: nn.Module
    if known in inverted.PLANS:
        module = inverted.build(known, weights.state, what)
    else:
        module = _timm(known, args, weights, what, None if new_head else num_classes, by_order)
    preprocessing = {**written.get("preprocessing", {}), **(preprocessing or {})}
    besides = {key: value for key, value in written.items() if key not in BUILDING}
    return Network(name, module.eval(), preprocessing_of(module, preprocessing), source, known, args, besides)


def _timm(
    architecture: str, args: dict[str, Any], weights: Weights, what: str, num_classes: int | None, by_order: bool
) -> nn.Module:  # fmt: skip
    """A timm architecture, or one of the user's own, with the weights of a file."""
    import timm

    from filterdb.sources import inverted

    if own.is_own(architecture):
        module = own.build(architecture, args)
        _fill(module, _own_keys(module, weights.state, by_order), architecture, what)
        return module
    bare = architecture.partition(".")[0]
    if not timm.is_model(bare):
        raise not_found("architecture", architecture, [*timm.list_models(), *inverted.PLANS])
    cfg = timm.get_pretrained_cfg(bare)
    names = cfg.classifier if cfg is not None else None
    said = str(weights.metadata.get("num_classes"))
    classes = int(said) if said.isdecimal() else _classes(weights.state, names)
    if classes is not None and "num_classes" not in args:
        args = {**args, "num_classes": classes}
    module = _build(architecture, args)
    state = _own_keys(module, weights.state, by_order)
    if "num_classes" not in args and (classes := _classes(state, names)) is not None:  # known only under timm's keys
        args = {**args, "num_classes": classes}
        module = _build(architecture, args)
    if num_classes is not None and args.get("num_classes", num_classes) != num_classes:
        raise _other_classes(what, args["num_classes"], num_classes)
    _fill(module, state, architecture, what)
    return module


def _build(architecture: str, args: Mapping[str, Any]) -> nn.Module:
    import timm

    if own.is_own(architecture):
        return own.build(architecture, args)
    try:
        module: nn.Module = timm.create_model(architecture, pretrained=False, **args)
    except Exception as error:  # timm's constructors can raise anything on wrong arguments
        given = ", ".join(f"{key}={value!r}" for key, value in args.items()) or "its own arguments"
        raise InvalidArgument(f"timm cannot build {architecture} with {given}: {_line(error)}. Fix the arguments.") from error
    return module


def _classes(state: Mapping[str, Tensor], classifier: Any) -> int | None:
    """As many classes as the classifier has rows."""
    names = (classifier,) if isinstance(classifier, str) else classifier or ()
    found = next((leaf for name in names if (leaf := state.get(f"{name}.weight")) is not None), None)
    return None if found is None else int(found.shape[0])


def _own_keys(module: nn.Module, state: dict[str, Tensor], by_order: bool) -> dict[str, Tensor]:
    """A state dict, renamed as timm does where its keys are not the module's and that makes them so, more of them at least.

    Or from another project's names, or by the order of its tensors where that was asked for.
    """
    if (found := renaming.renamed(state, module)) is not None:
        return found[0]
    if by_order and (ordered := renaming.by_order(state, module)) is not None:
        return ordered
    wanted = set(module.state_dict())
    filters = vars(sys.modules[type(module).__module__])
    rename = filters.get("checkpoint_filter_fn") or filters.get("_filter_fn")
    if rename is None or set(state) == wanted:
        return state
    try:
        renamed = rename(dict(state), module)
    except Exception:  # timm's filters expect keys of certain files, and stumble over others
        return state
    return min((state, renamed), key=lambda one: len(set(one) ^ wanted))


def _fill(module: nn.Module, state: dict[str, Tensor], architecture: str, what: str) -> None:
    """Load a state dict whose keys and shapes must be the module's."""
    wanted = module.state_dict()
    # old files lack this counter, which nothing is computed from
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    more = [key for key in state if key not in wanted]
    if missing or more:
        parts = [f"{len(keys)} keys {word} ({keys[0]} …)" for keys, word in ((missing, "missing"), (more, "not its own")) if keys]
        raise SourceError(
            f"{what} does not hold the weights of {architecture}: {', '.join(parts)}. "
            + ("All tensors agree in order and shape: add --match-keys order." if renaming.by_order(state, module) else
               "Give its own architecture or arguments.")
        )  # fmt: skip
    for key, leaf in state.items():
        if tuple(leaf.shape) != tuple(wanted[key].shape):
            raise SourceError(
                f"{what}: {key} is {tuple(leaf.shape)} where {architecture} has {tuple(wanted[key].shape)}. "
                "Give its own architecture or arguments."
            )
    module.load_state_dict(state, strict=False)


# -- the number of classes -----------------------------------------------------------------------------------------------------


def _new_head(network: Network, num_classes: int, allowed: bool) -> None:
    reset: Any = getattr(network.module, "reset_classifier", None)
    if not allowed or reset is None:
        raise _other_classes(network.source, network.num_classes, num_classes)
    reset(num_classes)


def _other_classes(what: str, there: int | None, wanted: int) -> InvalidArgument:
    return InvalidArgument(
        f"{what} has {there} classes, not {wanted}. Leave the number out, or ask for a new, untrained head (new_head)."
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
