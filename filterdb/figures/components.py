"""Principal components of kernels, drawn as kernels, with what each explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument, NotFound, not_found
from filterdb.figures.registry import Asked, picture
from filterdb.figures.samples import draw_captioned
from filterdb.figures.sheet import Kernels
from filterdb.figures.style import PAGE, Figure, Look

BASES = "No basis of components is kept here: run filterdb compare A B (or filterdb compare MODEL), which makes and keeps one."


def draw_components(
    kernels: Kernels, ratios: Sequence[float], *, title: str = "", look: Look = PAGE
) -> Figure:  # fmt: skip
    """The components of a basis as kernels, each with its share of the variance.

    Args:
        kernels: (kernel_h, kernel_w) each.
        ratios: the share of each, in [0, 1].
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    captions = [f"{number}: {100 * ratio:.1f} %" for number, ratio in enumerate(ratios, start=1)]
    return draw_captioned(kernels, captions, title=title, look=look)


# -- of a database -------------------------------------------------------------------------------------------------------------


def load(
    db: Asked, basis: str | None, size: str | None = None
) -> tuple[str, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A kept basis: its name, the mean (d,), the components (m, h, w), and their shares (m,).

    Raises:
        NotFound: none of that name, or none at all.
        InvalidArgument: there are several.
    """
    heads = db.sql("SELECT basis, size, mean FROM bases WHERE $size IS NULL OR size = $size ORDER BY basis", size=size).fetchall()
    if basis is not None and basis not in [row[0] for row in heads]:
        raise not_found("basis", basis, [row[0] for row in heads])
    if not heads:
        raise NotFound(BASES)
    if basis is None and len(heads) > 1:
        raise InvalidArgument(f"There are several bases: {', '.join(row[0] for row in heads)}. Choose one with --basis.")
    name, of, mean = next(row for row in heads if basis in (None, row[0]))
    h, w = map(int, of.split("x"))
    rows = db.sql(
        "SELECT kernel, explained_variance_ratio FROM components WHERE basis = $basis ORDER BY component", basis=name
    ).fetchall()
    return name, np.array(mean), np.array([row[0] for row in rows], float).reshape(-1, h, w), np.array([row[1] for row in rows])


@picture("bases", "components")
def components(
    db: Asked, look: Look, *, basis: Annotated[str | None, "the basis; needed where there are several"] = None,
    count: Annotated[int, "components, the largest first"] = 20,
) -> Figure:  # fmt: skip
    """The principal components of kernels as kernels, each with its share of the variance."""
    name, _, kernels, ratios = load(db, basis)
    shown = min(count, len(kernels))
    title = f"{name}: the first {shown} of {len(kernels)} components explain {100 * ratios[:shown].sum():.1f} % of the variance"
    return draw_components([*kernels[:shown]], ratios[:shown].tolist(), title=title, look=look)
