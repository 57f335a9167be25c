"""Read-only SQL over Parquet files: a DuckDB session that can access only the given tables."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from filterdb.errors import QueryError, StoreError, not_found
from filterdb.store.place import Place

_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)
_NOTHING = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_LEADING = re.compile(r"\A" + _NOTHING, re.DOTALL)
_TRAILING = re.compile(r";" + _NOTHING + r"\Z", re.DOTALL)
_NO_TABLE = re.compile(r'Catalog Error: Table with name "?(.+?)"? does not exist')
_WITH_NAME = re.compile(r'(\w+)"?\s+AS\s+(?:NOT\s+)?(?:MATERIALIZED\s+)?\(', re.IGNORECASE)


class Session:
    """One DuckDB connection over one version of the tables, for one thread. Its configuration is locked once the views stand."""

    def __init__(
        self,
        root: Place,
        views: Mapping[str, tuple[Sequence[str], pa.Schema]],
        tables: Mapping[str, tuple[Callable[[], pa.Table], pa.Schema]],
        settings: Mapping[str, str] | None = None,
    ):
        """
        Args:
            root: where the database lies; no other file may be read.
            views: name to (Parquet files relative to the root, schema); no files gives an empty view.
            tables: name to (a small table, schema); all are made when a query first mentions one of them.
            settings: of DuckDB, such as ``memory_limit``: what queries may use at most.

        Raises:
            StoreError: a file is damaged or gone.
        """
        self._connection = con = duckdb.connect(":memory:")
        self._unfilled = {name: make for name, (make, _) in tables.items()}
        self._tables = [*views, *tables]
        self._mentioned = re.compile("|".join([*tables, "query"]), re.IGNORECASE)
        # What lies in memory is registered, not copied into tables of DuckDB: nobody can delete from a view.
        for name, (_, schema) in tables.items():
            con.register(name, _empty(schema))
        try:
            for name, (files, schema) in views.items():
                if files:
                    paths = [root.full(path) for path in files]
                    # by the schema and not by the first file: one of before a column was added has null there
                    parquet = f"read_parquet({_literal(paths)}, hive_partitioning=false, schema={_by_name(con, schema)})"
                    if (
                        root.remote
                    ):  # DuckDB reads object stores by an extension that it would have to download; Arrow does without
                        from pyarrow.dataset import dataset

                        parquet = f"{name}_files"
                        con.register(parquet, dataset(paths, schema, format="parquet", filesystem=root.files))
                    con.execute(f"CREATE VIEW {name} AS SELECT {_columns(schema)} FROM {parquet}")
                else:
                    con.register(name, _empty(schema))
            if "layers" in views:
                self._size_views()
        except (duckdb.Error, OSError) as error:
            raise StoreError(f"{query_error(error)} Run filterdb verify --repair on {root}.") from error
        spill = Path(tempfile.gettempdir()) / f"filterdb-{os.getpid()}"  # DuckDB makes it if it needs it, and removes it
        with contextlib.suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets, where DuckDB can draw no bar
            con.execute("SET enable_progress_bar = false")  # it would be drawn on standard output, among the rows
        for setting in (
            f"allowed_directories = {_literal([] if root.remote else [root.full('')])}",
            f"temp_directory = {_literal([str(spill)])[1:-1]}",
            "python_enable_replacements = false",  # a query must not see the caller's Python variables as tables
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",
            *(f"{name} = {_literal([value])[1:-1]}" for name, value in (settings or {}).items()),
            "lock_configuration = true",
        ):
            con.execute(f"SET {setting}")

    def interrupt(self) -> None:
        """End the query that runs now, from another thread: it fails with DuckDB's InterruptException. Else nothing happens."""
        self._connection.interrupt()

    def _size_views(self) -> None:
        """``filters_7x7`` and so on: the filters of one size, with the kernel as a fixed-size array (a free cast)."""
        sizes = self._connection.execute(
            "SELECT DISTINCT size, kernel_d * kernel_h * kernel_w FROM layers ORDER BY ALL"
        ).fetchall()
        for size, taps in sizes:
            self._tables.append(f"filters_{size}")
            self._connection.execute(
                f"CREATE VIEW filters_{size} AS SELECT * REPLACE (kernel::FLOAT[{taps}] AS kernel) "
                f"FROM filters WHERE size = '{size}'"
            )

    def query(self, sql: str, parameters: Mapping[str, Any]) -> duckdb.DuckDBPyRelation:
        """Run one SELECT (or SHOW, DESCRIBE, EXPLAIN …) with named parameters ``$name``.

        Raises:
            QueryError: the statement does not parse or bind, names an unknown table, is more than one, or could write.
            NotFound: a parameter the statement does not have.
        """
        try:
            statement, text = self._only_statement(sql)
            wanted = statement.named_parameters
            for name in parameters:
                if name not in wanted:
                    raise not_found("parameter", name, wanted, advice="Parameters are written $name in the query.")
            if missing := sorted(wanted - set(parameters)):
                raise QueryError(f"The query needs a value for {', '.join('$' + name for name in missing)}.")
            if self._unfilled and self._mentioned.search(sql):
                for name, make in self._unfilled.items():
                    self._connection.register(name, make())
                self._unfilled = {}
            values = dict(parameters) or None
            # DuckDB calls a COPY or DELETE inside WITH a SELECT too, but binds it at the top level alone: not in a subquery.
            self._connection.execute(f"EXPLAIN SELECT * FROM (\n{text}\n)", values).fetchall()
            return self._connection.sql(sql, params=values)
        except duckdb.CatalogException as error:
            if match := _NO_TABLE.match(str(error)):
                # DuckDB would suggest its own tables too, such as pg_description
                known = {*self._tables, *_WITH_NAME.findall(sql)}
                raise QueryError(str(not_found("table", match[1], known, most=len(known)))) from error
            raise query_error(error) from error
        except duckdb.Error as error:
            raise query_error(error) from error

    def relation(self, table: pa.Table) -> duckdb.DuckDBPyRelation:
        """A table of ours as a relation of this session, so that it can be joined with its queries."""
        return self._connection.from_arrow(table)

    def _only_statement(self, sql: str) -> tuple[duckdb.Statement, str]:
        """The one statement of a query, and the text of the SELECT that it is or explains."""
        statements = self._connection.extract_statements(sql)
        if len(statements) != 1:
            raise QueryError(f"One statement at a time, got {len(statements)}. Send them one by one.")
        inner, text = statements[0], _LEADING.sub("", statements[0].query, count=1)
        if inner.type == duckdb.StatementType.EXPLAIN and (match := _EXPLAIN.match(text)):
            # EXPLAIN ANALYZE runs what it explains, so what it explains must be a SELECT too.
            explained = self._connection.extract_statements(text[match.end() :])
            inner, text = (explained[0], explained[0].query) if len(explained) == 1 else (inner, text)
        if inner.type == duckdb.StatementType.MULTI:
            raise QueryError("PIVOT needs its values here: write PIVOT … ON column IN (value, …).")
        if inner.type != duckdb.StatementType.SELECT:
            kind = str(inner.type).rpartition(".")[2]
            raise QueryError(f"The database is read only here: SELECT, SHOW, DESCRIBE and EXPLAIN run, {kind} does not.")
        return statements[0], _TRAILING.sub("", text, count=1)


def query_error(error: Exception) -> QueryError:
    """DuckDB's message without the picture of the query, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith("LINE ")]
    text = " ".join(line for line in lines if line and set(line) != {"^"})
    if "must be at the top level" in text:
        text = "The database is read only here: a WITH clause may not hold COPY, INSERT, UPDATE or DELETE."
    return QueryError(text)


def _empty(schema: pa.Schema) -> pa.Table:
    """A table without rows. ``schema.empty_table()`` is the same, but imports pandas where it is installed."""
    return pa.Table.from_batches([], schema)


def _columns(schema: pa.Schema) -> str:
    """All columns, with times as plain UTC: DuckDB hands times with a zone to Python only where pytz is installed."""
    times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    plain = ", ".join(f"make_timestamp(epoch_us({name})) AS {name}" for name in times)
    return f"* REPLACE ({plain})" if times else "*"


def _by_name(con: duckdb.DuckDBPyConnection, schema: pa.Schema) -> str:
    """A schema as ``read_parquet`` takes it: columns found by their names, with null or another value where a file has none."""
    before = {field.name: (field.metadata or {}).get(b"before", b"NULL").decode() for field in schema}
    kinds = zip(schema.names, con.from_arrow(_empty(schema)).types, strict=True)
    return (
        "MAP {"
        + ", ".join(f"'{name}': {{name: '{name}', type: '{kind}', default_value: {before[name]}}}" for name, kind in kinds)
        + "}"
    )


def _literal(paths: Sequence[str]) -> str:
    return "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + "]"
