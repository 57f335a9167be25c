"""The network of a training: its architecture, the origin of its depthwise kernels, and their frozen parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from filterdb.banks import Bank
from filterdb.errors import InvalidArgument, RunError
from filterdb.frozen.layer import Parts
from filterdb.frozen.plan import Plan
from filterdb.frozen.replace import replacements
from filterdb.frozen.swap import freeze_layers
from filterdb.networks import Network, load, new
from filterdb.sources.layers import from_module
from filterdb.training.initialise import depthwise, gains, init_depthwise
from filterdb.training.settings import FROZEN, Settings
from filterdb.training.transfer import transferred


@dataclass
class Prepared:
    """A network ready to be trained."""

    network: Network
    bank: Bank | None
    left: Mapping[str, str]
    """Depthwise layers of sizes that the bank lacks, with the reason. They keep their kernels, which are trained."""


def prepare(settings: Settings, num_classes: int, bank: Callable[[str], Bank]) -> Prepared:
    """The network that the settings describe. The same settings make the same network, bit for bit.

    Args:
        settings: the training's.
        num_classes: of the data.
        bank: a bank by its name.

    Raises:
        InvalidArgument, NotFound: an architecture, bank or source that is not there, or none of whose layers is depthwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = _start(settings, num_classes)
        kernels = depthwise(network.module)
        if not kernels and settings.mode != "trainable":
            raise InvalidArgument(
                f"{settings.model} has no depthwise layers: there is nothing to freeze. Take the mode trainable."
            )
        if settings.filters is not None and settings.transfer_layers is None:
            _transfer(network.module, load(settings.filters, architecture=_said(settings, settings.filters)))
        if settings.mode == "dog-init":
            init_depthwise(network.module, seed=settings.seed)
        chosen = None if settings.bank is None else bank(settings.bank)
        if chosen is not None and settings.shuffle:
            chosen = shuffled(chosen, settings.seed)
        left: dict[str, str] = {}
        if settings.filters is not None and settings.transfer_layers is not None:
            parts = transferred(network.module, settings.filters, settings.transfer_layers, settings.seed)
        elif chosen is not None:
            trained = settings.weights is not None or settings.filters is not None
            parts, left = (
                _matched(network.module, chosen, settings.signed) if trained else _drawn(network.module, chosen, settings.seed)
            )
            if not parts:
                raise InvalidArgument(
                    f"The bank {chosen.name} stands in for no layer of {settings.model}: {next(iter(left.values()))}."
                )
        elif settings.mode in FROZEN:
            parts = {name: Parts(kernel[:, 0], np.arange(len(kernel))) for name, kernel in kernels_of(network.module).items()}
        else:
            parts = {}
    # the kernels of transferred layers stay in any mode
    mode = "frozen" if settings.transfer_layers is not None and settings.mode == "trainable" else settings.mode
    _install(network.module, parts, mode)
    _try(network)
    return Prepared(network, chosen, left)


def kernels_of(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The depthwise kernels (channels, 1, kernel_h, kernel_w) by layer."""
    return {name: one.weight.detach().cpu().float().numpy().copy() for name, one in depthwise(module).items()}


def shuffled(bank: Bank, seed: int) -> Bank:
    """A bank with the taps of each template in a random order."""
    rng = np.random.default_rng(seed)
    flat = bank.templates.reshape(len(bank), -1)
    mixed = np.stack([rng.permutation(row) for row in flat]).reshape(bank.templates.shape)
    made_by = f"{bank.name} with the taps of each template shuffled, seed {seed}"
    return Bank(name=f"{bank.name} shuffled", names=bank.names, templates=mixed, labels=bank.labels, made_by=made_by)


# -- where the weights come from -----------------------------------------------------------------------------------------------


def _said(settings: Settings, source: str) -> str | None:
    """What to say of a source's architecture: that of a bare file is the model's, others know their own."""
    import timm

    return settings.model if Path(source).is_file() and timm.is_model(settings.model) else None


def _start(settings: Settings, num_classes: int) -> Network:
    size = {"input_size": (3, settings.input_size, settings.input_size), "crop_pct": 1.0} if settings.input_size else None
    if settings.weights is None:
        args = dict(settings.args) | ({"drop_path_rate": settings.drop_path} if settings.drop_path else {})
        return new(settings.model, num_classes=num_classes, args=args, preprocessing=size)
    network = load(
        settings.weights, architecture=_said(settings, settings.weights), num_classes=num_classes,
        args=settings.args or None, preprocessing=size, new_head=True,
    )  # fmt: skip
    return replace(network, name=settings.model)


def _transfer(module: nn.Module, other: Network) -> None:
    """Copy the depthwise kernels of another network of the same layers."""
    mine, theirs = depthwise(module), depthwise(other.module)
    common = [name for name, one in mine.items() if name in theirs and theirs[name].weight.shape == one.weight.shape]
    if len(common) < len(mine):
        lacking = next(name for name in mine if name not in common)
        raise InvalidArgument(
            f"{other.source} has {len(common)} of the {len(mine)} depthwise layers (not {lacking}): take filters of the same "
            "architecture."
        )
    with torch.no_grad():
        for name in common:
            mine[name].weight.copy_(theirs[name].weight)


# -- kernels from a bank -------------------------------------------------------------------------------------------------------


def _matched(module: nn.Module, bank: Bank, signed: bool) -> tuple[dict[str, Parts], dict[str, str]]:
    """Each kernel's closest a·g + b."""
    found = list(replacements(module, Plan.of(bank, resize="formula" if bank.scalable else "none", signed=signed)))
    parts = {one.layer.name: one.parts for one in found if one.bank is not None}
    return parts, {one.layer.name: str(one.reason) for one in found if one.bank is None}


def _drawn(module: nn.Module, bank: Bank, seed: int) -> tuple[dict[str, Parts], dict[str, str]]:
    """Each channel a template drawn at random, as long as the kernels that it takes the place of are on average."""
    plan = Plan.of(bank, resize="formula" if bank.scalable else "none")
    rng = np.random.default_rng(seed)
    parts, left = {}, {}
    layers = {layer.name: layer for layer in from_module(module)[0]}
    for name, kernels in kernels_of(module).items():
        at = plan.bank_for(layers[name])
        if isinstance(at, str):
            left[name] = at
            continue
        index = rng.integers(len(at), size=len(kernels))
        parts[name] = Parts(at.templates, index, gains(at, index, kernels))
    return parts, left


def _install(module: nn.Module, parts: Mapping[str, Parts], mode: str) -> None:
    """Put the parts into the network: as frozen layers, or as ordinary weights that start so."""
    if mode in FROZEN:
        freeze_layers(module, _with_gains(parts) if mode == "frozen+gain+bias" else parts, train_gain=mode == "frozen+gain+bias",
                      train_offset=mode != "frozen")  # fmt: skip
        return
    layers = depthwise(module)
    for name, one in parts.items():
        index = np.asarray(one.index)
        templates = np.asarray(one.templates)
        gain = np.ones(len(index)) if one.gain is None else np.asarray(one.gain)
        offset = np.zeros(len(index)) if one.offset is None else np.asarray(one.offset)
        kernels = gain[:, None, None] * templates[index] + offset[:, None, None]
        with torch.no_grad():
            layers[name].weight.copy_(torch.from_numpy(kernels).unsqueeze(1))


def _with_gains(parts: Mapping[str, Parts]) -> dict[str, Parts]:
    return {
        name: one if one.gain is not None else replace(one, gain=np.ones(len(np.asarray(one.index)), np.float32))
        for name, one in parts.items()
    }


def _try(network: Network) -> None:
    """Whether the network takes images of its size at all, before a data set is opened for it."""
    try:
        with torch.inference_mode():
            network.module.eval()(torch.zeros(1, *network.preprocessing["input_size"]))
    except RuntimeError as error:
        size = network.preprocessing["input_size"][1]
        reason = " ".join(str(error).split())[:160]
        raise InvalidArgument(
            f"{network.name} cannot take images of {size} px: {reason}. Choose another --input-size."
        ) from error


def check_finite(loss: float, step: int, settings: Settings, out: Path) -> None:
    """End a run whose loss is NaN, with a helpful message."""
    if not np.isfinite(loss):
        raise RunError(
            f"The loss became {loss} at step {step}. Lower --lr (now {settings.lr}), clip gradients, or train without "
            f"--amp, into another --out; {out} keeps what was saved before it."
        )
