"""The desk: everything that a page needs to answer one request, and the rendering to HTML."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import duckdb
import jinja2
import numpy as np
from starlette.responses import HTMLResponse

from filterdb.database import Database
from filterdb.explorer import looks
from filterdb.explorer.choice import path
from filterdb.explorer.jobs import Answer, Jobs
from filterdb.explorer.shelf import Shelf, Status
from filterdb.explorer.sql_box import SqlBox
from filterdb.kernels import heat_map

HERE = Path(__file__).parent
THREADS = 2
"""Number of threads for pages. Each opens the database again, and more of them are not faster on few cores."""
INDEXING = 5
"""Niceness of the threads that build indexes: minutes of all cores, which pages must not wait for."""
SOON = 0.3
"""Seconds that a page waits for its parts. Slower parts are loaded later."""
KEPT = 500
"""Quick answers, such as the counts of a choice."""
Kept = TypeVar("Kept")


class Desk:
    """One database, its shelf and the threads that work for its pages."""

    def __init__(self, db: Database):
        self.db = db
        self.shelf = Shelf(db)
        self.sql = SqlBox(db)
        self._jobs = {"work": Jobs(THREADS), "similar": Jobs(THREADS, INDEXING)}
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._pages = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._pages.globals |= {
            "heat": heat_map.data_uri, "path": path, "asset": asset, "looks": looks, "db_name": Path(db.place.uri).name,
            "db_place": db.place.uri,
        }  # fmt: skip
        self._pages.filters |= {"number": looks.number, "count": looks.count, "cell": looks.cell}

    def warm(self) -> None:
        """Load in advance what the first pages need: torch and large databases take seconds."""
        self.begin("warm", lambda: self.db.describe(np.eye(3)))
        self.begin("warm", lambda: self.db.models, kind="similar")
        self.begin("open", lambda: self.sql.run(lambda db: db.sql("SELECT 1")))

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """The shelf, for the thread that asks."""
        return self.shelf.cursor()

    def status(self) -> Status:
        """The progress of the shelf, after a check whether the database changed."""
        return self.shelf.refresh()

    def kept(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """The result of ``make``, cached until the database or the shelf changes. For quick and frequent requests."""
        full = (key, self.shelf.versions, self.shelf.refresh(0).revision)
        with self._lock:
            if full in self._kept:
                self._kept.move_to_end(full)
                return cast(Kept, self._kept[full])
        made = make()
        with self._lock:
            self._kept[full] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def begin(self, key: Hashable, make: Callable[[], Any], *, kind: str = "work") -> None:
        """Start a job whose answer will be needed soon."""
        self.work(key, make, kind=kind, wait=0)

    def work(self, key: Hashable, make: Callable[[], Any], *, kind: str = "work", wait: float = SOON) -> Answer:
        """The answer of ``make`` on the database as it is now, done once; pending where it takes longer than a page may."""
        return self._jobs[kind].get((key, self.shelf.versions), make, wait)

    def html(self, template: str, status_code: int = 200, **values: Any) -> HTMLResponse:
        """A page."""
        values.setdefault("status", self.shelf.refresh(0))
        text = self._pages.get_template(template).render(**values)
        return HTMLResponse(text, status_code, headers={"cache-control": "no-cache"})

    def close(self) -> None:
        """Stop the threads."""
        for jobs in self._jobs.values():
            jobs.close()
        self.sql.close()
        self.shelf.close()


@cache
def asset(name: str) -> str:
    """The address of a static file. It changes with the content, so that browsers may cache it."""
    digest = hashlib.blake2b((HERE / "static" / name).read_bytes(), digest_size=6).hexdigest()
    return f"/static/{name}?v={digest}"
