"""Pictures: one style, a function for each kind of data (``draw_…``), and a name for each picture that a database can give.

Kernels are drawn in a diverging map that is blue below zero, white at zero and red above. Every ``draw_…`` function gives a
``Figure``, which shows itself in notebooks and saves itself. ``draw`` draws any result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from filterdb.figures.clustered import draw_clustered
from filterdb.figures.colours import BAND_COLOURS, CLASS_COLOURS, class_colours
from filterdb.figures.components import draw_components
from filterdb.figures.contrast import draw_contrast
from filterdb.figures.evaluations import draw_evaluations
from filterdb.figures.experiments import draw_replacement, draw_training, draw_transfer
from filterdb.figures.filters import draw_description, draw_filter
from filterdb.figures.greedy import draw_greedy
from filterdb.figures.nearest import draw_bank, draw_nearest, draw_networks
from filterdb.figures.pca import draw_pca
from filterdb.figures.proportions import draw_proportions, draw_shares
from filterdb.figures.registry import PICTURES, Picture, find
from filterdb.figures.samples import draw_captioned, draw_samples
from filterdb.figures.spectrum import draw_spectrum
from filterdb.figures.steps import draw_steps
from filterdb.figures.style import PAGE, Figure, Look, check_ending
from filterdb.figures.totals import draw_boxes

if TYPE_CHECKING:
    from filterdb.figures.results import draw as draw

__all__ = [
    "BAND_COLOURS", "CLASS_COLOURS", "PAGE", "PICTURES", "Figure", "Look", "Picture", "check_ending", "class_colours",
    "cluster_report", "colours", "draw", "draw_bank", "draw_boxes", "draw_captioned", "draw_clustered", "draw_components",
    "draw_contrast", "draw_description", "draw_evaluations", "draw_filter", "draw_greedy", "draw_nearest", "draw_networks",
    "draw_pca", "draw_proportions", "draw_replacement", "draw_samples", "draw_shares", "draw_spectrum", "draw_steps",
    "draw_training", "draw_transfer", "field_report", "find", "notebook", "style",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """``draw`` is loaded when first used, for it knows every kind of result, and some of those need torch."""
    if name == "draw":
        from filterdb.figures.results import draw

        return draw
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
