"""Kernels of known shapes, and classifiers of them."""

from __future__ import annotations

import numpy as np

from filterdb.clusters import Classifier
from filterdb.clusters.labels import Stretch
from filterdb.kernels import centred_unit
from filterdb.kernels.scale_space import Jet, cross

FORMS = {
    "on_centre": ("T", 1), "off_centre": ("T", -1), "dx_plus": ("dx", 1), "dx_minus": ("dx", -1), "dy_plus": ("dy", 1),
    "dy_minus": ("dy", -1), "on_cross": ("", 1),
}  # fmt: skip
"""The shapes that ``made_kernels`` draws from: derivative and sign."""


def ideal_kernel(name: str, sigma: float) -> np.ndarray:
    """A 7x7 kernel of one of the shapes in ``FORMS``."""
    operator, sign = FORMS[name]
    return sign * (Jet(sigma, sigma, {operator: 1}).kernel(7, 7) if operator else cross(7, 7, sigma / 1.6))


def made_kernels(count: int = 1500, noise: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(count, 49) kernels of seven shapes at scales from .6 to 1.3 px with noise, any gain and offset; and their shapes."""
    rng = np.random.default_rng(seed)
    names = rng.choice(list(FORMS), count)
    ideal = [ideal_kernel(name, sigma) for name, sigma in zip(names, rng.uniform(0.6, 1.3, count), strict=True)]
    unit = centred_unit(np.array(ideal)).unit + noise / 7 * rng.standard_normal((count, 49))
    return (rng.uniform(0.1, 3, (count, 1)) * unit + rng.normal(0, 0.3, (count, 1))).astype(np.float32), names


def by_hand(name: str = "hand", threshold: float = 0.1, names: tuple[str, ...] = tuple(FORMS)) -> Classifier:
    """A classifier whose prototypes are ideal kernels."""
    centres = np.array([ideal_kernel(one, 0.9).ravel() for one in names], np.float32)
    stretches = [Stretch(one, i, i + 1) for i, one in enumerate(names)]
    return Classifier(name, "kmeans", 7, 7, threshold, stretches, {"centres": centres}, facts={"seed": 0, "kernels": 0})


def kernels(count: int, seed: int = 0) -> np.ndarray:
    return made_kernels(count, seed=seed)[0].reshape(-1, 7, 7)


def kernel(*taps: float) -> np.ndarray:
    """A 3x3 kernel from nine taps."""
    return np.array(taps, np.float32).reshape(1, 3, 3)


IDENTITY = kernel(0, 0, 0, 0, 2, 0, 0, 0, 0)  # norm 2, total 2


def unit(taps: np.ndarray) -> np.ndarray:
    """Centred and of length 1."""
    return centred_unit(taps.reshape(1, -1).astype(np.float64)).unit.reshape(1, *taps.shape[-2:])


CENTRE = unit(IDENTITY)
RIGHT = unit(Jet(0.3, 0.3, {"dx": 1}).kernel(3, 3))  # ideal, and at right angles to every centre
UP = unit(Jet(0.3, 0.3, {"dy": 1}).kernel(3, 3))


def told_by(name: str, threshold: float, centres: dict[str, np.ndarray]) -> Classifier:
    """A classifier with these prototypes."""
    kernel_h, kernel_w = next(iter(centres.values())).shape[1:]
    stretches = [Stretch(one, i, i + 1) for i, one in enumerate(centres)]
    weights = {"centres": np.concatenate([unit(centre).reshape(1, -1) for centre in centres.values()]).astype(np.float32)}
    return Classifier(name, "kmeans", kernel_h, kernel_w, threshold, stretches, weights)
