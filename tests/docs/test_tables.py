"""docs/tables.md has every table and column of the database, with the type that SQL gives it; the rooms are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_house import ROOMS

from filterdb import Database

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| (.*) \|$", re.MULTILINE)


def documented() -> dict[str, dict[str, tuple[str, str]]]:
    """Table to column to (type, meaning), as the page says."""
    text = (ROOT / "docs" / "tables.md").read_text("utf-8")
    sections = re.split(r"^### (\w+)$", text, flags=re.MULTILINE)[1:]
    return {
        table: {row[0]: (row[1].strip("` "), row[3]) for row in ROW.findall(body)}
        for table, body in zip(sections[::2], sections[1::2], strict=True)
    }


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Database:
    database = Database(tmp_path_factory.mktemp("tables") / "filters")
    database.ingest("demo")
    return database


def test_every_table_and_column_is_documented_with_its_type(db):
    page = documented()
    there = {name for (name,) in db.sql("SHOW TABLES").fetchall()}
    assert set(page) == there
    for table in there:
        columns = {row[0]: row[1] for row in db.sql(f"DESCRIBE {table}").fetchall()}
        if table == "filters_7x7":
            columns = {name: kind for name, kind in columns.items() if name == "kernel"}  # all others are those of filters
        assert {name: kind for name, (kind, _) in page[table].items()} == columns, table
        assert all(len(meaning) > 5 for _, meaning in page[table].values())


def test_the_rooms_are_those_of_the_house():
    text = (ROOT / "docs" / "contributing.md").read_text("utf-8")
    told = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", text, re.MULTILINE)
    assert sorted(told) == sorted(set(ROOMS) - {"version"})
    assert told == [room for room in ROOMS if room != "version"]
