"""The shelf: a copy of the columns that the pages filter and sort by, in DuckDB's own format, for fast pages.

The database has one Parquet file for each model, which is slow when a page shows ninety kernels of ninety models. The shelf holds
the same rows again, with their descriptors, best fits and classes in one table, and a small table of counts. A thread fills it
model by model. It records the parts that each model's rows were made from, and reads changed parts again. It follows an ingest
within a moment. The database does not depend on it, and a deleted shelf is rebuilt in about a minute.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from filelock import FileLock, Timeout

from filterdb.database import Database
from filterdb.database.part_verbs import Part
from filterdb.errors import FilterdbError
from filterdb.explorer.shelf_rows import TABLES, Member, put_on, take_off

FORMAT = 2
"""Version of the shelf's tables. Raise it when they change, and shelves are rebuilt."""
FRESH = 0.2
"""Seconds between two checks of the database's versions."""
MEMORY = "4GB"
BATCH = 250_000
"""Filters that are put on the shelf at a time: two row groups of DuckDB, so it writes them once and not by its log."""


@dataclass(frozen=True)
class Status:
    """The progress of the shelf."""

    revision: int
    """Changes with every model that is put on the shelf or taken off."""
    ready: int
    total: int
    """Models that are up to date, and models in total."""
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the shelf is up to date."""
        return self.ready >= self.total


class Shelf:
    """The shelf of one database; readers take a cursor each, and only its own thread writes."""

    def __init__(self, db: Database):
        self._db = db
        self.folder, self._lock_file = _folder(db)
        self._con = self._open()
        self._changing = threading.Lock()
        self._settled = threading.Event()
        self._seen: Any = None
        self._asked = 0.0
        self._status = Status(0, 0, 0)
        self._closed = False

    @property
    def versions(self) -> Any:
        """Those of the database when it was last looked at."""
        return self._seen

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one thread."""
        return self._con.cursor()

    def close(self) -> None:
        """Stop filling, and release the folder for other processes."""
        self._closed = True
        self._settled.wait(5)
        self._con.close()
        if self._lock_file is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self._lock_file.release()

    def refresh(self, wait: float = 0.3) -> Status:
        """Check whether the database changed. If it did, start an update and wait a moment for it."""
        with self._changing:
            now = time.monotonic()
            if now - self._asked > FRESH and (self._settled.is_set() or self._seen is None):
                self._asked = now
                versions = self._db.versions
                if versions != self._seen:
                    self._seen = versions
                    self._settled.clear()
                    threading.Thread(target=self._follow, name="shelf", daemon=True).start()
        self._settled.wait(wait)
        return self._status

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _open(self) -> duckdb.DuckDBPyConnection:
        """The shelf's file. It is rebuilt if its format, place or DuckDB version differs."""
        file = self.folder / "shelf.duckdb"
        for fresh in (False, True):
            if fresh:
                for old in self.folder.glob("shelf.duckdb*"):
                    old.unlink()
            try:
                con = duckdb.connect(str(file), config={"memory_limit": MEMORY, "preserve_insertion_order": "false"})
                con.execute(TABLES)
                stamp = (FORMAT, self._db.place.uri)
                found = con.execute("FROM shelf").fetchall()
                if not found:
                    con.execute("INSERT INTO shelf VALUES (?, ?)", stamp)
                elif found != [stamp]:
                    con.close()
                    continue
                return con
            except duckdb.Error:
                if fresh:
                    raise
        raise AssertionError("a new shelf has its own stamp")

    def _follow(self) -> None:
        """The thread: put what changed on the shelf, until nothing does."""
        try:
            while not self._closed:
                versions = self._db.versions
                self._update()
                if self._db.versions == versions:
                    self._seen = versions
                    break
        except (FilterdbError, duckdb.Error, OSError) as error:
            logging.getLogger("filterdb").exception("the explorer's shelf cannot be filled")
            self._tell(problems=(f"The pages are not up to date: {' '.join(str(error).split())}",))
        finally:
            self._settled.set()

    def _tell(self, ready: int | None = None, total: int | None = None, problems: tuple[str, ...] | None = None) -> None:
        old = self._status
        self._status = Status(
            old.revision + 1, old.ready if ready is None else ready, old.total if total is None else total,
            old.problems if problems is None else problems,
        )  # fmt: skip

    def _update(self) -> None:
        parts = self._db.parts()
        wanted = {model: repr([tuple(part) for part in rows]) for model, rows in parts.items()}
        con = self._con.cursor()
        there = dict(con.execute("SELECT slug, parts FROM members").fetchall())
        changed = [model for model in wanted if there.get(model) != wanted[model]]
        self._tell(len(wanted) - len(changed), len(wanted), ())
        problems: list[str] = []
        for model in there.keys() - wanted.keys():
            con.execute("BEGIN")
            take_off(con, model)
            con.execute("COMMIT")
            self._tell()
        done, rows = 0, 0
        batch: list[Member] = []
        for number, model in enumerate(changed, start=1):
            if self._closed:
                return
            try:
                batch.append((model, wanted[model], _read(self._db, parts[model])))
                rows += batch[-1][2]["filters"].num_rows
            except (OSError, pa.ArrowException) as error:
                problems.append(f"A model cannot be read ({' '.join(str(error).split())[:120]}): run filterdb verify --repair.")
            if batch and (rows >= BATCH or number == len(changed)):
                con.execute("BEGIN")
                for member, _, _ in batch:
                    take_off(con, member)
                put_on(con, batch)
                con.execute("COMMIT")
                done, batch, rows = done + len(batch), [], 0
            self._tell(len(wanted) - len(changed) + done, len(wanted), tuple(problems))


def _folder(db: Database) -> tuple[Path, FileLock | None]:
    """Next to the indexes, or a temporary folder if that is not writable or another process serves the same database."""
    folder = db.path / "explorer"
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        return folder, lock
    except (OSError, Timeout):
        return Path(tempfile.mkdtemp(prefix="filterdb-explorer-")), None


def _read(db: Database, parts: Sequence[Part]) -> dict[str, pa.Table]:
    """The tables of one model; those of classes by ``classes:`` and the classifier's name."""
    return {f"classes:{part.maker}" if part.table == "classes" else part.table: db.read_part(part) for part in parts}
