"""Finds the state dict of the network in a checkpoint, despite nesting, prefixes, averaged weights and optimiser states."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from filterdb.errors import SourceError
from filterdb.sources.names import plain_keys

# A word of its own, so that "schema" or "remap" is no average
_AVERAGE = re.compile(r"(?:^|[_.\-])(?:ema|swa|averaged?|shadow)(?=$|[_.\-])")
_GENERIC = re.compile(r"(?:^|[_.\-])(?:model|params|state|dict|net|network|module|weights|best|last|latest|current)(?=$|[_.\-])")
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|momentum|rng|callback|hparam|hyper_param|^args$|^config$|^loops$")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "state_dict.")

StateDict = dict[str, Any]
"""From key to anything with a shape."""


def unwrap(tree: Mapping[Any, Any], weights: Literal["auto", "ema", "raw"], what: str) -> tuple[StateDict, list[str]]:
    """The state dict in a checkpoint, and what the user should know of it.

    * Mappings are searched at any depth; optimisers, schedulers and their like are not.
    * A set of weights whose key says ema, swa, average or shadow is the average of the set whose key is the same without that
      word and without words such as model, params and state_dict. The two are one network: "auto" takes the average where there
      is one, "ema" asks for it, "raw" for the other.
    * Several networks in one file (a generator and a discriminator) are kept together, each under the key it was found at.
    * Prefixes that all keys share (``module.``, ``_orig_mod.``, ``model.``, ``net.``) are taken off.
    """
    found = [piece for path, state in _state_dicts(tree) for piece in _split_average(path, state)]
    # a set without any weights of a convolution has no say in which network is meant
    found = [(path, state) for path, state in found if any(_is_kernel(leaf) for leaf in state.values())] or found[:1]
    if not found:
        raise SourceError(f"{what} holds no tensors under names. Give a state dict, or a checkpoint that has one in it.")
    networks: dict[str, list[tuple[str, StateDict]]] = {}
    for path, state in found:
        networks.setdefault(_network(path), []).append((path, state))

    notes: list[str] = []
    if weights != "auto" and not any(_is_average(path) == (weights == "ema") for path, _ in found):
        kept = ", ".join(path or "the top level" for path, _ in found)
        wanted = "averaged (EMA)" if weights == "ema" else "raw"
        raise SourceError(f"{what} has no {wanted} weights: it holds {kept}. Leave the choice of weights to auto.")
    chosen = [_choose(members, weights, notes) for members in networks.values()]
    states = [(path, _strip(state)) for path, state in chosen]
    if len(states) == 1:
        return states[0][1], notes
    notes.append("several networks in one file, each under its key: " + ", ".join(path for path, _ in states))
    return {f"{path}.{key}" if path else key: leaf for path, state in states for key, leaf in state.items()}, notes


def _is_kernel(leaf: Any) -> bool:
    """Whether a tensor has the shape of a convolution's weights; in one or three dimensions only where it is depthwise."""
    shape = tuple(leaf.shape)
    return len(shape) == 4 or (len(shape) in (3, 5) and shape[0] > 1 and shape[1] == 1)


def _is_leaf(value: Any) -> bool:
    return hasattr(value, "shape") and not isinstance(value, Mapping)


def _state_dicts(tree: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, StateDict]]:
    """Every mapping in the tree that holds a tensor with a dimension, by its dotted path."""
    tree = plain_keys(tree)
    here = {key: value for key, value in tree.items() if isinstance(key, str) and _is_leaf(value)}
    if any(len(leaf.shape) > 0 for leaf in here.values()):
        yield ".".join(path), here
    if len(path) == 8:  # deeper than any checkpoint, and no bottomless pit
        return
    for key, value in tree.items():
        if isinstance(key, str) and isinstance(value, Mapping) and not _NOT_WEIGHTS.search(key.lower()):
            yield from _state_dicts(value, (*path, key))


def _split_average(path: str, state: StateDict) -> list[tuple[str, StateDict]]:
    """A flat state dict that keeps an average beside the weights (``ema_model.conv.weight``, ``model.conv.weight``), in parts.

    A module may be called ema as well (an attention block is), so the two parts must hold the same 4-D keys, by half at least.
    """
    heads: dict[str, StateDict] = {}
    for key, leaf in state.items():
        head, dot, tail = key.partition(".")
        heads.setdefault(head if dot else "", {})[tail if dot else key] = leaf
    averages = [head for head in heads if _is_average(head)]
    if not averages:
        return [(path, state)]
    rest = {key: leaf for key, leaf in state.items() if key.partition(".")[0] not in averages}
    parts = [(path, _strip(rest))]
    for head in averages:
        convs = [key for key, leaf in heads[head].items() if _is_kernel(leaf)]
        twins = [key for key in convs if key in parts[0][1] or any(key in heads[other] for other in heads if other != head)]
        if not convs or 2 * len(twins) < len(convs):
            return [(path, state)]
        parts.append((f"{path}.{head}" if path else head, heads[head]))
    return parts


def _is_average(path: str) -> bool:
    return bool(_AVERAGE.search(path.lower()))


def _network(path: str) -> str:
    """A path without the words that name no network: generator_ema and generator are one, params and model too."""
    text = path.lower()
    for words in (_AVERAGE, _GENERIC):
        text = words.sub("", text)
    return text.strip("_.-")


def _choose(
    members: list[tuple[str, StateDict]], weights: Literal["auto", "ema", "raw"], notes: list[str]
) -> tuple[str, StateDict]:
    """One of the weight sets of one network."""
    averages = [member for member in members if _is_average(member[0])]
    raws = [member for member in members if not _is_average(member[0])]
    wanted = (raws or averages) if weights == "raw" else (averages or raws)
    path, state = wanted[0]
    if len(members) > 1:
        others = ", ".join(other or "the top level" for other, _ in members if other != path)
        notes.append(f"several weight sets of one network: took {path or 'the top level'}, left {others}")
    return path, state


def _strip(state: StateDict) -> StateDict:
    """The state dict without the prefixes that all its keys share."""
    while True:
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) and key != p for key in state)), None)
        if prefix is None or not state:
            return state
        state = {key.removeprefix(prefix): leaf for key, leaf in state.items()}
