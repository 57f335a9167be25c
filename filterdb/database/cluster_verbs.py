"""The methods for classifiers: train, classify, label, compare."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from filterdb.database.base import Relation
from filterdb.database.sql_verbs import SqlVerbs

if TYPE_CHECKING:
    from filterdb.clusters import Classifier
    from filterdb.clusters.make import Progress


class ClusterVerbs(SqlVerbs):
    """``cluster``, ``classify``, and the methods for classifiers."""

    def cluster(
        self, size: str | int | None = None, *, models: str | Sequence[str] | None = None, name: str | None = None,
        classify: bool = True, progress: Progress | None = None, **settings: Any,
    ) -> Classifier:  # fmt: skip
        """Train a classifier on the kernels of a size, label its spectrum, keep it, and classify the kernels.

        Args:
            size: kernel size; needed where the database has several.
            models: train on these only: a name, a glob, or several. Default: all, of a training run only the last checkpoint.
            name: of the classifier; one of that name is replaced. Default: method, size and seed.
            classify: False leaves the table ``classes`` alone; see ``classify``.
            progress: called with the current step, the amount done, and the total.
            settings: method ("autoencoder", "kmeans"), seed, epochs, restarts, threshold, device, and for k-means classes and
                scaling; see ``filterdb.clusters.make.train``. An interrupted call is resumed.

        Raises:
            InvalidArgument: too few kernels, or a setting that cannot be.
        """
        from filterdb.clusters import clustering

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
        """Classify kernels: fill the table ``classes`` for all models of the classifier's size, or for some.

        Returns:
            The rows of ``classes`` of these models, with model, layer and channel. Models that were classified before are left
            alone, unless they or the classifier changed.
        """
        from filterdb.clusters import clustering

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
        """Give a classifier the labels and the threshold of a TOML file (``clusters.labels``), and classify again."""
        from filterdb.clusters import clustering, labels

        self._writable()
        made = self.classifier(name).labelled(labels.read(Path(file)))
        clustering.relabel(self._view(), self._classes, made, progress)
        return made

    def remove_classifier(self, name: str) -> None:
        """Remove a classifier and its classes."""
        self._writable()
        self._classes.remove(name, self._models.snapshot())

    def compare_classifiers(self, first: str, second: str, *, seeds: int = 0, progress: Progress | None = None) -> Relation:
        """Agreement of two classifiers on the kernels that both have classified, at the threshold of the first.

        Args:
            first: a classifier.
            second: another of the same kernel size.
            seeds: train each again from that many other seeds, and measure its agreement with itself.

        Returns:
            first, second, kernels, same_class (share of kernels), ari, nmi, purity, threshold, first_clustered,
            second_clustered (shares); with ``seeds`` a row for each classifier: means over all pairs of trainings, and the
            smallest and largest share clustered.
        """
        from filterdb.clusters import clustering

        view = self._view()
        return view.session.relation(clustering.agreement(view, self._classes, first, second, seeds, progress))

    def cluster_report(self, name: str, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the tables and pictures of a classifier into a folder; see ``figures.cluster_report``. Returns the files."""
        from filterdb.figures.cluster_report import report

        return report(self._view(), self.query, self.classifier(name), Path(folder))

    def cluster_controls(self, name: str, *, untrained: str | None = None, progress: Progress | None = None) -> Relation:
        """Run the pipeline of a classifier on noise, on shuffled and on untrained kernels.

        Returns:
            One row for each kind of kernels: kernels, count, clustered (by a classifier trained on them), clustered_by_trained
            (by this one), ideal (as near to an ideal kernel, without any training): shares; classes (in the spectrum).
        """
        from filterdb.clusters import clustering

        view = self._view()
        found = clustering.control(view, self.classifier(name), untrained, progress)
        return view.session.relation(pa.Table.from_pylist([asdict(one) for one in found], clustering.CONTROLS))
