"""``Database``: the one noun of filterdb. Every verb of the command line is one call on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from filterdb import banks, named_queries, schema
from filterdb.bank_store import BankStore
from filterdb.banks import Bank
from filterdb.errors import InvalidArgument, NotFound, StoreError, not_found
from filterdb.kernels import centred_unit
from filterdb.store import Collection, KernelBatch, Session, Snapshot, kernel_batches
from filterdb.store.collection import slug

if TYPE_CHECKING:
    from filterdb.pipeline import Outcome, Reporter
    from filterdb.verify import Report

Relation = duckdb.DuckDBPyRelation


@dataclass(frozen=True)
class Info:
    """What a database holds."""

    path: str
    version: int
    time: datetime | None
    models: int
    layers: int
    filters: int
    dead: int
    sizes: dict[str, int]
    """Filters of each kernel size, most first."""
    bytes: int
    """On disk, of the current version."""
    banks: list[str]


class Database:
    """A folder of Delta tables with the depthwise kernels of models.

    The folder is made by the first ingest. Reading always sees the latest version, or with ``as_of`` one that stays.

    Args:
        path: the folder; else ``$FILTERDB_PATH``, else ``./filters``.
        as_of: a version number, or a time (datetime, or ISO text in UTC): look at the database as it was, read only.

    Raises:
        StoreError: no such version, or a folder that is something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, as_of: int | str | datetime | None = None):
        chosen = os.fspath(path) if path is not None else os.environ.get("FILTERDB_PATH") or "filters"
        if "://" in chosen:
            raise StoreError(f"{chosen}: databases on object stores are not supported yet. Give a folder.")
        self.path = Path(chosen).absolute()
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"{self.path} is a file, not a database folder.")
        self._models = Collection(self.path, {"models": schema.MODELS, "layers": schema.LAYERS, "filters": schema.FILTERS})
        self._banks = BankStore(self.path)
        self._as_of = _moment(as_of)
        self._fixed = self._models.snapshot(self._as_of) if self._as_of is not None else None
        self._opened: tuple[tuple[int, int], Session] | None = None

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r}{'' if self._as_of is None else f', as_of={self.version}'})"

    def exists(self) -> bool:
        """Whether anything was ever ingested here."""
        return self._models.exists()

    # -- what there is ---------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The version this database shows; -1 before the first ingest."""
        return self._snapshot().version

    @property
    def models(self) -> list[str]:
        """The names of all models."""
        return [row[0] for row in self.sql("SELECT model FROM models ORDER BY model").fetchall()]

    def info(self) -> Info:
        """Counts, sizes and bytes."""
        snapshot = self._snapshot()
        sizes = self.sql(
            "SELECT size, count(*) AS n, count(*) FILTER (dead) FROM filters GROUP BY size ORDER BY n DESC, size"
        ).fetchall()
        files = [path for table in self._models.schemas for path in self._models.files(table, snapshot)]
        return Info(
            str(self.path), snapshot.version, snapshot.time, len(snapshot.editions),
            self._count("layers"), sum(row[1] for row in sizes), sum(row[2] for row in sizes),
            {row[0]: row[1] for row in sizes}, sum(path.stat().st_size for path in files), self.banks(),
        )  # fmt: skip

    def history(self) -> list[dict[str, object]]:
        """One row for each version, newest first: version, time, operation, model."""
        return self._models.history()

    # -- ingest ----------------------------------------------------------------------------------------------------------

    def ingest(
        self,
        *sources: Any,
        jobs: int = 4,
        skip_existing: bool = False,
        check: bool = True,
        reporter: Reporter | None = None,
        **options: Any,
    ) -> list[Outcome]:
        """Ingest models; ingesting a model again replaces it.

        Args:
            sources: ``timm:NAME[.TAG]`` or a glob, ``hf:REPO[@REV][/FILE]``, ``torchvision:NAME``, a file, a recipe's name or
                path, or an ``nn.Module``.
            jobs: models worked on at a time.
            skip_existing: leave models alone that are here already.
            check: raise if a model failed, after all others are stored; False leaves it to the outcomes.
            reporter: who is told how it goes; see ``filterdb.pipeline.Reporter``.
            options: name, dataset, pretrain_dataset, step, licence, top1, architecture, architecture_args, weights ("auto",
                "ema", "raw") and pointwise; see ``filterdb.sources.Options``.

        Returns:
            One outcome for each model.

        Raises:
            SourceError: models failed; ``outcomes`` of the error has every one of this call.
        """
        from filterdb import pipeline
        from filterdb.sources import Options

        self._writable()
        unknown = set(options) - set(Options.__dataclass_fields__)
        if unknown:
            raise not_found("option of ingest", min(unknown), Options.__dataclass_fields__)
        if not sources:
            raise InvalidArgument("Nothing to ingest: give a source, such as timm:convnextv2_atto or a checkpoint file.")
        outcomes = pipeline.ingest(
            self._models, sources, Options(**options), jobs=jobs, skip_existing=skip_existing, reporter=reporter
        )
        if check:
            pipeline.raise_failures(outcomes)
        return outcomes

    def remove(self, model: str) -> None:
        """Remove a model. Its files stay for ``as_of`` until ``vacuum``."""
        self._writable()
        if not self._models.remove(model):
            raise not_found("model", model, self.models)

    def verify(self, *, repair: bool = False, progress: Any = None) -> Report:
        """Check counts, hashes, ids and orphans; ``repair`` removes what is broken and tidies up after killed writers."""
        from filterdb.verify import verify

        return verify(self._models, repair=repair, progress=progress)

    def vacuum(self) -> int:
        """Forget old versions: delete files that only they need. Returns the bytes freed."""
        self._writable()
        return sum(collection.vacuum() for collection in (self._models, self._banks.collection) if collection.exists())

    # -- ask -------------------------------------------------------------------------------------------------------------

    def sql(self, query: str, **parameters: Any) -> Relation:
        """Run one read-only SQL statement over ``models``, ``layers``, ``filters``, ``filters_7x7``, ``banks`` …

        Args:
            query: DuckDB SQL; parameters are written ``$name``.
            parameters: their values.

        Returns:
            A DuckDB relation: ``.fetchall()``, ``.df()``, ``.pl()``, ``.to_arrow_table()``, ``.show()``.

        Raises:
            QueryError: it does not parse, does not run, or would write.
        """
        return self._session().query(query, parameters)

    def query(self, name: str, **parameters: Any) -> Relation:
        """Run a named query of the folder ``queries``; see ``filterdb.named_queries``."""
        question = named_queries.load(name)
        return self.sql(question.sql, **question.bind(parameters))

    def nearest(
        self, bank: str | Bank = "greedy8", *, model: str | Sequence[str] | None = None, layer: str | None = None,
        size: str | int | None = None, signed: bool = False,
    ) -> Relation:  # fmt: skip
        """For each kernel f, the template g of a bank that comes closest as gain * g + offset.

        Args:
            bank: a bank or its name.
            model: only these models: a name, a glob, or several.
            layer: only layers of this name or glob.
            size: kernel size; the bank is scaled to it. Default: the bank's own.
            signed: only positive gains count. By default the sign is free.

        Returns:
            One row for each filter: filter_id, model, layer, channel, template, similarity (Pearson, signed), gain, offset,
            residual = |f - (gain g + offset)|, runner_up, margin, dead. Dead (constant) kernels have no template.
        """
        from filterdb.nearest import SCHEMA

        table = pa.Table.from_batches(self.nearest_batches(bank, model=model, layer=layer, size=size, signed=signed), SCHEMA)
        return duckdb.connect().from_arrow(table)

    def nearest_batches(
        self, bank: str | Bank = "greedy8", *, model: str | Sequence[str] | None = None, layer: str | None = None,
        size: str | int | None = None, signed: bool = False,
    ) -> Iterator[pa.RecordBatch]:  # fmt: skip
        """The rows of ``nearest`` as a stream, in memory that does not grow with the database."""
        from filterdb.nearest import IDENTITY, nearest

        chosen = self.bank(bank) if isinstance(bank, str) else bank
        if size is not None and schema.size_name(*schema.parse_size(size)) != chosen.size:
            chosen = chosen.at(size)
        batches = self._batches(chosen.kernel_h, chosen.kernel_w, IDENTITY, model, layer)
        return nearest(batches, chosen, signed=signed)

    def nearest_summary(self, bank: str | Bank = "greedy8", **choice: Any) -> Relation:
        """How the kernels fall on the templates of a bank; arguments as for ``nearest``.

        Returns:
            One row for each template: template, filters, percent, mean_similarity (of |similarity|), percent_above_90 (of its
            filters, those with |similarity| >= 0.9), percent_inverted (gain < 0). Dead kernels are the row "(dead)".
        """
        from filterdb.nearest import SCHEMA, SUMMARY

        with closing(duckdb.connect()) as con:
            con.register("nearest", pa.RecordBatchReader.from_batches(SCHEMA, self.nearest_batches(bank, **choice)))
            table = con.sql(SUMMARY).to_arrow_table()
        return duckdb.connect().from_arrow(table)

    def exemplars(self, bank: str | Bank = "greedy8", count: int = 8, **choice: Any) -> dict[str, np.ndarray]:
        """The real kernels closest to each template: template name to (n, kernel_h, kernel_w), closest first.

        At most ``count`` each. Kernels with a negative gain come with their sign turned, as the template they stand for. The other
        arguments are those of ``nearest``.
        """
        from filterdb.nearest import EXEMPLARS, SCHEMA

        chosen = self.bank(bank) if isinstance(bank, str) else bank
        with closing(duckdb.connect()) as con:
            con.register("nearest", pa.RecordBatchReader.from_batches(SCHEMA, self.nearest_batches(chosen, **choice)))
            rows = con.execute(EXEMPLARS, {"count": count}).fetchall()
        ids = [row[1] for row in rows]
        found = self.sql(
            "SELECT filter_id, kernel, kernel_h, kernel_w FROM filters WHERE filter_id IN (SELECT unnest($ids))", ids=ids
        )
        kernels = {row[0]: np.array(row[1], np.float32).reshape(row[2], row[3]) for row in found.fetchall()}
        return {
            name: np.array([np.sign(gain) * kernels[filter_id] for template, filter_id, gain in rows if template == name])
            for name in chosen.names
        }

    def similar(
        self, query: int | str | ArrayLike, k: int = 10, *, model: str | Sequence[str] | None = None, signed: bool = True,
        exact: bool | None = None,
    ) -> Relation:  # fmt: skip
        """The k kernels most like a filter or a kernel, by Pearson correlation.

        Args:
            query: a filter_id, ``model:layer:channel``, or a (kernel_h, kernel_w) array. A filter is not its own neighbour.
            k: how many.
            model: only these models: a name, a glob, or several.
            signed: False also finds inverted kernels (similarity near -1), ordered by |similarity|.
            exact: True searches by brute force, False by the FAISS index. Default: the index, unless only some models or an old
                version are asked for. The index is exact up to 200,000 kernels of the size; above, its recall@10 is about .99.

        Returns:
            rank, filter_id, model, layer, channel, similarity; best first.
        """
        from filterdb import index

        if k < 1:
            raise InvalidArgument(f"k = {k}: ask for at least 1 neighbour.")
        kernel, own = self._query_kernel(query)
        shape = (kernel.shape[0], kernel.shape[1])
        parts = centred_unit(kernel.reshape(1, -1))
        if parts.dead[0]:
            raise InvalidArgument("The query kernel is constant: it has no direction, so nothing is similar to it.")
        directions = parts.unit.astype(np.float32)
        if not signed:
            directions = np.concatenate([directions, -directions])
        wanted = k + (own is not None)
        if exact is None:
            exact = model is not None or self._as_of is not None
        if exact:
            scores, ids = index.brute_force(self._batches(*shape, ["filter_id"], model, None), directions, wanted)
        else:
            if model is not None or self._as_of is not None:
                raise InvalidArgument("The index holds all models of the latest version: with model or as_of, search exactly.")
            scores, ids = self._index(*shape).search(directions, wanted)
        found = [
            (float(score) * (1 if row == 0 else -1), int(filter_id))
            for row in range(len(directions))
            for score, filter_id in zip(scores[row], ids[row], strict=True)
            if filter_id not in (-1, own)
        ]
        found.sort(key=lambda pair: -abs(pair[0]) if not signed else -pair[0])
        return self._named(list(dict.fromkeys(found))[:k])

    # -- banks -----------------------------------------------------------------------------------------------------------

    def banks(self) -> list[str]:
        """The names of all banks: those that ship, then those of this database."""
        return self._banks.names()

    def bank(self, name: str, *, size: str | int | None = None, **options: Any) -> Bank:
        """A bank by name, at its own size or scaled to another; options are those of ``filterdb.banks.load``."""
        return self._banks.load(name, size, **options)

    def import_bank(self, bank: Bank | str | os.PathLike[str], *, name: str | None = None, **options: Any) -> Bank:
        """Keep a bank in this database: one in memory, or a file (npy, csv, txt, json; options of ``filterdb.banks.read``)."""
        self._writable()
        made = bank if isinstance(bank, Bank) else banks.read(Path(bank), name=name, **options)
        self._banks.put(made)
        return made

    def remove_bank(self, name: str) -> None:
        """Remove an imported bank; those that ship stay."""
        self._writable()
        self._banks.remove(name)

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _writable(self) -> None:
        if self._as_of is not None:
            raise StoreError(
                f"This is version {self.version} of {self.path}, read only. Open the database without as_of to change it."
            )

    def _snapshot(self) -> Snapshot:
        return self._fixed or self._models.snapshot()

    def _count(self, table: str) -> int:
        return int(self.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0])

    def _session(self) -> Session:
        snapshot, bank_snapshot = self._snapshot(), self._banks.collection.snapshot()
        key = (snapshot.version, bank_snapshot.version)
        if self._opened is None or self._opened[0] != key:
            schemas = {"models": schema.MODELS, "layers": schema.LAYERS, "filters": schema.FILTERS}
            views = {name: (self._models.files(name, snapshot), kind) for name, kind in schemas.items()}
            self._opened = (key, Session(self.path, views, self._banks.tables()))
        return self._opened[1]

    def _batches(
        self, kernel_h: int, kernel_w: int, columns: Sequence[str], model: str | Sequence[str] | None, layer: str | None
    ) -> Iterator[KernelBatch]:
        """The kernels of a size, all or those of some models and layers. Complains at once if there are none."""
        snapshot = self._snapshot()
        if not snapshot.editions:
            raise StoreError(f"The database {self.path} is empty. Ingest a model first: filterdb ingest timm:convnextv2_atto")
        slugs = list(snapshot.editions) if model is None else [slug(name) for name in self._matching_models(model)]
        layers = None if layer is None else self._matching("layer", layer, "SELECT DISTINCT layer FROM layers")
        size = schema.size_name(kernel_h, kernel_w)
        sizes = [row[0] for row in self.sql("SELECT DISTINCT size FROM layers").fetchall()]
        if size not in sizes:
            raise NotFound(f"No kernels of size {size} in {self.path}. There are: {', '.join(sorted(sizes))}.")
        return kernel_batches(self._models.files("filters", snapshot, slugs), kernel_h, kernel_w, columns, layers)

    def _matching_models(self, wanted: str | Sequence[str]) -> list[str]:
        patterns = [wanted] if isinstance(wanted, str) else wanted
        found = [name for pattern in patterns for name in self._matching("model", pattern, "SELECT model FROM models")]
        return list(dict.fromkeys(found))

    def _matching(self, kind: str, pattern: str, names_query: str) -> list[str]:
        """The names that a name or glob matches; an exact name wins, so names with brackets work."""
        names = [row[0] for row in self.sql(names_query).fetchall()]
        found = [pattern] if pattern in names else sorted(name for name in names if fnmatchcase(name, pattern))
        if not found:
            raise not_found(kind, pattern, names)
        return found

    def _query_kernel(self, query: int | str | ArrayLike) -> tuple[np.ndarray, int | None]:
        """The (kernel_h, kernel_w) kernel meant, and its filter_id if it is a filter of the database."""
        if isinstance(query, (int, np.integer)) or (isinstance(query, str) and query.lstrip("-").isdigit()):
            values: dict[str, Any]
            where, values = "filter_id = $id", {"id": int(query)}
        elif isinstance(query, str):
            parts = query.rsplit(":", 2)
            if len(parts) != 3 or not parts[2].isdigit():
                raise InvalidArgument(f'"{query}" is not a filter. Write a filter_id or MODEL:LAYER:CHANNEL.')
            self._matching("model", parts[0], "SELECT model FROM models")
            where = "model = $model AND layer = $layer AND channel = $channel"
            values = {"model": parts[0], "layer": parts[1], "channel": int(parts[2])}
        else:
            kernel = np.asarray(query, dtype=np.float32)
            if kernel.ndim != 2 or kernel.size < 2 or not np.isfinite(kernel).all():
                raise InvalidArgument(f"The query kernel has shape {kernel.shape}. Give a 2-D array of finite numbers.")
            return kernel, None
        rows = self.sql(f"SELECT filter_id, kernel, kernel_h, kernel_w FROM filters WHERE {where}", **values).fetchall()
        if not rows:
            raise NotFound(
                f'No filter "{query}" in {self.path}. SELECT filter_id, model, layer, channel FROM filters shows what there is.'
            )
        filter_id, kernel, kernel_h, kernel_w = rows[0]
        return np.asarray(kernel, np.float32).reshape(kernel_h, kernel_w), filter_id

    def _index(self, kernel_h: int, kernel_w: int) -> Any:
        from filterdb.index import KernelIndex

        snapshot = self._snapshot()
        self._batches(kernel_h, kernel_w, [], None, None)  # says so if there is no kernel of the size
        having = self.sql(
            "SELECT DISTINCT model FROM layers WHERE kernel_h = $h AND kernel_w = $w", h=kernel_h, w=kernel_w
        ).fetchall()
        editions = {slug(row[0]): snapshot.editions[slug(row[0])] for row in having}
        found = self._indexes.setdefault((kernel_h, kernel_w), KernelIndex(self.path / "index", kernel_h, kernel_w))

        def batches(slugs: Sequence[str]) -> Iterator[KernelBatch]:
            return kernel_batches(self._models.files("filters", snapshot, slugs), kernel_h, kernel_w, ["filter_id"])

        found.update(editions, batches)
        return found

    @cached_property
    def _indexes(self) -> dict[tuple[int, int], Any]:
        return {}

    def _named(self, found: Sequence[tuple[float, int]]) -> Relation:
        """Neighbours with the names of their filters."""
        rows = self.sql(
            "SELECT filter_id, model, layer, channel FROM filters WHERE filter_id IN (SELECT unnest($ids))",
            ids=[i for _, i in found],
        ).fetchall()
        names = {row[0]: row[1:] for row in rows}
        columns = ["rank", "filter_id", "model", "layer", "channel", "similarity"]
        kinds = [pa.int32(), pa.int64(), pa.string(), pa.string(), pa.int32(), pa.float32()]
        values = [(rank, i, *names[i], score) for rank, (score, i) in enumerate(found, start=1)]
        table = pa.table([pa.array([v[c] for v in values], kind) for c, kind in enumerate(kinds)], names=columns)
        return duckdb.connect().from_arrow(table)


def _moment(as_of: int | str | datetime | None) -> int | datetime | None:
    """A version number or a time with a zone from what a user may write."""
    if as_of is None or isinstance(as_of, int):
        return as_of
    if isinstance(as_of, str):
        if as_of.isdecimal():
            return int(as_of)
        try:
            as_of = datetime.fromisoformat(as_of)
        except ValueError:
            raise InvalidArgument(
                f'as_of "{as_of}" is neither a version number nor an ISO time such as 2026-03-01T12:00.'
            ) from None
    return as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
