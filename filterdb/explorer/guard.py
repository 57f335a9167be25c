"""Access control: by default anybody on this machine; on other addresses only with the token. Also what a browser may load."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

COOKIE_DAYS = 30
HEADERS = {
    # Scripts and styles only from here, pictures from here or inline: the browser then contacts no other host, and
    # runs no code that a name in the database could inject.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}  # fmt: skip
LOCAL = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """ASGI middleware: checks the host or the token of each request, and adds ``HEADERS`` to each answer.

    Without a token, only the loopback host names are accepted. Otherwise a foreign page could reach a database on this machine by
    a name of its own that resolves to this machine (DNS rebinding).
    """

    def __init__(self, app: Any, token: str | None, hosts: Sequence[str] = LOCAL):
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            # links from other sites are allowed, but not requests from them in bulk, for example as pictures
            return await _answer(send, 403, "This page cannot be embedded in another site.")
        if self._token is None:
            host = headers.get("host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in self._hosts:
                return await _answer(send, 421, "The explorer serves this machine only. Open it as http://127.0.0.1.")
        else:
            pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            given = [value for name, value in pairs if name == "token"]
            cookie = f"filterdb_{(scope.get('server') or ('', 0))[1]}"
            if given and self._right(given[-1]):
                rest = urlencode([pair for pair in pairs if pair[0] != "token"])
                target = scope.get("raw_path", b"/").decode("latin-1").split("?")[0]
                # an address such as //evil.example would lead elsewhere
                target = "/" + target.lstrip("/\\") + (f"?{rest}" if rest else "")
                kept = f"{cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={COOKIE_DAYS * 86400}"
                return await _answer(send, 303, "", [("location", target), ("set-cookie", kept)])
            if not self._right(_cookie(headers.get("cookie", ""), cookie)):
                return await _answer(send, 401, "A token is needed. Open the address that filterdb serve printed.")

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await self._app(scope, receive, sent)

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _cookie(text: str, name: str) -> str:
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


async def _answer(send: Any, status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
    every = [("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store"), *headers, *HEADERS.items()]
    await send({
        "type": "http.response.start", "status": status, "headers": [(name.encode(), value.encode()) for name, value in every],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": (text + "\n").encode() if text else b""})
