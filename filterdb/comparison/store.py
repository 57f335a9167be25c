"""The PCA bases of a database, each one member of a collection: frozen, so that shifts measured a year apart are comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from filterdb.errors import StoreError, not_found
from filterdb.kernels.pca import Basis
from filterdb.kernels.sizes import parse_size, split
from filterdb.store import Collection, Place, schema
from filterdb.store.collection import slug

BASES = schema.table(
    basis=pa.string(), size=pa.string(), kernel_h=pa.int32(), kernel_w=pa.int32(), kernels=pa.int64(), dead=pa.int64(),
    models=pa.list_(pa.field("element", pa.string())), bins=pa.int32(), mean=pa.list_(pa.field("element", pa.float64())),
    made_at=pa.timestamp("us", tz="UTC"),
)  # fmt: skip
COMPONENTS = schema.table(
    basis=pa.string(), component=pa.int32(), explained_variance_ratio=pa.float64(), low=pa.float64(), high=pa.float64(),
    kernel=pa.list_(pa.field("element", pa.float64())),
)  # fmt: skip

SCHEMAS = {"bases": BASES, "components": COMPONENTS}


class BasisStore:
    """Bases by name: the tables ``bases`` and ``components``."""

    def __init__(self, root: Place):
        self.collection = Collection(root, SCHEMAS)

    def names(self) -> list[str]:
        """All bases."""
        snapshot = self.collection.snapshot()
        return sorted(self.collection.read("bases", key, snapshot.editions[key])["basis"][0].as_py() for key in snapshot.editions)

    def find(self, name: str) -> Basis | None:
        """A basis by name, if there is one."""
        editions = self.collection.snapshot().editions
        if slug(name) not in editions:
            return None
        try:
            return from_tables({table: self.collection.read(table, slug(name), editions[slug(name)]) for table in SCHEMAS})
        except (OSError, pa.ArrowException, ValueError) as error:
            raise StoreError(f'The basis "{name}" is damaged. Run filterdb verify --repair, then make it again.') from error

    def put(self, basis: Basis) -> None:
        """Keep a basis, replacing the one of its name."""
        head = {
            "basis": basis.name, "size": basis.size, "kernel_h": split(basis.kernel_h)[1], "kernel_w": basis.kernel_w,
            "kernels": basis.kernels, "dead": basis.dead, "models": list(basis.models), "bins": basis.bins, "mean": basis.mean,
            "made_at": datetime.now(UTC),
        }  # fmt: skip
        rows = [
            {
                "basis": basis.name, "component": i + 1, "explained_variance_ratio": basis.explained_variance_ratio[i],
                "low": basis.low[i], "high": basis.high[i], "kernel": basis.components[i],
            }
            for i in range(len(basis.components))
        ]  # fmt: skip
        with self.collection.stage() as stage:
            stage.write("bases", [pa.Table.from_pylist([head], BASES)], BASES)
            stage.write("components", [pa.Table.from_pylist(rows, COMPONENTS)], COMPONENTS)
            stage.commit(basis.name)

    def remove(self, name: str) -> None:
        """Remove a basis."""
        if not self.collection.remove(name):
            raise not_found("basis", name, self.names())

    @property
    def version(self) -> int:
        """Changes whenever a basis does."""
        return self.collection.version()

    def views(self) -> Mapping[str, tuple[Sequence[str], pa.Schema]]:
        """The tables as SQL sees them, by name: their files, and their columns."""
        snapshot = self.collection.snapshot()
        return {name: (self.collection.files(name, snapshot), columns) for name, columns in SCHEMAS.items()}


def from_tables(tables: Mapping[str, pa.Table]) -> Basis:
    """The basis that one member's tables hold."""
    head, rows = tables["bases"].to_pylist()[0], tables["components"].sort_by("component")
    ratio, low, high = (rows[name].to_numpy() for name in ("explained_variance_ratio", "low", "high"))
    kernel_h, kernel_w = parse_size(head["size"])
    components = np.array(rows["kernel"].to_pylist(), np.float64).reshape(len(ratio), kernel_h * kernel_w)
    return Basis(
        head["basis"], kernel_h, kernel_w, head["kernels"], head["dead"], tuple(head["models"]),
        np.array(head["mean"]), components, ratio, low, high, head["bins"],
    )  # fmt: skip
