"""The tables ``descriptors`` and ``fits``, with rows for each filter, and ``regular``, with kernels of ordinary convolutions.

Descriptors are made at ingest, just before their model becomes visible; fits when they are asked for. Both are made by rules of a
version, so that rows of older rules are no longer found and are made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filterdb.kernels import descriptors
from filterdb.kernels.sizes import Rows
from filterdb.store import Derived, Place, Snapshot, schema
from filterdb.store.collection import slug
from filterdb.store.view import View

_KINDS = {"float32": pa.float32(), "int8": pa.int8(), "bool": pa.bool_(), "string": pa.string()}
DESCRIPTORS = schema.table(filter_id=pa.int64(), **{name: _KINDS[kind] for name, kind in descriptors.COLUMNS.items()})
FITS = schema.table(
    filter_id=pa.int64(), size=pa.string(), family=pa.string(), orders=pa.list_(pa.field("element", pa.int8())),
    shift=pa.list_(pa.field("element", pa.float32())), sigma_x=pa.float32(), sigma_y=pa.float32(), sigma_x2=pa.float32(),
    sigma_y2=pa.float32(), amplitude=pa.float32(), offset=pa.float32(),
    coefficients=pa.list_(pa.field("element", pa.float32())), rho=pa.float32(), residual=pa.float32(), parameters=pa.int8(),
    bic=pa.float32(), best=pa.bool_(), at_bound=pa.bool_(), reason=pa.string(),
)  # fmt: skip
REGULAR = pa.schema(
    [
        *schema.table(
            filter_id=pa.int64(), model=pa.string(), layer=pa.string(), kind=pa.string(), channel=pa.int32(),
            in_channel=pa.int32(), size=pa.string(), kernel_h=pa.int32(), kernel_w=pa.int32(),
            kernel=schema.FILTERS.field("kernel").type, mean=pa.float32(), norm=pa.float32(), total=pa.float32(), dead=pa.bool_(),
        ),
        *list(DESCRIPTORS)[1:],
    ]
)  # fmt: skip

SOLID = "three dimensions"
"""Why kernels of three dimensions have no words."""

FITS_VERSION = 2
"""Of the families and the search in ``filterdb.fields.fits``; raise it when a fit would come out differently."""
_DESCRIBER = ("descriptors", str(descriptors.VERSION))
_FITTER = ("fits", str(FITS_VERSION))
_DRAWER = ("regular", "1")


class FieldStore:
    """The tables ``descriptors``, ``fits`` and ``regular`` of one database."""

    def __init__(self, root: Place):
        self.descriptors = Derived(root, "descriptors", DESCRIPTORS)
        self.fits = Derived(root, "fits", FITS)
        self.regular = Derived(root, "regular", REGULAR)

    def put_descriptors(self, model: str, edition: str, tables: Iterable[pa.Table]) -> None:
        """Keep the descriptors of an edition of a model."""
        self.descriptors.put(_DESCRIBER, (slug(model), edition), tables)

    def undescribed(self, models: Snapshot) -> list[str]:
        """The slugs of models without descriptors: ingested by an older filterdb."""
        return self.descriptors.missing(_DESCRIBER, models)

    def put_fits(self, model: str, edition: str, tables: Iterable[pa.Table]) -> None:
        """Keep the fits of an edition of a model; they replace all it had."""
        self.fits.put(_FITTER, (slug(model), edition), tables)

    def put_regular(self, model: str, edition: str, tables: Iterable[pa.Table]) -> None:
        """Keep the kernels of ordinary convolutions of an edition of a model."""
        self.regular.put(_DRAWER, (slug(model), edition), tables)

    def fits_of(self, model: str, edition: str) -> pa.Table | None:
        """The fits of an edition of a model, of all sizes, if there are any."""
        return self.fits.read(_FITTER, (slug(model), edition))

    @property
    def version(self) -> tuple[int, ...]:
        """Changes whenever a row does."""
        return tuple(one.collection.version() for one in (self.descriptors, self.fits, self.regular))

    def views(self, models: Snapshot) -> Mapping[str, tuple[Sequence[str], pa.Schema]]:
        """The tables by name: their files, and their columns."""
        return {
            "descriptors": (self.descriptors.files(dict([_DESCRIBER]), models), DESCRIPTORS),
            "fits": (self.fits.files(dict([_FITTER]), models), FITS),
            "regular": (self.regular.files(dict([_DRAWER]), models), REGULAR),
        }

    def descriptor_parts(self, models: Snapshot) -> dict[tuple[str, str], tuple[str, str]]:
        """("", model's slug) to the slug and edition of its descriptors."""
        return {("", model): part for (_, model), part in self.descriptors.parts(dict([_DESCRIBER]), models).items()}

    def fit_parts(self, models: Snapshot) -> dict[tuple[str, str], tuple[str, str]]:
        """("", model's slug) to the slug and edition of its fits."""
        return {("", model): part for (_, model), part in self.fits.parts(dict([_FITTER]), models).items()}

    def tidy(self, models: Snapshot) -> None:
        """Drop the rows of models that are gone or were replaced, so that they can be vacuumed."""
        self.descriptors.tidy(dict([_DESCRIBER]), models)
        self.fits.tidy(dict([_FITTER]), models)
        self.regular.tidy(dict([_DRAWER]), models)


def descriptor_table(
    filter_ids: NDArray[np.int64] | pa.ChunkedArray, kernels: NDArray[np.floating], solid: bool = False
) -> pa.Table:  # fmt: skip
    """Rows of ``descriptors`` for kernels (n, kernel_h, kernel_w). ``solid`` ones, of three dimensions, have a reason alone."""
    if solid or kernels.ndim == 4:
        empty = {field.name: pa.nulls(len(kernels), field.type) for field in list(DESCRIPTORS)[1:]}
        empty["reason"] = pa.repeat(pa.scalar(SOLID), len(kernels))
        return pa.table({"filter_id": filter_ids, **empty}).cast(DESCRIPTORS)
    columns = {name: pa.array(values) for name, values in descriptors.describe(kernels).items()}
    return pa.table({"filter_id": filter_ids, **columns}).cast(DESCRIPTORS)


def describe_models(view: View, store: FieldStore, progress: Callable[[str, int, int], None] | None) -> list[str]:
    """Make the descriptors of all models that lack them. Returns their names."""
    lacking = set(store.undescribed(view.snapshot))
    names = [name for (name,) in view.rows("SELECT model FROM models ORDER BY model") if slug(name) in lacking]
    for done, name in enumerate(names):
        if progress is not None:
            progress(f"describing {name}", done, len(names))
        sizes = [size for size, models in view.sizes.items() if name in models]
        tables = (
            descriptor_table(batch.table["filter_id"], batch.kernels.reshape(-1, *size), isinstance(size[0], Rows))
            for size in sizes for batch in view.stream([slug(name)], *size)
        )  # fmt: skip
        store.put_descriptors(name, view.snapshot.editions[slug(name)], tables)
    return names
