"""Sets of images: folders, Parquet in the Hugging Face layout, torchvision's data sets; what is decoded, chosen and refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, picture, write_rows
from PIL import Image
from real import data

from filterdb.errors import DataError, FilterdbError, InvalidArgument, NotFound
from filterdb.images import ImageSet, batches, open_images, parquet, transform

CONFIG = {
    "input_size": (3, 12, 12), "interpolation": "bilinear", "mean": (0.5, 0.25, 0.0), "std": (0.5, 1.0, 2.0), "crop_pct": 0.75,
    "crop_mode": "center",
}  # fmt: skip


def pixels(images: ImageSet) -> list[bytes]:
    """The pictures of a set, decoded."""
    return [images[i][0].tobytes() for i in range(len(images))]


def make_folder(root: Path, classes: dict[str, list[int]]) -> Path:
    """A folder with a sub-folder for each class, with these pictures."""
    for name, numbers in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            picture(number).save(root / name / f"{number:03d}.png")
    return root


# -- folders -------------------------------------------------------------------------------------------------------------------


def test_a_folder_of_classes(tmp_path):
    images = open_images(str(make_folder(tmp_path / "photos", {"cat": [3, 1], "ant": [2], "empty": []})))
    assert (images.classes, images.num_classes, len(images)) == (["ant", "cat", "empty"], 3, 3)
    assert images.labels.tolist() == [0, 1, 1]
    assert images.labels.dtype == np.int64
    assert pixels(images) == [picture(i).tobytes() for i in (2, 1, 3)]
    assert [images[i][1] for i in range(3)] == [0, 1, 1]


def test_pictures_side_by_side_are_unlabelled(tmp_path):
    make_folder(tmp_path, {"": [5, 4]})
    images = open_images(str(tmp_path))
    assert (images.labels, images.classes, images.num_classes, len(images)) == (None, None, None, 2)
    assert images[0][1] == -1
    with pytest.raises(DataError, match="needs labels, but its pictures lie side by side"):
        images.labelled("this")


def test_splits_are_sub_folders(tmp_path):
    for split, number in (("train", 1), ("validation", 2)):
        make_folder(tmp_path / split, {"a": [number], "b": [number + 10]})
    assert pixels(open_images(str(tmp_path), split="val")) == [picture(2).tobytes(), picture(12).tobytes()]
    with pytest.raises(DataError, match=r"has the splits train, validation\. Choose one"):
        open_images(str(tmp_path))
    with pytest.raises(NotFound, match='Did you mean "train"'):
        open_images(str(tmp_path), split="trian")


def test_any_kind_of_picture_becomes_rgb(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    Image.new("L", (4, 3), 7).save(folder / "1.png")
    Image.new("RGBA", (4, 3), (9, 8, 7, 100)).save(folder / "2.PNG")
    Image.new("P", (4, 3), 0).save(folder / "3.gif")
    Image.new("CMYK", (4, 3)).save(folder / "4.jpg")
    images = open_images(str(tmp_path))
    assert [images[i][0].mode for i in range(4)] == ["RGB"] * 4
    assert images[0][0].getpixel((0, 0)) == (7, 7, 7)
    assert images[1][0].getpixel((0, 0)) == (9, 8, 7)


# -- Parquet -------------------------------------------------------------------------------------------------------------------


def test_the_layout_of_the_hub(tmp_path):
    path = write_rows(tmp_path / "x.parquet", [*range(8)], [1, 0, 1, 2, 0, 0, 1, 1], names=["a", "b", "c", "d"])
    images = open_images(str(path))
    assert (images.classes, images.num_classes, len(images)) == (["a", "b", "c", "d"], 4, 8)
    assert images.labels.tolist() == [1, 0, 1, 2, 0, 0, 1, 1]
    assert pixels(images) == [picture(i).tobytes() for i in range(8)]
    assert pixels(images.subset([7, 0])) == [picture(7).tobytes(), picture(0).tobytes()]


def test_what_is_kept_is_bounded_and_does_not_change_what_is_read(tmp_path, monkeypatch):
    images = open_images(str(write_rows(tmp_path / "x.parquet", [*range(12)], [0] * 12)))
    monkeypatch.setattr(parquet, "KEPT", 1)
    order = np.random.default_rng(0).permutation(12)
    assert pixels(images.subset(order)) == [picture(i).tobytes() for i in order]
    assert len(images._pictures._kept) == 1
    assert not pickle.loads(pickle.dumps(images))._pictures._kept  # a worker is not sent what was read
    assert pixels(pickle.loads(pickle.dumps(images))) == pixels(images)


@pytest.mark.parametrize("asked", ["folder", "glob"])
def test_shards_of_a_split(tmp_path, asked):
    root = tmp_path / "test"  # the name of the folder that is named says nothing of the split
    for i in range(2):
        write_rows(root / "data" / f"train-{i:05d}-of-00002.parquet", [10 * i, 10 * i + 1], [0, 1], names=["a", "b"])
    write_rows(root / "data" / "validation-00000-of-00001.parquet", [5], [1], names=["a", "b"])
    source = str(root if asked == "folder" else root / "data" / "*.parquet")
    assert pixels(open_images(source, split="train")) == [picture(i).tobytes() for i in (0, 1, 10, 11)]
    assert pixels(open_images(source, split="val")) == [picture(5).tobytes()]
    with pytest.raises(DataError, match=r"has the splits train, val\. Choose one"):
        open_images(source)
    with pytest.raises(NotFound, match=r'No split of .* "test"'):
        open_images(source, split="test")


def test_splits_in_folders_of_their_own(tmp_path):
    write_rows(tmp_path / "default" / "train" / "0000.parquet", [1], [0])
    write_rows(tmp_path / "default" / "test" / "0000.parquet", [2], [0])
    assert pixels(open_images(str(tmp_path), split="test")) == [picture(2).tobytes()]


def test_the_columns_of_cifar(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [1, 2], [1, 0], column="img", names=["plane", "car"])
    assert (open_images(str(path)).classes, open_images(str(path)).labels.tolist()) == (["plane", "car"], [1, 0])
    cells = pa.array([{"bytes": encoded(picture(i)), "path": None} for i in (1, 2)])
    table = pa.table({"img": cells, "fine_label": [3, 2], "coarse_label": [0, 1]})
    fine, coarse = {"names": [*"abcd"], "_type": "ClassLabel"}, {"names": [*"xy"], "_type": "ClassLabel"}
    features = {"img": {"_type": "Image"}, "coarse_label": coarse, "fine_label": fine}
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), tmp_path / "b.parquet"
    )
    images = open_images(str(tmp_path / "b.parquet"))
    assert (images.classes, images.labels.tolist()) == ([*"abcd"], [3, 2])


def test_names_that_the_schema_says_win(tmp_path):
    features = {"photo_of": {"_type": "Image"}, "kind": {"names": ["x", "y"], "_type": "ClassLabel"}}
    path = write_rows(tmp_path / "a.parquet", [1], [1], column="photo_of", label="kind", features=features)
    assert (open_images(str(path)).classes, open_images(str(path)).labels.tolist()) == (["x", "y"], [1])


def test_plain_bytes_text_labels_and_files_beside(tmp_path):
    pq.write_table(
        pa.table({"image": [encoded(picture(i)) for i in range(3)], "label": ["dog", "cat", "dog"]}), tmp_path / "a.parquet"
    )
    images = open_images(str(tmp_path / "a.parquet"))
    assert (images.classes, images.labels.tolist()) == (["cat", "dog"], [1, 0, 1])
    assert pixels(images)[2] == picture(2).tobytes()
    picture(9).save(tmp_path / "nine.png")
    cells = pa.array([{"bytes": None, "path": "nine.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": cells, "label": [4]}), tmp_path / "b.parquet")
    images = open_images(str(tmp_path / "b.parquet"))
    assert pixels(images) == [picture(9).tobytes()]
    assert (images.classes, images.num_classes) == (None, 5)


def test_labels_may_be_missing(tmp_path):
    hidden = open_images(str(write_rows(tmp_path / "a.parquet", [1, 2], [-1, -1], names=["a", "b"])))
    assert (hidden.labels, hidden.classes) == (None, ["a", "b"])
    with pytest.raises(DataError, match="all its labels are -1"):
        hidden.labelled("this")
    some = open_images(str(write_rows(tmp_path / "b.parquet", [1, 2], [-1, 1])))
    assert some.labels.tolist() == [-1, 1]
    with pytest.raises(DataError, match="1 of 2 images have none"):
        some.labelled("this")
    none = open_images(str(write_rows(tmp_path / "c.parquet", [1, 2], None)))
    with pytest.raises(DataError, match="it has no label column, only image"):
        none.labelled("this")


# -- torchvision ---------------------------------------------------------------------------------------------------------------


def make_cifar(root: Path) -> None:
    """CIFAR-10 as torchvision unpacks it, with three pictures in each file."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    for i, (file, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        rows = np.random.default_rng(i).integers(0, 256, (3, 3072), np.uint8)
        (folder / file).write_bytes(pickle.dumps({"data": rows, "labels": [i, 9, 0]}))
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))


def test_a_data_set_of_torchvision_on_disk(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10, CIFAR100

    make_cifar(tmp_path)
    # its own check is of the MD5 of the real files
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: (tmp_path / self.base_folder).is_dir())
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    test = open_images(f"torchvision:CIFAR10@{tmp_path}", split="test")
    assert (len(test), test.labels.tolist(), test.classes) == (3, [5, 9, 0], [*"abcdefghij"])
    rows = np.random.default_rng(5).integers(0, 256, (3, 3072), np.uint8).reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)
    assert pixels(test) == [row.tobytes() for row in rows]
    assert len(open_images(f"torchvision:CIFAR10@{tmp_path}", split="train")) == 15
    with pytest.raises(InvalidArgument, match=r"has splits\. Choose one"):
        open_images(f"torchvision:CIFAR10@{tmp_path}")
    with pytest.raises(NotFound, match='No split of torchvision\'s CIFAR10 "val"'):
        open_images(f"torchvision:CIFAR10@{tmp_path}", split="val")
    assert CIFAR100.base_folder != CIFAR10.base_folder
    with pytest.raises(
        DataError, match=r"Nothing was downloaded; to do so: python -c .*CIFAR100\(.*train=False, download=True\)"
    ):
        open_images(f"torchvision:CIFAR100@{tmp_path}", split="test")


def test_torchvision_data_sets_are_named_and_placed(tmp_path):
    with pytest.raises(NotFound, match='Did you mean "CIFAR10"'):
        open_images(f"torchvision:CIFAR11@{tmp_path}", split="test")
    with pytest.raises(InvalidArgument, match="Write torchvision:NAME@FOLDER"):
        open_images("torchvision:CIFAR10", split="test")
    with pytest.raises(DataError, match="There is no folder"):
        open_images(f"torchvision:CIFAR10@{tmp_path / 'nowhere'}", split="test")


# -- selections ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Forty pictures."""
    return open_images(str(write_rows(tmp_path_factory.mktemp("many") / "m.parquet", [*range(40)], [i % 7 for i in range(40)])))


@given(st.integers(1, 9), st.integers(0, 2**31), st.integers(1, 60))
def test_parts_are_disjoint_and_make_up_the_whole(many, of, seed, limit):
    parts = [many.part(k, of, seed=seed).rows.tolist() for k in range(of)]
    assert sorted(row for part in parts for row in part) == [*range(40)]
    assert {len(part) for part in parts} <= {40 // of, -(-40 // of)}
    assert all(part == sorted(part) for part in parts)
    fewer, more = many.limit(limit, seed=seed), many.limit(limit + 5, seed=seed)
    assert len(fewer) == min(limit, 40)
    assert set(fewer.rows) <= set(more.rows)
    assert fewer.rows.tolist() == many.limit(limit, seed=seed).rows.tolist()


def test_a_selection_keeps_what_belongs_together(many):
    half = many.half(1, seed=3)
    assert half.rows.tolist() == many.part(1, 2, seed=3).rows.tolist()
    assert half.rows.tolist() != many.part(1, 2, seed=4).rows.tolist()
    assert half.num_classes == many.num_classes == 7
    for i, row in enumerate(half.rows):
        image, label = half[i]
        assert (image.tobytes(), label) == (picture(row).tobytes(), row % 7)
    assert half.limit(3).rows.tolist() == [row for row in half.rows if row in half.limit(3).rows]
    for wrong in (lambda: many.part(2, 2), lambda: many.part(-1, 2), lambda: many.limit(0), lambda: many.subset([40])):
        with pytest.raises(InvalidArgument):
            wrong()


# -- batches -------------------------------------------------------------------------------------------------------------------


def test_the_transform_is_resize_crop_normalise():
    image = picture(0)
    small = image.resize((20, 16), Image.Resampling.BILINEAR)  # 12 / .75 = 16, the short side it has
    centre = np.asarray(small.crop((4, 2, 16, 14)), np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.array(CONFIG[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    np.testing.assert_allclose(transform(CONFIG)(image).numpy(), (centre - mean) / std, atol=1e-6)


@pytest.mark.parametrize(("size", "workers"), [(1, 0), (7, 0), (7, 2), (64, 1)])
def test_batches_hold_every_image_once_and_in_order(many, size, workers):
    told = []
    found = [*batches(many, CONFIG, batch_size=size, workers=workers, progress=lambda *told_: told.append(told_))]
    assert [len(y) for _, y in found] == [size] * (40 // size) + ([40 % size] if 40 % size else [])
    x, y = torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])
    assert (x.shape, x.dtype, y.dtype) == ((40, 3, 12, 12), torch.float32, torch.int64)
    assert y.tolist() == many.labels.tolist()
    assert torch.equal(x, torch.stack([transform(CONFIG)(many[i][0]) for i in range(40)]))
    assert told[0] == (many.name, 0, 40)
    assert told[-1] == (many.name, 40, 40)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_in_one_line(tmp_path, workers):
    broken = write_rows(tmp_path / "b.parquet", [1, 2, 3, 4], [0, 0, 0, 0], group=2)
    table = pq.read_table(broken)
    cells = table["image"].to_pylist()
    cells[2]["bytes"] = cells[2]["bytes"][:60]
    pq.write_table(table.set_column(0, "image", pa.array(cells)), broken, row_group_size=2)
    with pytest.raises(DataError) as told:
        list(batches(open_images(str(broken)), CONFIG, batch_size=2, workers=workers))
    assert "b.parquet: the image of row 2 (3.png) is broken" in str(told.value)
    assert "\n" not in str(told.value)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "no.jpg").write_bytes(b"this is text")
    with pytest.raises(DataError, match=r"no\.jpg is broken: it is no picture that PIL knows"):
        list(batches(open_images(str(tmp_path / "c")), CONFIG, workers=workers))


# -- bad input -----------------------------------------------------------------------------------------------------------------


def bad_inputs(root: Path) -> list[tuple[str, str]]:
    """What is asked for, and what the one line says."""
    (root / "empty").mkdir()
    (root / "classes" / "a").mkdir(parents=True)
    (root / "text.csv").write_text("a,b\n")
    picture(0).save(root / "one.png")
    (root / "half.parquet").write_bytes(write_rows(root / "ok" / "x.parquet", [1], [0]).read_bytes()[:-20])
    for name, column, values in (("no-image", "scan", [1]), ("numbers", "image", [1])):
        pq.write_table(pa.table({column: values}), root / f"{name}.parquet")
    pq.write_table(pa.table({"image": [b""], "label": [0.5]}), root / "floats.parquet")
    write_rows(root / "beyond.parquet", [1], [2], names=["a", "b"])
    write_rows(root / "negative.parquet", [1], [-2])
    write_rows(root / "none.parquet", [], [], names=["a"])
    write_rows(root / "mixed" / "1.parquet", [1], [0], names=["a"])
    write_rows(root / "mixed" / "2.parquet", [1], [0], names=["b"])
    return [
        ("nowhere", "There is no"), ("empty", "has no images"), ("classes", "has no images"),
        ("text.csv", "is not a data set"), ("one.png", "is one picture"),
        ("half.parquet", "is not a whole Parquet file"), ("*.nothing", "No file matches"),
        ("no-image.parquet", "has no image column: its columns are scan"),
        ("numbers.parquet", "holds int64, not image"), ("floats.parquet", "holds double"),
        ("beyond.parquet", "the label 2 is beyond the 2 classes"),
        ("negative.parquet", "the label -2 is negative"), ("none.parquet", "its files have no rows"),
        ("mixed", "they are not shards of one set"),
    ]  # fmt: skip


def test_bad_data_is_told_in_one_line(tmp_path):
    for name, says in bad_inputs(tmp_path):
        with pytest.raises(FilterdbError, match=says) as told:
            open_images(str(tmp_path / name))
        assert "\n" not in str(told.value), name


def test_batches_of_nothing_cannot_be(many):
    with pytest.raises(InvalidArgument, match="Batches of 0"):
        next(batches(many, CONFIG, batch_size=0))


# -- the real sets -------------------------------------------------------------------------------------------------------------


def test_the_real_sets():
    folder = data() / "images"
    expected = {
        "cifar10-test": (10_000, 10, "airplane"),
        "imagenet-1000-sample": (1000, 1000, "tench"),
        "tiny-imagenet-100-val": (5000, 100, "goldfish"),
    }
    for name, (count, classes, first) in expected.items():
        images = open_images(str(folder / f"{name}.parquet"))
        assert (len(images), images.num_classes, images.classes[0]) == (count, classes, first)
        assert set(images.labels.tolist()) == {*range(classes)}
        assert images[count - 1][0].mode == "RGB"
    with pytest.raises(DataError, match="they are not shards of one set"):
        open_images(str(folder))
    assert len(open_images(str(folder / "tiny-imagenet-*.parquet"), split="validation")) == 5000
