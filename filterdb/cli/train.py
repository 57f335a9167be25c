"""``filterdb train``: networks whose depthwise kernels are frozen, or come from a bank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from filterdb.cli.output import print_json
from filterdb.cli.progress import Bar
from filterdb.cli.shared import Db, Json, open_database

Number = Annotated[int, typer.Option(min=0)]


def train(
    context: typer.Context,
    data: Annotated[
        str, typer.Option(help="Labelled images: a folder with one folder per class, Parquet files or torchvision:NAME@FOLDER.")
    ],
    val_data: Annotated[str, typer.Option(help="Images to validate on after each epoch.")],
    out: Annotated[Path, typer.Option(help="Folder of the run. A stopped run is resumed.")],
    recipe: Annotated[
        str | None, typer.Option(help="Settings to start from: demo or a TOML file. Flags override them.")
    ] = None,
    model: Annotated[str, typer.Option(help="timm architecture, or demo.")] = "convnextv2_femto",
    mode: Annotated[
        str, typer.Option(help="Depthwise kernels: trainable, frozen, frozen+bias, frozen+gain+bias, dog-init or random-frozen.")
    ] = "trainable",
    bank: Annotated[str | None, typer.Option(help="Bank whose templates replace the depthwise kernels.")] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle the taps of the templates, as a control.")] = False,
    signed: Annotated[bool, typer.Option("--signed", help="Allow only positive gains.")] = False,
    weights: Annotated[str | None, typer.Option(help="Initialise from these weights: timm:NAME or a file.")] = None,
    filters: Annotated[str | None, typer.Option(help="Initialise only the depthwise kernels, from this network.")] = None,
    transfer_layers: Annotated[
        int | None, typer.Option(help="Only the first so many depthwise layers take --filters, frozen; the rest are trained.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the training data.")] = None,
    val_split: Annotated[str | None, typer.Option(help="Split of the validation data.")] = None,
    val_limit: Annotated[int | None, typer.Option(help="Maximum number of validation images.", min=1)] = None,
    train_images: Annotated[int | None, typer.Option(help="Number of training images, balanced over the classes.", min=1)] = None,
    input_size: Annotated[int | None, typer.Option(help="Side of the images in pixels. Default: the architecture's.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 100,
    batch_size: Annotated[int, typer.Option(help="Images per batch and process.", min=1)] = 128,
    accumulate: Annotated[int, typer.Option(help="Batches per optimiser step.", min=1)] = 1,
    opt: Annotated[str, typer.Option(help="Optimiser, by timm's name.")] = "adamw",
    opt_betas: Annotated[tuple[float, float] | None, typer.Option(help="Betas of Adam. Default: the optimiser's.")] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    weight_decay: float = 0.05,
    layer_decay: Annotated[float | None, typer.Option(help="Factor of the learning rate from layer to layer.")] = None,
    forget: Annotated[
        float | None, typer.Option(help="Decay the initial kernels by exp(-FORGET) over the run, so that shapes appear early.")
    ] = None,
    sched: Annotated[str, typer.Option(help="Learning rate schedule, by timm's name.")] = "cosine",
    warmup_epochs: Number = 5,
    min_lr: float = 0.0,
    clip_grad: Annotated[float | None, typer.Option(help="Maximum norm of the gradients. 0 for no limit.")] = 1.0,
    smoothing: Annotated[float, typer.Option(help="Label smoothing.")] = 0.1,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    aa: Annotated[str | None, typer.Option(help="timm's auto-augmentation, such as rand-m9-mstd0.5-inc1.")] = None,
    reprob: Annotated[float, typer.Option(help="Probability of random erasing.")] = 0.0,
    scale: Annotated[tuple[float, float], typer.Option(help="Area of random crops.")] = (0.35, 1.0),
    hflip: float = 0.5,
    drop_path: float = 0.0,
    ema: Annotated[
        float | None, typer.Option(help="Decay of an average of the weights (EMA), which is then evaluated and saved.")
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Use half precision.")] = False,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Use the channels-last memory layout.")] = False,
    seed: int = 0,
    workers: Annotated[int, typer.Option(help="Extra processes that decode and augment images.", min=0)] = 0,
    device: Annotated[str | None, typer.Option(help="torch device. Default: the GPU if there is one.")] = None,
    evaluate_every: Annotated[int, typer.Option(help="Epochs between evaluations.", min=1)] = 1,
    save_seconds: Annotated[
        float, typer.Option(help="Seconds between saved states within an epoch. Each epoch ends with one.", min=0)
    ] = 600,
    keep_every: Annotated[int | None, typer.Option(help="Epochs between checkpoints of the kernels.", min=1)] = None,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Store the run in the tables runs and metrics.")] = True,
    db: Db = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Train a network with frozen or trainable depthwise kernels.

    The same command resumes a run that was stopped."""
    from filterdb.images import Images
    from filterdb.training import Saving, Settings

    given = {name: value for name, value in context.params.items() if name in Settings.__dataclass_fields__}
    given["clip_grad"] = clip_grad or None
    if recipe is not None:
        said = {name for name in given if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"}
        chosen = Settings.recipe(recipe, **{name: given[name] for name in said})
    else:
        chosen = Settings.of(**given)
    database = open_database(db)
    with Bar(quiet=as_json) as bar:
        found = database.train(
            chosen, Images(data, split, workers=workers), Images(val_data, val_split, limit=val_limit), out,
            saving=Saving(evaluate_every, save_seconds, keep_every), device=device, keep=keep, progress=bar,
        )  # fmt: skip
    if as_json:
        print_json({
            "run_id": found.run_id, "path": str(found.path), "top1": found.top1, "epochs": found.epochs,
            "resumed": found.resumed, "seconds": found.seconds, "metrics": found.metrics,
        })  # fmt: skip
        return
    resumed = f", resumed at epoch {found.resumed}" if found.resumed else ""
    print(f"top-1 {100 * found.top1:.2f} % after {found.epochs} epochs{resumed}, {found.seconds:.0f} s: {found.path}")
    print(f"its kernels over time: filterdb ingest run:{out / 'checkpoints'} --name {out.name}")
