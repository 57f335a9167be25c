"""The options of a source, and the models that it names before they are opened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from filterdb.errors import InvalidArgument
from filterdb.store.schema import Model, ModelFacts

Progress = Callable[[int, int | None], None]
"""Called with the bytes moved so far and the bytes in all (None where unknown)."""


_FACTS = ("dataset", "pretrain_dataset", "task", "step", "licence", "top1", "architecture")
"""The options that are facts of the model."""


@dataclass(frozen=True)
class Options:
    """The user's options for a source. A fact given here overrides the source's own."""

    name: str | None = None
    dataset: str | None = None
    pretrain_dataset: str | None = None
    task: str | None = None
    step: int | None = None
    licence: str | None = None
    top1: float | None = None
    architecture: str | None = None
    """timm's architecture name (or mcunet_in3, proxyless_w0.3), for a file that does not say: strides, paddings and stages."""
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for ``timm.create_model``, where the network is a variation of the architecture."""
    weights: Literal["auto", "ema", "raw"] = "auto"
    """Which of two weight sets in one file: "auto" takes the moving average (EMA) where there is one."""
    pointwise: bool = False
    """Store 1x1 depthwise layers too."""
    stem: bool = False
    """Store all kernels of the first ordinary convolution too, in the table ``regular``."""
    regular: int = 0
    """So many kernels of the other ordinary convolutions, drawn evenly from their layers, in the table ``regular``."""

    def __post_init__(self) -> None:
        if self.weights not in ("auto", "ema", "raw"):
            raise InvalidArgument(f'"{self.weights}" is not a choice of weights. Choose auto, ema or raw.')
        if self.regular < 0:
            raise InvalidArgument(f"regular = {self.regular}: give a number of kernels, or 0 for none.")

    @property
    def ordinary(self) -> bool:
        """Whether kernels of ordinary convolutions are wanted."""
        return self.stem or self.regular > 0

    def facts(self, known: ModelFacts) -> ModelFacts:
        """The known facts, overridden by the user's."""
        said = {name: getattr(self, name) for name in _FACTS}
        return replace(known, **{name: value for name, value in said.items() if value is not None})

    def over(self, facts: Mapping[str, Any]) -> Options:
        """The facts of a recipe or a run as options, overridden by what the user says."""
        plain = Options()
        said = {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != getattr(plain, one.name)}
        return replace(plain, **{**facts, **said})


@dataclass(frozen=True)
class Pending:
    """A model that was named and not yet opened."""

    source: str
    """The source as a user types it: ``timm:convnextv2_atto.fcmae_ft_in1k``."""
    name: str | None
    """The model's name, where it is known before opening."""
    open: Callable[[Progress | None], contextlib.AbstractContextManager[Model]]
    """Opens the model; its kernels are read while the context lasts."""
    run: str | None = None
    """The source of the run that a checkpoint belongs to: one name is enough for all of them, each adds its step to it."""


def things(pending: Iterable[Pending]) -> int:
    """How many things a single name would have to stand for: models, and runs, each with all its checkpoints."""
    return len({one.run or id(one) for one in pending})
