"""A hub on the loopback: speaks the Hugging Face hub's protocol with byte ranges, counts what it sends, and lies on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LIES = (
    "ignores-ranges", "truncates", "stalls", "short", "long", "other-range", "no-content-range", "wrong-length", "moving-size",
    "gzip", "401", "403", "404", "429", "500", "503",
)  # fmt: skip


class Hub:
    """What the hub holds, how it lies, and what it was asked for."""

    def __init__(self, repos: dict[str, Mapping[str, bytes]], redirect: bool = False) -> None:
        self.repos, self.redirect = repos, redirect
        self.signs_ranges = False
        """An address that it redirects to is good for the range that was asked for, and no other."""
        self.lie: str | None = None
        self.times = -1
        """How often it lies before it tells the truth; -1 for always."""
        self.only_after = 0
        """It tells the truth to this many requests first."""
        self.headers: dict[str, str] = {}
        self.sent = 0
        self.paths: list[str] = []
        self.ranges: list[str] = []
        self.tokens: list[str | None] = []
        self.endpoint = ""
        self._lock = threading.Lock()
        self._etags: dict[int, str] = {}

    def lies(self, lie: str, times: int = -1, only_after: int = 0, **headers: str) -> None:
        """From now on."""
        assert lie in LIES
        self.lie, self.times, self.only_after = lie, times, only_after
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def next_lie(self) -> str | None:
        with self._lock:
            if self.lie is None or self.times == 0:
                return None
            if self.only_after > 0:
                self.only_after -= 1
                return None
            self.times -= 1
            return self.lie

    def etag(self, content: bytes) -> str:
        with self._lock:
            if id(content) not in self._etags:
                self._etags[id(content)] = hashlib.sha256(content).hexdigest()
            return self._etags[id(content)]

    def count(self, sent: int) -> None:
        with self._lock:
            self.sent += sent


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.paths.append(path)
            hub.tokens.append(self.headers.get("Authorization"))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                files = hub.repos.get(found[1])
                if files is None:
                    return self.error(404, "RepoNotFound", body)
                listing = {"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                return self.whole(json.dumps(listing).encode(), {}, body)
            if path.startswith("/cdn/"):
                _, _, owner, name, file = path.split("/", 4)
                if hub.signs_ranges and urlsplit(self.path).query != self.headers.get("Range"):
                    return self.whole(b"Auth failed: invalid range", {}, body, 403)
                return self.file(hub.repos[f"{owner}/{name}"][file], {}, body)
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if not found or found[1] not in hub.repos:
                return self.error(404, "RepoNotFound", body)
            if found[2] not in ("main", COMMIT):
                return self.error(404, "RevisionNotFound", body)
            content = hub.repos[found[1]].get(found[3])
            if content is None:
                return self.error(404, "EntryNotFound", body)
            etag = hub.etag(content)
            linked = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-ETag": f'"{etag}"',
                "X-Linked-Size": str(len(content)),
                "ETag": f'"{etag}"',
            }
            if hub.redirect:
                self.send_response(302)
                for key, value in {
                    **linked,
                    "Location": f"/cdn/{found[1]}/{found[3]}?{self.headers.get('Range')}",
                    "Content-Length": "0",
                }.items():
                    self.send_header(key, value)
                return self.end_headers()
            return self.file(content, linked, body)

        def error(self, status: int, code: str, body: bool) -> None:
            self.whole(b"{}", {"X-Error-Code": code}, body, status)

        def whole(self, content: bytes, headers: Mapping[str, str], body: bool, status: int = 200) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.push(content)

        def push(self, content: bytes) -> None:
            for start in range(0, len(content), 65536):
                piece = content[start : start + 65536]
                hub.count(len(piece))
                try:
                    self.wfile.write(piece)
                except OSError:  # the client has hung up
                    self.close_connection = True
                    return

        def file(self, content: bytes, headers: dict[str, str], body: bool) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            lie = hub.next_lie() if body else None
            if lie in ("401", "403", "404", "429", "500", "503"):
                return self.whole(b"no", {**headers, **hub.headers}, body, int(lie))
            if asked is None or lie == "ignores-ranges":
                return self.whole(content, headers, body)
            first = int(asked[1])
            last = min(int(asked[2]) if asked[2] else len(content) - 1, len(content) - 1)
            if first > last:
                return self.whole(b"", {"Content-Range": f"bytes */{len(content)}"}, body, 416)
            hub.ranges.append(asked[0])
            total = len(content)
            if lie == "other-range":
                first, last = max(first - 1, 0), max(last - 1, 0)
            if lie == "wrong-length" or (lie == "moving-size" and first > 0):
                total += 8
            part = content[first : last + 1]
            said = {**headers, "Content-Range": f"bytes {first}-{last}/{total}"}
            if lie == "no-content-range":
                del said["Content-Range"]
            if lie == "gzip":
                said["Content-Encoding"] = "gzip"
            if lie == "short":
                part = part[: len(part) // 2]
            if lie == "long":
                part += b"more"
            if lie not in ("truncates", "stalls"):
                return self.whole(part, said, body, 206)
            self.send_response(206)
            for key, value in {**said, "Content-Length": str(len(part))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.push(part[: len(part) // 2])
            self.wfile.flush()
            if lie == "stalls":
                time.sleep(1.5)
            self.close_connection = True
            return None

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


@contextmanager
def serve(repos: dict[str, Mapping[str, bytes]], redirect: bool = False) -> Iterator[Hub]:
    """A hub for as long as the context lasts."""
    hub = Hub(repos, redirect)
    server = _Server(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def connected(hub: Hub, cache: Any) -> Iterator[None]:
    """This process talks to that hub, has an empty cache, and loses patience quickly."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    from filterdb.sources.remote import http

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.delenv("HF_TOKEN", raising=False)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        for name, value in {
            "HF_HUB_CACHE": str(cache), "HF_HUB_DOWNLOAD_TIMEOUT": 0.5, "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True, "HF_TOKEN_PATH": str(cache / "token"),
        }.items():  # fmt: skip
            patch.setattr(constants, name, value)
        patch.setattr(http, "BACKOFF", 0.01)
        close_session()
        yield
        close_session()
