"""Kernels as points on their principal components, in two or three dimensions, with example kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument, NotFound, not_found
from filterdb.figures import style
from filterdb.figures.colours import BAND_COLOURS, CLASS_COLOURS, ON_DARK, class_colours, ordered, words
from filterdb.figures.components import load
from filterdb.figures.registry import Asked, Models, Seed, chosen, picture
from filterdb.figures.sheet import centred
from filterdb.figures.style import PAGE, Figure, Look, drawn
from filterdb.kernels import centred_unit, heat_map

BY = ("class", "band", "model", "depth")
CELLS = 13
"""Kernels along each side of the atlas."""
STANDING = 12
"""Kernels that stand for places in three dimensions."""
MODELS = len(style.CYCLE)
"""Models with a colour of their own; the others share a grey."""


@dataclass(frozen=True)
class Cloud:
    """Kernels as points."""

    points: NDArray[np.floating]
    """(n, dims) coefficients, in an order of chance, so that no group lies on top of all others."""
    kernels: NDArray[np.floating]
    """(n, kernel_h, kernel_w)."""
    groups: Sequence[Any]
    """(n,) names, or depths from 0 to 1."""
    ratios: Sequence[float]
    """(dims,) share of the variance along each component."""
    by: str


@drawn
def draw_pca(cloud: Cloud, *, title: str = "", look: Look = PAGE) -> Any:
    """A scatter of kernels. In two dimensions an atlas lies beside it: in each cell of the plane, the kernel in its middle. In
    three, a dozen numbered kernels that lie far apart.

    Args:
        cloud: two or three coefficients of each kernel.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    paints = _colours(cloud, look)
    return (_flat if cloud.points.shape[1] == 2 else _solid)(cloud, paints, title, look)


def _flat(cloud: Cloud, paints: _Paints, title: str, look: Look) -> Any:
    panel = look.inches / (2 if look.wide else 1)
    figure = style.chart(look, (panel if look.wide else 2 * panel) + 0.1 + 0.12 * paints.lines(look), title)
    left, right = figure.subplots(1, 2, sharey=True) if look.wide else figure.subplots(2, 1, sharex=True)
    x, y = cloud.points.T
    reach = [_reach(values) for values in (x, y)]
    left.scatter(x, y, s=_dot(len(x)), c=paints.each, linewidths=0, alpha=0.85, rasterized=True)
    for axes in (left, right):
        axes.set_xlim(reach[0])
        axes.set_ylim(reach[1])
        axes.set_box_aspect(1)
    _atlas(right, cloud, paints, reach, look)
    across, up = (f"component {i + 1} ({100 * ratio:.0f} % of the variance)" for i, ratio in enumerate(cloud.ratios))
    for axes in (left, right) if look.wide else (right,):
        axes.set_xlabel(across)
    for axes in (left,) if look.wide else (left, right):
        axes.set_ylabel(up)
    paints.legend(figure, left, look)
    return figure


def _atlas(axes: Any, cloud: Cloud, paints: _Paints, reach: Sequence[tuple[float, float]], look: Look) -> None:
    """In each cell of the plane where kernels lie, the one nearest to the cell's middle, framed in the colour of its group."""
    steps = [(high - low) / CELLS for low, high in reach]
    place = np.floor([(values - low) / step for values, (low, _), step in zip(cloud.points.T, reach, steps)]).astype(int)
    middles = [low + (cell + 0.5) * step for cell, (low, _), step in zip(place, reach, steps)]
    far = sum(((values - middle) / step) ** 2 for values, middle, step in zip(cloud.points.T, middles, steps))
    nearest: dict[tuple[int, int], int] = {}
    for i in np.argsort(far, kind="stable"):
        nearest.setdefault((int(place[0, i]), int(place[1, i])), int(i))
    from matplotlib.patches import Rectangle

    for (column, row), i in nearest.items():
        left, bottom = reach[0][0] + (column + 0.06) * steps[0], reach[1][0] + (row + 0.06) * steps[1]
        w, h = 0.88 * steps[0], 0.88 * steps[1]
        axes.imshow(heat_map.rgb(cloud.kernels[i]), extent=(left, left + w, bottom, bottom + h), aspect="auto", zorder=1)
        axes.add_patch(Rectangle((left, bottom), w, h, fill=False, edgecolor=paints.each[i], linewidth=1.0, zorder=2))
    axes.set_xlim(reach[0])
    axes.set_ylim(reach[1])
    axes.set_box_aspect(1)


def _solid(cloud: Cloud, paints: _Paints, title: str, look: Look) -> Any:
    from matplotlib.patheffects import withStroke

    height = 3.9 if look.wide else 4.6
    figure = style.chart(look, height + 0.12 * paints.lines(look), title)
    shape: dict[str, Any] = {"ncols": 2, "width_ratios": [2.6, 1]} if look.wide else {"nrows": 2, "height_ratios": [2.9, 1]}
    grid = figure.add_gridspec(**shape)
    axes = figure.add_subplot(grid[0], projection="3d", computed_zorder=False)
    axes.scatter(
        *cloud.points.T, s=_dot(len(cloud.points)), c=paints.each, linewidths=0, alpha=0.75, rasterized=True, depthshade=False
    )
    axes.view_init(elev=22, azim=-58)
    axes.set_box_aspect((1, 1, 1), zoom=1.12 if look.wide else 0.95)
    for i, (axis, ratio) in enumerate(zip((axes.xaxis, axes.yaxis, axes.zaxis), cloud.ratios, strict=True)):
        axis.set_label_text(f"component {i + 1} ({100 * ratio:.0f} %)")
        axis.labelpad = -8
        axis.set_tick_params(pad=-3)
        axis.pane.set(facecolor=look.paper, edgecolor=look.rule, alpha=1)
        axis._axinfo["grid"].update(color=look.rule, linewidth=0.4)
        axis.get_major_locator().set_params(nbins=4, prune="both")
    standing = _apart(cloud.points, STANDING)
    columns = 3 if look.wide else 6
    side = grid[1].subgridspec(-(-len(standing) // columns), columns).subplots(squeeze=False).ravel()
    halo = [withStroke(linewidth=1.6, foreground=look.paper)]
    for number, (i, panel) in enumerate(zip(standing, side), start=1):
        axes.plot(
            *cloud.points[i][:, None],
            "o",
            color=paints.each[i],
            markersize=4,
            markeredgecolor=look.ink,
            markeredgewidth=0.7,
            zorder=9,
        )
        axes.text(*cloud.points[i], f" {number}", fontsize=style.TEXT, path_effects=halo, zorder=10)
        panel.imshow(heat_map.rgb(cloud.kernels[i]))
        panel.set_title(str(number), fontsize=style.SMALL, pad=2)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(True)
        panel.spines[:].set(color=paints.each[i], linewidth=1.2)
    for panel in side[len(standing) :]:
        panel.set_axis_off()
    paints.legend(figure, axes, look)
    return figure


def _apart(points: NDArray[np.floating], count: int) -> list[int]:
    """Points that lie far apart: the one nearest to the mean, then again and again the one farthest from all so far."""
    first = int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())
    found, far = [first], np.linalg.norm(points - points[first], axis=1)
    while len(found) < min(count, len(points)) and far.max() > 0:
        found.append(int(far.argmax()))
        far = np.minimum(far, np.linalg.norm(points - points[found[-1]], axis=1))
    return found


def _reach(values: NDArray[np.floating]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.03 * (high - low) or 0.5
    return low - pad, high + pad


def _dot(count: int) -> float:
    """Area of a point, square points: small where there are many."""
    return float(np.clip(20_000 / count, 0.7, 9))


# -- colours -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Paints:
    """The colour of each point, and what colours mean."""

    each: list[Any]
    meaning: dict[str, str]
    """Words to colour; empty for a scale."""

    def lines(self, look: Look) -> int:
        """Of the legend."""
        return -(-len(self.meaning) // _across(look)) if self.meaning else (0 if look.wide else 3)

    def legend(self, figure: Any, axes: Any, look: Look) -> None:
        """Below the picture: the colours and their words, or the scale."""
        if self.meaning:
            from matplotlib.lines import Line2D

            handles = [
                Line2D(
                    [],
                    [],
                    linestyle="",
                    marker="o",
                    color=colour,
                    label=style.fitted(name, look.inches / _across(look) - 0.3, style.SMALL),
                )
                for name, colour in self.meaning.items()
            ]
            figure.legend(handles=handles, loc="outside lower center", ncols=_across(look), borderaxespad=0.2, handletextpad=0.2)
            return
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        bar = figure.colorbar(
            ScalarMappable(Normalize(0, 1), "viridis"),
            ax=figure.axes[:2] if axes.name != "3d" else axes,
            location="bottom",
            shrink=0.5,
            aspect=40,
            pad=0.02,
        )
        bar.set_label("depth, from input (0) to output (1)", fontsize=style.SMALL)
        bar.ax.tick_params(labelsize=style.SMALL)


def _across(look: Look) -> int:
    return 5 if look.wide else 2


def _colours(cloud: Cloud, look: Look) -> _Paints:
    if cloud.by == "depth":
        from matplotlib import colormaps

        return _Paints(list(map(tuple, colormaps["viridis"](np.array(cloud.groups, float)))), {})
    if cloud.by == "model":
        counts = {name: list(cloud.groups).count(name) for name in set(cloud.groups)}
        most = sorted(counts, key=lambda name: (-counts[name], name))
        named = most if len(most) <= MODELS else most[: MODELS - 1]
        colours = dict(zip(sorted(named), style.CYCLE))
        others = f"{len(most) - len(named)} other models"
        each = [colours.get(name, "#C9C9C9") for name in cloud.groups]
        return _Paints(each, colours | ({others: "#C9C9C9"} if len(most) > len(named) else {}))
    known = CLASS_COLOURS if cloud.by == "class" else BAND_COLOURS
    order = ordered(cloud.groups, known)
    colours = class_colours(order) | dict(known) | (ON_DARK if look.dark else {})
    return _Paints([colours[name] for name in cloud.groups], {words(name): colours[name] for name in order})


# -- of a database -------------------------------------------------------------------------------------------------------------

_DRAWN = """
SELECT kernel, {group} AS name
FROM filters AS f JOIN layers AS l USING (model, layer) {join}
WHERE f.filter_id IN (
    SELECT filter_id FROM filters WHERE size = $size AND NOT dead AND model GLOB $models
    ORDER BY hash(filter_id + $seed) LIMIT $count)
ORDER BY hash(f.filter_id + $seed)
"""
"""The ids are drawn first: the kernels of millions of filters are not read for it."""
_GROUPS = {
    "class": (
        "coalesce(class, 'other')",
        "LEFT JOIN (SELECT filter_id, class FROM classes WHERE classifier = $classifier) USING (filter_id)",
    ),
    "band": ("coalesce(band, '(' || coalesce(reason, 'zero') || ')')", "LEFT JOIN descriptors USING (filter_id)"),
    "model": ("f.model", ""),
    "depth": ("coalesce(l.depth_norm, 0)", ""),
}


@picture("filters")
def pca(
    db: Asked, look: Look, *, size: Annotated[str | None, "kernel size; needed where there are several"] = None,
    by: Annotated[str | None, "colours by class, band, model or depth; default: class if there is one, else band"] = None,
    dims: Annotated[int, "2, with an atlas of kernels beside it, or 3"] = 2,
    classifier: Annotated[str | None, "of --by class; needed where there are several of the size"] = None,
    basis: Annotated[str | None, "a kept basis of components (filterdb compare); by default that of the kernels drawn"] = None,
    models: Models = "*", count: Annotated[int, "kernels at most, drawn at random"] = 20_000, seed: Seed = 0,
) -> Figure:  # fmt: skip
    """Kernels of a size as points on their principal components, with kernels that stand for their places."""
    if dims not in (2, 3):
        raise InvalidArgument(f"--dims is 2 or 3, got {dims}.")
    if count < 10:
        raise InvalidArgument(f"--count is how many kernels are drawn, at least 10, got {count}.")
    of = _size(db, size)
    if by is None:
        told = [name for name in db.classifiers() if db.classifier(name).size == of]
        by = "class" if classifier or len(told) == 1 else "band"
    if by not in BY:
        raise not_found("way to colour kernels", by, BY)
    values: dict[str, Any] = {"size": of, "models": models, "count": count, "seed": seed}
    if by == "class":
        values["classifier"] = chosen(db, classifier, of)
        if not db.sql("SELECT 1 FROM classes WHERE classifier = $name LIMIT 1", name=values["classifier"]).fetchall():
            raise NotFound(f"No classes by {values['classifier']}: run filterdb classify --classifier {values['classifier']}")
    group, join = _GROUPS[by]
    rows = db.sql(_DRAWN.format(group=group, join=join), **values).fetchall()
    if len(rows) < 10:
        raise NotFound(
            f'Only {len(rows)} living {of} kernels of models "{models}", and a scatter needs ten: filterdb query sizes shows all.'
        )
    cloud, told_by = _cloud(db, rows, of, by, dims, basis)
    title = f"{len(rows):,} {of} kernels" + (f", classes by {values['classifier']}" if by == "class" else "")
    if look.wide:
        title += f", on {told_by}"
    return draw_pca(cloud, title=title, look=look)


def _size(db: Asked, size: str | None) -> str:
    """A kernel size that the database has."""
    there = [row[0] for row in db.query("sizes").fetchall()]
    if size is None and len(there) > 1:
        raise InvalidArgument(f"Kernels of one size at a time, and there are {', '.join(sorted(there))}. Choose one with --size.")
    if size is not None and size not in there:
        raise not_found("kernel size", size, there)
    return size or there[0]


def _cloud(db: Asked, rows: Sequence[Any], size: str, by: str, dims: int, basis: str | None) -> tuple[Cloud, str]:
    """Points on a kept basis, or on the principal components of the kernels themselves."""
    from filterdb.kernels import pca as components

    h, w = map(int, size.split("x"))
    raw = np.array([row[0] for row in rows], np.float32)
    unit = centred_unit(raw.astype(np.float64)).unit
    if basis is not None:
        _, mean, kept, ratios = load(db, basis, size)
        points, named = (unit - mean) @ kept.reshape(len(kept), -1)[:dims].T, f"the basis {basis}"
    else:
        made = components.fit("drawn", h, w, (), [raw])
        points, ratios, named = made.coefficients(unit)[:, :dims], made.explained_variance_ratio, "their principal components"
    if points.shape[1] < dims:
        raise InvalidArgument(f"{size} kernels have {points.shape[1]} components here, fewer than the {dims} asked for.")
    shown = np.array([centred(one) for one in unit.reshape(-1, h, w)])
    return Cloud(points, shown, [row[1] for row in rows], list(ratios[:dims]), by), named
