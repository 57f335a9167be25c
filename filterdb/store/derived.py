"""Tables that are made from the kernels: classes, descriptors, fits. They can be joined, thrown away and rebuilt.

What was made of one model by one maker (a classifier, the rules of a version) is one member of a collection, and the member's
name says which editions of the two it was made from. So rows about a model that was ingested again, or by a maker that changed,
are no longer found, and never shown beside kernels they were not made of; a model's old version finds its own rows again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from filterdb.store.collection import Collection, Snapshot, slug
from filterdb.store.place import Place

Makers = Mapping[str, str]
"""Slug to edition of whatever makes the rows."""


class Derived:
    """One derived table."""

    def __init__(self, root: Place, table: str, schema: pa.Schema):
        self.table, self.schema = table, schema
        self.collection = Collection(root, {table: schema})

    def put(self, maker: tuple[str, str], model: tuple[str, str], tables: Iterable[pa.Table]) -> None:
        """Keep the rows of one model by one maker, each given as slug and edition; what was there of the same is replaced."""
        with self.collection.stage() as stage:
            stage.write(self.table, tables, self.schema)
            stage.commit(_member(maker, model))

    def has(self, maker: tuple[str, str], model: tuple[str, str]) -> bool:
        """Whether there are rows of that edition of a model by that edition of a maker."""
        return slug(_member(maker, model)) in self.collection.snapshot().editions

    def read(self, maker: tuple[str, str], model: tuple[str, str]) -> pa.Table | None:
        """The rows of one model by one maker, if there are any."""
        snapshot, key = self.collection.snapshot(), slug(_member(maker, model))
        return self.collection.read(self.table, key, snapshot.editions[key]) if key in snapshot.editions else None

    def parts(self, makers: Makers, models: Snapshot) -> dict[tuple[str, str], tuple[str, str]]:
        """(maker's slug, model's slug) to the slug and edition of their rows in the collection, for those that have rows."""
        there = self.collection.snapshot().editions
        keys = {
            (maker[0], model[0]): slug(_member(maker, model)) for maker in makers.items() for model in models.editions.items()
        } if there else {}  # fmt: skip
        return {pair: (key, there[key]) for pair, key in keys.items() if key in there}

    def files(self, makers: Makers, models: Snapshot) -> list[str]:
        """The Parquet files of the rows that belong to these makers and models."""
        snapshot = self.collection.snapshot()
        found = [key for key in _members(makers, models) if key in snapshot.editions] if snapshot.editions else []
        return self.collection.files(self.table, snapshot, found)

    def missing(self, maker: tuple[str, str], models: Snapshot) -> list[str]:
        """The slugs of the models that a maker has no rows of."""
        there = self.collection.snapshot().editions
        return [key for key, edition in models.editions.items() if slug(_member(maker, (key, edition))) not in there]

    def tidy(self, makers: Makers, models: Snapshot) -> None:
        """Drop the rows of makers and models that are gone or were replaced."""
        snapshot, wanted = self.collection.snapshot(), set(_members(makers, models))
        self.collection.discard({key: edition for key, edition in snapshot.editions.items() if key not in wanted})


def _member(maker: tuple[str, str], model: tuple[str, str]) -> str:
    return " ".join((*maker, *model))


def _members(makers: Makers, models: Snapshot) -> Iterator[str]:
    for maker in makers.items():
        for model in models.editions.items():
            yield slug(_member(maker, model))
