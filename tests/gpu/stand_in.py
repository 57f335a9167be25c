"""Stand-ins for libraries of tables, where they are not installed.

A bare GPU machine needs torch, timm, numpy, scipy, Pillow and safetensors.
filterdb imports the libraries of its database at once, and nothing that runs here opens a database. Stand-ins can be imported and
do nothing. On a machine that has the libraries, nothing is changed.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

LIBRARIES = ("pyarrow", "duckdb", "deltalake", "arro3", "polars", "faiss", "filelock", "threadpoolctl", "typer", "rich")


class _Empty(ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - a package, so that its submodules are asked for too

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper() and self.__name__ != "threadpoolctl":  # a class, which isinstance and except take
            return type(name, (Exception,), {})
        return MagicMock(name=f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: list[str]):
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> list[str]:
    """Stand in for what is missing. Returns its names."""
    missing = []
    for name in LIBRARIES:
        with contextlib.suppress(ValueError):
            if name not in sys.modules and importlib.util.find_spec(name) is None:
                missing.append(name)
    if missing:
        sys.meta_path.append(_Finder(missing))
    return missing
