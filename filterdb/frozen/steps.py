"""The whole of a replacement: find templates, write kernels, and mend what follows on unlabelled images, as far as is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from filterdb.errors import InvalidArgument
from filterdb.frozen.choices import By, Repair
from filterdb.frozen.correct import correct
from filterdb.frozen.inputs import by_inputs, observe
from filterdb.frozen.layer import Parts
from filterdb.frozen.plan import Plan
from filterdb.frozen.pointwise import solve_pointwise
from filterdb.frozen.recalibrate import norms, recalibrate
from filterdb.frozen.replace import Frozen, freeze, replacements
from filterdb.networks.memory import keep_freed_memory
from filterdb.networks.network import unwrapped

Progress = Callable[[str, int, int], None]
NOTHING = Repair()


def frozen(
    module: nn.Module, plan: Plan, *, match: By = "weights", repair: Repair = NOTHING, batches: Sequence[Tensor] = (),
    progress: Progress | None = None,
) -> Frozen:  # fmt: skip
    """A copy of a network with replaced kernels.

    Args:
        module: the network, in eval mode; it stays as it is.
        plan: which bank for which layer.
        match: templates by the weights, exactly as ``nearest`` finds them, or by what the layers see of ``batches``.
        repair: what is repaired afterwards on ``batches``.
        batches: unlabelled images as the network takes them, on its device.
        progress: called with the current step, the amount done, and the total.

    Raises:
        InvalidArgument: images are needed and there are none, or a network without batch normalisation is to be recalibrated.
    """
    corrected, repaired = repair.correct, repair.pointwise
    recalibrated = repair.recalibrate or repair.reestimate
    if (match == "inputs" or repair) and not batches:
        raise InvalidArgument("Images are needed to match by inputs and to repair. Name some with data.")
    keep_freed_memory()
    inner, told = unwrapped(module), progress or (lambda what, done, total: None)
    normed, images, notes = bool(norms(inner)), sum(len(batch) for batch in batches), []
    if recalibrated and not normed:
        recalibrate(inner, batches)  # says that there is nothing to recalibrate
    matcher = None
    if match == "inputs":
        told("looking at the layers' inputs", 0, 0)
        names = [one.layer.name for one in replacements(inner, plan) if one.bank is not None]
        windows = observe(inner, names, batches, images=images)
        matcher = by_inputs(windows, signed=plan.signed, mix=plan.mix, centred=bool(repair))
        notes.append("templates were matched by what the layers see")
    told("replacing kernels", 0, 0)
    made = freeze(module, plan, match=matcher, by=match)
    new, parts = unwrapped(made.module), dict(made.parts)
    replaced = list(parts)
    if corrected or (repaired and not normed):
        told("correcting gains and biases", 0, 0)
        _scale(parts, correct(inner, new, replaced, batches))
    solved = solve_pointwise(inner, new, replaced, batches, progress=progress) if repaired else []
    if repaired and not normed:
        told("correcting gains and biases", 0, 0)
        order = [name for name, _ in new.named_modules() if name in {*replaced, *solved}]
        _scale(parts, correct(inner, new, order, batches))
    if recalibrated or (repaired and normed):
        told("recalibrating", 0, 0)
        anew = repaired or repair.reestimate
        recalibrate(new, batches, None if anew else inner)
        notes.append(f"{len(norms(new))} batch normalisations were {'re-estimated' if anew else 'moved by what changed'}")
    if solved:
        notes.append(f"{len(solved)} pointwise layers were solved again")
    if corrected or (repaired and not normed):
        notes.append("gains and biases were set so that the channels keep mean and variance")
    if notes:
        notes.append(f"all this on {images} unlabelled images")
    words = {"recalibrated": recalibrated and not repaired, "corrected": corrected and not repaired, "repaired": repaired}
    mode = "+".join(["replaced", *(word for word, so in words.items() if so)])
    return Frozen(made.module, replace(made.report, notes=tuple(notes), mode=mode), parts)


def _scale(parts: dict[str, Parts], gains: dict[str, Tensor]) -> None:
    """Multiply gains and offsets of layers by what their kernels were multiplied by."""
    for name in parts.keys() & gains.keys():
        one, factor = parts[name], gains[name].double().cpu().numpy()
        scaled: list[Any] = [(np.asarray(value) * factor).astype(np.float32) for value in (one.gain, one.offset)]
        parts[name] = Parts(one.templates, one.index, *scaled)
