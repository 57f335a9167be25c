"""Pictures in Parquet files as the Hugging Face hub keeps them: columns image{bytes, path} and label, names in the schema."""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from filterdb.errors import DataError, not_found
from filterdb.images.folder import SPLITS, words_of
from filterdb.images.image_set import ImageSet, decode

IMAGES = ("image", "img", "images", "picture", "photo")
"""Names of the image column, where the schema does not say which it is."""
LABELS = ("label", "labels", "fine_label", "class", "target")
"""Names of the label column, where the schema does not say which it is; the finer one of CIFAR-100."""
KEPT = 512 * 2**20
"""Bytes of encoded pictures that each process keeps at most. Larger sets are fast to read in order, slow at random."""


class ParquetPictures:
    """Pictures by their row, read by whole row groups, of which the last used are kept."""

    def __init__(self, files: Sequence[Path], column: str):
        self.files, self.column = list(files), column
        facts = [pq.read_metadata(file) for file in self.files]
        self._groups = [(f, g) for f, fact in enumerate(facts) for g in range(fact.num_row_groups)]
        rows = [0, *(facts[f].row_group(g).num_rows for f, g in self._groups)]
        self._starts = np.cumsum(rows, dtype=np.int64)
        self._kept: OrderedDict[int, pa.Array] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}  # a worker reads what it needs itself

    def read(self, i: int) -> Image.Image:
        """The picture of row i."""
        number = int(np.searchsorted(self._starts, i, "right")) - 1
        f, g = self._groups[number]
        file, first = self.files[f], int(self._starts[number - g])
        cell = self._group(number)[i - int(self._starts[number])].as_py()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        what = f"{file}: the image of row {i - first}{f' ({path})' if path else ''}"
        if content is not None:
            return decode(content, what)
        if path is None:
            raise DataError(f"{what} is missing. Take the row out.")
        try:
            with (file.parent / path).open("rb") as opened:
                return decode(opened, what)
        except OSError as error:
            raise DataError(f"{what} has no bytes, and its file cannot be read: {error.strerror}.") from error

    def _group(self, number: int) -> pa.Array:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        f, g = self._groups[number]
        try:
            # without threads: this runs in forked workers too
            read = pq.ParquetFile(self.files[f]).read_row_group(g, columns=[self.column], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.files[f]} cannot be read: {_line(error)}. Fetch it again.") from error
        self._kept[number] = column = read[self.column].combine_chunks()
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > KEPT:
            self._kept.popitem(last=False)
        return column


def open_parquet(name: str, files: Sequence[Path], split: str | None, root: Path | None = None) -> ImageSet:
    """The rows of Parquet files of one layout, in the order of the files.

    Args:
        name: as the user typed it.
        files: all Parquet files it stands for.
        split: only files that have this word in their paths below the root.
        root: the folder that was named; by default the one that holds all the files.

    Raises:
        DataError: no file, no image column, files that differ, several splits and none was named.
        NotFound: no split of that name.
    """
    root = root or Path(os.path.commonpath([file.absolute().parent for file in files]))
    files = _of_split(name, sorted(files), split, root)
    schemas = [_schema(file) for file in files]
    image, label = _columns(schemas[0], name)
    names = _class_names(schemas[0], label)
    for file, schema in zip(files, schemas, strict=True):
        if _columns(schema, str(file)) != (image, label) or _class_names(schema, label) != names:
            raise DataError(
                f"{file} and {files[0]} have other columns or classes: they are not shards of one set. Name one of them."
            )
    pictures = ParquetPictures(files, image)
    if len(pictures) == 0:
        raise DataError(f"{name} has no images: its files have no rows.")
    if label is None:
        return ImageSet(name, pictures, None, unlabelled=f"it has no label column, only {', '.join(schemas[0].names)}")
    labels, names = _labels(files, label, names, name)
    return ImageSet(name, pictures, labels, names)


def _of_split(name: str, files: list[Path], split: str | None, root: Path) -> list[Path]:
    """The files of a split, by the words in their paths below the root."""
    words = {file: set(re.findall(r"[a-z0-9]+", str(file.absolute().relative_to(root.absolute())).lower())) for file in files}
    known = {file: [one for one, synonyms in SPLITS.items() if words[file] & set(synonyms)] for file in files}
    if split is not None:
        chosen = [file for file in files if words[file] & set(words_of(split))]
        if not chosen:
            raise not_found(f"split of {name}", split, {one for ones in known.values() for one in ones})
        return chosen
    there = {tuple(ones) for ones in known.values()}
    if len(there) > 1 and all(there):
        splits = sorted({one for ones in there for one in ones})
        raise DataError(f"{name} has the splits {', '.join(splits)}. Choose one, such as split {splits[0]}.")
    return files


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} is not a whole Parquet file: {_line(error)}. Fetch it again.") from error


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What the Hugging Face library wrote of the columns."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: one for name, one in features.items() if isinstance(one, dict)} if isinstance(features, dict) else {}


def _columns(schema: pa.Schema, what: str) -> tuple[str, str | None]:
    """The image column, and the label column if there is one."""

    def choose(kind: str, usual: Sequence[str]) -> str | None:
        said = [name for name, one in _features(schema).items() if one.get("_type") == kind]
        best = [name for name in usual if name in said]  # of several, as CIFAR-100 has, the usual one
        return next((name for name in (*best, *said, *usual) if name in schema.names), None)

    image = choose("Image", IMAGES)
    if image is None:
        raise DataError(f"{what} has no image column: its columns are {', '.join(schema.names)}. Name the column image.")
    kind = schema.field(image).type
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise DataError(f"{what}: the column {image} holds {kind}, not image{{bytes, path}} or the bytes of a picture's file.")
    return image, choose("ClassLabel", LABELS)


def _class_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    names = _features(schema).get(label or "", {}).get("names")
    return [str(name) for name in names] if isinstance(names, list) and names else None


def _labels(files: Sequence[Path], column: str, names: list[str] | None, what: str) -> tuple[Any, list[str] | None]:
    """The labels as integers, and the names of the classes; labels that are text are classes by their names, sorted."""
    values = pa.concat_tables([pq.read_table(file, columns=[column]) for file in files])[column]
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        names = names or sorted({value for value in values.to_pylist() if value is not None})
        places = {name: place for place, name in enumerate(names)}
        return [places.get(value, -1) for value in values.to_pylist()], names
    if not pa.types.is_integer(values.type):
        raise DataError(f"{what}: the column {column} holds {values.type}, not whole numbers or names.")
    labels = values.fill_null(-1).to_numpy().astype(np.int64)
    if names is not None and len(labels) and labels.max() >= len(names):
        raise DataError(
            f"{what}: the label {labels.max()} is beyond the {len(names)} classes that its schema names. Fix the file."
        )
    if len(labels) and labels.min() < -1:
        raise DataError(f"{what}: the label {labels.min()} is negative; only -1, for none, may be. Fix the file.")
    return labels, names


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
