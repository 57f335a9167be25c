"""Depthwise kernels of one and three dimensions, from the network to every verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from filterdb import Bank, Database, banks
from filterdb.errors import BankError, InvalidArgument
from filterdb.frozen.plan import Plan
from filterdb.frozen.replace import freeze
from filterdb.kernels.sizes import Rows, parse_size, shape_of, size_name, size_of


class Net(nn.Module):
    """A layer of each kind; two have kernels that would be equal if slices were rows."""

    def __init__(self) -> None:
        super().__init__()
        self.video = nn.Conv3d(600, 600, (3, 7, 7), groups=600, padding=(1, 3, 3), stride=(1, 2, 2))
        self.time = nn.Conv3d(32, 32, (3, 1, 1), groups=32)
        self.strip = nn.Conv2d(8, 8, (3, 1), groups=8)
        self.still = nn.Conv3d(16, 16, (1, 5, 5), groups=16)
        self.audio = nn.Conv1d(24, 24, 4, groups=24, padding=3, stride=2)
        self.image = nn.Conv2d(8, 8, 3, groups=8)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def db(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("dimensions")
    save_file(net.state_dict(), folder / "file.safetensors")
    torch.save(net.state_dict(), folder / "pickle.pth")
    made = Database(folder / "filters")
    made.ingest(net, name="net")
    made.ingest(folder / "file.safetensors", folder / "pickle.pth")
    return made


def test_names_of_sizes() -> None:
    for shape in [(7, 7), (1, 4), (3, 7, 7), (3, 1, 1)]:
        size = size_of(shape)
        assert shape_of(*size) == shape
        assert parse_size(size_name(*size)) == size
        assert size[0] * size[1] == np.prod(shape)
    assert Rows(3, 1) != 3
    assert hash(Rows(3, 7)) == hash(Rows(3, 7))


def test_layers_say_what_they_are(db: Database) -> None:
    columns = "layer, ndim, kernel_d, kernel_h, kernel_w, size, stride, stride_h, stride_w, padding"
    rows = {row[0]: row[1:] for row in db.sql(f"SELECT {columns} FROM layers WHERE model = 'net'").fetchall()}
    assert rows["video"] == (3, 3, 7, 7, "3x7x7", 2, 2, 2, 3)
    assert rows["time"] == (3, 3, 1, 1, "3x1x1", 1, 1, 1, 0)
    assert rows["strip"][:5] == (2, 1, 3, 1, "3x1")
    assert rows["still"][:5] == (3, 1, 5, 5, "5x5")
    assert rows["audio"] == (1, 1, 1, 4, "1x4", 2, None, 2, 3)
    shapes = db.sql("SELECT layer, size, ndim, kernel_d FROM layers WHERE model <> 'net' GROUP BY ALL").fetchall()
    assert sorted(shapes) == sorted((layer, row[4], row[0], row[1]) for layer, row in rows.items())


@pytest.mark.parametrize("model", ["net", "file", "pickle"])
def test_kernels_are_those_of_the_network_bit_for_bit(db: Database, net: Net, model: str) -> None:
    for layer, size in [("video", "3x7x7"), ("time", "3x1x1"), ("strip", "3x1"), ("still", "5x5"), ("audio", "1x4")]:
        weight = net.get_submodule(layer).weight.detach().numpy()
        kernels = db.kernels(model, size=size)
        assert kernels.reshape(len(weight), -1).tobytes() == weight.reshape(len(weight), -1).tobytes()
    assert db.kernels(model, size="3x7x7").shape == (600, 3, 7, 7)
    assert db.kernels(model, size="3x7x7")[:2].ids.shape == (2,)
    assert db.kernel(f"{model}:video:5").shape == (3, 7, 7)
    assert db.sql("SELECT DISTINCT typeof(kernel) FROM filters_3x7x7").fetchall() == [("FLOAT[147]",)]


def test_slices_are_no_rows(db: Database) -> None:
    counts = dict(db.sql("SELECT size, count(*) FROM filters WHERE model = 'net' GROUP BY ALL").fetchall())
    assert counts == {"3x7x7": 600, "3x1x1": 32, "3x1": 8, "5x5": 16, "1x4": 24, "3x3": 8}
    found = db.similar("net:time:0", k=100).fetchall()
    assert len(found) == 3 * 32 - 1
    assert {row[3] for row in found} == {"time"}


def test_words_and_fits_are_null_with_the_reason(db: Database) -> None:
    rows = db.sql("SELECT size, reason, count(band) FROM filters JOIN descriptors USING (filter_id) GROUP BY ALL").fetchall()
    words = {size: (reason, count) for size, reason, count in rows}
    assert words["3x7x7"] == words["3x1x1"] == ("three dimensions", 0)
    assert words["1x4"][1] == 3 * 24
    assert "three dimensions" in db.describe("net:video:0").sentence
    assert db.describe("net:audio:0").words["band"]
    assert [row["band"] for row in db.describe("net:video").bands] == ["(three dimensions)"]
    assert db.describe("net").identity["sizes"]["3x7x7"] == 600
    with pytest.raises(InvalidArgument, match="three dimensions"):
        db.fit("3x7x7")


def test_nearest_similar_clusters_and_compare(db: Database, net: Net) -> None:
    kernel = net.video.weight[3, 0].detach().numpy()
    assert db.similar(kernel, k=1).fetchall()[0][3:] == ("video", 3, pytest.approx(1))
    with pytest.raises(BankError, match="3x7x7"):
        db.nearest("greedy8", size="3x7x7")
    own = db.create_bank("own", kmeans=3, size="3x7x7")
    assert own.templates.shape == db.bank("own").templates.shape == (3, 3, 7, 7)
    assert set(db.nearest("own").df().template) == set(own.names)
    few = Bank(name="few", names=["one"], templates=kernel[None])
    assert db.nearest(few, model="net").df().similarity.max() == pytest.approx(1)
    made = db.cluster("3x7x7", method="kmeans", classes=2, name="solid")
    assert made.classes == ["class_0", "class_1", "other"]
    assert db.classifier("solid").size == "3x7x7"
    assert db.sql("SELECT count(*) FROM classes").fetchall() == [(3 * 600,)]
    assert db.compare("net", "file", size="3x7x7", novel=1).novel[0].best_similarity == pytest.approx(1)
    assert db.verify().problems == []


def test_pictures_show_slices_one_below_the_other(db: Database, tmp_path: Path) -> None:
    for name, options in [("filter", {"filter": "net:video:0"}), ("samples", {"rows": db.similar("net:video:0", k=6)})]:
        db.plot(name, out=tmp_path / f"{name}.png", **options)
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_freezing_leaves_them_alone(net: Net) -> None:
    frozen = freeze(net, Plan.of(banks.load("greedy8"), resize="crop"))
    assert frozen.report.totals()["replaced"] == 16  # the 3x1 strips and the 3x3 kernels
    for layer in ("video", "time", "still", "audio"):
        assert torch.equal(frozen.module.get_submodule(layer).weight, net.get_submodule(layer).weight)
