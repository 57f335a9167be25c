"""The methods that return kernels as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filterdb.database.sql_verbs import SqlVerbs
from filterdb.errors import InvalidArgument, NotFound
from filterdb.kernels.sizes import parse_size, shape_of, size_name
from filterdb.store.view import View, matching

if TYPE_CHECKING:
    from torch import Tensor


class Kernels(np.ndarray):
    """Kernels of one size, (n, kernel_h, kernel_w) float32, row 0 on top: a NumPy array, with the ids beside it.

    Rows chosen by an index, a slice or a mask keep their ids. Results of arithmetic have none.
    """

    ids: NDArray[np.int64] | None
    """(n,) the filter_id of each kernel."""

    @classmethod
    def of(cls, kernels: NDArray[np.float32], ids: NDArray[np.int64]) -> Kernels:
        """Kernels (n, kernel_h, kernel_w) with their ids (n,); no copy."""
        made = kernels.view(cls)
        made.ids = ids
        return made

    def torch(self) -> Tensor:
        """The same memory as a tensor."""
        import torch

        return torch.from_numpy(self.view(np.ndarray))

    def __array_finalize__(self, obj: Any) -> None:
        self.ids = None

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        rows = key[0] if isinstance(key, tuple) and key else key
        if isinstance(found, Kernels) and self.ids is not None and found.ndim == self.ndim > 2 and rows is not None:
            ids = self.ids if rows is Ellipsis else self.ids[rows]
            found.ids = ids if ids.shape == found.shape[:1] else None
        return found


class KernelVerbs(SqlVerbs):
    """``kernel`` and ``kernels``."""

    def kernel(self, filter: int | str) -> NDArray[np.float32]:
        """The raw weights of a filter, (kernel_h, kernel_w), row 0 on top; (kernel_d, kernel_h, kernel_w) in three dimensions.

        Args:
            filter: a filter_id, or ``model:layer:channel``.

        Raises:
            NotFound: no such filter; the message lists near misses.
        """
        return self._view().kernel(filter)[0]

    def kernels(
        self, model: str | Sequence[str] | None = None, layer: str | None = None, size: str | int | None = None, *,
        sql: str | None = None, limit: int | None = None,
    ) -> Kernels:  # fmt: skip
        """Raw kernels as one array: ``db.kernels("demo", size="7x7").torch()``.

        Args:
            model: only models of this name or glob, or of several.
            layer: only layers of this name or glob.
            size: kernel size; needed where there are several.
            sql: instead of model and layer: a query with a column filter_id, whose order is kept.
            limit: that many at most, the first ones.

        Returns:
            (n, kernel_h, kernel_w) float32, with slices (n, kernel_d, kernel_h, kernel_w), a NumPy array. ``.ids`` has the
            filter_id of each, ``.torch()`` is a tensor of the same memory.

        Raises:
            NotFound: no such model, layer or size, or no kernels.
            InvalidArgument: several sizes and none chosen, a query without filter_id, or a limit below 1.
        """
        if limit is not None and limit < 1:
            raise InvalidArgument(f"limit is {limit}: ask for at least one kernel.")
        if sql is not None and not (model is None and layer is None):
            raise InvalidArgument("sql says which filters are meant: leave model and layer out, or write them into the query.")
        view = self._view()
        view.check_filled()
        if sql is None:
            pair = parse_size(_one_size(view, model, layer, size))
            batches = view.batches(*pair, ["filter_id"], model=model, layer=layer)
            ids, taps, count = [], [], 0
            for batch in batches:
                ids.append(batch.table["filter_id"].to_numpy())
                taps.append(batch.kernels)
                count += len(batch.kernels)
                if limit is not None and count >= limit:
                    break
            if not count:
                raise NotFound(f"There are no {size_name(*pair)} kernels in these layers.")
            kernels = np.concatenate(taps)[:limit].reshape(-1, *shape_of(*pair))
            return Kernels.of(kernels, np.concatenate(ids)[:limit])
        return self._chosen_by(sql, size, limit)

    def _chosen_by(self, sql: str, size: str | int | None, limit: int | None) -> Kernels:
        if "filter_id" not in self.sql(sql).columns:
            raise InvalidArgument(f"The query gives {', '.join(self.sql(sql).columns)}. It needs a column filter_id.")
        query = sql.strip().rstrip(";")
        chosen = "" if size is None else f"WHERE size = '{size_name(*parse_size(size))}'"
        most = "" if limit is None else f"LIMIT {int(limit)}"
        rows = self.sql(
            "SELECT filter_id, kernel, size FROM (SELECT row_number() OVER () AS place, filter_id FROM "
            f"({query}\n)) JOIN filters USING (filter_id) {chosen} ORDER BY place {most}"
        ).to_arrow_table()
        if not rows.num_rows:
            raise NotFound("The query chooses no filter of the database. See what it gives with db.sql.")
        sizes = rows["size"].unique().to_pylist()
        if len(sizes) > 1:
            raise InvalidArgument(f"The query chooses kernels of {', '.join(sorted(sizes))}. Choose one with size.")
        taps = rows["kernel"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return Kernels.of(taps.reshape(-1, *shape_of(*parse_size(sizes[0]))), rows["filter_id"].to_numpy().copy())


def _one_size(view: View, model: str | Sequence[str] | None, layer: str | None, size: str | int | None) -> str:
    """The size that is meant: the one named, or the only one of the models and layers."""
    if size is not None:
        return view.check_size(size)
    models = view.models if model is None else view.matching_models(model)
    rows = view.rows("SELECT DISTINCT layer, size FROM layers WHERE model IN (SELECT unnest($models))", models=models)
    layers = {row[0] for row in rows}
    chosen = layers if layer is None else set(matching("layer", layer, sorted(layers)))
    sizes = sorted({row[1] for row in rows if row[0] in chosen})
    if len(sizes) > 1:
        raise InvalidArgument(f"There are kernels of {', '.join(sizes)}. Choose one with size.")
    if not sizes:
        raise NotFound("These models have no kernels.")
    return str(sizes[0])
