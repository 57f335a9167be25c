"""From what was pickled to names and tensors: the state dicts in it, and those of whole modules, wrappers and other objects.

An object of an unknown class was written down as a record of its attributes (``opcodes``). Modules keep their
weights in attributes that have had the same names since torch began, so that their state dict is read from the record.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from filterdb.errors import SourceError
from filterdb.sources.computed import Computed
from filterdb.sources.pickles.machine import Record
from filterdb.sources.pickles.stored import StoredTensor, Unreadable

DEEPEST = 8
"""Levels of mappings that are searched: more than any checkpoint has."""
DEEPEST_MODULE = 200
"""Names in the path of a module."""
_TENSORS = (StoredTensor, Computed, Unreadable)
_SCRIPTED = "__torch__."
"""Classes of TorchScript, whose attributes are parameters, buffers and modules alike."""
_PACKED = re.compile(r"(?:__torch__\.)?torch\.(?:classes|(?:ao\.)?nn\.(?:intrinsic\.)?quantized)\.(?:.*\.)?\w*Conv\w*")
"""Convolutions that keep their weights in a tuple: quantised ones, and those of TorchScript for phones."""
_GROUPS = {8: 5, 15: 8}
"""Where such a tuple has the number of groups, by its length, which is that of one for phones or that of a quantised one."""
_PACKED_KEY = re.compile(r"(?:_jit_pass_hoist_conv_packed_params\.)?(?:(.*)\.)?_packed_params(?:\.\d+)?")

Tree = dict[str, Any]


def tree(held: Any, what: str) -> Tree:
    """Mappings and tensors, by their names; everything else that was pickled along is left behind.

    Each object is looked at once, where it lies nearest to the top: one that holds itself, or is shared by many, has an end.
    """
    root: Tree = {}
    seen: set[int] = set()
    queue: deque[tuple[Any, Tree, int]] = deque([(held, root, 0)])
    while queue:
        value, into, depth = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        module = _module(value)
        if module is not None:
            into.update(_state_dict(module, seen, what))
            continue
        listed = type(value) in (list, tuple)
        for key, child in _children(value, seen):
            child = _leaf(child)
            if isinstance(child, _TENSORS):
                if not listed:  # the weights in a list have no names
                    into[key] = child
            elif (weight := _packed(child)) is not None:
                into[_packed_name(str(key))] = weight
            elif depth < DEEPEST and _may_hold(child) and id(child) not in seen:
                queue.append((child, into.setdefault(key, {}) if key not in into else {}, depth + 1))
    return root


def _leaf(value: Any) -> Any:
    """The tensor in a parameter of torch before 0.4, an object with the tensor first in its state; anything else as it is."""
    old = isinstance(value, Record) and value.name.rpartition(".")[2] in ("Parameter", "Variable")
    first = value.state[0] if old and type(value.state) is tuple and value.state else None
    return first if isinstance(first, _TENSORS) else value


def _may_hold(value: Any) -> bool:
    return isinstance(value, Record) or (type(value) in (dict, list, tuple) and len(value) > 0)


def _children(value: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """What an object holds, each under its name. The same attributes may be given to many objects, and are seen once."""
    if isinstance(value, Record):
        for attributes in _states(value):
            if id(attributes) not in seen:
                seen.add(id(attributes))
                yield from attributes.items()
        yield from value.items.items()
        yield from ((str(i), one) for i, one in enumerate((*value.args, *value.listed)) if not isinstance(one, _TENSORS))
    elif type(value) is dict:
        yield from value.items()
    elif type(value) in (list, tuple):
        yield from ((str(i), one) for i, one in enumerate(value))


def _states(record: Record) -> list[Mapping[Any, Any]]:
    """The attributes of an object: a dict, or that and one for its slots."""
    parts = record.state[:4] if type(record.state) is tuple else (record.state,)
    return [part for part in parts if type(part) is dict]


def _module(value: Any) -> Mapping[Any, Any] | None:
    """The attributes of a module, None for what is none.

    Some projects pickle modules through functions of their own, with the module's state among the arguments.
    """
    if isinstance(value, Record):
        found = next((one for one in _states(value) if _is_module(one, value.name)), None)
        if found is None:
            states = (state for one in _arguments(value) for state in (one, one.get("state")))
            found = next((one for one in states if type(one) is dict and _is_module(one)), None)
        return found
    return value if type(value) is dict and _is_module(value) else None


def _arguments(record: Record) -> Iterator[Mapping[Any, Any]]:
    for one in record.args:
        if type(one) is dict:
            yield one
        elif isinstance(one, Record):
            yield one.items
            yield from _states(one)


def _is_module(state: Mapping[Any, Any], name: str = "") -> bool:
    return name.startswith(_SCRIPTED) or ("_parameters" in state and "_modules" in state)


def _state_dict(module: Mapping[Any, Any], seen: set[int], what: str) -> Tree:
    """The parameters and buffers of a module and of those in it, in their order, under dotted names."""
    state: Tree = {}
    stack: list[tuple[str, Mapping[Any, Any], int]] = [("", module, 0)]
    while stack:
        prefix, attributes, depth = stack.pop()
        if depth > DEEPEST_MODULE:
            raise SourceError(f"{what} holds modules nested too deeply to be a network. Save its state_dict() and give that.")
        inner: list[tuple[str, Mapping[Any, Any], int]] = []
        for key, value in _members(attributes, seen):
            value = _leaf(value)
            if isinstance(value, _TENSORS):
                state[f"{prefix}{key}"] = value
            elif (weight := _packed(value)) is not None:
                state[f"{prefix}{_packed_name(key)}"] = weight
            elif (found := _module(value)) is not None and id(value) not in seen:
                seen.add(id(value))
                inner.append((f"{prefix}{key}.", found, depth + 1))
        stack += inner[::-1]
    return state


def _members(attributes: Mapping[Any, Any], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Parameters, buffers and modules, each set of them seen once."""
    if "_parameters" not in attributes:
        parts: list[Any] = [attributes]
    else:
        parts = [attributes.get(key) for key in ("_parameters", "_buffers", "_modules")]
    for part in parts:
        part = part.items if isinstance(part, Record) else part
        if type(part) is dict and id(part) not in seen:
            seen.add(id(part))
            yield from ((key, value) for key, value in part.items() if type(key) is str)


def _packed(value: Any) -> Any:
    """The weight of a packed convolution, which is the one tensor of four dimensions in its state; None for anything else."""
    if not isinstance(value, Record) or type(value.state) is not tuple or not _PACKED.fullmatch(value.name):
        return None
    parts = [one for part in value.state for one in (part if type(part) is list else (part,))]
    weight = next((one for one in parts if isinstance(one, _TENSORS) and len(one.shape) == 4), None)
    # of one group and one input channel: the shape of depthwise kernels, and none
    place = _GROUPS.get(len(value.state))
    ordinary = place is not None and type(value.state[place]) is int and value.state[place] == 1
    return None if weight is None or (ordinary and weight.shape[1] == 1) else weight


def _packed_name(key: str) -> str:
    """What the weight would be called if its convolution was not packed.

    >>> _packed_name("_jit_pass_hoist_conv_packed_params.features.0._packed_params.1"), _packed_name("c0")
    ('features.0.weight', 'c0.weight')
    """
    found = _PACKED_KEY.fullmatch(key)
    name = key if found is None else found[1]
    return f"{name}.weight" if name else "weight"
