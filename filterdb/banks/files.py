"""Templates in files: npy, csv, text and json, each read strictly and written so that reading gives the same bank back.

npy    an array of (m, k_h, k_w), or of (m, k_h * k_w); holds no names
csv    one template per row. A header and leading columns ``name`` and ``label`` are optional; taps are row-major
txt    "NAME:" and then the rows of the kernel, for each template; without names, blocks parted by empty lines
json   an object with name, names, labels, citation, made_by and templates (m nested lists of k_h rows)
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import BankError
from filterdb.kernels.sizes import Pair, size_name

NAME_COLUMNS = ("", "name", "template", "filter", "label")
"""Headers of columns that hold words; the empty one is the index column that pandas writes."""


@dataclass
class Table:
    """The contents of a bank file. Missing parts are empty."""

    templates: NDArray[np.floating]
    """(m, k_h, k_w)"""
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    name: str = ""
    citation: str = ""
    made_by: str = ""


def read_table(path: Path, size: Pair | None) -> Table:
    """Read a file by its suffix. ``size`` is needed only where the numbers do not show the shape."""
    readers = {".npy": _read_npy, ".csv": _read_csv, ".txt": _read_text, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise BankError(f'{path.name}: a bank is read from .npy, .csv, .txt, .json or .toml, got "{path.suffix}".')
    try:
        table = readers[path.suffix.lower()](path, size)
    except (OSError, ValueError, EOFError, MemoryError, OverflowError, RecursionError, csv.Error) as error:
        raise BankError(f"{path.name}: cannot be read as a bank ({_one_line(error)}).") from error
    if size is not None and table.templates.shape[1:] != size:
        got, wanted = size_name(*table.templates.shape[1:]), size_name(*size)
        raise BankError(f"{path.name}: the templates are {got}, asked for {wanted}. Leave the size out, or give {got}.")
    return table


def write_table(table: Table, path: Path) -> None:
    """Write a file by its suffix."""
    writers: dict[str, Callable[[Table], str | bytes]] = {".npy": _npy, ".csv": _csv, ".txt": _text, ".json": _json}
    if path.suffix.lower() not in writers:
        raise BankError(f'{path.name}: a bank is written as .npy, .csv, .txt or .json, got "{path.suffix}".')
    try:
        content = writers[path.suffix.lower()](table)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise BankError(f"{path}: cannot be written ({_one_line(error)}). Give a file in a folder that exists.") from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _read_npy(path: Path, size: Pair | None) -> Table:
    # A memory map refuses pickles and a header that promises more than the file holds, before anything is allocated.
    array = np.array(np.lib.format.open_memmap(path, mode="r"))
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise BankError(f"{path.name}: a bank is an array of real numbers, got {array.dtype}.")
    if array.ndim == 4 and array.shape[1] == 1:  # torch's (out, in / groups, k_h, k_w)
        array = array[:, 0]
    if array.ndim == 2:
        return Table(_shaped(array, size, path))
    if array.ndim != 3:
        raise BankError(f"{path.name}: a bank is an array of (templates, rows, columns), got the shape {array.shape}.")
    return Table(array)


def _read_csv(path: Path, size: Pair | None) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        numbered = [(number, row) for number, row in enumerate(csv.reader(file, strict=True), 1) if any(row)]
    if not numbered:
        raise BankError(f"{path.name}: is empty. Write one template per row.")
    first = [cell.strip().lower() for cell in numbered[0][1]]
    # A row with one bad number among good ones is an error, never a header, or it would be dropped without a word.
    header = first[0] in NAME_COLUMNS or all(_number(cell) is None for cell in first)
    body = numbered[1:] if header else numbered
    if not body:
        raise BankError(f"{path.name}: has a header and no templates. Write one template per row.")
    columns = [cell for cell in first if cell in NAME_COLUMNS] if header else []
    if header and first[: len(columns)] != columns:
        raise BankError(f"{path.name}: the columns of words ({', '.join(columns)}) must come before the taps.")
    if not header and any(_number(row[0]) is None for _, row in body):
        columns = ["name"]
    words = [dict(zip(columns, row)) for _, row in body]
    taps = [_numbers(row[len(columns) :], f"{path.name}, line {number}") for number, row in body]
    _same_length([len(row) for row in taps], [f"line {number}" for number, _ in body], path)
    if size is None and header and first[-1].startswith("r") and "c" in first[-1]:  # our own header ends with the last tap, r6c6
        last = first[-1][1:].split("c")
        if all(part.isdecimal() for part in last):
            size = int(last[0]) + 1, int(last[1]) + 1
    name_column = next((column for column in columns if column != "label"), None)
    return Table(
        _shaped(np.array(taps, dtype=np.float64), size, path),
        names=[row.get(name_column, "") for row in words] if name_column is not None else [],
        labels=[row.get("label", "") for row in words] if "label" in columns else [],
    )


def _read_text(path: Path, size: Pair | None) -> Table:
    lines = [(number, line.strip()) for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)]
    named = any(text.endswith(":") for _, text in lines)
    names, blocks, starts = list[str](), list[list[list[float]]](), list[str]()
    gap = not named
    for number, text in lines:
        if text.endswith(":") or (text and gap):
            blocks.append([])
            starts.append(f"the block at line {number}")
        if text.endswith(":"):
            names.append(text[:-1])
        elif text:
            if not blocks:
                raise BankError(f'{path.name}, line {number}: numbers before the first "NAME:". Name all templates or none.')
            blocks[-1].append(_numbers(text.replace(",", " ").split(), f"{path.name}, line {number}"))
        gap = not text and not named
    if not blocks:
        raise BankError(f'{path.name}: is empty. Write "NAME:" and the rows of the kernel for each template.')
    for block, start in zip(blocks, starts):
        if not block:
            raise BankError(f"{path.name}: {start} has no numbers.")
        _same_length([len(row) for row in block], [f"row {row} of {start}" for row in range(1, len(block) + 1)], path)
    _same_length([len(block) for block in blocks], starts, path, "rows")
    _same_length([len(block[0]) for block in blocks], starts, path, "columns")
    return Table(np.array(blocks, dtype=np.float64), names)


def _read_json(path: Path, size: Pair | None) -> Table:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict) or not isinstance(content.get("templates"), list):
        raise BankError(f'{path.name}: a bank is an object with "names" and "templates" (see filterdb bank export).')
    words: dict[str, Any] = {}
    for key, kind in {"name": str, "citation": str, "made_by": str, "names": list, "labels": list}.items():
        words[key] = content.get(key, kind())
        if not isinstance(words[key], kind) or (kind is list and not all(isinstance(word, str) for word in words[key])):
            raise BankError(f'{path.name}: "{key}" must be {"a text" if kind is str else "a list of texts"}.')
    try:
        templates = np.array(content["templates"])
    except ValueError as error:
        raise BankError(f"{path.name}: the templates are ragged; each must have the same rows and columns.") from error
    if templates.ndim != 3 or not (np.issubdtype(templates.dtype, np.floating) or np.issubdtype(templates.dtype, np.integer)):
        raise BankError(f'{path.name}: "templates" must be m lists of k_h rows of k_w numbers, got the shape {templates.shape}.')
    return Table(templates, **words)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(cells: list[str], where: str) -> list[float]:
    values = list[float]()
    for cell in cells:
        value = _number(cell)
        if value is None:
            raise BankError(f'{where}: "{cell[:40]}" is not a number.')
        values.append(value)
    return values


def _same_length(lengths: list[int], where: list[str], path: Path, unit: str = "numbers") -> None:
    for length, place in zip(lengths, where):
        if length != lengths[0]:
            raise BankError(f"{path.name}: {place} has {length} {unit}, {where[0]} has {lengths[0]}. Make them the same.")


def _shaped(taps: NDArray, size: Pair | None, path: Path) -> NDArray:
    """(m, d) as (m, k_h, k_w), a square unless a size is given."""
    count = taps.shape[1] if taps.ndim == 2 else 0
    if size is None and count and isqrt(count) ** 2 == count:
        size = isqrt(count), isqrt(count)
    if size is None or size[0] * size[1] != count:
        wanted = f"not {size_name(*size)}" if size else "not a square. Give the size"
        raise BankError(f"{path.name}: {count} numbers in a template are {wanted}.")
    return taps.reshape(-1, *size)


def _npy(table: Table) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    np.save(buffer, table.templates, allow_pickle=False)
    return buffer.getvalue()


def _csv(table: Table) -> str:
    _, kernel_h, kernel_w = table.templates.shape
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["name", "label", *(f"r{row}c{column}" for row in range(kernel_h) for column in range(kernel_w))])
    writer.writerows([name, label, *_words(k.ravel())] for name, label, k in zip(table.names, table.labels, table.templates))
    return buffer.getvalue()


def _text(table: Table) -> str:
    blocks = ("\n".join([f"{name}:", *(" ".join(_words(row)) for row in k)]) for name, k in zip(table.names, table.templates))
    return "\n\n".join(blocks) + "\n"


def _json(table: Table) -> str:
    words = {key: getattr(table, key) for key in ("name", "citation", "made_by", "names", "labels")}
    return json.dumps(words | {"templates": table.templates.astype(float).tolist()}, ensure_ascii=False, indent=1) + "\n"


def _words(values: NDArray) -> Iterator[str]:
    """The shortest decimals that read back as the same float32."""
    return (str(value) for value in values)
