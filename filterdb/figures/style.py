"""The one style of all pictures: widths of a paper's columns, text that can be read there, colours for the colour-blind.

A picture is drawn with these settings and no others, whatever a user's matplotlib is set to: the same numbers, the same bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal, ParamSpec

from filterdb.errors import InvalidArgument, not_found

Width = Literal["page", "column"]
INCHES: dict[str, float] = {"page": 7.0, "column": 3.5}
"""Both columns, and one column, of a paper in two columns."""
SMALL, TEXT, HEAD = 6.0, 7.0, 8.0
"""Points: of ticks and captions, of all else, of titles."""
DPI = 300
PICTURES = (".png", ".svg", ".pdf")
BLUE, RED, GREEN, ORANGE, SKY, PURPLE, YELLOW, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#8A8A8A",
)  # fmt: skip
"""Okabe and Ito's colours, and a grey that is seen on white and on black."""
CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, "#8C6D31", GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""With each colour of the cycle a form, for prints in black and white."""

_LIGHT = {"ink": "#1A1A1A", "paper": "#FFFFFF", "rule": "#D9D9D9"}
_DARK = {"ink": "#E8E8E8", "paper": "#14171A", "rule": "#3A3F45"}
_SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans"], "font.size": TEXT, "axes.labelsize": TEXT, "axes.titlesize": TEXT, "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "figure.titlesize": HEAD, "text.parse_math": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "lines.linewidth": 1.2, "lines.markersize": 4,
    "patch.linewidth": 0.0, "legend.frameon": False, "legend.handlelength": 1.0, "legend.handleheight": 1.0,
    "legend.columnspacing": 1.0, "axes.axisbelow": True, "image.interpolation": "nearest", "savefig.dpi": DPI,
    "figure.dpi": 100, "svg.hashsalt": "filterdb", "pdf.fonttype": 42,
}  # fmt: skip
_ONE_AT_A_TIME = threading.RLock()
"""matplotlib's settings are one for the whole process."""


@dataclass(frozen=True)
class Look:
    """How a picture looks: what is asked of every one."""

    width: Width = "page"
    dark: bool = False
    title: str | None = None
    """Above the picture; None for what the picture says itself, "" for none."""

    def __post_init__(self) -> None:
        if self.width not in INCHES:
            raise not_found("width", str(self.width), INCHES)

    @property
    def inches(self) -> float:
        """The width."""
        return INCHES[self.width]

    @property
    def wide(self) -> bool:
        """Whether there is room for both columns."""
        return self.width == "page"

    @property
    def ink(self) -> str:
        """Of text and lines."""
        return (_DARK if self.dark else _LIGHT)["ink"]

    @property
    def paper(self) -> str:
        """The ground."""
        return (_DARK if self.dark else _LIGHT)["paper"]

    @property
    def rule(self) -> str:
        """Of lines that help the eye."""
        return (_DARK if self.dark else _LIGHT)["rule"]

    def heading(self, otherwise: str) -> str:
        """The title, or what the picture would say itself."""
        return otherwise if self.title is None else self.title


PAGE = Look()


@dataclass(frozen=True, eq=False, repr=False)
class Figure:
    """A picture. It shows itself in notebooks; ``save`` writes it."""

    drawn: Any
    """The ``matplotlib.figure.Figure``, for what one wants to change by hand."""

    def __repr__(self) -> str:
        width, height = self.drawn.get_size_inches()
        return f"<Figure of {width:.1f} x {height:.1f} inches: .save(path) writes .png, .svg or .pdf>"

    def save(self, path: str | PathLike[str]) -> Path:
        """Write it as .png, .svg or .pdf, by the ending; the same picture gives the same bytes.

        Raises:
            InvalidArgument: another ending.
        """
        file = Path(path)
        file.write_bytes(self.to_bytes(file.suffix.lower(), name=file.name))
        return file

    def to_bytes(self, ending: str = ".png", *, dpi: float = DPI, name: str = "") -> bytes:
        """The file: ``ending`` is .png, .svg or .pdf."""
        check_ending(name or f"picture{ending}")
        metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None, "ModDate": None}}[ending]
        file = BytesIO()
        with _settings(PAGE):
            self.drawn.savefig(file, format=ending[1:], dpi=dpi, metadata=metadata)
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        return self.to_bytes(dpi=150)


def check_ending(path: str | PathLike[str]) -> None:
    """Refuse a file that is no picture, before anything is drawn for it."""
    file = Path(path)
    if file.suffix.lower() not in PICTURES:
        raise InvalidArgument(f"A picture is a file with one of the endings {', '.join(PICTURES)}, got {file.name}.")


P = ParamSpec("P")


def drawn(draw: Callable[P, Any]) -> Callable[P, Figure]:
    """A function that draws in the style, and gives a ``Figure``. Its keyword ``look`` says on what ground."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        look = kwargs.get("look", PAGE)
        with _settings(look if isinstance(look, Look) else PAGE):
            return Figure(draw(*args, **kwargs))

    return styled


@contextmanager
def _settings(look: Look) -> Iterator[None]:
    """matplotlib with these settings, whatever they were before and will be after."""
    from matplotlib import rc_context, rcParamsDefault

    plain = {name: value for name, value in rcParamsDefault.items() if not name.startswith(("backend", "interactive", "toolbar"))}
    ground: dict[str, Any] = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), look.paper)
    ground |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), look.ink)
    ground |= {"savefig.facecolor": "auto", "grid.color": look.rule, "grid.linewidth": 0.5}
    chosen: dict[Any, Any] = {**plain, **_SETTINGS, **ground}
    with _ONE_AT_A_TIME, rc_context(chosen):
        yield


def chart(look: Look, height: float, title: str = "") -> Any:
    """A figure as wide as the look says, with room left where text needs it, and a title above on the left."""
    figure = blank(look.inches, height, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.04)
    if title := look.heading(title):
        figure.suptitle(fitted(title, look.inches - 0.1, HEAD), x=0.01, ha="left")
    return figure


def blank(width: float, height: float, **options: Any) -> Any:
    """A figure in inches with nothing in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawn

    figure = Drawn(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


@cache
def breadth(words: str, size: float = TEXT) -> float:
    """How many inches a line of text is wide."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size)
    return float(text_to_path.get_text_width_height_descent(plain(words), font, ismath=False)[0]) / 72


def plain(words: str) -> str:
    """One line of characters that can be printed: a name is data, whatever it is made of."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(words)).split())


def fitted(words: str, inches: float, size: float = TEXT) -> str:
    """A line that is not wider than that: its middle is left out where it would be."""
    line = plain(words)
    while len(line) > 3 and breadth(line, size) > inches:
        keep = max(2, int((len(line.replace("…", "")) - 1) * 0.94))
        words = line.replace("…", "")
        line = f"{words[: (keep + 1) // 2]}…{words[len(words) - keep // 2 :]}"
    return line


def contrast(colour: str) -> str:
    """Black or white, whichever is read better on a colour (relative luminance of WCAG)."""
    from matplotlib.colors import to_rgb

    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#FFFFFF" if luminance < 0.18 else "#000000"
