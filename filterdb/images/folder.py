"""Pictures in a folder: one sub-folder for each class, or side by side and unlabelled."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from filterdb.errors import DataError, not_found
from filterdb.images.image_set import ImageSet, decode

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jpe"})
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""The words for each split."""


class FolderPictures:
    """Picture files by their paths."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> Image.Image:
        """Picture i."""
        try:
            with self.paths[i].open("rb") as file:
                return decode(file, str(self.paths[i]))
        except OSError as error:
            raise DataError(f"{self.paths[i]} cannot be read: {error.strerror}.") from error


def words_of(split: str) -> tuple[str, ...]:
    """All words for a split: asked for ``val``, a folder may say ``validation``."""
    return next((words for words in SPLITS.values() if split.lower() in words), (split.lower(),))


def open_folder(folder: Path, split: str | None) -> ImageSet:
    """The pictures of a folder.

    Raises:
        DataError: no pictures, or several splits and none was named.
        NotFound: no split of that name.
    """
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    splits = {path.name: path for path in below if any(path.name.lower() in words for words in SPLITS.values())}
    if split is not None:
        chosen = next((path for path in below if path.name.lower() in words_of(split)), None)
        if chosen is None:
            raise not_found(f"split of {folder}", split, splits)
        return open_folder(chosen, None)
    if splits and len(splits) == len(below):
        raise DataError(f"{folder} has the splits {', '.join(splits)}. Choose one, such as split {next(iter(splits))}.")
    found = {path.name: _pictures(path, deep=True) for path in below}
    if any(found.values()):
        paths = [path for pictures in found.values() for path in pictures]
        # an empty folder is a class too: skipping it would shift the labels of all after it
        labels = [label for label, pictures in enumerate(found.values()) for _ in pictures]
        return ImageSet(str(folder), FolderPictures(paths), labels, list(found))
    flat = _pictures(folder, deep=False)
    if not flat:
        raise DataError(f"{folder} has no images. It needs a sub-folder of pictures for each class, or Parquet files.")
    return ImageSet(
        str(folder), FolderPictures(flat), None, unlabelled="its pictures lie side by side, not in a folder for each class"
    )


def _pictures(folder: Path, *, deep: bool) -> list[Path]:
    """The picture files of a folder, sorted."""
    paths = folder.rglob("*") if deep else folder.glob("*")
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."))
