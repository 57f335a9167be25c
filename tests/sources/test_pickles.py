"""Pickles: whatever a file asks to be called, nothing is, and what it holds of numbers is read."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import sys
import tarfile
import types
import zipfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickles import KERNEL, MARK, Payload, leaves, load, module, read
from real import data, manifest
from torch import nn

from filterdb.errors import SourceError
from filterdb.sources import resolve
from filterdb.sources.formats import torch_name
from filterdb.sources.pickles.checkpoint import TorchCheckpoint
from filterdb.sources.pickles.machine import Global, Record
from filterdb.sources.pickles.objects import tree
from filterdb.sources.pickles.opcodes import Pickle
from filterdb.sources.pickles.rebuild import KNOWN, build
from filterdb.sources.pickles.stored import InMemory, Storage, StoredTensor

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64,
    torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip
# -- nothing is executed -------------------------------------------------------------------------------------------------------


MAKE = "open('EXECUTED', 'w').close()"
PAYLOADS = {
    "system": Payload(os.system, MARK), "eval": Payload(eval, MAKE), "exec": Payload(exec, MAKE),
    "mkdir": Payload(os.mkdir, "EXECUTED"),
    "open": Payload(open, "EXECUTED", "w"), "getattr": Payload(getattr, Payload(__import__, "os"), "system"),
    "subprocess": Payload(__import__("subprocess").Popen, ["touch", "EXECUTED"]),
    "build": (collections.OrderedDict, (), Payload(os.system, MARK)),
}  # fmt: skip
HAND = {
    "inst": b"(S'touch EXECUTED'\nios\nsystem\n.", "obj": b"(cos\nsystem\nS'touch EXECUTED'\no.",
    "newobj": b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch EXECUTED\x85\x81.",
    "newobj_ex": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch EXECUTED\x85}\x92.",
    "ext1": b"\x80\x02\x82\x01(S'touch EXECUTED'\ntR.", "ext2": b"\x80\x02\x83\x01\x00)R.",
    "ext4": b"\x80\x02\x84\x01\x00\x00\x00)R.",
    "setstate": b"\x80\x02cos\nsystem\n)\x81S'touch EXECUTED'\nb.",
    "class_by_call": b"cbuiltins\n__import__\n(S'os'\ntR(S'touch EXECUTED'\ntR.",
    "build_on_class": b"cos\nenviron\n}S'EXECUTED'\nS'1'\nsb.",
}  # fmt: skip


@pytest.mark.parametrize("name", [*PAYLOADS, *HAND])
def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    content = HAND.get(name) or pickle.dumps(PAYLOADS[name])
    loaded = load(content)
    assert isinstance(loaded, Record | Global | tuple)
    for protocol in range(2, 6) if name in PAYLOADS else ():
        torch.save({"a.weight": KERNEL, "args": PAYLOADS[name]}, "evil.pth", pickle_protocol=protocol)
        assert list(read(Path("evil.pth"))) == ["a"]
    Path("evil.bin").write_bytes(content)
    with pytest.raises(SourceError):
        read(Path("evil.bin"))
    assert not Path("EXECUTED").exists()
    assert "EXECUTED" not in os.environ


def test_no_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "imported_by_pickle.py").write_text(MAKE)
    sys.path.insert(0, str(tmp_path))
    try:
        assert load(b"cimported_by_pickle\nThing\n)R.").name == "imported_by_pickle.Thing"
    finally:
        sys.path.remove(str(tmp_path))
    assert "imported_by_pickle" not in sys.modules


def test_the_unpickler_needs_no_torch() -> None:
    import subprocess

    path = str(data() / "weights" / "LKDN_x4.pth")
    code = f"""
import sys, filterdb, tempfile
with tempfile.TemporaryDirectory() as folder:
    assert filterdb.Database(folder + "/db").ingest({path!r})
print(*{{"torch", "timm", "huggingface_hub"}} & set(sys.modules))"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


# -- what is rebuilt -----------------------------------------------------------------------------------------------------------


class Named:
    def __init__(self) -> None:
        self.weights = {"a.weight": 1}


class Listed(list):
    pass


class Keyed(dict):
    pass


@pytest.mark.parametrize("protocol", range(6))
def test_plain_things_are_themselves(protocol: int) -> None:
    things = [
        None, True, False, 0, 255, -1, 70_000, 2**40, -(2**90), 1.5, "text", "Grüße\n'\"", b"bytes\0", bytearray(b"x"), (),
        (1,), (1, 2, 3, 4),
        [], [1, [2]], {}, {"a": {"b": 1}}, {1, "a"}, frozenset({2}), 1 + 2j, collections.OrderedDict(a=1, b=2),
        collections.Counter("aab"), np.float64(1.5), np.int32(7), np.bool_(True), torch.Size([1, 2]),
    ]  # fmt: skip
    for thing in things:
        assert load(pickle.dumps(thing, protocol)) == thing
    assert load(pickle.dumps(collections.deque([1, 2]), protocol)) == [1, 2]
    filled = collections.defaultdict(list, {"a": [1]})
    assert load(pickle.dumps(filled, protocol)) == {"a": [1]}


@pytest.mark.parametrize("protocol", range(6))
def test_other_things_are_records(protocol: int) -> None:
    named = load(pickle.dumps(Named(), protocol))
    assert isinstance(named, Record)
    assert named.state == {"weights": {"a.weight": 1}}
    listed, keyed = Listed([1, 2]), Keyed(a=1)
    listed.more = keyed.more = 3  # type: ignore[attr-defined]
    assert 2 in load(pickle.dumps(listed, protocol)).listed or protocol < 2
    assert load(pickle.dumps(keyed, protocol)).items == {"a": 1} or protocol < 2
    assert load(pickle.dumps(os.system, protocol)) == Global("posix.system")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4", ">i8", "|u1", "|b1", "<c8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy(protocol: int, dtype: str, order: str) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=(3, 1, 4, 5)) * 3, dtype, order=order)  # type: ignore[call-overload]
    stored = load(pickle.dumps({"a": array}, protocol))["a"]
    np.testing.assert_array_equal(stored.read("x"), array.astype(np.float32) if dtype == "<f2" else array)
    strings = load(pickle.dumps([np.array(["a"]), np.array([{}], object), np.zeros(2, "f4,i4")], protocol))
    assert [one.shape for one in strings] == [(0,)] * 3


def tensor_views() -> dict[str, torch.Tensor]:
    """Every number format, and every kind of view."""
    torch.manual_seed(0)
    bits = torch.randint(0, 256, (4 * 6 * 16,), dtype=torch.uint8)
    state = {str(dtype): bits.view(dtype).clone() for dtype in DTYPES if dtype is not torch.bool}
    state["torch.bool"] = bits[:16] > 100
    base = torch.randn(5, 6, 7)
    return {
        **state, "whole": base, "part": base[1:3, ::2], "turned": base.permute(2, 0, 1), "last": torch.randn(2, 8, 3, 3).to(
            memory_format=torch.channels_last), "scalar": torch.tensor(3.5), "none": torch.zeros(0, 4),
        "expanded": torch.randn(1, 4).expand(1, 4), "parameter": nn.Parameter(torch.randn(3)),
    }  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_equal_bit_for_bit(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.pth"
    old = {"torch.uint16", "torch.uint32", "torch.uint64"}  # of which, as of float8, the old format knows nothing
    views = {key: one for key, one in tensor_views().items() if zipped or not (key in old or "float8" in key)}
    torch.save(views, path, _use_new_zipfile_serialization=zipped)
    theirs = torch.load(path, weights_only=True)
    ours = TorchCheckpoint(path, "x").tree
    assert list(ours) == list(theirs)
    for key, tensor in theirs.items():
        assert equal(ours[key], tensor), key


def equal(leaf: StoredTensor, tensor: torch.Tensor) -> bool:
    """Whether a stored tensor has the format, shape and bits of torch's, and its values as numbers."""
    words = leaf.words("x")
    said = torch_name(leaf.dtype), tuple(words.shape), np.ascontiguousarray(words).tobytes()
    tensor = tensor.detach().contiguous()
    wanted = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.view(-1).view(torch.uint8).numpy().tobytes()
    if tensor.dtype.is_floating_point:
        wide = tensor if tensor.dtype is torch.float64 else tensor.float()
        np.testing.assert_array_equal(leaf.read("x"), wide.numpy())
    return said == wanted


@pytest.mark.parametrize("entry", [one for one in manifest() if ".pth" in one["file"]], ids=lambda entry: entry["file"])
def test_real_files_are_equal_bit_for_bit(entry: dict[str, Any]) -> None:
    path = data() / "weights" / entry["file"]

    def tensors(held: Any, prefix: str = "") -> dict[str, torch.Tensor]:
        if isinstance(held, torch.Tensor):
            return {prefix: held}
        items = held.items() if isinstance(held, dict) else ()
        return {
            key: one for name, inner in items for key, one in tensors(inner, f"{prefix}.{name}" if prefix else str(name)).items()
        }

    with torch.serialization.safe_globals([Namespace]):
        theirs = tensors(torch.load(path, map_location="cpu", weights_only=True))
    ours = leaves(TorchCheckpoint(path, path.name).tree)
    assert ours.keys() == theirs.keys()
    assert all(equal(ours[key], tensor) for key, tensor in theirs.items())


def oldest(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A file as torch wrote them before 0.1.10: https://github.com/pytorch/pytorch/blob/v0.1.9/torch/serialization.py"""
    parts = {"sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2)}
    storages = pickle.dumps(len(tensors), 2)
    listed = pickle.dumps(len(tensors), 2)
    for i, tensor in enumerate(tensors.values()):
        kind = torch.DoubleStorage if tensor.dtype is torch.float64 else torch.FloatStorage
        base = tensor.contiguous().view(-1)
        storages += pickle.dumps((100 + i, "cpu", kind), 2) + struct.pack("<q", len(base)) + base.numpy().tobytes()
        place = (*tensor.shape, *tensor.contiguous().stride())
        listed += pickle.dumps((200 + i, 900 if i == 0 else 100 + i, torch.FloatTensor), 2)
        listed += struct.pack(f"<ii{len(place)}qq", tensor.ndim, 0, *place, 0)
    parts["storages"] = storages + pickle.dumps([(900, 100, 0, next(iter(tensors.values())).numel())], 2)
    parts["tensors"] = listed

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return str(200 + list(tensors).index(thing)) if type(thing) is str and thing in tensors else None

    content = io.BytesIO()
    Pickler(content, 2).dump(collections.OrderedDict((f"{key}.weight", key) for key in tensors))
    parts["pickle"] = content.getvalue()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_the_oldest_files(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(8, 1, 3, 3), "b": torch.randn(4, 1, 5, 5, dtype=torch.float64), "c": torch.randn(3)}
    path = oldest(tmp_path / "x.pth", tensors)
    theirs = torch.load(path, weights_only=False)
    ours = TorchCheckpoint(path, "x").tree
    assert list(ours) == list(theirs)
    assert all(equal(ours[key], tensor) for key, tensor in theirs.items())
    assert list(read(path)) == ["a", "b"]
    with tarfile.open(tmp_path / "y.tar", "w") as archive:
        archive.add(path, "x.pth")
    with pytest.raises(SourceError, match="torch did not write"):
        read(tmp_path / "y.tar")


def test_the_bytes_of_a_large_endian_machine(tmp_path: Path) -> None:
    torch.save({"a.weight": KERNEL}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as old, zipfile.ZipFile(tmp_path / "big.pth", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            content = np.frombuffer(content, "<f4").astype(">f4").tobytes() if name.endswith("data/0") else content
            new.writestr(name, b"big" if name.endswith("byteorder") else content)
    np.testing.assert_array_equal(read(tmp_path / "big.pth")["a"], KERNEL[:, 0])


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_what_has_no_numbers_is_named(tmp_path: Path) -> None:
    state = {
        "a.weight": KERNEL, "b.weight": KERNEL.to_sparse(), "c.weight": torch.empty(8, 1, 3, 3, device="meta"),
        "d.weight": torch.quantize_per_tensor(KERNEL, 0.5, 3, torch.quint8),
        "e.weight": torch.quantize_per_channel(KERNEL, torch.linspace(0.5, 1, 8), torch.zeros(8), 0, torch.qint8),
    }  # fmt: skip
    torch.save(state, tmp_path / "x.pth")
    (pending,) = resolve(tmp_path / "x.pth")
    with pending.open(None) as model:
        kernels = {layer.name: kernel for layer, kernel in zip(model.layers, model.read(), strict=True)}
    np.testing.assert_array_equal(kernels["d"], state["d.weight"].dequantize()[:, 0])
    np.testing.assert_allclose(kernels["e"], state["e.weight"].dequantize()[:, 0], rtol=1e-6)
    assert {one.names for one in model.skipped} == {("b.weight",), ("c.weight",)}
    assert any(note.startswith("2 layers with quantised weights") for note in model.notes)
    assert model.facts.quantised


# -- objects that people save --------------------------------------------------------------------------------------------------


class Wrapper:
    """An average of weights, as many projects write one."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Couldn.t retrieve source:UserWarning")
def test_whole_modules_and_wrappers(tmp_path: Path, zipped: bool) -> None:
    network, average = module(), module(1)
    own = types.ModuleType("a_project_that_is_gone")
    exec("from torch import nn\nclass Net(nn.Module):\n    pass", own.__dict__)
    own.Net.__module__ = own.__name__
    gone = own.Net()
    gone.body = network
    cases = {
        "module": network, "nested": {"model": network, "epoch": 3}, "parallel": nn.DataParallel(network), "gone": {"net": gone},
        "ema": {"model": network, "ema": Wrapper(module=average, decay=0.9)}, "shadow": Wrapper(shadow=network.state_dict()),
        "tuple": (network.state_dict(), {"epoch": 1}),
        "trainer": Wrapper(model=network, optimizer=torch.optim.SGD(network.parameters())), "optimizer": {
            "state_dict": network.state_dict(), "optimizer": torch.optim.Adam(network.parameters()), "args": Namespace(a=1)},
    }  # fmt: skip
    sys.modules[own.__name__] = own
    try:
        for name, held in cases.items():
            torch.save(held, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=zipped)
    finally:
        del sys.modules[own.__name__]
    for name in cases:
        (kernel,) = read(tmp_path / f"{name}.pth").values()
        np.testing.assert_array_equal(kernel, (average if name == "ema" else network).dw.weight.detach()[:, 0], err_msg=name)
    state = leaves(TorchCheckpoint(tmp_path / "module.pth", "x").tree)
    assert {key: leaf.shape for key, leaf in state.items()} == {
        key: tuple(one.shape) for key, one in network.state_dict().items()
    }


def test_parameters_of_old_and_of_many_processes() -> None:
    tensor = b"ctorch._utils\n_rebuild_tensor\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQI0\n(I2\nI2\nt(I2\nI1\nttR"
    storage = Storage("F32", InMemory(bytes(16)))
    class_ = b"ctorch.nn.parameter\nParameter\n"
    old = b"}S'w'\n" + class_ + b")\x81(" + tensor + b"NNI01\nI00\ntbs."
    older = b"}S'w'\nccopy_reg\n__newobj__\n(" + class_ + b"tR(" + tensor + b"NNI01\nI00\ntbs."
    spread = b"}S'w'\nctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_wrapper_subclass\n" + class_ + b"("
    spread += class_ + b"ctorch\nfloat32\n(I2\nI2\nt(I2\nI1\ntI0\nNNI00\nt}S'_local_tensor'\n" + tensor + b"stRs."
    for content in (old, older, spread):
        held = Pickle(io.BytesIO(content), len(content), KNOWN, build, lambda saved: storage).load()
        assert tree(held, "x")["w"].shape == (2, 2)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_programs(tmp_path: Path) -> None:
    network = module().eval()
    example = torch.zeros(1, 3, 16, 16)
    torch.jit.save(torch.jit.trace(network, example), tmp_path / "traced.pt")
    torch.jit.save(torch.jit.script(network), tmp_path / "scripted.pt")
    torch.export.save(torch.export.export(network, (example,)), tmp_path / "exported.pt2")
    for name in ("traced.pt", "scripted.pt", "exported.pt2"):
        assert list(read(tmp_path / name)) == ["dw"]
        np.testing.assert_array_equal(read(tmp_path / name)["dw"], network.dw.weight.detach()[:, 0])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_frozen_programs_keep_weights_as_constants(tmp_path: Path) -> None:
    network = module().eval()
    torch.jit.save(
        torch.jit.freeze(torch.jit.script(network.requires_grad_(False)), optimize_numerics=False), tmp_path / "frozen.pt"
    )
    (kernels,) = read(tmp_path / "frozen.pt").values()
    np.testing.assert_array_equal(kernels, network.dw.weight[:, 0])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_packed_convolutions(tmp_path: Path) -> None:
    from torch.ao import quantization

    network = nn.Sequential(quantization.QuantStub(), nn.Conv2d(8, 8, 5, groups=8), quantization.DeQuantStub()).eval()
    network.qconfig = quantization.get_default_qconfig()
    prepared = quantization.prepare(network)
    prepared(torch.randn(1, 8, 9, 9))
    quantised = quantization.convert(prepared)
    torch.save(quantised, tmp_path / "whole.pt")
    torch.jit.save(torch.jit.script(quantised), tmp_path / "scripted.pt")
    torch.jit.save(torch.jit.freeze(torch.jit.script(quantised)), tmp_path / "frozen.pt")
    wanted = quantised[1].weight().dequantize()[:, 0].numpy()
    for name, wanted_layer in (("whole.pt", "1"), ("scripted.pt", "1"), ("frozen.pt", "c0")):
        ((layer, kernels),) = read(tmp_path / name).items()
        assert layer == wanted_layer
        np.testing.assert_array_equal(kernels, wanted)


def test_convolutions_that_phones_prepack() -> None:
    modules = {
        "conv": packed(KERNEL.shape),
        "_packed_weight_0": packed((4, 1, 5, 5)),
        "grey": packed((8, 1, 3, 3), 1),
        "other": 0,
    }
    held = Record("__torch__.Net", (), modules)
    state = tree({"program": held, "constants": {"c0": packed((2, 1, 3, 3))}}, "x")
    assert {key: leaf.shape for key, leaf in state["program"].items()} == {
        "conv.weight": (8, 1, 3, 3), "_packed_weight_0.weight": (4, 1, 5, 5),
    }  # fmt: skip
    assert state["constants"]["c0.weight"].shape == (2, 1, 3, 3)


def packed(shape: Sequence[int], groups: int = 8) -> Record:
    """What torch's optimiser for mobile phones makes of a convolution."""
    weight, bias = (StoredTensor(Storage("F32", InMemory(b"")), "F32", 0, tuple(one), (1,)) for one in (shape, shape[:1]))
    return Record(
        "__torch__.torch.classes.xnnpack.Conv2dOpContext", (), (weight, bias, [1, 1], [0, 0], [1, 1], groups, None, None)
    )
