"""The verbs of runs: evaluate a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from filterdb.database.base import Base
from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import nn

    from filterdb.images import ImageSet
    from filterdb.networks import Network
    from filterdb.networks.evaluation import Evaluation

Progress = Callable[[str, int, int], None]


class RunVerbs(Base):
    """``evaluate``."""

    def evaluate(
        self, model: str | os.PathLike[str] | Network | nn.Module, data: str | ImageSet, *, architecture: str | None = None,
        original: str | os.PathLike[str] | Network | nn.Module | None = None, split: str | None = None,
        part: str | None = None, limit: int | None = None, seed: int = 0, batch_size: int = 64, workers: int = 0,
        device: str | None = None, amp: bool = False, channels_last: bool = False,
        preprocessing: Mapping[str, Any] | None = None, bank: str | None = None, mode: str | None = None,
        parent: str | None = None, keep: bool = True, progress: Progress | None = None,
    ) -> Evaluation:  # fmt: skip
        """Measure a network on images, and keep what came out in ``runs`` and ``metrics``.

        Args:
            model: a source (``timm:NAME``, a checkpoint file; see ``filterdb.networks.load``), a network, or an nn.Module.
            data: a source of images (see ``filterdb.images.open_images``), or a set of images.
            architecture: what a file is the weights of, where it does not say so: also of an original that is a file.
            original: the network to compare with: gives agreement and KL. With one, images need no labels.
            split: which split of the data.
            part: ``K/N``, counted from 0: one of N disjoint parts, drawn at random by ``seed``, such as 0/2 for a half.
            limit: that many images at most, drawn at random by ``seed`` (from the part).
            seed: of part and limit.
            batch_size: images at a time.
            workers: processes that decode images; 0 for this one.
            device: torch's; by default the GPU where there is one.
            amp: autocast: bfloat16, or float16 on GPUs without it.
            channels_last: the memory layout of channels last.
            preprocessing: how images are prepared, where it is not as the model says; a module that timm did not build needs it.
            bank: the bank that the kernels are of, for the table; by default as the model's file says.
            mode: how the model was made, for the table; by default as the model's file says.
            parent: the run_id of the run that this belongs to, for the table.
            keep: False stores nothing.
            progress: called with what is being done, how many images are done, and how many there are.

        Returns:
            top1, top5, agreement (shares in [0, 1]), loss and kl (nats), images, seconds, notes, and the run_id.

        Raises:
            DataError: no images, broken ones, or no labels.
            SourceError, NotFound, InvalidArgument: a model that is not there, or not of that architecture.
            RunError: data of other classes, logits that are not finite, out of memory.
        """
        from filterdb.networks import evaluation, runs

        if keep:
            self._writable()
        started = runs.now()
        images = chosen_images(data, split, part, limit, seed)
        network = network_of(model, architecture, preprocessing)
        compared = None if original is None else network_of(original, architecture, preprocessing)
        settings = {
            "batch_size": batch_size, "workers": workers, "amp": amp, "channels_last": channels_last, "limit": limit,
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
                "architecture": network.architecture, "bank": bank or known.get("bank"), "mode": mode or known.get("mode"),
                "data": images.name, "split": split, "part": part, "images": found.images, "seed": seed,
                "device": found.device, "parent": parent or known.get("run_id"), "settings": settings,
                "started_at": started, "finished_at": runs.now(),
            },
            [{"split": split, "metric": name, "value": value} for name, value in found.metrics().items()],
        )  # fmt: skip
        return replace(found, run_id=run_id)


def chosen_images(data: str | ImageSet, split: str | None, part: str | None, limit: int | None, seed: int) -> ImageSet:
    """The images that the words choose."""
    from filterdb.images import ImageSet, open_images
    from filterdb.images.image_set import parse_part

    if isinstance(data, ImageSet):
        if split is not None:
            raise InvalidArgument(f"{data.name} is an open set of images: a split is chosen when it is opened.")
        images = data
    else:
        images = open_images(os.fspath(data), split=split)
    if part is not None:
        images = images.part(*parse_part(part), seed=seed)
    return images if limit is None else images.limit(limit, seed=seed)


def network_of(
    model: str | os.PathLike[str] | Network | nn.Module, architecture: str | None, preprocessing: Mapping[str, Any] | None
) -> Network:
    """A network from whatever names it."""
    from torch import nn

    from filterdb.networks import Network, load
    from filterdb.networks.network import preprocessing_of

    if isinstance(model, nn.Module):
        return Network.of(model, preprocessing)
    if isinstance(model, Network):
        if not preprocessing:
            return model
        return replace(model, preprocessing=preprocessing_of(model.module, {**model.preprocessing, **preprocessing}))
    if not isinstance(model, str | os.PathLike):
        raise InvalidArgument(
            f"A {type(model).__name__} is no network. Give a source such as timm:NAME, a file, or an nn.Module."
        )
    hub = os.fspath(model).startswith(("timm:", "hf:"))
    return load(model, architecture=None if hub else architecture, preprocessing=preprocessing)
