"""The verbs of runs: evaluate a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from filterdb.database.base import Base
from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import nn

    from filterdb.images import Images, ImageSet
    from filterdb.networks import Network
    from filterdb.networks.evaluation import Evaluation

    Data = str | os.PathLike[str] | ImageSet | Images

Progress = Callable[[str, int, int], None]
BATCH_SIZE = 64


@dataclass(frozen=True)
class About:
    """What the table ``runs`` says of a run besides what was measured."""

    bank: str | None = None
    """The bank that the kernels are of."""
    mode: str | None = None
    """How the model was made."""
    parent: str | None = None
    """The run_id of the run that this belongs to."""


class RunVerbs(Base):
    """``evaluate``."""

    def evaluate(
        self, model: str | os.PathLike[str] | Network | nn.Module, data: Data, *, architecture: str | None = None,
        original: str | os.PathLike[str] | Network | nn.Module | None = None, device: str | None = None, amp: bool = False,
        channels_last: bool = False, about: About | None = None, keep: bool = True,
        match_keys: Literal["name", "order"] = "name", progress: Progress | None = None,
    ) -> Evaluation:  # fmt: skip
        """Measure a network on images, and keep what came out in ``runs`` and ``metrics``.

        Args:
            model: a source (``timm:NAME``, a checkpoint file; see ``filterdb.networks.load``), a network, or an nn.Module.
            data: a source of images (see ``filterdb.images.open_images``), an open set, or ``Images``; 64 at a time by default.
            architecture: what a file is the weights of, where it does not say so: also of an original that is a file.
            original: the network to compare with: gives agreement and KL. With one, images need no labels.
            device: torch device; by default the GPU if there is one.
            amp: autocast: bfloat16, or float16 on GPUs without it.
            channels_last: the memory layout of channels last.
            about: what the table should say of the model's kernels; by default what the model's file says.
            keep: False stores nothing.
            match_keys: "order" matches the tensors of a file by their order, where names differ and all shapes agree.
            progress: called with the current step, the images done, and the total.

        Returns:
            top1, top5, agreement (shares in [0, 1]) with their standard errors (``top1_se`` …), loss and kl (nats); with an
            original ``top1_difference`` and its paired standard error; images, seconds, notes, ``warning``, and the run_id.
            The warning says that the batch norms see other inputs than in training: a wrong architecture is the likely reason.

        Raises:
            DataError: no images, broken ones, or no labels.
            SourceError, NotFound, InvalidArgument: a model that is not there, or not of that architecture.
            RunError: data of other classes, logits that are not finite, out of memory.
        """
        from filterdb.images import Images
        from filterdb.networks import evaluation, runs

        if keep:
            self._writable()
        started = runs.now()
        choice, about = Images.of(data), about or About()
        images, batch_size, workers = choice.open(), choice.batch_size or BATCH_SIZE, choice.workers
        network = network_of(model, architecture, choice.preprocessing, match_keys)
        # the architecture is that of a file: a recipe says its own
        theirs = architecture if isinstance(original, str | os.PathLike) and os.path.isfile(os.fspath(original)) else None
        compared = None if original is None else network_of(original, theirs, choice.preprocessing)
        settings = {
            "batch_size": batch_size, "workers": workers, "amp": amp, "channels_last": channels_last, "limit": choice.limit,
            "original": compared.source if compared else None, "preprocessing": network.preprocessing,
        }  # fmt: skip
        found = evaluation.evaluate(
            network, images, original=compared, batch_size=batch_size, workers=workers, device=device, amp=amp,
            channels_last=channels_last, progress=progress,
        )  # fmt: skip
        if not keep:
            return found
        run_id = runs.new_id("evaluate")
        known = network.metadata
        self._runs.put(
            {
                "run_id": run_id, "kind": "evaluate", "model": network.name, "source": network.source,
                "architecture": network.architecture, "bank": about.bank or known.get("bank"),
                "mode": about.mode or known.get("mode"),
                "data": images.name, "split": choice.split, "part": choice.part, "images": found.images, "seed": choice.seed,
                "device": found.device, "parent": about.parent or known.get("run_id"), "settings": settings,
                "started_at": started, "finished_at": runs.now(),
            },
            [{"split": choice.split, "metric": name, "value": value} for name, value in found.metrics().items()],
        )  # fmt: skip
        return replace(found, run_id=run_id)


def network_of(
    model: str | os.PathLike[str] | Network | nn.Module,
    architecture: str | None,
    preprocessing: Mapping[str, Any] | None,
    match_keys: Literal["name", "order"] = "name", images: bool = True,
) -> Network:  # fmt: skip
    """A network from whatever names it."""
    from torch import nn

    from filterdb.networks import Network, load
    from filterdb.networks.network import preprocessing_of

    if isinstance(model, nn.Module):
        return Network.of(model, preprocessing, images=images)
    if isinstance(model, Network):
        if not preprocessing:
            return model
        return replace(model, preprocessing=preprocessing_of(model.module, {**model.preprocessing, **preprocessing}))
    if not isinstance(model, str | os.PathLike):
        raise InvalidArgument(
            f"A {type(model).__name__} is no network. Give a source such as timm:NAME, a file, or an nn.Module."
        )
    hub = os.fspath(model).startswith(("timm:", "hf:"))
    return load(model, architecture=None if hub else architecture, preprocessing=preprocessing, match_keys=match_keys)
