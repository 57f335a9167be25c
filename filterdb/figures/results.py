"""``draw``: a picture of any result. The command line, ``db.plot``, reports and notebooks call this one function.

It is a ``functools.singledispatch``: results know nothing of pictures, and a new kind of result gets its picture here.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from filterdb.clusters import Classifier
from filterdb.errors import InvalidArgument
from filterdb.fields.describing import FilterDescription, GroupDescription
from filterdb.figures.filters import draw_description
from filterdb.figures.greedy import draw_greedy
from filterdb.figures.spectrum import draw_spectrum, heading
from filterdb.figures.style import Figure
from filterdb.frozen.greedy import Greedy


@singledispatch
def draw(result: Any, **options: Any) -> Figure:
    """A picture of a result.

    Args:
        result: a classifier, a description of a filter, a layer or a model, or a greedy search.
        options: of the ``draw_…`` function for it, such as ``look`` and ``title``.

    Raises:
        InvalidArgument: a result of this type has no picture.
    """
    drawn = ", ".join(sorted(kind.__name__ for kind in draw.registry if kind is not object))
    raise InvalidArgument(f"There is no picture of a {type(result).__name__}. What can be drawn: {drawn}.")


draw.register(FilterDescription, draw_description)
draw.register(GroupDescription, draw_description)


@draw.register
def _(result: Classifier, **options: Any) -> Figure:
    return draw_spectrum(result, **{"title": heading(result)} | options)


@draw.register
def _(result: Greedy, **options: Any) -> Figure:
    return draw_greedy(result, **{"title": f"{result.start.name}: greedy search by {result.objective}"} | options)
