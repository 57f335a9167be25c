"""Discrete scale space: the Gaussian of the pixel grid, its derivatives, and the kernels made of them.

Conventions. A kernel is a row-0-on-top array of torch weights, and torch correlates: the tap one column right of the centre
weighs the pixel one column to the right. x points right and y points UP, as in the scale-space literature, so +y is the row
above. Scales are standard deviations sigma in pixels, or variances s = sigma^2 in pixels squared.

After Lindeberg, *Scale-space for discrete signals*, IEEE PAMI 12(3), 1990, and Lindeberg, Babaiee, Kiasari, arXiv 2509.12746.

``gaussian`` has T and its differences along one axis, ``filters`` the two-dimensional kernels, ``differentiable`` the same in
torch.
"""

from filterdb.kernels.scale_space.filters import LAPLACIAN, DoG, GaussianDerivative, Jet, Sharpening, cross
from filterdb.kernels.scale_space.gaussian import MASKS, OPERATORS, discrete_gaussian, mask, masks_of, n_jet, odd_size, profile

__all__ = [
    "LAPLACIAN", "MASKS", "OPERATORS", "DoG", "GaussianDerivative", "Jet", "Sharpening", "cross", "discrete_gaussian", "mask",
    "masks_of", "n_jet", "odd_size", "profile",
]  # fmt: skip
