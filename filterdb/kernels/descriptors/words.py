"""Signal-processing words, by rules with named thresholds.

A rule is a conjunction of conditions, each a number against a threshold. The margin of a condition is its distance to the
threshold over a width given with it, 1 at most; the margin of a rule is that of its worst condition. The kernel's word is the one
with the greatest margin, and that margin is its confidence: 0 at a threshold, 1 a whole width or more inside of all. With no
positive margin the word is "other", and its confidence is the distance to the nearest word.

No rule changes when a kernel is multiplied by a number, mirrored or turned by 90 degrees, nor when it is padded with zeros (to
8 px: the gain of larger kernels is sampled more finely, and a padded strip is no longer a strip).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filterdb.kernels.affine import Floats
from filterdb.kernels.descriptors.numbers import Spectrum
from filterdb.kernels.descriptors.orders import Orders

BANDS = ("lowpass", "highpass", "bandpass", "differential", "sharpening", "identity", "other")

HALF_POWER = 3.0
"""dB. The usual edge of a band: what is within 3 dB of the peak is passed. It also is how much two levels must differ for a gain
to count as rising or falling; between, it is flat."""

HALF_AMPLITUDE = 6.0
"""dB. DC is stopped when its gain is below half the peak's: a derivative in a network is seldom free of DC, and with 6 to 10 dB
it still looks like a derivative with an offset, with less like an offset. It also is the width of conditions on levels."""

NYQUIST_STOPPED = 10.0
"""dB. A highpass passes Nyquist along both axes and both at once: no gain there is 10 dB below the peak. A second derivative
along one axis stops (0, 1/2) wholly; a Laplacian of Gaussian stops (1/2, 1/2) from sigma = 0.9 px on."""

PASSED = 0.05
"""Of sum h / sum |h|, signed so that the largest tap is positive. The sharpening kernel 9, -1, … has 1/17 = .059, and that must
count as DC passed; a Laplacian has 0."""

SMOOTH = 0.5
"""Of |sum h| / sum |h|. Three quarters of the weight has one sign. Noise of 49 taps gets there once in 200."""

SINGLE_TAP = 0.9
"""Share of the energy in one tap, for an identity: a lone echo of the rest may then ripple the gain from 2/3 to 4/3, 6 dB."""

CENTRED = 0.5
"""Share of the energy in one tap, for sharpening and highpass. It is |mean H|² / mean |H|² seen from that tap: how far the gain
is flat and in phase. The impulse less a blur has .9, a Gaussian of sigma = 1 px .5, and 49 random taps .14."""

ORDER = 0.8
"""Of ``Orders.first`` and ``Orders.second``: the share of the energy, counted by its leverage, that has the sign of the
derivative is 90 %. Derivatives of Gaussians have 1, an odd Gabor of three lobes to a side .3, noise of 49 taps .3."""

MIXED = 0.5
"""Of ``-Orders.ratio``: second moments of opposite sign and like size make a mixed derivative."""

PARABOLA = 0.6
"""Of ``Orders.parabola``, for the order of a bandpass or highpass. Laplacians and differences of Gaussians reach .69 and more on
a support that holds them, Gabors of several lobes stay below .3."""

ISOTROPIC = 0.2
"""Of the anisotropy: the spectrum is at most 1.22 times as wide (in rms) one way as across."""

ROUND = 0.5
"""Of ``Orders.ratio``: a second derivative whose curvature across its axis is this share of that along it is a Laplacian."""


@dataclass(frozen=True)
class Words:
    """The words of each kernel, (n,)."""

    band: NDArray[np.intp]
    """Index into BANDS."""
    confidence: Floats
    order: NDArray[np.int8]
    """Of the lowest moment that does not vanish: 0, 1, 2; -1 where the kernel is no derivative of these."""
    direction: Floats
    """Degrees: in [0, 360) for order 1, in [0, 180) for order 2; NaN where there is none."""
    isotropic: NDArray[np.bool_]


def choose_words(f: Floats, spectrum: Spectrum, orders: Orders) -> Words:
    """The words for kernels as rows f (n, taps), none of them all zero."""
    margins = np.stack(_margins(f, spectrum, orders), axis=1)
    best = margins.max(axis=1)
    band = np.where(best > 0, margins.argmax(axis=1), len(BANDS) - 1)
    order = _order(band, spectrum, orders)
    isotropic = (spectrum.anisotropy < ISOTROPIC) & (order != 1) & ~((order == 2) & (orders.ratio < ROUND))
    direction = np.where(order == 1, orders.direction, np.where((order == 2) & ~isotropic, orders.axis, np.nan))
    return Words(band, np.abs(best), order, direction, isotropic)


def _margins(f: Floats, spectrum: Spectrum, orders: Orders) -> list[Floats]:
    """The margin (n,) of each word in BANDS but the last."""
    dc, peak, (_, mid, high) = spectrum.dc, spectrum.peak, spectrum.levels
    top = f[np.arange(len(f)), np.abs(f).argmax(axis=1)]
    single_tap = top * top / spectrum.energy
    passed = np.sign(top) * spectrum.dc_ratio
    tilt, leak = _db(mid, high), _db(dc, peak)

    falling = _above(tilt, HALF_POWER, HALF_AMPLITUDE)
    rising = _above(-tilt, HALF_POWER, HALF_AMPLITUDE)
    stopped = _above(-leak, HALF_AMPLITUDE, HALF_AMPLITUDE)
    centred = _above(single_tap, CENTRED, 0.2)
    dc_passed = _all(centred, _above(passed, PASSED, PASSED))
    first, second = _above(orders.first, ORDER, 1 - ORDER), _above(orders.second, ORDER, 1 - ORDER)
    mixed = _all(second, _above(-orders.ratio, MIXED, 1 - MIXED))
    flat = _all(centred, -rising, -falling, _above(_db(spectrum.edge, peak), -NYQUIST_STOPPED, HALF_AMPLITUDE))
    # Nyquist itself, as in a checkerboard: a gain that rises by twice what counts as rising.
    alternating = _above(-tilt, 2 * HALF_POWER, HALF_AMPLITUDE)

    return [
        # The peak is at DC, and the gain falls to the high band and at some Nyquist point (one axis alone may be smoothed).
        _all(
            _any(_above(np.abs(spectrum.dc_ratio), SMOOTH, 1 - SMOOTH), falling),
            _above(leak, -HALF_POWER, HALF_POWER),
            _above(_db(dc, high), HALF_POWER, HALF_AMPLITUDE),
            _above(_db(dc, spectrum.edge), HALF_POWER, HALF_AMPLITUDE),
        ),
        # DC is stopped and all from the mid band on is passed about equally, or Nyquist stands out.
        _all(stopped, -first, _any(_all(-dc_passed, flat), _all(-second, alternating))),
        # The gain falls on both sides of a peak in the middle, and not because the kernel is a first or a mixed derivative.
        _all(_above(-leak, HALF_POWER, HALF_AMPLITUDE), falling, -first, -mixed),
        # DC is stopped, and the first or else the second moments have the derivative's signs, the gain rising as it does.
        _all(stopped, _any(first, _all(second, -dc_passed, _any(mixed, _all(-falling, -flat))))),
        # DC is passed by a central tap, and the high band gains more.
        _all(dc_passed, _above(_db(high, dc), HALF_POWER, HALF_AMPLITUDE), -falling),
        # One tap, with the gain at DC within 3 dB of the gain for noise and of the tap's sign.
        _all(
            _above(single_tap, SINGLE_TAP, (1 - SINGLE_TAP) / 2),
            _above(-np.abs(_db(np.where(passed > 0, dc, 0), spectrum.energy)), -HALF_POWER, HALF_POWER),
        ),
    ]


def _order(band: NDArray[np.intp], spectrum: Spectrum, orders: Orders) -> NDArray[np.int8]:
    word = np.array(BANDS)[band]
    differential = np.where(orders.first > ORDER, 1, 2)
    even = (orders.parabola > PARABOLA) & (orders.first < ORDER) & (_db(spectrum.dc, spectrum.peak) < -HALF_AMPLITUDE)
    return np.select(
        [
            np.isin(word, ("lowpass", "sharpening", "identity")),
            word == "differential",
            np.isin(word, ("bandpass", "highpass")) & even,
        ],
        [np.zeros_like(band), differential, np.full_like(band, 2)],
        -1,
    ).astype(np.int8)


def _db(power: Floats, reference: Floats) -> Floats:
    """Ratio of powers in dB. With the largest tap 1 the mean power is 1 or more, so 1e-12 is nothing."""
    return 10 * np.log10((power + 1e-12) / (reference + 1e-12))


def _above(value: Floats, threshold: float, width: float) -> Floats:
    """The margin of the condition value > threshold, in [-1, 1]."""
    return np.clip((value - threshold) / width, -1, 1)


def _all(*margins: Floats) -> Floats:
    return np.minimum.reduce(margins)


def _any(*margins: Floats) -> Floats:
    return np.maximum.reduce(margins)
