"""The verb of pictures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from filterdb.database.sql_verbs import SqlVerbs

if TYPE_CHECKING:
    from filterdb.figures import Figure
    from filterdb.figures.style import Width


class PlotVerbs(SqlVerbs):
    """``plot``."""

    def plot(
        self, name: str, *, out: str | os.PathLike[str] | None = None, width: Width = "page", dark: bool = False,
        title: str | None = None, **options: Any,
    ) -> Figure:  # fmt: skip
        """A picture of what is in the database.

        Args:
            name: of the picture; ``filterdb.figures.PICTURES`` has all, with their options.
            out: also write it into this file: .png, .svg or .pdf.
            width: "page" (7 inches) or "column" (3.5 inches), as papers in two columns have them.
            dark: on a dark ground.
            title: above the picture; by default it says what it shows, and "" leaves the title out.
            options: of the picture.

        Returns:
            The picture: it shows itself in notebooks, and ``.save(path)`` writes it.

        Raises:
            NotFound: no picture or option of that name (with near misses), or a table that it stands on is empty (with what to
                run).
            InvalidArgument: an option that is missing, or cannot be what it is.
        """
        from filterdb import figures

        found = figures.find(name)
        look = figures.Look(width, dark, title)
        if out is not None:
            figures.check_ending(out)
        if {"filters", "classes", "descriptors"}.intersection(found.needs):
            self._view().check_filled()
        figure = found.draw(self, look, options)  # type: ignore[arg-type]
        if out is not None:
            figure.save(out)
        return figure
