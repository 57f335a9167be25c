"""Keras files as Keras writes them, made here with h5py: .keras, .h5 of whole models and of weights, and damage."""

from __future__ import annotations

import io
import json
import random as plain_random
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from filterdb.errors import SourceError
from filterdb.sources import Options, resolve
from filterdb.sources.layers import NOT_FLOAT, POINTWISE
from filterdb.sources.programs import hdf5
from filterdb.sources.programs.keras import ABSENT, GREY, OF_KERAS_2, WEIGHTS_ONLY
from filterdb.store.schema import Layer, Model

h5py = pytest.importorskip("h5py")

Arrays = Mapping[str, np.ndarray]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


FIRST, SEPARABLE, INNER, SECOND, GROUPED = (
    random(*shape, seed=seed)
    for seed, shape in enumerate([(5, 5, 8, 2), (3, 3, 16, 1), (3, 3, 12, 1), (3, 5, 12, 1), (3, 3, 1, 24)])
)


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}}


CONFIG = {
    "class_name": "Functional",
    "config": {
        "name": "net",
        "layers": [
            layer("InputLayer", "image"),
            layer("DepthwiseConv2D", "dw", strides=[2, 2], dilation_rate=[1, 1], padding="same", depth_multiplier=2),
            layer("SeparableConv2D", "sep", strides=[1, 1], dilation_rate=[2, 3], padding="valid"),
            layer("Sequential", "inner", layers=[
                layer("DepthwiseConv2D", "dw", strides=1, padding="valid"), layer("BatchNormalization", "norm"),
                layer("DepthwiseConv2D", "dw2", strides=(1, 2), padding="valid"),
            ]),
            layer("Conv2D", "grouped", groups=12, strides=[1, 1], padding="valid"),
            layer("Conv2D", "dense", groups=1, strides=[1, 1], padding="valid"),
            layer("TimeDistributed", "each", layer=layer("DepthwiseConv2D", "one", strides=[1, 1], padding="valid")),
            layer("DepthwiseConv1D", "line", strides=[2], dilation_rate=3, padding="causal"),
            layer("DepthwiseConv2D", "lost", strides=[1, 1], padding="valid"),
        ],
    },
}  # fmt: skip
"""As Keras 3 writes it, cut to what is read."""
ONE = random(3, 3, 8, 1, seed=9)
LINE = random(7, 8, 2, seed=10)
ARRAYS: Arrays = {
    "layers/depthwise_conv2d/vars/0": FIRST, "layers/depthwise_conv2d/vars/1": random(16),
    "layers/separable_conv2d/vars/0": SEPARABLE, "layers/separable_conv2d/vars/1": random(1, 1, 16, 12),
    "layers/sequential/layers/depthwise_conv2d/vars/0": INNER, "layers/sequential/layers/depthwise_conv2d_1/vars/0": SECOND,
    "layers/conv2d/vars/0": GROUPED, "layers/conv2d_1/vars/0": random(3, 3, 24, 24),
    "layers/time_distributed/layer/vars/0": ONE, "layers/depthwise_conv1d/vars/0": LINE,
}  # fmt: skip
NAMES = {
    "layers/depthwise_conv2d/vars": "dw", "layers/separable_conv2d/vars": "sep", "layers/conv2d/vars": "grouped",
    "layers/sequential/layers/depthwise_conv2d/vars": "dw", "layers/sequential/layers/depthwise_conv2d_1/vars": "dw2",
    "layers/time_distributed/layer/vars": "one",
}  # fmt: skip
WANTED = [
    Layer("dw", 5, 5, 16, 8, (2, 2), (1, 1), "same", "zeros", None, "multiplier"),
    Layer("sep", 3, 3, 16, 16, (1, 1), (2, 3), (0, 0), "zeros", None, "depthwise"),
    Layer("inner.dw", 3, 3, 12, 12, (1, 1), (1, 1), (0, 0), "zeros", None, "depthwise"),
    Layer("inner.dw2", 3, 5, 12, 12, (1, 2), (1, 1), (0, 0), "zeros", None, "depthwise"),
    Layer("grouped", 3, 3, 24, 12, (1, 1), (1, 1), (0, 0), "zeros", None, "multiplier"),
    Layer("each.one", 3, 3, 8, 8, (1, 1), (1, 1), (0, 0), "zeros", None, "depthwise"),
    Layer("line", 1, 7, 16, 8, (1, 2), (1, 3), None, "zeros", None, "multiplier", 1),
]
KERNELS = (FIRST, SEPARABLE, INNER, SECOND, GROUPED, ONE, LINE[None])


def weights(arrays: Arrays, names: Mapping[str, str] | None = None, root: Mapping[str, Any] | None = None) -> bytes:
    """An HDF5 file of these datasets, with names and attributes of groups, and attributes of the root."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, array in arrays.items():
            file[path] = array
        for path, name in (names or {}).items():
            file[path].attrs["name"] = name
        for key, value in (root or {}).items():
            file.attrs[key] = value
    return buffer.getvalue()


def archive(path: Path, data: bytes, config: Any = CONFIG) -> Path:
    """A .keras file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", data)
    return path


def read(path: Path, **options: Any) -> tuple[Model, list[np.ndarray]]:
    (pending,) = resolve(path, Options(**options))
    with pending.open(None) as model:
        return model, list(model.read())


def first(array: np.ndarray) -> np.ndarray:
    """(kh, kw, in, m) to (in * m, kh, kw)."""
    return np.stack([array[:, :, i, m] for i in range(array.shape[2]) for m in range(array.shape[3])])


@pytest.mark.parametrize("names", [NAMES, {}], ids=["today", "before names"])
def test_a_keras_file(tmp_path: Path, names: Mapping[str, str]) -> None:
    model, kernels = read(archive(tmp_path / "net.keras", weights(ARRAYS, names)))
    assert model.name == "net"
    assert model.layers == WANTED
    for kernel, array in zip(kernels, KERNELS, strict=True):
        np.testing.assert_array_equal(kernel, first(array))
    assert [(skipped.reason, skipped.names) for skipped in model.skipped] == [(ABSENT, ("lost",))]
    assert model.notes == ["padding differs from side to side, and is null, in 1 layer (line)"]
    assert not model.facts.quantised


def test_ordinary_convolutions_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    model, _ = read(path := archive(tmp_path / "net.keras", weights(ARRAYS)), regular=5, stem=True)
    assert model.layers == WANTED
    assert [(layer.name, layer.kind, layer.out_channels, layer.in_channels) for layer in model.regular] == [
        ("dense", "stem", 24, 24)
    ]
    (array,) = model.read_regular()
    np.testing.assert_array_equal(array, ARRAYS["layers/conv2d_1/vars/0"].transpose(3, 2, 0, 1))
    assert read(path)[0].regular == []


def test_the_folder_that_keras_2_called_otherwise(tmp_path: Path) -> None:
    before = {path.replace("layers/", "_layer_checkpoint_dependencies\\"): array for path, array in ARRAYS.items()}
    before = {path.replace("\\", "/"): array for path, array in before.items()}
    assert read(archive(tmp_path / "net.keras", weights(before)))[0].layers == WANTED


def test_keras_2_counts_each_layer_twice(tmp_path: Path) -> None:
    layers = [layer("DepthwiseConv2D", f"dw{i}", strides=1, padding="same") for i in range(3)]
    kernels = [random(3, 3, 8, 1, seed=i) for i in range(3)]
    names = ("depthwise_conv2d", "depthwise_conv2d_2", "depthwise_conv2d_4")
    data = weights({f"{OF_KERAS_2}/{name}/vars/0": array for name, array in zip(names, kernels, strict=True)})
    config = {"class_name": "Functional", "config": {"name": "net", "layers": layers}}
    model, found = read(archive(tmp_path / "net.keras", data, config))
    assert [one.name for one in model.layers] == ["dw0", "dw1", "dw2"]
    for kernel, array in zip(found, kernels, strict=True):
        np.testing.assert_array_equal(kernel, first(array))


def test_a_folder_that_keras_2_numbered_anew(tmp_path: Path) -> None:
    layers = [layer("SeparableConv2D", name, strides=1, padding="same") for name in ("sep_1", "sep_2")]
    arrays = {"model_weights/sep_1/sep_1_1/depthwise_kernel:0": ONE, "model_weights/sep_2/sep_2_1/depthwise_kernel:0": SEPARABLE}
    config = {"class_name": "Model", "config": {"name": "net", "layers": layers}}
    (tmp_path / "net.h5").write_bytes(weights(arrays, root={"model_config": json.dumps(config)}))
    model, kernels = read(tmp_path / "net.h5")
    assert [one.name for one in model.layers] == ["sep_1", "sep_2"]
    for kernel, array in zip(kernels, (ONE, SEPARABLE), strict=True):
        np.testing.assert_array_equal(kernel, first(array))


@pytest.mark.parametrize("leaf", ["depthwise_kernel:0", "kernel"], ids=["Keras 2", "Keras 3"])
def test_a_whole_model_in_hdf5(tmp_path: Path, leaf: str) -> None:
    plain = leaf.replace("depthwise_", "")
    arrays = {
        f"model_weights/dw/dw/{leaf}": FIRST, f"model_weights/sep/sep/depthwise_{plain}": SEPARABLE,
        f"model_weights/inner/inner/dw/{leaf}": INNER, f"model_weights/inner/inner/dw2/{leaf}": SECOND,
        f"model_weights/grouped/grouped/{plain}": GROUPED, f"model_weights/dense/dense/{plain}": random(3, 3, 24, 24),
        f"model_weights/each/each/one/{leaf}": ONE, f"model_weights/line/line/{leaf}": LINE,
    }  # fmt: skip
    path = tmp_path / "net.h5"
    path.write_bytes(weights(arrays, root={"model_config": json.dumps(CONFIG)}))
    model, kernels = read(path)
    assert model.layers == WANTED
    for kernel, array in zip(kernels, KERNELS, strict=True):
        np.testing.assert_array_equal(kernel, first(array))


def test_weights_alone(tmp_path: Path) -> None:
    (tmp_path / "new.weights.h5").write_bytes(weights(ARRAYS, NAMES))
    model, kernels = read(tmp_path / "new.weights.h5")
    assert [layer.name for layer in model.layers] == ["grouped", "depthwise_conv1d", "dw", "sep", "dw_2", "dw2"]
    assert {(layer.stride, layer.dilation, layer.padding) for layer in model.layers} == {(None, None, None)}
    assert [layer.in_channels for layer in model.layers] == [None, 8, 8, 16, 12, 12]  # unknown where only the shape is known
    assert model.notes == [WEIGHTS_ONLY, f"{GREY}: grouped"]
    np.testing.assert_array_equal(kernels[2], first(FIRST))
    arrays = {f"{name}/{name}/depthwise_kernel:0": INNER + i for i, name in enumerate(["b", "a_10", "a_9"])}
    for root, order in [({"layer_names": np.array(["b", "a_10", "a_9"], "S")}, ["b", "a_10", "a_9"]), ({}, ["a_9", "a_10", "b"]),
                        ({"layer_names0": ["a_10", "b"], "layer_names1": ["a_9"]}, ["a_10", "b", "a_9"])]:  # fmt: skip
        (tmp_path / "old.h5").write_bytes(weights(arrays, root=root))
        assert [layer.name for layer in read(tmp_path / "old.h5")[0].layers] == order


def test_number_formats(tmp_path: Path) -> None:
    config = {"class_name": "Sequential", "config": {"layers": [layer("DepthwiseConv2D", name) for name in "abcde"]}}
    half, double = INNER.astype(np.float16), INNER.astype(np.float64)
    brain = (INNER.view(np.uint32) >> 16).astype(np.uint16)
    arrays = {f"x/{name}/kernel": array for name, array in zip("abcde", [half, double, brain, brain, INNER[:1, :1]], strict=True)}
    path = tmp_path / "net.h5"
    path.write_bytes(weights(arrays, root={"model_config": json.dumps(config)}))
    with h5py.File(path, "r+") as file:
        file["x/c/kernel"].attrs["dtype"] = "bfloat16"
    model, kernels = read(path)
    np.testing.assert_array_equal(kernels[0], first(half.astype(np.float32)))
    np.testing.assert_array_equal(kernels[1], first(INNER))
    np.testing.assert_array_equal(kernels[2], first((brain.astype(np.uint32) << 16).view(np.float32)))
    assert [(skipped.reason, skipped.names) for skipped in model.skipped] == [(NOT_FLOAT, ("d",)), (POINTWISE, ("e",))]
    assert any("float64" in note for note in model.notes)


def test_the_order_of_channels_is_torchs(tmp_path: Path) -> None:
    """What Keras says a depthwise convolution computes, written out for one position."""
    path = archive(tmp_path / "net.keras", weights(ARRAYS))
    kernels = torch.from_numpy(read(path)[1][0]).unsqueeze(1)
    image = np.random.default_rng(1).standard_normal((5, 5, 8)).astype(np.float32)
    wanted = np.einsum("yxc,yxcm->cm", image, FIRST).ravel()
    made = torch.conv2d(torch.from_numpy(image).permute(2, 0, 1)[None], kernels, groups=8).ravel()
    np.testing.assert_allclose(made.numpy(), wanted, rtol=1e-4, atol=1e-5)


# -- bad input ----------------------------------------------------------------------------------------------------------------


def refused(path: Path, *words: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    for word in (path.name, *words):
        assert word in str(caught.value)


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    secret.write_bytes(weights({"dw/depthwise_kernel:0": INNER}))
    path = tmp_path / "x.h5"
    for link in (h5py.ExternalLink(str(secret), "/dw"), h5py.SoftLink("/dw")):
        with h5py.File(path, "w") as file:
            file["link"] = link
        refused(path, "link")
    with h5py.File(path, "w") as file:
        file.create_dataset("dw/depthwise_kernel:0", INNER.shape, "f4", external=[(str(secret), 0, INNER.nbytes)])
    refused(path, "another file")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(INNER.shape, "f4")
        layout[:] = h5py.VirtualSource(str(secret), "dw/depthwise_kernel:0", INNER.shape)
        file.create_virtual_dataset("dw/depthwise_kernel:0", layout)
    refused(path, "another file")


def test_what_would_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("dw/depthwise_kernel:0", (200, 200, 2**16, 1), "f4", chunks=(1, 1, 64, 1))
    refused(path, "bytes")
    with h5py.File(path, "w") as file:
        file["a"] = file["/"]  # a group that holds itself
    refused(path, "without end")
    with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", bytes(2**24))
    refused(tmp_path / "x.keras", "unpack")


@pytest.mark.parametrize("config", [[], "text", {"config": {"layers": [1, {}, {"config": {}}]}}, {"config": 3}])
def test_configurations_without_layers(tmp_path: Path, config: Any) -> None:
    refused(archive(tmp_path / "x.keras", weights(ARRAYS), config))


@pytest.mark.parametrize(
    "change", [{"strides": []}, {"strides": "a"}, {"strides": [float("inf"), 1]}, {"dilation_rate": None}, {"padding": []}]
)
def test_configurations_that_make_no_sense(tmp_path: Path, change: dict[str, Any]) -> None:
    config = {"config": {"layers": [layer("DepthwiseConv2D", "dw", **change)]}}
    refused(archive(tmp_path / "x.keras", weights(ARRAYS), config), "dw", "no sense")


def test_absurd_steps_are_refused(tmp_path: Path) -> None:
    config = {"config": {"layers": [layer("DepthwiseConv2D", "dw", strides=[2**31, 1])]}}
    refused(archive(tmp_path / "x.keras", weights(ARRAYS), config), "dw", "absurd stride")


def test_archives_that_are_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as file:
        file.writestr("a", "b")
    refused(tmp_path / "x.keras", "no Keras model")
    archive(tmp_path / "y.keras", b"no HDF5")
    refused(tmp_path / "y.keras", "damaged")
    (tmp_path / "z.h5").write_bytes(b"no HDF5 either, but long enough")
    refused(tmp_path / "z.h5", "HDF5")


def test_damage_is_refused_in_one_line_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "SECONDS", 5.0)  # some damage makes HDF5's library run without end
    seeds = {
        "x.h5": weights({"dw/dw/depthwise_kernel:0": INNER}, root={"layer_names": ["dw"]}),
        "x.keras": archive(tmp_path / "whole.keras", weights(ARRAYS, NAMES)).read_bytes(),
    }
    for name, whole in seeds.items():
        path = tmp_path / name
        for seed in range(20):
            chance = plain_random.Random(seed)
            content = bytearray(whole)
            if seed < 6:
                del content[len(content) * (seed + 1) // 8 :]
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(content))
                new = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", bytes([chance.randrange(256)])])
                content[place : place + len(new)] = new
            path.write_bytes(content)
            assert "\n" not in refusal(path)


def refusal(path: Path) -> str:
    """Why a file is refused; empty where it is read. Any other exception is a failure."""
    try:
        assert all(np.isfinite(kernel).all() for kernel in read(path)[1])
    except SourceError as error:
        return str(error)
    return ""


def test_a_reader_that_dies_or_is_silent_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "x.keras", weights(ARRAYS))
    for program, seconds in (("import os; os.abort()", 30.0), ("import time; time.sleep(60)", 0.2)):
        (tmp_path / "hdf5_child.py").write_text(program)
        monkeypatch.setattr(hdf5, "__file__", str(tmp_path / "hdf5.py"))
        monkeypatch.setattr(hdf5, "SECONDS", seconds)
        refused(path, "gave up")


def test_the_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "x.keras", weights(ARRAYS))
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(path, "pip install 'filterdb[keras]'")
