"""Kernels of stems and ordinary convolutions: what is drawn, what it is, and that no depthwise answer sees it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from filterdb import Database
from filterdb.errors import InvalidArgument, NotFound
from filterdb.fields.regular import shares
from filterdb.figures.contrast import spread
from filterdb.kernels.descriptors import describe


class Net(nn.Module):
    """A stem, a depthwise layer, two ordinary convolutions and a pointwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv_dw = nn.Conv2d(8, 8, 3, groups=8)
        self.wide = nn.Conv2d(8, 16, 3)
        self.mix = nn.Conv2d(16, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 5, groups=4)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def db(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("regular")
    save_file(net.state_dict(), folder / "net.safetensors")
    torch.save(net.state_dict(), folder / "saved.pth")
    database = Database(folder / "filters")
    database.ingest(net, name="module", stem=True, regular=60)
    database.ingest(folder / "net.safetensors", folder / "saved.pth", stem=True, regular=60)
    database.ingest(net, name="plain")
    return database


def test_the_stem_is_whole_and_the_others_are_drawn_evenly(db: Database, net: Net) -> None:
    rows = db.sql("SELECT model, kind, layer, count(*) FROM regular GROUP BY ALL").fetchall()
    expected = {("stem", "stem", 24), ("regular", "wide", 30), ("regular", "grouped", 30)}
    assert {row[0] for row in rows} == {"module", "net", "saved"}
    for model in ("module", "net", "saved"):
        assert {row[1:] for row in rows if row[0] == model} == expected
    weights = {name: module.weight.detach().numpy() for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    sql = "SELECT layer, channel, in_channel, kernel, kernel_h, kernel_w, total FROM regular"
    for layer, channel, in_channel, kernel, h, w, total in db.sql(sql).fetchall():
        assert np.array_equal(np.float32(kernel).reshape(h, w), weights[layer][channel, in_channel])
        assert total == pytest.approx(weights[layer][channel, in_channel].sum(), abs=1e-5)


def test_its_words_are_those_of_the_kernels(db: Database) -> None:
    rows = db.sql("SELECT kernel, band, dc_ratio FROM regular WHERE size = '3x3' AND model = 'net'").fetchall()
    found = describe(np.float32([row[0] for row in rows]).reshape(-1, 3, 3))
    assert [row[1] for row in rows] == found["band"].tolist()
    np.testing.assert_allclose([row[2] for row in rows], found["dc_ratio"], rtol=1e-6)


def test_no_depthwise_answer_sees_them(db: Database) -> None:
    for table in ("filters", "descriptors"):
        assert db.sql(f"SELECT count(*) FROM {table}").fetchall() == [(32,)]
    ids = db.sql("SELECT filter_id FROM regular UNION ALL SELECT filter_id FROM filters").fetchall()
    assert max(Counter(ids).values()) == 1
    assert db.sql("SELECT sum(filters) FROM models").fetchall() == [(32,)]
    assert db.verify().ok


def test_the_same_kernels_are_drawn_again_and_a_replaced_model_has_only_its_new_ones(net: Net, tmp_path: Path) -> None:
    db = Database(tmp_path / "filters")
    seen = []
    for _ in range(2):
        db.ingest(net, name="one", regular=10)
        seen.append(db.sql("SELECT filter_id FROM regular ORDER BY 1").fetchall())
    assert seen[0] == seen[1]
    assert len(seen[0]) == 10
    db.ingest(net, name="one")
    assert db.sql("SELECT count(*) FROM regular").fetchall() == [(0,)]


def test_they_are_selections_to_compare(db: Database) -> None:
    found = db.compare("regular:module", "plain", size="3x3", novel=2)
    assert (found.a.kernels, found.b.kernels) == (30, 8)
    assert {one.layer for one in found.novel} == {"wide"}
    assert db.compare("stem:*", "module", size="3x3", novel=0).a.kernels == 72
    with pytest.raises(NotFound):
        db.compare("stem:plain", "module", size="3x3")


def test_a_network_without_depthwise_layers_is_stored_where_they_are_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 7), nn.Conv2d(4, 4, 3))
    db = Database(tmp_path / "filters")
    db.ingest(net, name="plain", stem=True, regular=1000)
    assert db.sql("SELECT kind, size, count(*) FROM regular GROUP BY ALL ORDER BY ALL").fetchall() == [
        ("regular", "3x3", 16), ("stem", "7x7", 12),
    ]  # fmt: skip
    assert db.sql("SELECT filters, layers FROM models").fetchall() == [(0, 0)]
    assert db.verify().ok
    with pytest.raises(InvalidArgument, match="regular"):
        db.ingest(net, name="plain", regular=-1)


def test_contrast_draws_each_kind(db: Database, tmp_path: Path) -> None:
    db.plot("contrast", size="3x3", out=tmp_path / "contrast.png")
    assert (tmp_path / "contrast.png").stat().st_size > 1000
    with pytest.raises(NotFound, match="--regular"):
        db.plot("contrast", size="3x3", models="plain", out=tmp_path / "none.png")


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 200))
def test_shares_are_even(sizes: list[int], count: int) -> None:
    found = shares(sizes, count)
    assert sum(found) == min(count, sum(sizes))
    assert all(given <= size for given, size in zip(found, sizes, strict=True))
    short = [given for given, size in zip(found, sizes, strict=True) if given < size]
    assert not short or max(found) - min(short) <= 1


def test_spread_counts_dimensions() -> None:
    rng = np.random.default_rng(0)
    one = np.outer([1, -1, 3], rng.standard_normal(9))
    assert spread(one) == pytest.approx(1)
    assert spread(rng.standard_normal((100_000, 9))) == pytest.approx(8, abs=0.05)


def test_the_number_of_kernels_may_be_left_out_on_the_command_line(net: Net, tmp_path: Path) -> None:
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    for flags, expected in [
        (("--regular",), 128 + 64),
        (("--regular", "30"), 30),
        (("--regular", "--stem"), 128 + 64 + 24),
        ((), 0),
    ]:
        run("ingest", *flags, "--name", "net", tmp_path / "net.safetensors", db=tmp_path / "filters")
        assert Database(tmp_path / "filters").sql("SELECT count(*) FROM regular").fetchall() == [(expected,)]
