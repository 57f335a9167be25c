"""Pickles that are damaged, absurd or made to do harm: refused in one line or read, in no time, and never anything else."""

from __future__ import annotations

import contextlib
import io
import pickle
import time
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from pickles import KERNEL, SHELL, leaves, load, module, read

from filterdb.errors import SourceError
from filterdb.sources.pickles.checkpoint import TorchCheckpoint
from filterdb.sources.pickles.machine import Malformed, Opaque
from filterdb.sources.pickles.opcodes import _ACTIONS
from filterdb.sources.pickles.stored import StoredTensor

# -- absurd things -------------------------------------------------------------------------------------------------------------


def laughs(step: bytes) -> bytes:
    """A list of two lists of two lists …, a hundred deep, each pair the same list twice."""
    return b"\x80\x04]\x94" + b"".join(step % {b"last": bytes([i]), b"next": bytes([i + 1])} for i in range(100)) + b"."


def test_bombs_are_read_in_no_time(tmp_path: Path) -> None:
    bombs = {
        "lists": laughs(b"]q%(next)b(h%(last)bh%(last)be"), "tuples": laughs(b"h%(last)bh%(last)b\x86q%(next)b"),
        "keys": laughs(b"h%(last)bh%(last)b\x86q%(next)b")[:-1] + b"}h\x64K\x01s.",
        "in_sets": laughs(b"h%(last)bh%(last)b\x86q%(next)b")[:-1] + b"\x8f(h\x64\x90.",
        "deep_lists": b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "deep_tuples": b"\x80\x04)" + b"\x85" * 200_000 + b".",
        "deep_keys": b"\x80\x04})" + b"\x85" * 200_000 + b"K\x01s.",
        "deep_dicts": b"\x80\x04" + b"}U\x01a" * 100_000 + b"}" + b"s" * 100_000 + b".",
        "deep_records": b"\x80\x04" + b"cos\nsystem\n(" * 50_000 + b"tR" * 50_000 + b".", "itself": b"\x80\x04]\x94h\x00a.",
    }  # fmt: skip
    for name, content in bombs.items():
        begin = time.perf_counter()
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(SourceError, match=r"holds no tensors|holds a set"):
            read(tmp_path / "x.pth")
        assert time.perf_counter() - begin < 3, name
    assert isinstance(next(iter(load(bombs["keys"]))), Opaque)


def test_what_is_shared_by_many_is_walked_once(tmp_path: Path) -> None:
    """Each of these is small, and would be large if all that it says were followed."""
    many = b"\x80\x04](" + b"".join(b"X\x04\x00\x00\x00%04dK\x01\x86" % i for i in range(2000)) + b"eq\x00cos\nx\nq\x01"
    table = b"\x80\x04}(" + b"".join(b"X\x05\x00\x00\x00%05d]" % i for i in range(20_000)) + b"uq\x00cos\nx\nq\x010"
    text = b"\x80\x04X\x00\x00\x10\x00" + b"a" * 2**20 + b"q\x00c_codecs\nencode\nq\x010"
    scripted = table.replace(b"cos\nx", b"c__torch__\nx")
    parts = b"X\x0b\x00\x00\x00_parametersh\x00X\x08\x00\x00\x00_modulesh\x00"
    inner = b"".join(b"X\x05\x00\x00\x00%05dh\x01)R}(%bub" % (i, parts) for i in range(20_000))
    bombs = {
        "arguments": many + b"](" + b"h\x01h\x00R" * 300_000 + b"e.",
        "states": table + b"](" + b"h\x01)Rh\x00b" * 100_000 + b"e.",
        "scripts": scripted + b"](" + b"h\x01)Rh\x00b" * 100_000 + b"e.",
        "modules": table + b"](" + b"h\x01)R}(%bub" % parts * 50_000 + b"e.",
        "in one": table + b"}X\x0b\x00\x00\x00_parameters}sX\x08\x00\x00\x00_modules}(" + inner + b"us.",
        "copies": many + b"cbuiltins\nlist\nq\x02](" + b"h\x02h\x00\x85R" * 300_000 + b"e.",
        "texts": text + b"](" + b"h\x01h\x00\x85R" * 100_000 + b"e.",
        "makers": many + b"ccopyreg\n__newobj__\nq\x02](" + b"h\x02(h\x01h\x00tR" * 100_000 + b"e.",
    }  # fmt: skip
    for name, content in bombs.items():
        begin = time.perf_counter()
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(SourceError, match=r"no tensors|more instructions"):
            read(tmp_path / "x.pth")
        assert time.perf_counter() - begin < 20, name


@pytest.mark.parametrize("key", ["weight" * 100_000, "parametrizations.x." * 50_000, "weight_" * 100_000 + "g"])
def test_long_keys(tmp_path: Path, key: str) -> None:
    begin = time.perf_counter()
    torch.save({key: KERNEL.clone(), f"{key}_v": KERNEL.clone(), "a.weight": KERNEL}, tmp_path / "x.pth")
    assert "a" in read(tmp_path / "x.pth")
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    "content",
    [
        b"", b".", b"N", b"\x80", b"\x80\x09", b"0.", b"a.", b"s.", b"}NNu.", b"(.", b"t.", b"h\x05.", b"g5\n.", b"R.",
        b"NR.", b"]NR.", b"b.",         b"X\xff\xff\xff\xff.", b"\x8e" + b"\xff" * 8 + b".", b"\x8b\xff\xff\xff\x7f.",
        b"\x8b\xff\xff\xff\xff.", b"I" + b"9" * 6000 + b"\n.",         b"I\n.", b"Fx\n.", b"Sx\n.", b"S'\\x\n.", b"cx",
        b"ios\n", b"\x93.", b"K\x01K\x02\x93.", b"NNs.", b"](K\x01u.", b"}(K\x01u.", b"}N(N\x90.",         b"\xfe.",
        b"\x97.", b"\x98.", b"(NK\x01d.", b"((d.", b"X\x01\x00\x00\x00\xff.", b"p5\n.", b"\x92.", b"1.", b"2.",
    ],
)  # fmt: skip
def test_damaged_pickles(content: bytes, tmp_path: Path) -> None:
    with contextlib.suppress(Malformed):
        load(content)
    (tmp_path / "x.pth").write_bytes(b"\x80\x02" + content)
    with pytest.raises(SourceError) as caught:
        read(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


def forged(path: Path, **changes: bytes) -> Path:
    """A zip file of torch's with other instructions in its pickle."""
    torch.save({"a.weight": KERNEL}, path)
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in parts.items():
            if name.endswith("data.pkl"):
                assert all(one.encode("latin-1") in content for one in changes)
                for one, other in changes.items():
                    content = content.replace(one.encode("latin-1"), other)
            new.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"(K\x08K\x01K\x03K\x03t": b"(J\xff\xff\xff\xffK\x01K\x03K\x03t"}, "absurd size"),
        ({"(K\x08K\x01K\x03K\x03t": b"(\x8a\x0a" + b"\xff" * 9 + b"\x00K\x01K\x03K\x03t"}, "absurd size"),
        ({"(K\x08K\x01K\x03K\x03t": b"(K\x09K\x01K\x03K\x03t"}, "reaches beyond"),
        ({"(K\tK\tK\x03K\x01t": b"(K\tK\tK\x03J\xff\xff\xff\xfft"}, "absurd size"),
        ({"(K\tK\tK\x03K\x01t": b"(K\x00K\x00K\x00t"}, "another number of steps"),
        ({"(K\x08K\x01K\x03K\x03t": b"(K\x00\x8a\x08" + b"\xff" * 7 + b"\x0fK\x03K\x03t"}, "absurd size"),
        ({"QK\x00(": b"QK\x01("}, "reaches beyond"),
        ({"KHtq": b"\x8a\x09" + b"\xff" * 8 + b"\x00tq"}, "absurd storage"),
        ({"KHtq": b"J\x00\x00\x01\x00tq"}, "65536 numbers should be"),
        ({"X\x01\x00\x00\x000": b"X\x01\x00\x00\x009"}, "has no entry data/9"),
        ({"FloatStorage": b"DoubleStorage"}, "numbers should be"), ({"FloatStorage": b"StrangeStorage"}, "no depthwise"),
    ],
)  # fmt: skip
def test_absurd_tensors_are_refused(tmp_path: Path, changes: dict[str, bytes], says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        read(forged(tmp_path / "x.pth", **changes))
    assert "\n" not in str(caught.value)


def test_the_step_of_one_thing_says_nothing(tmp_path: Path) -> None:
    path = forged(tmp_path / "x.pth", **{"(K\tK\tK\x03K\x01t": b"(K\t\x8a\x08" + b"\xff" * 7 + b"\x7fK\x03K\x01t"})
    np.testing.assert_array_equal(read(path)["a"], KERNEL[:, 0])


def test_a_compressed_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filterdb.sources.pickles import archive, opcodes, stored

    torch.save({"a.weight": torch.zeros(64, 1, 64, 64)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as old, zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert read(tmp_path / "x.pth")["a"].shape == (64, 64, 64)
    for place, limit in ((stored, "LARGEST_COMPRESSED"), (archive, "LARGEST_PICKLE"), (opcodes, "MOST_STEPS")):
        monkeypatch.setattr(place, limit, 50)
        with pytest.raises(SourceError, match=r"would be|more instructions"):
            read(tmp_path / "x.pth")
        monkeypatch.undo()


def test_an_archive_in_an_archive_in_an_archive(tmp_path: Path) -> None:
    content = b"PK\x03\x04"
    for depth in range(4):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("serialized_state_dict.pt", content)
        content = buffer.getvalue()
        (tmp_path / "x.pt2").write_bytes(content)
        with pytest.raises(SourceError, match="checkpoints in checkpoints" if depth > 0 else "damaged"):
            read(tmp_path / "x.pt2")


# -- fuzz ----------------------------------------------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    """Files of all kinds, with objects in them."""
    made = []
    held = {
        "model": module(),
        "args": Namespace(x=SHELL),
        "a": {"w.weight": KERNEL.bfloat16(), "n": np.ones(3)},
    }
    for options in ({}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}):
        buffer = io.BytesIO()
        torch.save(held, buffer, **options)  # type: ignore[arg-type]
        made.append(buffer.getvalue())
    numpy = {"a.weight": KERNEL.numpy(), "list": [1, (2.0, "x")], "set": {1}}
    return made + [pickle.dumps(numpy, protocol) for protocol in (0, 2, 5)]


SEEDS = seeds()


@examples(8)
@given(draws=st.data())
def test_mutations_raise_nothing_else(draws: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(draws.draw(st.sampled_from(SEEDS)))
    for _ in range(draws.draw(st.integers(1, 8))):
        place = draws.draw(st.integers(0, min(len(content) - 1, 4000)))
        if draws.draw(st.booleans()):
            content[place] = draws.draw(st.integers(0, 255))
        else:
            content[place : place + draws.draw(st.integers(0, 9))] = draws.draw(st.binary(max_size=12))
    path = tmp_path_factory.getbasetemp() / "fuzz.pth"
    path.write_bytes(content)
    begin = time.perf_counter()
    with contextlib.suppress(SourceError):
        checkpoint = TorchCheckpoint(path, "x")
        for leaf in leaves(checkpoint.tree).values():
            if isinstance(leaf, StoredTensor):
                leaf.read("x")
    assert time.perf_counter() - begin < 5
    assert not Path("EXECUTED").exists()


@examples(8)
@given(content=st.binary(max_size=200))
def test_noise_raises_nothing_else(content: bytes) -> None:
    with contextlib.suppress(Malformed):
        load(content)


PARTS = [*sorted(_ACTIONS), b"K\x01", b"U\x01a", b"cos\nsystem\n", b"N", b")", b"(", b"]", b"}"]


@examples(20)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=40))
def test_programs_of_instructions_raise_nothing_else(parts: list[bytes]) -> None:
    with contextlib.suppress(Malformed):
        load(b"".join(parts) + b".")


def test_many_records_take_little_time() -> None:
    content = b"\x80\x02](" + b"cnet\nThing\n)\x81}U\x01aK\x01sb" * 100_000 + b"e."
    begin = time.perf_counter()
    assert len(load(content)) == 100_000
    assert time.perf_counter() - begin < 5
