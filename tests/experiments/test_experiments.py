"""The experiments of the docs: they run, go on where they stopped, and their tables say what their CSV says."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from PIL import Image
from real import data
from safetensors.numpy import load_file

from filterdb import networks
from filterdb.experiments import replacement, training, transfer


def test_training_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(25):
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(tmp_path / "images" / label / f"{i}.png")
    given = [
        "training", "--data", str(tmp_path / "images"), "--val-data", str(tmp_path / "images"), "--out", str(tmp_path / "runs"),
        "--csv", str(tmp_path / "found.csv"), "--images", "50", "--seen", "100", "--input-size", "32",
        "--ways", "trainable", "8 frozen + bias",
    ]  # fmt: skip
    seen = []
    for seeds in ("1", "2", "2"):
        monkeypatch.setattr(sys, "argv", [*given, "--seeds", seeds])
        training.main()
        seen.append(list(csv.DictReader((tmp_path / "found.csv").open())))
    assert seen[0] == seen[1][::2]  # runs that were only looked at again keep their time too
    assert seen[1] == seen[2]
    rows = seen[2]
    assert [(row["way"], row["seed"]) for row in rows] == [
        ("trainable", "0"), ("trainable", "1"), ("8 frozen + bias", "0"), ("8 frozen + bias", "1"),
    ]  # fmt: skip
    top1 = [100 * float(row["top1"]) for row in rows[:2]]
    assert f"| trainable | {mean(top1):.1f} ± {stdev(top1):.1f} |" in capsys.readouterr().out


def test_transfer_runs_once_and_its_curve_begins_without_transfer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(25):
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(tmp_path / "images" / label / f"{i}.png")
    found = tmp_path / "found.csv"
    given = [
        "--data", str(tmp_path / "images"), "--val-data", str(tmp_path / "images"), "--out", str(tmp_path / "runs"), "--csv",
        str(found), "--images", "50", "--seen", "100", "--layers", "0", "10",
    ]  # fmt: skip
    transfer.main([*given, "--seeds", "0"])
    first = list(csv.DictReader(found.open()))
    assert [(row["source"], row["transfer_layers"]) for row in first] == [
        ("none", "0"), (transfer.DEMO, "10"), (transfer.RANDOM, "10")
    ]  # fmt: skip
    assert capsys.readouterr().out.count("seed 0: top-1") == 3
    shutil.rmtree(tmp_path / "runs")
    picture = tmp_path / "curve.png"
    transfer.main([*given, "--seeds", "0", "1", "--picture", str(picture)])
    printed = capsys.readouterr().out
    assert printed.count("seed 1: top-1") == 3
    assert "seed 0: top-1" not in printed
    rows = list(csv.DictReader(found.open()))
    assert [row for row in rows if row["seed"] == "0"] == first
    plain = mean(100 * float(row["top1"]) for row in rows if row["source"] == "none")
    assert f"| 0 | {plain:.1f} | {plain:.1f} |" in printed
    assert Image.open(picture).width > 1000


def test_transferred_kernels_of_the_demo_network_keep_their_shapes_and_get_the_length_of_new_ones(tmp_path: Path) -> None:
    files = transfer.sources(tmp_path, 3, None)
    ours, new = (load_file(files[name]) for name in (transfer.DEMO, transfer.RANDOM))
    for name, kernels in transfer._kernels(networks.load("demo").module).items():
        made = ours[f"{name}.weight"]
        assert np.corrcoef(made.ravel(), kernels.ravel())[0, 1] == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(made) == pytest.approx(np.linalg.norm(new[f"{name}.weight"]), rel=1e-4)


def test_replacement_tables_are_the_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ("net", "", "", 0, 0, "replaced", 0.7, ""), ("net", "7x7", "greedy8", 8, 0, "replaced", 0.1, 0.4),
        ("net", "7x7", "own8", 8, 0, "replaced", 0.2, 0.5), ("net", "7x7", "own8", 8, 1, "replaced", 0.3, 0.5),
        ("net", "7x7", "own8", 8, 0, "recalibrated", 0.4, 0.5), ("net", "all", "own8", 8, 0, "replaced", 0.05, 0.5),
    ]  # fmt: skip
    names = ("network", "layers", "bank", "templates", "seed", "steps", "top1", "energy_kept")
    with (tmp_path / "found.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, replacement.COLUMNS)
        writer.writeheader()
        writer.writerows(dict(zip(names, row, strict=True)) for row in rows)
    assert replacement.main(["--table", str(tmp_path / "found.csv")]) == 0
    assert capsys.readouterr().out.split("\n") == [
        "**net, the 7x7 layers**", "", "| templates | energy kept | replaced | recalibrated |", "|---|---|---|---|",
        "| none replaced |  | 70.0 |  |", "| greedy8 | 0.4 | 10.0 |  |", "| own8 | 0.5 | 25.0 | 40.0 |", "",
        "**net, all layers**", "", "| templates | energy kept | replaced |", "|---|---|---|", "| none replaced |  | 70.0 |",
        "| own8 | 0.5 | 5.0 |", "", "",
    ]  # fmt: skip


@pytest.mark.slow
def test_replacement_on_a_real_network_gives_what_the_docs_say(tmp_path: Path) -> None:
    """A part of the rows again, from the real weights and photographs."""
    root = data()
    network = replacement.Bench.open(
        "proxyless_w0.3", root / "weights", root / "images" / "imagenet-1000-sample.parquet"
    )  # fmt: skip
    published = {
        tuple(row[name] for name in replacement.KEY): row["top1"]
        for row in csv.DictReader((Path(__file__).parents[2] / "data" / "experiments" / "replacement.csv").open())
    }
    some = {key for key in published if key[0] == "proxyless_w0.3" and key[1] != "all" and key[2] in ("", "greedy8")}
    some = {key for key in some if key[5] in replacement.WIDELY}
    found = replacement.run(network, published.keys() - some, 1, ("7x7",), replacement.WIDELY)
    again = {tuple(str(row[name]) for name in replacement.KEY): row["top1"] for row in found}
    assert len(again) == 4
    assert again == {key: published[key] for key in some}
