"""A classifier of kernels: prototypes in an order, the classes their codes stand for, and a threshold.

Two methods make one: the autoencoder of the paper, whose prototypes are 10,000 decoded codes, and k-means, whose prototypes are
its centres. The rest is the same for both. A kernel is assigned to the nearest prototype and takes the
class of its code. It is clustered if its distance is below the threshold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from filterdb.clusters import labels
from filterdb.clusters.autoencoder import Weights, decode
from filterdb.clusters.labels import Stretch
from filterdb.clusters.search import CodeSearch
from filterdb.errors import InvalidArgument
from filterdb.kernels import centred_unit, shapes
from filterdb.kernels.shapes import OTHER
from filterdb.kernels.sizes import rows as rows_of
from filterdb.kernels.sizes import size_name, split
from filterdb.share import folder

Method = Literal["autoencoder", "kmeans"]
Scaling = Literal["unit", "minmax"]

CODES = 10_000
"""Codes of an autoencoder that kernels are compared with (ICLR 2024)."""
SPECTRUM = 500
"""Codes that are decoded to be labelled and looked at (ICLR 2024)."""
FORMAT = "filterdb classifier 1"


@dataclass(frozen=True, eq=False)
class Classifier:
    """How kernels of one size are classified."""

    name: str
    method: Method
    kernel_h: int
    kernel_w: int
    threshold: float
    """A kernel is clustered if its cosine dissimilarity to the nearest prototype is below this."""
    stretches: Sequence[Stretch]
    """The class of each range of codes: [0, 1] without gaps for an autoencoder; for k-means, from i to i + 1 for centre i."""
    weights: Weights = field(repr=False)
    """Of an autoencoder, its layers; of k-means, ``centres`` (k, d) in the scaling it was found in."""
    scaling: Scaling = "unit"
    """k-means only: centres among centred unit kernels, or among kernels scaled to [0, 1] by their minimum and maximum."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: seed, epochs, restarts, losses, models, kernels, held_out_loss …, all plain JSON."""

    def __post_init__(self) -> None:
        if not (self.name and self.name == self.name.strip() and self.name.isprintable()):
            raise InvalidArgument(f"A classifier needs a name in printable characters, got {self.name!r}.")
        if not 0 < self.threshold <= 2:
            raise InvalidArgument(
                f"The threshold {self.threshold!r} is no cosine dissimilarity: give one from 0 to 2, such as 0.3."
            )
        object.__setattr__(self, "stretches", tuple(labels.check(self.stretches, 0.0, self.last, f'Classifier "{self.name}"')))

    # -- the spectrum ----------------------------------------------------------------------------------------------------

    @property
    def size(self) -> str:
        """The kernel size, "7x7"."""
        return size_name(self.kernel_h, self.kernel_w)

    @property
    def last(self) -> float:
        """Where the codes end: 1 for an autoencoder, the number of centres for k-means."""
        return 1.0 if self.method == "autoencoder" else float(len(self.weights["centres"]))

    @cached_property
    def codes(self) -> NDArray[np.float64]:
        """The code of each prototype, (m,): ``CODES`` steps from 0 to 1, or the numbers of the centres."""
        return np.linspace(0, 1, CODES) if self.method == "autoencoder" else np.arange(self.last)

    @cached_property
    def prototypes(self) -> NDArray[np.float32]:
        """(m, d) centred unit kernels, one for each code."""
        if self.method == "autoencoder":
            return decode(self.weights, self.codes)
        return centred_unit(self.weights["centres"].astype(np.float64)).unit.astype(np.float32)

    def spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """The codes that are shown, and the centred unit kernels they stand for, (n,) and (n, kernel_h, kernel_w)."""
        if self.method == "kmeans":
            return self.codes, self.prototypes.reshape(-1, self.kernel_h, self.kernel_w)
        codes = np.linspace(0, 1, SPECTRUM)
        return codes, decode(self.weights, codes).reshape(-1, self.kernel_h, self.kernel_w)

    @property
    def classes(self) -> list[str]:
        """The classes it knows, in the order of ``filterdb.kernels.shapes`` and then of the codes, "other" last."""
        found = dict.fromkeys(stretch.name for stretch in self.stretches if stretch.name != OTHER)
        known = [name for name in shapes.SHAPES if name in found]
        return [*known, *(name for name in found if name not in shapes.SHAPES), OTHER]

    @property
    def missing(self) -> list[str]:
        """The shapes of this kernel size that have no code."""
        return [name for name in shapes.shapes_at(self.kernel_h, self.kernel_w) if name not in self.classes]

    def relabelled(self, stretches: Sequence[Stretch], threshold: float | None = None) -> Classifier:
        """The same prototypes with other labels."""
        return replace(self, stretches=tuple(stretches), threshold=self.threshold if threshold is None else threshold)

    def labelled(self, by: labels.Labels) -> Classifier:
        """This classifier with the labels of a file; where a stretch is as it was, so are its similarity and confidence.

        Raises:
            InvalidArgument: they are for another kernel size, or leave a gap or an overlap.
        """
        if by.size not in (None, self.size):
            raise InvalidArgument(
                f'{by.what} labels {by.size} kernels, and the classifier "{self.name}" classifies {self.size} kernels.'
            )
        checked = labels.check(by.stretches, 0.0, self.last, by.what)
        known = {(one.name, one.start, one.stop): one for one in self.stretches}
        return self.relabelled([known.get((one.name, one.start, one.stop), one) for one in checked], by.threshold)

    # -- classification --------------------------------------------------------------------------------------------------

    @cached_property
    def _search(self) -> CodeSearch:
        return CodeSearch(self.prototypes)

    def nearest(self, kernels: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
        """The nearest prototype of raw kernels (n, d): its index, the cosine similarity, and which kernels are dead.

        The nearest has the smallest cosine dissimilarity; for min-max scaled k-means the smallest Euclidean distance after
        that scaling, as k-means saw it.
        """
        parts = centred_unit(kernels)
        unit = parts.unit.astype(np.float32, copy=False)
        if self.scaling == "unit":
            index, similarity = self._search.nearest(unit)
        else:
            from filterdb.clusters.kmeans import assign, scaled

            index = assign(scaled(kernels, "minmax"), self.weights["centres"])
            similarity = np.einsum("ij,ij->i", unit, self.prototypes[index])
        return index, np.clip(similarity, -1, 1), parts.dead

    def classify(self, kernels: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Classify raw kernels.

        Args:
            kernels: (n, d) of this classifier's size.

        Returns:
            Arrays of length n: ``class``; ``code``; ``dissimilarity`` = 1 - cosine of kernel and prototype, both centred;
            ``clustered``; ``template``, the shape that the code stands for even where the kernel is too far to be clustered
            (None where that has no ideal form); ``template_score``, the correlation with the best ideal kernel of that shape
            (NaN without one). Dead kernels have class and template None, and NaN.
        """
        if kernels.ndim != 2 or kernels.shape[1] != self.kernel_h * self.kernel_w:
            raise InvalidArgument(
                f'Classifier "{self.name}" classifies {self.size} kernels, got an array of shape {kernels.shape}.'
            )
        index, similarity, dead = self.nearest(kernels)
        dissimilarity = np.where(dead, np.nan, 1 - similarity).astype(np.float32)
        clustered = dissimilarity < self.threshold  # NaN is not
        names = np.array(labels.of_codes(self.stretches, self.codes), dtype=object)[index]
        score = np.full(len(kernels), np.nan, np.float32)
        template = np.full(len(kernels), None, dtype=object)
        unit = centred_unit(kernels).unit.astype(np.float32, copy=False)
        for shape in set(self.classes).intersection(shapes.shapes_at(self.kernel_h, self.kernel_w)):
            rows = np.flatnonzero((names == shape) & ~dead)
            template[rows] = shape
            score[rows] = shapes.similarity(unit[rows], shape, self.kernel_h, self.kernel_w)
        found = np.where(clustered, names, OTHER)
        found[dead] = None
        return {
            "class": found, "code": np.where(dead, np.nan, self.codes[index]), "dissimilarity": dissimilarity,
            "clustered": clustered, "template": template, "template_score": score,
        }  # fmt: skip

    def share_clustered(self, kernels: NDArray[np.float32]) -> float:
        """The share of raw kernels (n, d) within the threshold of a prototype; dead ones count as not clustered."""
        _, similarity, dead = self.nearest(kernels)
        return float(((1 - similarity < self.threshold) & ~dead).mean())

    # -- as a file -------------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """A safetensors file: the weights, and everything else in its metadata."""
        from safetensors.numpy import save

        kernel_d, kernel_h = split(self.kernel_h)
        words = {
            "name": self.name, "method": self.method, "kernel_h": kernel_h, "kernel_w": self.kernel_w,
            "threshold": self.threshold, "scaling": self.scaling, "stretches": [asdict(one) for one in self.stretches],
            "facts": dict(self.facts), **({"kernel_d": kernel_d} if kernel_d > 1 else {}),
        }  # fmt: skip
        return _ordered(save(dict(self.weights), metadata={"format": FORMAT, "classifier": json.dumps(words)}))

    @classmethod
    def from_bytes(cls, data: bytes, what: str = "The classifier") -> Classifier:
        """The classifier in a file; ``to_bytes`` and back is the same, bit for bit.

        Raises:
            InvalidArgument: it is not a classifier's file.
        """
        from safetensors.numpy import load

        try:
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length])["__metadata__"]
            if metadata["format"] != FORMAT:
                raise ValueError(metadata["format"])
            words = json.loads(metadata["classifier"])
            words["kernel_h"] = rows_of(words.pop("kernel_d", 1), words["kernel_h"])
            words["stretches"] = [Stretch(**one) for one in words["stretches"]]
            made = cls(weights=load(data), **words)
            taps = made.kernel_h * made.kernel_w
            if made.prototypes.shape[1] != taps or not np.isfinite(made.prototypes).all():
                raise ValueError("weights")
        except InvalidArgument:
            raise
        except Exception as error:  # any error of the readers means that the file is not a classifier
            raise InvalidArgument(f"{what} is not a classifier's file (filterdb cluster export writes one).") from error
        return made


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its header in order: the library writes the keys of the metadata in an order of chance."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def shipped() -> list[str]:
    """The names of the classifiers that come with filterdb."""
    return sorted(path.stem for path in (folder("data") / "classifiers").glob("*.safetensors"))


def read(file: str | os.PathLike[str]) -> Classifier:
    """A classifier from a file that ``write`` made, or one of ``shipped`` by its name."""
    path = Path(file)
    if str(file) in shipped() and not path.exists():
        path = folder("data") / "classifiers" / f"{file}.safetensors"
    try:
        return Classifier.from_bytes(path.read_bytes(), path.name)
    except OSError as error:
        advice = f" There ship {', '.join(shipped())}." if not path.exists() else ""
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}.{advice}") from error


def write(classifier: Classifier, path: Path) -> None:
    """The classifier as one safetensors file, to keep or to share."""
    path.write_bytes(classifier.to_bytes())
