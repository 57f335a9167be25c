"""Initialises depthwise kernels with templates of a bank. All of them are trained after that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from filterdb import banks
from filterdb.banks import Bank
from filterdb.errors import BankError, InvalidArgument, not_found

DOG_PROPORTIONS = {
    "on-centre": 0.45, "off-centre": 0.10, "*cross": 0.15, "first derivative*": 0.20, "second derivative*": 0.10,
}  # fmt: skip
"""Labels of the bank "dog" and their shares: the initialisation of ConvMixer in *Unveiling the Unseen*, ICLR 2024."""


def init_depthwise(
    module: nn.Module, bank: str | Bank = "dog", *, proportions: Mapping[str, float] | None = None,
    layers: str | Sequence[str] | None = None, seed: int = 0,
) -> list[str]:  # fmt: skip
    """Initialise the depthwise kernels of a network, in place, with random templates of a bank. All taps remain trainable.

    Each template gets the length that the kernels of its layer have on average (root mean square), so that activations keep
    their scale.

    Args:
        module: the network.
        bank: a bank, or the name of one that ships with filterdb. Its formula gives it at each layer's size.
        proportions: how often templates are drawn: shares by their label, name or glob, with sum 1. By default those of
            the ICLR paper for the bank "dog", and equal shares for other banks.
        layers: only layers of these names or globs.
        seed: of the draw.

    Returns:
        The names of the layers that were initialised. Layers of a size that the bank lacks are not changed.

    Raises:
        NotFound: no bank of that name, no template for a share, or no layer of a name.
        InvalidArgument: shares that are not positive or don't add up to 1, or nothing to initialise.
    """
    chosen = banks.load(bank) if isinstance(bank, str) else bank
    kinds, shares = _kinds(chosen, proportions)
    found = depthwise(module)
    patterns = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in found):
            raise not_found("depthwise layer", pattern, found)
    rng = np.random.default_rng(seed)
    done = []
    for name, conv in found.items():
        if patterns is not None and not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        at = _at(chosen, conv.weight.shape[2], conv.weight.shape[3])
        if at is None:
            continue
        drawn = rng.choice(len(shares), size=len(conv.weight), p=shares)
        index = np.array([rng.choice(kinds[kind]) for kind in drawn], dtype=np.int64)
        kernels = conv.weight.detach().cpu().float().numpy()
        new = at.templates[index] * gains(at, index, kernels)[:, None, None]
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(new).unsqueeze(1))
        done.append(name)
    if not done:
        sizes = sorted({f"{one.weight.shape[2]}x{one.weight.shape[3]}" for one in found.values()})
        raise InvalidArgument(
            f'The bank "{chosen.name}" initialises no layer: its templates are {chosen.size}, and the depthwise layers are '
            f"{', '.join(sizes) or 'none'}."
        )
    return done


def depthwise(module: nn.Module) -> dict[str, nn.Conv2d]:
    """The depthwise layers with a spatial pattern, by name."""
    return {
        name: one for name, one in module.named_modules()
        if isinstance(one, nn.Conv2d) and one.groups == one.in_channels > 1 and one.kernel_size != (1, 1)
    }  # fmt: skip


def gains(bank: Bank, index: NDArray[np.int64], kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gains that give templates the length that kernels (n, 1, kernel_h, kernel_w) have on average (root mean square)."""
    length = np.sqrt(np.square(kernels).sum(axis=(1, 2, 3)).mean())
    norms = np.linalg.norm(bank.templates.reshape(len(bank), -1), axis=1)
    return (length / norms[index]).astype(np.float32)


def _kinds(bank: Bank, proportions: Mapping[str, float] | None) -> tuple[list[list[int]], list[float]]:
    """The templates of each kind, and the kind's share."""
    if proportions is None:
        if bank.name != "dog":
            return [[i] for i in range(len(bank))], [1 / len(bank)] * len(bank)
        proportions = DOG_PROPORTIONS
    kinds = []
    for word, share in proportions.items():
        meant = [
            i for i, (name, label) in enumerate(zip(bank.names, bank.labels, strict=True))
            if fnmatchcase(name, word) or fnmatchcase(label, word)
        ]  # fmt: skip
        if not meant:
            raise not_found(f'template of the bank "{bank.name}"', word, [*bank.labels, *bank.names])
        if not share > 0:
            raise InvalidArgument(f'The share of "{word}" is {share}: give one above 0, or leave it out.')
        kinds.append(meant)
    total = sum(proportions.values())
    if abs(total - 1) > 1e-6:
        raise InvalidArgument(f"The proportions add up to {total:g}: they must add up to 1.")
    return kinds, list(proportions.values())


def _at(bank: Bank, kernel_h: int, kernel_w: int) -> Bank | None:
    """The bank at a layer's size, or None where it has no templates for it."""
    if (bank.kernel_h, bank.kernel_w) == (kernel_h, kernel_w):
        return bank
    if not bank.scalable:
        return None
    try:
        return bank.at((kernel_h, kernel_w))
    except BankError:
        return None
