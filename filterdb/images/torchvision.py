"""torchvision's own data sets, from files that are already on disk."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from filterdb.errors import DataError, InvalidArgument, not_found
from filterdb.images.image_set import ImageSet

_LABELS = ("targets", "labels", "_labels", "y")
"""Where the data sets keep their labels."""


class TorchvisionPictures:
    """The pictures of a torchvision data set."""

    def __init__(self, held: Any, name: str):
        self.held, self.name = held, name

    def __len__(self) -> int:
        return len(self.held)

    def read(self, i: int) -> Image.Image:
        """Picture i."""
        try:
            picture = self.held[i][0]
        except Exception as error:  # PIL and the readers of the data sets raise anything at all on a broken file
            raise DataError(
                f"{self.name}: image {i} is broken: {' '.join(str(error).split())}. Fetch the data set again."
            ) from error
        if not isinstance(picture, Image.Image):
            raise DataError(f"{self.name} holds {type(picture).__name__}, not pictures. Choose a set of images.")
        return picture.convert("RGB")


def open_torchvision(spec: str, split: str | None) -> ImageSet:
    """``NAME@FOLDER``: the data set ``torchvision.datasets.NAME`` whose files lie in FOLDER.

    Raises:
        InvalidArgument: no name or no folder, or a split is needed and none was named.
        NotFound: no data set of that name.
        DataError: its files are not there.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError("torchvision:... needs the package torchvision. Install it with: pip install torchvision") from error

    name, at, folder = spec.partition("@")
    if not (name and at and folder):
        raise InvalidArgument(
            f'"torchvision:{spec}" is not a data set on disk. Write torchvision:NAME@FOLDER, such as CIFAR10@data.'
        )
    known = {one: getattr(datasets, one) for one in datasets.__all__ if isinstance(getattr(datasets, one, None), type)}
    if name not in known:
        raise not_found("data set of torchvision called", name, known)
    what, make = f"torchvision:{spec}", known[name]
    options = _options(make, name, split)
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder {folder} for {what}.")
    try:
        held = make(**({"root": str(root)} if "root" in inspect.signature(make).parameters else {}), **options)
    except ValueError as error:
        raise InvalidArgument(f"{what}: {' '.join(str(error).split())}") from error
    except (RuntimeError, OSError, ImportError) as error:
        given = "".join(f", {key}={value!r}" for key, value in options.items())
        raise DataError(
            f"{what} is not whole in {folder} ({' '.join(str(error).split())[:120]}). Nothing was downloaded; to do so: "
            f"python -c \"from torchvision.datasets import {name}; {name}('{folder}'{given}, download=True)\""
        ) from error
    if len(held) == 0:
        raise DataError(f"{what} has no images.")
    classes = getattr(held, "classes", None)
    names = [" / ".join(one) if isinstance(one, tuple) else str(one) for one in classes] if isinstance(classes, list) else None
    return ImageSet(what, TorchvisionPictures(held, what), _labels(held, what), names)


def _options(make: Any, name: str, split: str | None) -> dict[str, Any]:
    """The split in the words of a data set: some take ``train``, some ``split``, some have none."""
    parameters = inspect.signature(make).parameters
    word = next((one for one in ("split", "train") if one in parameters), None)
    if word == "split" and "train" in parameters:  # EMNIST: split is which of its sets of letters
        word = "train"
    if word is None:
        if split is not None:
            raise InvalidArgument(f"torchvision's {name} has no splits: leave split {split} out.")
        return {}
    if split is None:
        raise InvalidArgument(f"torchvision's {name} has splits. Choose one, such as split train or split test.")
    if word == "split":
        return {"split": split}
    if split not in ("train", "test"):
        raise not_found(f"split of torchvision's {name}", split, ("train", "test"))
    return {"train": split == "train"}


def _labels(held: Any, what: str) -> Any:
    """The labels without decoding a picture where the data set keeps them, else by going through it."""
    found = next((getattr(held, one) for one in _LABELS if getattr(held, one, None) is not None), None)
    if found is None:
        samples = getattr(held, "samples", None) or getattr(held, "_samples", None)
        found = [sample[1] for sample in samples] if samples else [held[i][1] for i in range(len(held))]
    labels = np.asarray(found)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{what} does not have one label for each image. Choose a set for classification.")
    return labels
