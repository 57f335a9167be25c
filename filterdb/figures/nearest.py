"""The templates of a bank beside the trained kernels closest to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from filterdb.banks import Bank
from filterdb.figures import style
from filterdb.figures.registry import Asked, picture
from filterdb.figures.sheet import GAP, MARGIN, Kernels, Sheet, centred
from filterdb.figures.style import PAGE, Figure, Look, drawn

HEADS = 0.16
"""Inches of the line over the columns."""
LARGEST = 0.6
INVERSE = -0.999
"""The correlation of a template with its inverse is -1."""
Group = tuple[Bank, Mapping[str, Kernels]]
"""Templates, and by their names the kernels closest to them."""


@drawn
def draw_nearest(
    bank: Bank, exemplars: Mapping[str, Kernels], *, title: str = "", look: Look = PAGE
) -> Any:  # fmt: skip
    """Each template of a bank beside the real kernels closest to it.

    Args:
        bank: the templates.
        exemplars: template name to kernels (kernel_h, kernel_w), closest first; see ``Database.exemplars``.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    return _groups({"closest trained kernels": (bank, exemplars)}, title, look)


@drawn
def draw_networks(groups: Mapping[str, Group], *, title: str = "", look: Look = PAGE) -> Any:
    """The same templates beside the closest kernels of several networks, whose kernels may differ in size.

    Args:
        groups: the heading of each network, its bank and exemplars as for ``draw_nearest``. All banks have the same templates,
            each at its network's size.
        title: a line above the picture.
        look: see ``filterdb.figures.style.Look``.
    """
    return _groups(groups, title, look)


def _groups(groups: Mapping[str, Group], title: str, look: Look) -> Any:
    bank = next(iter(groups.values()))[0]
    labels = [style.fitted(label or name, look.inches * 0.35) for label, name in zip(bank.labels, bank.names, strict=True)]
    left = MARGIN + max(style.breadth(label) for label in labels) + 0.07
    apart = 0.35  # of a cell: sets the template apart from the real kernels
    between = 0.75  # and one network from the next
    columns = [max((len(kernels) for kernels in exemplars.values()), default=0) for _, exemplars in groups.values()]
    cells = sum(1 + apart + count for count in columns) + between * (len(groups) - 1)
    cell = min(LARGEST * (1 + GAP), (look.inches - left - MARGIN) / cells)
    side = cell / (1 + GAP)
    width = max(left + cell * cells + MARGIN, min(look.inches, style.breadth(title, style.HEAD) + 3 * MARGIN))
    sheet = Sheet(width, HEADS + len(bank) * cell, look, title)
    for row, label in enumerate(labels):
        sheet.text(left - 0.05, sheet.top + HEADS + row * cell + side / 2, label, ha="right")
    x = left
    for (heading, (of, exemplars)), count in zip(groups.items(), columns, strict=True):
        y = sheet.top + HEADS / 2 - 0.02
        first = x + cell * (1 + apart)
        sheet.text(x + side / 2, y, "template", size=style.SMALL, ha="center")
        if count:
            sheet.text(first, y, style.fitted(heading, count * cell, style.SMALL), size=style.SMALL)
        for row, name in enumerate(of.names):
            y = sheet.top + HEADS + row * cell
            sheet.kernel(centred(of.templates[row]), x, y, side, line=0.8, frame=look.ink)
            for column, kernel in enumerate(exemplars.get(name, [])):
                sheet.kernel(centred(kernel), first + column * cell, y, side)
        x = first + cell * (count + between)
    return sheet.figure


@drawn
def draw_bank(bank: Bank, *, title: str = "", look: Look = PAGE) -> Any:
    """The templates of a bank, each with its name."""
    return _templates(bank.templates, bank.names, title, look)


def _templates(kernels: Kernels, names: Sequence[str], title: str, look: Look) -> Any:
    from filterdb.figures.samples import draw_captioned

    return draw_captioned([centred(one) for one in kernels], list(names), title=title, look=look).drawn


# -- of a database -------------------------------------------------------------------------------------------------------------


@picture("filters", "templates")
def nearest(
    db: Asked, look: Look, *, bank: Annotated[str, "whose templates"] = "greedy8",
    model: Annotated[str | None, "only models of this name or glob"] = None,
    layer: Annotated[str | None, "only layers of this name or glob"] = None,
    size: Annotated[str | None, "kernel size, to which the bank is brought by its formula"] = None,
    count: Annotated[int | None, "kernels beside each template"] = None,
    signed: Annotated[
        bool | None, "true: only positive gains count, false: kernels with negative ones are drawn inverted; default: "
        "true for banks that hold a template and its inverse",
    ] = None,
) -> Figure:  # fmt: skip
    """The templates of a bank beside the trained kernels closest to them."""
    chosen = db.bank(bank, size=size)
    if signed is None:
        signed = bool((chosen.unit @ chosen.unit.T).min() < INVERSE)
    found = db.exemplars(chosen, count or (8 if look.wide else 5), model=model, layer=layer, signed=signed)
    of = f" of {model}" if model else ""
    return draw_nearest(chosen, found, title=f"{chosen.name} and the kernels{of} closest to its templates", look=look)


@picture("banks", "templates")
def bank(db: Asked, look: Look, *, bank: Annotated[str, "whose templates"] = "greedy8",
         size: Annotated[str | None, "kernel size, to which the bank is brought by its formula"] = None) -> Figure:  # fmt: skip
    """The templates of a bank with their names."""
    chosen = db.bank(bank, size=size)
    return draw_bank(chosen, title=f"{chosen.name}: {len(chosen)} templates of {chosen.size}", look=look)
