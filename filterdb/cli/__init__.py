"""The command line: it parses, makes one call on ``Database``, and prints."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the command ``filterdb``: exit code 0, 1 for the user's error in one line, 2 for wrong usage."""
    from filterdb.cli.app import app
    from filterdb.errors import FilterdbError

    try:
        app(prog_name="filterdb")
    except FilterdbError as error:
        _fail(" ".join(str(error).split()))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output, such as head, has seen enough
    except KeyboardInterrupt:
        print("filterdb: interrupted; what was stored before stays, nothing is half done.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        duckdb = sys.modules.get("duckdb")
        if duckdb is None or not isinstance(error, duckdb.Error):
            raise
        # DuckDB runs a relation when its rows are fetched, so a query can still fail while it is printed.
        from filterdb.store import query_error

        _fail(str(query_error(error)))


def _fail(message: str) -> None:
    print(f"filterdb: {message}", file=sys.stderr)
    sys.exit(1)
