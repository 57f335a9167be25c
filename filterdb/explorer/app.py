"""The ASGI application: the routes of the pages, and the pages for errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import duckdb
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from filterdb.errors import FilterdbError, NotFound
from filterdb.explorer.desk import HERE, Desk
from filterdb.explorer.guard import Guard
from filterdb.explorer.pages import banks, compare, filter, gallery, models, spectrum, sql

Page = Callable[[Desk, Request], Response]


def application(desk: Desk, token: str | None = None) -> Any:
    """The ASGI application of one database.

    Args:
        desk: the database and its threads; the caller closes it.
        token: what a visitor must bring; None where only this machine can ask.
    """

    def route(path: str, page: Page) -> Route:
        def answer(request: Request) -> Response:  # not async: Starlette runs it in a thread, and others are served meanwhile
            try:
                return page(desk, request)
            except FilterdbError as error:
                status = 404 if isinstance(error, NotFound) else 400
                return _wrong(desk, status, " ".join(str(error).split()))

        return Route(path, answer)

    def not_there(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return _wrong(desk, status, f"There is no page {request.url.path} here." if status == 404 else str(error))

    def failed(request: Request, error: Exception) -> Response:
        logging.getLogger("filterdb").error("the page %s failed", request.url.path, exc_info=error)
        said = (
            "DuckDB could not answer. Reload the page."
            if isinstance(error, duckdb.Error)
            else "This page failed. The error is in the terminal."
        )
        return _wrong(desk, 500, said)

    routes = [
        route("/", gallery.page), route("/filter/{what:path}", filter.page), route("/models", models.every),
        route("/model/{name:path}", models.page), route("/banks", banks.every), route("/bank/{name:path}", banks.page),
        route("/spectrum", spectrum.every), route("/spectrum/{name:path}", spectrum.page), route("/compare", compare.page),
        route("/sql", sql.page), route("/sql.{form:str}", sql.download),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]  # fmt: skip
    made = Starlette(
        routes=routes, exception_handlers={HTTPException: not_there, 500: failed},
        middleware=[Middleware(GZipMiddleware, minimum_size=2000)],
    )  # fmt: skip
    return Guard(made, token)


def _wrong(desk: Desk, status: int, said: str) -> Response:
    return desk.html("wrong.html", status, title="Not found" if status == 404 else "Error", said=said)
