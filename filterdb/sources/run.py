"""A training run: ``run:FOLDER``, a folder of checkpoints of one network, each a model called RUN@STEP.

A checkpoint is a file in the folder, or the weights in a folder below it that carries the number
(``checkpoint-500/model.safetensors``). Its step is what the metadata of a safetensors file says, else the number in its name.
Every step is a model of its own because a filter's id is a hash of the model's name, and no two steps may share ids. A file
``run.toml`` in the folder holds facts for all checkpoints, as the top of a recipe does.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from filterdb.errors import FilterdbError, InvalidArgument, SourceError
from filterdb.sources import recipes
from filterdb.sources.local import SUFFIXES, open_file, stem
from filterdb.sources.options import Options, Pending, Progress
from filterdb.sources.safetensors import LocalSafetensors
from filterdb.store.schema import Model, ModelFacts

FACTS = "run.toml"
PREFERRED = ("model.safetensors", "pytorch_model.bin")
"""The weights in a folder that holds several files, the best first."""
EXAMPLES = "net_001000.pth or checkpoint-1000/model.safetensors"

_AFTER = [
    # a number that runs into letters or a fraction (step_100k, val=0.5) is no count of steps
    re.compile(rf"(?:{word})[=_-]?(\d{{1,18}})(?![a-z\d]|\.\d)", re.IGNORECASE)
    for word in ("step", "iter(?:ation)?", "epoch", "ckpt|checkpoint")
]
# nor is a fraction's tail (0.85) or a version (last-v1)
_AT_END = re.compile(r"(?<!\d)(?<!\d\.)(?<![_.=-]v)(\d{1,18})\Z", re.IGNORECASE)
_NOT_WEIGHTS = re.compile(r"(?:optim|optimizer|scheduler|lr_scheduler|scaler|rng_state|training_args)(?:_state)?(?:[_.-]?\d+)?")


def pending(folder: Path, options: Options, shown: str) -> list[Pending]:
    """The checkpoints of a run, in the order of their steps. ``shown`` is the folder as the user wrote it."""
    if options.step is not None:
        raise InvalidArgument(f"The checkpoints of run:{shown} have steps of their own, got step {options.step}. Leave it out.")
    steps, left = _checkpoints(folder, shown)
    if (folder / FACTS).is_file():
        options = options.over(recipes.facts_of_run(folder / FACTS, str(Path(shown, FACTS))))
    run = options.name or Path(os.path.abspath(folder)).name
    if not run:
        raise InvalidArgument(f"The folder {shown} has no name to call the run by. Name it with --name RUN.")
    notes = [f"left out, without a step in their names: {', '.join(left)}"] if left else []
    found = []
    for step, file in sorted(steps.items()):
        facts = ModelFacts(Path(shown, file).as_posix(), step=step, run=run)
        found.append(_pending(folder / file, file, f"{run}@{step}", facts, options, shown, notes))
        notes = []  # what holds of the whole run is said once
    return found


def _pending(
    path: Path, file: str, name: str, facts: ModelFacts, options: Options, shown: str, notes: Sequence[str]
) -> Pending:  # fmt: skip
    @contextlib.contextmanager
    def open_(progress: Progress | None = None) -> Iterator[Model]:
        model = open_file(path, name=name, what=file, facts=facts, options=options, progress=progress)
        model.notes += notes
        yield model

    return Pending(facts.source, name, open_, run=f"run:{shown}")


def step_of(name: str) -> int | None:
    """The step in the name of a file (without its suffix) or folder: after the word step, else iter, epoch or ckpt, else its end.

    >>> step_of("epoch=3-step=1000"), step_of("checkpoint-500"), step_of("net_00012000"), step_of("model_best")
    (1000, 500, 12000, None)
    """
    for pattern in _AFTER:
        if found := pattern.findall(name):
            return int(found[-1])
    at_end = _AT_END.search(name)
    return int(at_end[1]) if at_end else None


def _checkpoints(folder: Path, shown: str) -> tuple[dict[int, str], list[str]]:
    """Step to file, and the files that have none; relative to the folder."""
    try:
        found = _candidates(folder, shown)
    except FileNotFoundError as error:
        raise SourceError(f"There is no folder {shown}. Give the folder of a run's checkpoints: run:FOLDER") from error
    except NotADirectoryError as error:
        raise SourceError(f"{shown} is a file, not the folder of a run. Ingest it alone: {shown}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"The folder {shown} cannot be read: {reason}. Check the path and its permissions.") from error
    if not found:
        raise SourceError(f"{shown} holds no checkpoints. Give the folder of a run, with files such as {EXAMPLES}.")
    steps: dict[int, str] = {}
    for file, step in found:
        if step is not None and steps.setdefault(step, file) != file:
            raise SourceError(f"{shown}: {steps[step]} and {file} both are step {step}. Take one of them out of the folder.")
    left = [file for file, step in found if step is None]
    if not steps:
        names = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
        raise SourceError(f"No checkpoint in {shown} has a step in its name: {names}. Name them by their steps: {EXAMPLES}.")
    return steps, left


def _candidates(folder: Path, shown: str) -> list[tuple[str, int | None]]:
    """Every checkpoint file, relative to the folder, with its step."""
    found: list[tuple[str, int | None]] = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            if _is_weights(path):
                found.append((path.name, _step_inside(path, step_of(stem(path)))))
        elif not path.name.startswith(".") and (step := step_of(path.name)) is not None:
            file = _weights(path, f"{shown.rstrip('/')}/{path.name}")
            if file is not None:
                found.append((f"{path.name}/{file.name}", _step_inside(file, step)))
    return found


def _weights(folder: Path, shown: str) -> Path | None:
    """The one file of weights in a checkpoint's folder, None where there is none."""
    files = sorted(path for path in folder.iterdir() if not path.is_dir() and _is_weights(path))
    if len(files) < 2:
        return files[0] if files else None
    for name in PREFERRED:
        if folder / name in files:
            return folder / name
    names = ", ".join(path.name for path in files[:3]) + (", …" if len(files) > 3 else "")
    raise SourceError(f"{shown} holds several files of weights: {names}. Leave one there, or call it {PREFERRED[0]}.")


def _is_weights(path: Path) -> bool:
    """Whether a file is a checkpoint by its name, and not the optimiser's or the random numbers' state beside one."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not _NOT_WEIGHTS.fullmatch(stem(path).lower())


def _step_inside(path: Path, named: int | None) -> int | None:
    """The step in the metadata of a safetensors file, else the one in its name."""
    if path.suffix.lower() != ".safetensors":
        return named
    try:
        said = LocalSafetensors(path, path.name).metadata.get("step", "").strip()
    except (FilterdbError, OSError):
        return named  # a damaged file, or one still being written, fails alone when it is opened
    return int(said) if re.fullmatch(r"\d{1,18}", said) else named
