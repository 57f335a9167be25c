"""The verbs that compare kernels with templates and with each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from filterdb.banks import Bank
from filterdb.database.bank_verbs import BankVerbs
from filterdb.database.base import Relation
from filterdb.kernels.sizes import parse_size, size_name


class MatchVerbs(BankVerbs):
    """``nearest`` and ``similar``."""

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
            residual (length of f - gain g - offset), runner_up, margin, dead. Dead (constant) kernels have no template.
        """
        from filterdb.search.nearest import SCHEMA

        table = pa.Table.from_batches(self.nearest_batches(bank, model=model, layer=layer, size=size, signed=signed), SCHEMA)
        return self._view().session.relation(table)

    def nearest_batches(
        self, bank: str | Bank = "greedy8", *, model: str | Sequence[str] | None = None, layer: str | None = None,
        size: str | int | None = None, signed: bool = False,
    ) -> Iterator[pa.RecordBatch]:  # fmt: skip
        """The rows of ``nearest`` as a stream, in memory that does not grow with the database."""
        from filterdb.search.nearest import IDENTITY, nearest

        chosen = self.bank(bank) if isinstance(bank, str) else bank
        if size is not None and size_name(*parse_size(size)) != chosen.size:
            chosen = chosen.at(size)
        batches = self._view().batches(chosen.kernel_h, chosen.kernel_w, IDENTITY, model=model, layer=layer)
        return nearest(batches, chosen, signed=signed)

    def nearest_summary(self, bank: str | Bank = "greedy8", **choice: Any) -> Relation:
        """How the kernels fall on the templates of a bank; arguments as for ``nearest``.

        Returns:
            One row for each template: template, filters, percent, mean_similarity (absolute), percent_above_90 (of its
            filters, those with an absolute similarity of 0.9 or more), percent_inverted (gain < 0). Dead kernels are the row
            "(dead)".
        """
        from filterdb.search.nearest import SCHEMA, SUMMARY

        with closing(duckdb.connect()) as con:
            con.register("nearest", pa.RecordBatchReader.from_batches(SCHEMA, self.nearest_batches(bank, **choice)))
            table = con.sql(SUMMARY).to_arrow_table()
        return self._view().session.relation(table)

    def exemplars(self, bank: str | Bank = "greedy8", count: int = 8, **choice: Any) -> dict[str, np.ndarray]:
        """The real kernels closest to each template: template name to (n, kernel_h, kernel_w), closest first.

        At most ``count`` each. Kernels with a negative gain are inverted, to match their template.
        The other arguments are those of ``nearest``.
        """
        from filterdb.search.nearest import exemplars

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
            signed: False also finds inverted kernels (similarity near -1), ordered by absolute similarity.
            exact: True searches by brute force, False by the FAISS index. Default: the index, unless only some models or an old
                version are asked for. The index is exact up to 200,000 kernels of the size; above, its recall@10 is about .99.

        Returns:
            rank, filter_id, model, layer, channel, similarity; best first.
        """
        from filterdb.search.similar import similar

        view = self._view()
        fixed = self._as_of is not None
        table = similar(view, None if fixed else self._index, query, k, model=model, signed=signed, exact=exact)
        return view.session.relation(table)
