"""A network with everything needed to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from filterdb.errors import InvalidArgument, not_found

if TYPE_CHECKING:
    from torch import nn

PREPROCESSING = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
"""What timm's data configuration says of the evaluation transform."""


@dataclass
class Network:
    """A module in eval mode, and how its images are to be prepared."""

    name: str
    module: nn.Module = field(repr=False)
    preprocessing: dict[str, Any]
    """timm's data configuration: input_size (3, h, w), interpolation, mean, std, crop_pct, crop_mode."""
    source: str
    """As one would type it."""
    architecture: str | None = None
    """A timm name or one of ``filterdb.sources.inverted``; None where only the module itself knows."""
    args: dict[str, Any] = field(default_factory=dict)
    """What timm builds the architecture with, besides num_classes."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What its file says besides: whatever ``save`` was given, such as the bank of its kernels."""

    @property
    def num_classes(self) -> int | None:
        """How many classes its logits have, where the module says."""
        classes = getattr(self.module, "num_classes", None)
        return classes if isinstance(classes, int) else None

    @classmethod
    def of(
        cls, module: nn.Module, preprocessing: Mapping[str, Any] | None = None, *, name: str | None = None, images: bool = True
    ) -> Network:
        """A module in memory. What timm built says itself how its images are prepared; for others, say it here.

        Args:
            images: whether it will look at images. Without them, the preprocessing may be unknown, and is then empty.

        Raises:
            InvalidArgument: nobody says how images are prepared.
            NotFound: a word in the preprocessing that timm does not know.
        """
        inner = unwrapped(module)
        told = getattr(inner, "pretrained_cfg", None) or (preprocessing or {}).get("input_size")
        if images and not told:
            raise InvalidArgument(
                f"A {type(inner).__name__} does not say how its images are prepared. Give the preprocessing, such as "
                "{'input_size': (3, 224, 224)}; what is left out is as for ImageNet."
            )
        known = preprocessing_of(inner, preprocessing) if told else checked_preprocessing(preprocessing)
        architecture, args = described(inner)
        name = name or architecture or type(inner).__name__
        report: Any = getattr(module, "frozen_report", None)
        about = {} if report is None else {"mode": report.mode}
        return cls(name, module.eval(), known, f"module:{type(inner).__name__}", architecture, args, about)


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, out of torch.compile and DataParallel."""
    wrappers = ("_orig_mod", "module")
    while (inner := next((module.get_submodule(key) for key in wrappers if set(module._modules) == {key}), None)) is not None:
        module = inner
    return module


def described(module: nn.Module) -> tuple[str | None, dict[str, Any]]:
    """What built a module: architecture and arguments (without num_classes), as far as timm, or we, left a note of it."""
    cfg = getattr(module, "pretrained_cfg", None) or {}
    architecture = cfg.get("architecture")
    args = {key: value for key, value in getattr(module, "_model_args", {}).items() if key != "num_classes"}
    return (architecture if isinstance(architecture, str) else None), args


def checked_preprocessing(said: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is said of the preprocessing, in words that timm knows."""
    for key in said or {}:
        if key not in PREPROCESSING:
            raise not_found("word of the preprocessing called", key, PREPROCESSING)
    return {key: value for key, value in (said or {}).items() if value is not None}


def preprocessing_of(module: nn.Module, said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """timm's data configuration of a module, with what is said of it here."""
    from timm.data import resolve_model_data_config

    known = resolve_model_data_config(module) | checked_preprocessing(said)
    size = known["input_size"]
    if not (isinstance(size, list | tuple) and len(size) == 3 and all(isinstance(side, int) and side > 0 for side in size)):
        raise InvalidArgument(f"The input_size {size!r} is not channels, height and width, such as (3, 224, 224).")
    return {key: tuple(value) if isinstance(value := known[key], list) else value for key in PREPROCESSING}
