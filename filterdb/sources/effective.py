"""Weights as the network uses them, where a checkpoint holds what they are computed from.

A layer with weight_norm keeps a length and a direction, one with spectral_norm a weight and its first singular vectors, a pruned
one a weight and a mask, a quantised one integers and their scale. Each becomes the weight under its usual key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from filterdb.sources.computed import Array, Computed
from filterdb.sources.formats import FLOAT8, INTEGERS, SIZES
from filterdb.sources.pickles.rebuild import QUANTISED
from filterdb.sources.pickles.stored import Unreadable
from filterdb.store.schema import Skipped

COMPUTED = "{}: their effective weights were computed"
NOT_COMPUTED = "is parametrised in a way that cannot be computed from what is stored"
NO_SCALE = "is quantised, and its scale beside it is not one for each channel"
LONGEST_KEY = 1000
_PARAMETRISED = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.(?P<rest>original\d*|\d+\..+)")
_SPLIT = re.compile(r"(?P<key>.*weight\w*)_(?P<rest>g|v|u|orig|mask)")
_SCALES = ("{key}_scale", "{key}_scale_inv", "{module}scale", "{module}scale_weight")
_ZEROS = ("{key}_zero_point", "{module}zero_point")

State = dict[str, Any]


def effective(state: Mapping[str, Any]) -> tuple[State, list[Skipped]]:
    """The state dict with effective weights, and the depthwise ones that cannot be had.

    Nothing is read: what is computed is a leaf made of others (``filterdb.sources.computed``).
    """
    groups = _groups(state)
    of_key = {key: target for target, parts in groups.items() for key in parts.values()}
    made: State = {}
    left: dict[str, list[str]] = {}
    for key, leaf in state.items():
        target = of_key.get(key, key)
        if target in made or (target in groups and key == target):
            continue
        value = leaf if target not in groups else _computed({rest: state[one] for rest, one in groups[target].items()})
        if value is None:
            parts = groups[target].values()
            left.setdefault(NOT_COMPUTED, []).extend([target] * any(map(_depthwise, (state[one] for one in parts))))
            continue
        made[target] = value
    scaled = _unscaled(made, left)
    for key in [key for key, leaf in scaled.items() if isinstance(leaf, Unreadable)]:
        leaf = scaled.pop(key)
        if _depthwise(leaf):
            left.setdefault(leaf.reason, []).append(key)
    return scaled, [Skipped(reason, tuple(dict.fromkeys(names))) for reason, names in left.items() if names]


def _depthwise(leaf: Any) -> bool:
    """Whether the shape is one of depthwise kernels."""
    shape = tuple(leaf.shape)
    return len(shape) >= 3 and shape[0] > 1 and shape[1] == 1 and math.prod(shape[2:]) > 1


def _readable(leaf: Any) -> bool:
    return str(leaf.dtype) in SIZES


def _groups(state: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """From the key of a weight to the keys of its parts, by what each is: g, v, u, orig, mask, original, original0, 0._u …"""
    new: dict[str, dict[str, str]] = {}
    old: dict[str, dict[str, str]] = {}
    for key in state:
        if len(key) > LONGEST_KEY:  # a search through it could take forever
            continue
        if found := _PARAMETRISED.fullmatch(key):
            new.setdefault(found["module"] + found["name"], {})[found["rest"]] = key
        elif found := _SPLIT.fullmatch(key):
            old.setdefault(found["key"], {})[found["rest"]] = key
    whole = {key: parts for key, parts in old.items() if {"g", "v"} == set(parts) or ("orig" in parts and len(parts) > 1)}
    return {**whole, **{key: parts for key, parts in new.items() if any(rest.startswith("original") for rest in parts)}}


def _computed(parts: Mapping[str, Any]) -> Computed | None:
    """The weight that parts make, None where they do not say all of it."""
    kinds = set(parts)
    if kinds in ({"g", "v"}, {"original0", "original1"}):
        g, v = (parts[rest] for rest in sorted(kinds))
        return _weight_norm(g, v)
    if kinds == {"orig", "mask"} and tuple(parts["orig"].shape) == tuple(parts["mask"].shape):
        return _leaf("pruning", [parts["orig"], parts["mask"]], parts["orig"].shape, lambda weight, mask: weight * mask)
    if kinds == {"orig", "u", "v"}:
        return _spectral_norm(parts["orig"], parts["u"], parts["v"])
    if kinds == {"original", "0._u", "0._v"}:
        return _spectral_norm(parts["original"], parts["0._u"], parts["0._v"])
    return None


def _leaf(way: str, parts: Sequence[Any], shape: Sequence[int], formula: Any) -> Computed | None:
    if not all(map(_readable, parts)):
        return None
    dtype = "F64" if all(part.dtype == "F64" for part in parts) else "F32"
    return Computed(tuple(shape), tuple(parts), formula, COMPUTED.format(way), dtype)


def _weight_norm(g: Any, v: Any) -> Computed | None:
    lengths, shape = tuple(g.shape), tuple(v.shape)
    if math.prod(lengths) == 1:
        lengths = (1,) * len(shape)  # one length for the whole tensor
    if len(lengths) != len(shape) or any(length not in (1, size) for length, size in zip(lengths, shape, strict=True)):
        return None
    axes = tuple(i for i, length in enumerate(lengths) if length == 1)

    def formula(g: Array, v: Array) -> Array:
        return np.asarray(v * (g.reshape(lengths) / np.sqrt((v * v).sum(axis=axes, keepdims=True))))

    return _leaf("weight_norm", [g, v], shape, formula)


def _spectral_norm(weight: Any, u: Any, v: Any) -> Computed | None:
    shape = tuple(weight.shape)
    rows, columns = math.prod(u.shape), math.prod(v.shape)
    # the axis that counts as rows is the output's, which is the second in a transposed convolution
    axis = next((i for i, size in enumerate(shape) if size == rows and math.prod(shape) == rows * columns), None)
    if axis is None:
        return None

    def formula(weight: Array, u: Array, v: Array) -> Array:
        matrix = np.moveaxis(weight, axis, 0).reshape(rows, columns)
        return np.asarray(weight / (u.ravel() @ (matrix @ v.ravel())))

    return _leaf("spectral_norm", [weight, u, v], shape, formula)


def _unscaled(state: Mapping[str, Any], left: dict[str, list[str]]) -> State:
    """The state dict with quantised weights multiplied by the scales that are stored beside them."""
    found: State = {}
    for key, leaf in state.items():
        if str(leaf.dtype) in (*FLOAT8, *INTEGERS) and len(leaf.shape) > 1:
            scale, zero = (_beside(key, forms, state) for forms in (_SCALES, _ZEROS))
            if scale is not None:
                made = _dequantised(leaf, scale, zero)
                if made is None:
                    left.setdefault(NO_SCALE, []).extend([key] * _depthwise(leaf))
                    continue
                leaf = made
        found[key] = leaf
    return found


def _beside(key: str, forms: Sequence[str], state: Mapping[str, Any]) -> Any:
    """The first leaf under one of these names, None where there is none."""
    module = key.rpartition(".")[0] + "." if "." in key else ""
    return next((state[name] for form in forms if (name := form.format(key=key, module=module)) in state), None)


def _dequantised(leaf: Any, scale: Any, zero: Any) -> Computed | None:
    shape = tuple(leaf.shape)
    parts = [leaf, scale] if zero is None else [leaf, scale, zero]
    if str(leaf.dtype).startswith("U") and zero is None:
        return None
    forms = [_over_channels(tuple(part.shape), shape) for part in parts[1:]]
    if None in forms or not all(map(_readable, parts)):
        return None

    def formula(numbers: Array, scale: Array, *zero: Array) -> Array:
        shift = zero[0].reshape(forms[1]) if zero else 0.0
        return np.asarray((numbers - shift) * scale.reshape(forms[0]))

    return Computed(shape, tuple(parts), formula, QUANTISED)


def _over_channels(scale: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape in which one scale, or one for each channel, multiplies a weight of a shape."""
    count = math.prod(scale)
    if count == 1:
        return (1,) * len(shape)
    return (count,) + (1,) * (len(shape) - 1) if count == shape[0] == scale[0] else None
