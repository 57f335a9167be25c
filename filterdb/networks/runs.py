"""Evaluations, trainings and searches: the tables ``runs`` (one row each) and ``metrics`` (numbers step by step).

A run is one member of a collection. Storing it again replaces its row and all its metrics in one step. A running training stores
its run after every epoch, and readers see one epoch or the next.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from filterdb.errors import InvalidArgument, StoreError, not_found
from filterdb.store import Collection, Place, schema
from filterdb.store.collection import slug
from filterdb.version import __version__

RUNS = schema.table(
    run_id=pa.string(), kind=pa.string(), model=pa.string(), source=pa.string(), architecture=pa.string(), bank=pa.string(),
    mode=pa.string(), data=pa.string(), split=pa.string(), part=pa.string(), images=pa.int64(), seed=pa.int64(),
    device=pa.string(), parent=pa.string(), status=pa.string(), settings=pa.string(),
    started_at=pa.timestamp("us", tz="UTC"), finished_at=pa.timestamp("us", tz="UTC"), filterdb_version=pa.string(),
)  # fmt: skip
METRICS = schema.table(
    run_id=pa.string(), step=pa.int64(), epoch=pa.int64(), split=pa.string(), metric=pa.string(), value=pa.float64(),
)  # fmt: skip

SCHEMAS = {"runs": RUNS, "metrics": METRICS}
KINDS = ("evaluate", "train", "greedy")
STATUSES = ("running", "finished", "interrupted", "failed")


def new_id(kind: str) -> str:
    """A unique name for a run: ``evaluate-3fa9c2d1e0``."""
    return f"{kind}-{uuid.uuid4().hex[:10]}"


class RunStore:
    """Runs by their run_id: the tables ``runs`` and ``metrics``."""

    def __init__(self, root: Place):
        self.collection = Collection(root, SCHEMAS)

    def names(self) -> list[str]:
        """All run_ids."""
        snapshot = self.collection.snapshot()
        return sorted(self.collection.read("runs", key, snapshot.editions[key])["run_id"][0].as_py() for key in snapshot.editions)

    def put(self, run: Mapping[str, Any], metrics: Iterable[Mapping[str, Any]] = ()) -> str:
        """Keep a run, replacing the one of its run_id with all its metrics.

        Args:
            run: columns of ``runs``; what is left out is null. ``run_id`` and ``kind`` (evaluate, train, greedy) are needed;
                ``status`` is running, finished, interrupted or failed; ``settings`` may be anything that JSON can say.
            metrics: columns of ``metrics`` but run_id; each needs ``metric`` and ``value``.

        Returns:
            The run_id.

        Raises:
            NotFound: no column, kind or status of that name.
            InvalidArgument: a value that its column cannot hold.
        """
        head = {"filterdb_version": __version__, "status": "finished", **run}
        for column, known in (("kind", KINDS), ("status", STATUSES)):
            if head.get(column) not in known:
                raise not_found(f"{column} of a run called", str(head.get(column)), known)
        name = head.get("run_id")
        if not isinstance(name, str) or not name:
            raise InvalidArgument(f"A run needs a run_id, got {name!r}. Make one with filterdb.networks.runs.new_id.")
        if not isinstance(head.get("settings"), str | None):
            head["settings"] = json.dumps(head["settings"], default=str)
        tables = {"runs": _table("runs", [head]), "metrics": _table("metrics", [{**row, "run_id": name} for row in metrics])}
        if tables["metrics"]["metric"].null_count:
            raise InvalidArgument(f"The run {name} has a number without a name: each row of its metrics needs a metric.")
        with self.collection.stage() as stage:
            for table, rows in tables.items():
                stage.write(table, [rows], SCHEMAS[table])
            stage.commit(name)
        return name

    def get(self, run_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A run and its metrics, as rows; ``settings`` is parsed.

        Raises:
            NotFound: no run of that run_id.
            StoreError: its files are damaged.
        """
        editions = self.collection.snapshot().editions
        if slug(run_id) not in editions:
            raise not_found("run", run_id, self.names())
        try:
            found = {table: self.collection.read(table, slug(run_id), editions[slug(run_id)]).to_pylist() for table in SCHEMAS}
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f'The run "{run_id}" is damaged. Run filterdb verify --repair, then run it again.') from error
        head = found["runs"][0]
        return head | {"settings": json.loads(head["settings"]) if head["settings"] else None}, found["metrics"]

    def remove(self, run_id: str) -> None:
        """Remove a run and its metrics."""
        if not self.collection.remove(run_id):
            raise not_found("run", run_id, self.names())

    @property
    def version(self) -> int:
        """Changes whenever a run does."""
        return self.collection.version()

    def views(self) -> Mapping[str, tuple[Sequence[str], pa.Schema]]:
        """The tables as SQL sees them, by name: their files, and their columns."""
        snapshot = self.collection.snapshot()
        return {name: (self.collection.files(name, snapshot), columns) for name, columns in SCHEMAS.items()}


def now() -> datetime:
    """For ``started_at`` and ``finished_at``."""
    return datetime.now(UTC)


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    columns = SCHEMAS[name]
    for row in rows:
        for column in row:
            if column not in columns.names:
                raise not_found(f"column of {name} called", column, columns.names)
    try:
        return pa.Table.from_pylist(rows, columns)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InvalidArgument(f"A value does not fit its column of {name}: {' '.join(str(error).split())[:160]}.") from error


def problems(tables: Mapping[str, pa.Table]) -> tuple[list[str], int]:
    """For ``verify``: what is wrong with one run, and how many filters it has, which is none."""
    heads, metrics = tables["runs"].to_pylist(), tables["metrics"]
    if len(heads) != 1 or set(metrics["run_id"].unique().to_pylist()) - {heads[0]["run_id"]}:
        return [f"run {heads[0]['run_id'] if heads else '?'}: its row and its metrics do not agree"], 0
    return [], 0
