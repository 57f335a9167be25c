"""The store: bit-equal round trips, replacement, versions, two writers, and a kill at any moment."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Thread

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import writer
from conftest import make_model, put, random_kernels
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from filterdb import Bank, Database
from filterdb.database.ingest import store
from filterdb.errors import InvalidArgument, NotFound, SourceError, StoreError
from filterdb.store.collection import slug


def kernels_of(db: Database, model: str, layer: str) -> np.ndarray:
    rows = db.sql(
        "SELECT kernel, kernel_h, kernel_w FROM filters WHERE model = $m AND layer = $l ORDER BY channel", m=model, l=layer
    ).fetchall()
    return np.array([row[0] for row in rows], np.float32).reshape(len(rows), rows[0][1], rows[0][2])


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 5)),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
def test_what_goes_in_comes_out_bit_equal(tmp_path_factory, kernels):
    db = Database(tmp_path_factory.mktemp("db"))
    put(db, "net", {"conv": kernels})
    assert kernels_of(db, "net", "conv").tobytes() == kernels.tobytes()


def test_columns_say_what_the_contract_says(db):
    put(db, "net", {"a": random_kernels(2, 3, 3), "b": random_kernels(4, 1, 5), "c": random_kernels(3, 3, 3)}, dataset="d")
    rows = db.sql("SELECT model, layer, channel, depth, size, kernel_h, kernel_w, dataset FROM filters ORDER BY depth, channel")
    assert rows.fetchall() == [
        ("net", layer, channel, depth, size, *map(int, size.split("x")), "d")
        for depth, (layer, n, size) in enumerate([("a", 2, "3x3"), ("b", 4, "1x5"), ("c", 3, "3x3")])
        for channel in range(n)
    ]
    assert db.sql("SELECT layer, depth_norm, padding, padding_h, padding_w, stride FROM layers ORDER BY depth").fetchall() == [
        ("a", 0.0, 1, 1, 1, 1), ("b", 0.5, None, 0, 2, 1), ("c", 1.0, 1, 1, 1, 1),
    ]  # fmt: skip
    assert db.sql("SELECT typeof(kernel), count(*) FROM filters_1x5 GROUP BY ALL").fetchall() == [("FLOAT[5]", 4)]


def test_ingesting_again_replaces_and_leaves_others_alone(db):
    put(db, "net", {"conv": random_kernels(5)})
    put(db, "other", {"conv": random_kernels(2)})
    put(db, "net", {"conv": random_kernels(3, seed=1)})
    assert db.sql("SELECT model, count(*) FROM filters GROUP BY ALL ORDER BY ALL").fetchall() == [("net", 3), ("other", 2)]
    assert db.models == ["net", "other"]
    assert db.verify().ok


def test_old_versions_can_be_read_by_number_and_time(db):
    put(db, "net", {"conv": random_kernels(5)})
    first, moment = db.version, datetime.now(UTC)
    time.sleep(0.02)
    put(db, "net", {"conv": random_kernels(3)})
    for as_of in (first, str(first), moment, moment.isoformat()):
        old = Database(db.path, as_of=as_of)
        assert old.info().time <= moment < db.info().time
        assert old.sql("SELECT count(*) FROM filters").fetchall() == [(5,)]
        with pytest.raises(StoreError, match="read only"):
            old.remove("net")
    with pytest.raises(StoreError, match="versions run from 0"):
        Database(db.path, as_of=99)
    for nonsense in ("yesterday", -1, 1.5, "1" + "0" * 30, "", True):
        with pytest.raises(InvalidArgument, match="neither a version number"):
            Database(db.path, as_of=nonsense)
    assert [entry["operation"] for entry in db.history()] == ["ingest", "ingest", "create"]


def test_remove_then_vacuum(db):
    put(db, "net", {"conv": random_kernels(5)})
    put(db, "other", {"conv": random_kernels(5)})
    with pytest.raises(NotFound, match='Did you mean "net"'):
        db.remove("nett")
    db.remove("net")
    assert db.models == ["other"]
    assert db.verify().ok
    assert db.vacuum() > 0
    assert db.vacuum() == 0
    with pytest.raises(StoreError, match="it was vacuumed"):
        Database(db.path, as_of=1)
    assert db.verify().ok
    assert db.info().filters == 5


def test_nothing_is_stored_of_a_model_with_nan_weights(db):
    put(db, "net", {"conv": random_kernels(2)})
    bad = random_kernels(3)
    bad[1, 2, 3] = np.nan
    with pytest.raises(SourceError, match=r"conv has NaN or infinite weights in 1 kernels"):
        put(db, "net", {"good": random_kernels(2), "conv": bad})
    assert db.info().filters == 2
    assert db.verify().ok


def test_other_engines_read_the_same_rows_without_us(db):
    put(db, "a/b 'c'", {"conv": random_kernels(5)})
    put(db, "net", {"conv": random_kernels(3)})
    put(db, "net", {"conv": random_kernels(4)})
    expected = sorted(db.sql("SELECT filter_id FROM filters").fetchall())
    scanned = pl.scan_delta(str(db.path / "filters")).select("filter_id", "model", "kernel").collect()
    assert sorted(scanned["filter_id"].to_list()) == [i for (i,) in expected]
    assert scanned["kernel"].list.len().unique().to_list() == [49]
    arrow = DeltaTable(db.path / "filters").to_pyarrow_table(columns=["model"])
    assert sorted(arrow["model"].to_pylist()) == ["a/b 'c'"] * 5 + ["net"] * 4


def test_names_that_look_alike_have_slugs_of_their_own():
    names = ["a/b", "a_b", "a b", "a'b", "ä", "a" * 300, "a" * 301, ".", "..", "", "con.x"]
    assert len({slug(name) for name in names}) == len(names)
    assert all("/" not in slug(name) and "'" not in slug(name) for name in names)


def test_threads_ingesting_many_models_at_once(db):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: put(db, f"net{i % 5}", {"conv": random_kernels(4, seed=i)}), range(30)))
    assert db.models == [f"net{i}" for i in range(5)]
    assert db.info().filters == 20
    report = db.verify()
    assert (report.ok, report.problems, report.leftovers) == (True, [], [])


def test_two_processes_ingesting_the_same_model_at_once(db):
    writers = [writer.start(db.path, channels, rounds=25) for channels in (3, 11)]
    seen = set()
    while any(process.is_alive() for process in writers):
        # A reader never sees a mixture: both layers are of one writer.
        rows = db.sql("SELECT layer, count(*) FROM filters GROUP BY layer ORDER BY layer").fetchall()
        assert rows in ([("conv", 3), ("wide", 3)], [("conv", 11), ("wide", 11)])
        seen.add(str(rows))
    assert [process.exitcode for process in writers] == [0, 0]
    assert len(seen) > 1
    assert db.models == ["shared"]
    report = db.verify()
    assert (report.ok, report.problems, report.leftovers) == (True, [], [])


def traces(db: Database) -> list[str]:
    """Staging folders, and Parquet files that no version names: what a killed writer may leave, but for an empty lock file."""
    staged = [path.name for path in (db.path / ".staging").glob("*/")]
    return staged + [path for one in (db._models, db._fields.descriptors.collection) for path in one._unnamed()]


@pytest.mark.parametrize("kills", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_after_a_kill_at_a_random_moment_the_database_verifies_and_the_next_write_cleans_up(db, kills):
    rng = random.Random(0)
    put(db, "bystander", {"conv": random_kernels(4)})
    noted = dict.fromkeys(["models", "descriptors"], 0)
    for _ in range(kills):
        process = writer.start(db.path, 5, rounds=10_000)
        time.sleep(rng.uniform(0.0, 0.12))
        process.kill()
        process.join()
        # What a reader sees is whole at once, without any repair …
        rows = db.sql("SELECT model, count(*) FROM filters GROUP BY ALL ORDER BY ALL").fetchall()
        assert rows == [("bystander", 4), ("shared", 10)]
        # … what was left is a note for each collection, and no damage …
        report = db.verify()
        assert (report.ok, report.problems) == (True, [])
        for note in report.leftovers:
            noted[note.partition(":")[0]] += 1
            assert "No data is affected" in note
        assert len(report.leftovers) == len({note.partition(":")[0] for note in report.leftovers})
        # … and gone with the next write.
        if report.leftovers:
            assert traces(db)
            put(db, "bystander", {"conv": random_kernels(4)})
            assert traces(db) == []
            assert db.verify().leftovers == []
            assert len(pl.scan_delta(str(db.path / "filters")).select("model").collect()) == 14
    assert noted["models"] > kills / 5, "the kills must hit writers at work"
    assert noted["descriptors"] > 0


def test_a_first_ingest_that_was_killed_is_no_damage(db, monkeypatch):
    # As a kill in the first commit leaves it: a log without a version, a staging folder, and nobody who holds its lock.
    (db.path / "models" / "_delta_log").mkdir(parents=True)
    staged = db.path / ".staging" / "models-0001700000000-0badc0de"
    staged.mkdir(parents=True)
    (staged / "filters.parquet").write_bytes(b"half a file")
    report = db.verify()
    assert (report.ok, len(report.leftovers)) == (True, 1)
    assert report.leftovers[0].startswith("models: a killed writer left 1 unfinished write.")
    put(db, "net", {"conv": random_kernels(3)})
    assert not staged.exists()
    assert db.verify().leftovers == []


def test_a_write_cleans_up_after_the_dead_and_leaves_the_living_alone(db):
    put(db, "net", {"conv": random_kernels(2)})
    folder, models = db.path / ".staging", db._models
    with models.stage() as alive:
        alive.write(
            "models", [models.read("models", "net", models.snapshot().editions["net"])], models.schemas["models"].remove(0)
        )
        dead = folder / "models-0001700000000-0badc0de"
        dead.mkdir()
        (dead / "models.parquet").touch()
        unnamed = db.path / "filters" / "slug=net" / "0001700000000-0badc0de.parquet"
        unnamed.write_bytes(b"moved into place, never committed")
        [note] = db.verify().leftovers
        assert note == "models: a killed writer left 1 unfinished write, 1 unused file. No data is affected."
        db.remove("net")
        assert not dead.exists()
        assert not unnamed.exists()
        assert [path.name for path in folder.glob("*/")] == [f"models-{alive.edition}"]
        assert db.verify().leftovers == []
    assert traces(db) == []


def test_the_next_ingest_mends_the_tables_that_others_read(db, monkeypatch):
    put(db, "net", {"conv": random_kernels(2)})
    # A writer that dies after its first commits, before the one that counts.
    commit = db._models._commit
    monkeypatch.setattr(
        db._models, "_commit", lambda delta, table, *rest: commit(delta, table, *rest) if table != "models" else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        put(db, "net", {"conv": random_kernels(7)})
    monkeypatch.undo()
    assert db.info().filters == 2
    report = db.verify()
    assert report.ok
    assert "layers and filters out of step with models" in report.leftovers[0]
    put(db, "other", {"conv": random_kernels(3)})
    assert len(pl.scan_delta(str(db.path / "filters")).collect()) == 5
    assert "out of step" not in db._models.leftovers()


def test_without_a_lock_delta_refuses_the_second_of_two_that_replace_the_same_model(db):
    put(db, "net", {"conv": random_kernels(3)})
    models, edition = db._models, db._models.snapshot().editions["net"]
    (db.path / models.path("models", "net", "newer")).write_bytes((db.path / models.path("models", "net", edition)).read_bytes())
    first, second = models._open("models"), models._open("models")
    assert models._commit(first, "models", {"net": None}, "remove")
    with pytest.raises(StoreError, match=r"nothing was changed: .*concurrent"):
        models._commit(second, "models", {"net": "newer"}, "ingest")
    assert db.models == []


def test_verify_sees_each_kind_of_damage(db):
    put(db, "net", {"conv": random_kernels(6)})
    put(db, "other", {"conv": random_kernels(6)})
    snapshot = db._models.snapshot()
    path = db.path / db._models.path("filters", "net", snapshot.editions["net"])
    whole = path.read_bytes()

    table = pq.read_table(path, partitioning=None)
    damages = {
        "filters were ingested": table.slice(0, 5),
        "kernels have changed": table.set_column(
            table.schema.get_field_index("kernel"), "kernel", table["kernel"].take([1, 0, 2, 3, 4, 5])
        ),
        "column mean": table.set_column(table.schema.get_field_index("mean"), "mean", table["norm"]),
        "filter_ids are not": table.set_column(0, "filter_id", table["filter_id"].take([1, 0, 2, 3, 4, 5])),
    }
    for words, damaged in damages.items():
        pq.write_table(damaged, path)
        assert any(words in problem for problem in db.verify().problems), words
    path.write_bytes(whole[:-100])
    assert len(db.verify().problems) == 1
    path.unlink()
    assert "net" in db.verify().problems[0]
    report = db.verify(repair=True)
    assert report.ok
    assert db.models == ["other"]
    assert db.verify().ok


def test_a_model_ingested_again_while_a_repair_runs_stays(db):
    put(db, "net", {"conv": random_kernels(6)})
    put(db, "other", {"conv": random_kernels(6)})
    (db.path / db._models.path("filters", "net", db._models.snapshot().editions["net"])).unlink()
    again = []

    def progress(done: int, _: int) -> None:
        if done == 1:
            again.append(put(db, "net", {"conv": random_kernels(3)}))

    assert db.verify(repair=True, progress=progress).problems
    assert again
    assert db.models == ["net", "other"]
    assert db.verify().ok


def test_a_writer_in_the_middle_of_its_commits_is_no_leftover(db, monkeypatch):
    put(db, "net", {"conv": random_kernels(6)})
    commit, verdicts = db._models._commit, []

    def slow(delta, table, *rest):
        if table == "models":
            thread = Thread(target=lambda: verdicts.append(Database(db.path).verify()))
            thread.start()
            thread.join(0.5)  # the verification waits for the lock, so it cannot end before this commit
            threads.append(thread)
        return commit(delta, table, *rest)

    threads: list[Thread] = []
    monkeypatch.setattr(db._models, "_commit", slow)
    put(db, "net", {"conv": random_kernels(7)})
    for thread in threads:
        thread.join()
    assert [verdict.ok for verdict in verdicts] == [True]


def test_a_table_that_others_read_is_made_again_when_it_is_lost(db):
    put(db, "net", {"conv": random_kernels(6)})
    for entry in (db.path / "filters" / "_delta_log").glob("*"):
        entry.unlink()
    report = db.verify()
    assert not report.ok
    assert report.problems == ["filters: the log of this table is gone, so other engines cannot read it"]
    assert db.verify(repair=True).ok
    assert len(pl.scan_delta(str(db.path / "filters")).collect()) == 6
    assert db.verify().leftovers == []


def test_a_damaged_bank_stops_nobody_and_is_found(db):
    put(db, "net", {"conv": random_kernels(6)})
    db.import_bank(Bank(name="mine", names=["a"], templates=random_kernels(1)))
    next((db.path / "templates").glob("slug=mine/*.parquet")).write_bytes(b"nonsense")
    assert len(db.nearest(bank="greedy8").fetchall()) == 6
    assert any("mine" in problem for problem in db.verify().problems)
    with pytest.raises(StoreError, match="mine"):
        db.bank("mine")
    assert db.verify(repair=True).ok
    assert "mine" not in db.banks()


def test_one_database_may_serve_many_threads(db):
    for i in range(4):
        put(db, f"net{i}", {"conv": random_kernels(50, seed=i)})

    def ask(i: int) -> tuple[int, int, int]:
        count = db.sql("SELECT count(*) FROM filters WHERE model = $m", m=f"net{i % 4}").fetchall()[0][0]
        return count, len(db.similar(random_kernels(1, seed=i)[0], 5).fetchall()), len(db.nearest().fetchall())

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, range(24))) == {(50, 5, 200)}


@pytest.mark.parametrize("name", ["a b", "it's", 'say "x"', "ä→b", "a[1]*", "x;y{z}"])
def test_paths_with_odd_characters_work(tmp_path, name):
    db = Database(tmp_path / name)
    put(db, "net", {"conv": random_kernels(3)})
    assert Database(tmp_path / name).info().filters == 3
    assert db.verify().ok


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a\nb"])
def test_paths_that_deltas_library_reads_differently_are_refused(tmp_path, name):
    with pytest.raises(StoreError, match="cannot have"):
        Database(tmp_path / name)


def test_a_full_disk_leaves_the_last_version(db, monkeypatch):
    put(db, "net", {"conv": random_kernels(2)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"nothing was stored: .*No space left"):
        put(db, "net", {"conv": random_kernels(9)})
    monkeypatch.undo()
    assert db.info().filters == 2
    assert db.verify().ok


def test_a_file_is_not_a_database(tmp_path):
    (tmp_path / "x").write_text("hello")
    with pytest.raises(StoreError, match="is a file"):
        Database(tmp_path / "x")
    with pytest.raises(StoreError, match="not an address of an object store"):
        Database("nosuchscheme://bucket/filters")


def test_a_damaged_log_is_one_line(db):
    put(db, "net", {"conv": random_kernels(2)})
    for entry in (db.path / "models" / "_delta_log").glob("*.json"):
        entry.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        db.sql("SELECT 1")


def test_many_sizes_in_one_model_stream_apart(db):
    rng = np.random.default_rng(0)
    layers = {
        f"l{i}": rng.standard_normal((5, *size)).astype(np.float32)
        for i, size in enumerate([(3, 3), (7, 7), (3, 3), (1, 9), (7, 7)])
    }
    store(db._models, db._fields, make_model("net", layers))
    found = np.concatenate([batch.kernels for batch in db._view().batches(7, 7)])
    np.testing.assert_array_equal(found, np.concatenate([layers["l1"], layers["l4"]]).reshape(10, 49))
    for name, kernels in layers.items():
        np.testing.assert_array_equal(kernels_of(db, "net", name), kernels)
