"""The verb of training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filterdb.database.base import Base

if TYPE_CHECKING:
    from filterdb.images import ImageSet
    from filterdb.training import Trained

Progress = Callable[[str, int, int], None]


class TrainingVerbs(Base):
    """``train``."""

    def train(
        self, model: str, data: str | ImageSet, val_data: str | ImageSet, out: str | os.PathLike[str], *,
        split: str | None = None, val_split: str | None = None, val_limit: int | None = None, workers: int = 0,
        device: str | None = None, evaluate_every: int = 1, save_seconds: float = 600, keep_every: int | None = None,
        keep: bool = True, parent: str | None = None, progress: Progress | None = None, **settings: Any,
    ) -> Trained:  # fmt: skip
        """Train a network whose depthwise kernels are frozen, or come from a bank; or any network, the ordinary way.

        Args:
            model: a timm architecture, or demo.
            data, val_data: labelled images to train on and to validate on, see ``filterdb.images.open_images``.
            out: the folder of the run. Where a training of the same settings was stopped there, it goes on.
            split, val_split: which split of the data.
            val_limit: validate on that many images at most, drawn at random.
            workers: processes that decode and augment images.
            device: torch's; by default the GPU where there is one. Under torchrun each process takes its own.
            evaluate_every: epochs between evaluations; the last epoch always ends with one.
            save_seconds: the least time between states that are kept within an epoch; at its end one is kept anyway.
            keep_every: epochs between checkpoints of the kernels, ``run:OUT/checkpoints`` for ingest; by default ten of a run.
            keep: False stores nothing in ``runs`` and ``metrics``.
            parent: the run_id of the run that this belongs to, for the table.
            progress: called with what is being done, the steps done, and how many there are.
            settings: ``filterdb.training.Settings``: mode, bank, weights, filters, epochs, lr and so on.

        Returns:
            The network, the path of its file, top1, and the metrics of each epoch.

        Raises:
            InvalidArgument, NotFound: settings, banks or architectures that are not there or do not fit.
            DataError: no images, broken ones, or no labels.
            RunError: a loss that is no number, out of memory, or a folder with another training.
        """
        from filterdb.errors import InvalidArgument
        from filterdb.images import open_images
        from filterdb.networks import runs
        from filterdb.training import Settings, train

        first = int(os.environ.get("RANK", "0")) == 0
        keep = keep and first
        if keep:
            self._writable()
        known = set(Settings.__dataclass_fields__) - {"model"}
        if unknown := sorted(set(settings) - known):
            raise InvalidArgument(f"A training has no setting {unknown[0]}. There are: {', '.join(sorted(known))}.")
        chosen = Settings(model, **settings)
        images = open_images(data, split=split) if isinstance(data, str) else data
        validation = open_images(val_data, split=val_split) if isinstance(val_data, str) else val_data
        if val_limit is not None:
            validation = validation.limit(val_limit)
        folder = Path(out)
        started = runs.now()
        run: dict[str, Any] = {
            "run_id": _run_id(folder), "kind": "train", "model": folder.name, "source": str(out), "architecture": model,
            "bank": chosen.bank, "mode": chosen.mode, "data": images.name, "split": split, "seed": chosen.seed, "parent": parent,
            "images": chosen.train_images or len(images), "settings": chosen.to_dict(), "started_at": started,
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
                chosen, images, validation, folder, bank=self._banks.load, workers=workers, device=device,
                evaluate_every=evaluate_every, save_seconds=save_seconds, keep_every=keep_every, told=told, progress=progress,
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
    """The run of a folder: the same when it goes on."""
    from filterdb.networks import runs

    note = folder / "run_id"
    if note.is_file() and (there := note.read_text("utf-8").strip()):
        return there
    folder.mkdir(parents=True, exist_ok=True)
    made = runs.new_id("train")
    if int(os.environ.get("RANK", "0")) == 0:
        note.write_text(made + "\n", "utf-8")
    return made
