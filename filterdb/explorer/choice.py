"""The state of a gallery, encoded in its address. Each view has its own link."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import quote, urlencode

from filterdb.errors import InvalidArgument, not_found
from filterdb.explorer.shelf_rows import FITTED
from filterdb.kernels import descriptors

PAGE = 96
"""Kernels on a page: whole rows of 2, 3, 4, 6, 8, 12 and 16."""
LAST_SORTED_PAGE = 100
"""Of a sorted or random gallery. Further pages would sort all kernels; the other end is the first page of the other order."""
FACETS = ("model", "family", "size", "dataset", "class", "band", "dead")
"""Those with values to choose from, each any number of times."""
FILTER_COLUMNS = ("mean", "norm", "total", "channel")
CLASS_COLUMNS = ("code", "dissimilarity", "template_score", "class", "template", "clustered")
DESCRIPTOR_COLUMNS = tuple(name for name in descriptors.COLUMNS if name != "reason")
RANDOM = "random"


def sort_groups(classifier: bool, fits: bool) -> dict[str, tuple[str, ...]]:
    """The columns that there are to sort by, by their tables."""
    groups = {"filters": FILTER_COLUMNS, "descriptors": DESCRIPTOR_COLUMNS}
    if fits:
        groups["fits (the best of each)"] = ("fit_family", *FITTED)
    return groups | ({"classes": CLASS_COLUMNS} if classifier else {})


SORTS = {name for group in sort_groups(True, True).values() for name in group} | {RANDOM}


@dataclass(frozen=True)
class Choice:
    """The state of a gallery. Empty means no restriction."""

    model: tuple[str, ...] = ()
    family: tuple[str, ...] = ()
    """Of architectures: their name up to the first underscore."""
    layer: str = ""
    """A layer's name or glob."""
    depth_from: float = 0.0
    depth_to: float = 1.0
    """Of ``depth_norm``: 0 is a model's first depthwise layer, 1 its last."""
    size: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    classifier: str = ""
    class_: tuple[str, ...] = ()
    band: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    sort: str = ""
    order: str = "desc"
    seed: int = 0
    page: int = 1

    @classmethod
    def of(cls, query: Sequence[tuple[str, str]]) -> Choice:
        """From the pairs of an address. Empty values are ignored.

        Raises:
            InvalidArgument, NotFound: a word or number that cannot mean anything.
        """
        given: dict[str, Any] = {}
        names = {field.name.rstrip("_"): field.name for field in fields(cls)}
        for name, value in query:
            if name not in names:
                raise not_found("parameter", name, names)
            if value != "":
                if name in FACETS:
                    given[names[name]] = tuple(dict.fromkeys([*given.get(names[name], ()), value]))
                else:
                    given[names[name]] = value
        for name, kind in {"depth_from": float, "depth_to": float, "seed": int, "page": int}.items():
            if name in given:
                given[name] = _number(name, given[name], kind)
        return cls(**given)._checked()

    def _checked(self) -> Choice:
        for name, value, known in (("order", self.order, ("asc", "desc")), ("column to sort by called", self.sort, SORTS | {""})):
            if value not in known:
                raise not_found(name, value, [one for one in known if one])
        for value in self.dead:
            if value not in ("yes", "no"):
                raise not_found("value of dead", value, ("yes", "no"))
        if not 0 <= self.depth_from <= self.depth_to <= 1:
            raise InvalidArgument(f"The depth runs from 0 to 1, got {self.depth_from:g} to {self.depth_to:g}.")
        if self.page < 1 or not 0 <= self.seed < 2**31:
            raise InvalidArgument(f"Pages count from 1 and seeds from 0, got page {self.page} and seed {self.seed}.")
        if self.sort in CLASS_COLUMNS and not self.classifier:
            raise InvalidArgument(f"Sorting by {self.sort} needs a classifier: choose one first.")
        if self.class_ and not self.classifier:
            raise InvalidArgument("Classes belong to a classifier. Choose the classifier first.")
        if self.page > LAST_SORTED_PAGE and self.sort:
            raise InvalidArgument(f"Sorted galleries end at page {LAST_SORTED_PAGE}. Reverse the order, or add filters.")
        return self

    def but(self, **changes: Any) -> Choice:
        """Another choice, from its first page on."""
        return replace(self, **({"page": 1} | changes))

    def toggled(self, facet: str, value: str) -> Choice:
        """With a value of a facet chosen, or no longer chosen."""
        name = "class_" if facet == "class" else facet
        there = getattr(self, name)
        return self.but(**{name: tuple(one for one in there if one != value) if value in there else (*there, value)})

    def values(self, facet: str) -> tuple[str, ...]:
        """What is chosen of a facet."""
        found: tuple[str, ...] = self.class_ if facet == "class" else getattr(self, facet)
        return found

    @property
    def narrowed(self) -> Choice:
        """The filters without the order. Galleries with the same filters have the same counts."""
        return replace(self, sort="", order="desc", seed=0, page=1)

    def pairs(self, *without: str) -> list[tuple[str, str]]:
        """The parameters of the address. Defaults are omitted."""
        found: list[tuple[str, str]] = []
        for field in fields(self):
            name, value = field.name.rstrip("_"), getattr(self, field.name)
            if name not in without and value != field.default:
                found += [(name, one) for one in value] if isinstance(value, tuple) else [(name, _text(value))]
        return found

    @property
    def url(self) -> str:
        """The address."""
        pairs = self.pairs()
        return "/" + ("?" + urlencode(pairs) if pairs else "")


def _number(name: str, text: str, kind: type) -> float | int:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidArgument(f'{name} is a number, got "{text}".')
    return value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def path(*parts: str | int) -> str:
    """The address for some names, which may contain any character."""
    return "/" + "/".join(quote(str(part), safe="") for part in parts)
