"""A checkpoint on disk: its kind is recognised by its first bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from filterdb.errors import SourceError
from filterdb.sources.assemble import Checkpoint, assemble
from filterdb.sources.foreign import refuse_foreign
from filterdb.sources.network import Network, build, build_own, built_from_shapes
from filterdb.sources.options import Options, Progress
from filterdb.sources.own import is_own
from filterdb.sources.pickles.checkpoint import TorchCheckpoint
from filterdb.sources.safetensors import LocalSafetensors
from filterdb.sources.sharded import SUFFIX as INDEX
from filterdb.sources.sharded import ShardedCheckpoint
from filterdb.store.schema import Model, ModelFacts

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".pt2", ".onnx", ".tflite", ".keras", ".h5", ".hdf5")
PROGRAMS = {"onnx": "an ONNX program", "tflite": "a TensorFlow Lite program", "keras": "a Keras model"}
"""Kinds of files that hold a network of their own framework."""
HASH_LIMIT = 256 * 2**20
"""Bytes. A hash reads the whole file; above this the kernels are read in a fraction of the time that would take."""

_MAGIC = {
    b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive",
    b"\xfd7zXZ": "an xz archive", b"BZh": "a bzip2 archive", b"\x93NUMPY": "a numpy array",
    b"%PDF": "a PDF", b"\x89PNG": "a PNG picture", b"Salted__": "encrypted (OpenSSL)", b"-----BEGIN PGP": "encrypted (PGP)",
}  # fmt: skip


def stem(path: Path) -> str:
    """The file's name without the suffixes of a checkpoint; of the index of a sharded one, its folder's name.

    >>> stem(Path("runs/model_best.pth.tar")), stem(Path("net_v1.5.safetensors")), stem(Path("my/net/x.safetensors.index.json"))
    ('model_best', 'net_v1.5', 'net')
    """
    name = path.name.removesuffix(INDEX)
    if name != path.name and (folder := path.absolute().parent.name):
        return folder
    while any(name.lower().endswith(suffix) and len(name) > len(suffix) for suffix in SUFFIXES):
        name = name[: name.rindex(".")]
    return name


def kind_of(path: Path, what: str) -> str:
    """One of safetensors, torch, onnx, tflite, keras and index (of a sharded checkpoint); refuses everything else by name."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(512)
    except OSError as error:
        raise SourceError(f"{what} cannot be read: {error.strerror}. Check the path and its permissions.") from error
    text = first.lstrip().lower()
    if size == 0:
        raise SourceError(f"{what} is empty. Fetch it again.")
    if first.startswith(b"version https://git-lfs"):
        raise SourceError(f"{what} is a git-lfs pointer, not the file it points to. Fetch the file itself: git lfs pull")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise SourceError(f"{what} is a web page, not a checkpoint (a failed download?). Fetch the file itself.")
    refuse_foreign(path, first, what)
    for magic, meaning in _MAGIC.items():
        if first.startswith(magic):
            raise SourceError(f"{what} is {meaning}, not a checkpoint that can be read. Give one of {', '.join(SUFFIXES)}.")
    if path.name.lower().endswith(INDEX) and text.startswith(b"{"):
        return "index"
    if path.suffix.lower() == ".tflite" or first[4:8] == b"TFL3":
        return "tflite"
    if path.suffix.lower() in (".keras", ".h5", ".hdf5") or first.startswith(b"\x89HDF"):
        return "keras"
    if first[8:9] == b"{" and int.from_bytes(first[:8], "little") < 2**48:
        return "safetensors"
    if first.startswith(b"PK\x03\x04") or (first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return "torch"
    # protobuf has no magic; ONNX files begin with field 1 (ir_version), a small number
    if path.suffix.lower() == ".onnx" or (path.suffix.lower() not in SUFFIXES and first[:1] == b"\x08" and 0 < first[1] < 32):
        return "onnx"
    if path.suffix.lower() == ".safetensors":
        return "safetensors"
    if path.suffix.lower() in SUFFIXES:
        return "torch"
    raise SourceError(
        f"{what} is not a checkpoint: its first bytes are those of no known kind. Give one of {', '.join(SUFFIXES)}."
    )


def sha256(path: Path) -> str | None:
    """The file's hash, or None where the file is larger than ``HASH_LIMIT``."""
    if path.stat().st_size > HASH_LIMIT:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_file(
    path: Path,
    *,
    name: str,
    what: str,
    facts: ModelFacts,
    options: Options,
    network: Network | None = None,
    progress: Progress | None = None,
    hashed: bool = True,
) -> Model:
    """The model in a file. Without a network, ``options.architecture`` or the file's own metadata may name one."""  # fmt: skip
    kind = kind_of(path, what)
    if kind in PROGRAMS:
        facts = replace(facts, sha256=sha256(path), bytes_read=path.stat().st_size) if hashed else facts
        return _open_program(kind)(path, name=name, what=what, facts=facts, options=options, progress=progress)

    checkpoint = _checkpoint(kind, path, what, progress)
    if network is None:
        network = named_network(options)
    if hashed and kind != "index":
        facts = replace(facts, sha256=sha256(path))
    return assemble(checkpoint, name=name, what=what, facts=facts, options=options, network=network)


def _checkpoint(kind: str, path: Path, what: str, progress: Progress | None) -> Checkpoint:
    if kind == "index":
        return ShardedCheckpoint(path, what, progress)
    return (LocalSafetensors if kind == "safetensors" else TorchCheckpoint)(path, what, progress)


def _open_program(kind: str) -> Callable[..., Model]:
    if kind == "onnx":
        from filterdb.sources.programs.onnx import open_onnx

        return open_onnx
    if kind == "tflite":
        from filterdb.sources.programs.tflite import open_tflite

        return open_tflite
    from filterdb.sources.programs.keras import open_keras

    return open_keras


def named_network(options: Options) -> Network | None:
    """The network that the options name, if they do and it can be built without the file."""
    if options.architecture is None or built_from_shapes(options.architecture):
        return None
    make = build_own if is_own(options.architecture) else build
    return make(options.architecture, options.architecture_args, pointwise=options.pointwise)
