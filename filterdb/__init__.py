"""filterdb: a database of the depthwise kernels of trained vision models, and a library to ask it questions.

import filterdb

db = filterdb.Database("filters")
db.ingest("timm:convnextv2_atto")
db.sql("SELECT size, count(*) FROM filters GROUP BY size").show()
db.nearest(bank="greedy8").df()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from filterdb.version import __version__

if TYPE_CHECKING:
    from filterdb.banks import Bank as Bank
    from filterdb.database import Database as Database
    from filterdb.errors import FilterdbError as FilterdbError


_HOMES = {"Bank": "filterdb.banks", "Database": "filterdb.database", "FilterdbError": "filterdb.errors"}

__all__ = ["Bank", "Database", "FilterdbError", "__version__"]


def __getattr__(name: str) -> Any:
    """The public names, loaded when first used: ``import filterdb`` alone costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'filterdb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
