"""The autoencoder of Babaiee et al., ICLR 2024: maps kernels to one number, which orders them along a curve.

Encoder and decoder have four intermediate layers each, with LeakyReLU; the code is a single sigmoid, the output a tanh, the loss
the cosine dissimilarity of centred kernels. Centred kernels lie on the hyperplane 1'r = 0, so they are written in an orthonormal
basis of it, one number shorter, and there a plain cosine is the mean-centred one.

A one-dimensional code is a curve through the kernels. Its course is partly chance, and a training may miss a class. Several
restarts are therefore trained side by side, as one batch of small networks. The one with the best held-out loss is kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument
from filterdb.kernels import centred_unit

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (128, 64, 64, 64)
"""Of the intermediate layers of the encoder; the decoder has them in reverse. The paper does not give its own. On 6,389 real 7x7
kernels, with (128, 64, 32, 16) the curve could not turn often enough, and most restarts left two or three classes out."""
SLOPE = 0.01
"""LeakyReLU below zero, torch's default."""
LEAST_KERNELS = 500

Weights = dict[str, NDArray[np.float32]]
Progress = Callable[[int, int, float], None]
"""Called after each epoch with epochs done, epochs at most, and the best held-out loss so far."""


@dataclass(frozen=True)
class Settings:
    """How an autoencoder is trained. The same settings and kernels give the same result on the same device."""

    seed: int = 0
    epochs: int = 150
    """At most: training stops earlier once no restart has improved for ``patience`` epochs."""
    restarts: int = 8
    batch: int = 32
    learning_rate: float = 2e-3
    """Peak of AdamW's; it falls along a cosine."""
    patience: int = 20
    held_out: float = 0.1
    """Share of the kernels that is not trained on; it decides the best restart and the early stop."""

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("epochs", 1), ("restarts", 1), ("batch", 2), ("patience", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidArgument(f"{name} = {value!r}: give a whole number from {least}.")


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    weights: Weights
    """Of the best restart: ``encoder.0.weight`` … ``decoder.4.bias``, as in an nn.Linear each."""
    losses: list[float]
    """Best held-out loss of every restart."""
    epochs: int
    """Epochs trained."""


def basis(taps: int) -> NDArray[np.float64]:
    """(taps, taps - 1): an orthonormal basis of the hyperplane 1'r = 0 (Helmert's)."""
    columns = np.zeros((taps, taps - 1))
    for k in range(1, taps):
        columns[:k, k - 1] = 1
        columns[k, k - 1] = -k
        columns[:, k - 1] /= math.sqrt(k * (k + 1))
    return columns


def decode(weights: Mapping[str, NDArray[np.float32]], codes: NDArray[np.floating]) -> NDArray[np.float32]:
    """The centred unit kernels decoded from codes in [0, 1], (n, taps) from (n,). In numpy: classification needs no torch."""
    x = np.asarray(codes, np.float64)[:, None]
    last = len(WIDTHS)
    for i in range(last + 1):
        x = x @ weights[f"decoder.{i}.weight"].astype(np.float64).T + weights[f"decoder.{i}.bias"]
        x = np.tanh(x) if i == last else np.where(x > 0, x, SLOPE * x)
    return centred_unit(x @ basis(x.shape[1] + 1).T).unit.astype(np.float32)


def encode(weights: Mapping[str, NDArray[np.float32]], unit: NDArray[np.floating]) -> NDArray[np.float64]:
    """The codes of centred unit kernels, (n,) from (n, taps)."""
    x = np.asarray(unit, np.float64) @ basis(unit.shape[1])
    last = len(WIDTHS)
    for i in range(last + 1):
        x = x @ weights[f"encoder.{i}.weight"].astype(np.float64).T + weights[f"encoder.{i}.bias"]
        x = 1 / (1 + np.exp(-x)) if i == last else np.where(x > 0, x, SLOPE * x)
    return x[:, 0]


def train(
    unit: NDArray[np.float32],
    settings: Settings,
    *,
    device: str = "cpu",
    state_file: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train ``settings.restarts`` autoencoders side by side.

    Args:
        unit: (n, taps) centred unit kernels, n at least ``LEAST_KERNELS``, without doubles (a kernel that is trained on must not
            be held out as well).
        settings: how.
        device: torch's name of it, such as "cpu" or "cuda".
        state_file: where the state is kept after each tenth epoch; a later call with the same kernels and settings resumes
            from there. It is deleted at the end.
        progress: gets the progress.

    Raises:
        InvalidArgument: too few kernels.
    """
    import torch

    if len(unit) < LEAST_KERNELS:
        raise InvalidArgument(
            f"An autoencoder needs at least {LEAST_KERNELS} distinct kernels to train on, got {len(unit)}. "
            "Ingest more models, or take --method kmeans."
        )
    data = torch.from_numpy((unit.astype(np.float64) @ basis(unit.shape[1])).astype(np.float32))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(settings.seed))
    held = max(1, round(settings.held_out * len(data)))
    test, data = data[order[:held]].to(device), data[order[held:]].to(device)
    batch = min(settings.batch, len(data))
    per_epoch = len(data) // batch

    layers = _layers(data.shape[1], settings)
    parameters = {name: value.to(device).requires_grad_() for name, value in layers.items()}
    matrices = [value for name, value in parameters.items() if name.endswith("weight")]
    biases = [value for name, value in parameters.items() if name.endswith("bias")]
    groups = [{"params": matrices, "weight_decay": 1e-4}, {"params": biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95))
    best = {name: value.detach().clone() for name, value in parameters.items()}
    losses = torch.full((settings.restarts,), math.inf, device=device)
    first, stale = 0, 0
    fingerprint = _fingerprint(unit, settings, device)
    if state_file is not None and state_file.exists():
        state = _load(state_file, device)
        if state.get("fingerprint") == fingerprint:
            with torch.no_grad():
                for name, value in parameters.items():
                    value.copy_(state["parameters"][name])
            optimiser.load_state_dict(state["optimiser"])
            best, losses, first, stale = state["best"], state["losses"], state["epoch"], state["stale"]

    epoch = first
    while epoch < settings.epochs and stale < settings.patience:
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)  # the same, resumed or not
        order = torch.randperm(len(data), generator=generator)[: per_epoch * batch].view(per_epoch, batch).to(device)
        for i, index in enumerate(order):
            along = (epoch * per_epoch + i) / (settings.epochs * per_epoch)
            rate = settings.learning_rate * min(1.0, 5 * along + 0.02) * 0.5 * (1 + math.cos(math.pi * along))
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = _dissimilarity(parameters, data[index]).sum()  # the restarts share no weight: each gets its own gradient
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        epoch += 1
        with torch.no_grad():
            parts = [_dissimilarity(parameters, part) * len(part) for part in test.split(8192)]
            now = torch.stack(parts).sum(dim=0) / len(test)
            better = now < losses
            for name, value in parameters.items():
                best[name][better] = value.detach()[better]
            stale = 0 if bool((now < losses * (1 - 1e-3)).any()) else stale + 1
            losses = torch.minimum(now, losses)
        if progress is not None:
            progress(epoch, settings.epochs, float(losses.min()))
        if state_file is not None and epoch % 10 == 0:
            _save(state_file, {
                "fingerprint": fingerprint, "parameters": {n: v.detach() for n, v in parameters.items()}, "best": best,
                "optimiser": optimiser.state_dict(), "losses": losses, "epoch": epoch, "stale": stale,
            })  # fmt: skip
    if state_file is not None:
        state_file.unlink(missing_ok=True)
    winner = int(losses.argmin())
    weights = {name: value[winner].cpu().numpy() for name, value in best.items()}
    return Trained(weights, [float(loss) for loss in losses], epoch)


def _layers(inputs: int, settings: Settings) -> dict[str, Tensor]:
    """The weights of all restarts, (restarts, out, in), and biases, (restarts, out), drawn as He et al. 2015 do.

    That, a slow start of the learning rate and a short memory of AdamW's keep restarts from settling on a single shape for good.
    """
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    sizes = {"encoder": [inputs, *WIDTHS, 1], "decoder": [1, *reversed(WIDTHS), inputs]}
    found = {}
    for part, widths in sizes.items():
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            bound = math.sqrt(6 / fan_in)
            weight = torch.empty(settings.restarts, fan_out, fan_in).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(settings.restarts, fan_out).uniform_(-bound, bound, generator=generator)
            found[f"{part}.{i}.weight"], found[f"{part}.{i}.bias"] = weight, bias
    return found


def _dissimilarity(parameters: Mapping[str, Tensor], kernels: Tensor) -> Tensor:
    """(restarts,) mean cosine dissimilarity of kernels (n, d) and what each restart makes of them."""
    import torch
    from torch.nn import functional as F

    restarts = len(parameters["encoder.0.bias"])
    x = kernels.expand(restarts, *kernels.shape)  # (restarts, n, d)
    last = len(WIDTHS)
    for part, final in (("encoder", torch.sigmoid), ("decoder", torch.tanh)):
        for i in range(last + 1):
            weight, bias = parameters[f"{part}.{i}.weight"], parameters[f"{part}.{i}.bias"]
            x = torch.baddbmm(bias[:, None, :], x, weight.transpose(1, 2))
            x = final(x) if i == last else F.leaky_relu(x, SLOPE)
    return 1 - F.cosine_similarity(x, kernels[None], dim=-1).mean(dim=1)


def _fingerprint(unit: NDArray[np.float32], settings: Settings, device: str) -> str:
    """What a state file is good for: these kernels and settings, on this device."""
    text = repr((asdict(settings), WIDTHS, device, unit.shape))
    return hashlib.sha256(text.encode() + np.ascontiguousarray(unit).tobytes()).hexdigest()


def _load(path: Path, device: str) -> dict[str, Any]:
    """The state in a file; nothing where the file is damaged, and the training begins anew."""
    import torch

    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except Exception:  # a damaged file can raise anything in torch
        return {}
    return state


def _save(path: Path, state: dict[str, Any]) -> None:
    """All of it, or the file as it was."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
