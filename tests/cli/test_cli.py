"""The command line as a user meets it: real processes, exit codes, one-line errors, and one path through everything."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import run
from conftest import put, random_kernels
from safetensors.numpy import save_file

from filterdb import Database
from filterdb.errors import SourceError


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of two depthwise layers, an ordinary one, and a 1x1 one."""
    tensors = {
        "stem.weight": np.zeros((8, 3, 3, 3), np.float32),
        "blocks.0.dw.weight": random_kernels(8, 7, 7)[:, None],
        "blocks.1.dw.weight": random_kernels(6, 3, 3)[:, None],
        "blocks.1.scale.weight": np.ones((6, 1, 1, 1), np.float32),
    }
    save_file(tensors, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors", tensors


def test_one_path_through_the_whole_command_line(tmp_path, checkpoint):
    file, tensors = checkpoint
    db = tmp_path / "filters"
    assert "1 models with 14 kernels stored" in run("ingest", file, "--dataset", "toy", "--step", "7", db=db)
    [outcome] = json.loads(run("ingest", file, "--json", "--dataset", "toy", "--step", "7", db=db))
    assert (outcome["status"], outcome["model"], outcome["filters"]) == ("replaced", "net", 14)
    assert any("1x1" in item for item in outcome["skipped"])
    [outcome] = json.loads(run("ingest", file, "--json", "--skip-existing", db=db))
    assert outcome["status"] == "skipped"

    rows = json.loads(
        run(
            "sql",
            "SELECT layer, channel, kernel FROM filters WHERE size = $s ORDER BY channel",
            "--param",
            "s=7x7",
            "--json",
            db=db,
        )
    )
    np.testing.assert_array_equal(np.array([r["kernel"] for r in rows], np.float32), tensors["blocks.0.dw.weight"].reshape(8, 49))
    assert "7x7" in run("query", "sizes", db=db)
    answer = list(csv.DictReader(io.StringIO(run("query", "extremes", "--size", "3x3", "--count=2", "--format", "csv", db=db))))
    assert len(answer) == 2
    assert run("sql", "SELECT dataset, step FROM models", "--format", "csv", db=db) == "dataset,step\ntoy,7\n"

    run("nearest", "--bank", "greedy8", "--format", "parquet", "--out", tmp_path / "near.parquet", db=db)
    near = pq.read_table(tmp_path / "near.parquet")
    assert near.num_rows == 8
    assert near["similarity"].to_pylist() == pytest.approx([row[5] for row in Database(db).nearest(bank="greedy8").fetchall()])
    summary = json.loads(run("nearest", "--summary", "--json", db=db))
    assert sum(row["filters"] for row in summary) == 8

    neighbours = json.loads(run("similar", "net:blocks.0.dw:0", "-k", "3", "--json", db=db))
    assert [row["rank"] for row in neighbours] == [1, 2, 3]
    exact = json.loads(run("similar", "net:blocks.0.dw:0", "-k", "3", "--exact", "--json", db=db))
    assert [row["filter_id"] for row in neighbours] == [row["filter_id"] for row in exact]

    np.save(tmp_path / "mine.npy", random_kernels(2))
    assert "2 templates of 7x7" in run("bank", "import", tmp_path / "mine.npy", "--citation", "me", db=db)
    assert "mine" in run("bank", "list", db=db)
    run("bank", "export", "mine", tmp_path / "again.json", db=db)
    assert json.loads(run("bank", "show", "mine", "--json", db=db))["citation"] == "me"
    assert len(json.loads(run("nearest", "--bank", "mine", "--json", db=db))) == 8
    run("bank", "remove", "mine", db=db)

    found = json.loads(run("info", "--json", db=db))
    assert (found["models"], found["filters"], found["sizes"]) == (1, 14, {"7x7": 8, "3x3": 6})
    assert "all is well" in run("verify", db=db)
    assert "removed net" in run("remove", "net", db=db)
    assert json.loads(run("info", "--json", db=db))["models"] == 0
    assert json.loads(run("info", "--json", "--as-of", str(found["version"]), db=db))["models"] == 1
    assert "freed" in run("verify", "--vacuum", db=db)


def test_a_batch_goes_on_and_reports_every_failure(tmp_path, checkpoint):
    file, _ = checkpoint
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\xff" * 40)
    empty = tmp_path / "empty.pth"
    empty.touch()
    db = tmp_path / "filters"
    output = subprocess.run(
        [sys.executable, "-c", "from filterdb.cli import main; main()", "ingest", bad, empty, file, "nothing.pth", "--db", db],
        capture_output=True, text=True,
    )  # fmt: skip
    assert output.returncode == 1
    assert "1 models with 14 kernels stored, 3 failed" in output.stdout
    assert output.stdout.count("failed: ") == 3
    assert Database(db).models == ["net"]


def test_two_files_of_one_name_do_not_replace_each_other(tmp_path, checkpoint):
    file, _ = checkpoint
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "net.safetensors"
    other.write_bytes(file.read_bytes())
    outcomes = Database(tmp_path / "db").ingest(file, other, jobs=1, check=False)
    assert [outcome.status for outcome in outcomes] == ["ingested", "failed"]
    assert "--name" in outcomes[1].error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sql", "SELECT 1"], "no database at"),
        (["info", "--as-of", "3"], "no versions yet"),
        (["ingest", "nothing"], 'No recipe "nothing"'),
        (["ingest", "timm:convnextv2_ato"], "convnextv2_atto"),
        (["bank", "show", "gredy8"], 'Did you mean "greedy8"'),
        (["bank", "show", "greedy8", "--size", "4x4"], "odd"),
        (["bank", "remove", "greedy8"], "ships with filterdb"),
    ],
)
def test_a_slip_is_one_line_and_exit_code_1(tmp_path, arguments, words):
    error = run(*arguments, code=1, db=tmp_path / "none")
    assert words in error


@pytest.mark.parametrize(
    "arguments", [["ingst"], ["nearest", "--bnk", "x"], ["similar"], ["query", "sizes", "--size"], ["ingest", "x", "--jobs", "0"]]
)
def test_wrong_usage_is_exit_code_2(tmp_path, arguments):
    run(*arguments, code=2, cwd=tmp_path)


def test_reading_slips(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "net", {"conv": random_kernels(3)})
    for arguments, words in [
        (["sql", "DROP VIEW filters"], "read only"),
        (["sql", "SELECT nme FROM models"], "nme"),
        (["sql", "SELECT error('stop') FROM filters"], "stop"),
        (["query", "size"], 'Did you mean "sizes"'),
        (["query", "layers"], "--model"),
        (["query", "sizes", "--foo", "1"], "foo"),
        (["nearest", "--model", "nett"], 'Did you mean "net"'),
        (["sql", "SELECT 1", "--format", "parquet"], "--out"),
        (["sql", "SELECT 1", "--param", "x"], "NAME=VALUE"),
        (["sql", "SELECT 1", "--as-of", "99"], "versions run from 0"),
    ]:
        assert words in run(*arguments, code=1, db=db.path)


def test_a_query_says_what_it_asks(tmp_path):
    text = run("query", "depth", "--help")
    assert "ten steps of relative depth" in text
    assert "--size  rows x columns of the kernels [default: 7x7]" in text
    assert "--param" in run("query", "--help")


def test_names_that_look_like_numbers_are_names(tmp_path):
    db = Database(tmp_path / "filters")
    for name in ("123", "abc", "1e5", "nan"):
        put(db, name, {"conv": random_kernels(3)})
        assert len(json.loads(run("query", "layers", "--model", name, "--json", db=db.path))) == 1
    assert json.loads(run("sql", "SELECT model FROM models WHERE model = $m", "--param", 'm="123"', "--json", db=db.path))
    assert json.loads(run("query", "extremes", "--size", "7", "--count", "2", "--json", db=db.path))
    assert "is not a number" in run("query", "extremes", "--count", "two", code=1, db=db.path)


def test_json_has_null_for_what_is_no_number(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "net", {"conv": random_kernels(3)})
    rows = json.loads(run("sql", "SELECT 'nan'::FLOAT AS a, ['inf'::FLOAT, 1] AS b, 1.5 AS c", "--json", db=db.path))
    assert rows == [{"a": None, "b": [None, 1.0], "c": 1.5}]


def test_the_suffix_of_out_says_the_format(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "net", {"conv": random_kernels(3)})
    for name in ("a.csv", "a.json", "a.parquet"):
        run("sql", "SELECT channel FROM filters ORDER BY channel", "--out", tmp_path / name, db=db.path)
    assert (tmp_path / "a.csv").read_text() == "channel\n0\n1\n2\n"
    assert json.loads((tmp_path / "a.json").read_text()) == [{"channel": i} for i in range(3)]
    assert pq.read_table(tmp_path / "a.parquet")["channel"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize(
    "query", ["SELECT count(*) FROM range(1000000000000) a WHERE a.range % 7 = 3", "SELECT 1 FROM range(10000000000)"]
)
def test_ctrl_c_ends_a_long_query_with_one_line(tmp_path, query):
    db = Database(tmp_path / "filters")
    put(db, "net", {"conv": random_kernels(3)})
    command = [
        sys.executable,
        "-c",
        "from filterdb.cli import main; main()",
        "sql",
        query,
        "--format",
        "csv",
        "--db",
        str(db.path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("filterdb: interrupted")
    assert "Traceback" not in errors


def test_an_unreadable_source_does_not_stand_in_the_way_of_its_namesake(tmp_path, checkpoint):
    file, _ = checkpoint
    bad = tmp_path / "net.pth"
    bad.write_bytes(b"nonsense")
    outcomes = Database(tmp_path / "db").ingest(bad, file, file, "bad\udcff.pth", jobs=1, check=False)
    assert [outcome.status for outcome in outcomes] == ["failed", "ingested", "failed"]
    with pytest.raises(SourceError, match=r"2 of 3 models failed") as caught:
        Database(tmp_path / "db").ingest(bad, file, "bad\udcff.pth")
    assert len(caught.value.outcomes) == 3


def test_similar_works_where_no_index_can_be_kept(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "net", {"conv": random_kernels(30)})
    (db.path / "index").write_text("a file where the folder of indexes would be, as on a disk one may only read")
    answer = json.loads(run("similar", "net:conv:0", "-k", "2", "--json", db=db.path))
    assert [row["filter_id"] for row in answer] == [row[1] for row in db.similar("net:conv:0", 2, exact=True).fetchall()]


def test_hostile_names_are_data(tmp_path):
    db = Database(tmp_path / "filters")
    name = "[red]'; DROP TABLE models; --/../x\u202e"
    put(db, name, {"[bold]conv": random_kernels(3)})
    assert "[red]'" in run("sql", "SELECT model FROM models", db=db.path)
    assert json.loads(run("query", "layers", "--model", name, "--json", db=db.path))[0]["layer"] == "[bold]conv"
    assert db.verify().ok


def test_the_environment_names_the_database(tmp_path, monkeypatch):
    monkeypatch.setenv("FILTERDB_PATH", str(tmp_path / "here"))
    put(Database(), "net", {"conv": random_kernels(3)})
    assert "1 models" in run("info")
    monkeypatch.delenv("FILTERDB_PATH")
    assert Database().path == Path("filters").absolute()


def test_a_pipe_that_closes_early_is_no_error(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "net", {"conv": random_kernels(4000)})
    filterdb = f"{sys.executable} -c 'from filterdb.cli import main; main()'"
    command = f"{filterdb} sql 'SELECT * FROM filters' --format csv --db {db.path} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("filter_id,model")
    assert done.stderr == ""
