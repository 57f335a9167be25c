"""``Database``: the one noun of filterdb. Every verb of the command line is one call on it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
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
from filterdb.class_store import ClassStore
from filterdb.errors import InvalidArgument, StoreError, not_found
from filterdb.store import Collection, Place, Session, Snapshot
from filterdb.view import View

if TYPE_CHECKING:
    from filterdb.clusters import Classifier
    from filterdb.clusters.make import Progress
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
        self._classes = ClassStore(self.place)
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
            sources: ``timm:NAME[.TAG]`` or a glob, ``hf:REPO[@REV][/FILE]``, ``torchvision:NAME``, a file, ``run:FOLDER`` (the
                checkpoints of a training run), a recipe's name or path, or an ``nn.Module``.
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

        report = verify(self._models, self._banks.collection, self._classes, repair=repair, progress=progress)
        if repair and self._models.exists():
            self._classes.tidy(self._models.snapshot())
        return report

    def vacuum(self) -> int:
        """Forget old versions: delete files that only they need. Returns the bytes freed."""
        self._writable()
        collections = (self._models, self._banks.collection, self._classes.classifiers, self._classes.classes)
        return sum(collection.vacuum() for collection in collections if collection.exists())

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
        if "classifier" in values:
            self.classifier(values["classifier"])  # says so if there is none of that name
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
        from filterdb.nearest import exemplars

        chosen = self.bank(bank) if isinstance(bank, str) else bank
        return exemplars(self.nearest_batches(chosen, **choice), chosen, count, self._view())

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
        from filterdb.similar import similar

        view = self._view()
        fixed = self._as_of is not None
        table = similar(view, None if fixed else self._index, query, k, model=model, signed=signed, exact=exact)
        return view.session.relation(table)

    # -- clusters --------------------------------------------------------------------------------------------------------

    def cluster(
        self, size: str | int | None = None, *, models: str | Sequence[str] | None = None, name: str | None = None,
        classify: bool = True, progress: Progress | None = None, **settings: Any,
    ) -> Classifier:  # fmt: skip
        """Train a classifier on the kernels of a size, label its spectrum, keep it, and tell the kernels into classes.

        Args:
            size: kernel size; needed where the database has several.
            models: train on these only: a name, a glob, or several. Default: all, of a training run only the last checkpoint.
            name: of the classifier; one of that name is replaced. Default: method, size and seed.
            classify: False leaves the table ``classes`` alone; see ``classify``.
            progress: called with what is being done, how much of it is done, and how much there is.
            settings: method ("autoencoder", "kmeans"), seed, epochs, restarts, threshold, device, and for k-means classes and
                scaling; see ``filterdb.clusters.make.train``. A call that was interrupted goes on where it stopped.

        Raises:
            InvalidArgument: too few kernels, or a setting that cannot be.
        """
        from filterdb import clustering

        self._writable()
        view = self._view()
        made = clustering.train(
            view, self._classes, self.place, size=size, models=models, name=name, progress=progress, **settings
        )
        if classify:
            clustering.classify(view, self._classes, made, None, progress)
        self._classes.tidy(self._models.snapshot())
        return made

    def classify(
        self, classifier: str, *, model: str | Sequence[str] | None = None, progress: Progress | None = None
    ) -> Relation:
        """Tell kernels into classes: fill the table ``classes`` for all models of the classifier's size, or for some.

        Returns:
            The rows of ``classes`` of these models, with model, layer and channel. Models that were told before are not told
            again, unless they or the classifier changed.
        """
        from filterdb import clustering

        self._writable()
        chosen = clustering.classify(self._view(), self._classes, self.classifier(classifier), model, progress)
        self._classes.tidy(self._models.snapshot())
        return self.sql(
            "SELECT model, layer, channel, classes.* FROM classes JOIN filters USING (filter_id) "
            "WHERE classifier = $classifier AND model IN (SELECT unnest($models))", classifier=classifier, models=chosen,
        )  # fmt: skip

    def classifiers(self) -> list[str]:
        """The names of all classifiers of this database."""
        return self._classes.names()

    def classifier(self, name: str) -> Classifier:
        """A classifier by name: its spectrum, prototypes, labels and weights."""
        return self._classes.load(name)

    def import_classifier(self, classifier: Classifier | str | os.PathLike[str], *, name: str | None = None) -> Classifier:
        """Keep a classifier: one in memory, a file that ``filterdb.clusters.write`` made, or one that ships, by its name."""
        from filterdb.clusters import read

        self._writable()
        made = read(classifier) if isinstance(classifier, str | os.PathLike) else classifier
        made = made if name is None else replace(made, name=name)
        self._classes.put(made)
        return made

    def label_classifier(self, name: str, file: str | os.PathLike[str], *, progress: Progress | None = None) -> Classifier:
        """Give a classifier the labels and the threshold of a file (TOML, see ``filterdb.clusters.labels``), and tell again."""
        from filterdb import clustering
        from filterdb.clusters import labels

        self._writable()
        made = labels.read(Path(file)).on(self.classifier(name))
        clustering.relabel(self._view(), self._classes, made, progress)
        return made

    def remove_classifier(self, name: str) -> None:
        """Remove a classifier and its classes."""
        self._writable()
        self._classes.remove(name, self._models.snapshot())

    def compare_classifiers(self, first: str, second: str, *, seeds: int = 0, progress: Progress | None = None) -> Relation:
        """How far two classifiers agree on the kernels that both have told, at the threshold of the first.

        Args:
            first: a classifier.
            second: another of the same kernel size.
            seeds: train each again from that many other seeds, and say how far it agrees with itself.

        Returns:
            first, second, kernels, same_class (share of kernels), ari, nmi, purity, threshold, first_clustered,
            second_clustered (shares); with ``seeds`` a row for each classifier: means over all pairs of trainings, and the
            smallest and largest share clustered.
        """
        from filterdb import clustering

        view = self._view()
        return view.session.relation(clustering.agreement(view, self._classes, first, second, seeds, progress))

    def cluster_report(self, name: str, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the tables and pictures of a classifier into a folder; see ``filterdb.cluster_report``. Returns the files."""
        from filterdb.cluster_report import report

        return report(self._view(), self.query, self.classifier(name), Path(folder))

    def cluster_controls(self, name: str, *, untrained: str | None = None, progress: Progress | None = None) -> Relation:
        """What the pipeline of a classifier says of noise, of shuffled and of untrained kernels.

        Returns:
            One row for each kind of kernels: kernels, count, clustered (by a classifier trained on them), clustered_by_trained
            (by this one), ideal (as near to an ideal kernel, without any training): shares; classes (in the spectrum).
        """
        from filterdb import clustering

        view = self._view()
        found = clustering.control(view, self.classifier(name), untrained, progress)
        return view.session.relation(pa.Table.from_pylist([asdict(one) for one in found], clustering.CONTROLS))

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
        key = (snapshot.version, self._banks.collection.snapshot().version, self._classes.version)
        opened = getattr(self._opened, "view", None)
        if opened is None or opened[0] != key:
            schemas = {"models": schema.MODELS, "layers": schema.LAYERS, "filters": schema.FILTERS}
            views = {name: (self._models.files(name, snapshot), kind) for name, kind in schemas.items()}
            session = Session(self.place, {**views, **self._classes.views(snapshot)}, self._banks.tables())
            opened = self._opened.view = (key, View(self._models, snapshot, session))
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
