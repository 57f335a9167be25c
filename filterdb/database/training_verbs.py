"""The verb of training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filterdb.database.base import Base
from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    from filterdb.images import Images, ImageSet
    from filterdb.training import Saving, Settings, Trained

    Data = str | os.PathLike[str] | ImageSet | Images

Progress = Callable[[str, int, int], None]


class TrainingVerbs(Base):
    """``train``."""

    def train(
        self, model: str | Settings, data: Data, val_data: Data, out: str | os.PathLike[str], *, saving: Saving | None = None,
        device: str | None = None, keep: bool = True, parent: str | None = None, progress: Progress | None = None,
        **settings: Any,
    ) -> Trained:  # fmt: skip
        """Train a network with frozen depthwise kernels, with kernels from a bank, or with ordinary ones.

        Args:
            model: a timm architecture, or demo; or ``filterdb.training.Settings``, which ``Settings.recipe`` reads from a recipe.
            data, val_data: labelled images to train on and to validate on: a source of ``filterdb.images.open_images``, an open
                set, or ``Images``. The workers of ``data`` also augment.
            out: the folder of the run. A training of the same settings that was stopped there is resumed.
            saving: how often it is evaluated and kept.
            device: torch device; by default the GPU if there is one. Under torchrun each process takes its own.
            keep: False stores nothing in ``runs`` and ``metrics``.
            parent: the run_id of the run that this belongs to, for the table.
            progress: called with the current stage, the steps done, and the total.
            settings: fields of ``filterdb.training.Settings``: mode, bank, weights, filters, epochs, lr and so on.

        Returns:
            The network, the path of its file, top1, and the metrics of each epoch.

        Raises:
            InvalidArgument, NotFound: settings, banks or architectures that are not there or do not fit.
            DataError: no images, broken ones, or no labels.
            RunError: a loss that is no number, out of memory, or a folder with another training.
        """
        from filterdb.images import Images
        from filterdb.networks import runs
        from filterdb.training import Saving, Settings, train

        first = int(os.environ.get("RANK", "0")) == 0
        keep = keep and first
        if keep:
            self._writable()
        chosen = replace(model, **settings) if isinstance(model, Settings) else Settings.of(model=model, **settings)
        choice, val_choice = Images.of(data), Images.of(val_data)
        for one in (choice, val_choice):
            if one.batch_size is not None or one.preprocessing is not None:
                raise InvalidArgument("batch_size and input_size are settings of the training: leave them out of the images.")
        images, validation = choice.open(), val_choice.open()
        folder = Path(out)
        started = runs.now()
        run: dict[str, Any] = {
            "run_id": _run_id(folder), "kind": "train", "model": folder.name, "source": str(out),
            "architecture": chosen.model,
            "bank": chosen.bank, "mode": chosen.mode, "data": images.name, "split": choice.split, "seed": chosen.seed,
            "parent": parent,             "images": chosen.train_images or len(images), "settings": chosen.to_dict(),
            "started_at": started,
        }  # fmt: skip
        rows: list[dict[str, Any]] = []

        def put(status: str, metrics: list[dict[str, Any]]) -> None:
            if keep:
                done: Mapping[str, Any] = {} if status == "running" else {"finished_at": runs.now()}
                self._runs.put({**run, "status": status, **done}, metrics)

        def told(metrics: list[dict[str, Any]]) -> None:
            rows[:] = metrics
            put("running", metrics)

        try:
            found = train(
                chosen, images, validation, folder, bank=self._banks.load, saving=saving or Saving(), workers=choice.workers,
                device=device, told=told, progress=progress,
            )  # fmt: skip
        except BaseException as error:
            if rows:
                put("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", rows)
            raise
        run["device"] = str(next(found.network.module.parameters()).device)
        put("finished", found.metrics)
        found.run_id = run["run_id"] if keep else None
        return found


def _run_id(folder: Path) -> str:
    """The run of a folder: the same when it is resumed."""
    from filterdb.networks import runs

    note = folder / "run_id"
    if note.is_file() and (there := note.read_text("utf-8").strip()):
        return there
    folder.mkdir(parents=True, exist_ok=True)
    made = runs.new_id("train")
    if int(os.environ.get("RANK", "0")) == 0:
        note.write_text(made + "\n", "utf-8")
    return made
