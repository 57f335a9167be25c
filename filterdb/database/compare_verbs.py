"""The methods that measure layers and compare selections of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from filterdb.database.base import Relation
from filterdb.database.sql_verbs import SqlVerbs

if TYPE_CHECKING:
    from filterdb.clusters.make import Progress
    from filterdb.comparison.compare import Comparison


class CompareVerbs(SqlVerbs):
    """``layer_metrics``, ``compare`` and its PCA bases."""

    def layer_metrics(
        self, model: str | Sequence[str] | None = None, layer: str | None = None, size: str | int | None = None,
        sparsity_threshold: float | Sequence[float] = 0.01,
    ) -> Relation:  # fmt: skip
        """Sparsity, variance entropy against a random layer, and orthogonality of each layer.

        Args:
            model: only these models: a name, a glob, or several.
            layer: only layers of this name or glob.
            size: only this kernel size.
            sparsity_threshold: a filter is sparse if its largest absolute weight is below this share of the layer's. Several give
                a row for each, so that the effect of the choice can be seen.

        Returns:
            One row for each layer (and threshold): model, layer, depth, size, filters, zero (filters of zeros alone), sparsity
            (share of filters), sparsity_threshold, variance_entropy = entropy / random_entropy, entropy (log10, of the
            normalised squared singular values of the layer, centred over its filters), random_entropy (the mean of that for
            Gaussian layers as large, simulated to 1e-3), orthogonality (1 - mean absolute cosine of all pairs of filters
            but those of zeros), reason (why a number is null, else null).

        Raises:
            NotFound: no model, layer or size of that name.
        """
        from filterdb.comparison.layer_metrics import layer_metrics

        view = self._view()
        return view.session.relation(
            layer_metrics(view, model=model, layer=layer, size=size, sparsity_threshold=sparsity_threshold)
        )

    def compare(
        self, a: Any, b: Any = "*", *, size: str | int | None = None, classifier: str | None = None, basis: str | None = None,
        new_basis: bool = False, novel: int = 10, progress: Progress | None = None,
    ) -> Comparison:  # fmt: skip
        """Compare two selections of kernels: distribution shift, class proportions, the most novel kernels of the first.

        Args:
            a: a model or glob, ``dataset:NAME``, ``architecture:GLOB``, ``run:NAME``, ``stem:NAME`` or
                ``regular:NAME`` (kernels of ordinary convolutions), ``*`` (or ``database``) for everything,
                or what is not in the database: a checkpoint file, ``timm:NAME``, ``hf:REPO``, ``torchvision:NAME``, an
                ``nn.Module``. Such kernels are read and not stored.
            b: another. Models in both are excluded from the larger one, or from both if neither contains the other.
            size: kernel size; needed where both have several.
            classifier: for the class shares. Default: the only one that has classified both, if there is one.
            basis: the frozen PCA basis, made of the whole database and stored if there is none of that name. Default:
                ``pca-`` and the size. Shifts on the same basis are comparable, also after the database has grown.
            new_basis: make it anew, of the database as it is now.
            novel: number of kernels of A to list, those with the weakest best match in B. 0 skips the search.
            progress: called with the current step, the amount done, and the total.

        Returns:
            A ``Comparison``; ``to_dict()`` gives plain values. Numbers are of non-constant kernels, centred and of unit length.

        Raises:
            NotFound: no model, group or size of that name; the message lists near misses.
            InvalidArgument: sizes that do not fit, or kernels that are all constant.
            SourceError: a file that cannot be read.
        """
        from filterdb.comparison.compare import compare

        return compare(
            self._view(), self._bases, self._classes, a, b, size=size, classifier=classifier, basis=basis,
            new_basis=new_basis, novel=novel, writable=self._writable, progress=progress,
        )  # fmt: skip

    def bases(self) -> list[str]:
        """The names of all stored PCA bases; SQL sees them as ``bases`` and ``components``."""
        return self._bases.names()

    def remove_basis(self, name: str) -> None:
        """Remove a PCA basis."""
        self._writable()
        self._bases.remove(name)
