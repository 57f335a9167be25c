"""``Database``: the one noun of filterdb. Every verb of the command line is one call on it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from filterdb import banks, named_queries, schema
from filterdb.bank_store import BankStore
from filterdb.banks import Bank
from filterdb.errors import InvalidArgument, StoreError, not_found
from filterdb.kernels import centred_unit
from filterdb.store import Collection, Place, Session, Snapshot
from filterdb.view import View

if TYPE_CHECKING:
    from filterdb.index import KernelIndex
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
        path: the folder, or the address of one on an object store (``s3://bucket/filters``); else ``$FILTERDB_PATH``, else
            ``./filters``.
        as_of: a version number, or a time (datetime, or ISO text in UTC): look at the database as it was, read only.

    Raises:
        StoreError: no such version, or a place that cannot be a database.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, as_of: int | str | datetime | None = None):
        chosen = os.fspath(path) if path is not None else os.environ.get("FILTERDB_PATH") or "filters"
        self.place = Place(chosen)
        self._models = Collection(self.place, {"models": schema.MODELS, "layers": schema.LAYERS, "filters": schema.FILTERS})
        self._banks = BankStore(self.place)
        self._as_of = _moment(as_of)
        self._fixed = self._models.snapshot(self._as_of) if self._as_of is not None else None
        self._opened = threading.local()  # a DuckDB connection serves one thread at a time
        self._indexes: dict[tuple[int, int], KernelIndex] = {}

    def __repr__(self) -> str:
        return f"Database({self.place.uri!r}{'' if self._as_of is None else f', as_of={self.version}'})"

    def exists(self) -> bool:
        """Whether anything was ever ingested or imported here."""
        return self._models.exists() or self._banks.collection.exists()

    @property
    def path(self) -> Path:
        """The folder of the database; for one on an object store, the local folder of its indexes."""
        return self.place.scratch

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
        made = self._models.time(snapshot.version)
        sizes = self.sql(
            "SELECT size, count(*) AS n, count(*) FILTER (dead) FROM filters GROUP BY size ORDER BY n DESC, size"
        ).fetchall()
        files = [path for table in self._models.schemas for path in self._models.files(table, snapshot)]
        return Info(
            self.place.uri, snapshot.version, made, len(snapshot.editions),
            self.sql("SELECT count(*) FROM layers").fetchall()[0][0], sum(row[1] for row in sizes), sum(row[2] for row in sizes),
            {row[0]: row[1] for row in sizes}, sum(self.place.size(path) for path in files), self.banks(),
        )  # fmt: skip

    def history(self) -> list[dict[str, Any]]:
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

        return verify(self._models, self._banks.collection, repair=repair, progress=progress)

    def vacuum(self) -> int:
        """Forget old versions: delete files that only they need. Returns the bytes freed."""
        self._writable()
        return sum(collection.vacuum() for collection in (self._models, self._banks.collection) if collection.exists())

    # -- ask -------------------------------------------------------------------------------------------------------------

    def sql(self, query: str, /, **parameters: Any) -> Relation:
        """Run one read-only SQL statement over ``models``, ``layers``, ``filters``, ``filters_7x7``, ``banks`` …

        Args:
            query: DuckDB SQL; parameters are written ``$name``.
            parameters: their values.

        Returns:
            A DuckDB relation: ``.fetchall()``, ``.df()``, ``.pl()``, ``.to_arrow_table()``, ``.show()``.

        Raises:
            QueryError: it does not parse, does not run, or would write.
        """
        return self._view().session.query(query, parameters)

    def query(self, name: str, /, **parameters: Any) -> Relation:
        """Run a named query of the folder ``queries``; see ``filterdb.named_queries``.

        Raises:
            NotFound: no query, parameter, model or kernel size of that name.
        """
        question = named_queries.load(name)
        values = question.bind(parameters)
        view = self._view()
        if "model" in values:
            view.check_model(values["model"])
        if "size" in values:
            values["size"] = view.check_size(values["size"])
        return view.session.query(question.sql, values)

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
        return self._view().session.relation(table)

    def nearest_batches(
        self, bank: str | Bank = "greedy8", *, model: str | Sequence[str] | None = None, layer: str | None = None,
        size: str | int | None = None, signed: bool = False,
    ) -> Iterator[pa.RecordBatch]:  # fmt: skip
        """The rows of ``nearest`` as a stream, in memory that does not grow with the database."""
        from filterdb.nearest import IDENTITY, nearest

        chosen = self.bank(bank) if isinstance(bank, str) else bank
        if size is not None and schema.size_name(*schema.parse_size(size)) != chosen.size:
            chosen = chosen.at(size)
        batches = self._view().batches(chosen.kernel_h, chosen.kernel_w, IDENTITY, model=model, layer=layer)
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
        return self._view().session.relation(table)

    def exemplars(self, bank: str | Bank = "greedy8", count: int = 8, **choice: Any) -> dict[str, np.ndarray]:
        """The real kernels closest to each template: template name to (n, kernel_h, kernel_w), closest first.

        At most ``count`` each. Kernels with a negative gain come with their sign turned, as the template they stand for.
        The other arguments are those of ``nearest``.
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
        view = self._view()
        kernel, own = view.kernel(query)
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
            scores, ids = index.brute_force(view.batches(*shape, ["filter_id"], model=model), directions, wanted)
        else:
            if model is not None or self._as_of is not None:
                raise InvalidArgument("The index holds all models of the latest version: with model or as_of, search exactly.")
            scores, ids = self._index(view, *shape).search(directions, wanted)
        found = [
            (float(score) * (1 if row == 0 else -1), int(filter_id))
            for row in range(len(directions))
            for score, filter_id in zip(scores[row], ids[row], strict=True)
            if filter_id not in (-1, own)
        ]
        found.sort(key=lambda pair: -abs(pair[0]) if not signed else -pair[0])
        best = list(dict.fromkeys(found))[:k]
        names = view.names([filter_id for _, filter_id in best])
        rows = [(rank, filter_id, *names[filter_id], score) for rank, (score, filter_id) in enumerate(best, start=1)]
        columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(index.SCHEMA.types)]
        return view.session.relation(pa.table(columns, schema=index.SCHEMA))

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
                f"This is version {self.version} of {self.place}, read only. Open the database without as_of to change it."
            )

    def _snapshot(self) -> Snapshot:
        return self._fixed or self._models.snapshot()

    def _view(self) -> View:
        """The version to read: the latest at this moment, or the one asked for. Kept until a newer one is there."""
        snapshot = self._snapshot()
        key = (snapshot.version, self._banks.collection.snapshot().version)
        opened = getattr(self._opened, "view", None)
        if opened is None or opened[0] != key:
            schemas = {"models": schema.MODELS, "layers": schema.LAYERS, "filters": schema.FILTERS}
            views = {name: (self._models.files(name, snapshot), kind) for name, kind in schemas.items()}
            opened = self._opened.view = (key, View(self._models, snapshot, Session(self.place, views, self._banks.tables())))
        return opened[1]

    def _index(self, view: View, kernel_h: int, kernel_w: int) -> KernelIndex:
        """The index of a size, brought to the view's version."""
        from filterdb.index import KernelIndex

        view.batches(kernel_h, kernel_w)  # says so if there is no kernel of the size
        found = self._indexes.setdefault((kernel_h, kernel_w), KernelIndex(self.place.scratch / "index", kernel_h, kernel_w))
        found.update(view.editions(kernel_h, kernel_w), lambda slugs: view.stream(slugs, kernel_h, kernel_w))
        return found


def _moment(as_of: Any) -> int | datetime | None:
    """A version number or a time with a zone, from what a user may write."""
    if isinstance(as_of, str):
        text = as_of
        try:
            as_of = int(text) if text.isdecimal() and len(text) < 18 else datetime.fromisoformat(text)
        except ValueError:
            as_of = text
    if isinstance(as_of, datetime):
        return as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
    if as_of is None or (isinstance(as_of, int) and not isinstance(as_of, bool) and 0 <= as_of < 10**18):
        return as_of
    raise InvalidArgument(f"as_of {as_of!r} is neither a version number nor a time such as 2026-03-01T12:00.")
