"""The explorer without a browser: addresses, what the pages ask, limits, who may look."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import put, random_kernels
from hypothesis import given
from hypothesis import strategies as st

from filterdb import Database
from filterdb.banks import Bank
from filterdb.errors import FilterdbError, InvalidArgument, NotFound, QueryError

pytest.importorskip("starlette", reason="pip install 'filterdb[explorer]'")

from starlette.testclient import TestClient

from filterdb.explorer import data, data_models, looks, serve
from filterdb.explorer.app import application
from filterdb.explorer.choice import DESCRIPTOR_COLUMNS, FACETS, PAGE, SORTS, Choice
from filterdb.explorer.desk import Desk
from filterdb.explorer.shelf import Shelf
from filterdb.explorer.sql_box import AT_ONCE, SqlBox
from filterdb.store.schema import filter_ids

HOSTILE = "<img src=x onerror=alert(1)>"
ODD = f'a/b?c#d%20"{HOSTILE}&amp;{{{{7*7}}}}'
"""A name with everything that addresses, HTML and templates might take for their own."""


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Database:
    """Five models of three sizes, one with a hostile name, one with dead kernels, two of them told into classes."""
    made = Database(tmp_path_factory.mktemp("explorer") / "filters")
    put(
        made,
        "one",
        {f"stages.{i}.conv": random_kernels(60, seed=i) for i in range(4)},
        architecture="convnext_atto",
        dataset="in1k",
    )
    put(
        made,
        "two",
        {"a": random_kernels(30, 3, 3), "b": random_kernels(20, 5, 5)},
        architecture="tf_mobilenetv3_large",
        dataset="coco",
    )
    put(made, "dead", {"only": np.concatenate([np.zeros((3, 7, 7)), np.ones((2, 7, 7)), random_kernels(5)])})
    put(made, ODD, {HOSTILE: random_kernels(40, seed=9)}, dataset=HOSTILE)
    put(made, "strips", {"row": random_kernels(6, 1, 7), "even": random_kernels(6, 4, 4)})
    made.import_classifier("small-nets-7x7")
    made.classify("small-nets-7x7", model=["one", "dead"])
    return made


@pytest.fixture(scope="module")
def desk(db) -> Iterator[Desk]:
    with closing(Desk(db)) as made:
        assert made.shelf.refresh(60).complete
        yield made


@pytest.fixture(scope="module")
def web(desk) -> TestClient:
    return TestClient(application(desk), base_url="http://127.0.0.1:1", follow_redirects=False)


def ask(desk: Desk, **chosen) -> tuple[data.Counts, list[data.Shown]]:
    choice = Choice(**chosen)
    cur = desk.cursor()
    number = data.check(cur, choice)
    return data.counts(cur, choice, number), data.page(cur, choice, number)


# -- addresses -----------------------------------------------------------------------------------------------------------

NAMES = st.lists(st.text(min_size=1, max_size=8), max_size=2, unique=True).map(tuple)


@given(
    model=NAMES, band=NAMES, size=NAMES, layer=st.text(max_size=9), seed=st.integers(0, 9), page=st.integers(1, 99),
    depth=st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)),
    sort=st.sampled_from(sorted(SORTS)), order=st.sampled_from(["asc", "desc"]),
)  # fmt: skip
def test_an_address_and_a_view_are_the_same_thing(model, band, size, layer, seed, page, depth, sort, order):
    from urllib.parse import parse_qsl, urlsplit

    choice = Choice(
        model=model, band=band, size=size, layer=layer, seed=seed, page=page, classifier="c", sort=sort, order=order,
        depth_from=float(f"{depth[0]:g}"), depth_to=float(f"{depth[1]:g}"),
    )  # fmt: skip
    assert Choice.of(parse_qsl(urlsplit(choice.url).query, keep_blank_values=True)) == choice
    assert choice.url.startswith("/")
    assert "<" not in choice.url
    assert '"' not in choice.url


@given(facet=st.sampled_from(FACETS), value=st.text(min_size=1, max_size=5))
def test_choosing_a_value_twice_drops_it(facet, value):
    choice = Choice(classifier="c", page=3)
    assert choice.toggled(facet, value).values(facet) == (value,)
    assert choice.toggled(facet, value).toggled(facet, value) == choice.but()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ([("modle", "one")], 'Did you mean "model"'), ([("sort", "nrom")], 'Did you mean "norm"'), ([("order", "up")], "asc"),
        ([("page", "0")], "Pages count from 1"), ([("page", "x")], "page is a number"), ([("depth_from", "nan")], "is a number"),
        ([("depth_from", "0.7"), ("depth_to", "0.2")], "0.7 to 0.2"), ([("dead", "maybe")], "yes"),
        ([("class", "dog")], "classifier first"),
        ([("sort", "code")], "needs a classifier"),
        ([("sort", "norm"), ("page", "101")], "end at page 100"), ([("seed", "1e9")], "number"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_mean_anything_says_so_in_a_line(query, told):
    with pytest.raises(FilterdbError, match=re.escape(told)) as caught:
        Choice.of(query)
    assert "\n" not in str(caught.value)


# -- counts and pages against SQL over the database itself ----------------------------------------------------------------

CHOICES = [
    ({}, "true"), ({"model": ("one",)}, "f.model = 'one'"),
    ({"model": ("one", "two"), "size": ("7x7",)}, "f.model IN ('one', 'two') AND f.size = '7x7'"),
    ({"family": ("mobilenetv3",)}, "f.model = 'two'"), ({"dataset": (HOSTILE,)}, f"f.dataset = '{HOSTILE}'"),
    ({"layer": "stages.[01].*"}, "f.layer GLOB 'stages.[01].*'"), ({"depth_from": 0.5}, "l.depth_norm >= 0.5"),
    ({"dead": ("yes",)}, "f.dead"),
    ({"band": ("lowpass", "other"), "dead": ("no",)}, "d.band IN ('lowpass', 'other') AND NOT f.dead"),
    ({"band": ("(no word)",)}, "d.band IS NULL"),
    ({"classifier": "small-nets-7x7", "class_": ("other",)}, "f.filter_id IN (FROM classes WHERE class = 'other')"),
    ({"classifier": "small-nets-7x7", "class_": ("(unclassified)",)}, "f.filter_id NOT IN (FROM classes)"),
]  # fmt: skip


@pytest.mark.parametrize(("chosen", "where"), CHOICES, ids=lambda value: str(value)[:60])
def test_counts_and_facets_are_those_of_the_database(desk, chosen, where):
    found, shown = ask(desk, **chosen)
    where = where.replace("FROM classes", "SELECT filter_id FROM classes")
    source = "filters AS f JOIN layers AS l USING (model, layer) LEFT JOIN descriptors AS d USING (filter_id)"
    rows = desk.db.sql(f"SELECT f.filter_id, f.model, f.dead FROM {source} WHERE {where}").fetchall()
    assert found.total == len(rows)
    assert {one.filter_id for one in shown} <= {row[0] for row in rows}
    assert len(shown) == min(PAGE, len(rows))
    if not chosen.get("model"):  # of what is chosen of a facet, the facet counts what else there is
        expected: dict[str, int] = {}
        for _, model, _ in rows:
            expected[model] = expected.get(model, 0) + 1
        assert dict(found.facets["model"]) == expected


def test_a_facet_counts_beside_the_choices_of_the_others(desk):
    found, _ = ask(desk, model=("one",), size=("3x3",))
    assert found.total == 0
    assert dict(found.facets["size"]) == {"7x7": 240}
    assert dict(found.facets["model"]) == {"two": 30}


def test_the_pages_of_a_gallery_are_all_its_kernels_in_order_and_once(desk):
    seen = [one for page in (1, 2, 3, 4, 5) for one in ask(desk, size=("7x7",), page=page)[1]]
    expected = desk.db.sql("SELECT filter_id FROM filters WHERE size = '7x7' ORDER BY model, depth, channel").fetchall()
    assert [one.filter_id for one in seen] == [row[0] for row in expected]
    kernels = dict(desk.db.sql("SELECT filter_id, kernel FROM filters WHERE size = '7x7'").fetchall())
    assert all(np.array_equal(one.kernel.ravel(), np.float32(kernels[one.filter_id])) for one in seen)


@pytest.mark.parametrize("column", ["norm", "total", "centroid", "band_confidence", "direction", "anisotropy", "band"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_sorting_is_that_of_sql(desk, column, order):
    _, shown = ask(desk, sort=column, order=order, model=("one",))
    sql = f"SELECT {column} FROM filters JOIN descriptors USING (filter_id) WHERE model = 'one' AND {column} IS NOT NULL"
    expected = [row[0] for row in desk.db.sql(f"{sql} ORDER BY 1 {order} LIMIT {PAGE}").fetchall()]
    assert [one.value for one in shown] == expected


def test_every_column_that_is_offered_can_be_sorted_by(desk):
    for column in sorted(SORTS):
        found, shown = ask(desk, classifier="small-nets-7x7", sort=column)
        assert shown or column in (
            "sigma_x",
            "sigma_y",
            "sigma_x2",
            "sigma_y2",
            "amplitude",
            "offset",
            "rho",
            "residual",
            "parameters",
            "bic",
            "fit_family",
        ), column
        assert found.total == 352
    assert set(DESCRIPTOR_COLUMNS) < SORTS


def test_a_random_sample_is_that_of_its_seed(desk):
    samples = [[one.filter_id for one in ask(desk, sort="random", seed=seed)[1]] for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert len(set(samples[0])) == PAGE
    second = [one.filter_id for one in ask(desk, sort="random", page=2)[1]]
    assert not set(second) & set(samples[0])


def test_an_unknown_name_lists_the_near_misses(desk):
    for chosen, told in (
        ({"model": ("tow",)}, '"two"'),
        ({"size": ("7x8",)}, '"7x7"'),
        ({"classifier": "small-net-7x7"}, '"small-nets-7x7"'),
    ):
        with pytest.raises(NotFound, match=told):
            ask(desk, **chosen)


def test_a_filter_is_found_by_its_id_and_by_its_name(desk):
    cur = desk.cursor()
    for model, layer, channels in (("one", "stages.2.conv", 60), (ODD, HOSTILE, 40), ("strips", "row", 6)):
        for channel in (0, channels - 1):
            filter_id = int(filter_ids(model, layer, channels)[channel])
            assert data.place(cur, str(filter_id)) == data.place(cur, f"{model}:{layer}:{channel}") == data.find(cur, filter_id)
            assert data.place(cur, str(filter_id))[1:] == (model, layer, channel)
        with pytest.raises(NotFound):
            data.place(cur, f"{model}:{layer}:{channels}")
    for text, error in (
        ("123", NotFound),
        ("9" * 30, NotFound),
        ("one", InvalidArgument),
        ("one:stages.2.conv:x", InvalidArgument),
        ("one:no:0", NotFound),
    ):
        with pytest.raises(error):
            data.place(cur, text)


def test_a_models_layers_add_up(desk):
    rows = data_models.layers(desk.cursor(), "dead", desk.cursor().execute("SELECT number FROM classifiers").fetchall()[0][0])
    assert [(row.dead, sum(row.bands.values()), sum(row.classes.values()), len(row.samples)) for row in rows] == [(5, 10, 10, 8)]
    assert rows[0].classes["(dead)"] == 5
    assert rows[0].bands["(no word)"] == 3


# -- following the database ------------------------------------------------------------------------------------------------


def test_the_shelf_follows_what_is_ingested_replaced_and_removed(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "a", {"x": random_kernels(7, seed=1)})
    with closing(Shelf(db)) as shelf:

        def now() -> list[tuple]:
            status = shelf.refresh(20)
            deadline = time.monotonic() + 20
            while not status.complete or status.revision == now.last:
                assert time.monotonic() < deadline
                time.sleep(0.05)
                status = shelf.refresh(20)
            now.last = status.revision
            return (
                shelf.cursor()
                .execute("SELECT model, count(*), sum(norm) FROM rows JOIN layers ON number = layer_number GROUP BY 1 ORDER BY 1")
                .fetchall()
            )

        now.last = -1
        assert [row[:2] for row in now()] == [("a", 7)]
        put(db, "b", {"x": random_kernels(9)})
        assert [row[:2] for row in now()] == [("a", 7), ("b", 9)]
        before = shelf.cursor().execute("SELECT sum(norm) FROM rows").fetchall()
        put(db, "a", {"x": random_kernels(7, seed=2)})
        assert [row[:2] for row in now()] == [("a", 7), ("b", 9)]
        assert shelf.cursor().execute("SELECT sum(norm) FROM rows").fetchall() != before
        db.import_classifier("small-nets-7x7")
        db.classify("small-nets-7x7", model="b")
        now()
        told = (
            shelf.cursor()
            .execute("SELECT class = '(unclassified)', sum(filters) FROM cells WHERE classifier = 1 GROUP BY 1 ORDER BY 1")
            .fetchall()
        )
        assert told == [(False, 9), (True, 7)]
        db.remove("a")
        assert [row[:2] for row in now()] == [("b", 9)]
    with closing(Shelf(db)) as again:  # kept: nothing is read a second time
        assert again.refresh(20).complete
        assert again.folder == db.path / "explorer"
        with closing(Shelf(db)) as beside:  # another process's folder is left alone
            assert beside.refresh(20).complete
            assert beside.folder != again.folder
        assert not beside.folder.exists()


def test_a_shelf_of_another_format_or_a_damaged_one_is_made_anew(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "a", {"x": random_kernels(5)})
    file = db.path / "explorer" / "shelf.duckdb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a database" * 1000)
    with closing(Shelf(db)) as shelf:
        assert shelf.refresh(20).complete
        shelf.cursor().execute("UPDATE shelf SET format = 0")
    with closing(Shelf(db)) as shelf:
        assert shelf.refresh(20).complete
        assert shelf.cursor().execute("SELECT count(*) FROM rows").fetchall() == [(5,)]


def test_a_model_that_cannot_be_read_is_named_and_the_others_are_shown(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "good", {"x": random_kernels(5)})
    put(db, "bad", {"x": random_kernels(5)})
    next((db.path / "filters").glob("slug=bad/*.parquet")).write_bytes(b"PAR1")
    with closing(Shelf(db)) as shelf:
        status = shelf.refresh(20)
        assert any("filterdb verify --repair" in problem for problem in status.problems)
        assert shelf.cursor().execute("SELECT DISTINCT model FROM layers").fetchall() == [("good",)]


# -- pages -----------------------------------------------------------------------------------------------------------------

PAGES = (
    "/", "/?sort=random&seed=3", "/?sort=norm&order=asc", "/?size=7x7&page=2", "/?classifier=small-nets-7x7&class=other",
    "/models",
    "/model/one", "/model/dead", "/model/strips", "/banks", "/bank/greedy8", "/bank/greedy8?size=5x5", "/bank/dog", "/spectrum",
    "/spectrum/small-nets-7x7", "/spectrum/small-nets-7x7?code=0.5", "/spectrum/small-nets-7x7?code=0.5&all=1", "/compare",
    "/compare?a=one&b=dead", "/compare?a=one&b=two", "/compare?a=one&b=one", "/sql", "/sql?q=SELECT+1", "/sql?name=models",
    "/sql?name=layers",
    "/sql?name=layers&p.model=one",
)  # fmt: skip


class Tags(HTMLParser):
    """The elements of a page as a browser finds them: what is escaped is none."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.names = [name for name, _ in self.found]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if "label" in self._open:
            attributes["(inside a label)"] = ""
        self.found.append((tag, attributes))
        if tag == "label":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self._open.pop()

    def labelled(self, attributes: dict[str, str]) -> bool:
        """Whether a field has a label: around it, or by its id."""
        of = [label.get("for") for name, label in self.found if name == "label"]
        return "(inside a label)" in attributes or attributes.get("id") in of


@pytest.mark.parametrize("address", PAGES)
def test_every_page_is_whole_html_from_here(web, address):
    answer = web.get(address)
    assert answer.status_code == 200, answer.text
    assert answer.text.startswith("<!doctype html>")
    assert answer.text.rstrip().endswith("</html>")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    page = Tags(answer.text)
    assert page.names.count("h1") == page.names.count("main") == page.names.count("header") == 1
    for tag, attributes in page.found:
        for name in ("src", "href", "action"):
            address = attributes.get(name, "/")
            assert re.match(r"/(?!/)|data:image/|\?|#", address), address
        assert not [name for name in attributes if name.startswith("on")], attributes
        assert tag != "script" or "src" in attributes
        assert tag != "img" or "alt" in attributes
        if tag in ("input", "select", "textarea") and attributes.get("type") != "hidden":
            assert page.labelled(attributes), attributes
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.found:
        assert attributes.get("aria-labelledby", ids[0]) in ids


def test_a_hostile_name_is_text_wherever_it_stands(web, desk):
    from filterdb.explorer.choice import path

    filter_id = int(filter_ids(ODD, HOSTILE, 40)[0])
    for address in (
        "/", "/models", path("model", ODD), path("filter", filter_id), Choice(dataset=(HOSTILE,)).url,
        Choice(layer=HOSTILE).url,
        "/sql?q=SELECT+*+FROM+filters+WHERE+dataset+LIKE+'%25img%25'&view=table",
        "/sql?q=SELECT+'<script>alert(1)</script>'+AS+\"<b>\"",
        "/compare?a=<script>&b=<script>", "/model/<script>", "/bank/<script>", "/?model=<script>", "/<script>",
    ):  # fmt: skip
        answer = web.get(address)
        assert answer.status_code in (200, 404, 400), (address, answer.text[:300])
        assert "<img src=x" not in answer.text
        assert "<script>" not in answer.text, address
        assert "49" not in re.findall(r"a/b[^<]{0,40}", answer.text)
    assert "&lt;img src=x onerror=alert(1)&gt;" in web.get(path("model", ODD)).text


def test_a_filters_page_has_all_that_is_known_of_it(web, desk):
    filter_id = int(filter_ids("one", "stages.0.conv", 60)[5])
    moved = web.get("/filter/one:stages.0.conv:5")
    assert (moved.status_code, moved.headers["location"]) == (303, f"/filter/{filter_id}")
    deadline = time.monotonic() + 60
    while "data-pending" in (text := web.get(f"/filter/{filter_id}").text):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for heading in ("Weights", "In words", "Fitted model", "Frequency response", "Nearest templates", "Most similar kernels"):
        assert heading in text
    assert desk.db.describe("one:stages.0.conv:5").sentence in text.replace("&#39;", "'")
    expected = [row[1] for row in desk.db.similar("one:stages.0.conv:5", 24).fetchall()]
    assert [
        int(one) for one in re.findall(r'href="/filter/(\d+)"', text.split('id="neighbours"')[1].split("</ul>")[0])
    ] == expected
    dead = web.get("/filter/dead:only:0", follow_redirects=True).text
    assert "It has no similar kernels" in dead


def test_what_is_missing_is_a_sentence_with_a_command(web, desk, tmp_path):
    assert "filterdb fit --size 7x7" in web.get("/").text
    assert "filterdb classify --classifier NAME" in web.get("/model/two").text
    assert "filterdb compare" in web.get("/compare?a=one&b=dead").text
    empty = Database(tmp_path / "filters")
    empty.import_bank(Bank(name="mine", names=["t"], templates=random_kernels(1)))
    with closing(Desk(empty)) as other:
        pages = TestClient(application(other), base_url="http://localhost")
        assert "filterdb ingest" in pages.get("/").text
        assert "filterdb cluster import" in pages.get("/spectrum").text
        assert pages.get("/bank/mine").status_code == pages.get("/models").status_code == pages.get("/compare").status_code == 200


def test_a_page_is_right_after_an_ingest_and_after_a_removal(tmp_path):
    db = Database(tmp_path / "filters")
    put(db, "first", {"x": random_kernels(5)})
    with closing(Desk(db)) as desk:
        pages = TestClient(application(desk), base_url="http://localhost")

        def until(text: str) -> None:
            deadline = time.monotonic() + 20
            while text not in pages.get("/").text:
                assert time.monotonic() < deadline, text
                time.sleep(0.05)

        until(">5 kernels<")
        put(db, "second", {"x": random_kernels(8)})
        until(">13 kernels<")
        assert pages.get("/model/second").status_code == 200
        db.remove("first")
        until(">8 kernels<")
        assert pages.get("/model/first").status_code == 404


# -- SQL -------------------------------------------------------------------------------------------------------------------


def test_sql_gives_rows_kernels_and_files(web):
    sql = "SELECT filter_id, model, norm FROM filters WHERE size = '3x3' ORDER BY norm DESC"
    page = web.get("/sql", params={"q": sql}).text
    assert page.count('class="card"') == 30
    table = web.get("/sql", params={"q": sql, "view": "table"}).text
    assert table.count("<tr>") == 31
    lines = web.get("/sql.csv", params={"q": sql}).text.splitlines()
    assert lines[0] == "filter_id,model,norm"
    assert len(lines) == 31
    parquet = pq.read_table(io.BytesIO(web.get("/sql.parquet", params={"q": sql}).content))
    assert parquet.column_names == ["filter_id", "model", "norm"]
    assert parquet.num_rows == 30
    templates = web.get(
        "/sql", params={"q": "SELECT template, kernel_h, kernel_w, kernel FROM templates WHERE bank = 'greedy8'"}
    ).text
    assert templates.count('class="card"') == 8
    assert web.get("/sql.xls", params={"q": sql}).status_code == 404


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW filters", "CREATE TABLE x (a INT)", "DELETE FROM filters", "COPY (SELECT 1) TO 'explorer-test.csv'",
        "ATTACH 'x.db'",
        "SELECT * FROM read_text('/etc/passwd')", "INSTALL httpfs", "SET memory_limit = '100GB'",
        "SELECT 1; SELECT 2", "PRAGMA database_list",
        "SELECT * FROM nowhere", "SELEC 1", "SELECT * FROM read_parquet('/etc/*')", "CALL pragma_version()",
    ],
)  # fmt: skip
def test_sql_that_writes_or_reaches_out_or_is_wrong_is_refused_in_a_line(web, sql):
    answer = web.get("/sql", params={"q": sql})
    if sql.startswith(("PRAGMA", "CALL")) and answer.status_code == 200:
        return  # what only tells is allowed
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert web.get("/sql.csv", params={"q": sql}).status_code in (400, 404)


ENDLESS = "SELECT count(*) FROM range(10000000000) a, range(1000) b WHERE hash(a.range, b.range) = 1"


def test_a_slow_query_is_stopped_and_others_are_served_meanwhile(db, web):
    with closing(SqlBox(db, seconds=1.0)) as box:
        told: list[str] = []

        def slow() -> None:
            try:
                box.run(lambda db: db.sql(ENDLESS))
            except QueryError as error:
                told.append(str(error))

        threads = [threading.Thread(target=slow) for _ in range(AT_ONCE - 1)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        assert box.run(lambda db: db.sql("SELECT 42 AS answer")).table.to_pylist() == [{"answer": 42}]
        assert web.get("/").status_code == 200
        for thread in threads:
            thread.join(20)
        assert len(told) == AT_ONCE - 1
        assert all("took longer than 1 s" in one for one in told)
        assert time.monotonic() - start < 15
        assert box.run(lambda db: db.sql("SELECT 43 AS answer")).table.to_pylist() == [{"answer": 43}]  # the thread lives on


def test_more_queries_than_may_run_at_once_are_told_to_wait(db):
    with closing(SqlBox(db, seconds=2.5)) as box:
        told: list[QueryError] = []

        def slow() -> None:
            with pytest.raises(QueryError) as caught:
                box.run(lambda db: db.sql(ENDLESS))
            told.append(caught.value)

        threads = [threading.Thread(target=slow) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        with pytest.raises(QueryError, match="Try again in a moment"):
            box.run(lambda db: db.sql("SELECT 1"))
        for thread in threads:
            thread.join(20)
        assert len(told) == AT_ONCE


def test_rows_and_bytes_are_limited(db, monkeypatch):
    with closing(SqlBox(db)) as box:
        found = box.run(lambda db: db.sql("SELECT * FROM range(1000000000)"), rows=100)
        assert (found.table.num_rows, found.more) == (100, True)
        assert not box.run(lambda db: db.sql("SELECT * FROM range(100)"), rows=100).more
        monkeypatch.setattr("filterdb.explorer.sql_box.BYTES", 2**20)
        with pytest.raises(QueryError, match="larger than 1 MB"):
            box.run(lambda db: db.sql("SELECT repeat('x', 10000) FROM range(1000)"))
    monkeypatch.setattr("filterdb.explorer.sql_box.SETTINGS", {"memory_limit": "100MB", "max_temp_directory_size": "1MB"})
    with closing(SqlBox(db)) as box, pytest.raises(QueryError, match=r"could not allocate|failed to (allocate|offload)|emory"):
        box.run(lambda db: db.sql("SELECT list(range) FROM range(30000000)"))


# -- who may look ----------------------------------------------------------------------------------------------------------


def test_without_a_token_only_this_machine_by_its_own_name_is_answered(desk):
    for host, status in (
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("[::1]:8765", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:1", 421),
    ):
        pages = TestClient(application(desk), base_url=f"http://{host}")
        assert pages.get("/models").status_code == status, host


def test_no_page_of_another_site_may_load_ours_as_a_part_of_itself(web):
    for site, mode, status in (
        ("cross-site", "no-cors", 403),
        ("same-site", "cors", 403),
        ("cross-site", "navigate", 200),
        ("none", "navigate", 200),
    ):
        answer = web.get("/sql?q=SELECT+1", headers={"sec-fetch-site": site, "sec-fetch-mode": mode})
        assert answer.status_code == status, (site, mode)


def test_a_token_is_asked_for_kept_in_a_cookie_and_not_shown(desk):
    pages = TestClient(application(desk, "right"), base_url="http://machine.example:8765", follow_redirects=False)
    for address in ("/", "/static/style.css", "/sql?q=SELECT+1", "/?token=wrong", "/?token=", "/?token=%C3%BC"):
        assert pages.get(address).status_code == 401, address
    answer = pages.get("/models?token=right&x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/models?x=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert pages.get("/models").status_code == 200
    assert "right" not in pages.get("/models").text
    away = pages.get("//evil.example/?token=right").headers["location"]
    assert away.startswith("/")
    assert not away.startswith("//")


def test_serve_says_in_a_line_what_it_lacks(db, monkeypatch):
    for host, port in (("203.0.113.7", 1), ("no such host", 0), ("127.0.0.1", -1)):
        with pytest.raises(InvalidArgument, match="Choose another with --host or --port"):
            serve(db, host, port)
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(InvalidArgument, match=re.escape("pip install 'filterdb[explorer]'")):
        serve(db)


# -- looks -----------------------------------------------------------------------------------------------------------------


def test_the_frequency_response_is_the_fourier_sum():
    kernel = random_kernels(1, 5, 7)[0].astype(np.float64)
    found = looks.response(kernel)
    y, x = np.mgrid[:5, :7]
    for frequency, value in found.along_x:
        assert value == pytest.approx(abs((kernel * np.exp(-2j * np.pi * frequency * x)).sum()), abs=1e-9)
    for frequency, value in found.along_y:
        assert value == pytest.approx(abs((kernel * np.exp(-2j * np.pi * frequency * y)).sum()), abs=1e-9)
    assert (found.along_x[0][0], found.along_x[-1][0]) == (0, 0.5)


@given(st.dictionaries(st.sampled_from(["lowpass", "other", "bandpass", "(no word)", "mine"]), st.integers(0, 99)))
def test_a_bar_is_whole(counts):
    pieces = looks.band_bar(counts)
    assert sum(piece.filters for piece in pieces) == sum(counts.values())
    assert sum(piece.share for piece in pieces) == pytest.approx(1 if sum(counts.values()) else 0)


def test_weights_are_written_with_one_digit_before_the_point():
    assert looks.unit(np.array([[0.0061, -0.002]])) == (pytest.approx(1e-3), "10⁻³")
    assert looks.unit(np.array([[2.5]])) == (1.0, "")
    assert looks.unit(np.zeros((2, 2))) == (1.0, "")


def test_filters_are_found_by_their_ids_all_at_once(desk):
    cur = desk.cursor()
    ids = [row[0] for row in desk.db.sql("SELECT filter_id FROM filters").fetchall()]
    found = data.of_ids(cur, [*ids, 1, -5, 2**63, 2**70])
    assert sorted(found) == sorted(ids)
    cur.execute("BEGIN")  # a layer at the end of all numbers goes on at 0
    try:
        cur.execute("UPDATE layers SET first_id = ? WHERE model = 'dead'", [2**63 - 4])
        cur.execute(
            "UPDATE rows SET filter_id = (?::HUGEINT + channel) % ?::HUGEINT "
            "WHERE layer_number IN (SELECT number FROM layers WHERE model = 'dead')", [2**63 - 4, 2**63],
        )  # fmt: skip
        assert set(data.of_ids(cur, [2**63 - 1, 0, 5])) == {2**63 - 1, 0, 5}
        assert data.find(cur, 0)[1:] == ("dead", "only", 4)
    finally:
        cur.execute("ROLLBACK")
