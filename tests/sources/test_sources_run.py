"""Training runs: every checkpoint of a folder is a model called RUN@STEP, and older databases take the new column."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import timm
import torch
from command import run as filterdb
from conftest import put, random_kernels
from safetensors.torch import save_file

from filterdb import Database
from filterdb.errors import FilterdbError, InvalidArgument, SourceError, StoreError
from filterdb.sources import Options, recipes, resolve
from filterdb.sources.run import step_of
from filterdb.store import schema


def weights(seed: int) -> dict[str, torch.Tensor]:
    """A network of one depthwise layer."""
    return {"dw.weight": torch.from_numpy(random_kernels(3, 5, 5, seed=seed))[:, None].contiguous()}


def save(path: Path, seed: int = 0, step: str | None = None) -> None:
    """A checkpoint in the format of its suffix; ``step`` goes into the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(weights(seed), path, {"step": step} if step is not None else {"format": "pt"})
    else:
        torch.save({"model": weights(seed), "optimizer": {"lr": 0.1}}, path)


def steps(folder: Path, **options: object) -> dict[str, str]:
    """The files of a run by the names of their models, in order."""
    return {
        str(one.name): Path(one.source).relative_to(folder).as_posix()
        for one in resolve(f"run:{folder}", Options(**options))  # type: ignore[arg-type]
    }


def test_each_checkpoint_is_a_model_called_after_its_step(tmp_path: Path, db: Database) -> None:
    for step, name in [(12000, "net_00012000.pth"), (500, "net_00000500.safetensors"), (2000, "net_00002000.pth.tar")]:
        save(tmp_path / "toy" / name, seed=step)
    outcomes = db.ingest(f"run:{tmp_path / 'toy'}", dataset="cifar-10")
    assert [(outcome.model, outcome.status) for outcome in outcomes] == [
        ("toy@500", "ingested"), ("toy@2000", "ingested"), ("toy@12000", "ingested"),
    ]  # fmt: skip
    assert db.sql("SELECT step, run, model FROM models ORDER BY step").fetchall() == [
        (500, "toy", "toy@500"), (2000, "toy", "toy@2000"), (12000, "toy", "toy@12000"),
    ]  # fmt: skip
    assert db.sql("SELECT DISTINCT dataset FROM models").fetchall() == [("cifar-10",)]
    assert db.sql("SELECT source FROM models WHERE step = 500").fetchall() == [(f"{tmp_path}/toy/net_00000500.safetensors",)]
    for step in (500, 2000, 12000):
        rows = db.sql("SELECT filter_id, kernel FROM filters WHERE model = $m ORDER BY channel", m=f"toy@{step}").fetchall()
        assert [row[0] for row in rows] == schema.filter_ids(f"toy@{step}", "dw", 3).tolist()
        kernels = np.array([row[1] for row in rows], np.float32)
        np.testing.assert_array_equal(kernels, weights(step)["dw.weight"].reshape(3, 25).numpy())
    assert db.verify().ok


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=3-step=1000", 1000), ("step=1000-epoch=3", 1000), ("epoch_3_iter_40", 40), ("iter7_ckpt9", 7),
        ("epoch3", 3), ("Epoch-003", 3), ("ckpt_12", 12), ("checkpoint12", 12), ("checkpoint-500", 500), ("STEP_0004", 4),
        ("global_step250", 250), ("iteration=8", 8), ("epoch=2-val_acc=0.85", 2), ("step=1-step=2", 2), ("net_ckpt_9_ema", 9),
        ("net_00012000", 12000), ("net.1000", 1000), ("12", 12), ("net0", 0), ("step_0", 0),
        ("last", None), ("model_best", None), ("net_v1.5", None), ("val=0.85", None), ("last-v1", None), ("step_100k", None),
        ("step_0.5", None), ("net_" + "9" * 19, None), ("", None),
    ],
)  # fmt: skip
def test_the_step_in_a_name(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_the_step_in_the_metadata_wins(tmp_path: Path) -> None:
    save(tmp_path / "epoch_1.safetensors", step="400")
    save(tmp_path / "epoch_2.safetensors", step="many")
    save(tmp_path / "final.safetensors", step=" 800 ")
    save(tmp_path / "checkpoint-9" / "model.safetensors", step="900")
    (tmp_path / "epoch_3.safetensors").write_bytes(b"half a file")
    assert steps(tmp_path, name="r") == {
        "r@2": "epoch_2.safetensors", "r@3": "epoch_3.safetensors", "r@400": "epoch_1.safetensors",
        "r@800": "final.safetensors", "r@900": "checkpoint-9/model.safetensors",
    }  # fmt: skip


def test_folders_that_carry_the_number(tmp_path: Path, db: Database) -> None:
    run = tmp_path / "trainer"
    save(run / "checkpoint-500" / "model.safetensors", 1)
    save(run / "checkpoint-1000" / "pytorch_model.bin", 2)
    save(run / "checkpoint-1000" / "other.bin", 3)
    save(run / "step_1500" / "anything.pth", 4)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin", ".half.pth"):
        save(run / "checkpoint-500" / name)
        save(run / name)
    save(run / "checkpoint-2000" / "optimizer.pt")  # its weights are not written yet
    save(run / "logs" / "net_7.pth")
    save(run / ".trash-3" / "net.pth")
    (run / "events_5").mkdir()
    (run / "notes_6.txt").write_text("no checkpoint")
    assert steps(run) == {
        "trainer@500": "checkpoint-500/model.safetensors", "trainer@1000": "checkpoint-1000/pytorch_model.bin",
        "trainer@1500": "step_1500/anything.pth",
    }  # fmt: skip
    assert all(outcome.notes[1:] == [] for outcome in db.ingest(f"run:{run}"))
    save(run / "checkpoint-3000" / "model-00001-of-00002.safetensors")
    save(run / "checkpoint-3000" / "model-00002-of-00002.safetensors")
    with pytest.raises(SourceError, match=r"checkpoint-3000 holds several files of weights: model-00001-of-00002\.safetensors"):
        resolve(f"run:{run}")


def test_files_without_a_step_are_left_out_and_named(tmp_path: Path, db: Database) -> None:
    run = tmp_path / "run"
    for name in ("epoch=3-step=1000.ckpt", "epoch=7-step=2000.ckpt", "last.pth", "model_best.pth.tar"):
        save(run / name)
    first, second = db.ingest(f"run:{run}")
    assert (first.model, first.notes[-1]) == ("run@1000", "left out, without a step in their names: last.pth, model_best.pth.tar")
    assert not any("left out" in note for note in second.notes)
    assert "model_best.pth.tar" in db.sql("SELECT notes FROM models WHERE step = 1000").fetchall()[0][0]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a/last.pth", "a/best.pth"], "has a step in its name: best.pth, last.pth. Name them by their steps: net_001000.pth"),
        (["a/net_500.pth", "a/net_00500.safetensors"], "net_00500.safetensors and net_500.pth both are step 500"),
        (["a/checkpoint-5/model.safetensors", "a/net_5.pth"], "checkpoint-5/model.safetensors and net_5.pth both are step 5"),
        (["a/b/c.pth"], "holds no checkpoints"), (["a/optimizer.pt"], "holds no checkpoints"), (["a/x.txt"], "holds no"),
        (["b/net_1.pth"], "There is no folder"),
    ],
)  # fmt: skip
def test_folders_that_are_no_runs(tmp_path: Path, db: Database, files: list[str], words: str) -> None:
    for file in files:
        save(tmp_path / file)
    (outcome,) = db.ingest(f"run:{tmp_path / 'a'}", check=False)
    assert (outcome.status, outcome.model) == ("failed", None)
    assert outcome.error is not None
    assert words in outcome.error
    assert "\n" not in outcome.error


def test_other_slips_are_one_line(tmp_path: Path) -> None:
    save(tmp_path / "run" / "net_1.pth")
    for source, words in [
        ("run:", "Write run:FOLDER"), (f"run:{tmp_path}/run/net_1.pth", "is a file"), ("run:a\0b", "cannot be read"),
        ("run:" + "x" * 300, "cannot be read"), (f"{tmp_path}/run", "run:"),
    ]:  # fmt: skip
        with pytest.raises(FilterdbError, match=words) as caught:
            resolve(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidArgument, match="steps of their own, got step 0"):
        resolve(f"run:{tmp_path}/run", Options(step=0))


def test_the_name_of_a_run(tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    save(folder / "net_1.pth")
    save(folder / "net_2.pth")
    save(tmp_path / "other.pth")
    monkeypatch.chdir(folder)
    assert [one.name for one in resolve("run:.")] == ["here@1", "here@2"]
    assert [one.source for one in resolve("run:.")] == ["net_1.pth", "net_2.pth"]
    assert [one.name for one in resolve("run:../here/")] == ["here@1", "here@2"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [one.name for one in resolve("run:~/here")] == ["here@1", "here@2"]
    db.ingest("run:.", "run:.", name="mine")
    assert db.sql("SELECT model, run FROM models ORDER BY model").fetchall() == [("mine@1", "mine"), ("mine@2", "mine")]
    for second in (str(tmp_path / "other.pth"), "run:../here"):
        with pytest.raises(InvalidArgument, match="One name for"):
            db.ingest("run:.", second, name="mine")
    (tmp_path / "list.toml").write_text('[[models]]\nsource = "run:here"\n[[models]]\nsource = "other.pth"\n')
    with pytest.raises(InvalidArgument, match="One name"):
        resolve(tmp_path / "list.toml", Options(name="mine"))


def test_a_run_that_still_trains(tmp_path: Path, db: Database) -> None:
    source = f"run:{tmp_path / 'run'}"
    save(tmp_path / "run" / "net_1.pth", 1)
    (tmp_path / "run" / "net_2.safetensors").write_bytes(b"half a file")
    assert [outcome.status for outcome in db.ingest(source, check=False)] == ["ingested", "failed"]
    save(tmp_path / "run" / "net_2.safetensors", 2)
    save(tmp_path / "run" / "net_3.pth", 3)
    before = db.sql("SELECT filter_id FROM filters ORDER BY filter_id").fetchall()
    assert [outcome.status for outcome in db.ingest(source, skip_existing=True)] == ["skipped", "ingested", "ingested"]
    assert [outcome.status for outcome in db.ingest(source, skip_existing=True)] == ["skipped"] * 3
    assert set(before) < set(db.sql("SELECT filter_id FROM filters").fetchall())


ARGS = {"depths": [1, 1, 1, 1], "dims": [4, 4, 4, 4]}


def test_the_facts_of_a_run(tmp_path: Path, db: Database) -> None:
    run = tmp_path / "x"
    run.mkdir()
    for step in (1, 2):
        save_file(timm.create_model("convnext_atto", **ARGS).state_dict(), run / f"net_{step}.safetensors")
    text = 'name = "atto"\narchitecture = "convnext_atto"\narchitecture_args = { depths = [1, 1, 1, 1], dims = [4, 4, 4, 4] }\n'
    (run / "run.toml").write_text(text + 'dataset = "cifar-10"\nlicence = "MIT"\n')
    db.ingest(f"run:{run}", licence="CC0-1.0")
    wanted = "SELECT model, run, step, architecture, dataset, licence FROM models ORDER BY step"
    assert db.sql(wanted).fetchall() == [
        (f"atto@{step}", "atto", step, "convnext_atto", "cifar-10", "CC0-1.0") for step in (1, 2)
    ]  # fmt: skip
    assert db.sql("SELECT count(stride) FROM layers WHERE model = 'atto@1'").fetchall() == [(4,)]
    assert list(steps(run, name="mine")) == ["mine@1", "mine@2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step = 5", "step = 5 in .*run.toml: each checkpoint has a step of its own"), ("datasett = 'x'", "dataset"),
        ("top1 = 'high'", "run.toml is not int or float"), ("name = ", "run.toml cannot be read"),
        ("weights = 'x'", "auto, ema or raw"),
    ],
)  # fmt: skip
def test_facts_with_mistakes(tmp_path: Path, text: str, words: str) -> None:
    save(tmp_path / "net_1.pth")
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(FilterdbError, match=words) as caught:
        resolve(f"run:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_run_in_a_recipe(tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "lab" / "runs" / "a" / "net_1.pth")
    (tmp_path / "lab" / "runs" / "a" / "run.toml").write_text('dataset = "cifar-10"\nlicence = "MIT"\n')
    save(tmp_path / "package" / "data" / "b" / "net_2.pth")
    lines = ['licence = "CC0-1.0"']
    lines += [f'[[models]]\nsource = "run:{folder}"' for folder in ("runs/a", "data/b", "data/none", "nosuch", "")]
    (tmp_path / "lab" / "list.toml").write_text("\n".join(lines))
    # words and numbers lie beside each other in the package of a wheel
    monkeypatch.setattr(recipes, "folder", lambda name: tmp_path / "package" / name)
    outcomes = db.ingest(tmp_path / "lab" / "list.toml", check=False)
    assert [outcome.status for outcome in outcomes] == ["ingested", "ingested", "failed", "failed", "failed"]
    assert ["There is no folder" in str(outcome.error) for outcome in outcomes[2:]] == [True, True, False]
    assert db.sql("SELECT model, source, dataset, licence FROM models ORDER BY model").fetchall() == [
        ("a@1", "runs/a/net_1.pth", "cifar-10", "CC0-1.0"), ("b@2", "data/b/net_2.pth", None, "CC0-1.0"),
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_database_of_before_the_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    where = f"{scheme}{tmp_path / 'filters'}"
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "MODELS", schema.MODELS.remove(schema.MODELS.get_field_index("run")))
        old = Database(where)
        put(old, "m", {"conv": random_kernels(2)}, step=3)
        assert "run" not in old.sql("SELECT * FROM models").columns
    db = Database(where)
    assert db.sql("SELECT * FROM models").columns == schema.MODELS.names
    assert db.sql("SELECT model, step, run FROM models").fetchall() == [("m", 3, None)]
    assert db.verify().ok
    assert "run" not in pl.scan_delta(f"{where}/models").collect_schema()

    put(db, "a", {"conv": random_kernels(2)}, step=4, run="r")  # files before and after the old one
    put(db, "z", {"conv": random_kernels(2)}, step=5, run="r")
    rows = [("a", 4, "r"), ("m", 3, None), ("z", 5, "r")]
    assert db.sql("SELECT model, step, run FROM models ORDER BY model").fetchall() == rows
    assert sorted(pl.scan_delta(f"{where}/models").select("model", "step", "run").collect().rows()) == rows
    assert [entry["operation"] for entry in db.history()] == ["ingest", "ingest", "add columns", "ingest", "create"]
    assert Database(where, as_of=1).sql("SELECT model, run FROM models").fetchall() == [("m", None)]
    db.remove("m")
    put(db, "a", {"conv": random_kernels(3)})
    assert db.sql("SELECT model, run FROM models ORDER BY model").fetchall() == [("a", None), ("z", "r")]
    report = db.verify()
    assert (report.problems, report.leftovers) == ([], [])


def test_a_damaged_file_of_a_single_model_is_still_one_line(db: Database) -> None:
    put(db, "net", {"conv": random_kernels(2)})
    path = db.path / db._models.path("models", "net", db._models.snapshot().editions["net"])
    path.write_bytes(path.read_bytes()[:-100])
    assert filterdb("sql", "SELECT * FROM models", code=1, db=db.path).count("\n") == 1
    path.unlink()
    with pytest.raises(StoreError, match="verify --repair"):
        Database(db.path).sql("SELECT * FROM models")


def test_on_the_command_line(tmp_path: Path) -> None:
    db = tmp_path / "filters"
    for name in ("checkpoint-10/model.safetensors", "checkpoint-20/model.safetensors", "last.pth"):
        save(tmp_path / "demo run" / name)
    assert "2 models with 6 kernels stored" in filterdb("ingest", "run:demo run", "--name", "toy", db=db, cwd=tmp_path)
    outcomes = json.loads(filterdb("ingest", "run:demo run", "--name", "toy", "--skip-existing", "--json", db=db, cwd=tmp_path))
    assert [(outcome["model"], outcome["status"]) for outcome in outcomes] == [("toy@10", "skipped"), ("toy@20", "skipped")]
    rows = filterdb("sql", "SELECT step, run, model FROM models ORDER BY step", "--format", "csv", db=db)
    assert rows == "step,run,model\n10,toy,toy@10\n20,toy,toy@20\n"
    assert "Leave it out" in filterdb("ingest", "run:demo run", "--step", "5", code=1, db=db, cwd=tmp_path)
    assert "One name for 3" in filterdb("ingest", "run:demo run", "demo run/last.pth", "--name", "x", code=1, db=db, cwd=tmp_path)
