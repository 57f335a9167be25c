"""Replaces the depthwise kernels of a checkpoint file in place. Every other number stays the same, bit for bit.

The network is not built and may be unknown. The readers are those of ingest, which therefore sees the same kernels. The output
has the format, keys, order and number formats of the input. In a file with two sets of weights (a moving average and the raw
ones), each set is matched and replaced separately.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from filterdb.errors import InvalidArgument, SourceError, StoreError
from filterdb.frozen.plan import Plan
from filterdb.frozen.replace import Replacement, by_weights, replacement, report_of
from filterdb.frozen.report import Report
from filterdb.networks.network import checked_preprocessing
from filterdb.sources.assemble import UNKNOWN, kernels, locate
from filterdb.sources.computed import Computed
from filterdb.sources.local import kind_of, named_network
from filterdb.sources.options import Options
from filterdb.store.schema import Layer
from filterdb.version import __version__

OWN = ("mcunet_in3", "proxyless_w0.3")
SUFFIXES = {"safetensors": (".safetensors",), "torch": (".pth", ".pt", ".bin", ".tar", ".ckpt"), "onnx": (".onnx",)}
DTYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}

NOT_STORED = "layers whose weights are quantised, computed, or of transposed convolutions are as they were: {}"

Progress = Callable[[str, int, int], None]
Set = tuple[str, list[Layer], list[Any], list[NDArray[np.float32]], list[str]]
"""One set of weights: what it is called beside the first (empty for that), layers, leaves, kernels and notes."""


def freeze_file(
    path: str | os.PathLike[str], out: str | os.PathLike[str], plan: Plan, *, options: Options | None = None,
    preprocessing: Mapping[str, Any] | None = None, progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Replace the depthwise kernels of a checkpoint file and write the rest as it is.

    Args:
        path: .safetensors, .pth (.pt, .bin, .tar, .ckpt) or .onnx.
        out: the file to write, of the same format; it is there whole or not at all.
        plan: which bank for which layer.
        options: the architecture, for a file whose shapes alone are misleading, and how its keys match.
        preprocessing: how images are prepared, to be written into the file.
        progress: called with the layers done and the total.

    Raises:
        SourceError: a file that cannot be read safely, or without depthwise kernels.
        InvalidArgument: an ``out`` that is the source, or of another format; a plan that replaces nothing.
        StoreError: the file cannot be written.
    """
    path, out, what = Path(path), Path(out), Path(path).name
    kind = kind_of(path, what)
    if kind == "index":
        raise SourceError(f"{what} is the index of a sharded checkpoint. Freeze its shards, one by one.")
    if kind not in _FORMATS:
        raise InvalidArgument(f"{what} is a {kind} file, which can be read and not written. Give the network as .onnx or .pth.")
    check_out(path, out, kind)
    if preprocessing and kind == "torch":
        raise InvalidArgument(
            f"{what} has no room for the preprocessing. Leave it out here, and give it where the file is evaluated."
        )
    said = {"preprocessing": json.dumps(checked_preprocessing(preprocessing))} if preprocessing else {}
    file = _FORMATS[kind](path, what, options or Options(), out)
    sets = list(file.sets())
    total = sum(len(layers) for _, layers, *_ in sets)
    changed: list[tuple[Any, Replacement]] = []
    made: list[Replacement] = []
    for word, layers, leaves, arrays, _ in sets:
        plan.check(layers)
        for layer, leaf, old in zip(layers, leaves, arrays, strict=True):
            one = replacement(layer, old, plan, by_weights(plan.signed, plan.mix), file.dtype(leaf))
            if one.changed.any():
                changed.append((leaf, one))
            made.append(replace(one, layer=replace(layer, name=f"{layer.name} ({word})")) if word else one)
            if progress is not None:
                progress(f"replacing in {what}", len(made), total)
    # the layer descriptions of ingest are not needed here
    notes = dict.fromkeys(note for *_, said in sets for note in said if note != UNKNOWN)
    report = report_of(made, str(path), signed=plan.signed, match="weights", notes=notes)
    with _whole(out) as partial:
        file.write(changed, partial, words_of(plan, report) | said)
    return replace(report, written=str(out))


def options_of(architecture: str | None, match_keys: Literal["name", "order"] = "name") -> Options:
    """How a file is read. Architectures in filterdb have the keys of their files, and need no renaming."""
    return Options(architecture=None if architecture in OWN else architecture, match_keys=match_keys)


def words_of(plan: Plan, report: Report) -> dict[str, str]:
    """The metadata of a frozen file: the bank and how the network was made, as runs know them, and all the rest as JSON."""
    banks = {key or "*": None if bank is None else bank.name for key, bank in plan.banks.items()}
    about = {
        "banks": banks, "signed": plan.signed, "mix": plan.mix, "resize": plan.resize,
        "match": report.match, "layers": list(plan.layers),
        "filterdb": __version__, "notes": list(report.notes), **report.totals(),
    }  # fmt: skip
    names = dict.fromkeys(name for name in banks.values() if name)
    return {"bank": ", ".join(names), "mode": report.mode, "frozen": json.dumps(about, default=float)}


def check_out(path: Path | None, out: Path, kind: str = "safetensors") -> None:
    """Refuse to write over the source (a file, or None), or under a name of another format than ``kind``."""
    if path is not None and out.exists() and path.exists() and out.samefile(path):
        raise InvalidArgument(f"{out} is the source itself. Name another file to write.")
    if out.is_dir():
        raise InvalidArgument(f"{out} is a folder. Name the file to write.")
    if out.suffix.lower() not in SUFFIXES[kind]:
        raise InvalidArgument(f"A {kind} file will be written, so its name must end in {SUFFIXES[kind][0]}, got {out.name}.")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A partial file beside it that takes the name once it is whole."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(out)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


# -- formats -------------------------------------------------------------------------------------------------------------------


@dataclass
class _File(ABC):
    """A checkpoint that is read, changed and written."""

    path: Path
    what: str
    options: Options
    out: Path

    @abstractmethod
    def sets(self) -> Iterator[Set]:
        """The sets of weights, the one that ingest takes first."""

    @abstractmethod
    def dtype(self, leaf: Any) -> str:
        """The number format of a leaf: float32, float64, float16 or bfloat16."""

    @abstractmethod
    def write(self, changed: Sequence[tuple[Any, Replacement]], partial: Path, words: Mapping[str, str]) -> None:
        """Everything as it was, but the changed kernels, and our words where the format has room for them."""

    def _sets_of(self, checkpoint: Any) -> Iterator[Set]:
        """What ``unwrap`` takes by itself, then the raw weights that it leaves beside an average."""
        network = named_network(self.options)
        seen: set[int] = set()
        choices: tuple[tuple[str, Literal["auto", "raw"]], ...] = (("", "auto"), ("raw", "raw"))
        for word, weights in choices:
            try:
                found = locate(checkpoint.tree, what=self.what, options=replace(self.options, weights=weights), network=network)
            except SourceError:
                if not word:
                    raise
                continue
            self._refuse_computed(found.layers, found.leaves)
            fresh = [
                (layer, leaf) for layer, leaf in zip(found.layers, found.leaves, strict=True)
                if id(leaf) not in seen and layer.replaceable
            ]  # fmt: skip
            seen.update(id(leaf) for leaf in found.leaves)
            if fresh:
                layers, leaves = [layer for layer, _ in fresh], [leaf for _, leaf in fresh]
                yield word, layers, leaves, list(kernels(checkpoint.read(leaves), layers, self.what)), found.notes

    def _refuse_computed(self, layers: Sequence[Layer], leaves: Sequence[Any]) -> None:
        for layer, leaf in zip(layers, leaves, strict=True):
            if isinstance(leaf, Computed):
                raise SourceError(
                    f"{self.what}: the weights of {layer.name} are not stored as such ({leaf.how}), so they cannot be replaced "
                    "in the file. Save the network with plain weights first (torch.nn.utils.parametrize.remove_parametrizations)."
                )


class _Safetensors(_File):
    """The bytes of the file with some of them replaced: nothing is decoded but the kernels."""

    def sets(self) -> Iterator[Set]:
        from filterdb.sources.safetensors import LocalSafetensors

        self._read = LocalSafetensors(self.path, self.what)
        yield from self._sets_of(self._read)

    def dtype(self, leaf: Any) -> str:
        return DTYPES[leaf.dtype]

    def write(self, changed: Sequence[tuple[Any, Replacement]], partial: Path, words: Mapping[str, str]) -> None:
        start = self._read.header_bytes
        with self.path.open("rb") as source, partial.open("wb") as target:
            table = json.loads(source.read(start)[8:])
            table = {"__metadata__": {**(table.pop("__metadata__", None) or {}), **words}, **table}
            header = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
            header += b" " * (-len(header) % 8)
            target.write(len(header).to_bytes(8, "little") + header)
            shutil.copyfileobj(source, target, 2**20)
            for place, one in changed:
                target.seek(place.start - start + 8 + len(header))
                _patch(target, source, place, one)


def _patch(target: IO[bytes], source: IO[bytes], place: Any, one: Replacement) -> None:
    """Write a tensor's bytes with the rows of the changed kernels in them."""
    source.seek(place.start)
    rows = np.frombuffer(source.read(place.stop - place.start), np.uint8).reshape(len(one.old), -1).copy()
    rows[one.changed] = encode(one.new[one.changed], DTYPES[place.dtype]).reshape(int(one.changed.sum()), -1)
    target.write(rows.tobytes())


def encode(numbers: NDArray[np.float32], dtype: str) -> NDArray[np.uint8]:
    """The little-endian bytes of numbers in a format, rounded to the nearest, ties to even."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(numbers, "<f4").view("<u4").astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").reshape(-1).view(np.uint8)
    code = {"float32": "<f4", "float64": "<f8", "float16": "<f2"}[dtype]
    return numbers.astype(code).reshape(-1).view(np.uint8)


class _Torch(_File):
    """The whole of what was pickled, with the kernels changed in place, so that what shares memory goes on sharing it."""

    def sets(self) -> Iterator[Set]:
        from filterdb.sources.pickles.held import HeldCheckpoint

        self._read = HeldCheckpoint(self.path, self.what)
        yield from self._sets_of(self._read)

    def dtype(self, leaf: Any) -> str:
        return str(leaf.dtype).removeprefix("torch.")

    def write(self, changed: Sequence[tuple[Any, Replacement]], partial: Path, words: Mapping[str, str]) -> None:
        import zipfile

        import torch

        with torch.no_grad():
            for leaf, one in changed:
                rows = torch.from_numpy(one.changed)
                leaf[rows] = torch.from_numpy(one.new[one.changed]).unsqueeze(1).to(leaf.dtype)
        # a file of before torch 1.6 stays one: old readers read nothing else
        try:
            with partial.open("wb") as file:
                torch.save(self._read.held, file, _use_new_zipfile_serialization=zipfile.is_zipfile(self.path))
        except RuntimeError as error:
            raise StoreError(f"{self.out} cannot be written: {' '.join(str(error).split())[:200]}") from error


class _Onnx(_File):
    """The program in memory, with the initializers changed in the fields that hold them."""

    def sets(self) -> Iterator[Set]:
        from filterdb.sources.programs.onnx import read_onnx
        from filterdb.store.schema import ModelFacts

        read = read_onnx(self.path, self.what, self.options)
        self._read, found = read.model, read.stored()
        notes = [NOT_STORED.format(left)] if (left := len(read.found.layers) - len(found.layers)) else []
        if not found.layers:
            raise SourceError(f"{self.what}: {notes[0]}, and there are no others. Give the network before it was converted.")
        self._check_external({id(weight.leaf) for weight in found.weights})
        kernels = list(found.model("", facts=ModelFacts(""), size=1).read())
        for leaf in (weight.leaf for weight in found.weights):
            read.values.take_in(leaf)
        yield "", found.layers, [weight.leaf for weight in found.weights], kernels, [*found.notes, *notes]

    def dtype(self, leaf: Any) -> str:
        from onnx import TensorProto

        return {"FLOAT": "float32", "DOUBLE": "float64"}.get(name := str(TensorProto.DataType.Name(leaf.data_type)), name.lower())

    def _check_external(self, taken: set[int]) -> None:
        """Refuse to write elsewhere what needs a file beside it: the kernels are taken in, other weights stay where they are."""
        from onnx import TensorProto

        others = [tensor for tensor in self._read.graph.initializer if id(tensor) not in taken]
        external = any(tensor.data_location == TensorProto.EXTERNAL for tensor in others)
        if external and self.out.resolve().parent != self.path.resolve().parent:
            raise InvalidArgument(
                f"{self.what} keeps other weights in a file beside it: write into its folder too, {self.path.parent}."
            )

    def write(self, changed: Sequence[tuple[Any, Replacement]], partial: Path, words: Mapping[str, str]) -> None:
        for tensor, one in changed:
            dtype = self.dtype(tensor)
            new = one.new.copy()
            data = encode(new, dtype)
            if tensor.HasField("raw_data"):
                rows = np.frombuffer(tensor.raw_data, np.uint8).reshape(len(new), -1).copy()
                rows[one.changed] = data.reshape(len(new), -1)[one.changed]
                tensor.raw_data = rows.tobytes()
            else:
                field, code = _FIELDS[dtype]
                numbers = np.array(getattr(tensor, field)).reshape(len(new), -1)
                numbers[one.changed] = data.view(code).reshape(len(new), -1)[one.changed]
                del getattr(tensor, field)[:]
                getattr(tensor, field).extend(numbers.ravel().tolist())
        for key, word in words.items():
            entry = next((one for one in self._read.metadata_props if one.key == key), None)
            entry = entry if entry is not None else self._read.metadata_props.add(key=key)
            entry.value = word
        partial.write_bytes(self._read.SerializeToString())


_FIELDS: Mapping[str, tuple[str, str]] = {
    "float32": ("float_data", "<f4"), "float64": ("double_data", "<f8"), "float16": ("int32_data", "<u2"),
    "bfloat16": ("int32_data", "<u2"),
}  # fmt: skip
"""Where an ONNX tensor keeps numbers that are not raw bytes."""

_FORMATS: Mapping[str, type[_File]] = {"safetensors": _Safetensors, "torch": _Torch, "onnx": _Onnx}
