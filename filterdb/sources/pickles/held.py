"""Checkpoints to be changed and written again by torch, which loads them whole and as weights only.

Nothing of a checkpoint is ever executed. A file that needs code to be unpickled is refused by the name of what it needs: to write
it again would be to write that code again. ``filterdb.sources.pickles.checkpoint`` reads such files.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from filterdb.errors import SourceError

if TYPE_CHECKING:
    from torch import Tensor

_NEEDS = re.compile(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)|Can only build [^,]+, but got ([\w.]+)")


class HeldCheckpoint:
    """A file of torch's, by its tensors, which are in memory: what becomes of them becomes of ``held``, all that was pickled."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.size = path.stat().st_size
        _refuse_other_zips(path, what)
        self.held: Any = _load(path, what)
        self.tree: Mapping[Any, Any] = _tree(self.held, what)

    def cost(self, leaves: Sequence[Tensor]) -> int:
        """The whole file."""
        return self.size

    def read(self, leaves: Sequence[Tensor]) -> Iterator[NDArray[Any]]:
        """The tensors as numpy arrays; float64 stays, everything else becomes float32."""
        import torch

        for leaf in leaves:
            _refuse_absurd(leaf, self.what)
            plain = leaf.detach()
            yield (plain if plain.dtype == torch.float64 else plain.float()).numpy()


def _refuse_other_zips(path: Path, what: str) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(f"{what} is a damaged or truncated zip file ({_line(error)}). Fetch it again.") from error
    if any(entry.flag_bits & 1 for entry in entries):
        raise SourceError(f"{what} is encrypted. Decrypt it first.")
    names = [entry.filename for entry in entries]
    if any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise SourceError(f"{what} is a TorchScript program, which is code. Save its state_dict() and give that.")
    if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        raise SourceError(
            f"{what} is a zip file without data.pkl, so torch did not write it. Unpack it, and give the checkpoint in it."
        )


def _load(path: Path, what: str) -> Any:
    import torch

    # said before a damaged file is refused, which is said in one line below
    warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's bytes make torch raise anything at all
        needs = _NEEDS.search(str(error))
        if needs:
            raise SourceError(
                f"{what} needs code ({next(filter(None, needs.groups()))}) to be unpickled, so it was refused and nothing was "
                "executed. Where you trust it, load it in torch and save its state_dict() alone."
            ) from error
        if type(error).__name__ == "UnpicklingError":
            raise SourceError(
                f"{what} cannot be loaded as weights only ({_line(error)}): it is damaged or needs code; nothing was executed. "
                "Fetch it again, or save its state_dict() alone."
            ) from error
        raise SourceError(f"{what} is damaged, truncated or not a checkpoint ({_line(error)}). Fetch it again.") from error


def _tree(held: Any, what: str) -> Mapping[Any, Any]:
    """Mappings and plain tensors; everything else that was pickled along is left behind."""
    import torch

    seen: set[int] = set()  # a mapping that holds itself, or one of many shared by many, would never end

    def prune(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value if value.layout is torch.strided and not value.is_quantized and value.device.type == "cpu" else None
        if isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            return {key: pruned for key, inner in value.items() if (pruned := prune(inner)) is not None} or None
        return None

    if not isinstance(held, Mapping):
        raise SourceError(
            f"{what} holds a {type(held).__name__}, not a state dict. Save the network's state_dict() and give that."
        )
    try:
        return prune(held) or {}
    except RecursionError as error:
        raise SourceError(
            f"{what} is nested too deeply to be a checkpoint. Save the network's state_dict() and give that."
        ) from error


def _refuse_absurd(tensor: Tensor, what: str) -> None:
    # an expanded tensor claims more elements than its file holds, up to any size
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise SourceError(
            f"{what}: a tensor of shape {tuple(tensor.shape)} is larger than what is stored of it. Give a whole checkpoint."
        )


def _line(error: BaseException) -> str:
    """The first line of an error, short, without torch's advice to load unsafely."""
    text = str(error).partition("WeightsUnpickler error:")[2].strip().splitlines() or str(error).strip().splitlines()
    line = re.sub(r"\x1b\[[0-9;]*m", "", text[0]) if text else ""
    return f"{type(error).__name__}: {line[:160]}" if line else type(error).__name__
