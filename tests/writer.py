"""Processes that keep ingesting, to be raced against and killed.

They are forked from a server that has imported filterdb and done nothing else, so a hundred of them start in seconds.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from conftest import put, random_kernels

from filterdb import Database

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["writer", "filterdb.database", "filterdb.database.ingest", "deltalake", "pyarrow.parquet"])


def start(path: Path, channels: int, rounds: int) -> BaseProcess:
    """A process that ingests the model ``shared`` again and again; it has done so once when this returns."""
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=keep_writing, args=(path, channels, rounds, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    return process


def keep_writing(path: Path, channels: int, rounds: int, ready: Any) -> None:
    """Two layers each time, so that a mixture of two writers would show."""
    db = Database(path)
    for i in range(rounds):
        put(db, "shared", {"conv": random_kernels(channels, seed=i), "wide": random_kernels(channels, 5, 5, seed=i)})
        ready.set()
