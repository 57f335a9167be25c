"""Taps and frequencies: the positions of the taps, the gain |H|² on a grid, and exact integrals over it.

H(u, v) = sum_p h(p) exp(2 pi i (u x + v y)) is what the layer, which correlates, multiplies the wave exp(2 pi i (u x + v y)) by.
u, v are in cycles/px, x points right, y UP, and the origin is the centre of the array, between taps where a size is even.

The autocorrelation of a k-tap kernel has 2k - 1 lags, so 2k - 1 or more samples of |H|² along each axis fix all of |H|², and an
integral of |H|² against any weight is a weighted sum of the samples, exactly (Parseval). A strip, 1 x k or k x 1, is a
one-dimensional filter: its frequencies are those along it, not the plane's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filterdb.errors import InvalidArgument
from filterdb.kernels.affine import Floats

LOW_MID, MID_HIGH = 1 / 6, 1 / 3
"""Edges of the bands low, mid and high, cycles/px: the thirds of the way from DC to Nyquist. High takes in the corners of the
square, up to 0.71 cycles/px. Octaves (1/8, 1/4) would leave low within the main lobe of a 7-tap kernel."""

SAMPLES = 16
"""Samples of |H|² along an axis are a multiple of this: a 3x3 kernel gets the same samples as a 7x7 one, so the words stay
when a kernel is padded with zeros, and DC and Nyquist are among them."""

DENSE_TAPS = 256
"""Up to so many taps |H|² is two matrix products, several times as fast as many small FFTs; the matrices grow as taps²."""

PIECE = 2**18
"""Multiplications of a matrix product up to which OpenBLAS, which NumPy's wheels bring, stays on one thread."""


@lru_cache(maxsize=64)
def coordinates(kernel_h: int, kernel_w: int) -> tuple[Floats, Floats]:
    """x and y of each tap (taps,), px from the array's centre, row-major."""
    x = np.arange(kernel_w) - (kernel_w - 1) / 2
    y = (kernel_h - 1) / 2 - np.arange(kernel_h)
    return np.tile(x, kernel_h), np.repeat(y, kernel_w)


@lru_cache(maxsize=64)
def monomials(kernel_h: int, kernel_w: int) -> Floats:
    """(taps, 6): 1, x, y, x², y², xy at each tap, so that ``weights @ monomials`` are the moments."""
    x, y = coordinates(kernel_h, kernel_w)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def product(rows: Floats, matrix: Floats) -> Floats:
    """``rows @ matrix`` in pieces of PIECE: chunks run side by side already, and threads of BLAS would wait for each other."""
    block = max(1, PIECE // matrix.size)
    whole = len(rows) // block * block
    out = np.empty((len(rows), matrix.shape[1]))
    np.matmul(rows[:whole].reshape(-1, block, len(matrix)), matrix, out=out[:whole].reshape(-1, block, matrix.shape[1]))
    np.matmul(rows[whole:], matrix, out=out[whole:])
    return out


def degrees(x: Floats, y: Floats, turn: float | Floats = 0) -> Floats:
    """The angle of (x, y) plus a turn, in [0, 360) even when rounded to float32."""
    angle = ((np.degrees(np.arctan2(y, x)) + turn) % 360).astype(np.float32)
    return np.where(angle < 360, angle, 0).astype(np.float64)


@dataclass(frozen=True)
class Integrals:
    """Integrals of |H|² over the square of frequencies [-1/2, 1/2]², each (n,); over [-1/2, 1/2] for a strip."""

    low: Floats
    """Over |(u, v)| < LOW_MID."""
    low_mid: Floats
    """Over |(u, v)| < MID_HIGH."""
    radius: Floats
    """Of |(u, v)| |H|²."""
    uu: Floats
    vv: Floats
    uv: Floats


@dataclass(frozen=True)
class Grid:
    """The matrices for |H|² of one kernel size, computed once. Frequencies are those of ``numpy.fft.rfft2``, DC first."""

    shape: tuple[int, int]
    """Samples along v and u of the whole square."""
    taps: tuple[int, int]
    even: Floats | None
    """(half the taps, frequencies): cosines, for taps already added to their mirror images; None for a large kernel."""
    odd: Floats | None
    weights: Floats
    """(frequencies, 6): the weights of the Integrals."""
    areas: tuple[float, float, float]
    """Areas of the bands low, mid and high; they add up to 1."""

    def power(self, f: Floats) -> Floats:
        """|H|² (n, frequencies) of kernels as rows (n, taps)."""
        if self.even is None or self.odd is None:
            spectrum = np.fft.rfft2(f.reshape(-1, *self.taps), s=self.shape).reshape(len(f), -1)
            return spectrum.real**2 + spectrum.imag**2
        half = self.even.shape[0]
        mirrored = f[:, ::-1][:, :half]
        real = product(f[:, :half] + mirrored, self.even)
        imaginary = product(f[:, :half] - mirrored, self.odd)
        real *= real
        imaginary *= imaginary
        real += imaginary
        return real

    def integrals(self, power: Floats) -> Integrals:
        """The integrals over |H|², from its samples."""
        return Integrals(*product(power, self.weights).T)

    @property
    def frequencies(self) -> int:
        """How many samples of |H|² a kernel has."""
        return len(self.weights)

    @property
    def nyquist(self) -> tuple[int, int, int]:
        """The columns of |H|² at (1/2, 0), (0, 1/2) and (1/2, 1/2) cycles/px; a strip's missing axis is DC."""
        columns = self.shape[1] // 2
        below = self.shape[0] // 2 * (columns + 1)
        return columns, below, below + columns


@lru_cache(maxsize=64)
def grid_of(kernel_h: int, kernel_w: int) -> Grid:
    """The grid of one kernel size."""
    shape = (_samples(kernel_h), _samples(kernel_w))
    u, v = (a.ravel() for a in np.meshgrid(np.fft.rfftfreq(shape[1]), np.fft.fftfreq(shape[0])))
    even = odd = None
    if kernel_h * kernel_w <= DENSE_TAPS:
        x, y = coordinates(kernel_h, kernel_w)
        half = (len(x) + 1) // 2
        phase = 2 * np.pi * (np.outer(x[:half], u) - np.outer(y[:half], v))  # rfft2's rows run down
        even, odd = np.cos(phase), np.sin(phase)
        if len(x) % 2:
            even[-1] /= 2  # the centre tap is its own mirror image
    lags = _lag_weights(kernel_h, kernel_w)
    # Each sample but those at u = 0 and u = 1/2 stands for its mirror image too.
    twice = np.where((u == 0) | (u == 0.5), 1, 2)
    weights = np.empty((len(u), len(lags)))
    rows, columns = np.arange(1 - kernel_h, kernel_h), np.arange(1 - kernel_w, kernel_w)
    for i, weight in enumerate(lags):
        wrapped = np.zeros(shape)
        wrapped[np.ix_(rows, columns)] = weight
        weights[:, i] = np.fft.rfft2(wrapped).real.ravel() * twice / wrapped.size
    low, low_mid = (float(weight[kernel_h - 1, kernel_w - 1]) for weight in lags[:2])
    return Grid(shape, (kernel_h, kernel_w), even, odd, weights, (low, low_mid - low, 1 - low_mid))


def _samples(size: int) -> int:
    return 1 if size == 1 else SAMPLES * -(-(2 * size - 1) // SAMPLES)


def _lag_weights(kernel_h: int, kernel_w: int) -> list[Floats]:
    """For each of the Integrals, its weight on every lag of the autocorrelation: (2 kernel_h - 1, 2 kernel_w - 1), lag 0 central.

    The weight of a lag d is the integral of w(u) cos(2 pi u·d), by Gauss-Legendre quadrature to rounding.
    """
    nodes = 32 + 4 * max(kernel_h, kernel_w)  # a lag of k px turns k / 2 times or less over a quadrant

    def line(stop: float | Floats) -> tuple[Floats, Floats]:
        points, weights = np.polynomial.legendre.leggauss(nodes)
        return np.multiply.outer((points + 1) / 2, stop), np.multiply.outer(weights / 2, stop)

    if 1 in (kernel_h, kernel_w):
        across = np.zeros(nodes)

        def integral(stop: float, power: int) -> Floats:
            along, weight = line(stop)
            u, v = (along, across) if kernel_h == 1 else (across, along)
            return 2 * _at_lags(u, v, weight * along**power, kernel_h, kernel_w)

        none, second = np.zeros((2 * kernel_h - 1, 2 * kernel_w - 1)), integral(0.5, 2)
        uu, vv = (second, none) if kernel_h == 1 else (none, second)
        return [integral(LOW_MID, 0), integral(MID_HIGH, 0), integral(0.5, 1), uu, vv, none]

    # Polar coordinates over half a quadrant, where |(u, v)| is smooth; the other half mirrors it in the diagonal.
    angle, d_angle = line(np.pi / 4)

    def polar(stop: float | Floats, power: int) -> Floats:
        radius, d_radius = line(np.broadcast_to(stop, angle.shape))
        u, v = (radius * np.cos(angle)).ravel(), (radius * np.sin(angle)).ravel()
        weight = (d_angle * d_radius * radius ** (power + 1)).ravel()
        return 4 * (_at_lags(u, v, weight, kernel_h, kernel_w) + _at_lags(v, u, weight, kernel_h, kernel_w))

    edge, d_edge = line(0.5)
    u, v = (a.ravel() for a in np.meshgrid(edge, edge))
    weight = np.outer(d_edge, d_edge).ravel()
    return [
        polar(LOW_MID, 0), polar(MID_HIGH, 0), polar(0.5 / np.cos(angle), 1),
        4 * _at_lags(u, v, weight * u * u, kernel_h, kernel_w), 4 * _at_lags(u, v, weight * v * v, kernel_h, kernel_w),
        # cos(a + b) = cos a cos b - sin a sin b, and only the second is odd in u and v, as their product is; lag rows run down.
        4 * _at_lags(u, v, weight * u * v, kernel_h, kernel_w, np.sin),
    ]  # fmt: skip


def _at_lags(u: Floats, v: Floats, weight: Floats, kernel_h: int, kernel_w: int, wave: np.ufunc = np.cos) -> Floats:
    """The sum over nodes of weight * wave(2 pi u dx) * wave(2 pi v dy), for each lag."""
    quadrant = np.zeros((kernel_h, kernel_w))
    rows, columns = (2 * np.pi * np.arange(size) for size in (kernel_h, kernel_w))
    for start in range(0, len(u), 4096):
        part = slice(start, start + 4096)
        quadrant += (wave(np.outer(rows, v[part])) * weight[part]) @ wave(np.outer(u[part], columns))
    down, right = np.arange(1 - kernel_h, kernel_h), np.arange(1 - kernel_w, kernel_w)
    sign = np.outer(np.sign(down), np.sign(right)) if wave is np.sin else 1
    return sign * quadrant[np.ix_(np.abs(down), np.abs(right))]


def frequency_response(kernel: ArrayLike, n: int = 64) -> NDArray[np.complex128]:
    """H (n, n) of one kernel (kernel_h, kernel_w), for pictures: DC in the middle, u rising to the right, v rising UP.

    Column j is u = (j - n // 2) / n cycles/px and row i is v = (n - 1 - n // 2 - i) / n: the order of ``numpy.fft.fftshift``,
    with the rows turned over. The origin of the phase is the array's centre, so a kernel even about it has a real response.
    """
    array = np.asarray(kernel, dtype=np.float64)
    if array.ndim != 2 or not array.size or n < 1:
        raise InvalidArgument(
            f"A frequency response needs one kernel (kernel_h, kernel_w) and n >= 1, got {array.shape} and {n}."
        )
    u = np.fft.fftshift(np.fft.fftfreq(n))
    x, down = ((np.arange(size) - (size - 1) / 2) for size in array.shape[::-1])
    along_y: NDArray[np.complex128] = np.exp(-2j * np.pi * np.outer(u[::-1], down))
    along_x: NDArray[np.complex128] = np.exp(2j * np.pi * np.outer(x, u))
    return along_y @ array @ along_x
