"""``python -m tests.gpu`` at toy size on the CPU: every piece, what is finished, and what is not."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import picture, write_rows
from safetensors.numpy import load_file

from filterdb import Database, networks
from tests.gpu import correctness, data, training
from tests.gpu.__main__ import main
from tests.gpu.results import Job

TRAIN, VALIDATION, CLASSES = 64, 32, 4
MODES = [name for name, given in training.MODES.items() if given.get("bank") != "greedy9"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Parquet files, and the pack of them."""
    folder = tmp_path_factory.mktemp("images")
    write_rows(folder / "tiny-train.parquet", [*range(TRAIN)], [i % CLASSES for i in range(TRAIN)])
    write_rows(folder / "tiny-val.parquet", [*range(TRAIN, TRAIN + VALIDATION)], [i % CLASSES for i in range(VALIDATION)])
    data.pack(folder, folder / "images.safetensors", side=32)
    return folder


@pytest.fixture(scope="module")
def out(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all pieces."""
    folder = tmp_path_factory.mktemp("gpu") / "results"
    run(folder, images)
    return folder


def run(folder: Path, images: Path, *more: str) -> None:
    """The command."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        main(["--out", str(folder), "--device", "cpu", "--toy", "--images", str(images), *more])
    finally:
        torch.set_num_threads(threads)


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def test_the_layer_is_right_in_every_case(out: Path) -> None:
    found = read(out, "correctness")
    assert found["right"] is True
    assert (found["device"], found["toy"], found["torch"]) == ("cpu", True, torch.__version__)
    assert len(found["cases"]) == len(correctness.TOYS) * 4 + 3
    for case in found["cases"]:
        half = "bfloat16" in case["case"]
        for name in correctness.QUANTITIES:
            assert 0 <= case["errors"][name] < (1e-2 if half else 2e-6), (case["case"], name)
        assert (case["errors"]["output"] > 1e-4) == half, case["case"]  # bfloat16 was used where it says so
    assert [one["shared"] for one in found["networks"]] == [48, 48]


def test_a_wrong_gradient_is_seen() -> None:
    exact = {"output": torch.ones(3), "offset gradient": torch.tensor([1.0, 2.0])}
    wrong = exact | {"offset gradient": torch.tensor([1.0, 2.1])}
    assert correctness.judged("", "float32", exact, exact, exact)["right"] is True
    found = correctness.judged("", "float32", exact, wrong, exact)
    assert found["right"] is False
    assert found["errors"] == {"output": 0.0, "offset gradient": pytest.approx(0.05)}
    assert correctness.judged("", "float32", exact, {"output": torch.ones(3)}, exact)["right"] is False


def test_speed_compares_both_layers(out: Path) -> None:
    found = read(out, "speed")
    assert len(found["rows"]) == 4
    for row in found["rows"]:
        assert row["gain"] == row["conv"]["both"] / row["frozen"]["both"]
        assert all(row[kind][part] > 0 for kind in ("conv", "frozen") for part in ("forward", "backward", "both"))
    assert found["triton"].startswith("not measured")


def test_searches_agree(out: Path) -> None:
    found = read(out, "search")
    for name in ("nearest", "classify"):
        assert found[name]["kernels"] == 300
        assert found[name]["wrong"] == 0
        assert found[name]["largest_difference"] < 1e-5
        assert found[name]["same"] > 0.9
    assert found["fit"]["same"] == 1
    assert set(found["fit"]["rho_differences"]) == {"gaussian", "jet1"}


def test_trainings_differ_in_their_kernels_alone(out: Path) -> None:
    plan, whole = read(out, "plan"), read(out, "training")
    assert plan["epochs"] == 2
    assert plan["steps"] == TRAIN // 16
    assert set(plan["step_seconds"]) == set(whole["modes"]) >= set(MODES)
    assert whole["complete"] is True
    for name, summary in whole["modes"].items():
        runs = [read(out, f"{name}-{seed}") for seed in training.SEEDS]
        assert summary["top1"] == [one["top1"] for one in runs]
        assert summary["mean"] == pytest.approx(np.mean(summary["top1"]))
        assert summary["standard_deviation"] == pytest.approx(np.std(summary["top1"], ddof=1))
        for one in runs:
            assert (one["epochs"], one["steps"], len(one["losses"])) == (2, 8, 2)
            assert 0 < one["losses"][-1] < 3
            assert one["top1"] * VALIDATION / 100 == round(one["top1"] * VALIDATION / 100)
            assert one["standard_error"] == pytest.approx(math.sqrt(one["top1"] * (100 - one["top1"]) / VALIDATION))
            assert one["templates_moved"] == 0
            assert one["frozen_layers"] == (0 if name in ("trainable", "dog") else 4)
        assert runs[0]["losses"] != runs[1]["losses"]
    sizes = {name: read(out, f"{name}-0")["parameters"] for name in MODES}
    assert sizes["trainable"] == sizes["dog"] == sizes["greedy8"] + 48 * (8 + 8 + 16 + 16)
    assert sizes["random8"] == sizes["greedy8"]


def test_the_best_trainable_run_can_be_loaded_and_ingested(out: Path, db: Database) -> None:
    facts = json.loads((out / "best" / "facts.json").read_text())
    tops = read(out, "training")["modes"]["trainable"]["top1"]
    assert facts["top1"] == max(tops)
    network = networks.load(str(out / "best" / "model.safetensors"))
    assert network.num_classes == CLASSES
    db.ingest(f"run:{out / 'best' / 'checkpoints'}", name="best")
    assert sorted(path.stem for path in (out / "best" / "checkpoints").glob("step*")) == [
        "step_0000000", "step_0000004", "step_0000008"
    ]  # fmt: skip
    last = load_file(out / "best" / "checkpoints" / "step_0000008.safetensors")
    state = network.module.state_dict()
    assert len(last) == 4
    assert all(np.array_equal(kernels, state[name].numpy()) for name, kernels in last.items())
    assert db.sql("SELECT count(*) FROM filters").fetchall() == [(3 * 48,)]


def test_what_is_finished_is_not_run_again_and_what_is_missing_is(out: Path, images: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in out.glob("*.json") if path.name != "training.json"}
    start = time.perf_counter()
    run(out, images)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert time.perf_counter() - start < 5
    before = read(out, "dog-1")
    (out / "dog-1.json").write_text(json.dumps(before)[:100])  # a file that was cut off
    (out / "runs" / "dog-1").mkdir(exist_ok=True)
    run(out, images)
    again = read(out, "dog-1")
    assert {path.name for path, at in files.items() if path.stat().st_mtime_ns != at} == {"dog-1.json"}
    assert again["losses"] == pytest.approx(before["losses"], rel=1e-3)
    assert read(out, "training")["complete"] is True


def test_a_training_that_is_interrupted_goes_on_with_the_runs_that_are_missing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    called: list[str] = []
    trained = training.trained

    def counted(job: Job, data: Any, name: str, seed: int, epochs: int) -> dict[str, Any]:
        called.append(f"{name}-{seed}")
        if len(called) == 2:
            raise KeyboardInterrupt
        return trained(job, data=data, name=name, seed=seed, epochs=epochs)

    monkeypatch.setattr(training, "trained", counted)
    monkeypatch.setattr(training, "SEEDS", (0,))
    job = Job(tmp_path, "cpu", True, pack=images / "images.safetensors")
    with pytest.raises(KeyboardInterrupt):
        training.piece(job, (0,))
    assert called == ["trainable-0", "greedy8-0"]
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == ["plan", "trainable-0"]
    called[:] = [""] * 2
    training.piece(Job(tmp_path, "cpu", True, pack=images / "images.safetensors"), (0,))
    assert "trainable-0" not in called
    assert called[2] == "greedy8-0"
    assert read(tmp_path, "training")["complete"] is True
    assert read(tmp_path, "training")["modes"]["dog"]["standard_deviation"] is None


def test_a_run_that_does_not_fit_into_the_time_is_not_begun(images: Path, tmp_path: Path, out: Path) -> None:
    plan = read(out, "plan")
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"step_seconds": dict.fromkeys(plan["step_seconds"], 1e4)}))
    run(tmp_path, images, "--only", "training", "--minutes", "1")
    assert read(tmp_path, "training")["modes"] == {}
    assert read(tmp_path, "training")["complete"] is False
    with pytest.raises(SystemExit, match="not enough for one epoch"):
        run(tmp_path / "new", images, "--only", "training", "--minutes", "0")


def test_results_of_another_device_are_not_mixed_with_these(out: Path, tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text(json.dumps(read(out, "search") | {"device": "a GPU"}))
    with pytest.raises(SystemExit, match=r"holds results with device a GPU, not cpu\. Give another --out\."):
        main(["--out", str(tmp_path), "--device", "cpu", "--toy", "--only", "search"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no CUDA device here"):
        main(["--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


WITHOUT = """
import sys
from tests.gpu import __main__, stand_in

found, stand_in.importlib.util.find_spec = stand_in.importlib.util.find_spec, lambda name: None
install = stand_in.install
def installed():
    missing = install()
    stand_in.importlib.util.find_spec = found
    sys.meta_path.insert(0, sys.meta_path.pop())  # before the libraries that are there
    return missing
stand_in.install = installed
__main__.main(sys.argv[1:])
assert type(sys.modules["duckdb"]).__name__ == type(sys.modules["pyarrow"]).__name__ == "_Empty"
"""


def test_the_libraries_of_the_database_need_not_be_installed(images: Path, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "--out", tmp_path, "--device", "cpu", "--toy", "--images", images],
        capture_output=True, text=True, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "not installed, and not needed here: pyarrow, duckdb, deltalake" in done.stdout
    assert read(tmp_path, "training")["complete"] is True
    assert read(tmp_path, "search")["fit"]["same"] == 1


def test_a_pack_holds_as_many_images_of_each_class_as_fit(images: Path, tmp_path: Path) -> None:
    whole = data.load(images / "images.safetensors", "cpu")
    assert [len(one.labels) for one in whole[:2]] == [TRAIN, VALIDATION]
    side = np.asarray(picture(5).resize((32, 32), 3)).transpose(2, 0, 1)
    assert np.array_equal(whole[0].images[5].numpy(), side)
    size = (images / "images.safetensors").stat().st_size / 2**20
    main(["--pack", str(images), "--images", str(tmp_path), "--mebibytes", str(1.2 * size)])
    train, validation, about = data.load(tmp_path / "images.safetensors", "cpu")
    assert 0 < about["train"] == len(train.labels) < TRAIN
    assert (tmp_path / "images.safetensors").stat().st_size < 1.2 * size * 2**20
    counts = torch.bincount(train.labels, minlength=CLASSES)
    assert counts.max() - counts.min() <= 1
    assert len(validation.labels) == VALIDATION
    with pytest.raises(SystemExit, match="No training image fits"):
        data.pack(images, tmp_path / "none.safetensors", 0.001)
    with pytest.raises(SystemExit, match=r"There is no .*--pack"):
        data.load(tmp_path / "none.safetensors", "cpu")


def test_augmentation_moves_and_mirrors_images() -> None:
    images = torch.randint(1, 256, (64, 3, 12, 12), dtype=torch.uint8)
    found = data.augmented(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    assert found.dtype == torch.uint8
    padded = torch.nn.functional.pad(images, (data.PADDING,) * 4)
    seen = set()
    for before, after in zip(padded, found, strict=True):
        places = [
            (mirrored, y, x) for mirrored in (False, True) for y in range(9) for x in range(9)
            if torch.equal(after.flip(2) if mirrored else after, before[:, y : y + 12, x : x + 12])
        ]  # fmt: skip
        assert len(places) == 1
        seen |= set(places)
    assert {mirrored for mirrored, *_ in seen} == {False, True}
    assert {y for _, y, _ in seen} == {x for *_, x in seen} == set(range(9))
