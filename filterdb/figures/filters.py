"""One filter: kernel, fitted model, what the model leaves, and frequency response. A layer or a model: its words."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from filterdb.figures import style
from filterdb.figures.colours import BAND_COLOURS
from filterdb.figures.proportions import draw_proportions
from filterdb.figures.registry import Asked, picture
from filterdb.figures.style import PAGE, Figure, Look, drawn
from filterdb.kernels import heat_map

if TYPE_CHECKING:
    from filterdb.fields.describing import FilterDescription, GroupDescription

FREQUENCIES = 65
"""Along each axis of a response, so that zero and the highest frequencies are among them."""


def draw_description(found: FilterDescription | GroupDescription, *, look: Look = PAGE) -> Figure:
    """A filter: kernel, fitted model, residual and frequency response. A layer or a model: shares of the words.

    Args:
        found: what ``Database.describe`` returns.
        look: see ``filterdb.figures.style.Look``.
    """
    from filterdb.fields.describing import FilterDescription

    if isinstance(found, FilterDescription):
        return draw_filter(found, look=look)
    place = found.identity
    rows = [(float(row["depth"] if "depth" in row else place["depth"]), row["band"], row["percent"]) for row in found.bands]
    title = f"{place['model']}:{place['layer']}" if "layer" in place else f"{place['model']}: what its kernels do"
    return draw_proportions({title: rows}, along="depthwise layer", columns=1, colours=BAND_COLOURS, look=look)


@drawn
def draw_filter(found: FilterDescription, *, look: Look = PAGE) -> Any:
    """Kernel, fitted model and residual in one scale, and the gain |H(u, v)|; the sentence of the description above."""
    from filterdb.kernels.descriptors import frequency_response

    sheet = found.kernel.reshape(-1, found.kernel.shape[-1])  # the slices of one in three dimensions, one below the other
    panels = [("kernel", sheet.astype(np.float64))]
    if found.model is not None:
        rho = found.fits[0]["rho"]
        panels += [
            (f"{found.fits[0]['family'].replace('_', ' ')}, ρ = {rho:.3f}", found.model),
            ("residual", found.kernel - found.model),
        ]
    limit = float(np.abs(found.kernel).max()) or 1.0
    place = found.identity
    name = f"{place['model']}:{place['layer']}:{place['channel']}" if "model" in place else f"a {place['size']} kernel"
    said = "\n".join(wrap(style.plain(found.sentence), 120 if look.wide else 62))
    head = f"{style.fitted(name, look.inches - 0.1, style.HEAD)}\n{said}" if look.title is None else look.title
    columns = len(panels) + 1 if look.wide else 2
    lines = -(-(len(panels) + 1) // columns)
    figure = style.chart(Look(look.width, look.dark, ""), lines * (1.75 if look.wide else 1.6) + 0.2 + 0.14 * head.count("\n"))
    if head:
        figure.suptitle(head, x=0.01, ha="left", fontsize=style.TEXT)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(panels) + 1 :]:
        axes.set_axis_off()
    for axes, (title, kernel) in zip(grid, panels, strict=False):
        image = axes.imshow(kernel, cmap=_diverging(), vmin=-limit, vmax=limit)
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
    _scale(figure, image, grid[len(panels) - 1], "weight")
    axes = grid[len(panels)]
    if found.kernel.ndim == 3:
        axes.set_axis_off()
        return figure
    gain = np.abs(frequency_response(found.kernel, FREQUENCIES))
    half = 0.5 + 0.5 / (FREQUENCIES - 1)  # the outermost samples lie at the highest frequency, in the middle of their pixels
    image = axes.imshow(gain, cmap="magma", vmin=0, extent=(-half, half, -half, half))
    axes.set_title("gain |H(u, v)|")
    axes.set_xticks([-0.5, 0, 0.5])
    axes.set_yticks([-0.5, 0, 0.5])
    axes.set_xlabel("u, cycles/px", labelpad=1)
    axes.set_ylabel("v, cycles/px", labelpad=-3)
    axes.spines[:].set_visible(True)
    _scale(figure, image, axes, "")
    return figure


def _scale(figure: Any, image: Any, axes: Any, label: str) -> None:
    """The bar that says what colours mean."""
    bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=14, pad=0.03)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=style.SMALL, length=2)
    bar.set_label(label, fontsize=style.SMALL, labelpad=1)


def _diverging() -> Any:
    """The map of ``filterdb.kernels.heat_map``."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(heat_map.TABLE / 255)


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("filters", name="filter")
def filter_(
    db: Asked, look: Look, *, filter: Annotated[str, "a filter_id or MODEL:LAYER:CHANNEL; or MODEL:LAYER, or MODEL"],
) -> Figure:  # fmt: skip
    """A kernel, the model fitted to it, what the model leaves, and the frequency response; of a layer or a model its words."""
    return draw_description(db.describe(filter), look=look)
