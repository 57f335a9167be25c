"""``Monitor``: what is stored is what the network was at that step, training is not held up, and what goes wrong is said."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn

import filterdb
from filterdb import Database, Monitor
from filterdb.errors import InvalidArgument, RunError, SourceError, StoreError


class Net(nn.Module):
    """Two depthwise layers of 7x7 and 3x3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.wide = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.narrow = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.narrow(self.wide(self.stem(x)).relu()).mean((2, 3)))


def train(model: nn.Module, steps: int, after: object = None) -> None:
    """A loop as users have it."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(1, steps + 1):
        x = torch.randn(4, 3, 12, 12)
        nn.functional.cross_entropy(model(x), torch.arange(4) % 2).backward()
        optimiser.step()
        optimiser.zero_grad()
        if callable(after):
            after(model, step)


def test_each_step_is_stored_as_it_was_with_classes_and_words(db: Database) -> None:
    torch.manual_seed(0)
    model, seen = Net(), {}
    with Monitor(db, run="mine", dataset="noise") as monitor:

        def after(model: nn.Module, step: int) -> None:
            seen[step] = model.wide.weight.detach().numpy()[:, 0].copy()
            monitor(model, step)

        train(model, 3, after)
    assert db.models == [f"mine@{step}" for step in (1, 2, 3)]
    for step, kernels in seen.items():
        stored = db.kernels(f"mine@{step}", size="7x7")
        np.testing.assert_array_equal(stored, kernels)
    assert not np.array_equal(seen[1], seen[3])
    rows = db.sql("SELECT model, run, step, dataset FROM models ORDER BY step").fetchall()
    assert rows == [(f"mine@{step}", "mine", step, "noise") for step in (1, 2, 3)]
    # classes of the size that a classifier is for, words of every kernel
    classes = "SELECT model, count(*) FROM classes JOIN filters USING (filter_id) GROUP BY model ORDER BY model"
    assert db.sql(classes).fetchall() == [(f"mine@{step}", 8) for step in (1, 2, 3)]
    assert db.sql("SELECT count(*) FROM descriptors").fetchall() == [(48,)]
    assert db.plot("steps", run="mine").to_bytes().startswith(b"\x89PNG")


def test_a_call_does_not_wait_for_the_store(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the store held up by an event, calls return; when it is released, all steps are there."""
    gate, real = threading.Event(), filterdb.database.monitor.store
    monkeypatch.setattr("filterdb.database.monitor.store", lambda *given: gate.wait(60) and real(*given))
    monitor, model = Monitor(db, run="r", classifier=[]), Net()
    for step in range(5):
        monitor(model, step)
    assert not db.exists()
    gate.set()
    monitor.close()
    assert len(db.models) == 5


def test_a_resumed_run_replaces_its_steps(db: Database) -> None:
    for value in (1.0, 2.0):
        model = Net()
        nn.init.constant_(model.wide.weight, value)
        with Monitor(db, run="r", classifier=[]) as monitor:
            monitor(model, 7)
    assert db.models == ["r@7"]
    assert set(np.asarray(db.kernels("r@7", size="7x7")).ravel()) == {2.0}


def test_wrapped_networks_are_the_network(db: Database) -> None:
    with Monitor(db, run="r", classifier=[]) as monitor:
        monitor(nn.DataParallel(Net()), 1)
        monitor(torch.compile(Net()), 2)
    assert db.sql("SELECT DISTINCT layer FROM filters ORDER BY layer").fetchall() == [("narrow",), ("wide",)]


def test_what_cannot_be_stored_is_said_with_its_step(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise StoreError("No space left on the disk.")

    model, monitor = Net(), Monitor(db, run="r", classifier=[])
    monkeypatch.setattr("filterdb.database.monitor.store", full)
    monitor(model, 4)
    with pytest.raises(RunError, match=r"Step 4 of r was not stored: No space left"):
        monitor.flush()
    monitor.close()
    with torch.no_grad():
        model.wide.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(SourceError, match="NaN"):  # a training that diverged is worth knowing at once
        monitor(model, 5)
    with pytest.raises(SourceError, match="no depthwise"):
        Monitor(db, run="r")(nn.Linear(2, 2), 1)
    for wrong in ("", " r", "a\nb"):
        with pytest.raises(InvalidArgument, match="needs a name"):
            Monitor(db, run=wrong)


def test_the_lightning_callback_of_the_docs(db: Database) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    monitor = Monitor(db, run="lit", classifier=[])

    class KeepKernels(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step % 2 == 0:
                monitor(module.model, trainer.global_step)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Net()

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(torch.randn(16, 3, 12, 12), torch.arange(16) % 2)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[KeepKernels()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
    monitor.close()
    assert db.models == ["lit@2", "lit@4"]


def test_the_hook_for_timms_train_script_of_the_docs(db: Database, tmp_path) -> None:
    """Steps of timm's own parts, with the three lines of the docs: timm's script is not part of its wheel."""
    from timm.optim import create_optimizer_v2

    model = Net()
    optimizer, num_updates = create_optimizer_v2(model, opt="adamw", lr=1e-3), 0
    monitor = Monitor(db, run="timm", classifier=[])
    while num_updates < 4:
        model(torch.randn(2, 3, 12, 12)).square().mean().backward()
        optimizer.step()
        num_updates += 1
        if num_updates % 2 == 0:
            monitor(model, num_updates)
    monitor.close()
    assert db.models == ["timm@2", "timm@4"]
