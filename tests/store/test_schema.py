"""Ids are stable and sizes are read as written."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterdb.errors import InvalidArgument
from filterdb.kernels.sizes import parse_size, size_name
from filterdb.store.schema import filter_ids


def test_filter_ids_are_the_documented_hash():
    digest = hashlib.blake2b(b"net\0stages.0.conv", digest_size=8).digest()
    first = int.from_bytes(digest, "big") >> 1
    assert filter_ids("net", "stages.0.conv", 3).tolist() == [first, first + 1, first + 2]


def test_a_known_id_never_changes():
    # This number is in databases out there.
    assert filter_ids("convnextv2_atto.fcmae", "stages.0.blocks.0.conv_dw", 1).tolist() == [6615808940379944549]


@given(st.text(max_size=30), st.text(max_size=30), st.integers(1, 2000))
def test_ids_are_positive_and_distinct(model, layer, channels):
    ids = filter_ids(model, layer, channels)
    assert (ids >= 0).all()
    assert len(set(ids.tolist())) == channels


@given(st.integers(1, 255), st.integers(1, 255))
def test_size_names_round_trip(h, w):
    assert parse_size(size_name(h, w)) == (h, w)


@pytest.mark.parametrize("bad", ["", "x", "7x", "0x3", "7x7x7x7", "-3", "7.0", "seven", "256"])
def test_bad_sizes_are_refused(bad):
    with pytest.raises(InvalidArgument, match="kernel size"):
        parse_size(bad)
