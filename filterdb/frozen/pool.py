"""The kernels that a bank is to replace: those of a source, of a network in memory, or of models in the database."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from filterdb.banks import Bank
from filterdb.errors import InvalidArgument, not_found
from filterdb.frozen.plan import Plan
from filterdb.kernels import centred_unit, rows
from filterdb.sources import Options, resolve
from filterdb.store.schema import Layer
from filterdb.store.view import View

if TYPE_CHECKING:
    from torch import nn

Per = Literal["layer", "network", "kernel"]
"""How energy is weighted. "layer": each layer counts the same, and its kernels by their energy |f - mean|², because a layer's
scale has no effect before a normalisation, but larger kernels of a layer carry more of its signal. "network": kernels count by
their energy. "kernel": each kernel counts the same, and the energy kept is the mean rho² (``energy_kept`` of a replacement)."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Kernels by layer, and the bank at the size of each."""

    what: str
    """Where they are from, as one would type it."""
    plan: Plan
    layers: tuple[Layer, ...]
    kernels: tuple[NDArray[np.float32], ...]
    """(n, kernel_h, kernel_w) of each layer."""
    banks: tuple[Bank, ...]

    @property
    def count(self) -> int:
        """Kernels in all."""
        return sum(map(len, self.kernels))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each layer starts when all kernels stand in one row, and the end of the last."""
        return np.concatenate([[0], np.cumsum([len(one) for one in self.kernels])])

    @cached_property
    def digest(self) -> str:
        """Hash of kernels, templates and plan."""
        found = hashlib.blake2b(digest_size=16)
        for layer, kernels, bank in zip(self.layers, self.kernels, self.banks, strict=True):
            found.update(f"{layer.name} {kernels.shape} {bank.names} {self.plan.signed}".encode())
            found.update(kernels.tobytes())
            found.update(bank.templates.tobytes())
        return found.hexdigest()

    def worth(self, per: Per) -> NDArray[np.float64]:
        """(n,) what the energy of each kernel counts; 1 in all, and 0 for dead kernels."""
        if per not in get_args(Per):
            raise not_found("way to add up energy called", per, get_args(Per))
        found = []
        for kernels in self.kernels:
            parts = centred_unit(rows(kernels).astype(np.float64))
            energy = np.where(parts.dead, 0, 1.0 if per == "kernel" else parts.deviation**2)
            found.append(energy / energy.sum() if per == "layer" and energy.any() else energy)
        worth = np.concatenate(found)
        if not worth.any():
            raise InvalidArgument(f"All kernels of {self.what} are constant, so no template is near to any. Give another model.")
        return worth / worth.sum()


def of_layers(what: str, layers: Sequence[Layer], arrays: Iterable[NDArray[np.float32]], plan: Plan) -> Pool:
    """The kernels of those layers that a plan of one bank replaces.

    Raises:
        NotFound, InvalidArgument: the plan names layers that are not there, or would replace nothing; a bank that loses
            templates at the size of a layer.
    """
    plan.check(layers)
    names = next(bank.names for bank in plan.banks.values() if bank is not None)
    chosen = []
    for layer, kernels in zip(layers, arrays, strict=True):
        bank = plan.bank_for(layer)
        if isinstance(bank, Bank):
            if bank.names != names:
                lost = next(name for name in names if name not in bank.names)
                raise InvalidArgument(
                    f'The template "{lost}" is constant at {bank.size}, so it cannot stand in at {layer.name}. Leave its layers '
                    "out, or say resize none."
                )
            chosen.append((layer, kernels, bank))
    there, kernels_of, banks = zip(*chosen, strict=True)
    return Pool(what, plan, there, kernels_of, banks)


def of_source(source: str | os.PathLike[str] | nn.Module, plan: Plan, architecture: str | None = None) -> Pool:
    """The kernels of a source that can be ingested, or of a network in memory; the network is not built."""
    found = resolve(source, Options(architecture=architecture))
    if len(found) != 1:
        raise InvalidArgument(f"{source} stands for {len(found)} models. Name one, or ingest them and search the kernels of all.")
    with found[0].open(None) as model:
        return of_layers(found[0].source, model.layers, list(model.read()), plan)


def of_models(view: View, models: str | Sequence[str], plan: Plan, bank: Bank) -> Pool:
    """Kernels of the bank's size, from models in the database. The key of a layer includes its model."""
    layers: list[Layer] = []
    arrays: list[list[NDArray[np.float32]]] = []
    last = None
    for batch in view.batches(bank.kernel_h, bank.kernel_w, ["model", "layer"], model=models):
        names = [batch.table[word].combine_chunks() for word in ("model", "layer")]
        codes = np.stack([one.indices.to_numpy() for one in names])
        # the rows of a layer follow each other
        cuts = np.flatnonzero((np.diff(codes) != 0).any(axis=0)) + 1
        for part in np.split(np.arange(len(batch.kernels)), cuts):
            owner = tuple(one[int(part[0])].as_py() for one in names)
            if owner != last:
                layers.append(Layer(owner[1], bank.kernel_h, bank.kernel_w, 0))
                arrays.append([])
            last = owner
            arrays[-1].append(batch.kernels[part].reshape(-1, bank.kernel_h, bank.kernel_w))
    said = models if isinstance(models, str) else ", ".join(models)
    return of_layers(f"database:{said}", layers, [np.concatenate(one) for one in arrays], plan)
