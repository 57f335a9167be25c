"""The base of ``Database``: the collections of one folder, and the version to read."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from filterdb.banks.store import BankStore
from filterdb.clusters.store import ClassStore
from filterdb.comparison.store import BasisStore
from filterdb.errors import InvalidArgument, StoreError
from filterdb.fields.store import FieldStore
from filterdb.networks.runs import RunStore
from filterdb.store import Collection, Place, Session, Snapshot, schema
from filterdb.store.view import View

if TYPE_CHECKING:
    from filterdb.search.index import KernelIndex

Relation = duckdb.DuckDBPyRelation


class Base:
    """A place, its collections, and views of them."""

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, as_of: int | str | datetime | None = None,
        settings: Mapping[str, str] | None = None,
    ):  # fmt: skip
        chosen = os.fspath(path) if path is not None else os.environ.get("FILTERDB_PATH") or "filters"
        self.place = Place(chosen)
        self._models = Collection(self.place, {"models": schema.MODELS, "layers": schema.LAYERS, "filters": schema.FILTERS})
        self._banks = BankStore(self.place)
        self._classes = ClassStore(self.place)
        self._bases = BasisStore(self.place)
        self._fields = FieldStore(self.place)
        self._runs = RunStore(self.place)
        self._as_of = _moment(as_of)
        self._fixed = self._models.snapshot(self._as_of) if self._as_of is not None else None
        self._settings = settings
        self._opened = threading.local()  # a DuckDB connection serves one thread at a time
        self._indexes: dict[tuple[int, int], KernelIndex] = {}
        if "IPython" in sys.modules:
            from filterdb.figures import notebook

            notebook.register()

    def __repr__(self) -> str:
        return f"Database({self.place.uri!r}{'' if self._as_of is None else f', as_of={self.version}'})"

    @property
    def version(self) -> int:
        """The version this database shows; -1 before the first ingest."""
        return self._snapshot().version

    def exists(self) -> bool:
        """Whether anything was ever ingested, imported or run here."""
        return any(one.exists() for one in (self._models, self._banks.collection, self._runs.collection))

    @property
    def path(self) -> Path:
        """The folder of the database; for one on an object store, the local folder of its indexes."""
        return self.place.scratch

    def _writable(self) -> None:
        if self._as_of is not None:
            raise StoreError(
                f"This is version {self.version} of {self.place}, read only. Open the database without as_of to change it."
            )

    def _snapshot(self) -> Snapshot:
        return self._fixed or self._models.snapshot()

    @property
    def versions(self) -> tuple[Any, ...]:
        """Changes whenever any table does; cheap enough to ask before every query."""
        newest = self._fixed.version if self._fixed else self._models.version()
        return (
            newest, self._banks.collection.version(), self._classes.version, self._fields.version, self._bases.version,
            self._runs.version,
        )  # fmt: skip

    def interrupter(self) -> Callable[[], None]:
        """Something that, called from another thread, ends the query that this thread then runs."""
        return self._view().session.interrupt

    def _view(self) -> View:
        """The version to read: the latest at this moment, or the one asked for. Kept until a newer one is there."""
        key = self.versions
        opened = getattr(self._opened, "view", None)
        if opened is None or opened[0] != key:
            snapshot = self._snapshot()
            schemas = {"models": schema.MODELS, "layers": schema.LAYERS, "filters": schema.FILTERS}
            views = {name: (self._models.files(name, snapshot), kind) for name, kind in schemas.items()}
            derived = {
                **self._classes.views(snapshot),
                **self._fields.views(snapshot),
                **self._bases.views(),
                **self._runs.views(),
            }
            session = Session(self.place, {**views, **derived}, self._banks.tables(), self._settings)
            opened = self._opened.view = (key, View(self._models, snapshot, session))
        return opened[1]

    def _index(self, view: View, kernel_h: int, kernel_w: int) -> KernelIndex:
        """The index of a size, brought to the view's version."""
        from filterdb.search.index import KernelIndex

        view.having(kernel_h, kernel_w)  # says so if there is no kernel of the size
        found = self._indexes.setdefault((kernel_h, kernel_w), KernelIndex(self.place.scratch / "index", kernel_h, kernel_w))
        found.update(view.editions(kernel_h, kernel_w), lambda slugs: view.stream(slugs, kernel_h, kernel_w))
        return found


def _moment(as_of: Any) -> int | datetime | None:
    """A version number or a time with a zone, from what a user may write."""
    if isinstance(as_of, str):
        text = as_of
        try:
            as_of = int(text) if text.isdecimal() and len(text) < 18 else datetime.fromisoformat(text)
        except ValueError:
            as_of = text
    if isinstance(as_of, datetime):
        return as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
    if as_of is None or (isinstance(as_of, int) and not isinstance(as_of, bool) and 0 <= as_of < 10**18):
        return as_of
    raise InvalidArgument(f"as_of {as_of!r} is neither a version number nor a time such as 2026-03-01T12:00.")
