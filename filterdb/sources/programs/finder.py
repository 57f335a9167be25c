"""What the readers of programs (ONNX, TFLite, Keras) share: layers offered one by one, sifted, named, and made into a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import SourceError
from filterdb.sources import regular
from filterdb.sources.assemble import kernels, refuse_empty
from filterdb.sources.layers import LARGEST, POINTWISE, SHARED, stages_of
from filterdb.sources.names import plain
from filterdb.sources.options import Options, Progress
from filterdb.store.schema import Kind, Layer, Model, ModelFacts, RegularLayer, Skipped

CHANNELS = 2**24
"""More than any layer has: a larger number is damage."""
STEPS = 2**15
"""A larger stride, dilation or padding is damage too."""


@dataclass(frozen=True)
class Weight:
    """The kernels of a layer, located and not yet read."""

    read: Callable[[], NDArray[Any]]
    """Floating-point numbers, out_channels * kernel_h * kernel_w of them, channel after channel, each row by row. Whatever it
    raises is taken for damage."""
    bits: int = 32
    """Of the numbers that come out: above 32, some precision is lost."""
    quantised: bool = False
    """Whether integers are stored, of which ``read`` makes real numbers."""
    leaf: Any = None
    """What the format's own library calls the weights, for who wants to change them; None where they are computed."""


@dataclass
class Finder:
    """Depthwise layers on their way from a program to a model."""

    what: str
    """The source in the words of an error message."""
    options: Options
    layers: list[Layer] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    regular: list[RegularLayer] = field(default_factory=list)
    """The ordinary convolutions that the options ask for, with weights of their own."""
    regular_weights: list[Weight] = field(default_factory=list)
    _ordinary: int = 0
    """How many were offered."""
    _skipped: dict[str, list[str]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _places: set[Hashable] = field(default_factory=set)

    def offer(self, layer: Layer, label: str, place: Hashable, weight: Callable[[], Weight]) -> None:
        """Take a layer, unless it is 1x1 or its weights, which lie at ``place``, were taken before.

        Args:
            layer: depthwise, under any name.
            label: what it is called where it is left out.
            place: the same for the same numbers.
            weight: locates the weights of a layer that is taken.

        Raises:
            SourceError: a shape that no layer has.
        """
        layer, label = replace(layer, name=plain(layer.name)), plain(label)
        size = (layer.kernel_h, layer.kernel_w)
        steps = [number for pair in (layer.stride, layer.dilation, layer.padding) if isinstance(pair, tuple) for number in pair]
        if not all(abs(step) < STEPS for step in steps):
            raise SourceError(
                f"{self.what}: {label} has an absurd stride, dilation or padding ({str(steps)[:80]}). "
                "Nothing was stored; fetch the file again."
            )
        if min(layer.out_channels, *size) < 1 or layer.out_channels > CHANNELS or max(size) > LARGEST:
            shape = (layer.out_channels, 1, *size)
            raise SourceError(f"{self.what}: {label} has the absurd shape {shape}. Nothing was stored; fetch the file again.")
        if size == (1, 1) and not self.options.pointwise:
            self.skip(POINTWISE, label)
        elif place in self._places:
            self.skip(SHARED, label)
        else:
            self.weights.append(weight())
            self._places.add(place)
            self.layers.append(replace(layer, name=self._unique(layer.name)))

    def offer_ordinary(self, name: str, shape: tuple[int, ...], weight: Callable[[], Weight]) -> None:
        """Take an ordinary convolution if the options ask for it. The first that is offered is the stem.

        Args:
            name: of the layer.
            shape: (out, in, kh, kw), in which the weights are read.
            weight: locates the weights of a layer that is taken.
        """
        if not regular.is_ordinary(shape) or shape[0] > CHANNELS:
            return
        out_channels, in_channels, rows, columns = shape
        kind: Literal["stem", "regular"] = "regular" if self._ordinary else "stem"
        self._ordinary += 1
        layer = RegularLayer(plain(name), kind, rows, columns, out_channels, in_channels)
        if regular.choose([layer], self.options):
            self.regular.append(replace(layer, name=self._unique(layer.name)))
            self.regular_weights.append(weight())

    def skip(self, reason: str, label: str) -> None:
        """Leave a layer out."""
        self._skipped.setdefault(plain(reason), []).append(plain(label))

    def _unique(self, name: str) -> str:
        """The name, numbered where another layer has it."""
        unique, number = name, 2
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        return unique

    @property
    def skipped(self) -> list[Skipped]:
        """What was left out, and why."""
        return [Skipped(reason, tuple(names)) for reason, names in self._skipped.items()]

    def finish(self) -> None:
        """Say the stages, now that all names are known.

        Raises:
            SourceError: there is nothing to store.
        """
        if not self.regular:
            refuse_empty(self.layers, self.skipped, self.what)
        stages = stages_of([layer.name.replace("/", ".") for layer in self.layers])
        self.layers[:] = [replace(layer, stage=stage) for layer, stage in zip(self.layers, stages, strict=True)]

    def model(self, name: str, *, facts: ModelFacts, size: int, progress: Progress | None = None) -> Model:
        """The model, once all layers were offered. ``size`` is that of the file in bytes, for the progress."""
        layers, weights = self.layers, self.weights
        notes = list(self.notes)
        if any(weight.bits > 32 for weight in weights):
            notes.append("stored as float64: precision was reduced to float32")

        def read() -> Iterator[NDArray[Any]]:
            for number, (weight, layer) in enumerate(zip(weights, layers, strict=True), 1):
                array = self._array(weight, layer.name, layer.out_channels * layer.kernel_h * layer.kernel_w)
                if progress:
                    progress(size * number // len(weights), size)
                yield array

        facts = self.options.facts(replace(facts, quantised=any(weight.quantised for weight in weights)))
        return Model(
            name, facts, layers, lambda: kernels(read(), layers, self.what), self.skipped, notes, self.regular, self._read_regular
        )

    def _read_regular(self) -> Iterator[NDArray[np.float32]]:
        for layer, weight in zip(self.regular, self.regular_weights, strict=True):
            shape = (layer.out_channels, layer.in_channels, layer.kernel_h, layer.kernel_w)
            yield self._array(weight, layer.name, math.prod(shape)).astype(np.float32).reshape(shape)

    def _array(self, weight: Weight, name: str, count: int) -> NDArray[Any]:
        try:
            array = np.asarray(weight.read())
            if array.size != count:
                raise ValueError(f"{array.size} elements for {count}")
            return array
        except SourceError:
            raise
        except Exception as error:  # whatever a format's library makes of damaged numbers
            raise SourceError(
                f"{self.what}: the weights of {name} are damaged ({one_line(error)}). Fetch the file again."
            ) from error


def kind_of_layer(channels: int, groups: int) -> Kind:
    """What a depthwise convolution with so many outputs of so many inputs is."""
    return "multiplier" if channels > groups else "depthwise"


def listed(names: Sequence[str], count: int = 3) -> str:
    """The first names of a list: "a, b, c and 4 more"."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def one_line(error: Exception) -> str:
    """What an error of a library says, as one line that is not long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def dequantise(
    stored: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None, axis: int = 0
) -> NDArray[np.float32]:  # fmt: skip
    """(stored - zero) * scale, with one scale for all or one for each index of an axis.

    Integers are subtracted exactly, and multiplied in float32 as DequantizeLinear and TFLite do.

    Raises:
        ValueError: scales or zero points that are neither one nor as many as the axis is long.
    """
    whole = stored.astype(np.int64)
    if zero is not None and zero.size:
        whole = whole - _along(zero.astype(np.int64), stored, axis)
    made: NDArray[np.float32] = whole.astype(np.float32) * _along(scale.astype(np.float32), stored, axis)
    return made


def _along(values: NDArray[Any], stored: NDArray[Any], axis: int) -> NDArray[Any]:
    """One value, or one for each index of an axis, shaped so that it spreads over the rest."""
    flat = values.reshape(-1)
    if flat.size == 1:
        return flat.reshape(())
    if not -stored.ndim <= axis < stored.ndim or flat.size != stored.shape[axis]:
        raise ValueError(f"{flat.size} scales or zero points along axis {axis} of {stored.shape}")
    shape = [1] * stored.ndim
    shape[axis] = flat.size
    return flat.reshape(shape)


def unequal(layers: Iterable[Layer]) -> list[str]:
    """The note on layers whose padding is null, although their file says it: sides differ."""
    names = [layer.name for layer in layers if layer.padding is None]
    if not names:
        return []
    return [f"padding differs from side to side, and is null, in {len(names)} layer{'s' * (len(names) > 1)} ({listed(names)})"]
