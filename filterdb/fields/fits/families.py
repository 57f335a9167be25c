"""The models that kernels are fitted with: their terms and their numbers of parameters.

A form is a sum of products of one function of x and one of y, at one or two pairs of scales. Its coefficients enter linearly, so
least squares gives them in closed form, and only the scales are searched. A family is one or more forms of equal cost: all first
derivatives, central and half a pixel off, are one family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from filterdb.errors import InvalidArgument, not_found
from filterdb.kernels.scale_space import LAPLACIAN, masks_of, n_jet
from filterdb.kernels.sizes import Rows, size_name

LINE, ONE, IMPULSE = "line", "one", "impulse"
"""Profiles beside the differences of T: exp(-x²/2s), the constant, the unit impulse."""


@dataclass(frozen=True)
class Term:
    """A separable product of a profile along x and one along y, at one pair of scales."""

    x: str
    """A key of ``filterdb.scale_space.MASKS``, or LINE, ONE, IMPULSE."""
    y: str
    pair: int = 0


@dataclass(frozen=True)
class Form:
    """A linear combination of basis functions, each a fixed sum of terms."""

    basis: tuple[tuple[tuple[Term, float], ...], ...]
    """One entry for each coefficient: its terms and their fixed weights."""
    scales: tuple[tuple[int, int], ...] = ((0, 1),)
    """For each pair, which of the searched scales is its x and its y: (0, 0) ties them."""
    orders: tuple[int, int] | None = None
    """Of the derivative (along x, along y), where the form is one."""
    shift: tuple[float, float] | None = None

    @property
    def searched(self) -> int:
        """Scales that are searched; a form of impulses has none."""
        return 1 + max((max(pair) for pair in self.scales), default=-1)

    @property
    def coefficients(self) -> int:
        """Numbers that least squares gives."""
        return len(self.basis)


@dataclass(frozen=True)
class Family:
    """A model, in the forms that it can take."""

    name: str
    label: str
    forms: tuple[Form, ...]
    terms: tuple[str, ...]
    """What each coefficient stands before."""
    opposite: bool = False
    """Whether the two coefficients must have opposite signs (a difference of Gaussians is no sum)."""

    @property
    def parameters(self) -> int:
        """Parameters that the criterion counts: scales, coefficients and the offset."""
        return self.forms[0].searched + self.forms[0].coefficients + 1


def _derivative(name: str, pair: int = 0) -> tuple[tuple[Term, float], ...]:
    return ((Term(*masks_of(name), pair), 1.0),)


def _single(name: str) -> Form:
    along = masks_of(name)
    shift = [{"+": 0.5, "-": -0.5}.get(mask[-1:], 0.0) for mask in along]
    return Form((_derivative(name),), orders=(along[0].count("d"), along[1].count("d")), shift=(shift[0], shift[1]))


def _jet(names: Sequence[str], pairs: int = 1) -> Form:
    basis = tuple(_derivative(name, pair) for pair in range(pairs) for name in names)
    return Form(basis, tuple((2 * pair, 2 * pair + 1) for pair in range(pairs)))


_TIED = ((0, 0),)
_LAPLACIAN = tuple((Term(*masks_of(name)), weight) for name, weight in LAPLACIAN.items())
_CENTRE = ((Term(IMPULSE, IMPULSE), 1.0),)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("impulse", "unit impulse", (Form((_CENTRE,), ()),), ("impulse",)),
        Family("gaussian", "Gaussian", (_single("T"),), ("T",)),
        Family(
            "first_derivative", "first derivative of a Gaussian, on the pixel or half-way",
            tuple(map(_single, ("dx", "dx+", "dx-", "dy", "dy+", "dy-"))), ("derivative",),
        ),
        Family(
            "second_derivative", "second derivative of a Gaussian", tuple(map(_single, ("dxx", "dxy", "dyy"))), ("derivative",)
        ),
        Family("laplacian", "Laplacian of a Gaussian", (Form((_LAPLACIAN,), _TIED),), ("laplacian",)),
        Family(
            "sharpening", "impulse and Laplacian of a Gaussian",
            (Form((_CENTRE, _LAPLACIAN), _TIED),), ("impulse", "laplacian"),
        ),
        Family(
            "dog", "difference of Gaussians",
            (Form((_derivative("T", 0), _derivative("T", 1)), ((0, 0), (1, 1))),), ("centre", "surround"), opposite=True,
        ),
        Family("cross", "cross of two lines", (Form((((Term(LINE, ONE), 1.0), (Term(ONE, LINE), 1.0)),), _TIED),), ("cross",)),
        Family("jet1", "first-order jet", (_jet(n_jet(1)),), tuple(n_jet(1))),
        Family("jet2", "second-order jet", (_jet(n_jet(2)),), tuple(n_jet(2))),
        Family("jet1_two_scales", "first-order jets at two scales", (_jet(n_jet(1), 2),), tuple(n_jet(1) * 2)),
    )
}  # fmt: skip
"""By name, from the cheapest to the most expensive."""


def meaningless(family: Family, kernel_h: int, kernel_w: int) -> str | None:
    """Why a family cannot be fitted to kernels of a size; None if it can."""
    size = size_name(kernel_h, kernel_w)
    if isinstance(kernel_h, Rows):
        return f"the families are of images, and these kernels have three dimensions ({size})"
    if kernel_h % 2 == 0 or kernel_w % 2 == 0:
        return f"an even size has no centre pixel ({size})"
    if min(kernel_h, kernel_w) < 3:
        return f"a strip has no second dimension to scale in ({size})"
    if family.parameters > kernel_h * kernel_w - 2:
        return f"{family.parameters} parameters are too many for {kernel_h * kernel_w} taps ({size})"
    return None


def choose(names: Sequence[str] | None, kernel_h: int, kernel_w: int) -> list[Family]:
    """The families of these names, or all that have a meaning for a size.

    Raises:
        NotFound: no family of that name.
        InvalidArgument: one that was asked for, or every one, has no meaning for the size.
    """
    if names is not None and not names:
        raise InvalidArgument(f"No family was named. There are: {', '.join(FAMILIES)}.")
    for name in names or ():
        if name not in FAMILIES:
            raise not_found("family", name, FAMILIES)
        if reason := meaningless(FAMILIES[name], kernel_h, kernel_w):
            raise InvalidArgument(f'The family "{name}" has no meaning here: {reason}. Choose others with --family.')
    found = [family for name, family in FAMILIES.items() if names is None or name in names]
    found = [family for family in found if meaningless(family, kernel_h, kernel_w) is None]
    if not found:
        reason = meaningless(FAMILIES["gaussian"], kernel_h, kernel_w)
        raise InvalidArgument(f"No family has a meaning here: {reason}. Fit kernels of odd sizes from 3x3.")
    return found
