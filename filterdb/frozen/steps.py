"""The whole of a replacement: find templates, write kernels, and mend what follows on unlabelled images, as far as is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from torch import Tensor, nn

from filterdb.errors import InvalidArgument
from filterdb.frozen.inputs import by_inputs, mend_bias, observe
from filterdb.frozen.plan import Plan
from filterdb.frozen.recalibrate import norms, recalibrate
from filterdb.frozen.repair import repair
from filterdb.frozen.replace import Frozen, freeze, replacements
from filterdb.networks.network import unwrapped

By = Literal["weights", "inputs"]
Progress = Callable[[str, int, int], None]


def frozen(
    module: nn.Module, plan: Plan, *, match: By = "weights", recalibrated: bool = False, repaired: bool = False,
    batches: Sequence[Tensor] = (), progress: Progress | None = None,
) -> Frozen:  # fmt: skip
    """A copy of a network with replaced kernels.

    Args:
        module: the network, in eval mode; it stays as it is.
        plan: which bank for which layer.
        match: templates by the weights, exactly as ``nearest`` finds them, or by what the layers see of ``batches``.
        recalibrated: re-estimate batch normalisations on ``batches``.
        repaired: solve the pointwise layers behind the replaced ones again on ``batches``, and re-estimate batch normalisations.
        batches: unlabelled images as the network takes them, on its device.
        progress: told what is being done.

    Raises:
        InvalidArgument: images are needed and there are none, or a network without batch normalisation is to be recalibrated.
    """
    if match not in get_args(By):
        raise InvalidArgument(f'match "{match}" is not a choice. Say weights or inputs.')
    if (match == "inputs" or recalibrated or repaired) and not batches:
        raise InvalidArgument("Images are needed to match by inputs, to recalibrate and to repair. Name some with data.")
    inner, notes = unwrapped(module), []
    if recalibrated and not norms(inner):
        recalibrate(inner, batches)  # says that there is nothing to recalibrate
    images = sum(len(batch) for batch in batches)
    told = progress or (lambda what, done, total: None)
    windows = {}
    if match == "inputs":
        told("looking at the layers' inputs", 0, 0)
        # which layers these are, before any image is run
        names = [one.layer.name for one in replacements(inner, plan) if one.bank is not None]
        windows = observe(inner, names, batches, images=images)
    mended = recalibrated or (repaired and bool(norms(inner)))

    def centred(name: str) -> bool:
        return mended or _conv(inner, name).bias is not None

    told("replacing kernels", 0, 0)
    made = freeze(module, plan, match=by_inputs(windows, signed=plan.signed, centred=centred) if windows else None, by=match)
    new = unwrapped(made.module)
    if windows:
        biased = [name for name in windows if mend_bias(_conv(inner, name), _conv(new, name), windows[name])]
        notes.append(f"templates were matched by the layers' inputs on {images} unlabelled images")
        if biased:
            notes.append(f"the biases of {len(biased)} layers were shifted so that the means of their outputs stay")
    if repaired:
        names = repair(inner, new, list(made.parts), batches, progress=progress)
        notes.append(f"{len(names)} pointwise layers were solved again on {images} unlabelled images")
        if mended:
            notes.append(_recalibrated(new, images))
    elif recalibrated:
        told("recalibrating", 0, 0)
        recalibrate(new, batches)
        notes.append(_recalibrated(new, images))
    mode = "replaced" + "+recalibrated" * (recalibrated and not repaired) + "+repaired" * repaired
    return replace(made, report=replace(made.report, notes=tuple(notes), mode=mode))


def _recalibrated(module: nn.Module, images: int) -> str:
    return f"{len(norms(module))} batch normalisations were re-estimated on {images} unlabelled images"


def _conv(module: nn.Module, name: str) -> Any:
    return module.get_submodule(name)
