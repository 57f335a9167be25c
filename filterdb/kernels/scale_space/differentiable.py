"""Scale space in torch: differentiable in the variances, for any number of kernels at once.

The Bessel functions of ``scipy.special.ive`` have no gradient in torch, and the recursion by which others compute them is wrong
in float32 at small scales. A discrete Gaussian needs neither: on a ring of N pixels it is a finite sum of cosines, exact but for
what wraps around the ring, and the ring is chosen wide enough.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from filterdb.errors import InvalidArgument
from filterdb.kernels.scale_space.gaussian import mask, masks_of, odd_size

TAIL = 37.0
"""exp(-TAIL) is less than float64's rounding of 1."""


def ring(radius: int, largest_s: float) -> int:
    """Pixels N of the ring on which T(n; s) for |n| <= radius is exact to rounding, for s up to ``largest_s`` px².

    What wraps around is 2 T(N - radius; s), and T's tail lies below exp(-n²/2(s + n/3)) (Bernstein's bound for a random walk).
    That is less than exp(-TAIL) from n = TAIL/3 + sqrt(TAIL²/9 + 2 TAIL s) on.
    """
    return 2 * math.ceil((radius + TAIL / 3 + math.sqrt(TAIL**2 / 9 + 2 * TAIL * largest_s)) / 2)


def discrete_gaussian(radius: int, s: Tensor) -> Tensor:
    """T(n; s) at n = -radius … radius for variances s of any shape; the result is (*s.shape, 2 * radius + 1).

    T(n; s) = 1/N sum_k exp(s (cos(2 pi k / N) - 1)) cos(2 pi k n / N). Equivalent to ``scipy.special.ive(n, s)``.
    """
    return profiles(radius, s, ("",))[..., 0, :]


def profile(radius: int, s: Tensor, derivative: str = "") -> Tensor:
    """One axis of a kernel, (*s.shape, 2 * radius + 1); as ``filterdb.scale_space.profile``, but of a variance."""
    return profiles(radius, s, (derivative,))[..., 0, :]


def profiles(radius: int, s: Tensor, derivatives: tuple[str, ...]) -> Tensor:
    """Several differences of T at once, (*s.shape, len(derivatives), 2 * radius + 1): each is linear in the same cosines."""
    if s.numel() and not bool((s >= 0).all() & torch.isfinite(s).all()):
        raise InvalidArgument("A discrete Gaussian needs finite variances from 0 px².")
    n = ring(radius, float(s.detach().max()) if s.numel() else 0.0)
    found = torch.exp(s[..., None] * decays(n).to(s)) @ waves(radius, n, derivatives).to(s)
    return found.reshape(*s.shape, len(derivatives), 2 * radius + 1)


def decays(n: int) -> Tensor:
    """(n // 2 + 1,) how fast the cosines of a ring of n pixels decay with the variance."""
    return torch.cos(2 * math.pi / n * torch.arange(n // 2 + 1, dtype=torch.float64)) - 1


@lru_cache(maxsize=256)
def waves(radius: int, n: int, derivatives: tuple[str, ...]) -> Tensor:
    """(n // 2 + 1, derivatives * taps): what each cosine of the ring contributes to each tap of each difference."""
    k = torch.arange(n // 2 + 1, dtype=torch.float64)
    share = torch.full_like(k, 2 / n)  # frequencies k and n - k are equal: half of them, counted twice but for 0 and n/2
    share[0] = share[-1] = 1 / n
    found = []
    for derivative in derivatives:
        weights = torch.tensor(mask(derivative).tolist(), dtype=torch.float64)
        reach = len(weights) // 2
        offsets = torch.arange(-radius - reach, radius + reach + 1, dtype=torch.float64)
        wide = share[:, None] * torch.cos(2 * math.pi / n * k[:, None] * offsets)
        found.append(wide.unfold(-1, len(weights), 1) @ weights.flip(0))
    return torch.cat(found, 1)


def kernel(operator: str, s_x: Tensor, s_y: Tensor, kernel_h: int, kernel_w: int | None = None) -> Tensor:
    """Derivatives of T as torch weights, (*shape, kernel_h, kernel_w), for variances that broadcast to one shape.

    Args:
        operator: T, dx, dy+, dxx …; see ``filterdb.scale_space.masks_of``.
        s_x, s_y: variances, px²; gradients flow to them.
        kernel_h, kernel_w: odd; square if one is given.
    """
    kernel_h, kernel_w = odd_size(kernel_h, kernel_w)
    along_x, along_y = masks_of(operator)
    row = profile(kernel_w // 2, s_x, along_x)
    column = profile(kernel_h // 2, s_y, along_y).flip(-1)  # y is up, row 0 is on top
    return column[..., :, None] * row[..., None, :]
