"""``filterdb evaluate``: networks on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filterdb.cli.output import print_json
from filterdb.cli.progress import Bar
from filterdb.cli.shared import Db, Json, MatchKeys, open_database
from filterdb.errors import InvalidArgument

if TYPE_CHECKING:
    from filterdb.images import Images
    from filterdb.networks.evaluation import Evaluation

Data = Annotated[
    str,
    typer.Option(
        help="Images: a folder with one folder per class, Parquet files with image and label, or torchvision:NAME@FOLDER."
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        help="Architecture of a file that does not name it: a timm name, mcunet_in3, proxyless_w0.3, or your own code as "
        "file.py:function or package.module:function."
    ),
]
Split = Annotated[str | None, typer.Option(help="Split of the data.")]
Part = Annotated[
    str | None, typer.Option(help="Random part of the images as K/N, with K from 0. 0/2 and 1/2 are the two halves.")
]
Limit = Annotated[int | None, typer.Option("--limit", help="Maximum number of images, drawn at random.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of --part and --limit.")]
BatchSize = Annotated[int, typer.Option(help="Images per batch.", min=1)]
Workers = Annotated[int, typer.Option(help="Extra processes that decode images.", min=0)]
Device = Annotated[str | None, typer.Option(help="torch device, such as cpu or cuda. Default: the GPU if there is one.")]
Amp = Annotated[bool, typer.Option("--amp", help="Use half precision: bfloat16, or float16 on GPUs without it.")]
ChannelsLast = Annotated[bool, typer.Option("--channels-last", help="Use the channels-last memory layout.")]
InputSize = Annotated[int | None, typer.Option(help="Side of the images in pixels. Default: the model's.", min=1)]
CropPct = Annotated[
    float | None, typer.Option(help="Side of the crop over the side before cropping. Default: the model's.", min=0.01)
]
Preprocessing = Annotated[
    list[str] | None,
    typer.Option(
        "--preprocessing",
        help="How images are prepared, as NAME=VALUE: mean=.5,.5,.5, std, interpolation, crop_mode. Repeatable.",
    ),
]


def images_of(
    data: str, split: str | None, part: str | None, limit: int | None, seed: int, batch_size: int | None, workers: int,
    preprocessing: dict[str, Any] | None = None,
) -> Images:  # fmt: skip
    """The images that the flags of a command mean."""
    from filterdb.images import Images

    return Images(data, split, part, limit, seed, batch_size, workers, preprocessing)


def preprocessing_of(input_size: int | None, crop_pct: float | None, said: list[str] | None) -> dict[str, Any] | None:
    """What the three flags say of the preprocessing; None where they say nothing.

    >>> preprocessing_of(32, None, ["mean=.5,.5,.5", "interpolation=bilinear"])
    {'input_size': (3, 32, 32), 'mean': (0.5, 0.5, 0.5), 'interpolation': 'bilinear'}
    """
    found: dict[str, Any] = {"input_size": (3, input_size, input_size) if input_size else None, "crop_pct": crop_pct}
    for text in said or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidArgument(f'"{text}" says nothing of the preprocessing. Write NAME=VALUE, such as mean=.5,.5,.5.')
        found[name] = _value(name, value)
    return {name: value for name, value in found.items() if value is not None} or None


def _value(name: str, text: str) -> Any:
    """Words as they are; numbers, and tuples of them, as such."""
    if name in ("interpolation", "crop_mode"):
        return text
    kind = int if name == "input_size" else float
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidArgument(f'"{text}" is no {name}. Write numbers with commas, such as {name}=.5,.5,.5.') from error
    return numbers[0] if len(numbers) == 1 else numbers


def evaluate(
    model: Annotated[str, typer.Argument(help="timm:NAME, hf:OWNER/NAME, a checkpoint file, or demo.")],
    data: Data,
    architecture: Architecture = None,
    match_keys: MatchKeys = "name",
    original: Annotated[str | None, typer.Option(help="Original network, for agreement and KL divergence.")] = None,
    split: Split = None, part: Part = None, limit: Limit = None, seed: Seed = 0,
    batch_size: BatchSize = 64, workers: Workers = 0, device: Device = None, amp: Amp = False,
    channels_last: ChannelsLast = False, input_size: InputSize = None, crop_pct: CropPct = None,
    preprocessing: Preprocessing = None,
    bank: Annotated[str | None, typer.Option(help="Bank to note in the table runs. Default: the one named in the file.")] = None,
    mode: Annotated[str | None, typer.Option(help="Mode to note in the table runs. Default: the one named in the file.")] = None,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Store the result in the tables runs and metrics.")] = True,
    db: Db = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Measure a network's accuracy on images. Also its loss, and its agreement with the original network."""
    from filterdb.database.run_verbs import About

    database, said = open_database(db), preprocessing_of(input_size, crop_pct, preprocessing)
    with Bar(quiet=as_json) as bar:
        found = database.evaluate(
            model, images_of(data, split, part, limit, seed, batch_size, workers, said),
            architecture=architecture, match_keys=match_keys, original=original, device=device, amp=amp,  # type: ignore[arg-type]
            channels_last=channels_last, about=About(bank, mode), keep=keep, progress=bar,
        )  # fmt: skip
    if as_json:
        return print_json(found.to_dict())
    _print(found, Path(database.place.uri))
    return None


def _print(found: Evaluation, place: Path) -> None:
    """The numbers for people: shares in percent."""
    percents = {
        "top1": (found.top1, found.top1_se), "top1_difference": (found.top1_difference, found.top1_difference_se),
        "top5": (found.top5, found.top5_se), "agreement": (found.agreement, found.agreement_se),
    }  # fmt: skip
    nats = {"loss": found.loss, "kl": found.kl}
    lines = [
        (name, f"{100 * value:.2f} %", f"{name}_se {100 * error:.2f} %")
        for name, (value, error) in percents.items() if value is not None and error is not None
    ]  # fmt: skip
    lines += [(name, f"{value:.4f} nats", "") for name, value in nats.items() if value is not None]
    width = max(len(name) for name, *_ in lines)
    for name, text, error in lines:
        print(f"{name:<{width}}  {text:>12}  {error}".rstrip())
    for note in (*found.notes, *([found.warning] if found.warning else [])):
        print(note)
    kept = f"; kept as {found.run_id} in {place}" if found.run_id else ""
    print(f"{found.images:,} images on {found.device}{kept}, {found.seconds:.1f} s")
