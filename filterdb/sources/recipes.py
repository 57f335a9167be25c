"""Recipes: named lists of sources with their facts, written as TOML.

    title = "A description in one line"
    citation = "Where the list comes from"
    dataset = "imagenet-1k"            # a fact at the top holds for every model of the recipe

    [[models]]
    source = "timm:convnextv2_*"       # anything `filterdb ingest` takes, globs too
    top1 = 84.9                        # any fact of one model

Recipes ship in ``ingest/``; a path to a .toml file is your own recipe. A source that is a path is taken relative to the
recipe's file, and where there is none, relative to the folder that holds ``ingest/`` and ``data/``; so is the folder of a run.

    [[models]]
    source = "package:NAME/a/net.pth"  # a file of an installed package, or of that name in the current folder

    [[models]]
    source = "run:checkpoints"         # a folder; a file run.toml in it holds more facts, as the top of a recipe does
"""

from __future__ import annotations

import importlib.util
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filterdb.errors import InvalidArgument, SourceError, not_found
from filterdb.share import folder
from filterdb.sources import own

FACTS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "name": (str,), "dataset": (str,), "pretrain_dataset": (str,), "task": (str,), "step": (int,), "licence": (str,),
        "top1": (int, float), "architecture": (str,), "architecture_args": (dict,), "weights": (str,), "pointwise": (bool,),
    }
)  # fmt: skip
"""The facts that a recipe may give of a model (the fields of ``filterdb.sources.Options``), and the types each takes."""
PACKAGE = "package:"
"""How a source that lies in an installed package begins."""
RUN = "run:"
"""How a source that is the folder of a training run begins."""


@dataclass(frozen=True)
class Entry:
    """One line of a recipe."""

    source: str
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    """Where the file lies, for a source that is a path, or the folder of a run."""


@dataclass(frozen=True)
class Recipe:
    """A named list of sources."""

    name: str
    title: str
    citation: str
    entries: list[Entry]


def names() -> list[str]:
    """The names of the recipes that ship."""
    return sorted(path.stem for path in folder("ingest").glob("*.toml"))


def load(name: str | os.PathLike[str]) -> Recipe:
    """A recipe by its name, or by the path of a .toml file."""
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return _parse(path)
    if str(name) not in names():
        raise not_found("recipe", str(name), names(), advice="A path to a .toml file is a recipe of your own.")
    return _parse(folder("ingest") / f"{name}.toml")


def facts_of_run(path: Path, shown: str) -> dict[str, Any]:
    """The facts in a run's file ``run.toml``, which hold for all its checkpoints; ``name`` is the run's."""
    table = _table(path, shown)
    if "step" in table:
        raise InvalidArgument(f"step = {table['step']!r} in {shown}: each checkpoint has a step of its own. Take the line out.")
    return _facts(shown, table)


def _table(path: Path, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidArgument(f"{what} cannot be read: {error}. Fix the file.") from error


def _parse(path: Path) -> Recipe:
    table = _table(path, f"The recipe {path.name}")
    models = table.pop("models", None)
    if not isinstance(models, list) or not models or not all(isinstance(row, dict) for row in models):
        raise InvalidArgument(f"The recipe {path.name} lists no models. Add [[models]] with source = ... for each.")
    title, citation = str(table.pop("title", path.stem)), str(table.pop("citation", ""))
    what = f"the recipe {path.name}"
    common = _facts(what, table)
    entries: list[Entry] = []
    for row in models:
        source = row.pop("source", None)
        if not isinstance(source, str) or not source:
            raise InvalidArgument(f'Model {len(entries) + 1} of the recipe {path.name} has no source. Add source = "...".')
        entries.append(Entry(source, {**common, **_facts(what, row)}, _locate(source, path)))
    return Recipe(path.stem, title, citation, entries)


def _facts(what: str, table: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in table.items():
        if key not in FACTS:
            raise not_found(f"fact in {what} named", key, FACTS)
        if not isinstance(value, FACTS[key]) or (isinstance(value, bool) and bool not in FACTS[key]):
            wanted = " or ".join(kind.__name__ for kind in FACTS[key])
            raise InvalidArgument(f"{key} = {value!r} in {what} is not {wanted}. Fix the file.")
    own.refuse(table.get("architecture"), what)
    return dict(table)


def _locate(source: str, recipe: Path) -> Path | None:
    """Where the file of a source or the folder of a run is, or None for a source that is no path."""
    if source.startswith(PACKAGE):
        return _in_package(source.removeprefix(PACKAGE))
    path = source.removeprefix(RUN)
    is_there = Path.is_file if path == source else Path.is_dir
    for base in (recipe.parent, folder("ingest").parent):
        if path and is_there(base / path):
            return base / path
    # data/ lies beside ingest/ in a checkout and in the package alike; a file that is missing is named by where it should be
    return folder("data") / path.removeprefix("data/") if path.startswith("data/") else None


def _in_package(path: str) -> Path | None:
    """A file of a package that is installed, without importing it; or else of that name in the current folder."""
    package, _, inside = path.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(place) / inside for place in (spec.submodule_search_locations or () if spec else ())]
    return next((place for place in [*places, Path(Path(inside).name)] if place.is_file()), None)


def absent(source: str) -> SourceError:
    """What to say of a source in a package that is neither installed nor here."""
    package, _, inside = source.removeprefix(PACKAGE).partition("/")
    return SourceError(
        f"{Path(inside).name} is neither in the current folder nor installed. Run: pip install {package.replace('_', '-')}"
    )
