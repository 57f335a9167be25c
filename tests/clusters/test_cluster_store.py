"""Classifiers and classes in the database: they follow the kernels they were made of, and never show beside others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import put, random_kernels
from made import by_hand, ideal_kernel, kernels, made_kernels
from safetensors.numpy import save_file

from filterdb import Database
from filterdb.clusters import Classifier, compare, labels, read, write
from filterdb.clusters.labels import Stretch
from filterdb.errors import FilterdbError, InvalidArgument, NotFound, StoreError
from filterdb.kernels import centred_unit, shapes

FEW = {"epochs": 2, "restarts": 1}
"""Training that is over at once, for what does not depend on how good it is."""


@pytest.fixture
def stored(db: Database) -> Database:
    """Three models: a with two dead kernels and a 3x3 layer, b, and one that has only 3x3 kernels."""
    put(db, "a", {"conv": kernels(80), "flat": np.full((2, 7, 7), 0.5), "small": random_kernels(5, 3, 3)})
    put(db, "b", {"conv": kernels(60, seed=1)})
    put(db, "tiny", {"conv": random_kernels(6, 3, 3, seed=1)})
    return db


def rows_of(db: Database, classifier: str = "hand") -> Counter:
    """How many rows of ``classes`` each model has."""
    sql = "SELECT model, count(*) FROM classes JOIN filters USING (filter_id) WHERE classifier = $c GROUP BY ALL"
    found = Counter(dict(db.sql(sql, c=classifier).fetchall()))
    assert found.total() == db.sql("SELECT count(*) FROM classes WHERE classifier = $c", c=classifier).fetchall()[0][0]
    return found


def files(db: Database, table: str) -> list[Path]:
    return sorted((db.path / table).glob("slug=*/*.parquet"))


# -- the table classes -----------------------------------------------------------------------------------------------------


def test_every_kernel_has_the_row_that_follows_from_the_prototypes(stored):
    stored.import_classifier(by_hand())
    put(stored, "many", {"conv": kernels(500, seed=3)})
    made = stored.cluster("7x7", name="trained", classify=False, epochs=10, restarts=1)
    middle = float(np.median(made.classify(kernels(500, seed=3).reshape(500, 49))["dissimilarity"]))
    stored.import_classifier(made.relabelled(made.stretches, middle))
    assert stored.sql("SELECT count(*) FROM classes").fetchall() == [(0,)]
    for name in ("hand", "trained"):
        answer = stored.classify(name).df()
        made = stored.classifier(name)
        assert rows_of(stored, name) == {"a": 82, "b": 60, "many": 500}
        sql = "SELECT filter_id, kernel, dead, model, layer, channel FROM filters WHERE size = '7x7'"
        filters = stored.sql(sql).df().set_index("filter_id")
        assert set(answer["filter_id"]) == set(filters.index)
        assert answer["filter_id"].is_unique
        filters = filters.loc[answer["filter_id"]]
        for column in ("model", "layer", "channel"):
            assert (filters[column].to_numpy() == answer[column].to_numpy()).all()

        dead = filters["dead"].to_numpy()
        assert dead.sum() == 2
        nothing = answer[dead]
        for column in ("class", "code", "dissimilarity", "template", "template_score"):
            assert nothing[column].isna().all()
        assert not nothing["clustered"].any()

        alive, raw = answer[~dead], np.stack(filters["kernel"][~dead]).astype(np.float64)
        unit = centred_unit(raw).unit
        cosine = unit @ made.prototypes.T.astype(np.float64)
        np.testing.assert_allclose(alive["dissimilarity"], 1 - cosine.max(axis=1), atol=3e-6)
        own = np.abs(made.codes[:, None] - alive["code"].to_numpy(np.float64)).argmin(axis=0)
        np.testing.assert_allclose(cosine[np.arange(len(alive)), own], cosine.max(axis=1), atol=3e-6)
        assert (alive["clustered"] == (alive["dissimilarity"] < made.threshold)).all()
        assert 0 < alive["clustered"].mean() < 1
        stands_for = np.array(labels.of_codes(made.stretches, made.codes), dtype=object)[own]
        assert (alive["class"] == np.where(alive["clustered"], stands_for, "other")).all()
        named = stands_for != "other"
        assert (alive["template"][named] == stands_for[named]).all()
        assert alive["template"][~named].isna().all()
        for kernel, template, score in zip(unit, alive["template"], alive["template_score"], strict=True):
            if isinstance(template, str):
                truth = (shapes.family(template, 7, 7).astype(np.float64) @ kernel).max()
                assert score == pytest.approx(truth, abs=1e-5)
            else:
                assert np.isnan(score)


def test_a_class_without_an_ideal_form_has_no_template(stored):
    names = ("on_centre", "a person's own", "other")
    centres = np.array([ideal_kernel(one, 0.9).ravel() for one in ("on_centre", "dx_plus", "dy_plus")], np.float32)
    stretches = [Stretch(one, i, i + 1) for i, one in enumerate(names)]
    stored.import_classifier(Classifier("c", "kmeans", 7, 7, 2.0, stretches, {"centres": centres}))
    stored.classify("c")
    sql = "SELECT DISTINCT class, template, template_score IS NULL FROM classes WHERE class IS NOT NULL ORDER BY class"
    assert stored.sql(sql).fetchall() == [
        ("a person's own", None, True), ("on_centre", "on_centre", False), ("other", None, True),
    ]  # fmt: skip
    assert stored.classifier("c").classes == ["on_centre", "a person's own", "other"]


def test_only_some_models_can_be_told(stored):
    stored.import_classifier(by_hand())
    assert len(stored.classify("hand", model="b").fetchall()) == 60
    assert rows_of(stored) == {"b": 60}
    assert len(stored.classify("hand", model=["a", "b"]).fetchall()) == 142
    assert rows_of(stored) == {"a": 82, "b": 60}
    assert len(stored.classify("hand", model="b").fetchall()) == 60
    with pytest.raises(NotFound, match='No model "c"'):
        stored.classify("hand", model="c")


def test_classifying_again_does_nothing_new(stored):
    stored.import_classifier(by_hand())
    stored.classify("hand")
    version, before = stored._classes.version, files(stored, "classes")
    told: list[str] = []
    stored.classify("hand", progress=lambda what, *_: told.append(what))
    stored.classify("hand", model="a")
    assert told == []
    assert stored._classes.version == version
    assert files(stored, "classes") == before
    put(stored, "c", {"conv": kernels(10, seed=2)})
    stored.classify("hand", progress=lambda what, *_: told.append(what))
    assert told == ["classifying c", "classified"]
    assert stored._classes.version[1] == version[1] + 1


# -- what is no longer true is not shown -----------------------------------------------------------------------------------


def test_a_model_that_was_ingested_again_has_no_classes_until_it_is_classified_again(stored):
    for name in ("hand", "other hand"):
        stored.import_classifier(by_hand(name))
        stored.classify(name)
    version = stored.version
    put(stored, "a", {"conv": kernels(30, seed=5)})  # the same filter_ids, other kernels
    for name in ("hand", "other hand"):
        assert rows_of(stored, name) == {"b": 60}
        assert rows_of(Database(stored.path, as_of=version), name) == {"a": 82, "b": 60}
    assert stored.verify().ok
    stored.classify("hand")
    assert rows_of(stored) == {"a": 30, "b": 60}
    assert rows_of(stored, "other hand") == {"b": 60}
    expected = stored.classifier("hand").classify(kernels(30, seed=5).reshape(30, 49))["dissimilarity"]
    sql = "SELECT dissimilarity FROM classes JOIN filters USING (filter_id) WHERE model = 'a' ORDER BY channel"
    np.testing.assert_allclose([row[0] for row in stored.sql(sql).fetchall()], expected, atol=1e-6)
    assert stored.verify().ok


def test_a_model_that_was_removed_has_no_classes(stored):
    stored.import_classifier(by_hand())
    stored.classify("hand")
    version = stored.version
    stored.remove("a")
    assert rows_of(stored) == {"b": 60}
    assert rows_of(Database(stored.path, as_of=version)) == {"a": 82, "b": 60}


def test_a_classifier_of_the_same_name_hides_what_the_old_one_told(stored):
    stored.import_classifier(by_hand())
    stored.import_classifier(by_hand("another"))
    stored.classify("hand")
    stored.classify("another")
    stored.import_classifier(by_hand(names=("on_centre", "dx_plus")))
    assert rows_of(stored) == {}
    assert rows_of(stored, "another") == {"a": 82, "b": 60}
    stored.classify("hand")
    assert rows_of(stored) == {"a": 82, "b": 60}
    assert stored.sql("SELECT DISTINCT class FROM classes WHERE classifier = 'hand' ORDER BY 1").fetchall() == [
        ("dx_plus",), ("on_centre",), ("other",), (None,),
    ]  # fmt: skip


def test_training_again_under_the_same_name_hides_the_old_classes(db):
    put(db, "net", {"conv": kernels(520)})
    first = db.cluster(name="x", **FEW)
    assert rows_of(db, "x") == {"net": 520}
    again = db.cluster(name="x", classify=False, seed=1, **FEW)
    assert db.classifiers() == ["x"]
    assert rows_of(db, "x") == {}
    assert db.classifier("x").to_bytes() == again.to_bytes() != first.to_bytes()
    db.classify("x")
    assert rows_of(db, "x") == {"net": 520}


def test_an_old_version_shows_only_the_models_it_had(stored):
    version = stored.version
    put(stored, "c", {"conv": kernels(10, seed=2)})
    stored.import_classifier(by_hand())
    stored.classify("hand")
    assert rows_of(stored) == {"a": 82, "b": 60, "c": 10}
    assert rows_of(Database(stored.path, as_of=version)) == {"a": 82, "b": 60}


def test_an_old_version_is_read_only(stored, tmp_path):
    stored.import_classifier(by_hand())
    stored.classify("hand")
    old = Database(stored.path, as_of=stored.version)
    write(by_hand("new"), tmp_path / "new.safetensors")
    for change in (
        lambda: old.cluster("7x7"), lambda: old.classify("hand"), lambda: old.remove_classifier("hand"),
        lambda: old.import_classifier(tmp_path / "new.safetensors"), lambda: old.label_classifier("hand", "none.toml"),
    ):  # fmt: skip
        with pytest.raises(StoreError, match="read only"):
            change()
    assert old.classifiers() == ["hand"]
    assert rows_of(old) == {"a": 82, "b": 60}


def test_removing_a_classifier_takes_its_classes_along(stored):
    for name in ("hand", "hands"):
        stored.import_classifier(by_hand(name))
        stored.classify(name)
    stored.remove_classifier("hand")
    assert stored.classifiers() == ["hands"]
    assert stored.sql("SELECT DISTINCT classifier FROM classes").fetchall() == [("hands",)]
    assert len(files(stored, "classes")) == 4  # what is gone stays on disk until vacuum
    assert stored.vacuum() > 0
    assert len(files(stored, "classes")) == 2
    assert rows_of(stored, "hands") == {"a": 82, "b": 60}
    assert stored.verify().ok
    with pytest.raises(NotFound, match=r'No classifier "hand".*Did you mean "hands"'):
        stored.remove_classifier("hand")


# -- labels ----------------------------------------------------------------------------------------------------------------


def test_new_labels_are_given_to_the_models_that_had_the_old_ones(stored, tmp_path):
    stored.import_classifier(by_hand())
    stored.classify("hand", model="b")
    made, file = stored.classifier("hand"), tmp_path / "labels.toml"
    labels.write(file, made.stretches, classifier="hand", kernel_h=7, kernel_w=7, threshold=made.threshold)
    before = stored.sql("SELECT class, count(*) FROM classes GROUP BY ALL").fetchall()
    changed = stored.label_classifier("hand", file)
    assert changed.to_bytes() == made.to_bytes()
    assert sorted(stored.sql("SELECT class, count(*) FROM classes GROUP BY ALL").fetchall()) == sorted(before)

    text = file.read_text().replace('class = "dx_plus"', 'class = "bright right"').replace("threshold = 0.1", "threshold = 2.0")
    file.write_text(text)
    told: list[str] = []
    changed = stored.label_classifier("hand", file, progress=lambda what, *_: told.append(what))
    assert (changed.threshold, "bright right" in changed.classes) == (2.0, True)
    assert stored.classifier("hand").to_bytes() == changed.to_bytes()
    assert told == ["classifying b", "classified"]
    assert rows_of(stored) == {"b": 60}
    found = dict(stored.sql("SELECT class, count(*) FROM classes GROUP BY ALL").fetchall())
    truth = Counter(made_kernels(60, seed=1)[1])
    assert found["bright right"] == truth["dx_plus"]
    assert "other" not in found
    assert dict(stored.sql("SELECT class, count(*) FROM spectrum GROUP BY ALL").fetchall())["bright right"] == 1
    with pytest.raises(NotFound, match='Did you mean "hand"'):
        stored.label_classifier("hnd", file)


# -- files -----------------------------------------------------------------------------------------------------------------


def test_exported_and_imported_again_is_the_same_bit_for_bit(stored, tmp_path):
    put(stored, "many", {"conv": kernels(500, seed=3)})
    trained = stored.cluster("7x7", name="trained", classify=False, **FEW)
    file = tmp_path / "c.safetensors"
    for made in (trained, by_hand("Größe / 'x'")):
        write(made, file)
        assert read(file).to_bytes() == made.to_bytes()
        stored.import_classifier(file)
        kept = Database(stored.path).classifier(made.name)
        assert kept.to_bytes() == made.to_bytes() == file.read_bytes()
        np.testing.assert_array_equal(kept.prototypes, made.prototypes)
        assert kept.stretches == made.stretches
        assert kept.facts == made.facts
    renamed = stored.import_classifier(file, name="mine")
    assert (renamed.name, renamed.stretches) == ("mine", made.stretches)
    assert stored.classifiers() == ["Größe / 'x'", "mine", "trained"]
    stored.classify("Größe / 'x'")
    assert rows_of(stored, "Größe / 'x'")["b"] == 60
    with pytest.raises(InvalidArgument, match="needs a name"):
        stored.import_classifier(file, name="")


def test_a_file_that_is_no_classifier_is_refused_in_one_line(stored, tmp_path):
    good = by_hand().to_bytes()
    other = by_hand()
    wrong = Classifier("x", "kmeans", 5, 5, 0.3, other.stretches, other.weights)  # 25 taps said, 49 there
    weights = {"centres": np.full((7, 49), np.nan, np.float32)}
    save_file({"conv.weight": np.zeros((3, 1, 7, 7), np.float32)}, tmp_path / "foreign.safetensors")
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "meta.safetensors", {"format": "pt", "classifier": "{}"})
    for name, data in [
        ("half", good[: len(good) // 2]), ("empty", b""), ("nonsense", b"nonsense" * 30), ("size", wrong.to_bytes()),
        ("nan", Classifier("x", "kmeans", 7, 7, 0.3, other.stretches, weights).to_bytes()),
        ("later", good.replace(b"filterdb classifier 1", b"filterdb classifier 2")),
    ]:  # fmt: skip
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    for name in ("foreign", "meta", "half", "empty", "nonsense", "size", "nan", "later"):
        with pytest.raises(InvalidArgument, match=rf"^{name}\.safetensors is not a classifier's file [^\n]*$"):
            stored.import_classifier(tmp_path / f"{name}.safetensors")
    with pytest.raises(InvalidArgument, match=r"none\.safetensors cannot be read: No such file"):
        stored.import_classifier(tmp_path / "none.safetensors")
    assert stored.classifiers() == []


def test_the_tables_say_how_a_classifier_was_made(db):
    put(db, "net", {"conv": kernels(520)})
    made = db.cluster(name="x", threshold=0.25, seed=3, **FEW)
    columns = "classifier, method, scaling, size, kernel_h, kernel_w, threshold, seed, epochs, restarts, models, kernels"
    assert db.sql(f"SELECT {columns} FROM classifiers").fetchall() == [
        ("x", "autoencoder", "unit", "7x7", 7, 7, 0.25, 3, 2, 1, ["net"], 520),
    ]  # fmt: skip
    [(classes, missing, loss, losses)] = db.sql("SELECT classes, missing, held_out_loss, losses FROM classifiers").fetchall()
    assert (classes, missing, [loss]) == (made.classes, made.missing, losses)
    spectrum = db.sql("SELECT code, class, stretch, confidence, kernel FROM spectrum ORDER BY code").fetchall()
    codes, shown = made.spectrum()
    assert len(spectrum) == len(codes) == 500
    assert [row[0] for row in spectrum] == codes.tolist()
    assert [row[1] for row in spectrum] == labels.of_codes(made.stretches, codes)
    owners = [made.stretches[row[2]] for row in spectrum]
    assert [(row[1], row[3]) for row in spectrum] == [(one.name, one.confidence) for one in owners]
    assert all(one.start <= row[0] <= one.stop for row, one in zip(spectrum, owners, strict=True))
    np.testing.assert_array_equal(np.array([row[4] for row in spectrum], np.float32), shown.reshape(500, 49))


def test_long_names_are_told_apart(db):
    long = "x" * 130
    for ending in "ab":
        put(db, long + ending, {"conv": kernels(5 if ending == "a" else 7)})
        db.import_classifier(by_hand(long + ending))
        db.classify(long + ending)
    for ending in "ab":
        db.classify(long + ending)
        assert rows_of(db, long + ending) == {long + "a": 5, long + "b": 7}


# -- what it is trained on -------------------------------------------------------------------------------------------------


def test_the_early_steps_of_a_run_are_left_out_of_training_and_told_all_the_same(db):
    for seed, (name, facts) in enumerate({
        "toy@1": {"run": "toy", "step": 1}, "toy@5": {"run": "toy", "step": 5}, "toy@30": {"run": "toy", "step": 30},
        "one@7": {"run": "one", "step": 7}, "net": {"step": 3}, "plain": {},
    }.items()):  # fmt: skip
        put(db, name, {"conv": kernels(150, seed=seed)}, **facts)
    made = db.cluster(name="x", **FEW)
    assert made.facts["models"] == ["net", "one@7", "plain", "toy@30"]
    assert made.facts["kernels"] == 600
    assert rows_of(db, "x") == dict.fromkeys(db.models, 150)
    asked = db.cluster(name="y", models=["toy@*", "plain"], method="kmeans", classes=4, classify=False)
    assert sorted(asked.facts["models"]) == ["plain", "toy@1", "toy@30", "toy@5"]
    assert rows_of(db, "y") == {}


def test_a_training_that_was_interrupted_goes_on_where_it_stopped(db, tmp_path):
    put(db, "net", {"conv": kernels(520)})
    other = Database(tmp_path / "other")
    put(other, "net", {"conv": kernels(520)})
    whole = other.cluster(name="x", epochs=15, restarts=1)

    def stop(what: str, done: int, total: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.cluster(name="x", epochs=15, restarts=1, progress=stop)
    assert db.classifiers() == []
    assert db.verify().ok
    told: list[int] = []
    again = db.cluster(name="x", epochs=15, restarts=1, progress=lambda what, done, total: told.append(done))
    assert told[0] == 11
    assert again.to_bytes() == whole.to_bytes()
    assert db.cluster(name="x", epochs=15, restarts=1).to_bytes() == whole.to_bytes()  # nothing of the state is left


def test_kernels_that_cannot_be_trained_on_or_told_are_one_line(stored):
    stored.import_classifier(by_hand())
    for change, words in [
        (lambda: stored.cluster(), "Kernels of one size at a time, and there are 3x3, 7x7. Choose one with --size."),
        (lambda: stored.cluster("5x5"), "No kernels of size 5x5"),
        (lambda: stored.cluster("7x7"), "needs at least 500 distinct kernels to train on, got 140."),
        (lambda: stored.cluster("7x7", models="tiny"), "No kernels of size 7x7 in tiny."),
        (lambda: stored.cluster("7x7", models="tny"), 'No model "tny". Did you mean "tiny"?'),
        (lambda: stored.cluster("7x7", method="pca"), '"pca" is not a method.'),
        (lambda: stored.classify("hnd"), 'No classifier "hnd". Did you mean "hand"?'),
        (lambda: stored.classify("hand", model="tiny"), 'The classifier "hand" classifies 7x7 kernels, and tiny has none.'),
        (lambda: stored.compare_classifiers("hand", "hnd"), 'Did you mean "hand"?'),
        (lambda: stored.query("clustered", classifier="hnd"), 'Did you mean "hand"?'),
        (lambda: stored.cluster_controls("hnd"), 'Did you mean "hand"?'),
        (lambda: stored.cluster_report("hnd", "none"), 'Did you mean "hand"?'),
    ]:  # fmt: skip
        with pytest.raises(FilterdbError) as caught:
            change()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert stored.classifiers() == ["hand"]
    assert stored.verify().ok


def test_a_database_without_what_is_needed_says_what_to_do(db):
    with pytest.raises(StoreError, match="Ingest a model first"):
        db.cluster()
    with pytest.raises(NotFound, match="Train one: filterdb cluster --size 7x7"):
        db.classify("x")
    assert db.classifiers() == []
    assert db.sql("SELECT count(*) FROM classes").fetchall() == [(0,)]
    put(db, "tiny", {"conv": random_kernels(6, 3, 3)})
    db.import_classifier(by_hand())
    with pytest.raises(NotFound, match="No kernels of size 7x7"):
        db.classify("hand")


# -- comparing -------------------------------------------------------------------------------------------------------------


def test_comparing_counts_the_kernels_that_both_have_told_at_one_threshold(stored):
    stored.import_classifier(by_hand("all", threshold=0.1))
    stored.import_classifier(by_hand("two", threshold=0.5, names=("on_centre", "dx_plus")))
    with pytest.raises(InvalidArgument, match="no kernels in common"):
        stored.compare_classifiers("all", "two")
    stored.classify("all")
    stored.classify("two", model="a")
    told = {name: stored.classify(name, model="a").df().set_index("filter_id").dropna(subset="class") for name in ("all", "two")}
    first, second = told["all"], told["two"].loc[told["all"].index]
    [row] = stored.compare_classifiers("all", "two").to_arrow_table().to_pylist()
    truth = compare.agreement(compare.count_pairs(first["class"], second["class"]))
    assert (row["first"], row["second"], row["kernels"], row["threshold"]) == ("all", "two", 80, 0.1)
    for name in ("same_class", "ari", "nmi", "purity"):
        assert row[name] == pytest.approx(getattr(truth, name)), name
    assert row["first_clustered"] == pytest.approx((first["dissimilarity"] < 0.1).mean())
    assert row["second_clustered"] == pytest.approx((second["dissimilarity"] < 0.1).mean())
    [row] = stored.compare_classifiers("all", "all").to_arrow_table().to_pylist()
    assert (row["same_class"], row["ari"], row["nmi"], row["purity"], row["kernels"]) == (1, 1, 1, 1, 140)

    stored.import_classifier(Classifier("five", "kmeans", 5, 5, 0.2, [Stretch("a", 0, 1)], {"centres": np.eye(1, 25, dtype="f")}))
    with pytest.raises(InvalidArgument, match='"all" classifies 7x7 kernels and "five" 5x5: compare classifiers of one size'):
        stored.compare_classifiers("all", "five")


def test_comparing_over_seeds_trains_each_again(db):
    put(db, "net", {"conv": kernels(600)})
    db.cluster(name="k", method="kmeans", classes=7)
    db.cluster(name="auto", **FEW)
    rows = db.compare_classifiers("k", "auto", seeds=2).to_arrow_table().to_pylist()
    assert [(row["first"], row["second"], row["kernels"]) for row in rows] == [
        ("k", "auto", 600), ("k", "2 other seeds", 600), ("auto", "2 other seeds", 600),
    ]  # fmt: skip
    assert all(row["threshold"] == 0.3 for row in rows)
    steady, blind = rows[1:]
    assert steady["same_class"] > 0.6
    assert 0.6 < steady["first_clustered"] <= steady["second_clustered"] <= 1
    assert 0 <= blind["first_clustered"] <= blind["second_clustered"] < steady["first_clustered"]
    assert len(db.compare_classifiers("k", "k", seeds=1).fetchall()) == 2


# -- damage ----------------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_all_is_well_until_a_classifier_is_damaged_and_repair_takes_it_out(stored):
    for name in ("hand", "hands"):
        stored.import_classifier(by_hand(name))
        stored.classify(name)
    assert stored.verify().ok
    [damaged] = [path for path in files(stored, "classifier_files") if "slug=hand/" in str(path)]
    truncate(damaged)
    with pytest.raises(StoreError, match=r'^The classifier "hand" is damaged\. Run filterdb verify --repair, [^\n]*$'):
        Database(stored.path).classify("hand")
    report = stored.verify()
    assert not report.ok
    assert len(report.problems) == 1
    assert report.problems[0].startswith("hand: ")
    assert stored.verify(repair=True).ok
    assert stored.classifiers() == ["hands"]
    assert rows_of(stored) == {}
    assert rows_of(stored, "hands") == {"a": 82, "b": 60}
    assert stored.verify().ok
    stored.import_classifier(by_hand())
    stored.classify("hand")
    assert rows_of(stored) == {"a": 82, "b": 60}


def test_damaged_classes_are_taken_out_and_can_be_made_again(stored):
    stored.import_classifier(by_hand())
    stored.classify("hand")
    truncate(files(stored, "classes")[0])
    report = stored.verify()
    assert len(report.problems) == 1
    assert stored.verify(repair=True).ok
    assert stored.verify().ok
    assert len(rows_of(stored)) == 1
    stored.classify("hand")
    assert rows_of(stored) == {"a": 82, "b": 60}


def test_a_missing_file_of_a_classifier_is_found(stored):
    for table in ("classifier_files", "spectrum", "classifiers"):
        stored.import_classifier(by_hand())
        files(stored, table)[-1].unlink()
        assert stored.verify().problems, table
        assert stored.verify(repair=True).ok
        assert stored.verify().ok
        assert stored.classifiers() == []
