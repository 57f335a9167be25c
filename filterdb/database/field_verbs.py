"""The methods for receptive fields: describe a filter, fit all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from numpy.typing import ArrayLike

from filterdb.banks import Bank
from filterdb.database.bank_verbs import BankVerbs
from filterdb.database.base import Relation
from filterdb.database.sql_verbs import SqlVerbs

if TYPE_CHECKING:
    from filterdb.fields.describing import FilterDescription, GroupDescription

Progress = Callable[[str, int, int], None]


class FieldVerbs(SqlVerbs, BankVerbs):
    """``describe``, ``fit`` and ``fit_bank``."""

    def describe(
        self, what: int | str | ArrayLike, *, bank: str | Bank | None = "greedy8", device: str | None = None
    ) -> FilterDescription | GroupDescription:
        """A filter, a layer or a model in words and numbers.

        Args:
            what: a filter_id, ``model:layer:channel``, ``model:layer``, ``model``, or a (kernel_h, kernel_w) array.
            bank: the bank that it is compared with, or None.
            device: torch's, for the fits; by default the GPU where there is one.

        Returns:
            For a filter: identity, sentence, words, numbers, nearest, fits (best first), kernel and model (its best fit). For a
            layer or a model: shares of the words, derivative orders, means, nearest templates and families. ``to_dict()`` gives
            plain values. Undefined values are None, and ``reason`` says why.
        """
        from filterdb.fields.describing import describe

        return describe(self._view(), what, self.bank(bank) if isinstance(bank, str) else bank, device)

    def fit(
        self, size: str | int | None = None, *, model: str | Sequence[str] | None = None,
        family: str | Sequence[str] | None = None, again: bool = False, device: str | None = None,
        progress: Progress | None = None,
    ) -> Relation:  # fmt: skip
        """Fit kernels with scale-space models: fill the table ``fits``.

        Args:
            size: kernel size; needed where the database has several.
            model: only these models: a name, a glob, or several.
            family: only these families (``filterdb.fields.fits.FAMILIES``); those fitted before stay. Default: all that have a
                meaning for the size.
            again: also fit kernels that were fitted before.
            device: torch device; by default the GPU if there is one.
            progress: called with the current step, the kernels done, and the total. An interrupted call
                keeps every model that was done.

        Returns:
            The rows of ``fits`` of these models and this size, with model, layer and channel: one for each kernel and family.
        """
        from filterdb.fields import fitting

        self._writable()
        view = self._view()
        size = view.only_size() if size is None else view.check_size(size)
        families = [family] if isinstance(family, str) else family
        chosen = fitting.fit(
            view, self._fields, size, models=model, families=families, again=again, device=device, progress=progress
        )
        return self.sql(
            "SELECT model, layer, channel, fits.* FROM fits JOIN filters USING (filter_id) "
            "WHERE fits.size = $size AND model IN (SELECT unnest($models))", size=size, models=chosen,
        )  # fmt: skip

    def fit_bank(self, bank: str | Bank, forms: Sequence[str], methods: Sequence[str] | None = None) -> Relation:
        """Fit templates by the methods of arXiv 2509.12746.

        Args:
            bank: a bank or its name.
            forms: for each template one of T, dx, dx+, dx-, dy, dy+, dy-, sharpening, as impulse responses.
            methods: of A, B, C1, C2, D1, D2; all by default. A and B have no sharpening, and skip it.

        Returns:
            template, form, method, sigma_x, sigma_y, alpha, error, at_bound.
        """
        from filterdb.fields.fits import published

        made = self.bank(bank) if isinstance(bank, str) else bank
        published.check([*made.templates], forms, methods)
        rows: list[dict[str, Any]] = []
        for name, template, form in zip(made.names, made.templates, forms, strict=True):
            for method in methods or published.METHODS:
                if not (form == "sharpening" and method in published.BY_VARIANCE):
                    found = published.fit(template, form, method)
                    rows.append({"template": name} | vars(found))
        return self._view().session.relation(pa.Table.from_pylist(rows, published.ROWS))

    def field_report(self, folder: str | os.PathLike[str], *, models: str = "*") -> list[Path]:
        """Write the shares of the words, and pictures, into a folder; see ``figures.field_report``. Returns the files."""
        from filterdb.figures.field_report import report

        return report(self._view(), self.query, Path(folder), models)

    def describe_missing(self, progress: Progress | None = None) -> list[str]:
        """Compute the descriptors of models that an older filterdb ingested without them. Returns the models."""
        from filterdb.fields.store import describe_models

        self._writable()
        return describe_models(self._view(), self._fields, progress)
