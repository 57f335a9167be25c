"""A filter, a layer or a model described: the words, the numbers, the nearest templates and the fit.

All numbers are computed from the kernels at this moment, so a description needs no table to have been made before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filterdb.banks import Bank
from filterdb.errors import BankError, InvalidArgument, NotFound, not_found
from filterdb.fields.fits.families import FAMILIES, choose
from filterdb.fields.store import SOLID
from filterdb.kernels import centred_unit, descriptors
from filterdb.kernels.sizes import parse_size, shape_of, size_name, size_of
from filterdb.store.view import View

NEAREST = 3
"""Templates that a filter's description names."""
FITTED_AT_ONCE = 5_000
"""A layer of more kernels is described without fits: they would take seconds."""

Row = dict[str, Any]


@dataclass(frozen=True)
class FilterDescription:
    """One filter, or one kernel that is in no database."""

    identity: Row
    """filter_id, model, layer, channel, depth, depth_norm, dataset and size; of a kernel given as numbers only its size."""
    sentence: str
    words: Row
    """band, band_confidence, derivative_order, direction, isotropic."""
    numbers: Row
    """The other columns of ``descriptors``, and mean, norm and total."""
    nearest: list[Row]
    """template, label and similarity, the most similar first; sign-free, as ``nearest``."""
    fits: list[Row]
    """One for each family, the best by the criterion first; the columns of ``fits``."""
    reason: str | None
    """Why there are no fits or no templates."""
    kernel: NDArray[np.float32] = field(repr=False)
    model: NDArray[np.float64] | None = field(repr=False)
    """The kernel of the best fit; None without one."""

    def to_dict(self) -> Row:
        """Plain values for JSON."""
        return asdict(self) | {
            "kernel": self.kernel.tolist(), "model": None if self.model is None else self.model.round(7).tolist(),
        }  # fmt: skip


@dataclass(frozen=True)
class GroupDescription:
    """A layer, or a model layer by layer."""

    identity: Row
    sentence: str
    bands: list[Row]
    """band, filters, percent, mean_confidence; of a model with depth and layer."""
    orders: list[Row]
    """Of the differential filters: derivative_order, direction (to the nearest 45 degrees; null if isotropic), filters."""
    numbers: Row
    """Means of the descriptors over the non-constant filters."""
    nearest: list[Row]
    """template, label, filters, percent, mean_similarity."""
    families: list[Row]
    """family, filters, percent, mean_rho of the best fits."""
    reason: str | None

    def to_dict(self) -> Row:
        """Plain values for JSON."""
        return asdict(self)


def describe(
    view: View, what: int | str | ArrayLike, bank: Bank | None, device: str | None
) -> FilterDescription | GroupDescription:
    """Describe what is meant.

    Args:
        view: the version of the database.
        what: a filter_id, MODEL:LAYER:CHANNEL, MODEL:LAYER, MODEL, or a kernel (kernel_h, kernel_w).
        bank: templates to compare with; those of other sizes are scaled where there is a formula.
        device: torch's, for the fits.

    Raises:
        NotFound: nothing of that name, with near misses.
    """
    if isinstance(what, str) and not what.isdecimal():
        if what in view.models:
            return _model(view, what, bank)
        if ":" not in what:
            advice = "Name a model, MODEL:LAYER, MODEL:LAYER:CHANNEL, or a filter_id."
            raise not_found("model", what, view.models, advice=advice)
        if not _is_filter(view, what):
            return _layer(view, *view.layer(what), bank, device)
    return _filter(view, what, bank, device)


def _is_filter(view: View, what: str) -> bool:
    """Whether a text is MODEL:LAYER:CHANNEL and not MODEL:LAYER, for a layer may be called 0."""
    start, _, channel = what.rpartition(":")
    try:
        view.layer(start)
    except NotFound:
        return False
    return channel.isdecimal()


# -- one filter ----------------------------------------------------------------------------------------------------------


def _filter(view: View, what: int | str | ArrayLike, bank: Bank | None, device: str | None) -> FilterDescription:
    kernel, filter_id = view.kernel(what)
    identity: Row = {"size": size_name(*size_of(kernel.shape))}
    if filter_id is not None:
        names = ("filter_id", "model", "layer", "channel", "depth", "depth_norm", "dataset")
        [row] = view.rows(
            "SELECT filter_id, f.model, f.layer, channel, f.depth, depth_norm, dataset FROM filters f "
            "JOIN layers USING (model, layer) WHERE filter_id = $id", id=filter_id,
        )  # fmt: skip
        identity = dict(zip(names, row, strict=True)) | identity
    told = _told(kernel[None])[0]
    words = {name: told.pop(name) for name in ("band", "band_confidence", "derivative_order", "direction", "isotropic")}
    flat = kernel.astype(np.float64)
    numbers = {"mean": flat.mean(), "norm": float(np.linalg.norm(flat)), "total": flat.sum()} | told
    nearest, reasons = _templates(kernel, bank)
    rows, model, why = _fits(kernel, device)
    reason = "; ".join([*reasons, *([why] if why else [])]) or None
    solid = "no words: they are for images, and this kernel has three dimensions" if kernel.ndim == 3 else None
    said = sentence(words, rows[0] if rows else None, solid)
    return FilterDescription(identity, said, words, numbers, nearest, rows, reason, kernel, model)


def _told(kernels: NDArray[np.float32]) -> list[Row]:
    """The descriptors of kernels as rows of plain values. Kernels of three dimensions (n, d, h, w) have a reason alone."""
    if kernels.ndim == 4:
        return [dict.fromkeys(descriptors.COLUMNS) | {"reason": SOLID} for _ in kernels]
    lists = {name: values.tolist() for name, values in descriptors.describe(kernels).items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _templates(kernel: NDArray[np.float32], bank: Bank | None) -> tuple[list[Row], list[str]]:
    if bank is None:
        return [], []
    try:
        scaled = bank.at(size_of(kernel.shape))
    except BankError as error:
        return [], [str(error)]
    unit = centred_unit(kernel.reshape(1, -1).astype(np.float64))
    if unit.dead[0]:
        return [], ["constant: no template is nearest"]
    similarity = scaled.unit @ unit.unit[0]
    order = np.argsort(-np.abs(similarity))[:NEAREST]
    return [{"template": scaled.names[i], "label": scaled.labels[i], "similarity": float(similarity[i])} for i in order], []


def _fits(kernel: NDArray[np.float32], device: str | None) -> tuple[list[Row], NDArray[np.float64] | None, str | None]:
    """Rows of ``fits`` for one kernel, the best first; the kernel of the best; or why there are none."""
    try:
        choose(None, *size_of(kernel.shape))
    except InvalidArgument as error:
        return [], None, str(error)
    from filterdb.fields import fits
    from filterdb.fields.fitting import table

    size = size_name(*kernel.shape)
    rows = table(np.zeros(1, np.int64), kernel[None], size, None, device).drop_columns(["filter_id", "size"]).to_pylist()
    if rows[0]["reason"]:
        return [], None, rows[0]["reason"]
    rows.sort(key=lambda row: row["bic"])
    best = fits.fit(kernel[None], [rows[0]["family"]], device=device)[0]
    labelled = [row | {"label": FAMILIES[row["family"]].label, "terms": list(FAMILIES[row["family"]].terms)} for row in rows]
    return labelled, fits.model(best, 0, *kernel.shape), None


def sentence(words: Row, fit: Row | None, reason: str | None = None) -> str:
    """The words of a filter as people say them; or why it has none, which is by default that all weights are zero."""
    if words["band"] is None:
        return reason or "nothing: all weights are zero"
    said = words["band"]
    if said == "other":
        said = "none of the words"
    if words["derivative_order"]:
        order = {1: "first", 2: "second"}[words["derivative_order"]]
        where = "" if words["direction"] is None else f" along {words['direction']:.0f}° (x right, y up)"
        said += f", {order} derivative{where}"
    said += ", isotropic" if words["isotropic"] else ", anisotropic" if words["isotropic"] is False else ""
    said += f" (confidence {words['band_confidence']:.2f})"
    if fit is not None:
        said += f"; best model: {fit['label']}{_scales(fit)}, rho {fit['rho']:.3f}"
    return said


def _scales(fit: Row) -> str:
    pairs = [(fit[f"sigma_x{n}"], fit[f"sigma_y{n}"]) for n in ("", "2")]
    said = [f"{x:.2f}" if f"{x:.2f}" == f"{y:.2f}" else f"{x:.2f} x {y:.2f}" for x, y in pairs if x is not None]
    return f", sigma {' and '.join(said)} px{' (at its bound)' if fit['at_bound'] else ''}" if said else ""


# -- layers and models ---------------------------------------------------------------------------------------------------


def _layer(view: View, model: str, layer: str, bank: Bank | None, device: str | None) -> GroupDescription:
    names = ("model", "layer", "depth", "depth_norm", "size", "stride", "dilation", "kind", "out_channels")
    where = "model = $model AND layer = $layer"
    [row] = view.rows(f"SELECT {', '.join(names)} FROM layers WHERE {where}", model=model, layer=layer)
    identity = dict(zip(names, row, strict=True))
    kernel_h, kernel_w = parse_size(identity["size"])
    kernels = np.concatenate([batch.kernels for batch in view.batches(kernel_h, kernel_w, model=model, layer=layer)])
    kernels = kernels.reshape(-1, *shape_of(kernel_h, kernel_w))
    told = _told(kernels)
    families, reason = _families(kernels, device)
    bands = _bands(told)
    said = f"{len(kernels)} filters of {identity['size']}: " + _shares(bands)
    nearest, reasons = _template_shares([kernels], bank)
    return GroupDescription(
        identity, said, bands, _orders(told), _means(told), nearest, families,
        "; ".join([*reasons, *([reason] if reason else [])]) or None,
    )  # fmt: skip


def _model(view: View, model: str, bank: Bank | None) -> GroupDescription:
    names = ("model", "architecture", "dataset", "source", "layers", "filters", "params", "top1")
    [row] = view.rows(f"SELECT {', '.join(names)} FROM models WHERE model = $model", model=model)
    by_size: dict[str, list[NDArray[np.float32]]] = {}
    told: list[Row] = []
    bands: list[Row] = []
    for depth, layer, size in view.rows("SELECT depth, layer, size FROM layers WHERE model = $model ORDER BY depth", model=model):
        kernel_h, kernel_w = parse_size(size)
        batches = view.batches(kernel_h, kernel_w, model=model, layer=layer)
        kernels = np.concatenate([batch.kernels for batch in batches]).reshape(-1, *shape_of(kernel_h, kernel_w))
        by_size.setdefault(size, []).append(kernels)
        rows = _told(kernels)
        told += rows
        bands += [{"depth": depth, "layer": layer, "size": size} | one for one in _bands(rows)]
    sizes = [np.concatenate(kernels) for kernels in by_size.values()]
    nearest, reasons = _template_shares(sizes, bank)
    columns = ("family", "filters", "percent", "mean_rho")
    families = [dict(zip(columns, found, strict=True)) for found in view.rows(_BEST_FAMILIES, model=model)]
    if not families:
        reasons.append(_unfitted(model, by_size))
    identity = dict(zip(names, row, strict=True)) | {"sizes": {size: sum(map(len, k)) for size, k in by_size.items()}}
    said = f"{len(told)} filters in {identity['layers']} layers: " + _shares(_bands(told))
    return GroupDescription(identity, said, bands, _orders(told), _means(told), nearest, families, "; ".join(reasons) or None)


def _unfitted(model: str, by_size: Mapping[str, Sequence[NDArray[np.float32]]]) -> str:
    """Why a model has no fits: they were not made, or there is nothing to fit."""
    for size, kernels in by_size.items():
        if not all(centred_unit(layer).dead.all() for layer in kernels):
            try:
                choose(None, *parse_size(size))
            except InvalidArgument:
                continue
            return f'no fits yet: filterdb fit --size {size} --model "{model}"'
    return "no family can be fitted to its kernels, which are constant, strips, or of even sizes"


_BEST_FAMILIES = """
SELECT family, count(*), round(100.0 * count(*) / sum(count(*)) OVER (), 2), round(avg(rho::DOUBLE), 4)
FROM fits JOIN filters USING (filter_id) WHERE best AND model = $model GROUP BY family ORDER BY 2 DESC, 1
"""


def _bands(told: Sequence[Row]) -> list[Row]:
    counts = Counter(row["band"] or f"({row['reason']})" for row in told)
    confidence: dict[str, list[float]] = {}
    for row in told:
        confidence.setdefault(row["band"] or f"({row['reason']})", []).append(row["band_confidence"] or 0.0)
    return [
        {
            "band": band, "filters": n, "percent": round(100 * n / len(told), 2),
            "mean_confidence": round(float(np.mean(confidence[band])), 3),
        }
        for band, n in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    ]  # fmt: skip


def _shares(bands: Sequence[Row]) -> str:
    return ", ".join(f"{row['percent']:.0f} % {row['band']}" for row in bands)


def _orders(told: Sequence[Row]) -> list[Row]:
    def rounded(row: Row) -> float | None:
        turn = 360 if row["derivative_order"] == 1 else 180
        return None if row["direction"] is None else float(round(row["direction"] / 45) * 45 % turn)

    counts = Counter((row["derivative_order"], rounded(row)) for row in told if row["band"] == "differential")
    order = sorted(counts.items(), key=lambda one: (one[0][0] or 0, -one[1], one[0][1] or 0))
    return [{"derivative_order": order_, "direction": direction, "filters": n} for (order_, direction), n in order]


def _means(told: Sequence[Row]) -> Row:
    numbers = [
        name for name, kind in descriptors.COLUMNS.items() if kind == "float32" and name not in ("direction", "orientation")
    ]
    found: Row = {}
    for name in numbers:
        values = [row[name] for row in told if row[name] is not None]
        found[name] = float(np.mean(values)) if values else None
    return found


def _template_shares(groups: Sequence[NDArray[np.float32]], bank: Bank | None) -> tuple[list[Row], list[str]]:
    """How kernels of several sizes fall on the templates of a bank, sign-free; why some do not."""
    counts: dict[str, list[float]] = {}
    labels: dict[str, str] = {}
    reasons: list[str] = []
    for kernels in groups if bank is not None else ():
        assert bank is not None
        try:
            scaled = bank.at(size_of(kernels.shape[1:]))
        except BankError as error:
            reasons.append(str(error))
            continue
        unit = centred_unit(kernels)
        similarity = np.abs(unit.unit[~unit.dead] @ scaled.unit.T)
        labels |= dict(zip(scaled.names, scaled.labels, strict=True))
        for i, value in zip(similarity.argmax(axis=1), similarity.max(axis=1), strict=True):
            counts.setdefault(scaled.names[i], []).append(float(value))
    total = sum(map(len, counts.values()))
    rows = [
        {
            "template": name, "label": labels[name], "filters": len(values), "percent": round(100 * len(values) / total, 2),
            "mean_similarity": round(float(np.mean(values)), 4),
        }
        for name, values in sorted(counts.items(), key=lambda one: -len(one[1]))
    ]  # fmt: skip
    return rows, list(dict.fromkeys(reasons))


def _families(kernels: NDArray[np.float32], device: str | None) -> tuple[list[Row], str | None]:
    living = kernels[~centred_unit(kernels).dead]
    if len(living) > FITTED_AT_ONCE:
        return [], f"{len(living):,} filters are fitted by filterdb fit, not here"
    if not len(living):
        return [], "all filters are constant: there is nothing to fit"
    try:
        choose(None, *size_of(kernels.shape[1:]))
    except InvalidArgument as error:
        return [], str(error)
    from filterdb.fields import fits

    found = fits.fit(living, device=device)
    winner = fits.best(found)
    rows = []
    for number, one in enumerate(found):
        if (mine := winner == number).any():
            rows.append(
                {
                    "family": one.family.name, "filters": int(mine.sum()), "percent": round(100 * float(mine.mean()), 2),
                    "mean_rho": round(float(one.rho[mine].mean()), 4),
                }
            )  # fmt: skip
    return sorted(rows, key=lambda row: -row["filters"]), None
