"""Clusters on the command line: real processes, from training to a report, labels, files and back."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from command import run
from conftest import put, random_kernels
from made import made_kernels

from filterdb import Database
from filterdb.clusters import labels, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of a model and a training run of two steps with 5x7 kernels, and 3x3 kernels."""
    db = Database(tmp_path_factory.mktemp("cli") / "filters")
    kernels = made_kernels(580)[0].reshape(-1, 7, 7)[:, 1:6]
    put(db, "net", {"first": kernels[:300], "second": kernels[300:520]}, dataset="toys", params=9000, top1=75.5)
    put(db, "toy@1", {"conv": random_kernels(20, 5, 7)}, run="toy", step=1)
    put(db, "toy@20", {"conv": kernels[520:]}, run="toy", step=20)
    put(db, "tiny", {"conv": random_kernels(6, 3, 3)})
    return db.path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_path_through_all_that_clusters_can_do(folder, tmp_path):
    report = tmp_path / "new" / "report"
    flags = ["--size", "5x7", "--epochs", "12", "--restarts", "2", "--seed", "4"]
    said = run("cluster", *flags, "--threshold", "0.6", "--name", "mine", "--report", report, db=folder)
    assert "mine: autoencoder, 580 distinct 5x7 kernels of 2 models, seed 4, threshold 0.6" in said  # not of the first step
    assert "held-out loss of the 2 restarts" in said
    for words in ("Stretches of the spectrum", "Share clustered, by model", "toy@1", f"wrote {report / 'models.csv'}"):
        assert words in said

    # The report.
    names = {f"{one}.csv" for one in ("models", "classes", "layers", "steps")} | {"labels.toml"}
    names |= {f"{one}.png" for one in ("spectrum", "samples", "layers", "steps")}
    assert {path.name for path in report.iterdir()} == names
    assert all(str(report / name) in said for name in names)
    table = rows(report / "models.csv")
    assert list(table[0]) == ["model", "dataset", "filters", "percent_clustered", "mean_template_score", "params", "top1"]
    assert {row["model"]: int(row["filters"]) for row in table} == {"net": 520, "toy@1": 20, "toy@20": 60}
    [net] = [row for row in table if row["model"] == "net"]
    assert (net["dataset"], net["params"], net["top1"]) == ("toys", "9000", "75.5")
    assert float(net["percent_clustered"]) > 0
    shares = defaultdict(float)
    for row in rows(report / "layers.csv"):
        shares[row["model"], row["layer"]] += float(row["percent"])
    assert dict(shares) == pytest.approx(dict.fromkeys(
        [("net", "first"), ("net", "second"), ("toy@1", "conv"), ("toy@20", "conv")], 100), abs=0.1)  # fmt: skip
    assert [*dict.fromkeys(row["step"] for row in rows(report / "steps.csv"))] == ["1", "20"]
    for picture in report.glob("*.png"):
        data = picture.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert data[-8:-4] == b"IEND"
        assert len(data) > 5000

    # Another method, to be compared and controlled.
    facts = json.loads(
        run("cluster", "--size", "5x7", "--method", "kmeans", "--classes", "7", "--name", "k", "--json", db=folder)
    )
    assert (facts["name"], facts["threshold"], len(facts["stretches"]), facts["report"]) == ("k", 0.2, 7, [])
    listed = json.loads(run("cluster", "list", "--json", db=folder))
    assert [(row["classifier"], row["method"], row["kernels"]) for row in listed] == [
        ("k", "kmeans", 580), ("mine", "autoencoder", 580),
    ]  # fmt: skip
    [compared] = json.loads(run("cluster", "compare", "mine", "k", "--json", db=folder))
    assert (compared["first"], compared["second"], compared["kernels"], compared["threshold"]) == ("mine", "k", 600, 0.6)
    assert 0 < compared["first_clustered"] < compared["second_clustered"] <= 1
    controls = json.loads(run("cluster", "control", "k", "--json", db=folder))
    assert [row["kernels"] for row in controls] == ["trained", "gaussian noise", "shuffled taps"]  # no known network has 5x7
    assert controls[0]["clustered"] > 0.7 > 0.1 > controls[1]["clustered"]

    # Labels out, edited, and in again.
    file = tmp_path / "labels.toml"
    assert "wrote 7 stretches" in run("cluster", "label", "k", file, "--write", db=folder)
    [first, *_] = labels.read(file).stretches
    file.write_text(file.read_text().replace(f'class = "{first.name}"\nfrom = 0.0', 'class = "a person\'s own"\nfrom = 0.0'))
    assert "7 stretches, threshold 0.2" in run("cluster", "label", "k", file, db=folder)
    facts = json.loads(run("cluster", "show", "k", "--json", db=folder))
    assert facts["stretches"][0]["name"] == "a person's own"
    told = json.loads(run("classify", "--classifier", "k", "--json", db=folder))
    assert len(told) == 600
    assert {"a person's own", "other"} <= {row["class"] for row in told}
    shares = {row["model"]: row["percent_clustered"] for row in json.loads(
        run("query", "clustered", "--classifier", "k", "--json", db=folder))}  # fmt: skip
    for model, count in [("net", 520), ("toy@1", 20), ("toy@20", 60)]:
        clustered = sum(row["clustered"] for row in told if row["model"] == model)
        assert shares[model] == pytest.approx(100 * clustered / count, abs=0.01)
    file.write_text(file.read_text().replace("from = 3.0", "from = 3.25"))
    error = run("cluster", "label", "k", file, code=1, db=folder)
    assert error == "filterdb: labels.toml: the codes from 3 to 3.25 have no class. Close the gap.\n"

    # To a file, away, and back.
    shared = tmp_path / "mine.safetensors"
    run("cluster", "export", "mine", shared, db=folder)
    assert read(shared).to_bytes() == shared.read_bytes()
    assert run("cluster", "remove", "mine", db=folder) == "removed mine\n"
    assert Database(folder).sql("SELECT count(*) FROM classes WHERE classifier = 'mine'").fetchall() == [(0,)]
    assert "imported yours" in run("cluster", "import", shared, "--name", "yours", db=folder)
    summary = json.loads(run("classify", "--classifier", "yours", "--summary", "--json", db=folder))
    assert {(row["model"], row["percent_clustered"]) for row in summary} == {
        (row["model"], float(row["percent_clustered"])) for row in table
    }
    assert Database(folder).verify().ok


def test_a_slip_is_one_line_and_exit_code_1(folder, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    for arguments, words in [
        (["cluster"], "there are 3x3, 5x7. Choose one with --size"),
        (["cluster", "import", tmp_path / "x.safetensors"], "is not a classifier's file"),
    ]:
        error = run(*arguments, code=1, db=folder)
        assert words in error
        assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_ends_a_training_with_one_line_and_the_same_command_goes_on(folder):
    code = "from filterdb.cli import main; main()"
    flags = ["--size", "5x7", "--epochs", "400", "--restarts", "2", "--name", "long", "--db", str(folder)]
    command = [sys.executable, "-c", code, "cluster", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    state = folder / "training" / "long.pt"
    until = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("filterdb: interrupted")
    assert "Traceback" not in errors
    assert state.exists()
    assert "long" not in Database(folder).classifiers()
    assert json.loads(run("cluster", *flags[:-2], "--json", db=folder))["name"] == "long"
    assert not state.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "5x7", "list"], "put --size after list, not before it"),
        (["--db", "elsewhere", "show", "x"], "put --db after show"),
        (["--seed", "0", "remove", "x"], "put --seed after remove"),
        (["--json", "list"], "put --json after list"),
        (["--models", "a", "list"], "put --model after list"),
        (["nonsense"], "nonsense"),
        (["show"], "Missing argument"),
        (["compare", "a"], "Missing argument"),
        (["--epochs", "many"], "--epochs"),
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path, arguments, words):
    assert words in run("cluster", *arguments, code=2, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
