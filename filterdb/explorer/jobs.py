"""Work that may take longer than a page may: done once by a few threads, kept, and shown when it is there."""

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
"""Answers; the one that was asked for longest ago goes first."""


def stand_back(niceness: int) -> None:
    """Let a thread, and those that it begins, go behind others."""
    if niceness and sys.platform == "linux":  # elsewhere it would be the whole process
        os.nice(niceness)


@dataclass(frozen=True)
class Answer:
    """What became of a job by now: a value, an error in one line, or neither yet."""

    value: Any = None
    error: str = ""
    pending: bool = False


class Jobs:
    """Answers by key. A key names what is asked and the versions it is asked of, so answers never go stale."""

    def __init__(self, threads: int, niceness: int = 0):
        """``niceness``: how far the threads stand back behind those of the pages, on systems where a thread can."""
        self._pool = ThreadPoolExecutor(threads, "explorer", stand_back, (niceness,))
        self._found: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any], wait: float) -> Answer:
        """The answer of ``make``, begun now if it was not before; pending if it is not there after ``wait`` seconds."""
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
        """Let what is running end, and begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
