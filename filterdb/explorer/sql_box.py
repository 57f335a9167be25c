"""The SQL box: one untrusted read-only statement, with limits on rows, seconds and memory.

Each statement runs in its own thread, with its own locked session. A slow one delays nobody else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from filterdb.database import Database
from filterdb.errors import QueryError
from filterdb.explorer.jobs import stand_back
from filterdb.store import query_error

SETTINGS = {
    "memory_limit": "2GB", "max_temp_directory_size": "4GB", "parquet_metadata_cache": "true",
    "validate_external_file_cache": "NO_VALIDATION",
}  # fmt: skip
"""Of the sessions of the box: a query that needs more memory or disk fails alone. File metadata is cached, because files
never change, and for hundreds of models reading it is most of the work."""
SECONDS = 20.0
ROWS = 1_000
"""Maximum number of rows shown."""
DOWNLOADED = 1_000_000
"""Maximum number of rows of a file."""
BYTES = 256 * 2**20
"""Maximum size of an answer in memory."""
AT_ONCE = 4
NICENESS = 10
"""Of the threads of the box, DuckDB's own among them: untrusted queries have a lower priority than pages."""
GRACE = 2.0
"""Seconds that DuckDB gets to notice that it was interrupted."""


@dataclass(frozen=True)
class Result:
    """The rows of a statement."""

    table: pa.Table
    more: bool
    """Whether there were more rows than the limit."""
    seconds: float


class SqlBox:
    """Runs statements on one database."""

    def __init__(self, db: Database, seconds: float = SECONDS):
        self._db = Database(db.place.uri, settings=SETTINGS)
        self.seconds = seconds
        self._pool = ThreadPoolExecutor(AT_ONCE, "sql", stand_back, (NICENESS,))
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def run(self, ask: Callable[[Database], Any], rows: int = ROWS) -> Result:
        """The rows of a relation, such as ``lambda db: db.sql(text)``.

        Raises:
            QueryError: it does not parse or run, would write, takes longer than the limit, or too many run at once.
        """
        if not self._free.acquire(timeout=1.0):
            raise QueryError(f"{AT_ONCE} queries are already running. Try again in a moment.")
        running = _Running()
        future: Future[Result] = self._pool.submit(self._answer, ask, rows, running)
        try:
            return future.result(self.seconds)
        except TooLate:
            running.stop()
            try:  # what came in just at the end is an answer too
                return future.result(GRACE)
            except (TooLate, duckdb.Error, QueryError):
                raise QueryError(
                    f"The query was stopped: it took longer than {self.seconds:g} s. Narrow it, or run it with filterdb sql."
                ) from None
        except duckdb.Error as error:
            raise query_error(error) from error

    def close(self) -> None:
        """Start no more queries."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, ask: Callable[[Database], Any], rows: int, running: _Running) -> Result:
        try:
            start = time.perf_counter()
            running.begin(self._db.interrupter())
            reader = ask(self._db).to_arrow_reader(1024)
            running.begin(self._db.interrupter())  # of the session that it is in: a newer one, if the database just changed
            batches, count, size = [], 0, 0
            with closing(reader):  # DuckDB begins nothing new while an answer is read
                for batch in reader:
                    batches.append(batch)
                    count, size = count + batch.num_rows, size + batch.nbytes
                    if size > BYTES:
                        raise QueryError(f"The answer is larger than {BYTES >> 20} MB. Ask for fewer rows or columns.")
                    if count > rows or running.stopped:
                        break
            table = pa.Table.from_batches(batches, reader.schema)
            return Result(table.slice(0, rows), table.num_rows > rows, time.perf_counter() - start)
        finally:
            self._free.release()


class _Running:
    """A query that can be stopped from another thread, whichever session it is in."""

    def __init__(self) -> None:
        self.stopped = False
        self._stop: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def begin(self, stop: Callable[[], None]) -> None:
        with self._lock:
            self._stop = stop
            if self.stopped:
                raise QueryError("The query was stopped.")

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            if self._stop:
                self._stop()


def parameters_of(query: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a named query among those of an address: they begin with ``p.``."""
    return {name[2:]: value for name, value in query.items() if name.startswith("p.") and value != ""}
