"""Runs and their metrics as tables: kept, replaced, read, verified; ``evaluate`` in Python and on the command line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import command
import numpy as np
import pytest
import timm
import torch
from command import run
from conftest import put, random_kernels
from pictures import write_rows
from tiny import CLASSES, CONFIG, COUNT, Tiny

from filterdb import Database, Images
from filterdb.database.run_verbs import About
from filterdb.errors import DataError, InvalidArgument, NotFound, RunError, StoreError
from filterdb.images import open_images
from filterdb.networks import Network, load, save
from filterdb.networks.evaluation import evaluate
from filterdb.networks.runs import METRICS, RUNS, RunStore, new_id
from filterdb.store import Place

here = command.here
"""The command line in this process."""
ROW = {"run_id": "r1", "kind": "train", "model": "net", "seed": 3, "settings": {"lr": 0.1, "path": ["a"]}}


def curve(epochs: int, value: float = 0.5) -> list[dict]:
    """Metrics of a training."""
    return [{"step": 10 * e, "epoch": e, "split": "val", "metric": "top1", "value": value + e} for e in range(epochs)]


def rows(db: Database, table: str) -> list[tuple]:
    return db.sql(f"SELECT * FROM {table} ORDER BY ALL").fetchall()


# -- the store -----------------------------------------------------------------------------------------------------------------


def test_a_run_is_kept_and_replaced_whole(db):
    db._runs.put({**ROW, "status": "running"}, curve(3))
    assert db.sql("SELECT run_id, step, epoch, split, metric, value FROM metrics ORDER BY step").fetchall() == [
        ("r1", 10 * e, e, "val", "top1", 0.5 + e) for e in range(3)
    ]
    db._runs.put(ROW, curve(1, 7))
    assert db.sql("SELECT run_id, kind, model, seed, status, settings->>'lr', bank FROM runs").fetchall() == [
        ("r1", "train", "net", 3, "finished", "0.1", None)
    ]
    assert db.sql("SELECT epoch, value FROM metrics").fetchall() == [(0, 7.0)]
    head, metrics = db._runs.get("r1")
    assert (head["settings"], len(metrics)) == (ROW["settings"], 1)
    assert db._runs.names() == ["r1"]
    db._runs.put({**ROW, "run_id": "r2", "kind": "greedy", "started_at": datetime(2026, 3, 1, tzinfo=UTC)})
    assert len(rows(db, "runs")) == 2
    db._runs.remove("r1")
    assert rows(db, "metrics") == []
    with pytest.raises(NotFound, match=r'No run "r1".*r2'):
        db._runs.get("r1")
    with pytest.raises(NotFound, match='No run "r1"'):
        db._runs.remove("r1")
    assert db.sql("SELECT started_at FROM runs").fetchall() == [(datetime(2026, 3, 1),)]


def test_the_columns_are_those_of_the_schema(db):
    for table, columns in (("runs", RUNS), ("metrics", METRICS)):
        assert db.sql(f"SELECT * FROM {table}").columns == columns.names
        assert rows(db, table) == []


def test_a_run_that_cannot_be_stored_is_told_and_changes_nothing(db):
    db._runs.put(ROW, curve(1))
    before = rows(db, "runs"), rows(db, "metrics")
    cases = [
        ({**ROW, "modle": 1}, (), NotFound, 'Did you mean "mode" or "model"'),
        ({**ROW, "kind": "trian"}, (), NotFound, 'Did you mean "train"'),
        ({**ROW, "status": "done"}, (), NotFound, "There are: failed, finished, interrupted, running"),
        ({"kind": "train"}, (), InvalidArgument, "A run needs a run_id"),
        ({**ROW, "seed": "three"}, (), InvalidArgument, "does not fit its column of runs"),
        (ROW, [{"metric": "top1", "valeu": 1}], NotFound, 'Did you mean "value"'),
        (ROW, [{"metric": "top1", "value": "high"}], InvalidArgument, "does not fit its column of metrics"),
        (ROW, [{"value": 1.0}], InvalidArgument, "a number without a name"),
    ]  # fmt: skip
    for head, metrics, kind, message in cases:
        with pytest.raises(kind, match=message) as told:
            db._runs.put(head, metrics)
        assert "\n" not in str(told.value)
    assert (rows(db, "runs"), rows(db, "metrics")) == before


def test_many_write_at_once(tmp_path):
    """Each in a store of its own, as processes have; two of them on the same run."""

    def write(i: int) -> None:
        store = RunStore(Place(str(tmp_path / "filters")))
        for turn in range(3):
            store.put({"run_id": f"r{i // 2}", "kind": "train", "seed": i}, curve(turn + 1, i))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    db = Database(tmp_path / "filters")
    found = db.sql(
        "SELECT run_id, seed, count(*), min(value) FROM runs JOIN metrics USING (run_id) GROUP BY ALL ORDER BY 1"
    ).fetchall()
    assert [(name, count) for name, _, count, _ in found] == [("r0", 3), ("r1", 3), ("r2", 3)]
    assert all(seed == least and f"r{seed // 2}" == name for name, seed, _, least in found)
    assert db.verify().ok


def test_runs_are_verified_repaired_and_vacuumed(db):
    put(db, "net", {"conv": random_kernels(3)})
    db._runs.put(ROW, curve(2))
    db._runs.put(ROW, curve(3))
    assert db.verify().ok
    kept = rows(db, "metrics")
    assert db.vacuum() > 0
    assert rows(db, "metrics") == kept
    assert len(list(db.path.glob("metrics/slug=*/*.parquet"))) == 1
    db._runs.put({**ROW, "run_id": "r2"}, curve(1))
    for path in db.path.glob("metrics/slug=r1/*.parquet"):
        path.write_bytes(path.read_bytes()[:-7])
    report = db.verify()
    assert not report.ok
    assert "r1" in report.problems[0]
    with pytest.raises(StoreError, match='The run "r1" is damaged'):
        db._runs.get("r1")
    assert db.verify(repair=True).repaired
    assert db._runs.names() == ["r2"]
    assert db.verify().ok
    assert db.models == ["net"]


def test_an_old_version_of_the_models_still_shows_the_runs_of_today(db):
    put(db, "net", {"conv": random_kernels(3)})
    version = db.version
    put(db, "more", {"conv": random_kernels(3)})
    db._runs.put(ROW)
    old = Database(db.path, as_of=version)
    assert (old.models, old.sql("SELECT run_id FROM runs").fetchall()) == (["net"], [("r1",)])
    with pytest.raises(StoreError, match="read only"):
        old.evaluate("demo", "nowhere")


# -- evaluate ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images as a Parquet file, a network as a file that says what it is, and one that it was made from."""
    root = tmp_path_factory.mktemp("made")
    labels = np.random.default_rng(0).integers(0, CLASSES, COUNT).tolist()
    images = write_rows(root / "s.parquet", [*range(COUNT)], labels, names=[*"abcdefghi"])
    nets = {}
    for seed, name in enumerate(("original", "frozen")):
        torch.manual_seed(seed)
        net = timm.create_model("test_convnext", num_classes=CLASSES)
        with torch.no_grad():
            net.head.fc.weight.normal_()
        about = {"bank": "greedy8", "mode": "replaced", "run_id": "freeze-1"} if seed else {}
        nets[name] = save(Network.of(net, {"input_size": (3, 32, 32)}), root / f"{name}.safetensors", about)
    return images, nets["original"], nets["frozen"]


def test_an_evaluation_is_a_row_with_its_metrics(db, made):
    images, original, frozen = made
    found = db.evaluate(str(frozen), Images(str(images), part="1/2", limit=12, seed=5, batch_size=5), original=str(original))
    whole = open_images(str(images))
    expected = evaluate(load(frozen), whole.part(1, 2, seed=5).limit(12, seed=5), original=load(original))
    assert found.metrics() == pytest.approx(expected.metrics(), rel=1e-5)
    assert found.images == 12
    row = dict(zip(RUNS.names, rows(db, "runs")[0], strict=True))
    assert row["run_id"] == found.run_id
    assert {key: row[key] for key in ("kind", "model", "source", "architecture", "bank", "mode", "parent")} == {
        "kind": "evaluate", "model": "frozen", "source": str(frozen), "architecture": "test_convnext", "bank": "greedy8",
        "mode": "replaced", "parent": "freeze-1",
    }  # fmt: skip
    assert {key: row[key] for key in ("data", "split", "part", "images", "seed", "device", "status")} == {
        "data": str(images), "split": None, "part": "1/2", "images": 12, "seed": 5, "device": found.device, "status": "finished",
    }  # fmt: skip
    settings = json.loads(row["settings"])
    assert (settings["limit"], settings["batch_size"], settings["original"]) == (12, 5, str(original))
    assert settings["preprocessing"]["input_size"] == [3, 32, 32]
    assert row["started_at"] < row["finished_at"]
    assert {metric: value for _, _, _, _, metric, value in rows(db, "metrics")} == found.metrics()


def test_what_is_not_kept_leaves_no_trace(db, made):
    images, original, _ = made
    assert db.evaluate(original, str(images), keep=False).run_id is None
    assert not db.exists()
    with pytest.raises(DataError, match="There is no"):
        db.evaluate(original, "nowhere")
    assert not db.exists()


def test_halves_are_disjoint_and_make_up_the_whole(db, made):
    images, original, _ = made
    halves = [db.evaluate(original, Images(str(images), part=f"{k}/2")) for k in (0, 1)]
    whole = db.evaluate(original, open_images(str(images)))
    assert sum(half.images for half in halves) == whole.images == COUNT
    for name, value in whole.metrics().items():
        if name.endswith("_se"):
            continue
        assert sum(half.images * half.metrics()[name] for half in halves) / COUNT == pytest.approx(value, rel=1e-5)


def test_modules_and_networks_are_evaluated_too(db, made):
    images = str(made[0])
    mine = db.evaluate(Tiny(), Images(images, preprocessing=CONFIG), about=About("mine", "by hand"))
    same = db.evaluate(
        Network.of(Tiny(), {"input_size": (3, 20, 20)}),
        Images(images, preprocessing=CONFIG),
        original=Network.of(Tiny(), CONFIG),
    )
    assert (mine.top1, same.top1, same.agreement) == (mine.top1, mine.top1, 1)
    answer = db.sql("SELECT model, bank, mode, source FROM runs ORDER BY started_at").fetchall()
    assert answer == [("Tiny", "mine", "by hand", "module:Tiny"), ("Tiny", None, None, "module:Tiny")]
    for wrong, message in (
        (lambda: db.evaluate(Tiny(), images), "does not say how"),
        (lambda: db.evaluate(3, images), "A int is no network"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            wrong()
    for part in ("2", "2/2", "a/b", "1/0", "-1/2"):
        with pytest.raises(InvalidArgument, match="part"):
            db.evaluate(made[1], Images(images, part=part))
    with pytest.raises(InvalidArgument, match="is an open set of images"):
        db.evaluate(made[1], Images(open_images(images), split="test"))
    with pytest.raises(RunError, match="the labels do not mean its classes"):
        db.evaluate("demo", images)
    assert len(rows(db, "runs")) == 2


def test_run_ids_differ():
    assert len({new_id("train") for _ in range(1000)}) == 1000


# -- the command line ----------------------------------------------------------------------------------------------------------


def test_evaluate_on_the_command_line(tmp_path, made, here):
    images, original, frozen = made
    db = tmp_path / "filters"
    text = run("evaluate", frozen, "--data", images, "--original", original, "--workers", "1", db=db)
    expected = evaluate(load(frozen), open_images(str(images)), original=load(original))
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    for name in ("top1", "agreement", "top1_difference"):
        value, error = getattr(expected, name), getattr(expected, f"{name}_se")
        assert lines[name] == [f"{100 * value:.2f}", "%", f"{name}_se", f"{100 * error:.2f}", "%"]
    assert lines["kl"] == [f"{expected.kl:.4f}", "nats"]
    assert "37 images on" in text
    [row] = json.loads(here("query", "evaluations", "--format", "json", db=db))
    assert row["run_id"] in text
    assert (row["model"], row["bank"], row["mode"]) == ("frozen", "greedy8", "replaced")
    assert row["top1"] == pytest.approx(100 * expected.top1, abs=0.01)
    said = ("--limit", "9", "--input-size", "40", "--crop-pct", "1", "--json", "--no-keep")
    told = json.loads(here("evaluate", original, "--data", images, *said, db=db))
    assert (told["images"], told["run_id"], told["agreement"]) == (9, None, None)
    again = evaluate(
        load(original, preprocessing={"input_size": (3, 40, 40), "crop_pct": 1.0}), open_images(str(images)).limit(9)
    )
    assert told["loss"] == pytest.approx(again.loss, rel=1e-5)
    assert len(json.loads(here("sql", "SELECT * FROM runs", "--format", "json", db=db))) == 1


def test_errors_on_the_command_line_are_one_line(tmp_path, made, here):
    images, original, _ = made
    cases = [
        (("demo", "--data", images), "has 9 classes, demo has 100"), (("dmeo", "--data", images), 'Did you mean "demo"'),
        ((original, "--data", tmp_path / "no"), "There is no"), ((original, "--data", images, "--part", "3"), "is not a part"),
    ]  # fmt: skip
    for arguments, message in cases:
        assert message in here("evaluate", *arguments, code=1, db=tmp_path / "filters")
    assert not (tmp_path / "filters").exists()
