"""One version of a database: SQL over it, its kernels as a stream, and its filters by id or by name.

Every method of ``Database`` that reads uses one view, so that a concurrent ingest cannot mix two versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filterdb.errors import InvalidArgument, NotFound, StoreError, not_found
from filterdb.kernels.sizes import parse_size, shape_of, size_name
from filterdb.kernels.sizes import rows as rows_of
from filterdb.store import schema
from filterdb.store.collection import Collection, Snapshot, slug
from filterdb.store.scan import KernelBatch, kernel_batches, kernel_of
from filterdb.store.sql import Session

EMPTY = "The database {} is empty. Ingest a model first: filterdb ingest timm:convnextv2_atto"


class Filter(NamedTuple):
    """Where a filter is, and the size of its kernel."""

    filter_id: int
    model: str
    layer: str
    channel: int
    kernel_h: int
    kernel_w: int


class View:
    """A snapshot of the models, and the SQL session over exactly its files."""

    def __init__(self, models: Collection, snapshot: Snapshot, session: Session):
        self._models = models
        self.snapshot = snapshot
        self.session = session

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.session.query(sql, parameters).fetchall()

    # -- choosing --------------------------------------------------------------------------------------------------------

    @cached_property
    def models(self) -> list[str]:
        """The names of all models."""
        return [row[0] for row in self.rows("SELECT model FROM models ORDER BY model")]

    @cached_property
    def counts(self) -> dict[tuple[int, int], dict[str, int]]:
        """(kernel_h, kernel_w) to the models that have kernels of that size, and how many."""
        found: dict[tuple[int, int], dict[str, int]] = {}
        sql = "SELECT kernel_d, kernel_h, kernel_w, model, sum(out_channels)::BIGINT FROM layers GROUP BY ALL ORDER BY ALL"
        for kernel_d, kernel_h, kernel_w, model, kernels in self.rows(sql):
            found.setdefault((rows_of(kernel_d, kernel_h), kernel_w), {})[model] = kernels
        return found

    @cached_property
    def sizes(self) -> dict[tuple[int, int], list[str]]:
        """(kernel_h, kernel_w) to the models that have kernels of that size."""
        return {size: list(models) for size, models in self.counts.items()}

    def check_filled(self) -> None:
        """A database without models is an error."""
        if not self.snapshot.editions:
            raise StoreError(EMPTY.format(self._models.root))

    def check_model(self, name: str) -> None:
        """An unknown model is an error, where there are models at all."""
        if self.models and name not in self.models:
            raise not_found("model", name, self.models)

    def check_size(self, size: str | int) -> str:
        """The name of a kernel size; one that no kernel has is an error, where there are kernels at all."""
        kernel_h, kernel_w = parse_size(size)
        if self.sizes:
            self._having(kernel_h, kernel_w)
        return size_name(kernel_h, kernel_w)

    def having(self, kernel_h: int, kernel_w: int, model: str | Sequence[str] | None = None) -> list[str]:
        """The models with kernels of a size, all or those of a name, a glob, or several. Complains if there can be none."""
        self.check_filled()
        there = self._having(kernel_h, kernel_w)
        return there if model is None else [name for name in self.matching_models(model) if name in set(there)]

    def only_size(self) -> str:
        """The kernel size, where there is only one."""
        if len(self.sizes) == 1:
            return size_name(*next(iter(self.sizes)))
        self.check_filled()
        sizes = ", ".join(size_name(*size) for size in sorted(self.sizes))
        raise InvalidArgument(f"Kernels of one size at a time, and there are {sizes}. Choose one with --size.")

    def _having(self, kernel_h: int, kernel_w: int) -> list[str]:
        if (kernel_h, kernel_w) not in self.sizes:
            size, there = size_name(kernel_h, kernel_w), ", ".join(size_name(*size) for size in sorted(self.sizes))
            raise NotFound(f"No kernels of size {size} in {self._models.root}. There are: {there}.")
        return self.sizes[kernel_h, kernel_w]

    def matching_models(self, wanted: str | Sequence[str]) -> list[str]:
        """The models that a name, a glob, or several of them choose."""
        patterns = [wanted] if isinstance(wanted, str) else wanted
        return list(dict.fromkeys(name for pattern in patterns for name in matching("model", pattern, self.models)))

    def batches(
        self,
        kernel_h: int,
        kernel_w: int,
        columns: Sequence[str] = (),
        *,
        model: str | Sequence[str] | None = None,
        layer: str | None = None,
    ) -> Iterator[KernelBatch]:
        """The kernels of a size, all or those of some models and layers. Complains at once if there can be none."""
        chosen = self.having(kernel_h, kernel_w, model)
        layers = None
        if layer is not None:
            layers = matching("layer", layer, [row[0] for row in self.rows("SELECT DISTINCT layer FROM layers")])
        return self._stream([slug(name) for name in chosen], kernel_h, kernel_w, columns, layers)

    def editions(self, kernel_h: int, kernel_w: int) -> dict[str, str]:
        """Slug to edition of the models that have kernels of a size."""
        return self._editions.get((kernel_h, kernel_w), {})

    @cached_property
    def _editions(self) -> dict[tuple[int, int], dict[str, str]]:
        return {size: {key: self.snapshot.editions[key] for key in map(slug, models)} for size, models in self.sizes.items()}

    def stream(self, slugs: Sequence[str], kernel_h: int, kernel_w: int) -> Iterator[KernelBatch]:
        """The kernels of some models, with their filter_ids."""
        return self._stream(slugs, kernel_h, kernel_w, ["filter_id"], None)

    def _stream(
        self, slugs: Sequence[str], kernel_h: int, kernel_w: int, columns: Sequence[str], layers: Sequence[str] | None
    ) -> Iterator[KernelBatch]:
        return kernel_batches(
            self._models.root, self._models.files("filters", self.snapshot, slugs), kernel_h, kernel_w, columns, layers
        )

    # -- single filters --------------------------------------------------------------------------------------------------

    def kernel(self, query: int | str | ArrayLike) -> tuple[NDArray[np.float32], int | None]:
        """The kernel that is meant, and its filter_id if it is a filter of the database.

        It is (kernel_h, kernel_w), in three dimensions (kernel_d, kernel_h, kernel_w).

        Args:
            query: a filter_id, ``model:layer:channel``, or the kernel itself.
        """
        if not isinstance(query, (int, np.integer, str)):
            kernel = np.asarray(query, dtype=np.float32)
            if kernel.ndim not in (2, 3) or kernel.size < 2 or not np.isfinite(kernel).all():
                raise InvalidArgument(f"The query kernel has shape {kernel.shape}. Give a 2-D or 3-D array of finite numbers.")
            return kernel, None
        found = self.filter(query)
        (file,) = self._models.files("filters", self.snapshot, [slug(found.model)])
        kernel = kernel_of(self._models.root, file, found.filter_id)
        return kernel.reshape(shape_of(found.kernel_h, found.kernel_w)), found.filter_id

    def filter(self, query: int | np.integer | str) -> Filter:
        """The filter that a filter_id or ``model:layer:channel`` means. No kernel is read.

        Raises:
            NotFound: there is none.
        """
        if isinstance(query, (int, np.integer)) or query.isdecimal():
            place = self.names([int(query)]).get(int(query))
        else:
            start, _, digits = query.rpartition(":")
            if ":" not in start or not digits.isdecimal():
                raise InvalidArgument(f'"{query}" is not a filter. Write a filter_id or MODEL:LAYER:CHANNEL.')
            place = (*self.layer(start), int(digits))
        if place is not None:
            model, layer, channel = place
            channels, kernel_h, kernel_w = self._layers[model][layer]
            if channel < channels:
                filter_id = (schema.layer_id(model, layer) + channel) % schema.ID_RANGE
                return Filter(filter_id, model, layer, channel, kernel_h, kernel_w)
        columns = "filter_id, model, layer, channel"
        raise NotFound(f'No filter "{query}" in {self._models.root}. SELECT {columns} FROM filters shows what there is.')

    def layer(self, text: str) -> tuple[str, str]:
        """The model and layer that MODEL:LAYER means. Both may have colons in their names, and the model may be a glob.

        Raises:
            NotFound: no such model, or no such layer in it.
        """
        splits = [(text[:i], text[i + 1 :]) for i in reversed(range(len(text))) if text[i] == ":"]
        known = [split for split in splits if split[0] in self.models]
        known = known or [(name, layer) for glob, layer in splits for name in self.models if fnmatchcase(name, glob)]
        if not known:
            near = (model for model, _ in splits if get_close_matches(model, self.models, 1, 0.5))
            raise not_found("model", next(near, text.rpartition(":")[0] or text), self.models)
        for model, layer in known:
            if layer in self._layers[model]:
                return model, layer
        advice = f'Layers of {known[0][0]}: filterdb query layers --model "{known[0][0]}"'
        raise not_found("layer", known[0][1], self._layers[known[0][0]], advice=advice)

    def names(self, filter_ids: Sequence[int]) -> dict[int, tuple[str, str, int]]:
        """filter_id to (model, layer, channel), of those that are here.

        The ids of a layer are consecutive from a hash of its name, so the table of layers answers, not a scan of all filters.
        """
        starts, layers = self._layer_starts
        found: dict[int, tuple[str, str, int]] = {}
        for filter_id in filter_ids if layers else ():
            # The last layer of all may wrap around zero; position -1 is that one.
            start, (model, layer, channels) = starts[i := np.searchsorted(starts, filter_id, "right") - 1], layers[i]
            channel = (filter_id - int(start)) % schema.ID_RANGE
            if channel < channels:
                found[filter_id] = (model, layer, channel)
        return found

    @cached_property
    def _layers(self) -> dict[str, dict[str, tuple[int, int, int]]]:
        """The layers of each model: channels, kernel_h, kernel_w."""
        found: dict[str, dict[str, tuple[int, int, int]]] = {}
        sql = "SELECT model, layer, out_channels, kernel_d, kernel_h, kernel_w FROM layers"
        for model, layer, channels, kernel_d, kernel_h, kernel_w in self.rows(sql):
            found.setdefault(model, {})[layer] = channels, rows_of(kernel_d, kernel_h), kernel_w
        return found

    @cached_property
    def _layer_starts(self) -> tuple[NDArray[np.int64], list[tuple[str, str, int]]]:
        rows = [(model, layer, channels) for model, layers in self._layers.items() for layer, (channels, _, _) in layers.items()]
        starts = np.array([schema.layer_id(model, layer) for model, layer, _ in rows], np.int64)
        order = np.argsort(starts)
        return starts[order], [rows[i] for i in order]


def matching(kind: str, pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a name or glob matches; an exact name wins, so names with brackets work."""
    found = [pattern] if pattern in names else sorted(name for name in names if fnmatchcase(name, pattern))
    if not found:
        raise not_found(kind, pattern, names)
    return found
