"""What the rows of each model are made of: for readers that keep a copy of them and want to know what changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from filterdb.database.base import Base
from filterdb.store import Collection


class Part(NamedTuple):
    """The rows of one model in one table; the same part always has the same rows."""

    table: str
    """models, layers, filters, descriptors, fits or classes."""
    maker: str
    """Of classes the classifier's name; of descriptors and fits nothing."""
    key: str
    edition: str


class PartVerbs(Base):
    """``parts`` and ``read_part``."""

    def parts(self) -> dict[str, tuple[Part, ...]]:
        """The parts of each model, by its slug. A model whose parts are the same has the same rows."""
        models, fields, classes = self._snapshot(), self._fields, self._classes
        tables = {name: self._models for name in ("models", "layers", "filters")}
        found = {key: [Part(table, "", key, edition) for table in tables] for key, edition in models.editions.items()}
        derived = {
            "descriptors": fields.descriptor_parts(models), "fits": fields.fit_parts(models), "classes": classes.parts(models),
        }  # fmt: skip
        for table, rows in derived.items():
            for (maker, model), (key, edition) in rows.items():
                found[model].append(Part(table, maker, key, edition))
        return {model: tuple(sorted(rows)) for model, rows in found.items()}

    def read_part(self, part: Part) -> pa.Table:
        """Its rows.

        Raises:
            OSError: its file is gone, for the database was vacuumed meanwhile, or damaged.
        """
        return self._collection_of(part.table).read(part.table, part.key, part.edition)

    def _collection_of(self, table: str) -> Collection:
        derived: Mapping[str, Collection] = {
            "descriptors": self._fields.descriptors.collection, "fits": self._fields.fits.collection,
            "classes": self._classes.classes.collection,
        }  # fmt: skip
        return derived.get(table, self._models)
