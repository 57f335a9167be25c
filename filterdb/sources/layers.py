"""Which layers are depthwise, and what they are: from the modules of a network, or from the shapes in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from filterdb.kernels.sizes import LARGEST, Pair, rows
from filterdb.store.schema import Kind, Layer, Skipped

if TYPE_CHECKING:
    from torch import nn

POINTWISE = "1x1 depthwise layers have no spatial pattern (store them with pointwise)"
EXPERTS = "CondConv2d keeps its kernels in an expert matrix that is mixed at run time"
TRANSPOSED = "transposed convolutions with several outputs of each input channel have no one kernel for it"
SHARED = "shares its weights with a layer that is stored"
NOT_A_WEIGHT = "has the shape of depthwise kernels and is not named as a weight"
NOT_FLOAT = "is not floating point (quantised?)"

if TYPE_CHECKING:
    Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d

_STAGE_AND_BLOCK = re.compile(r"(?:^|\.)(?:layers|blocks)\.(\d+)\.(?:[a-z_]+\.)?(\d+)\.")
_STAGES = re.compile(r"(?:^|\.)stages\.(\d+)\.")
_NUMBERED = re.compile(r"(?:^|\.)(?:stage|layer)_?(\d+)\.")
_FUSES = ("reparameterize", "switch_to_deploy", "fuse")


class Tensor(Protocol):
    """A tensor of which only the shape matters here."""

    @property
    def shape(self) -> Sequence[int]: ...


def stages_of(names: Sequence[str]) -> list[int | None]:
    """The 0-based stage of each layer, read from its name.

    ``stages.N.`` says N; ``layers.N.`` and ``blocks.N.`` say N where a block's number follows (``blocks.2.1.``) that is not the
    same in every name, because a lone number counts blocks; ``stageN.`` and ``layerN.`` count from 1, unless one of the names
    says 0. Other names say nothing.

    >>> stages_of(["stages.0.blocks.1.conv_dw", "stem.conv"]), stages_of(["blocks.2.0.conv", "blocks.2.1.conv", "blocks.3.dw"])
    ([0, None], [2, 2, None])
    >>> stages_of(["layer1.0.conv2", "layer4.1.conv2"])
    [0, 3]
    """
    first = min((int(found[1]) for name in names if (found := _NUMBERED.search(name + "."))), default=1)
    blocks = {found[2] for name in names if (found := _STAGE_AND_BLOCK.search(name + "."))}
    stages: list[int | None] = []
    for name in names:
        path = name + "."
        found = _STAGES.search(path) or (_STAGE_AND_BLOCK.search(path) if len(blocks) > 1 else None)
        numbered = _NUMBERED.search(path)
        stages.append(int(found[1]) if found else int(numbered[1]) - min(first, 1) if numbered else None)
    return stages


def from_module(network: nn.Module, *, pointwise: bool = False) -> tuple[list[Layer], list[Skipped]]:
    """The depthwise layers of a network, in its order, and what was left out.

    A convolution is depthwise when it is a Conv1d, Conv2d or Conv3d with groups == in_channels > 1 and out_channels a multiple
    of groups. It is a "branch" when it sits in a block that merges parallel depthwise branches into one kernel: a module with
    a method ``reparameterize``, ``switch_to_deploy`` or ``fuse`` that holds several depthwise convolutions (1x1 ones counted)
    alike in channels and stride, alone or in a ModuleList. Otherwise it is a "multiplier" when out_channels > in_channels. A
    ConvTranspose2d with groups == in_channels == out_channels > 1 is "transposed".
    """
    from torch import nn

    found: list[tuple[str, Convolution]] = []
    skipped: dict[str, list[str]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == module.in_channels > 1:
            found.append((name, module))
        elif isinstance(module, nn.ConvTranspose2d) and module.groups == module.in_channels > 1:
            if module.out_channels == module.in_channels:
                found.append((name, module))
            else:
                skipped.setdefault(TRANSPOSED, []).append(name)
        elif type(module).__name__ == "CondConv2d" and getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1:
            skipped.setdefault(EXPERTS, []).append(name)

    branches = _branches(network)
    stored: list[tuple[str, Convolution]] = []
    weights: set[int] = set()
    for name, conv in found:
        if set(conv.kernel_size) == {1} and not pointwise:
            skipped.setdefault(POINTWISE, []).append(name)
        elif id(conv.weight) in weights:
            skipped.setdefault(SHARED, []).append(name)
        else:
            # a weight that is computed (parametrised, frozen) is made anew at each look, so its id means nothing
            if "weight" in conv._parameters:
                weights.add(id(conv.weight))
            stored.append((name, conv))
    stages = stages_of([name for name, _ in stored])
    layers = [_layer(name, conv, stage, name in branches) for (name, conv), stage in zip(stored, stages, strict=True)]
    return layers, _as_skipped(skipped)


def _layer(name: str, conv: Convolution, stage: int | None, branch: bool) -> Layer:
    kind: Kind = "branch" if branch else "multiplier" if conv.out_channels > conv.in_channels else "depthwise"
    if conv.transposed:  # its kernels stay as torch has them: the pattern that one input pixel adds to the output
        kind = "transposed"
    return Layer(
        name, *sheet(conv.kernel_size), conv.out_channels, conv.in_channels, _pair(conv.stride, 1), _pair(conv.dilation, 1),
        _padding(conv), conv.padding_mode, stage, kind, len(conv.kernel_size),
    )  # fmt: skip


def _pair(value: tuple[int, ...], without: int) -> Pair:
    """Along rows and columns. A convolution of one dimension has one row and ``without`` along it; that of slices is left out."""
    return (int(value[-2]) if len(value) > 1 else without), int(value[-1])


def _padding(conv: Convolution) -> Pair | Literal["same"]:
    # Conv2dSame and its kin keep padding 0 and pad in forward(), by an amount that depends on the input's size
    if conv.padding == "same" or "Same" in type(conv).__name__:
        return "same"
    return (0, 0) if isinstance(conv.padding, str) else _pair(conv.padding, 0)


def _branches(network: nn.Module) -> set[str]:
    """Names of the depthwise layers that a block merges into one kernel after training."""
    from torch import nn

    branches: set[str] = set()
    for name, block in network.named_modules():
        # the network's own fuse() only walks over its blocks
        if not name or not any(callable(getattr(block, method, None)) for method in _FUSES):
            continue
        lists = [(inner, part) for inner, part in block.named_modules() if isinstance(part, nn.ModuleList)]
        for inner, part in [("", block), *lists]:
            prefix = f"{name}.{inner}." if inner else f"{name}."
            convs = [
                (prefix + path, conv)
                for path, conv in part.named_modules()
                if path and isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1
            ]
            # parallel branches see the same input and step over it alike
            if len(convs) > 1 and len({(conv.in_channels, conv.out_channels, conv.stride) for _, conv in convs}) == 1:
                branches.update(path for path, _ in convs)
    return branches


def from_shapes(
    tensors: Mapping[str, Tensor], *, pointwise: bool = False, skipped: Mapping[str, Iterable[str]] | None = None
) -> tuple[list[Layer], list[str], list[Skipped]]:
    """The layers that the shapes in a state dict show, the key of each, and what was left out.

    A tensor holds depthwise kernels when its shape is (C, 1, …) with C > 1 and one to three more axes of more than one tap in
    all, and its key calls it a weight or a kernel. Strides, dilations, paddings and in_channels cannot be seen.
    """
    left: dict[str, list[str]] = {reason: list(names) for reason, names in (skipped or {}).items()}
    keys: list[str] = []
    stored: set[Any] = set()
    for key, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if not 3 <= len(shape) <= 5 or shape[0] < 2 or shape[1] != 1:
            continue
        named = re.search(r"weight|kernel", key.rpartition(".")[2].lower())
        if not named:
            left.setdefault(NOT_A_WEIGHT, []).append(key)
        elif set(shape[2:]) == {1} and not pointwise:
            left.setdefault(POINTWISE, []).append(key)
        elif max(shape[2:]) > LARGEST:
            left.setdefault(f"is larger than {LARGEST} x {LARGEST}", []).append(key)
        elif not _is_float(tensor):
            left.setdefault(NOT_FLOAT, []).append(key)
        elif (place := _place(tensor)) is not None and place in stored:
            left.setdefault(SHARED, []).append(key)
        else:
            stored.add(place)
            keys.append(key)
    names = [key.removesuffix(".weight") for key in keys]
    shapes = [tuple(tensors[key].shape) for key in keys]
    layers = [
        Layer(name, *sheet(shape[2:]), shape[0], stage=stage, ndim=len(shape) - 2)
        for name, shape, stage in zip(names, shapes, stages_of(names), strict=True)
    ]
    return layers, keys, _as_skipped(left)


def sheet(taps: Sequence[int]) -> Pair:
    """Rows and columns of a kernel given by its taps along each of one to three axes.

    >>> sheet([4]), sheet([7, 5]), sheet([3, 7, 5])
    ((1, 4), (7, 5), (Rows(3, 7), 5))
    """
    kernel_d, kernel_h, kernel_w = (1,) * (3 - len(taps)) + tuple(int(count) for count in taps)
    return rows(kernel_d, kernel_h), kernel_w


def _place(tensor: Any) -> Any:
    """Where a tensor of torch's lies: two keys of one place are one set of weights. None for other leaves."""
    pointer = getattr(tensor, "data_ptr", None)
    return (pointer(), tuple(tensor.shape), tensor.stride()) if pointer and not tensor.is_meta else None


def _is_float(tensor: Any) -> bool:
    dtype = str(getattr(tensor, "dtype", "F32"))
    return dtype in ("F64", "F32", "F16", "BF16", "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16")


def _as_skipped(reasons: Mapping[str, Sequence[str]]) -> list[Skipped]:
    return [Skipped(reason, tuple(names)) for reason, names in reasons.items() if names]
