"""The shapes of trained kernels: Babaiee et al., *Unveiling the Unseen*, ICLR 2024.

autoencoder   maps kernels to one number, which orders them along a curve
kmeans        the same without a network
labels        assigns a shape to each stretch of the curve
search        finds the nearest of 10,000 points of the curve, exactly and fast
classifier    all of this under one name
make          from the kernels of a database to a classifier
compare       agreement of two classifiers
clustering    from a database to a classifier, and from a classifier to the classes of models
store         the tables ``classifiers``, ``spectrum`` and ``classes``
controls      the same pipeline on noise, shuffled and untrained kernels
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filterdb.clusters.classifier import Classifier as Classifier
    from filterdb.clusters.classifier import read as read
    from filterdb.clusters.classifier import write as write

__all__ = ["Classifier", "autoencoder", "classifier", "clustering", "labels", "lines", "make", "read", "store", "write"]


def __getattr__(name: str) -> Any:
    """What ``classifier`` offers, loaded when it is first used: every database opens the store, and few use a classifier."""
    if name in ("Classifier", "read", "write"):
        from filterdb.clusters import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
