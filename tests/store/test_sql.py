"""SQL is whole, and read only."""

from __future__ import annotations

import duckdb
import pytest
from conftest import put, random_kernels

from filterdb.errors import NotFound, QueryError


@pytest.fixture
def full(db):
    put(db, "net", {"a": random_kernels(2, 3, 3), "b": random_kernels(3)})
    return db


def test_relations_speak_every_dialect(full):
    relation = full.sql("SELECT filter_id, kernel FROM filters ORDER BY filter_id")
    assert len(relation.fetchall()) == len(relation.df()) == relation.pl().height == relation.to_arrow_table().num_rows == 5


def test_parameters(full):
    assert full.sql("SELECT count(*) FROM filters WHERE size = $size", size="7x7").fetchall() == [(3,)]
    with pytest.raises(NotFound, match=r'No parameter "sise". Did you mean "size"'):
        full.sql("SELECT count(*) FROM filters WHERE size = $size", sise="7x7")
    with pytest.raises(QueryError, match=r"needs a value for \$size"):
        full.sql("SELECT count(*) FROM filters WHERE size = $size")


def test_views(full):
    names = {row[0] for row in full.sql("SHOW TABLES").fetchall()}
    derived = {"classifiers", "spectrum", "classes", "descriptors", "fits", "bases", "components", "runs", "metrics", "regular"}
    assert names == {"models", "layers", "filters", "filters_3x3", "filters_7x7", "banks", "templates"} | derived
    assert full.sql("SELECT count(*) FROM templates WHERE bank = 'greedy8'").fetchall() == [(8,)]
    # One matrix product in SQL agrees with db.nearest.
    best = full.sql(
        """
        WITH centred AS (
            SELECT template, list_transform(kernel, lambda x: x - list_avg(kernel)) AS kernel
            FROM templates WHERE bank = 'greedy8'
        )
        SELECT f.filter_id, arg_max(c.template, abs(list_cosine_similarity(f.kernel::FLOAT[], c.kernel)))
        FROM (SELECT filter_id, list_transform(kernel::FLOAT[], lambda x: x - mean) AS kernel FROM filters_7x7) AS f
        CROSS JOIN centred AS c
        GROUP BY ALL
        ORDER BY ALL
        """
    ).fetchall()
    assert best == sorted((row[0], row[4]) for row in full.nearest(bank="greedy8").fetchall())


@pytest.mark.parametrize(
    "statement",
    [
        "DROP VIEW filters",
        "WITH x AS (COPY (SELECT 1 AS a) TO '{database}/models/x.csv' (FORMAT csv)) FROM x",
        "WITH x AS (COPY (SELECT 1 AS a) TO '{database}/models/_delta_log/00000000000000000001.json' (FORMAT csv)) FROM x",
        "EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1 AS a) TO '{database}/models/x.csv') FROM x",
        "SELECT * FROM (WITH x AS (COPY (SELECT 1 AS a) TO '{database}/models/x.csv') FROM x)",
        "WITH x AS (DELETE FROM banks RETURNING *) SELECT * FROM x",
        "WITH x AS (INSERT INTO models (model) VALUES ('x') RETURNING *) SELECT * FROM x",
        "PIVOT filters ON size",
        "CREATE TABLE t AS SELECT 1",
        "COPY filters TO 'x.parquet'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "SET threads = 1",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "INSERT INTO models VALUES (1)",
        "DELETE FROM filters",
        "EXPLAIN ANALYZE COPY filters TO 'x.parquet'",
        "EXPLAIN COPY filters TO 'x.parquet'",
        "explain (format json) drop view filters",
        "/* x */ EXPLAIN ANALYZE DROP VIEW filters",
        "SELECT 1; DROP VIEW filters",
        "SELECT 1; SELECT 2",
        "",
        ";",
        "-- nothing",
        "EXPORT DATABASE 'x'",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "UPDATE models SET top1 = 100",
        "LOAD httpfs",
        "USE memory",
        "PREPARE p AS DROP VIEW filters",
        "EXECUTE p",
        "RESET threads",
        "COMMENT ON VIEW filters IS 'x'",
        "ALTER VIEW filters RENAME TO x",
    ],
)
def test_nothing_but_reading(full, statement, tmp_path):
    before = {path: path.read_bytes() for path in full.path.rglob("*") if path.is_file()}
    with pytest.raises(QueryError) as caught:
        full.sql(statement.replace("{database}", str(full.path))).fetchall()
    assert "\n" not in str(caught.value)
    assert full.sql("SELECT count(*) FROM filters").fetchall() == [(5,)]
    assert full.sql("SELECT count(*) FROM banks").fetchall()[0][0] >= 7
    assert {path: path.read_bytes() for path in full.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('{secret}')", "SELECT * FROM '{secret}'", "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM glob('{folder}/*')", "SELECT * FROM sniff_csv('{secret}')", "SELECT * FROM read_blob('{secret}')",
        "SELECT * FROM read_parquet('{database}-2/models/*/*.parquet')", "SELECT * FROM read_text('{database}/../secret.csv')",
        "SELECT getenv('HOME')", "SELECT * FROM read_csv('https://example.com/x.csv')",
    ],
)  # fmt: skip
def test_no_other_file_can_be_read(full, query, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises((QueryError, duckdb.Error), match=r"(?i)permission|disabled|not exist|cannot access") as caught:
        full.sql(query.format(secret=secret, folder=tmp_path, database=full.path)).fetchall()
    assert "1,2" not in str(caught.value)


def test_the_callers_variables_are_not_tables(full):
    secret = full.sql("SELECT 1 AS x").df()
    with pytest.raises(QueryError, match="secret"):
        full.sql("SELECT * FROM secret")
    del secret


@pytest.mark.parametrize(
    "query",
    [
        "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT count(*) FROM filters", "DESCRIBE filters", "SUMMARIZE models", "FROM models",
        "WITH x AS (SELECT 1) FROM x", "VALUES (1)", "SHOW TABLES", "/* c */ EXPLAIN SELECT 1; -- d", "SELECT 1; -- one",
        "PIVOT filters ON size IN ('7x7') USING count(*) GROUP BY model", "SELECT 1 AS a, 2 AS a", 'SELECT * FROM "Banks"',
        "SELECT * FROM query('FROM ' || 'banks')",
    ],
)  # fmt: skip
def test_reading_in_all_its_forms(full, query):
    assert full.sql(query).fetchall()


@pytest.mark.parametrize("query", ["SELEC 1", "SELECT nme FROM models", "SELECT * FROM filter", "SELECT 1 +", "SELECT '"])
def test_a_slip_is_one_clear_line(full, query):
    with pytest.raises(QueryError) as caught:
        full.sql(query)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "name", "near"),
    [
        ("FROM filter", "filter", "filters"),
        ("SELECT * FROM modles", "modles", "models"),
        ("SELECT * FROM filters JOIN layer USING (model)", "layer", "layers"),
        ("SELECT * FROM models WHERE model IN (SELECT model FROM descriptor)", "descriptor", "descriptors"),
        ("DESCRIBE templats", "templats", "templates"),
        ("FROM filters_3x5", "filters_3x5", "filters_3x3"),
        ("FROM main.clases", "clases", "classes"),
        ("FROM public.filters", "public.filters", "filters"),
        ("WITH kernels AS (FROM filters) SELECT * FROM kernel", "kernel", "kernels"),
        ("WITH small AS MATERIALIZED (FROM filter) FROM small", "filter", "filters"),
        ('FROM "no such"', "no such", None),
        ("FROM zzz", "zzz", None),
    ],
)
def test_an_unknown_table_is_answered_with_the_tables_of_filterdb(full, query, name, near):
    with pytest.raises(QueryError) as caught:
        full.sql(query)
    said = str(caught.value)
    assert said.startswith(f'No table "{name}".' + (f' Did you mean "{near}"' if near else " There are: "))
    listed = said.partition("There are: ")[2].rstrip(".").split(", ")
    assert listed == sorted(listed)
    assert {row[0] for row in full.sql("SHOW TABLES").fetchall()} <= set(listed)
    assert not any(one.startswith(("pg_", "duckdb_", "sqlite_")) for one in listed)


def test_an_empty_database_has_all_tables(db):
    for table in ("models", "layers", "filters"):
        assert db.sql(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]
    assert db.sql("SELECT count(*) FROM banks").fetchall()[0][0] >= 7
    assert not db.path.exists()
