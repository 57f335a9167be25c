"""What one waits for before anything happens: import, help, a first query, and the first count on a database of many models.

All modules are compiled beforehand, as an installation compiles them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.benchmarks import data
from tests.benchmarks.measure import ROOT, Clock, Row, in_turns, once

PER_MODEL = 30


def benchmark(folder: Path, small: bool) -> list[Row]:
    """Process times against a bare interpreter, and opening a database against DuckDB on one file with the same rows."""
    few = data.database(folder, 3, PER_MODEL, 3)
    sql = ["sql", "SELECT count(*) FROM filters", "--db", str(few)]
    programs = {
        "nothing": "pass",
        "import": "import filterdb",
        "database": "from filterdb import Database",
        "help": "import sys; sys.argv[1:] = ['--help']; from filterdb.cli import main; main()",
        "sql": f"import sys; sys.argv[1:] = {sql}; from filterdb.cli import main; main()",
        "libraries": "import duckdb, pyarrow, polars",
    }
    times = 5 if small else 15
    compiled = str(folder / "compiled")
    for code in programs.values():
        once(program, code=code, compiled=compiled)
    found = in_turns({name: partial(program, code=code, compiled=compiled) for name, code in programs.items()}, times)
    bare = found["nothing"].seconds
    rows = [
        Row("python -c 'import filterdb'", found["import"].seconds, "s", "python -c pass", bare),
        Row("python -c 'from filterdb import Database'", found["database"].seconds, "s", "python -c pass", bare),
        Row("filterdb --help", found["help"].seconds, "s", "python -c pass", bare),
        Row("filterdb sql 'SELECT count(*) FROM filters', 3 models", found["sql"].seconds, "s",
            "python -c 'import duckdb, pyarrow, polars'", found["libraries"].seconds, most=1.5),
    ]  # fmt: skip
    models = 40 if small else 700
    path = data.database(folder, models, PER_MODEL, 3)
    file = path.with_suffix(".parquet")
    once(one_file, path=path, file=file)
    found = in_turns({"filterdb": partial(count, path=str(path)), "DuckDB": partial(count_file, file=str(file))}, times)
    if found["filterdb"].value != found["DuckDB"].value:
        raise RuntimeError("The two do not count the same.")
    rows.append(
        Row(f"open a database of {models} models and count its filters (after the imports)", found["filterdb"].seconds, "s",
            "DuckDB on one Parquet file", found["DuckDB"].seconds)
    )  # fmt: skip
    return rows


def program(clock: Clock, code: str, compiled: str) -> None:
    """A whole process, with the folder of its compiled modules."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = compiled
    with clock:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)


def one_file(clock: Clock, path: str, file: str) -> None:
    """The rows of ``filters`` in a single file."""
    import duckdb

    with clock:
        duckdb.execute(f"COPY (FROM '{path}/filters/slug=*/*.parquet') TO '{file}' (FORMAT parquet)")


def count(clock: Clock, path: str) -> int:
    """Open, and count."""
    import deltalake  # noqa: F401

    from filterdb import Database

    with clock:
        return Database(path).sql("SELECT count(*) FROM filters").fetchall()[0][0]


def count_file(clock: Clock, file: str) -> int:
    """What DuckDB alone takes."""
    import duckdb

    with clock:
        return duckdb.execute(f"SELECT count(*) FROM '{file}'").fetchall()[0][0]
