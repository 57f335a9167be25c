"""``Database``: the main class of filterdb. Every command of the command line is one call on it.

Each file of this room holds the methods of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from filterdb.database.bank_verbs import BankVerbs
from filterdb.database.base import Relation
from filterdb.database.cluster_verbs import ClusterVerbs
from filterdb.database.compare_verbs import CompareVerbs
from filterdb.database.field_verbs import FieldVerbs
from filterdb.database.frozen_verbs import FrozenVerbs
from filterdb.database.greedy_verbs import GreedyVerbs
from filterdb.database.kernel_verbs import KernelVerbs
from filterdb.database.match_verbs import MatchVerbs
from filterdb.database.part_verbs import PartVerbs
from filterdb.database.plot_verbs import PlotVerbs
from filterdb.database.run_verbs import RunVerbs
from filterdb.database.training_verbs import TrainingVerbs
from filterdb.errors import InvalidArgument, not_found

if TYPE_CHECKING:
    from filterdb.database.ingest import Outcome, Reporter
    from filterdb.database.verify import Report

__all__ = ["Database", "Info", "Relation", "ingest", "kernel_verbs", "monitor", "part_verbs", "run_verbs"]


MODELS_SHOWN = """
SELECT model, dataset, layers, filters, (SELECT string_agg(DISTINCT size, ', ' ORDER BY size) FROM layers WHERE layers.model =
models.model) AS sizes FROM models ORDER BY model
"""


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


class Database(
    MatchVerbs, ClusterVerbs, CompareVerbs, FieldVerbs, FrozenVerbs, GreedyVerbs, RunVerbs, TrainingVerbs, PlotVerbs, KernelVerbs,
    BankVerbs, PartVerbs,
):  # fmt: skip
    """A folder of Delta tables with the depthwise kernels of models.

    The folder is made by the first ingest. Reading always sees the latest version, or with ``as_of`` one that stays.

    Args:
        path: the folder, or the address of one on an object store (``s3://bucket/filters``); else ``$FILTERDB_PATH``, else
            ``./filters``.
        as_of: a version number, or a time (datetime, or ISO text in UTC): look at the database as it was, read only.
        settings: of DuckDB, for the SQL sessions, such as ``{"memory_limit": "2GB"}``.

    Raises:
        StoreError: no such version, or a place that cannot be a database.
    """

    # -- what there is ---------------------------------------------------------------------------------------------------

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

    def _repr_html_(self) -> str:
        """In notebooks: what there is, model by model."""
        from filterdb.figures.notebook import database

        return database(self.info(), self.sql(MODELS_SHOWN).fetchall())

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
            reporter: gets the progress; see ``filterdb.database.ingest.Reporter``.
            options: name, dataset, pretrain_dataset, task, step, licence, top1, architecture, architecture_args, weights ("auto",
                "ema", "raw") and pointwise; see ``filterdb.sources.Options``.

        Returns:
            One outcome for each model.

        Raises:
            SourceError: models failed; ``outcomes`` of the error has every one of this call.
        """
        from filterdb.database.ingest import ingest, raise_failures
        from filterdb.sources import Options

        self._writable()
        unknown = set(options) - set(Options.__dataclass_fields__)
        if unknown:
            raise not_found("option of ingest", min(unknown), Options.__dataclass_fields__)
        if not sources:
            raise InvalidArgument("Nothing to ingest: give a source, such as timm:convnextv2_atto or a checkpoint file.")
        outcomes = ingest(
            self._models, self._fields, sources, Options(**options), jobs=jobs, skip_existing=skip_existing, reporter=reporter
        )
        if check:
            raise_failures(outcomes)
        return outcomes

    def remove(self, model: str) -> None:
        """Remove a model. Its files stay for ``as_of`` until ``vacuum``."""
        self._writable()
        if not self._models.remove(model):
            raise not_found("model", model, self.models)

    def verify(self, *, repair: bool = False, progress: Any = None) -> Report:
        """Check counts, hashes, ids and orphans; ``repair`` removes what is broken and tidies up after killed writers."""
        from filterdb.database.verify import verify

        report = verify(
            self._models, self._banks.collection, self._classes, self._fields, self._bases.collection, self._runs.collection,
            repair=repair, progress=progress,
        )  # fmt: skip
        if repair and self._models.exists():
            self._classes.tidy(self._models.snapshot())
            self.describe_missing()
        return report

    def vacuum(self) -> int:
        """Remove old versions: delete files that only they need. Returns the bytes freed."""
        self._writable()
        if self._models.exists():
            self._fields.tidy(self._models.snapshot())
        collections = (
            self._models, self._banks.collection, self._classes.classifiers, self._classes.classes.collection,
            self._fields.descriptors.collection, self._fields.fits.collection, self._fields.regular.collection,
            self._bases.collection, self._runs.collection,
        )  # fmt: skip
        return sum(collection.vacuum() for collection in collections if collection.exists())
