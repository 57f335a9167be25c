"""The spectrum of a classifier: its curve of kernels with labels, and the real kernels nearest to any code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from filterdb.clusters.classifier import Classifier, shipped
from filterdb.errors import InvalidArgument
from filterdb.explorer import data, data_models, looks
from filterdb.explorer.desk import Desk
from filterdb.figures.colours import class_colours, words
from filterdb.kernels import heat_map

STEPS = 250
"""Decoded kernels that can be seen by moving over the curve."""
STRIP = 24
"""Decoded kernels below the curve."""
NEAREST = 48


def every(desk: Desk, request: Request) -> Response:
    """``/spectrum``"""
    names = desk.db.classifiers()
    made = [_curve(desk, name).made for name in names]
    return desk.html("spectra.html", status=desk.status(), title="Spectra", classifiers=made, shipped=shipped())


def page(desk: Desk, request: Request) -> Response:
    """``/spectrum/CLASSIFIER``; ``?code=0.3`` lists the real kernels nearest to that code, with ``all=1`` also the others."""
    status, cur = desk.status(), desk.cursor()
    curve = _curve(desk, request.path_params["name"])
    made, steps = curve.made, curve.steps
    colours = class_colours(one.name for one in made.stretches)
    code = _code(request.query_params.get("code"), made.last)
    number = data.classifiers(cur).get(made.name)
    every = request.query_params.get("all") == "1"
    at = int(np.abs(curve.codes - (0 if code is None else code)).argmin())
    found = data_models.nearest_to_code(cur, number, code, NEAREST, every) if number and code is not None else []
    return desk.html(
        "spectrum.html", status=status, title=made.name, made=made, steps=steps, at=at, code=code, found=found, number=number,
        every=every,
        strip=[steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, STRIP).round().astype(int))],
        stretches=[
            {"name": words(one.name), "colour": colours[one.name], "start": one.start / made.last,
             "width": (one.stop - one.start) / made.last, "from": one.start, "to": one.stop,
             "confidence": one.confidence, "similarity": one.similarity, "class": one.name}
            for one in made.stretches
        ],
    )  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A classifier and its decoded codes."""

    made: Classifier
    codes: NDArray[np.float64]
    steps: list[dict[str, str]]


def _curve(desk: Desk, name: str) -> Curve:
    def make() -> Curve:
        made = desk.db.classifier(name)
        codes, kernels = made.spectrum()
        chosen = np.unique(np.linspace(0, len(codes) - 1, STEPS).round().astype(int))
        stretches = [_stretch(made.stretches, float(codes[i])) for i in chosen]
        steps = [
            {
                "code": f"{codes[i]:.4g}", "class": words(one.name), "confidence": looks.number(one.confidence),
                "src": heat_map.data_uri(kernels[i]),
            }
            for i, one in zip(chosen, stretches, strict=True)
        ]  # fmt: skip
        return Curve(made, codes[chosen], steps)

    return desk.kept(("curve", name), make)


def _stretch(stretches: Any, code: float) -> Any:
    return next((one for one in stretches if one.start <= code < one.stop), stretches[-1])


def _code(text: str | None, last: float) -> float | None:
    if not text:
        return None
    try:
        code = float(text)
    except ValueError:
        code = -1.0
    if not 0 <= code <= last:
        raise InvalidArgument(f'The codes run from 0 to {last:g}, got "{text}".')
    return code
