"""Kernels become the a·g + b that ``search.nearest`` finds closest: of arrays, and of all depthwise layers of a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filterdb.banks import Bank
from filterdb.frozen import mixtures
from filterdb.frozen.plan import Plan
from filterdb.frozen.report import LayerReport, Report, distinct, kept_energy
from filterdb.kernels import rows
from filterdb.kernels.sizes import size_name
from filterdb.search import nearest
from filterdb.store.schema import Layer, ModelFacts

if TYPE_CHECKING:
    from torch import nn

    from filterdb.frozen.layer import Parts

SETTLED = {"float32": 2.0**-20, "float64": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""By dtype, the share of its largest tap within which a kernel is a·g + b already, to rounding, and stays bit for bit: so a
network frozen twice is the network frozen once. Kernels are matched in float32, hence no more for float64."""

Match = Callable[[Layer, NDArray[np.float32], Bank], dict[str, NDArray[Any]]]
"""Finds template, gain and offset for the kernels (n, taps) of a layer, as ``nearest.match`` does."""


@dataclass(frozen=True)
class Replacement:
    """What is to become of the kernels of one layer."""

    layer: Layer
    old: NDArray[np.float32]
    """(n, kernel_h, kernel_w)."""
    new: NDArray[np.float32]
    """The same shape."""
    changed: NDArray[np.bool_]
    """(n,), false where the old kernel is the new one already, to the rounding of its dtype."""
    bank: Bank | None
    """At the layer's size; None where the layer stays."""
    found: Mapping[str, NDArray[Any]]
    """The answer of the match: template, gain, offset, dead …; empty where the layer stays."""
    reason: str | None = None

    @property
    def parts(self) -> Parts:
        """The layer as the parts of a ``FrozenDepthwiseConv2d``. Only for layers that are replaced."""
        from filterdb.frozen.layer import Parts

        assert self.bank is not None
        index, gain, offset = (self.found[name] for name in ("template", "gain", "offset"))
        if "second" not in self.found:
            return Parts(self.bank.templates, index, gain, offset)
        two = np.flatnonzero(self.found["second_gain"])  # a mixture is a template of its own
        made = composed({**self.found, "offset": np.zeros_like(offset)}, self.bank)[two]
        index, gain = index.copy(), gain.copy()
        index[two], gain[two] = len(self.bank) + np.arange(len(two)), 1
        return Parts(np.concatenate([self.bank.templates, made]), index, gain, offset)


def replace(kernels: NDArray[np.floating], bank: Bank, *, signed: bool = False) -> NDArray[np.float32]:
    """Each kernel as its closest gain * template + offset; dead kernels as their offset alone.

    Args:
        kernels: (n, kernel_h, kernel_w) of the bank's size.
        bank: the templates.
        signed: only positive gains, as for ``nearest``: where none helps, the offset alone.

    Returns:
        The same shape in float32. Kernels that are a·g + b already, to float32 rounding, come back bit for bit.
    """
    layer = Layer("", bank.kernel_h, bank.kernel_w, len(kernels))
    return replacement(layer, np.asarray(kernels, np.float32), Plan.of(bank, signed=signed), by_weights(signed)).new


def by_weights(signed: bool, mix: float = 0.0) -> Match:
    """The nearest template by the weights themselves, exactly ``nearest.match``; with ``mix`` two where one keeps less energy."""

    def match(layer: Layer, kernels: NDArray[np.float32], bank: Bank) -> dict[str, NDArray[Any]]:
        found = nearest.match(kernels, bank, signed=signed)
        return mixtures.by_weights(kernels, bank, found, mix) if mix else found

    return match


def replacement(layer: Layer, kernels: NDArray[np.float32], plan: Plan, match: Match, dtype: str = "float32") -> Replacement:
    """What a plan makes of the kernels (n, kernel_h, kernel_w) of one layer that are stored as ``dtype``."""
    bank = plan.bank_for(layer)
    if not isinstance(bank, Bank):
        return Replacement(layer, kernels, kernels, np.zeros(len(kernels), bool), None, {}, bank)
    found = match(layer, rows(kernels), bank)
    new = composed(found, bank)
    distance, largest = (np.abs(array).max(axis=(1, 2)) for array in (new - kernels, kernels))
    changed = distance > SETTLED[dtype] * largest
    new[~changed] = kernels[~changed]
    return Replacement(layer, kernels, new, changed, bank, found)


def composed(found: Mapping[str, NDArray[Any]], bank: Bank) -> NDArray[np.float32]:
    """gain * template + offset of each row of a match, and a second template where there is one; (n, kernel_h, kernel_w)."""
    new: NDArray[np.float32] = found["gain"][:, None, None] * bank.templates[found["template"]] + found["offset"][:, None, None]
    if "second" in found:
        new += found["second_gain"][:, None, None] * bank.templates[found["second"]]
    return new


def report_of(replacements: Iterable[Replacement], source: str, *, signed: bool, match: str, notes: Iterable[str] = ()) -> Report:
    """What replacements did, layer by layer and in all."""
    layers: list[LayerReport] = []
    before: list[NDArray[np.float32]] = []
    kept: list[NDArray[np.float32]] = []
    used: set[tuple[str, str, str]] = set()
    mixed = 0
    for one in replacements:
        size = size_name(one.layer.kernel_h, one.layer.kernel_w)
        unique = distinct([one.old])
        before.append(one.old)
        if one.bank is None:
            kept.append(one.old)
            layers.append(LayerReport(one.layer.name, size, None, len(one.old), 0, 0, unique, unique, reason=one.reason))
            continue
        dead = one.found["dead"]
        two = one.found["second_gain"] != 0 if "second" in one.found else np.zeros(len(dead), bool)
        single = ~dead & (one.found["gain"] != 0) & ~two
        templates = set(one.found["template"][single].tolist())
        used |= {(one.bank.name, size, one.bank.names[template]) for template in templates}
        mixes = distinct([one.new[two]]) if two.any() else 0
        mixed += mixes
        counts = len(dead), int((~dead).sum()), int(dead.sum()), unique, len(templates) + mixes
        means: list[Any] = [None] * 3
        if not dead.all():
            means = [float(values.mean()) for values in kept_energy(one.old[~dead], one.new[~dead])]
        energy, raw, rho = means
        layers.append(LayerReport(one.layer.name, size, one.bank.name, *counts, energy, raw, rho, int(two.sum())))
    return Report(source, tuple(layers), signed, match, distinct(before), len(used) + mixed + distinct(kept), tuple(notes))


# -- networks ------------------------------------------------------------------------------------------------------------------


@dataclass
class Frozen:
    """A network whose depthwise kernels were replaced, and what that did."""

    module: nn.Module
    report: Report
    parts: Mapping[str, Parts]
    """By layer, what ``filterdb.frozen.swap.freeze_layers`` takes to train it further."""


def replacements(module: nn.Module, plan: Plan, match: Match | None = None) -> Iterator[Replacement]:
    """What a plan makes of a network's depthwise layers, in its order; nothing is changed.

    Raises:
        SourceError: no depthwise layers, weights that are not finite or on the meta device.
        NotFound, InvalidArgument: the plan names layers that are not there, or would replace nothing.
    """
    from filterdb.networks.network import unwrapped
    from filterdb.sources import module as modules

    module = unwrapped(module)
    model = modules.from_module(module, name="", facts=ModelFacts(type(module).__name__), options=modules.Options())
    layers = [layer for layer in model.layers if layer.replaceable]
    plan.check(layers)
    for layer, kernels in zip(model.layers, model.read(), strict=True):
        if not layer.replaceable:
            continue
        dtype = str(module.get_submodule(layer.name).weight.dtype).removeprefix("torch.")
        yield replacement(layer, kernels, plan, match or by_weights(plan.signed, plan.mix), dtype)


def freeze(
    module: nn.Module, plan: Plan, *, match: Match | None = None, by: str = "weights", in_place: bool = False
) -> Frozen:  # fmt: skip
    """Replace the depthwise kernels of a network; everything else keeps its bits.

    Args:
        module: any network. Weights that are computed (parametrised, frozen layers) become plain weights.
        plan: which bank for which layer.
        match: how templates are found; by the weights by default.
        by: what that is called in the report.
        in_place: change this network instead of a copy.
    """
    from filterdb.frozen.swap import to_plain
    from filterdb.networks.network import unwrapped

    module = to_plain(module if in_place else copy.deepcopy(module))
    done = list(replacements(module, plan, match))
    for one in done:
        if one.bank is not None:
            put(unwrapped(module), one)
    report = report_of(done, type(module).__name__, signed=plan.signed, match=by)
    return Frozen(module, report, {one.layer.name: one.parts for one in done if one.bank is not None})


def put(module: nn.Module, one: Replacement) -> None:
    """Write the changed kernels of a layer into its convolution, in the weight's own dtype and on its device."""
    import torch
    from torch.nn.utils import parametrize

    conv = module.get_submodule(one.layer.name)
    if parametrize.is_parametrized(conv, "weight"):
        # torch takes the property off the class, which a copied layer shares with its original
        kind = type(conv)
        own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
        conv.__class__ = type(kind.__name__, kind.__bases__, own)
        parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)
    weight: Any = conv.weight
    with torch.no_grad():
        rows_of = torch.from_numpy(one.changed).to(weight.device)
        weight[rows_of] = torch.from_numpy(one.new[one.changed]).unsqueeze(1).to(weight)
