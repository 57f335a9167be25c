"""Standard errors of shares of images, such as accuracies. No torch."""

from __future__ import annotations

import math


def standard_error(share: float, images: int) -> float:
    """The binomial standard error sqrt(p (1 - p) / n) of a share p of n images.

    It is 0 where the share is 0 or 1, which says little of few images.

    >>> standard_error(0.5, 100)
    0.05
    """
    return math.sqrt(max(0.0, share * (1 - share)) / images)


def paired_error(won: int, lost: int, images: int) -> float:
    """The standard error sqrt(((b + c) / n - ((b - c) / n)²) / n) of the difference (b - c) / n of two accuracies on n images.

    On each image the difference is 1, 0 or -1, and this is the standard error of its mean (as in McNemar's test, which asks
    whether b and c are equal). It is smaller than that of two sets of images, as both networks fail on the same hard ones.

    Args:
        won: images b that only the network has right.
        lost: images c that only the original has right.
        images: all of them, n.
    """
    mean = (won - lost) / images
    return math.sqrt(max(0.0, (won + lost) / images - mean**2) / images)
