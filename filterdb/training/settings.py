"""The settings of a training. Names are timm's where timm has them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filterdb.errors import InvalidArgument, not_found
from filterdb.share import folder
from filterdb.sources import own

MODES = {
    "trainable": "all weights are trained, the ordinary way",
    "frozen": "the depthwise kernels stay as they start",
    "frozen+bias": "the kernels stay, one trained number for each channel is added to all taps (x + b)",
    "frozen+gain+bias": "the kernels stay but for a trained gain and a trained number added to all taps",
    "dog-init": "all weights are trained; kernels start as differences of Gaussians, crosses and derivatives",
    "random-frozen": "kernels stay as they were drawn, each its own, with a trained number added to all taps: a control",
}
"""The treatment of the depthwise kernels."""
FROZEN = ("frozen", "frozen+bias", "frozen+gain+bias", "random-frozen")


@dataclass(frozen=True)
class Settings:
    """The settings that change the numbers of a training. Where it runs and what it writes is not here."""

    model: str
    """A timm architecture, or one that ``filterdb.networks.load`` knows by a recipe's name, such as demo."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for ``timm.create_model``."""
    mode: str = "trainable"
    bank: str | None = None
    """The templates that the kernels become: the closest ones where they are trained already, else drawn at random."""
    shuffle: bool = False
    """Shuffle the taps of each template: a control with the same numbers and no shape."""
    signed: bool = False
    """Only positive gains where kernels are matched with the bank."""
    weights: str | None = None
    """A source to start from with all weights."""
    filters: str | None = None
    """A source to take the depthwise kernels from, and nothing else."""
    transfer_layers: int | None = None
    """Only the first so many depthwise layers take the kernels of ``filters``, and these are frozen; the other layers are
    trained from their own start. The mode says what else of the frozen ones is trained: nothing, offsets, or gains too."""
    train_images: int | None = None
    """Train on that many images, as many of each class as possible."""
    input_size: int | None = None
    """Side of the images, px; by default as the architecture says."""
    epochs: int = 100
    batch_size: int = 128
    accumulate: int = 1
    """Batches whose gradients make one step."""
    opt: str = "adamw"
    opt_betas: tuple[float, float] | None = None
    """Of Adam and its kin; by default the optimiser's own."""
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float | None = None
    forget: float | None = None
    """The start of the depthwise kernels decays by exp(-forget) over the run, and their gradients have the same size in every
    layer, so that a short run shows the shapes of kernels (see ``training.kernel_gradients``). None trains them as all else."""
    sched: str = "cosine"
    warmup_epochs: int = 5
    min_lr: float = 0.0
    clip_grad: float | None = 1.0
    smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    aa: str | None = None
    """timm's automatic augmentation, such as rand-m9-mstd0.5-inc1."""
    reprob: float = 0.0
    scale: tuple[float, float] = (0.35, 1.0)
    """Area of the random crops."""
    hflip: float = 0.5
    drop_path: float = 0.0
    ema: float | None = None
    """Decay of an exponential moving average of the weights; it is what is evaluated and saved."""
    amp: bool = False
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise not_found("mode", self.mode, MODES)
        if self.mode in ("dog-init", "random-frozen"):
            given = [name for name in ("bank", "weights", "filters") if getattr(self, name) is not None]
            if given:
                raise InvalidArgument(
                    f'The mode "{self.mode}" makes its kernels itself: leave --{given[0]} out, or take frozen+bias.'
                )
        if self.transfer_layers is not None:
            self._check_transfer(self.transfer_layers)
        if self.shuffle and self.bank is None:
            raise InvalidArgument("There is no bank whose taps to shuffle. Name one with --bank.")
        if self.mode in FROZEN and self.mode != "random-frozen" and self.bank is None and not (self.weights or self.filters):
            raise InvalidArgument(
                f'The mode "{self.mode}" needs kernels to freeze: name a --bank, or --filters of another network, or start from '
                "--weights. For kernels as they are drawn take random-frozen."
            )
        for name in ("epochs", "batch_size", "accumulate", "lr", "train_images", "input_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidArgument(f"{name} is {value}: it must be more than 0.")
        if self.forget is not None and self.forget <= 0:
            raise InvalidArgument(f"forget is {self.forget}: it must be more than 0, such as 8.")
        if self.forget is not None and (self.layer_decay is not None or self.mode in FROZEN):
            other = f'the mode "{self.mode}"' if self.mode in FROZEN else "layer_decay"
            raise InvalidArgument(f"forget is for kernels that train at one rate: leave it out with {other}.")
        for name in ("weight_decay", "warmup_epochs", "smoothing", "mixup", "cutmix", "reprob", "drop_path", "min_lr"):
            if getattr(self, name) < 0:
                raise InvalidArgument(f"{name} is {getattr(self, name)}: it must not be less than 0.")
        if self.warmup_epochs >= self.epochs:
            raise InvalidArgument(f"{self.warmup_epochs} warm-up epochs leave none of {self.epochs} to train. Warm up for fewer.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InvalidArgument(f"ema is {self.ema}: a decay lies between 0 and 1, such as 0.999.")

    def _check_transfer(self, layers: int) -> None:
        if layers < 0:
            raise InvalidArgument(f"transfer_layers is {layers}: it must not be less than 0.")
        if self.filters is None:
            raise InvalidArgument(
                f"transfer_layers is {layers}, and there is no network to transfer from. Name it with --filters."
            )
        if self.bank is not None:
            raise InvalidArgument("transfer_layers transfers kernels as they are: leave --bank out.")
        if self.forget is not None:
            raise InvalidArgument("forget is for networks whose kernels all train: leave it out with transfer_layers.")

    @classmethod
    def recipe(cls, name: str | os.PathLike[str], **settings: Any) -> Settings:
        """The settings of a training recipe, such as "demo", or of a TOML file of your own; ``settings`` replace some of them.

        Raises:
            NotFound: no recipe or setting of that name.
            InvalidArgument: a file that is not such TOML.
        """
        path = Path(os.fspath(name)).expanduser()
        if str(name) in recipes() and not path.exists():
            path = folder("data") / "training" / f"{name}.toml"
        elif not path.is_file():
            raise not_found("training recipe", str(name), recipes())
        try:
            said = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"{path} is not a training recipe: {' '.join(str(error).split())}.") from error
        own.refuse(said.get("model"), str(path))
        return cls.of(**said | settings)

    @classmethod
    def of(cls, **settings: Any) -> Settings:
        """Settings by their names, as they come from a file or a user.

        Raises:
            NotFound: no setting of that name.
            InvalidArgument: values that make no sense, or no model.
        """
        for name in settings:
            if name not in cls.__dataclass_fields__:
                raise not_found("setting of a training", name, cls.__dataclass_fields__)
        if "model" not in settings:
            raise InvalidArgument("A training needs a model: a timm architecture, or demo.")
        pairs = {name: tuple(settings[name]) for name in ("opt_betas", "scale") if isinstance(settings.get(name), list)}
        return cls(**settings | pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the table and for checkpoints."""
        pairs = {name: value and list(value) for name, value in (("opt_betas", self.opt_betas), ("scale", self.scale))}
        return asdict(self) | {"args": dict(self.args)} | pairs


@dataclass(frozen=True)
class Saving:
    """How often a training is evaluated, and what it keeps while it runs."""

    evaluate_every: int = 1
    """Epochs between evaluations; the last epoch always ends with one."""
    save_seconds: float = 600
    """The least time between states that are kept within an epoch; at its end one is kept anyway."""
    keep_every: int | None = None
    """Epochs between checkpoints of the kernels, ``run:OUT/checkpoints`` for ingest; by default ten of a run, closer at its
    start."""


def recipes() -> list[str]:
    """The training recipes that come with filterdb."""
    return sorted(path.stem for path in (folder("data") / "training").glob("*.toml"))
