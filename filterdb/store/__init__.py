"""The store: Delta tables that change in one atomic step, streaming scans, and read-only SQL over them.

The store does not depend on what the kernels mean.

place          a folder or an object store
collection     tables whose members (models, banks …) are added, replaced and removed atomically
derived        tables made from a member, found only while that member is the same
schema         what models, layers and filters are
scan           kernels in batches
sql            DuckDB over all tables, read only
view           one version of a database, and the queries on it
named_queries  the queries of the folder ``queries``
"""

from filterdb.store.collection import Collection, Snapshot, Stage
from filterdb.store.derived import Derived, Makers
from filterdb.store.place import Place
from filterdb.store.scan import KernelBatch, kernel_batches
from filterdb.store.sql import Session, query_error

__all__ = [
    "Collection", "Derived", "KernelBatch", "Makers", "Place", "Session", "Snapshot", "Stage", "collection", "csv_files",
    "kernel_batches", "named_queries", "parquet", "query_error", "schema", "view",
]  # fmt: skip
