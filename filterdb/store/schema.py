"""Models, layers and filters: their types, ids and tables. Other tables are in the rooms that fill them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filterdb.kernels.sizes import Pair, split

Kind = Literal["depthwise", "multiplier", "branch", "transposed"]


@dataclass(frozen=True)
class Layer:
    """One depthwise layer, without its weights. None means unknown (a checkpoint alone does not say)."""

    name: str
    """Dotted module name, ``stages.0.blocks.0.conv_dw``."""
    kernel_h: int
    """Of a convolution in three dimensions the rows of all slices; see ``filterdb.kernels.sizes``."""
    kernel_w: int
    out_channels: int
    in_channels: int | None = None
    stride: Pair | None = None
    dilation: Pair | None = None
    padding: Pair | Literal["same"] | None = None
    """Rows and columns added on each side; "same" where the input decides at run time (Conv2dSame, padding="same")."""
    padding_mode: str | None = None
    stage: int | None = None
    """0-based stage of the network, read from the module name where it says one."""
    kind: Kind = "depthwise"
    """"multiplier" when out_channels > in_channels; "branch" for one of several parallel depthwise branches that a
    reparameterisable block merges into one kernel after training; "transposed" for a transposed convolution, whose kernel is
    what one input pixel adds to the output, stored as its file has it."""
    ndim: int = 2
    """Dimensions of the convolution: 1, 2 or 3."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the layer's weights in torch: (out_channels, 1, …)."""
        kernel_d, height = split(self.kernel_h)
        return (self.out_channels, 1, *(kernel_d, height, self.kernel_w)[3 - self.ndim :])

    @property
    def replaceable(self) -> bool:
        """Whether templates can stand for its kernels: a convolution of images, not transposed."""
        return self.ndim == 2 and self.kind != "transposed"


@dataclass(frozen=True)
class RegularLayer:
    """An ordinary convolution, without its weights: each of its kernels has an output and an input channel."""

    name: str
    kind: Literal["stem", "regular"]
    """"stem" for the one that sees the image."""
    kernel_h: int
    kernel_w: int
    out_channels: int
    in_channels: int
    """Input channels that each output sees."""


@dataclass(frozen=True)
class Skipped:
    """Tensors or layers that looked like candidates and were skipped, with the reason."""

    reason: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model besides its kernels. The fields are columns of the table ``models``; None means unknown."""

    source: str
    architecture: str | None = None
    tag: str | None = None
    step: int | None = None
    run: str | None = None
    """The training run that a checkpoint belongs to; the model is then called RUN@STEP."""
    dataset: str | None = None
    pretrain_dataset: str | None = None
    task: str | None = None
    """What the network does: classification, detection, super-resolution …"""
    params: int | None = None
    top1: float | None = None
    licence: str | None = None
    input_size: str | None = None
    """"3x224x224"."""
    sha256: str | None = None
    """Of the checkpoint file, lower-case hex; None where only part of it was read."""
    revision: str | None = None
    """Commit of the hub repository the file was read from."""
    bytes_read: int | None = None
    """Bytes moved from the hub or the disk for this model (header and kernels)."""
    quantised: bool = False
    """Whether kernels were stored as integers or float8 with scales, and are the real numbers that these stand for."""


@dataclass
class Model:
    """What a source yields: facts, layers in the network's order, and a reader of their kernels."""

    name: str
    facts: ModelFacts
    layers: list[Layer]
    read: Callable[[], Iterator[NDArray[np.float32]]]
    """Yields one (out_channels, kernel_h, kernel_w) float32 array for each layer, in order. May be called once."""
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Things the user should know: what is unknown, which of two weight sets was taken, a whole-file download."""
    regular: list[RegularLayer] = field(default_factory=list)
    """The ordinary convolutions that were asked for."""
    read_regular: Callable[[], Iterator[NDArray[np.float32]]] = lambda: iter(())
    """Yields one (out_channels, in_channels, kernel_h, kernel_w) float32 array for each of them."""


ID_RANGE = 2**63
"""filter_ids are 0 … 2^63 - 1, so they fit every engine's signed 64-bit integer."""


def layer_id(model: str, layer: str) -> int:
    """The filter_id of channel 0: 63 bits of a BLAKE2 hash of the two names, the same on every machine."""
    digest = hashlib.blake2b(f"{model}\0{layer}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def filter_ids(model: str, layer: str, channels: int) -> NDArray[np.int64]:
    """Stable 63-bit ids of all filters of a layer: consecutive, wrapping at 2^63, so they compress to nothing."""
    start = np.uint64(layer_id(model, layer))
    return ((start + np.arange(channels, dtype=np.uint64)) & np.uint64(ID_RANGE - 1)).astype(np.int64)


def pair_ids(model: str, layer: RegularLayer, channels: NDArray[np.int64], in_channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stable 63-bit ids of kernels of an ordinary convolution, given by their output and input channels, row-major."""
    start = np.uint64(layer_id(model, layer.name))
    offset = (channels * layer.in_channels + in_channels).astype(np.uint64)
    return ((start + offset) & np.uint64(ID_RANGE - 1)).astype(np.int64)


def table(**columns: pa.DataType | pa.Field) -> pa.Schema:
    """The columns of a stored table, by name."""
    fields = {name: kind if isinstance(kind, pa.Field) else pa.field(name, kind) for name, kind in columns.items()}
    return pa.schema([field.with_name(name) for name, field in fields.items()])


def younger(kind: pa.DataType, before: int) -> pa.Field:
    """A column that older files lack, with the value that their rows have in SQL."""
    return pa.field("", kind, metadata={"before": str(before)})


MODELS = table(
    model=pa.string(), source=pa.string(), architecture=pa.string(), tag=pa.string(), step=pa.int64(), run=pa.string(),
    dataset=pa.string(), pretrain_dataset=pa.string(), task=pa.string(), params=pa.int64(), top1=pa.float64(),
    licence=pa.string(), input_size=pa.string(), sha256=pa.string(), revision=pa.string(), bytes_read=pa.int64(),
    quantised=pa.bool_(), layers=pa.int64(), filters=pa.int64(), skipped=pa.string(), notes=pa.string(),
    kernels_sha256=pa.string(), ingested_at=pa.timestamp("us", tz="UTC"),
)  # fmt: skip
LAYERS = table(
    model=pa.string(), layer=pa.string(), depth=pa.int32(), depth_norm=pa.float64(), stage=pa.int32(),
    ndim=younger(pa.int32(), 2), kernel_d=younger(pa.int32(), 1), kernel_h=pa.int32(), kernel_w=pa.int32(), size=pa.string(),
    stride=pa.int32(), dilation=pa.int32(), padding=pa.int32(), in_channels=pa.int32(), out_channels=pa.int32(),
    kind=pa.string(), stride_h=pa.int32(), stride_w=pa.int32(), dilation_h=pa.int32(), dilation_w=pa.int32(),
    padding_h=pa.int32(), padding_w=pa.int32(), padding_mode=pa.string(),
)  # fmt: skip
FILTERS = table(
    filter_id=pa.int64(), model=pa.string(), layer=pa.string(), channel=pa.int32(), depth=pa.int32(), size=pa.string(),
    kernel_d=younger(pa.int32(), 1), kernel_h=pa.int32(), kernel_w=pa.int32(), dataset=pa.string(),
    kernel=pa.list_(pa.field("element", pa.float32())), mean=pa.float32(), norm=pa.float32(), total=pa.float32(),
    dead=pa.bool_(),
)  # fmt: skip
