"""Kernels as arrays: functions of arrays, without tables or files.

affine        a kernel as a mean plus a multiple of a centred unit kernel; the fit a·g + b, which everything uses
sizes         kernel sizes and their names
shapes        the ideal kernel of each class
scale_space   discrete Gaussians, their derivatives, and filters made of them
descriptors   numbers and words for what a kernel does
pca           principal components
novelty       the kernels least similar to all others
heat_map      a kernel as a PNG
"""

from __future__ import annotations

from filterdb.kernels.affine import (
    DEAD_RATIO,
    CentredUnit,
    Floats,
    Moments,
    affine_fit,
    centred_unit,
    moments,
    rows,
)

__all__ = [
    "DEAD_RATIO", "CentredUnit", "Floats", "Moments", "affine", "affine_fit", "centred_unit", "descriptors", "heat_map",
    "moments", "novelty", "pca", "rows", "scale_space", "shapes", "sizes",
]  # fmt: skip
