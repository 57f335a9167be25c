"""Checkpoints of other frameworks that are refused, by name and with what to do instead."""

from __future__ import annotations

from pathlib import Path

from filterdb.errors import SourceError

ORIGINAL = "Give the network that it was converted from, as .onnx, .safetensors or .pth."
SUFFIXES = {
    ".caffemodel": ("a Caffe model", "Convert it to ONNX with caffe2onnx."),
    ".prototxt": ("a Caffe network without weights", "Give its weights, converted to ONNX with caffe2onnx."),
    ".mlmodel": ("a Core ML model", ORIGINAL),
    ".mlpackage": ("a Core ML model", ORIGINAL),
    ".pdparams": ("a Paddle checkpoint", "Export the network with paddle.onnx.export, or its inference model with paddle2onnx."),
    ".pdiparams": ("a Paddle inference model", "Convert it to ONNX with paddle2onnx."),
    ".pdmodel": ("a Paddle inference model", "Convert it to ONNX with paddle2onnx."),
    ".pb": ("a TensorFlow graph", "Convert it to ONNX: python -m tf2onnx.convert --saved-model FOLDER --output NAME.onnx"),
    ".params": ("an MXNet model", "Convert it to ONNX with mxnet.onnx.export_model."),
    ".gguf": ("a GGUF file", "Give the .safetensors file that it was converted from."),
    ".param": ("an ncnn model", ORIGINAL),
    ".mnn": ("an MNN model", ORIGINAL),
    ".task": ("a bundle of MediaPipe", "Unzip it, and give the .tflite files in it."),
}
"""What files of a suffix are, and what to do."""
_OF_SUCH = (".pdparams", ".task")
"""Suffixes of pickles and zip archives that are of other frameworks all the same."""
_NCNN = 7767517
MAGIC = {
    b"GGUF": ".gguf", b"7767517\n": ".param", _NCNN.to_bytes(4, "little"): ".param",
    (0x112).to_bytes(8, "little"): ".params",
}  # fmt: skip
"""The suffix that a file would have, by its first bytes."""


def refuse_foreign(path: Path, first: bytes, what: str) -> None:
    """Refuse a file of another framework, known by its first bytes or its suffix.

    Raises:
        SourceError: it is one.
    """
    suffix = next((suffix for magic, suffix in MAGIC.items() if first.startswith(magic)), path.suffix.lower())
    if first.startswith((b"PK", b"\x80")) or first[8:9] == b"{":  # torch's and safetensors', which may be called anything
        suffix = suffix if suffix in _OF_SUCH else ""
    elif suffix == ".bin" and path.with_suffix(".param").is_file():  # ncnn's weights have no first bytes of their own
        suffix = ".param"
    if suffix in SUFFIXES:
        meaning, advice = SUFFIXES[suffix]
        raise SourceError(f"{what} is {meaning}, which filterdb does not read. {advice}")
