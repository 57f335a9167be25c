"""A database at an address: the way of object stores, on file:// here, and on S3 where moto and its server are installed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from conftest import put, random_kernels

from filterdb import Bank, Database
from filterdb.errors import QueryError, StoreError


@pytest.fixture(params=["file", "s3"])
def address(request, tmp_path, monkeypatch):
    """An address with nothing at it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "file":
        yield f"file://{tmp_path}/filters"
        return
    pytest.importorskip("moto.server", reason="moto with its server is not installed")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    settings = {
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"])
    for _ in range(100):
        try:
            client.create_bucket(Bucket="kernels")
            break
        except Exception:
            time.sleep(0.2)
    try:
        yield "s3://kernels/filters"
    finally:
        server.kill()


def test_the_whole_life_of_a_database_at_an_address(address):
    db = Database(address)
    assert not db.exists()
    kernels = random_kernels(40)
    put(db, "a/net", {"conv": kernels, "small": random_kernels(6, 3, 3)}, dataset="toy")
    put(db, "other", {"conv": random_kernels(5, seed=1)})
    put(db, "other", {"conv": random_kernels(7, seed=2)})

    again = Database(address)
    assert again.models == ["a/net", "other"]
    assert again.sql("SELECT model, size, count(*) FROM filters GROUP BY ALL ORDER BY ALL").fetchall() == [
        ("a/net", "3x3", 6), ("a/net", "7x7", 40), ("other", "7x7", 7),
    ]  # fmt: skip
    rows = again.sql("SELECT kernel FROM filters_7x7 WHERE model = 'a/net' ORDER BY channel").fetchall()
    np.testing.assert_array_equal(np.array([row[0] for row in rows], np.float32), kernels.reshape(40, 49))
    assert len(again.nearest(bank="greedy8").fetchall()) == 47
    best = again.similar("a/net:conv:3", 5).fetchall()
    assert [row[:5] for row in best] == [row[:5] for row in again.similar("a/net:conv:3", 5, exact=True).fetchall()]
    again.import_bank(Bank(name="mine", names=["t"], templates=random_kernels(1)))
    assert len(again.nearest(bank="mine").fetchall()) == 47
    assert again.info().filters == 53
    assert (again.verify().problems, again.verify().leftovers) == ([], [])

    again.remove("other")
    assert Database(address).models == ["a/net"]
    assert Database(address, as_of=again.version - 1).models == ["a/net", "other"]
    assert again.vacuum() > 0
    with pytest.raises(StoreError, match="vacuumed"):
        Database(address, as_of=again.version - 1)
    assert again.verify(repair=True).ok
    assert again.info().filters == 46
    if address.startswith("file"):
        assert len(pl.scan_delta(address + "/filters").collect()) == 46


def test_sql_at_an_address_reads_nothing_else(address, tmp_path):
    db = Database(address)
    put(db, "net", {"conv": random_kernels(3)})
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(QueryError, match="disabled by configuration"):
        db.sql(f"SELECT * FROM '{tmp_path}/secret.csv'")


def test_a_damaged_file_at_an_address_is_one_line(address):
    db = Database(address)
    put(db, "net", {"conv": random_kernels(3)})
    db.place.delete(db._models.path("layers", "net", db._models.snapshot().editions["net"]))
    with pytest.raises(StoreError, match="verify --repair"):
        Database(address).sql("SELECT count(*) FROM layers")
    assert db.verify().problems
    assert db.verify(repair=True).ok
    assert Database(address).models == []
