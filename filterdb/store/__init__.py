"""The store: Delta tables that change in one atomic step, streaming scans, and read-only SQL over them."""

from filterdb.store.collection import Collection, Snapshot, Stage
from filterdb.store.derived import Derived, Makers
from filterdb.store.place import Place
from filterdb.store.scan import KernelBatch, kernel_batches
from filterdb.store.sql import Session, query_error

__all__ = [
    "Collection",
    "Derived",
    "KernelBatch",
    "Makers",
    "Place",
    "Session",
    "Snapshot",
    "Stage",
    "kernel_batches",
    "query_error",
]
