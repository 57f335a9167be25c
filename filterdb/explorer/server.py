"""Serving the explorer: one process with threads for the pages, on this machine only by default."""

from __future__ import annotations

import secrets
import socket
import sys
from contextlib import closing

from filterdb.database import Database
from filterdb.errors import InvalidArgument

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
PORT = 8765
SMALL = 3.0
"""Seconds in which a small database is on its shelf, so that the first page is whole; a large one fills while it is looked at."""
INSTALL = "The explorer needs packages that are not installed: pip install 'filterdb[explorer]'"


def serve(db: Database, host: str = LOOPBACK[0], port: int = PORT) -> None:
    """Serve the explorer of a database until Ctrl-C; it prints its address.

    Args:
        db: the database. What changes in it while it is served is seen.
        host: an address of this machine. With any other than loopback, visitors need the token in the printed address.
        port: 0 takes a free one.

    Raises:
        InvalidArgument: the packages of the extra ``explorer`` are missing, or the address cannot be listened on.
    """
    try:
        import jinja2  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise InvalidArgument(INSTALL) from error
    from filterdb.explorer.app import application
    from filterdb.explorer.desk import Desk

    listening = _listen(host, port)
    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    shown = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    with closing(Desk(db)) as desk, closing(listening):
        desk.shelf.refresh(SMALL)
        desk.warm()
        print(f"Explorer of {db.place}: {address}", flush=True)
        if token:
            print(
                f"WARNING: it listens on {host}. Everybody who can reach this machine and has this address can read "
                "the whole database and run SQL on it. The connection is not encrypted.", file=sys.stderr, flush=True,
            )  # fmt: skip
        print("Press Ctrl-C to stop.", flush=True)
        settings = uvicorn.Config(
            application(desk, token), log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False,
            lifespan="off",
        )  # fmt: skip
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        except KeyboardInterrupt:
            print("stopped", flush=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise InvalidArgument(f"Cannot listen on {host} port {port}: {said}. Choose another with --host or --port.") from error
    return listening
