"""The data sets in timm's pretrained tags: ``fcmae_ft_in22k_in1k`` was last trained on ImageNet-1k, before on 22k.

The rule: the words of a tag that name a data set, in their order, are the trainings; the last is ``dataset``, the one before it
is ``pretrain_dataset``. Two words in a row for the same data set are two trainings only where a fine-tuning lies between them.
A tag without such a word says nothing (null).
"""

from __future__ import annotations

import csv
from functools import cache

from filterdb.share import folder

DATASETS = {
    "in1k": "imagenet-1k", "in12k": "imagenet-12k", "in21k": "imagenet-21k", "inw21k": "imagenet-21k-winter",
    "in22k": "imagenet-22k", "laion2b": "laion-2b", "laiona": "laion-aesthetic", "openai": "wit-400m", "jft": "jft-300m",
    "datacomp1b": "datacomp-1b", "datacompxl": "datacomp-xl", "dfndr2b": "dfndr-2b", "dfn2b": "dfn-2b", "dfn5b": "dfn-5b",
    "mclip": "datacompdr-1b", "lvd142m": "lvd-142m", "lvd1689m": "lvd-1689m", "sat493m": "sat-493m", "webli": "webli",
    "metaclip": "metaclip-400m", "florence2": "fld-5b", "cc12m": "cc-12m", "yfcc15m": "yfcc-15m",
}  # fmt: skip
"""Words of timm's tags that name the images of a training."""

METHODS = {"fcmae": "imagenet-1k"}
"""Words that name a self-supervised training, and the images it had: FCMAE is ConvNeXt V2's, always on ImageNet-1k."""


def datasets(tag: str) -> tuple[str | None, str | None]:
    """The data sets of the last training and of the one before.

    >>> datasets("fcmae_ft_in22k_in1k_384"), datasets("fcmae"), datasets("fcmae_ft_in1k")
    (('imagenet-1k', 'imagenet-22k'), ('imagenet-1k', None), ('imagenet-1k', 'imagenet-1k'))
    >>> datasets("clip_laion2b_augreg_ft_in12k"), datasets("fb_dist_in1k"), datasets("gemma3n")
    (('imagenet-12k', 'laion-2b'), ('imagenet-1k', None), (None, None))
    """
    known = {**DATASETS, **METHODS}
    trainings = [known[word] for word in tag.lower().split("_") if word in known]
    last = trainings[-1] if trainings else None
    return last, trainings[-2] if len(trainings) > 1 else None


@cache
def _published() -> dict[str, float]:
    path = folder("data") / "top1.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["model"]: float(row["top1"]) for row in csv.DictReader(file)}


def top1(model: str) -> float | None:
    """The published ImageNet top-1 accuracy of a model in per cent, where ``data/top1.csv`` has it."""
    return _published().get(model)
