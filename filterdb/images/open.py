"""Opens the set of images that a source names."""

from __future__ import annotations

from pathlib import Path

from filterdb.errors import DataError
from filterdb.images.folder import SUFFIXES, open_folder
from filterdb.images.image_set import ImageSet
from filterdb.images.parquet import open_parquet
from filterdb.images.torchvision import open_torchvision

TORCHVISION = "torchvision:"
_KINDS = "Give a folder of images, Parquet files, or torchvision:NAME@FOLDER."


def open_images(data: str, *, split: str | None = None) -> ImageSet:
    """A set of images.

    Args:
        data: a folder with a sub-folder of pictures for each class (pictures side by side are unlabelled); a Parquet file, a glob
            or a folder of such files in the Hugging Face layout; or ``torchvision:NAME@FOLDER``.
        split: which split, where there are several: a sub-folder, a word in the files' names, or torchvision's word. ``val``
            also finds ``validation``.

    Returns:
        The set; its pictures are decoded when they are asked for.

    Raises:
        DataError: nothing there, no images, files that cannot be read or do not belong together, a split to be named.
        NotFound: no such split or torchvision data set.
        InvalidArgument: a text that names nothing.
    """
    if data.startswith(TORCHVISION):
        return open_torchvision(data.removeprefix(TORCHVISION), split)
    path = Path(data).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.parquet") if file.is_file())
        return open_parquet(data, files, split, path) if files else open_folder(path, split)
    if path.is_file():
        if path.suffix.lower() in SUFFIXES:
            raise DataError(f"{data} is one picture. Give the folder that holds it.")
        if path.suffix.lower() != ".parquet":
            raise DataError(f"{data} is not a data set of images. {_KINDS}")
        return open_parquet(data, [path], split)
    if any(sign in data for sign in "*?["):
        base = path.anchor or "."
        pattern = str(path.relative_to(path.anchor)) if path.anchor else str(path)
        files = sorted(file for file in Path(base).glob(pattern) if file.is_file())
        if not files:
            raise DataError(f"No file matches {data}. {_KINDS}")
        return open_parquet(data, files, split)
    raise DataError(f"There is no {data}. {_KINDS}")
