"""The command line: it parses, makes one call on ``Database``, and prints."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading

GRACE = 3.0
"""Seconds that a library gets to notice Ctrl-C. After that the process ends, which is always safe."""
INTERRUPTED = "filterdb: interrupted. Everything stored before is kept, and nothing is incomplete."


def main() -> None:
    """The command ``filterdb``: exit code 0, 1 for the user's error in one line, 2 for wrong usage, 130 for Ctrl-C."""
    # Imported modules stay in memory until the end. Garbage collection over them would take a fifth of the running time.
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    try:
        _end_soon_after_interrupt()
        from filterdb.cli.app import app
        from filterdb.errors import FilterdbError
    except KeyboardInterrupt:
        _interrupted()
    try:
        app(prog_name="filterdb")
    except SystemExit as end:
        if end.code == 130:
            _interrupted()
        raise
    except FilterdbError as error:
        _fail(" ".join(str(error).split()))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output, such as head, has closed the pipe
    except KeyboardInterrupt:
        _interrupted()
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        if "Query interrupted" in str(error):  # DuckDB's way to say KeyboardInterrupt
            _interrupted()
        duckdb = sys.modules.get("duckdb")
        if duckdb is None or not isinstance(error, duckdb.Error):
            raise
        # DuckDB runs a relation when its rows are fetched, so a query can still fail while it is printed.
        from filterdb.store import query_error

        _fail(str(query_error(error)))


def _end_soon_after_interrupt() -> None:
    """End the process ``GRACE`` seconds after Ctrl-C, should a long call outside Python never notice it."""
    if threading.current_thread() is not threading.main_thread():
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(reading, 1)[0] != signal.SIGINT:
            pass
        threading.Event().wait(GRACE)
        print(INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(130)

    threading.Thread(target=wait, daemon=True).start()


def _interrupted() -> None:
    print(INTERRUPTED, file=sys.stderr)
    sys.exit(130)


def _fail(message: str) -> None:
    print(f"filterdb: {message}", file=sys.stderr)
    sys.exit(1)
