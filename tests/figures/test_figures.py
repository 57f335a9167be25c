"""Pictures: they show the numbers that the queries give, every one draws, fits its page, and is the same when drawn again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import command
import matplotlib
import numpy as np
import pytest
from conftest import put, random_kernels
from made import CENTRE, RIGHT, UP, told_by
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.transforms import Bbox
from sklearn.decomposition import PCA

from filterdb import Database, figures
from filterdb.errors import InvalidArgument, NotFound, StoreError
from filterdb.figures import PICTURES, Look, notebook
from filterdb.kernels import centred_unit, heat_map
from filterdb.share import folder

here = command.here
"""The command line in this process."""
NAME = "small-nets-7x7"
FILTER = "demo:stages.3.blocks.0.conv_dw:53"
TRAINING = "way,images,seed,epochs,top1,loss,seconds\n" + "".join(
    f'"{way}",{images},{seed},2,{top1 + seed / 100},1.5,7\n'
    for way, images, top1 in (("trainable", 500, 0.3), ("trainable", 2000, 0.5), ("8 random, frozen", 500, 0.2))
    for seed in (0, 1, 2)
)
REPLACEMENT = (
    "network,layers,bank,templates,seed,steps,top1,error,top1_of_all,energy_kept,kernels,seconds\n"
    "net,,,0,0,replaced,0.700,0.02,0.7,,0,0\n"
    "net,7x7,greedy8,8,0,replaced,0.100,0.01,,0.4,9,0\nnet,7x7,greedy8,8,0,repaired,0.400,0.02,,0.4,9,1\n"
    "net,7x7,own25,25,0,replaced,0.500,0.02,,0.6,9,0\nnet,7x7,own25,25,1,replaced,0.600,0.02,,0.6,9,0\n"
    "net,all,own25,25,0,replaced,0.300,0.02,,0.5,19,0\n"
)


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Database:
    """The demo network and its training run, classified by a classifier that ships; a search, a basis and evaluations."""
    made = Database(tmp_path_factory.mktemp("figures") / "filters")
    run = tmp_path_factory.mktemp("checkpoints") / "demo_run"
    run.mkdir()
    for step in ("000000", "001600", "006000"):
        [file] = (folder("data") / "demo_run").glob(f"*{step}*")
        shutil.copy(file, run)
    shutil.copy(folder("data") / "demo_run" / "run.toml", run)
    made.ingest("demo", f"run:{run}", jobs=1, stem=True, regular=40)
    put(made, "other net", {"conv": random_kernels(40), "small": random_kernels(30, 3, 3)}, dataset="toys", top1=12.5)
    made.import_classifier(NAME)
    made.classify(NAME)
    made.greedy(models="demo", bank="greedy8")
    made.compare("demo", "other net", size="7x7", novel=0)
    for run, bank, mode, top1 in (("a", None, None, 0.5), ("b", "greedy8", "replaced", 0.25)):
        made._runs.put(
            {"run_id": run, "kind": "evaluate", "model": "demo", "bank": bank, "mode": mode, "data": "photos", "images": 100},
            [{"metric": "top1", "value": top1}],
        )
    return made


TRANSFER = """source,transfer_layers,seed,images,top1,error
none,0,0,500,.40,.01
none,0,1,500,.42,.01
near,1,0,500,.30,.01
near,1,1,500,.32,.01
near,2,0,500,.20,.01
near,2,1,500,.24,.01
far,1,0,500,.35,.02
far,2,0,500,.10,.01
far,2,1,500,.10,.01
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """The CSV files of the experiments."""
    place = tmp_path_factory.mktemp("tables")
    (place / "training.csv").write_text(TRAINING)
    (place / "replacement.csv").write_text(REPLACEMENT)
    (place / "transfer.csv").write_text(TRANSFER)
    return place


CASES = {
    "samples": {}, "spectrum": {}, "pca": {"size": "7x7", "count": 300}, "class_layers": {"model": "demo"}, "class_models": {},
    "bands": {}, "total": {"model": "demo"}, "steps": {}, "clustered": {}, "nearest": {"model": "demo"}, "bank": {},
    "filter": {"filter": FILTER}, "greedy": {}, "evaluations": {}, "components": {}, "experiment": {"csv": "replacement.csv"},
    "similar": {"filter": FILTER, "k": 4}, "contrast": {"size": "2x2"},
    "pca in 3-D": {"size": "7x7", "count": 300, "dims": 3, "by": "depth"},
    "pca by model": {"size": "7x7", "count": 100, "by": "model"},
    "total by class": {"classifier": NAME}, "class_layers of several": {"model": "*"}, "bands by model": {"by": "model"},
    "samples of a query": {"sql": "SELECT filter_id, dataset FROM filters WHERE size = '7x7'"},
    "filter of a model": {"filter": "demo"},
    "experiment of training": {"csv": "training.csv"}, "experiment of transfer": {"csv": "transfer.csv"},
}  # fmt: skip


OFTEN = ("spectrum", "pca", "pca in 3-D", "filter", "class_layers of several", "experiment", "samples", "clustered", "steps")
"""Drawn in both widths; the others in the narrow one, which has least room."""


def drawn(db: Database, tables: Path, case: str, **look) -> figures.Figure:
    """A picture of the cases."""
    options = dict(CASES[case])
    if "csv" in options:
        options["csv"] = str(tables / options["csv"])
    return db.plot(case.split()[0], **options, **look)


def test_every_picture_is_among_the_cases():
    assert {case.split()[0] for case in CASES} == set(PICTURES)


@pytest.fixture
def texts(monkeypatch) -> list[tuple[str, float, Bbox]]:
    """What a renderer writes: words, points, and where, in pixels from below."""
    written, write = [], RendererAgg.draw_text

    def keep(renderer, gc, x, y, words, properties, angle, ismath=False, mtext=None):
        # of what has a halo only a point is known
        place = Bbox([[x, y], [x, y]]) if mtext is None else mtext.get_window_extent(renderer)
        written.append((words, properties.get_size_in_points(), place))
        return write(renderer, gc, x, y, words, properties, angle, ismath, mtext)

    monkeypatch.setattr(RendererAgg, "draw_text", keep)
    return written


@pytest.mark.parametrize("case", CASES)
def test_every_picture_draws_and_its_text_is_large_enough_and_on_the_page(db, tables, texts, case):
    for width, inches in (("page", 7.0), ("column", 3.5)) if case in OFTEN else (("column", 3.5),):
        figure = drawn(db, tables, case, width=width, dark=width == "column")
        across, high = figure.drawn.get_size_inches()
        assert 1.0 < across <= inches + 1e-9
        assert high < 10
        texts.clear()
        assert figure.to_bytes(dpi=100).startswith(b"\x89PNG")
        assert len(texts) >= 3
        for words, points, box in texts:
            assert points >= 6, words
            assert "$" not in words
            assert box.x0 >= -1, (width, words)
            assert box.y0 >= -1, (width, words)
            assert box.x1 <= 100 * across + 1, (width, words)
            assert box.y1 <= 100 * high + 1, (width, words)


# -- numbers -------------------------------------------------------------------------------------------------------------------


def stacked(axes, *, lying: bool = False) -> dict[str, list[float]]:
    """The lengths of bars, by the name of their series; none lies on another."""
    found, ends = {}, None
    for bars in axes.containers:
        starts = [(bar.get_x() if lying else bar.get_y()) for bar in bars]
        found[bars.get_label()] = [(bar.get_width() if lying else bar.get_height()) for bar in bars]
        np.testing.assert_allclose(starts, 0 if ends is None else ends, atol=1e-9)
        ends = np.add(starts, found[bars.get_label()])
    np.testing.assert_allclose(ends, 100, atol=0.1)
    return found


@pytest.mark.parametrize("merge", ["none", "derivatives", "centres"])
def test_bars_of_layers_are_as_high_as_the_query_says(db, merge):
    bars = stacked(db.plot("class_layers", model="demo", merge=merge).drawn.axes[0])
    rows = db.query("class_layers", model="demo", classifier=NAME, merge=merge).fetchall()
    depths = sorted({row[0] for row in rows})
    assert set(bars) == {row[2] for row in rows}
    for depth, _, cls, _, percent in rows:
        assert bars[cls][depths.index(depth)] == pytest.approx(percent)
    assert sum(height > 0 for heights in bars.values() for height in heights) == len(rows)
    assert list(bars)[-1] == "other"


def test_bars_of_models_and_of_words_are_as_long_as_the_queries_say(db):
    axes = db.plot("class_models").drawn.axes[0]
    bars, models = stacked(axes, lying=True), [label.get_text() for label in axes.get_yticklabels()]
    assert models == ["demo", "other net"]  # checkpoints of the run are left out, the most clustered stands first
    for model, cls, _, percent in db.query("class_models", classifier=NAME, merge="derivatives").fetchall():
        if model in models:
            assert bars[cls][models.index(model)] == pytest.approx(percent)
    axes = db.plot("bands").drawn.axes[0]
    bars = stacked(axes, lying=True)
    rows = db.query("band_depth").fetchall()
    for depth, band, _, percent in rows:
        assert bars[band][round(depth * 10)] == pytest.approx(percent)
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["0–0.1", "0.1–0.2"]


def test_boxes_are_the_quartiles_of_the_query(db):
    axes = db.plot("total", model="demo").drawn.axes[0]
    rows = db.query("total", model="demo").fetchall()
    boxes = [patch.get_path().get_extents() for patch in axes.patches]
    np.testing.assert_allclose([(box.y0, box.y1) for box in boxes], [(row[4], row[6]) for row in rows])
    lines = [line.get_ydata() for line in axes.lines]
    for row in rows:
        assert any(set(map(float, line)) == {row[5]} for line in lines), "its median"
        assert any(float(line[-1]) == row[9] for line in lines), "its 95th percentile"
    totals = [row[0] for row in db.sql("SELECT total FROM filters WHERE model = 'demo' AND depth = 3").fetchall()]
    assert [rows[3][8], rows[3][9]] == pytest.approx(np.quantile(totals, [0.05, 0.95]), abs=1e-4)


def test_steps_show_shares_and_the_kernels_of_the_same_channels(db):
    figure = db.plot("steps", channels=2).drawn
    bars, film = stacked(figure.axes[0]), figure.axes[1]
    rows = db.query("class_steps", run="demo_run", classifier=NAME, merge="derivatives").fetchall()
    steps = sorted({row[0] for row in rows})
    assert [label.get_text() for label in film.get_xticklabels()] == [str(step) for step in steps]
    for step, cls, _, percent, _ in rows:
        assert bars[cls][steps.index(step)] == pytest.approx(percent)
    assert len(film.images) == 2 * len(steps)
    last = [image.get_array() for image in film.images][len(steps) - 1 :: len(steps)]
    kernels = kernels_of(db, "SELECT filter_id FROM filters WHERE model = 'demo_run@6000'")
    places = [shown(kernels, image) for image in last]
    assert all(len(place) == 1 for place in places)
    labels = [label.get_text() for label in film.get_yticklabels()]
    classes = dict(db.sql("SELECT filter_id, class FROM classes").fetchall())
    assert [figures.colours.words(classes[next(iter(place))]) for place in places] == labels


def kernels_of(db: Database, sql: str) -> dict[bytes, set[int]]:
    """The colours of kernels less their mean to filter_ids."""
    rows = db.sql(f"SELECT filter_id, kernel, kernel_h, kernel_w FROM filters WHERE filter_id IN ({sql})").fetchall()
    kernels = {row[0]: np.array(row[1], np.float32).reshape(row[2], row[3]) for row in rows}
    return colours_of({filter_id: kernel - kernel.mean() for filter_id, kernel in kernels.items()})


def colours_of(kernels: Mapping[int, np.ndarray]) -> dict[bytes, set[int]]:
    """Which kernels a picture of one may be, by the bytes of its colours."""
    found = {}
    for key, kernel in kernels.items():
        found.setdefault(heat_map.rgb(kernel).tobytes(), set()).add(key)
    return found


def shown(kernels: Mapping[bytes, set[int]], image: np.ndarray) -> set[int]:
    """Which kernels a picture of one may be."""
    return kernels.get(np.ascontiguousarray(image).tobytes(), set())


def test_samples_are_kernels_of_their_class_and_follow_the_seed(db):
    figure = db.plot("samples", count=3, seed=1).drawn
    images = [image.get_array() for image in figure.axes[0].images]
    names = db.sql("SELECT class, count(*) FROM classes WHERE class IS NOT NULL GROUP BY class").fetchall()
    assert len(images) == sum(min(3, count) for _, count in names)
    order = [name for name, _ in sorted(names, key=lambda row: [*figures.CLASS_COLOURS].index(row[0]))]
    counts, at = dict(names), 0
    for name in order:
        kernels = kernels_of(db, f"SELECT filter_id FROM classes WHERE class = '{name}'")
        for image in images[at : at + min(3, counts[name])]:
            assert shown(kernels, image)
        at += min(3, counts[name])
    again, other = (db.plot("samples", count=3, seed=seed).drawn for seed in (1, 2))
    assert all(np.array_equal(a.get_array(), b) for a, b in zip(again.axes[0].images, images, strict=True))
    assert not all(np.array_equal(a.get_array(), b) for a, b in zip(other.axes[0].images, images, strict=True))


def test_samples_of_rows_are_the_kernels_of_the_rows_in_their_order(db):
    found = db.similar(FILTER, k=5)
    ids = [row[1] for row in found.fetchall()]
    images = [image.get_array() for image in db.plot("samples", rows=found, centred=True).drawn.axes[0].images]
    kernels = kernels_of(db, "SELECT filter_id FROM filters")
    assert [one in shown(kernels, image) for one, image in zip(ids, images, strict=True)] == [True] * 5
    raw = db.plot("samples", rows=ids[:1]).drawn.axes[0].images[0].get_array()
    [(kernel,)] = db.sql("SELECT kernel FROM filters WHERE filter_id = $id", id=ids[0]).fetchall()
    assert np.array_equal(raw, heat_map.rgb(np.reshape(kernel, (7, 7))))
    query, *nearest = [image.get_array() for image in db.plot("similar", filter=FILTER, k=5).drawn.axes[0].images]
    assert all(np.array_equal(a, b) for a, b in zip(nearest, images, strict=True))
    assert shown(kernels, query)


def test_nearest_shows_the_templates_and_their_exemplars(db):
    bank, found = db.bank("greedy8"), db.exemplars("greedy8", 4, model="demo")
    images = [image.get_array() for image in db.plot("nearest", model="demo", count=4).drawn.axes[0].images]
    expected = [one for name, template in zip(bank.names, bank.templates) for one in (template, *found.get(name, []))]
    assert len(images) == len(expected)
    assert all(np.array_equal(image, heat_map.rgb(one - one.mean())) for image, one in zip(images, expected, strict=True))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_scatter_is_on_the_principal_components_of_the_kernels_drawn(db, dims):
    figure = db.plot("pca", size="7x7", dims=dims, count=2000).drawn
    scatter = figure.axes[0].collections[0]
    points = np.stack(scatter._offsets3d if dims == 3 else scatter.get_offsets().T, axis=1)
    rows = db.sql("SELECT kernel FROM filters WHERE size = '7x7' AND NOT dead ORDER BY hash(filter_id + 0) LIMIT 2000").fetchall()
    unit = centred_unit(np.array([row[0] for row in rows], np.float64)).unit
    expected = PCA(dims, svd_solver="full").fit_transform(unit)
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-6)
    if dims == 2:  # each kernel of the atlas lies in its cell
        atlas, kernels = figure.axes[1], colours_of(dict(enumerate(unit.reshape(-1, 7, 7))))
        for image in atlas.images:
            left, right, bottom, top = image.get_extent()
            there = shown(kernels, image.get_array())
            pad = 0.08 * (right - left)
            assert any(left - pad <= points[i, 0] <= right + pad and bottom - pad <= points[i, 1] <= top + pad for i in there)


def test_a_scatter_on_a_kept_basis_has_its_coefficients(db):
    figure = db.plot("pca", size="7x7", basis="pca-7x7", by="band", count=50, models="demo").drawn
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    rows = db.sql("SELECT kernel FROM filters WHERE model = 'demo' ORDER BY hash(filter_id + 0) LIMIT 50").fetchall()
    basis = db._bases.find("pca-7x7")
    unit = centred_unit(np.array([row[0] for row in rows], np.float64)).unit
    np.testing.assert_allclose(points, basis.coefficients(unit)[:, :2])
    images = [image.get_array() for image in db.plot("components", count=3).drawn.axes[0].images]
    expected = [heat_map.rgb(one.reshape(7, 7)) for one in basis.components[:3]]
    assert all(np.array_equal(image, one) for image, one in zip(images, expected, strict=True))


def test_points_of_models_lie_at_their_accuracy_and_share(db):
    axes = db.plot("clustered").drawn.axes[0]
    points = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines}
    rows = db.query("clustered", classifier=NAME).fetchall()
    assert points == {(row[6], row[3]) for row in rows if row[6] is not None}
    assert {text.get_text() for text in axes.texts} == {"demo", "other net"}


def test_a_kept_search_is_drawn_as_the_search_itself(db):
    found = db.greedy(models="demo", bank="greedy8")
    assert db.plot("greedy", title="").to_bytes(".svg") == figures.draw_greedy(found, look=Look(title="")).to_bytes(".svg")
    axes = db.plot("greedy", run=found.run_id).drawn.axes[0]
    curve = next(line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) > 2)
    assert [*curve.get_xdata()] == [step.templates for step in found.steps]
    np.testing.assert_allclose(curve.get_ydata(), [step.values["energy_kept"] for step in found.steps])
    assert f"elbow: {found.elbow} templates" in axes.texts[0].get_text()


def test_bars_of_evaluations_have_their_percent_and_standard_error(db):
    axes = db.plot("evaluations").drawn.axes[0]
    assert [patch.get_width() for patch in axes.patches] == [50.0, 25.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["as trained", "greedy8, replaced"]
    [wide, narrow] = [line.get_segments()[0][:, 0] for line in axes.collections]
    np.testing.assert_allclose(wide, [45, 55])  # 100 sqrt(.5 * .5 / 100) = 5
    np.testing.assert_allclose(np.diff(narrow) / 2, 100 * np.sqrt(0.25 * 0.75 / 100))


def test_charts_of_experiments_have_their_means(db, tables):
    axes = drawn(db, tables, "experiment of training").drawn.axes[0]
    means = {round(float(line.get_xdata()[0]), 6) for line in axes.lines if len(line.get_xdata()) == 1}
    assert {31.0, 51.0, 21.0} <= means  # of .30 .31 .32 and so on
    spread = [segment[:, 0] for lines in axes.collections for segment in lines.get_segments()]
    np.testing.assert_allclose(sorted(np.ptp(one) / 2 for one in spread), [1, 1, 1])  # one standard deviation
    figure = drawn(db, tables, "experiment").drawn
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["net, the 7x7 layers", "net, all depthwise layers"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["greedy8", "own25"]
    points = {round(float(line.get_xdata()[0]), 6) for line in figure.axes[0].lines if len(line.get_xdata()) == 1}
    assert points == {10.0, 40.0, 55.0}  # the two seeds of own25 averaged
    assert any([*line.get_xdata()] == [70.0, 70.0] for line in figure.axes[1].lines), "the network as it was"


def test_the_curve_of_transfer_begins_without_it_and_its_bars_leave_out_the_level_of_a_seed(db, tables):
    axes = drawn(db, tables, "experiment of transfer").drawn.axes[0]
    curves = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
    # seed 0 is 1 below seed 1 on average, so the single run of seed 0 at 35 counts as 36
    found = [[*map(float, line.get_ydata())] for line in curves]
    np.testing.assert_allclose(found, [[41, 31, 22], [41, 36, 10]])
    heights = [np.ptp(segment[:, 1]) / 2 for lines in axes.collections for segment in lines.get_segments()]
    # the halves of the differences are 1, 1, 2 and 0, about their mean 0, 0, 1 and -1: 4 in squares, with 3 degrees of freedom
    np.testing.assert_allclose(sorted(heights), sorted([(4 / 3 / 2) ** 0.5] * 5 + [2]), rtol=1e-5)
    assert any([*line.get_ydata()] == [41, 41] for line in axes.lines), "the line of all layers trained"
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["near", "far", "all layers trained"]


def test_networks_of_two_sizes_stand_side_by_side_each_beside_its_templates(db):
    from filterdb.figures import draw_networks

    small, large = db.bank("greedy8", size="5x5"), db.bank("greedy8")
    groups = {"small": (small, {"8_smooth": [np.eye(5)] * 2}), "large": (large, {"6_dy": [np.eye(7)] * 3})}
    figure = draw_networks(groups, title="both").drawn
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words.count("template") == 2
    assert [words.count(label) for label in ("small", "large")] == [1, 1]
    images = figure.axes[0].images
    assert sorted(image.get_array().shape[0] for image in images) == [5] * 10 + [7] * 11
    left, right = (
        [image.get_extent() for image in images if image.get_array().shape[0] == size] for size in (5, 7)
    )  # fmt: skip
    assert max(extent[1] for extent in left) < min(extent[0] for extent in right)


def test_the_words_of_a_spectrum_lie_under_their_stretches_and_cover_nothing(db):
    figure = db.plot("spectrum").drawn
    figure.draw_without_rendering()
    axes, classifier = figure.axes[0], db.classifier(NAME)
    named = [stretch for stretch in classifier.stretches if stretch.name != "other"]
    texts = [text for text in axes.texts if text.get_fontsize() == 6]
    assert [text.get_text() for text in texts] == [figures.colours.words(stretch.name) for stretch in named]
    boxes = [text.get_window_extent() for text in texts]
    stems = [line.get_window_extent() for line in axes.lines]
    for i, box in enumerate(boxes):
        middle = 0.05 + (named[i].start + named[i].stop) / 2 * 6.9
        assert box.x0 <= middle * figure.dpi <= box.x1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.x0 < stem.x0 < box.x1 and stem.y0 < box.y0 for stem in stems)


def test_a_classifier_by_kmeans_and_its_classes_are_drawn_too(tmp_path):
    made = Database(tmp_path / "filters")
    put(made, "net", {"conv": np.concatenate([CENTRE, RIGHT, UP, 2 * CENTRE])})
    made.import_classifier(told_by("mine", 0.15, {"on_centre": CENTRE, "a person's $own": RIGHT}))
    made.classify("mine")
    for picture in ("spectrum", "samples", "class_models"):
        assert made.plot(picture).to_bytes(".svg")


# -- the same bytes ------------------------------------------------------------------------------------------------------------

AGAIN = """
import sys
from filterdb import Database
db = Database(sys.argv[1])
for ending in ("png", "svg", "pdf"):
    db.plot("spectrum", out=f"{sys.argv[2]}/spectrum.{ending}", width="column")
db.plot("pca", size="7x7", count=100, out=f"{sys.argv[2]}/pca.svg", width="column")
"""


def test_a_picture_drawn_again_has_the_same_bytes_whatever_matplotlib_is_set_to(db, tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.grid: True\nsavefig.dpi: 40\nlines.linewidth: 9\n")
    environment = os.environ | {
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1000000000",
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", AGAIN, str(db.path), str(tmp_path)], check=True, env=environment)
    spectrum = db.plot("spectrum", width="column")
    for ending in figures.style.PICTURES:
        assert (tmp_path / f"spectrum{ending}").read_bytes() == spectrum.to_bytes(ending), ending
        assert spectrum.to_bytes(ending) == spectrum.to_bytes(ending), "saving changes nothing"
    scatter = db.plot("pca", size="7x7", count=100, width="column")
    assert (tmp_path / "pca.svg").read_bytes() == scatter.to_bytes(".svg")


def test_settings_of_matplotlib_are_left_as_they_were(db):
    before = dict(matplotlib.rcParams)
    db.plot("spectrum", dark=True).to_bytes()
    assert dict(matplotlib.rcParams) == before


# -- what is asked wrongly, and what is not there ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("spektrum", {}, r'^No picture "spektrum"\. Did you mean "spectrum"'),
        ("spectrum", {"clasifier": NAME}, r'^No option of the picture spectrum "clasifier"\. Did you mean "classifier"'),
        ("spectrum", {"classifier": "small-nets-7x8"}, 'Did you mean "small-nets-7x7"'),
        ("class_layers", {}, r"^The picture class_layers needs model: add --model …\.$"),
        ("class_layers", {"model": "dem"}, 'No model "dem". Did you mean "demo"'),
        ("class_layers", {"model": "demo", "merge": "centers"}, 'Did you mean "centres"'),
        ("pca", {}, "there are 3x3, 7x7. Choose one with --size"),
        ("pca", {"size": "7x8"}, 'Did you mean "7x7"'),
        ("pca", {"size": "7x7", "by": "clas"}, 'Did you mean "class"'),
        ("pca", {"size": "7x7", "dims": 4}, "--dims is 2 or 3, got 4"),
        ("pca", {"size": "7x7", "dims": "two"}, '^--dims is a number, such as 2, got "two"'),
        ("pca", {"size": "3x3", "by": "class"}, "There is no classifier of 3x3 kernels. Run filterdb cluster import"),
        ("pca", {"size": "7x7", "basis": "pca-7x8"}, 'Did you mean "pca-7x7"'),
        ("nearest", {"signed": "perhaps"}, "--signed is true or false"),
        ("total", {}, "--model, or by class of a --classifier: give one of the two"),
        ("total", {"model": "demo", "classifier": NAME}, "give one of the two"),
        ("steps", {"run": "demorun"}, 'Did you mean "demo_run"'),
        ("steps", {"run": ["a", "b"]}, "--run is given 2 times, and takes one value"),
        ("bands", {"by": "taks"}, 'Did you mean "task"'),
        ("bands", {"by": "task", "size": "7x7"}, "--size goes with --by depth alone"),
        ("evaluations", {"metric": "top2"}, 'Did you mean "top5" or "top1"'),
        ("evaluations", {"metric": "top5"}, "None of the 2 evaluations measured top5"),
        ("evaluations", {"models": "x"}, 'No evaluation of models "x" is kept here: run filterdb evaluate'),
        ("greedy", {"run": "greedy-0"}, 'No greedy search "greedy-0"'),
        ("samples", {"sql": "SELECT 1 AS one"}, "kernels are drawn where it gives filter_id"),
        ("samples", {"sql": "SELECT filter_id FROM filters WHERE false"}, "gives no filters"),
        ("samples", {"sql": "SELECT 7::BIGINT AS filter_id"}, "No filter 7 here"),
        ("samples", {"sql": "SELECT filter_id FROM filters", "classifier": NAME}, "Leave the others out"),
        ("samples", {"count": 0}, "at least 1, got 0"),
        ("filter", {"filter": "demo:nowhere:1"}, 'No layer "nowhere'),
        ("experiment", {"csv": "nowhere.csv"}, "nowhere.csv cannot be read as CSV: No such file"),
    ],
)
def test_what_is_asked_wrongly_is_answered_in_one_line(db, name, options, message):
    with pytest.raises((NotFound, InvalidArgument), match=message) as caught:
        db.plot(name, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_table_says_what_to_run(tmp_path):
    made = Database(tmp_path / "filters")
    with pytest.raises(StoreError, match=r"is empty\. Ingest a model first"):
        made.plot("bands")
    put(made, "net", {"conv": random_kernels(12)})
    for name, options, message in (
        ("spectrum", {}, "There is no classifier. Run filterdb cluster import small-nets-7x7"),
        ("components", {}, "No basis of components is kept here: run filterdb compare"),
        ("greedy", {}, "No greedy search is kept here: run filterdb greedy"),
        ("evaluations", {}, "run filterdb evaluate"),
    ):
        with pytest.raises(NotFound, match=message):
            made.plot(name, **options)
    made.import_classifier(NAME)
    for name in ("samples", "class_layers", "class_models", "clustered", "total", "pca"):
        options = {"class_layers": {"model": "net"}, "total": {"classifier": NAME}, "pca": {"by": "class"}}.get(name, {})
        with pytest.raises(NotFound, match=f"^No classes .*by {NAME}: run filterdb classify --classifier {NAME}$"):
            made.plot(name, **options)
    with pytest.raises(NotFound, match=r"no training run here: run filterdb ingest run:FOLDER"):
        made.plot("steps")
    made.classify(NAME)
    with pytest.raises(NotFound, match=r"None of the 1 models .* --top1 PERCENT"):
        made.plot("clustered")
    made.import_classifier("small-nets-5x5")
    with pytest.raises(InvalidArgument, match=r"several classifiers: small-nets-5x5, small-nets-7x7\. Choose one"):
        made.plot("samples")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"), ("a,b\n1,2\n", "has the columns a, b; an experiment of filterdb writes"),
        (TRAINING.replace("0.3,", "x,", 1), 'line 2: top1 is not a number, got "x"'), ("\xff\x00", "has no rows|cannot be read"),
        (REPLACEMENT.splitlines()[0] + "\n" + REPLACEMENT.splitlines()[1], "Nothing is replaced in these rows yet"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused(db, tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text, encoding="latin-1")
    with pytest.raises(InvalidArgument, match=message) as caught:
        db.plot("experiment", csv=str(tmp_path / "table.csv"))
    assert "\n" not in str(caught.value)


def test_names_are_data_whatever_they_are_made_of(tmp_path):
    made = Database(tmp_path / "filters")
    hostile = "$\\frac{1}{$ <b>&amp;\t%s" + "x" * 200
    put(made, hostile, {"conv": random_kernels(20)}, dataset="$^$", top1=50.0)
    made.import_classifier(NAME)
    made.classify(NAME)
    for name, options in (("class_layers", {"model": hostile}), ("clustered", {})):
        svg = made.plot(name, width="column", **options).to_bytes(".svg")
        assert svg.startswith(b"<?xml")
        assert b"<b>" not in svg


# -- the command line ----------------------------------------------------------------------------------------------------------


def test_plot_on_the_command_line(db, here, tmp_path):
    listed = here("plot", db=db.path)
    assert [line.split()[0] for line in listed.splitlines()] == sorted(PICTURES)
    assert "--rows" not in listed
    told = json.loads(here("plot", "--json", db=db.path))
    assert {one["name"] for one in told} == set(PICTURES)
    assert all(one["title"] and option["help"] for one in told for option in one["options"])
    said = here("plot", "class_layers", "--help", db=db.path)
    assert "--model  the model, or a glob" in said
    assert "[required]" in said
    assert "It uses the tables classes." in said
    layers = ["class_layers", "--model", "demo", "--width", "column"]
    for ending, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        file = tmp_path / f"layers.{ending}"
        assert here("plot", *layers, "--out", file, db=db.path) == f"wrote {file}\n"
        assert file.read_bytes().startswith(magic)
    options = ["--size", "7x7", "--count", "50", "--dims=3", "--dark", "--title", ""]
    assert json.loads(here("plot", "pca", *options, "--out", tmp_path / "p.png", "--json", db=db.path))["picture"] == "pca"
    few = ["samples", "--sql", "SELECT filter_id FROM filters LIMIT 4"]
    assert "wrote" in here("plot", *few, "--out", tmp_path / "s.png", db=db.path)
    (tmp_path / "training.csv").write_text(TRAINING)
    nowhere = tmp_path / "nowhere"
    assert "wrote" in here("plot", "experiment", "--csv", tmp_path / "training.csv", "--out", tmp_path / "t.svg", db=nowhere)
    assert not nowhere.exists()


def test_slips_of_plot_on_the_command_line(db, here, tmp_path):
    for arguments, message in (
        (["spektrum", "--out", "a.png"], 'No picture "spektrum". Did you mean "spectrum"?'),
        (["spectrum"], "Name one: filterdb plot spectrum --out spectrum.png"),
        (["spectrum", "--out", tmp_path / "a.gif"], "endings .png, .svg, .pdf, got a.gif"),
        (["spectrum", "--model", "demo", "--out", "a.png"], 'No option of the picture spectrum "model"'),
        (["spectrum", "--width", "collumn", "--out", "a.png"], 'No width "collumn". Did you mean "column"?'),
        (["samples", "--rows", "3", "--out", "a.png"], "--rows can only be set in Python"),
        (["steps", "--run", "a", "--run", "b", "--out", "a.png"], "--run is given 2 times"),
        (["spectrum", "--out", tmp_path / "no" / "a.png"], "No such file or directory"),
    ):
        assert message in here("plot", *arguments, code=1, db=db.path)
    assert "There is no database" in here("plot", "spectrum", "--out", "a.png", code=1, db=tmp_path / "nowhere")
    assert "is not a flag" in here("plot", "spectrum", "demo", "--out", "a.png", code=2, db=db.path)
    assert not list(tmp_path.iterdir())


# -- notebooks -----------------------------------------------------------------------------------------------------------------


def test_results_show_themselves_in_a_notebook(db):
    pytest.importorskip("IPython", reason="IPython is not installed")
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        notebook.register()
        told = shell.display_formatter.format
        rows = told(db.similar(FILTER, k=3))[0]["text/html"]
        ids = [row[1] for row in db.similar(FILTER, k=3).fetchall()]
        assert [heat_map.data_uri(kernel) in rows for kernel in raw(db, ids)] == [True] * 3
        assert "<img" not in told(db.sql("SELECT 1 AS one"))[0].get("text/html", "")
        for one in (db.describe(FILTER), db.classifier(NAME), db.greedy(models="demo", bank="greedy8")):
            assert told(one)[0]["image/png"].startswith(b"\x89PNG")
        assert told(db.plot("bands"))[0]["image/png"]
        assert told(db.bank("greedy8"))[0]["text/html"].count("<img") == 8
    finally:
        InteractiveShell.clear_instance()


def raw(db: Database, ids: list[int]) -> list[np.ndarray]:
    return [db.kernel(one) for one in ids]


def test_relations_as_html(db):
    ids = [row[0] for row in db.query("extremes", count=2).fetchall()]
    page = notebook.html(db.query("extremes", count=2))
    assert page.count("<img") == 2
    assert all(heat_map.data_uri(kernel) in page for kernel in raw(db, ids))
    own = notebook.html(db.sql("SELECT '<i>&' AS name, kernel, 3.14159265 AS x FROM filters_3x3 LIMIT 30"))
    assert own.count("<img") == notebook.ROWS
    assert "&lt;i&gt;&amp;amp;" not in own
    assert "&lt;i&gt;&amp;" in own
    assert "<i>" not in own
    assert "The first 20 rows." in own
    assert notebook.html(db.sql("SELECT 1 AS one")) is None
    assert notebook.html(db.sql("SELECT 1::BIGINT AS filter_id")).count("<img") == 0
    strip = notebook.html(db.sql("SELECT [1, 2, 3]::FLOAT[] AS kernel, 1 AS kernel_h, 3 AS kernel_w"))
    assert 'width="42" height="14"' in strip
    assert notebook.html(db.sql("SELECT NULL::FLOAT[] AS kernel UNION ALL SELECT [1, 2, 3]::FLOAT[]")).count("<img") == 0
    import duckdb

    assert notebook.html(duckdb.sql("SELECT 1 AS filter_id")) is None  # of no database of ours
