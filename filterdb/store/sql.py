"""Read-only SQL over Parquet files: a DuckDB session that can see the given tables and touch nothing else."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from filterdb.errors import QueryError, not_found

_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)


class Session:
    """One DuckDB connection over one version of the tables. Its configuration is locked once the views stand."""

    def __init__(
        self,
        root: Path,
        views: Mapping[str, tuple[Sequence[Path], pa.Schema]],
        tables: Mapping[str, tuple[Callable[[], pa.Table], pa.Schema]],
    ):
        """
        Args:
            root: the only folder whose files may be read.
            views: name to (Parquet files, schema); no files gives an empty view.
            tables: name to (a small table, schema); it is made when the first query asks for it.
        """
        self._connection = con = duckdb.connect(":memory:")
        self._unfilled = {name: make for name, (make, _) in tables.items()}
        for name, (_, schema) in tables.items():
            self._copy(f"CREATE TABLE {name} AS", schema.empty_table())
        for name, (files, schema) in views.items():
            if files:
                # Times are UTC; with a zone attached, DuckDB could hand them to Python only where pytz is installed.
                times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
                plain = ", ".join(f"make_timestamp(epoch_us({column})) AS {column}" for column in times)
                columns = f"* REPLACE ({plain})" if times else "*"
                con.execute(
                    f"CREATE VIEW {name} AS SELECT {columns} FROM read_parquet({_literal(files)}, hive_partitioning=false)"
                )
            else:
                self._copy(f"CREATE TABLE {name} AS", schema.empty_table())
        if "layers" in views:
            self._size_views()
        con.execute(f"SET allowed_directories = {_literal([root.absolute()])}")
        con.execute(f"SET temp_directory = {_literal([Path(tempfile.gettempdir()) / 'filterdb-spill'])[1:-1]}")
        for setting in (
            "python_enable_replacements = false",  # a query must not see the caller's Python variables as tables
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            con.execute(f"SET {setting}")

    def _copy(self, into: str, table: pa.Table) -> None:
        self._connection.register("incoming", table)
        self._connection.execute(f"{into} SELECT * FROM incoming")
        self._connection.unregister("incoming")

    def _size_views(self) -> None:
        """``filters_7x7`` and so on: the filters of one size, with the kernel as a fixed-size array (a free cast)."""
        sizes = self._connection.execute("SELECT DISTINCT kernel_h, kernel_w FROM layers ORDER BY ALL").fetchall()
        for h, w in sizes:
            self._connection.execute(
                f"CREATE VIEW filters_{h}x{w} AS SELECT * REPLACE (kernel::FLOAT[{h * w}] AS kernel) "
                f"FROM filters WHERE kernel_h = {h} AND kernel_w = {w}"
            )

    def query(self, sql: str, parameters: Mapping[str, Any]) -> duckdb.DuckDBPyRelation:
        """Run one SELECT (or SHOW, DESCRIBE, EXPLAIN …) with named parameters ``$name``.

        Raises:
            QueryError: the statement does not parse or bind, is more than one, or could write.
            NotFound: a parameter the statement does not have, or one that it needs and was not given.
        """
        statement = self._checked(sql)
        wanted = statement.named_parameters
        for name in parameters:
            if name not in wanted:
                raise not_found("parameter", name, wanted, advice="Parameters are written $name in the query.")
        if missing := sorted(wanted - set(parameters)):
            raise QueryError(f"The query needs a value for {', '.join('$' + name for name in missing)}.")
        try:
            if self._unfilled and self._unfilled.keys() & self._connection.get_table_names(sql):
                for name, make in self._unfilled.items():
                    self._copy(f"INSERT INTO {name}", make())
                self._unfilled = {}
            relation = self._connection.sql(sql, params=dict(parameters) or None)
        except duckdb.Error as error:
            raise query_error(error) from error
        if relation is None:
            raise QueryError("The statement returns no rows. Write a SELECT.")
        return relation

    def parameters(self, sql: str) -> set[str]:
        """The names of the parameters of a query."""
        return set(self._checked(sql).named_parameters)

    def _checked(self, sql: str) -> duckdb.Statement:
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1:
                raise QueryError(f"One statement at a time, got {len(statements)}. Send them one by one.")
            statement = inner = statements[0]
            if statement.type == duckdb.StatementType.EXPLAIN and (match := _EXPLAIN.match(sql)):
                # EXPLAIN ANALYZE runs what it explains, so what it explains must be a SELECT too.
                explained = self._connection.extract_statements(sql[match.end() :])
                inner = explained[0] if len(explained) == 1 else statement
        except duckdb.Error as error:
            raise query_error(error) from error
        if inner.type != duckdb.StatementType.SELECT:
            kind = str(inner.type).rpartition(".")[2]
            raise QueryError(f"The database is read only here: SELECT, SHOW, DESCRIBE and EXPLAIN run, {kind} does not.")
        return statement


def query_error(error: duckdb.Error) -> QueryError:
    """DuckDB's message without the picture of the query, in one line."""
    lines = [
        line for line in str(error).splitlines() if line.strip() and not line.startswith("LINE ") and set(line.strip()) != {"^"}
    ]
    return QueryError(" ".join(line.strip() for line in lines))


def _literal(paths: Sequence[Path]) -> str:
    return "[" + ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths) + "]"
