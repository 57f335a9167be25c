"""``filterdb serve``: the explorer of a database in a browser."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from filterdb.cli.shared import Db, existing


def serve(
    db: Db = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any other than loopback requires the printed token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port. 0 takes a free one.")] = 8765,
) -> None:
    """Explore a database in a browser. Ctrl-C stops the server."""
    from filterdb.explorer import serve

    serve(existing(db), host, port)
    # do not wait for threads that still work, for example on a large index: a kill at any moment is safe
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
