"""The classifiers of a database, and the classes that they assigned.

A classifier is one member of a collection: a row of facts, its spectrum, and its file. The classes of one model by one classifier
are one member of another, and their name says which edition of either they come from. So classes of a model that was ingested
again, or by a classifier that was trained again, are no longer found. They never appear with other kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from filterdb.errors import StoreError, not_found
from filterdb.kernels.sizes import split
from filterdb.store import Collection, Derived, KernelBatch, Place, Snapshot, schema
from filterdb.store.collection import slug

if TYPE_CHECKING:
    from filterdb.clusters.classifier import Classifier

CLASSIFIERS = schema.table(
    classifier=pa.string(), method=pa.string(), scaling=pa.string(), size=pa.string(), kernel_h=pa.int32(), kernel_w=pa.int32(),
    threshold=pa.float64(), classes=pa.list_(pa.field("element", pa.string())),
    missing=pa.list_(pa.field("element", pa.string())), seed=pa.int64(), epochs=pa.int32(), restarts=pa.int32(),
    held_out_loss=pa.float64(), losses=pa.list_(pa.field("element", pa.float64())),
    models=pa.list_(pa.field("element", pa.string())), kernels=pa.int64(), made_at=pa.timestamp("us", tz="UTC"),
)  # fmt: skip
SPECTRUM = pa.schema(
    [
        ("classifier", pa.string()), ("code", pa.float64()), ("class", pa.string()), ("stretch", pa.int32()),
        ("confidence", pa.float64()), ("kernel", pa.list_(pa.field("element", pa.float32()))),
    ]
)  # fmt: skip
CLASSIFIER_FILES = schema.table(classifier=pa.string(), file=pa.binary())
CLASSES = pa.schema(
    [
        ("filter_id", pa.int64()), ("classifier", pa.string()), ("class", pa.string()), ("code", pa.float32()),
        ("dissimilarity", pa.float32()), ("clustered", pa.bool_()), ("template", pa.string()), ("template_score", pa.float32()),
    ]
)  # fmt: skip

SHOWN = ("classifiers", "spectrum")
"""Of the tables of a classifier, those that SQL sees; the file is for ``load`` alone."""


class ClassStore:
    """Classifiers by name, and the table ``classes``."""

    def __init__(self, root: Place):
        self.classifiers = Collection(
            root,
            {"classifiers": CLASSIFIERS, "spectrum": SPECTRUM, "classifier_files": CLASSIFIER_FILES},
        )
        self.classes = Derived(root, "classes", CLASSES)

    # -- classifiers -----------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All classifiers."""
        snapshot = self.classifiers.snapshot()
        return sorted(self._row(snapshot, key)["classifier"] for key in snapshot.editions)

    def load(self, name: str) -> Classifier:
        """A classifier by name."""
        from filterdb.clusters.classifier import Classifier

        snapshot = self.classifiers.snapshot()
        if slug(name) not in snapshot.editions:
            advice = "" if snapshot.editions else "Train one: filterdb cluster --size 7x7"
            raise not_found("classifier", name, self.names(), advice=advice)
        try:
            table = self.classifiers.read("classifier_files", slug(name), snapshot.editions[slug(name)])
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f'The classifier "{name}" is damaged. Run filterdb verify --repair, then make it again.') from error
        return Classifier.from_bytes(table["file"][0].as_py(), f'The classifier "{name}"')

    def put(self, classifier: Classifier) -> None:
        """Keep a classifier, replacing the one of its name."""
        with self.classifiers.stage() as stage:
            stage.write("classifiers", [_head(classifier)], CLASSIFIERS)
            stage.write("spectrum", [_spectrum(classifier)], SPECTRUM)
            row = {"classifier": classifier.name, "file": classifier.to_bytes()}
            stage.write("classifier_files", [pa.Table.from_pylist([row], CLASSIFIER_FILES)], CLASSIFIER_FILES)
            stage.commit(classifier.name)

    def remove(self, name: str, models: Snapshot) -> None:
        """Remove a classifier and its classes."""
        if not self.classifiers.remove(name):
            raise not_found("classifier", name, self.names())
        self.tidy(models)

    def _row(self, snapshot: Snapshot, key: str) -> dict[str, Any]:
        row: dict[str, Any] = self.classifiers.read("classifiers", key, snapshot.editions[key]).to_pylist()[0]
        return row

    # -- classes ---------------------------------------------------------------------------------------------------------

    def put_classes(self, classifier: Classifier, model: str, edition: str, batches: Iterable[KernelBatch]) -> None:
        """Classify the kernels of a model and keep the answer."""
        self.classes.put(self._maker(classifier.name), (slug(model), edition), (_classes(classifier, batch) for batch in batches))

    def has(self, classifier: str, model: str, edition: str) -> bool:
        """Whether that edition of a model is classified."""
        return self.classes.has(self._maker(classifier), (slug(model), edition))

    def tidy(self, models: Snapshot) -> None:
        """Drop the classes of models and classifiers that are gone or were replaced."""
        self.classes.tidy(self.classifiers.snapshot().editions, models)

    def parts(self, models: Snapshot) -> dict[tuple[str, str], tuple[str, str]]:
        """(classifier's name, model's slug) to the slug and edition of its classes."""
        snapshot = self.classifiers.snapshot()
        names = {key: self._row(snapshot, key)["classifier"] for key in snapshot.editions}
        found = self.classes.parts(snapshot.editions, models)
        return {(names[maker], model): part for (maker, model), part in found.items()}

    def _maker(self, name: str) -> tuple[str, str]:
        return slug(name), self.classifiers.snapshot().editions[slug(name)]

    # -- as SQL sees them ------------------------------------------------------------------------------------------------

    @property
    def version(self) -> tuple[int, int]:
        """Changes whenever a classifier or a class does."""
        return self.classifiers.version(), self.classes.collection.version()

    def views(self, models: Snapshot) -> Mapping[str, tuple[Sequence[str], pa.Schema]]:
        """The tables by name: their files, and their columns."""
        snapshot = self.classifiers.snapshot()
        schemas = {"classifiers": CLASSIFIERS, "spectrum": SPECTRUM}
        found = {name: (self.classifiers.files(name, snapshot), schemas[name]) for name in SHOWN}
        return found | {"classes": (self.classes.files(snapshot.editions, models), CLASSES)}


def _head(classifier: Classifier) -> pa.Table:
    facts = classifier.facts
    row = {
        "classifier": classifier.name, "method": classifier.method, "scaling": classifier.scaling, "size": classifier.size,
        "kernel_h": split(classifier.kernel_h)[1], "kernel_w": classifier.kernel_w, "threshold": classifier.threshold,
        "classes": classifier.classes, "missing": classifier.missing, "made_at": datetime.now(UTC),
        **{name: facts.get(name) for name in ("seed", "epochs", "restarts", "held_out_loss", "losses", "models", "kernels")},
    }  # fmt: skip
    return pa.Table.from_pylist([row], CLASSIFIERS)


def _spectrum(classifier: Classifier) -> pa.Table:
    from filterdb.clusters import labels

    codes, kernels = classifier.spectrum()
    names = labels.of_codes(classifier.stretches, codes)
    starts = np.array([one.start for one in classifier.stretches])
    owners = np.clip(np.searchsorted(starts, codes, "right") - 1, 0, len(starts) - 1)
    rows = [
        {
            "classifier": classifier.name, "code": float(code), "class": name, "stretch": int(owner),
            "confidence": classifier.stretches[owner].confidence, "kernel": kernel.ravel(),
        }
        for code, name, owner, kernel in zip(codes, names, owners, kernels, strict=True)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, SPECTRUM)


def _classes(classifier: Classifier, batch: KernelBatch) -> pa.Table:
    found = classifier.classify(batch.kernels)
    dead = np.isnan(found["dissimilarity"])
    columns = {
        "filter_id": batch.table["filter_id"],
        "classifier": pa.repeat(pa.scalar(classifier.name), batch.table.num_rows),
        "class": pa.array(found["class"], pa.string()),
        "code": pa.array(found["code"], pa.float32(), mask=dead),
        "dissimilarity": pa.array(found["dissimilarity"], pa.float32(), mask=dead),
        "clustered": pa.array(found["clustered"]),
        "template": pa.array(found["template"], pa.string()),
        "template_score": pa.array(found["template_score"], pa.float32(), mask=np.isnan(found["template_score"])),
    }
    return pa.table(columns, schema=CLASSES)
