"""One file on a server, read by byte ranges, with checked answers and bounded retries that request only the missing bytes."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from filterdb.errors import HubError

ATTEMPTS = 5
BACKOFF = 1.0
"""Seconds before the second attempt; doubled before each further one."""
LONGEST_WAIT = 120.0
"""Seconds; a server that asks for more patience than this is given up."""
SMALL = 32 * 2**20
"""Bytes of the largest configuration, index or listing that is taken."""

_STALE = (400, 401, 403, 404, 410, 416)
"""What a signed address answers that is no longer good."""

T = TypeVar("T")


class Missing(HubError):
    """404: no such file (or no such repository or revision; ``code`` is what the hub calls it)."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class _Transient(Exception):
    """An answer that may be better next time."""

    def __init__(self, reason: str, wait: float | None = None, attempts: int | None = None) -> None:
        super().__init__(reason)
        self.wait, self.attempts = wait, attempts


def endpoint() -> str:
    """The hub's address; HF_ENDPOINT counts at the time of the call."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def retry(action: Callable[[], T], what: str) -> T:
    """The result of an action that may fail for a while."""
    attempt = 0
    while True:
        try:
            return action()
        except _Transient as error:
            attempt += 1
            wait = BACKOFF * 2 ** (attempt - 1) if error.wait is None else error.wait
            if attempt >= (error.attempts or ATTEMPTS) or wait > LONGEST_WAIT:
                advice = "Try again later, or give a local file."
                raise HubError(f"{what}: {error} (tried {attempt} times). {advice}") from error
            time.sleep(wait)


def get_small(url: str, what: str) -> bytes:
    """A small file or an API's answer, whole."""

    def action() -> bytes:
        with _answer(url, {}, what) as response:
            if response.status_code != 200:
                raise HubError(f"{what}: {_host(url)} answered {response.status_code}. Check HF_ENDPOINT, or give a local file.")
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > SMALL:
                    raise HubError(f"{what}: {_host(url)} sent more than {SMALL} bytes. Check HF_ENDPOINT, or give a local file.")
            return bytes(body)

    return retry(action, what)


class Remote:
    """A file that is read in ranges. ``size``, ``commit`` and ``sha256`` are known after the first one."""

    def __init__(self, url: str, what: str) -> None:
        self.url, self.what = url, what
        self.moved: Callable[[int], None] | None = None
        """Told of the bytes of every piece that arrives."""
        self.size: int | None = None
        self.commit: str | None = None
        self.sha256: str | None = None
        self._location = url
        self._reuse = True
        self._lock = threading.Lock()

    def fetch(self, start: int, stop: int) -> bytes:
        """The bytes from start to stop; fewer where the file ends before."""
        got = bytearray()

        def action() -> None:
            end = stop if self.size is None else min(stop, self.size)
            while start + len(got) < end:
                end = self._get(start + len(got), stop, got)

        retry(action, self.what)
        return bytes(got)

    def _get(self, start: int, stop: int, got: bytearray) -> int:
        """Append what one request brings; returns where the range ends in this file."""
        where, asked = self._location, {"Range": f"bytes={start}-{stop - 1}"}
        redirected = where != self.url
        with _answer(
            where, asked, self.what, token=_host(where) == _host(self.url), allow=_STALE if redirected else ()
        ) as response:
            if response.status_code == 200:
                # the body is left unread: it may be gigabytes
                raise HubError(
                    f"{self.what}: {_host(where)} ignores byte ranges and would send the whole file. "
                    "Download it (hf download REPO FILE), and ingest again: the local cache is read first."
                )
            if response.status_code >= 400:
                raise self._ask_the_hub_again()
            try:
                end = self._check_range(response, start, stop)
            except HubError:
                if redirected:
                    raise self._ask_the_hub_again() from None
                raise
            if not redirected:
                self._learn(response)
            expected = end - start
            count = 0
            for piece in response.iter_raw():  # as it arrives: pieces of a set size would be lost with a broken connection
                count += len(piece)
                if count > expected:
                    raise HubError(
                        f"{self.what}: {_host(where)} sent more than the {expected} bytes asked for. Give a local file."
                    )
                got += piece
                if self.moved:
                    self.moved(len(piece))
            if count < expected:
                raise _Transient(f"{_host(where)} sent {count} of {expected} bytes")
        return end

    def _ask_the_hub_again(self) -> _Transient:
        """The address behind the redirect has expired, or was signed for one range only: no longer spare the hub's redirects."""
        self._location, self._reuse = self.url, False
        return _Transient("the address that the hub redirected to is stale", wait=0)

    def _check_range(self, response: Any, start: int, stop: int) -> int:
        """Where the answered range ends; an error unless it is the one that was asked for."""
        said = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", said.strip())
        wrong = HubError(
            f"{self.what}: {_host(self.url)} answered {response.status_code} with Content-Range {said[:60]!r} to a request "
            f"for bytes {start}-{stop - 1}. Give a local file."
        )
        if response.status_code != 206 or found is None or response.headers.get("Content-Encoding", "identity") != "identity":
            raise wrong
        first, last, total = (int(group) for group in found.groups())
        if first != start or last + 1 != min(stop, total):
            raise wrong
        if self.size not in (None, total):
            raise HubError(f"{self.what} changed from {self.size} to {total} bytes while it was read. Ingest it again.")
        self.size = total
        return last + 1

    def _learn(self, response: Any) -> None:
        """Commit, hash and the address behind the redirect, from the hub's own answer."""
        with self._lock:
            hub = response.history[0] if response.history else response
            self.commit = self.commit or hub.headers.get("X-Repo-Commit")
            etag = (hub.headers.get("X-Linked-ETag") or hub.headers.get("ETag") or "").removeprefix("W/").strip('"')
            self.sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
            linked = hub.headers.get("X-Linked-Size")
            if linked and linked.isdecimal() and int(linked) != self.size:
                raise HubError(f"{self.what}: the hub tells of {linked} bytes and serves {self.size}. Give a local file.")
            if self.commit:  # a branch may move while it is read
                self.url = re.sub(r"/resolve/[^/]+/", f"/resolve/{self.commit}/", self.url, count=1)
            self._location = str(response.url) if response.history and self._reuse else self.url


def download(url: str, path: Path, what: str, moved: Callable[[int], None] | None = None) -> int:
    """A whole file from a plain server into ``path``, by way of a partial file that a later call resumes. Returns its bytes."""
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)

    def action() -> None:
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with _answer(url, headers, what, token=False, allow=(416,)) as response:
            if response.status_code == 416:
                partial.unlink()
                raise _Transient("the partial file was no part of it", wait=0)
            whole = int(response.headers.get("Content-Length") or -1)
            if response.status_code == 200:
                have = 0
            with partial.open("ab" if have else "wb") as file:
                count = 0
                for piece in response.iter_raw():
                    count += file.write(piece)
                    if moved:
                        moved(len(piece))
            if whole >= 0 and count != whole:
                raise _Transient(f"{_host(url)} sent {count} of {whole} bytes")

    retry(action, what)
    partial.replace(path)
    return path.stat().st_size


@contextmanager
def _answer(url: str, headers: dict[str, str], what: str, *, token: bool = True, allow: tuple[int, ...] = ()) -> Iterator[Any]:
    """The answer to a GET, its body unread. Raises for every answer that brings no file, but for the statuses in ``allow``."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    if offline():
        raise HubError(f"{what} is not in the local cache, and HF_HUB_OFFLINE is set. Unset it, or give a local file.")
    client = get_session()
    errors = sys.modules[type(client).__module__.partition(".")[0]]  # httpx, or what the hub's library has in its place
    sent = {**build_hf_headers(token=None if token else False), "Accept-Encoding": "identity", **headers}
    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    try:
        with client.stream("GET", url, headers=sent, timeout=timeout, follow_redirects=True) as response:
            if response.status_code not in allow:
                _refuse(response, url, what)
            yield response
    except (errors.InvalidURL, errors.UnsupportedProtocol) as error:
        raise HubError(f"{what}: {url} is not an address. Check HF_ENDPOINT, or give a local file.") from error
    except (errors.ConnectError, errors.ConnectTimeout) as error:
        raise _Transient(f"no connection to {_host(url)}", attempts=2) from error
    except errors.TimeoutException as error:
        raise _Transient(f"{_host(url)} sent nothing for {timeout:g} seconds") from error
    except (errors.HTTPError, ConnectionError) as error:
        raise _Transient(f"the connection to {_host(url)} broke ({type(error).__name__})") from error


def _refuse(response: Any, url: str, what: str) -> None:
    status, code, host = response.status_code, response.headers.get("X-Error-Code", ""), _host(url)
    if status in (408, 425, 429, 500, 502, 503, 504):
        raise _Transient(
            f"{host} answered {status}{' (too many requests)' if status == 429 else ''}", wait=_wait(response.headers)
        )
    if status in (401, 403):
        reason = "it is gated" if code == "GatedRepo" else "there is no such repository, or it is private"
        raise HubError(
            f"{what}: {host} answered {status}: {reason}. Check the name, or set HF_TOKEN to a token that may read it."
        )
    if status == 404:
        raise Missing(f"{what}: {host} has no such file, repository or revision. Check the name.", code)
    if status >= 400:
        raise HubError(f"{what}: {host} answered {status}. Give a local file.")


def _wait(headers: Any) -> float | None:
    """Seconds that the server asks for: Retry-After, or the reset of the hub's RateLimit header where nothing is left."""
    after = str(headers.get("Retry-After", "")).strip()
    if re.fullmatch(r"\d+(\.\d+)?", after):
        return float(after)
    limit = re.search(r";\s*r=0\s*;\s*t=(\d+)", str(headers.get("RateLimit", "")))
    return float(limit[1]) if limit else None


def _host(url: str) -> str:
    return urlsplit(url).netloc or url
