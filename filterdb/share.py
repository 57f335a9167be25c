"""The folders that ship with the code: recipes, named queries, data."""

from __future__ import annotations

from pathlib import Path

from filterdb.errors import not_found

FOLDERS = ("ingest", "queries", "data")


def folder(name: str) -> Path:
    """The shared folder ``ingest``, ``queries`` or ``data``.

    In a wheel it lies in the package; in an editable install, an unpacked sdist or a bare checkout it lies beside the package.
    """
    if name not in FOLDERS:
        raise not_found("shared folder", name, FOLDERS)
    package = Path(__file__).resolve().parent
    inside = package / "_share" / name
    return inside if inside.is_dir() else package.parent / name
