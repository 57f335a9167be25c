"""Collections: Delta tables that change together, one member at a time, in one atomic step.

A collection has one primary Delta table and others that follow it: ``models`` with ``layers`` and ``filters``, ``banks`` with
``templates``. A member (a model, a bank) is one Parquet file in each table:

    <database>/filters/slug=<slug>/<edition>.parquet

The Delta log of the first table is authoritative. A member exists in the edition that the first table names, and its files in the
other tables have the same slug and edition. One commit to the first table therefore adds, replaces or removes a member. The
commits to the other tables come before it, for Spark, Polars, Daft and others that read those tables without filterdb. If a
process dies between the commits, the next writer, or ``verify(repair=True)``, makes the tables consistent again.

Files are written to a staging folder that the writer keeps locked. They are moved into place under the collection's lock, just
before the commit. A file in a table's folder that no version of the log names is therefore a leftover, as is a staging folder
without a lock. The staging folder is removed last, so that it remains wherever a killed writer left files. Every write looks for
such folders, which is cheap, and cleans up.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction
from filelock import FileLock, Timeout

from filterdb.errors import StoreError
from filterdb.store import parquet
from filterdb.store.place import STAGING, Place

SECONDS_AT_WORK = 3600.0
"""On an object store, a file that no version names is taken for a killed writer's only when it is older than this."""
KEEP_HISTORY: Mapping[str, str | None] = {
    "delta.enableExpiredLogCleanup": "false", "delta.logRetentionDuration": "interval 36500 days",
}  # fmt: skip
"""Old versions stay until ``vacuum``; Delta's own default forgets their log after 30 days."""


def slug(name: str) -> str:
    """A partition value for any name: letters, digits and ``._-`` are kept, others are replaced and a hash is added."""
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100].lstrip(".")
    if clean == name:
        return clean
    return f"{clean}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True)
class Snapshot:
    """One version of a collection: which members it has, in which edition."""

    version: int
    """-1 for a collection that was never written."""
    editions: Mapping[str, str]
    """slug to edition, in the order of the slugs."""


class Collection:
    """Tables that change together. The first of ``schemas`` is the one whose commit counts."""

    def __init__(self, root: Place, schemas: Mapping[str, pa.Schema]):
        self.root = root
        self.schemas = {name: schema.insert(0, pa.field("slug", pa.string())) for name, schema in schemas.items()}
        self.first, *self.others = schemas

    # -- reading ---------------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether anything was ever written: a writer killed in its first commit leaves a log without a version."""
        return self._is_table(self.first)

    def version(self) -> int:
        """The number of the latest version, from the names in the log alone: cheap enough to ask before every query."""
        names = (path.rsplit("/", 1)[-1] for path in self.root.list(f"{self.first}/_delta_log"))
        return max((int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.json", name)), default=-1)

    def snapshot(self, as_of: int | datetime | None = None) -> Snapshot:
        """The latest version, the version of that number, or the last one before that time."""
        if not self.exists():
            if as_of is not None:
                raise StoreError(f"The database {self.root} has no versions yet: ingest something first.")
            return Snapshot(-1, {})
        try:
            table = DeltaTable(self._uri(self.first), version=as_of if isinstance(as_of, int) else None)
            if isinstance(as_of, datetime):
                table.load_as_version(as_of)
            editions = dict(sorted(_split(path) for path in _paths(table)))
        except (DeltaError, FileNotFoundError) as error:
            if as_of is None:
                raise StoreError(f"The database {self.root} cannot be read: {_one_line(error)}") from error
            latest = DeltaTable(self._uri(self.first)).version()
            raise StoreError(f"There is no version {as_of} of {self.root}: versions run from 0 to {latest}.") from error
        if as_of is not None and not all(self.root.exists(path) for path in self.files(self.first, Snapshot(0, editions))):
            raise StoreError(f"The files of version {table.version()} of {self.root} are gone: it was vacuumed.")
        return Snapshot(table.version(), editions)

    def files(self, table: str, snapshot: Snapshot, slugs: Iterable[str] | None = None) -> list[str]:
        """The Parquet files of a table in a snapshot, all or those of some members; relative to the root."""
        chosen = snapshot.editions if slugs is None else slugs
        return [self.path(table, key, snapshot.editions[key]) for key in chosen]

    def path(self, table: str, key: str, edition: str) -> str:
        """Where a member's file of a table lies, relative to the root."""
        return f"{table}/{_join(key, edition)}"

    def read(self, table: str, key: str, edition: str) -> pa.Table:
        """A member's file of a table, whole; columns that are younger than the file are null."""
        with self.root.open(self.path(table, key, edition)) as file:
            return pq.read_table(file, schema=self.schemas[table].remove(0))

    def time(self, version: int) -> datetime | None:
        """When a version was committed."""
        return next((entry["time"] for entry in self.history() if entry["version"] == version), None)

    def history(self) -> list[dict[str, Any]]:
        """One row per version, newest first: version, time, operation, name."""
        if not self.exists():
            return []
        return [
            {
                "version": entry["version"],
                "time": datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
                "operation": entry.get("filterdb.operation", "create"),
                "name": entry.get("filterdb.name"),
            }
            for entry in self._open(self.first).history()
        ]

    # -- writing ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        """A locked folder of one's own to write a member's files into; it is gone afterwards, committed or not."""
        edition = f"{int(time.time() * 1000):013d}-{uuid.uuid4().hex[:8]}"
        folder = self.root.staging() / f"{self.first}-{edition}"
        # Locked before it exists and until it is gone, so that nobody ever sees it without its writer.
        try:
            with FileLock(_lock_of(folder)):
                folder.mkdir()
                try:
                    yield Stage(self, folder, edition)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise StoreError(f"Writing to {self.root} failed, nothing was stored: {_one_line(error)}") from error
        finally:
            _lock_of(folder).unlink(missing_ok=True)

    def remove(self, name: str) -> bool:
        """Remove a member. Its files stay for ``as_of`` until they are vacuumed. Returns whether it was there."""
        if not self.exists():
            return False
        with self._writing():
            there = self._commit(self._open(self.first), self.first, {slug(name): None}, "remove", name)
            self._follow()
        return there

    def discard(self, damaged: Mapping[str, str]) -> None:
        """Take out members by slug, where they still are in the edition that was found damaged."""
        if damaged:
            with self._writing():
                there = self.snapshot().editions
                changes = dict.fromkeys(key for key, edition in damaged.items() if there.get(key) == edition)
                self._commit(self._open(self.first), self.first, changes, "discard")
                self._follow()

    def repair(self) -> None:
        """Bring the other tables in line with the first, and delete what killed writers left behind."""
        if self.exists() or self._abandoned():
            with self._locked():
                if self.exists():
                    self._follow()
                self._clean()

    def vacuum(self) -> int:
        """Delete the files that only old versions name. Returns how many bytes that freed."""
        freed = 0
        with self._writing():
            self._follow()
            editions = self.snapshot().editions
            for table in self.schemas:
                for path in self._parquet(table):
                    key, edition = _split(path.removeprefix(f"{table}/"))
                    if editions.get(key) != edition:
                        freed += self.root.size(path)
                        self.root.delete(path)
        return freed

    def lost(self) -> list[str]:
        """The tables besides the first whose log is gone; ``repair`` and the next write make it again."""
        return [table for table in self.others if self.exists() and not self._is_table(table)]

    def leftovers(self) -> str:
        """What killed writers left behind, in a line; empty if nothing. None of it shows in an answer."""
        if not (self.exists() or self._abandoned()):
            return ""
        with self._locked():  # so that a writer in the middle of its commits is not taken for a killed one
            wanted = set(self.snapshot().editions.items())
            behind = [
                table for table in self.others
                if self._is_table(table) and set(map(_split, _paths(self._open(table)))) != wanted
            ]  # fmt: skip
            counts = {"unfinished write": len(self._abandoned()), "unused file": len(self._unnamed())}
        found = [f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items() if n]
        found += [f"{' and '.join(behind)} out of step with {self.first}"] if behind else []
        if not found:
            return ""
        return f"{self.first}: a killed writer left {', '.join(found)}. No data is affected."

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The collection's lock, and no traces of killed writers: every write begins with this."""
        with self._locked():
            if self._abandoned():
                self._clean()
            yield

    def _clean(self) -> None:
        """Delete what killed writers left: first the files, then the staging folders that tell of them."""
        for path in self._unnamed():
            self.root.delete(path)
        for folder in self._abandoned():
            shutil.rmtree(folder, ignore_errors=True)
            _lock_of(folder).unlink(missing_ok=True)

    def _abandoned(self) -> list[Path]:
        """Staging folders of this collection whose writer is gone."""
        found = []
        for folder in (self.root.scratch / STAGING).glob(f"{self.first}-*/"):
            if not _is_locked(_lock_of(folder)):
                if folder.exists():
                    found.append(folder)
                else:  # its writer finished meanwhile, and asking for the lock made the file again
                    _lock_of(folder).unlink(missing_ok=True)
        return found

    def _unnamed(self) -> list[str]:
        """Parquet files that no version names. On an object store, without locks, a young one may be a writer's at work."""
        killed = {folder.name.removeprefix(f"{self.first}-") for folder in self._abandoned()}
        young = f"{int((time.time() - SECONDS_AT_WORK) * 1000):013d}" if self.root.remote else "a"
        found = []
        for table in self.schemas:
            named = self._ever_named(table)
            for path in self._parquet(table):
                relative = path.removeprefix(f"{table}/")
                edition = _split(relative)[1]
                if relative not in named and (edition < young or edition in killed):
                    found.append(path)
        return found

    def _parquet(self, table: str) -> list[str]:
        return [path for path in self.root.list(table) if re.fullmatch(rf"{table}/slug=[^/]+/[^/]+\.parquet", path)]

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _locked(self) -> AbstractContextManager[None]:
        return self.root.locked(self.first)

    def _uri(self, table: str) -> str:
        return f"{self.root.uri}/{table}"

    def _is_table(self, table: str) -> bool:
        return any(path.endswith(".json") for path in self.root.list(f"{table}/_delta_log"))

    def _create(self) -> None:
        for table in [*self.others, self.first]:
            if not self._is_table(table):
                DeltaTable.create(
                    self._uri(table), self.schemas[table], partition_by=["slug"], mode="ignore", configuration=KEEP_HISTORY
                )

    def _publish(self, name: str, stage: Path, edition: str) -> bool:
        """Move a stage's files into place and commit them. Returns whether the member was there before."""
        key = slug(name)
        with self._writing():
            self._create()
            snapshot = self.snapshot()
            for table in self.schemas:
                self.root.put(stage / f"{table}.parquet", self.path(table, key, edition))
            # The others first, the first last: it alone makes the member visible.
            self._follow({**snapshot.editions, key: edition}, "ingest")
            self._commit(self._open(self.first), self.first, {key: edition}, "ingest", name)
        return key in snapshot.editions

    def _follow(self, wanted: Mapping[str, str] | None = None, operation: str = "repair") -> None:
        """Commit to the other tables whatever makes them name the wanted editions; by default those that the first names.

        This also undoes what a writer committed there before it died.
        """
        self._create()
        wanted = self.snapshot().editions if wanted is None else wanted
        for table in self.others:
            delta = self._open(table)
            there = dict(map(_split, _paths(delta)))
            changes = {key: wanted.get(key) for key in {*there, *wanted} if there.get(key) != wanted.get(key)}
            self._commit(delta, table, changes, operation)

    def _open(self, table: str) -> DeltaTable:
        try:
            return DeltaTable(self._uri(table))
        except DeltaError as error:
            raise StoreError(f"The table {self._uri(table)} cannot be read: {_one_line(error)}") from error

    def _commit(
        self, delta: DeltaTable, table: str, changes: Mapping[str, str | None], operation: str, name: str | None = None
    ) -> bool:
        """One Delta commit: each slug gets that edition, None takes it out. False if there was nothing to change.

        A table that was made before a column was added to its schema gets the column first, in a commit of its own.
        """
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = []
        for path in _paths(delta):
            key, _ = _split(path)
            if key in changes:
                actions.append(RemoveAction(path, True, now, None, {"slug": key}))
        for key, edition in changes.items():
            if edition is not None:
                file = self.path(table, key, edition)
                with self.root.open(file) as opened:
                    rows = pq.read_metadata(opened).num_rows
                actions.append(
                    AddAction(_join(key, edition), self.root.size(file), {"slug": key}, now, True, parquet.stats(rows))
                )
        if not actions:
            return False
        about = {"filterdb.operation": operation} | ({"filterdb.name": name} if name else {})
        there = {column.name for column in delta.schema().fields}
        wanted = DeltaSchema.from_arrow(self.schemas[table]).fields if any(changes.values()) else []
        added = [column for column in wanted if column.name not in there]
        try:
            if added:
                widened = CommitProperties(custom_metadata={"filterdb.operation": "add columns"})
                delta.alter.add_columns(added, commit_properties=widened)
            delta.create_write_transaction(
                actions, mode="append", schema=self.schemas[table], partition_by=["slug"],
                commit_properties=CommitProperties(custom_metadata=about),
            )  # fmt: skip
        except (DeltaError, OSError) as error:
            raise StoreError(f"Writing to {self._uri(table)} failed, nothing was changed: {_one_line(error)}") from error
        return True

    def _ever_named(self, table: str) -> set[str]:
        """Every file that some version in the log names, or the current version of the first table."""
        named = {_join(key, edition) for key, edition in self.snapshot().editions.items()}
        for entry in self.root.list(f"{table}/_delta_log"):
            for line in self.root.read_text(entry).splitlines() if entry.endswith(".json") else ():
                action = json.loads(line)
                named |= {action[verb]["path"] for verb in ("add", "remove") if verb in action}
        return named


class Stage:
    """Where one member's files are written before they are committed."""

    def __init__(self, collection: Collection, folder: Path, edition: str):
        self._collection = collection
        self._folder = folder
        self.edition = edition
        """What these files will be the edition of; known beforehand, so that derived rows can be stored before it is visible."""

    def write(self, table: str, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
        """Write a table's file; batches may come from a generator, one row group or more each."""
        try:
            parquet.write(self._folder / f"{table}.parquet", tables, schema)
        except OSError as error:
            raise StoreError(f"Writing to {self._collection.root} failed, nothing was stored: {_one_line(error)}") from error

    def commit(self, name: str) -> bool:
        """Make the written files the member ``name``. Returns whether that replaced one."""
        return self._collection._publish(name, self._folder, self.edition)


def _paths(table: DeltaTable) -> list[str]:
    return ["/".join(uri.rsplit("/", 2)[1:]) for uri in table.file_uris()]


def _join(key: str, edition: str) -> str:
    return f"slug={key}/{edition}.parquet"


def _split(path: str) -> tuple[str, str]:
    """``slug=a/b.parquet`` to (a, b)."""
    folder, file = path.split("/")
    return folder.removeprefix("slug="), file.removesuffix(".parquet")


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _is_locked(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
