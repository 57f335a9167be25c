"""Architectures of the user's own: ``package.module:function`` or ``file.py:function``, which returns an nn.Module.

This is the one place where filterdb runs code that is not its own, because the user names it. Names that come from a file or a
hub never get here: ``refuse`` stops them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import nn


def is_own(architecture: str) -> bool:
    """Whether the name of an architecture is a place in the user's code."""
    place, colon, function = architecture.rpartition(":")
    return bool(colon and place) and function.isidentifier()


def refuse(architecture: Any, what: str) -> None:
    """Raise InvalidArgument where the name of an architecture that stands in a file, which may be a stranger's, is code."""
    if isinstance(architecture, str) and is_own(architecture):
        raise InvalidArgument(
            f"{what} names code as its architecture, {architecture!r}, which is not run. If you trust it, give the name yourself."
        )


def build(architecture: str, args: Mapping[str, Any]) -> nn.Module:
    """Call the user's function with these keyword arguments.

    Raises:
        InvalidArgument: no such file, module or function; it fails, or returns something else than an nn.Module.
    """
    from torch import nn

    place, _, name = architecture.rpartition(":")
    module = _from_file(Path(place).expanduser(), architecture) if place.endswith(".py") else _from_module(place, architecture)
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidArgument(f"{architecture}: {place} has no function {name}. Name one that returns the network.")
    try:
        made = function(**args)
    except Exception as error:  # the user's code can raise anything
        given = ", ".join(f"{key}={value!r}" for key, value in args.items()) or "no arguments"
        raise InvalidArgument(f"{architecture} failed with {given}: {_line(error)}. Fix it, or its arguments.") from error
    if not isinstance(made, nn.Module):
        raise InvalidArgument(f"{architecture} returned a {type(made).__name__}, not an nn.Module. Return the network.")
    return made


def _from_file(path: Path, architecture: str) -> ModuleType:
    if not path.is_file():
        raise InvalidArgument(f"{architecture}: there is no file {path}. Write file.py:function.")
    name = f"filterdb_own_{abs(hash(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the module look for it there
    beside = str(path.resolve().parent)
    sys.path.insert(0, beside)  # what it imports lies beside it
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise InvalidArgument(f"{architecture}: {path.name} cannot be loaded: {_line(error)}. Fix the file.") from error
        raise
    finally:
        sys.path.remove(beside)
    return module


def _from_module(place: str, architecture: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # as python -m does: the user's package may lie here
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise InvalidArgument(
            f"{architecture}: the module {place} cannot be imported: {_line(error)}. Write package.module:function or "
            "file.py:function."
        ) from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
