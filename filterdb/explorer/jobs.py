"""Work that takes longer than a page: done once by a few threads, cached, and shown when it is ready."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any

import duckdb

from filterdb.errors import FilterdbError

KEPT = 256
"""Cached answers. The least recently used one is dropped first."""


def stand_back(niceness: int) -> None:
    """Lower the priority of a thread and of the threads that it starts."""
    if niceness and sys.platform == "linux":  # elsewhere it would be the whole process
        os.nice(niceness)


@dataclass(frozen=True)
class Answer:
    """The state of a job: a value, an error in one line, or neither yet."""

    value: Any = None
    error: str = ""
    pending: bool = False


class Jobs:
    """Answers by key. A key contains the request and the versions that it refers to. Answers therefore never become stale."""

    def __init__(self, threads: int, niceness: int = 0):
        """``niceness``: how much lower the priority of the threads is than that of the pages, where the system supports it."""
        self._pool = ThreadPoolExecutor(threads, "explorer", stand_back, (niceness,))
        self._found: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any], wait: float) -> Answer:
        """The answer of ``make``, started now if it was not before; pending if it is not ready after ``wait`` seconds."""
        with self._lock:
            future = self._found.get(key)
            if future is None:
                future = self._found[key] = self._pool.submit(make)
            self._found.move_to_end(key)
            while len(self._found) > KEPT:
                _, oldest = self._found.popitem(last=False)
                oldest.cancel()
        try:
            return Answer(future.result(wait))
        except (NotYet, CancelledError):
            return Answer(pending=True)
        except FilterdbError as error:
            return Answer(error=" ".join(str(error).split()))
        except (duckdb.Error, OSError) as error:  # a file that was vacuumed meanwhile; asked again, it is found anew
            with self._lock:
                self._found.pop(key, None)
            logging.getLogger("filterdb").warning("a page's work failed: %s", error)
            return Answer(error=" ".join(str(error).split())[:300])

    def close(self) -> None:
        """Finish the running jobs, and start no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
