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
from filterdb.sources.checkpoint import TorchCheckpoint
from filterdb.sources.opcodes import _ACTIONS, Malformed, Opaque
from filterdb.sources.stored import StoredTensor

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


def test_a_compressed_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filterdb.sources import archive, opcodes, stored

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
