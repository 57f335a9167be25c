"""A bank: named templates of one kernel size, and the formula for other sizes. Templates have the order of torch weights: row 0
on top, column 0 on the left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filterdb.errors import BankError
from filterdb.kernels import centred_unit, heat_map
from filterdb.kernels.sizes import Pair, Rows, parse_size, size_name, size_of

CENTRED = (0.0, 0.0)
"""Where templates that follow the padding stand by default: no pixels right of and above the centre."""


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Bank:
    """Named templates of one kernel size.

    >>> Bank(name="edges", names=["left", "right"], templates=[[[1, 0, -1]], [[-1, 0, 1]]])
    <Bank edges: 2 templates of 1x3>
    """

    name: str
    names: list[str]
    """One unique name for each template."""
    templates: NDArray[np.float32]
    """(m, kernel_h, kernel_w), or (m, kernel_d, kernel_h, kernel_w), read-only. Any mean and length: only the direction after
    centring counts."""
    labels: list[str]
    """A description of each template; by default its name."""
    citation: str
    made_by: str
    scale: Callable[..., Bank] | None
    """The formula: the bank at another (kernel_h, kernel_w). None for templates that are only numbers."""
    by_padding: bool
    """Whether some templates stand half a pixel off the centre where a layer's stride and padding say so; see ``at``."""

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        templates: ArrayLike,
        labels: Sequence[str] | None = None,
        citation: str = "",
        made_by: str = "",
        scale: Callable[..., Bank] | None = None,
        by_padding: bool = False,
    ) -> None:
        with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite below
            array = np.array(templates, dtype=np.float32)
        _check(name, list(names), array, labels)
        array.flags.writeable = False
        values = {"name": name, "names": list(names), "templates": array, "labels": list(labels or names)}
        rest = {"citation": citation, "made_by": made_by, "scale": scale, "by_padding": by_padding}
        for key, value in (values | rest).items():
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<Bank {self.name}: {len(self)} template{'s'[: len(self) != 1]} of {self.size}>"

    def _repr_html_(self) -> str:
        """In notebooks: the templates with their names."""
        title = f"{self.name}: {len(self)} template{'s'[: len(self) != 1]} of {self.size}"
        sheets = [one.reshape(-1, one.shape[-1]) - one.mean() for one in self.templates]
        return heat_map.html(sheets, self.names, title)

    @property
    def kernel_h(self) -> int:
        return size_of(self.templates.shape[1:])[0]

    @property
    def kernel_w(self) -> int:
        return size_of(self.templates.shape[1:])[1]

    @property
    def size(self) -> str:
        """``7x7``, rows first."""
        return size_name(self.kernel_h, self.kernel_w)

    @property
    def scalable(self) -> bool:
        """Whether a formula gives the bank at other sizes."""
        return self.scale is not None

    @property
    def unit(self) -> NDArray[np.float32]:
        """(m, kernel_h * kernel_w), the templates centred and scaled to length 1."""
        return centred_unit(self.templates.astype(np.float64)).unit.astype(np.float32)

    def at(self, size: str | int | Pair, shift: tuple[float, float] = CENTRED) -> Bank:
        """The same bank at another kernel size, by its formula.

        Args:
            size: ``"5x5"``, 5 or (5, 5).
            shift: where templates that follow the padding stand: (x, y), px right of and above the centre, each -.5, 0 or .5.
                Other templates stay.
        """
        kernel_h, kernel_w = size if isinstance(size, tuple) else parse_size(size)
        shift = shift if self.by_padding else CENTRED
        if (kernel_h, kernel_w) == (self.kernel_h, self.kernel_w) and shift == CENTRED:
            return self
        wanted = size_name(kernel_h, kernel_w)
        if self.scale is None or isinstance(kernel_h, Rows):
            raise BankError(
                f'Bank "{self.name}" is numbers at {self.size}, without a formula for {wanted}. Create or import one.'
            )
        made = self.scale(kernel_h, kernel_w, shift=shift) if self.by_padding else self.scale(kernel_h, kernel_w)
        return replace(made, name=self.name)


def _check(name: str, names: list[str], templates: NDArray, labels: Sequence[str] | None) -> None:
    def refuse(problem: str) -> None:
        raise BankError(f'Bank "{name}": {problem}')

    if not (name and name == name.strip() and name.isprintable()):
        raise BankError(f"A bank needs a name in printable characters, got {name!r}.")
    if templates.ndim not in (3, 4) or 0 in templates.shape:
        refuse(f"templates are an array of (at least one, rows, columns) or (…, slices, rows, columns), got {templates.shape}.")
    if len(names) != len(templates) or (labels and len(labels) != len(templates)):
        refuse(f"{len(templates)} templates need as many names and labels, got {len(names)} and {len(labels or names)}.")
    for word in names:
        if not (isinstance(word, str) and word and word == word.strip() and word.isprintable()):
            refuse(f"a template needs a name in printable characters, got {word!r}.")
    twice = [word for word, count in Counter(names).items() if count > 1]
    if twice:
        refuse(f'the name "{twice[0]}" is given twice. Make the names of the templates unique.')
    for word, template in zip(names, templates):
        if not np.isfinite(template).all():
            refuse(f'template "{word}" has values that are not finite in float32 (NaN or infinite). Fix it or leave it out.')
    for word, dead in zip(names, centred_unit(templates.astype(np.float64)).dead):
        if dead:
            refuse(f'template "{word}" is constant: it has no direction, so nothing can be similar to it. Leave it out.')
