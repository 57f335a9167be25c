"""Keras files: .keras, and .h5 of a whole model or of weights alone. Nothing of a model is built or run.

The configuration says which layers are depthwise, and their strides, dilations and paddings. A file of weights alone has none:
there depthwise layers are known by the names that Keras gives them, and by shapes (kh, kw, 1, channels). Kernels are correlated
with the image, as in torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.kernels.sizes import Pair
from filterdb.sources.layers import NOT_FLOAT
from filterdb.sources.options import Options, Progress
from filterdb.sources.programs.finder import Finder, Weight, kind_of_layer, listed, unequal
from filterdb.sources.programs.hdf5 import Dataset, Hdf5, opened
from filterdb.store.schema import Layer, Model, ModelFacts

WEIGHTS_ONLY = "a file of weights says no stride, dilation and padding, so they are null: the model's .keras file has them"
GREY = "recognised by shape alone, which an ordinary convolution of a grey image has too"
ABSENT = "the file has no weights of this layer"
OF_KERAS_2 = "_layer_checkpoint_dependencies"
"""The folder of layers in .keras files of Keras 2.12 and 2.13."""
DEPTHWISE = (
    "DepthwiseConv2D", "SeparableConv2D", "SeparableConvolution2D",
    "DepthwiseConv1D", "SeparableConv1D", "SeparableConvolution1D",
)  # fmt: skip
_LEAVES = ("depthwise_kernel:0", "depthwise_kernel", "kernel:0", "kernel")
"""What the kernels are called in .h5 files, those of Keras 2 first."""
_NAMED = re.compile(
    r"(?:^|/)(?:((?:depthwise|separable)_conv[12]d(?:_\d+)?)/vars/0|([^/]+)/depthwise_kernel(?::0)?|(depthwise_conv[12]d[^/]*)/kernel(?::0)?)$"
)
"""What Keras's own names call depthwise kernels; one group is the name of the layer."""
_CONV = re.compile(r"(?:^|/)([^/]+)/(?:kernel(?::0)?|vars/0)$")


@dataclass(frozen=True)
class _Spec:
    """A layer in a configuration."""

    name: str
    """With those of the models around it, ``inner.depthwise``."""
    own: str
    kind: str
    """The class of the layer."""
    place: str
    """Where .keras files have its variables: ``layers/sequential/layers/depthwise_conv2d_1``."""
    config: Mapping[str, Any]


def open_keras(
    path: Path, *, name: str, what: str, facts: ModelFacts, options: Options, progress: Progress | None = None
) -> Model:
    """The depthwise layers of a Keras file: DepthwiseConv2D, SeparableConv2D by half, Conv2D with a group for each channel."""
    found = Finder(what, options)
    with opened(path, what) as file:
        stored = _Stored(file.datasets)
        if file.config is not None:
            for spec in _specs(_parsed(file.config, what)):
                _offer_spec(spec, stored, file, found)
            found.notes += unequal(found.layers)
        else:
            unnamed: list[str] = []
            for dataset, label, named in stored.by_names(file.layers):
                if named:
                    _offer(Layer(label, 0, 0, 0), dataset, None, file, found)
                else:
                    _offer_shape(label, dataset, file, found)
                    unnamed.append(label)
            found.notes.append(WEIGHTS_ONLY)
            if unnamed:
                found.notes.append(f"{GREY}: {listed(unnamed)}")
    found.finish()
    return found.model(name, facts=facts, size=path.stat().st_size, progress=progress)


def _parsed(config: Any, what: str) -> Mapping[str, Any]:
    try:
        parsed = json.loads(config)
        if not isinstance(parsed, dict):
            raise ValueError("no table")
        return parsed
    except (ValueError, TypeError, RecursionError) as error:
        raise SourceError(f"{what}: its configuration is not JSON. Fetch it again, or save the model anew.") from error


def _specs(config: Mapping[str, Any], names: tuple[str, ...] = (), place: str = "") -> Iterator[_Spec]:
    """The layers of a model's configuration, in order, those of models within it in their place."""
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else inner  # of a Sequential in old files, a plain list
    counts: dict[str, int] = {}
    for entry in layers if isinstance(layers, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict | list):
            continue
        kind = str(entry.get("class_name", "")).rpartition(">")[2]
        snake = _snake(kind)
        number = counts[snake] = counts.get(snake, -1) + 1
        yield from _entry(entry, kind, names, f"{place}layers/{snake}{f'_{number}' if number else ''}")


def _entry(entry: Mapping[str, Any], kind: str, names: tuple[str, ...], place: str) -> Iterator[_Spec]:
    config = entry["config"]
    own = str(config.get("name") if isinstance(config, dict) else "") or str(entry.get("name") or kind)
    if isinstance(config, list) or "layers" in config:
        yield from _specs(entry, (*names, own), f"{place}/")
    elif isinstance(layer := config.get("layer"), dict) and isinstance(layer.get("config"), dict):  # TimeDistributed and its kin
        yield from _entry(layer, str(layer.get("class_name", "")).rpartition(">")[2], (*names, own), f"{place}/layer")
    else:
        yield _Spec(".".join((*names, own)), own, kind, place, config)


def _snake(name: str) -> str:
    """A class's name as Keras makes it a path: DepthwiseConv2D to depthwise_conv2d."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _offer_spec(spec: _Spec, stored: _Stored, file: Hdf5, found: Finder) -> None:
    config = spec.config
    groups = config.get("groups", 1)
    ordinary = spec.kind in ("Conv2D", "Convolution2D")
    grouped = ordinary and isinstance(groups, int) and groups > 1
    if spec.kind not in DEPTHWISE and not grouped and not (ordinary and found.options.ordinary):
        return
    dataset = stored.of(spec)
    if dataset is None:
        found.skip(ABSENT, spec.name)
        return
    if ordinary and (not grouped or dataset.shape[2] > 1):
        if dataset.real and len(dataset.shape) == 4:
            rows, columns, inputs, outputs = dataset.shape
            found.offer_ordinary(spec.name, (outputs, inputs, rows, columns), lambda: _dense(dataset, file))
        return
    ndim = 1 if spec.kind.endswith("1D") else 2
    try:
        layer = Layer(
            spec.name, 0, 0, 0, None, _pair(config.get("strides", 1), ndim), _pair(config.get("dilation_rate", 1), ndim),
            _padding(config.get("padding", "valid")), "zeros", ndim=ndim,
        )  # fmt: skip
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise SourceError(f"{found.what}: the configuration of {spec.name} makes no sense. Fetch the file again.") from error
    _offer(layer, dataset, groups if grouped else None, file, found)


def _offer(layer: Layer, dataset: Dataset, groups: int | None, file: Hdf5, found: Finder) -> None:
    """Offer a layer, with what the shape of its weights says; ``groups`` of a Conv2D."""
    shape = dataset.shape if len(dataset.shape) == 4 else (1, *dataset.shape)  # one dimension is a row
    if groups is not None and (shape[2] != 1 or shape[3] % groups):
        return
    rows, columns, inputs, outputs = shape
    channels, inputs = (outputs, groups) if groups is not None else (inputs * outputs, inputs)
    if inputs < 2:
        return  # one channel is no depthwise convolution, it is a convolution
    if not dataset.real:
        found.skip(NOT_FLOAT, layer.name)
        return
    layer = replace(
        layer, kernel_h=rows, kernel_w=columns, out_channels=channels, in_channels=inputs, kind=kind_of_layer(channels, inputs),
        ndim=len(dataset.shape) - 2,
    )  # fmt: skip
    found.offer(layer, layer.name, dataset.path, lambda: _weight(dataset, file))


def _offer_shape(name: str, dataset: Dataset, file: Hdf5, found: Finder) -> None:
    """Offer a layer that only the shape (kh, kw, 1, channels) calls depthwise, as such a shape in a checkpoint of torch does."""
    rows, columns, _, channels = dataset.shape
    if dataset.real:
        found.offer(Layer(name, rows, columns, channels), name, dataset.path, lambda: _weight(dataset, file))


def _weight(dataset: Dataset, file: Hdf5) -> Weight:
    """The kernels, read at once: they are little, and the file need not stay open."""
    array = file.numbers(dataset)
    return Weight(partial(_channels_first, array), 8 * array.dtype.itemsize)


def _dense(dataset: Dataset, file: Hdf5) -> Weight:
    """The weights of a Conv2D: (kh, kw, in, out) to (out, in, kh, kw)."""
    array = file.numbers(dataset)
    return Weight(lambda: np.transpose(array, (3, 2, 0, 1)), 8 * array.dtype.itemsize)


def _channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """(kh, kw, in, m) to (in * m, kh, kw): output i * m + k is the k-th of input i. A Conv2D's (kh, kw, 1, out) is alike."""
    rows, columns, inputs, outputs = (1, *array.shape)[-4:]
    return np.moveaxis(array.reshape(rows, columns, inputs * outputs), 2, 0)


class _Stored:
    """The datasets of a file, found by the layers they belong to."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self.datasets = datasets
        self._objects: dict[str, list[str]] = {}
        """By where .keras files have the layer's variables; versions of before name the folder otherwise."""
        self._names: dict[str, list[str]] = {}
        """By the layer's name, which .keras files of today say."""
        self._leaves: dict[tuple[str, str], list[str]] = {}
        """By the last part of the layer's name and what the kernels are called, in .h5 files."""
        self._within: dict[tuple[str, str], list[str]] = {}
        """By any folder around the kernels and what they are called, in .h5 files."""
        plain = {path: path.replace("\\", "/") for path in datasets}
        doubled = _doubled(plain.values())
        for path, dataset in datasets.items():
            parts = plain[path].split("/")
            if parts[-2:] == ["vars", "0"]:
                self._objects.setdefault(_place(parts[:-2], doubled), []).append(path)
                if dataset.layer:
                    self._names.setdefault(dataset.layer, []).append(path)
            elif parts[-1] in _LEAVES and len(parts) > 1:
                self._leaves.setdefault((parts[-2], parts[-1]), []).append(path)
                for folder in set(parts[:-2]):
                    self._within.setdefault((folder, parts[-1]), []).append(path)

    def of(self, spec: _Spec) -> Dataset | None:
        """The dataset of a layer's kernels, or None where there is none."""
        last = spec.own.rpartition("/")[2]
        named = ([path for path in self._leaves.get((last, leaf), ()) if f"/{spec.own}/" in f"/{path}"] for leaf in _LEAVES)
        choices = (self._objects.get(spec.place), self._names.get(spec.own), *named)
        places = next((places for places in choices if places), None) or self._renamed(spec)
        if places is None:
            return None
        # models within a model may have layers of one name: then the path with the most of the names around it
        names = set(spec.name.split("."))
        return self.datasets[max(places, key=lambda path: len(names & set(path.split("/"))))]

    def _renamed(self, spec: _Spec) -> list[str] | None:
        """Where a layer's kernels are if its folder has its name and the folder within it another.

        Keras 2 numbers the inner one anew when a session has seen the name before: ``conv/conv_1/kernel:0``.
        """
        found = (self._within.get((spec.own, leaf), ()) for leaf in _LEAVES)
        return next(([path] for path, *others in filter(None, found) if not others), None)

    def by_names(self, order: list[str]) -> list[tuple[Dataset, str, bool]]:
        """The datasets that look depthwise, in order: each with a name for its layer, and whether Keras's names say so."""
        found = []
        for path, dataset in self.datasets.items():
            plain = path.replace("\\", "/")
            if match := _NAMED.search(plain):
                found.append((path, dataset.layer or match[match.lastindex or 0], True))
            elif len(dataset.shape) == 4 and dataset.shape[2] == 1 < dataset.shape[3] and (match := _CONV.search(plain)):
                found.append((path, dataset.layer or match[1], False))
        rank = {name: number for number, name in enumerate(order)}

        def key(one: tuple[str, str, bool]) -> tuple[int, list[tuple[int, str]]]:
            parts = [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", one[0])]
            return min((rank[part] for part in one[0].split("/") if part in rank), default=len(rank)), parts

        return [(self.datasets[path], name, named) for path, name, named in sorted(found, key=key)]


def _doubled(paths: Iterable[str]) -> set[str]:
    """The names, without their numbers, of layers that are numbered 0, 2, 4 …: Keras 2.12 and 2.13 count each of them twice."""
    numbers: dict[str, set[int]] = {}
    for path in paths:
        parts = path.split("/")
        for i, part in enumerate(parts[1:], 1):
            if parts[i - 1] == OF_KERAS_2:
                name, number = _number(part)
                numbers.setdefault("/".join((*parts[:i], name)), set()).add(number)
    return {name for name, found in numbers.items() if not any(number % 2 for number in found)}


def _place(parts: list[str], doubled: set[str]) -> str:
    """A layer's place as Keras 3 writes it: its folders are called layers, and layers of a class are counted once."""
    place = []
    for i, part in enumerate(parts):
        name, number = _number(part)
        if i and parts[i - 1] == OF_KERAS_2 and "/".join((*parts[:i], name)) in doubled:
            part = f"{name}_{number // 2}" if number else name
        place.append("layers" if part == OF_KERAS_2 else part)
    return "/".join(place)


def _number(part: str) -> tuple[str, int]:
    """A folder's name and number: depthwise_conv2d_4 is of a layer of the class DepthwiseConv2D; the first has no number."""
    found = re.fullmatch(r"(.+)_([1-9]\d{0,8})", part)
    return (found[1], int(found[2])) if found else (part, 0)


def _pair(value: Any, ndim: int) -> Pair:
    """Along rows and columns; one dimension is along columns."""
    if ndim == 1:
        return 1, value if type(value) is int else int(value[0])
    return (value, value) if type(value) is int else (int(value[0]), int(value[1]))


def _padding(value: Any) -> Pair | Literal["same"] | None:
    return {"valid": (0, 0), "same": "same"}.get(value)  # type: ignore[return-value]
