"""The tables of the shelf, and how models are put on it and taken off: in one transaction, so a reader sees all of it or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from filterdb.kernels import descriptors
from filterdb.store import schema

Member = tuple[str, str, Mapping[str, pa.Table]]
"""Slug, parts and tables of a model."""
FITTED = (
    "sigma_x", "sigma_y", "sigma_x2", "sigma_y2", "amplitude", "offset", "rho", "residual", "parameters", "bic",
)  # fmt: skip
"""The columns of ``fits`` that are numbers; of each filter its best fit."""
TOLD = {
    "class": "string", "code": "float32", "dissimilarity": "float32", "clustered": "bool", "template": "string",
    "template_score": "float32",
}  # fmt: skip
"""The columns of ``classes``; those of classifier number 2 are called class_2 and so on."""
UNCLASSIFIED, DEAD, WORDLESS, UNKNOWN = "(unclassified)", "(dead)", "(no word)", "(unknown)"
_KINDS = {
    "float32": "FLOAT", "int8": "TINYINT", "bool": "BOOLEAN", "string": "VARCHAR", "double": "DOUBLE", "int32": "INTEGER",
    "int64": "BIGINT", "timestamp[us, tz=UTC]": "TIMESTAMP",
}  # fmt: skip


def _columns(kinds: Mapping[str, str]) -> str:
    return ", ".join(f'"{name}" {_KINDS[kind]}' for name, kind in kinds.items())


TABLES = f"""
CREATE TABLE IF NOT EXISTS shelf (format INTEGER, place VARCHAR);
CREATE TABLE IF NOT EXISTS members (
    slug VARCHAR, model VARCHAR, parts VARCHAR, first_n BIGINT, stop_n BIGINT, first_layer INTEGER, stop_layer INTEGER
);
CREATE TABLE IF NOT EXISTS models ({_columns(dict(zip(schema.MODELS.names, map(str, schema.MODELS.types))))});
CREATE TABLE IF NOT EXISTS classifiers (number INTEGER, classifier VARCHAR);
CREATE TABLE IF NOT EXISTS layers (
    number INTEGER, start BIGINT, first_id BIGINT, family VARCHAR, dataset VARCHAR,
    {_columns(dict(zip(schema.LAYERS.names, map(str, schema.LAYERS.types))))}
);
CREATE TABLE IF NOT EXISTS rows (
    n BIGINT, filter_id BIGINT, layer_number INTEGER, channel INTEGER, dead BOOLEAN, mean FLOAT, norm FLOAT, total FLOAT,
    {_columns(descriptors.COLUMNS)}, fit_family VARCHAR, {_columns(dict.fromkeys(FITTED, "float32"))}, kernel FLOAT[]
);
CREATE TABLE IF NOT EXISTS cells (
    layer_number INTEGER, classifier INTEGER, class VARCHAR, band VARCHAR, dead BOOLEAN, filters BIGINT
);
"""
_FAMILY = f"coalesce(split_part(regexp_replace(architecture, '^tf_', ''), '_', 1), '{UNKNOWN}')"


def take_off(con: duckdb.DuckDBPyConnection, slug: str) -> None:
    """Take a model off the shelf, if it is there."""
    for model, n, stop, layer, stop_layer in con.execute(
        "SELECT model, first_n, stop_n, first_layer, stop_layer FROM members WHERE slug = ?", [slug]
    ).fetchall():
        con.execute("DELETE FROM rows WHERE n >= ? AND n < ?", [n, stop])
        for table, column in (("layers", "number"), ("cells", "layer_number")):
            con.execute(f"DELETE FROM {table} WHERE {column} >= ? AND {column} < ?", [layer, stop_layer])
        con.execute("DELETE FROM models WHERE model = ?", [model])
    con.execute("DELETE FROM members WHERE slug = ?", [slug])


def put_on(con: duckdb.DuckDBPyConnection, batch: Sequence[Member]) -> None:
    """Put models on the shelf, side by side at its end."""
    [(start, first)] = con.execute("SELECT coalesce(max(stop_n), 0), coalesce(max(stop_layer), 0) FROM members").fetchall()
    n, number, members, layers = start, first, [], []
    for slug, parts, tables in batch:
        facts, begin, begin_layer = tables["models"].to_pylist()[0], n, number
        for row in tables["layers"].sort_by("depth").to_pylist():
            layers.append(row | {
                "number": number, "start": n, "first_id": schema.layer_id(row["model"], row["layer"]),
                "architecture": facts["architecture"], "dataset": facts["dataset"] or UNKNOWN,
            })  # fmt: skip
            n, number = n + row["out_channels"], number + 1
        members.append((slug, facts["model"], parts, begin, n, begin_layer, number))
    con.register("new_models", pa.concat_tables(tables["models"] for _, _, tables in batch))
    # as plain UTC: DuckDB hands times with a zone to Python only where pytz is installed
    con.execute("INSERT INTO models SELECT * REPLACE (make_timestamp(epoch_us(ingested_at)) AS ingested_at) FROM new_models")
    con.unregister("new_models")
    con.executemany("INSERT INTO members VALUES (?, ?, ?, ?, ?, ?, ?)", members)
    if not layers:
        return
    con.register("new_layers", pa.Table.from_pylist(layers))
    con.execute(f"INSERT INTO layers BY NAME SELECT * EXCLUDE (architecture), {_FAMILY} AS family FROM new_layers")
    _put_rows(con, [tables for _, _, tables in batch])
    con.unregister("new_layers")
    for classifier in [0, *_numbers(con).values()]:
        told = f"coalesce(class_{classifier}, CASE WHEN dead THEN '{DEAD}' ELSE '{UNCLASSIFIED}' END)" if classifier else "NULL"
        con.execute(
            f"INSERT INTO cells SELECT layer_number, {classifier}, {told} AS told, coalesce(band, '{WORDLESS}') AS word, dead, "
            "count(*) FROM rows WHERE n >= ? AND n < ? GROUP BY layer_number, told, word, dead", [start, n],
        )  # fmt: skip


def _put_rows(con: duckdb.DuckDBPyConnection, batch: Sequence[Mapping[str, pa.Table]]) -> None:
    """The filters of some models, joined with what is known of them."""
    used: list[str] = []

    def registered(table: str, name: str) -> bool:
        found = [tables[table] for tables in batch if table in tables]
        if found:
            con.register(name, pa.concat_tables(found))
            used.append(name)
        return bool(found)

    registered("filters", "new_filters")
    columns = (
        "l.start + f.channel AS n, f.filter_id, l.number AS layer_number, f.channel, f.dead, f.mean, f.norm, f.total, f.kernel"
    )
    source = "new_filters AS f JOIN new_layers AS l ON f.model = l.model AND f.layer = l.layer"
    if registered("descriptors", "new_descriptors"):
        columns += "".join(f", d.{name}" for name in descriptors.COLUMNS)
        source += " LEFT JOIN new_descriptors AS d ON d.filter_id = f.filter_id"
    if registered("fits", "new_fits"):
        columns += ", t.family AS fit_family" + "".join(f', t."{name}"' for name in FITTED)
        source += " LEFT JOIN (FROM new_fits WHERE best) AS t ON t.filter_id = f.filter_id"
    for table in sorted({name for tables in batch for name in tables if name.startswith("classes:")}):
        number = _number(con, table.removeprefix("classes:"))
        registered(table, f"new_classes_{number}")
        columns += "".join(f", c{number}.{one} AS {one}_{number}" for one in TOLD)
        source += f" LEFT JOIN new_classes_{number} AS c{number} ON c{number}.filter_id = f.filter_id"
    con.execute(f"INSERT INTO rows BY NAME SELECT {columns} FROM {source}")
    for name in used:
        con.unregister(name)


def _numbers(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    return dict(con.execute("SELECT classifier, number FROM classifiers ORDER BY number").fetchall())


def _number(con: duckdb.DuckDBPyConnection, classifier: str) -> int:
    """The number of a classifier; a new one gets its columns, which are empty at first."""
    numbers = _numbers(con)
    if classifier in numbers:
        return numbers[classifier]
    number = max(numbers.values(), default=0) + 1
    for name, kind in TOLD.items():
        con.execute(f"ALTER TABLE rows ADD COLUMN {name}_{number} {_KINDS[kind]}")
    con.execute("INSERT INTO classifiers VALUES (?, ?)", [number, classifier])
    con.execute(
        f"INSERT INTO cells SELECT layer_number, {number}, CASE WHEN dead THEN '{DEAD}' ELSE '{UNCLASSIFIED}' END, band, dead, "
        "filters FROM cells WHERE classifier = 0"
    )
    return number
