"""The shipped classifiers, and the shapes that emerge while the demo network is trained."""

from __future__ import annotations

import pytest

from filterdb.clusters import read
from filterdb.clusters.classifier import shipped


@pytest.mark.parametrize("name", ["small-nets-5x5", "small-nets-7x7"])
def test_shipped_classifiers_have_every_common_shape(name):
    made = read(name)
    assert name in shipped()
    assert made.name == name
    assert {"on_centre", "off_centre", "dx_plus", "dx_minus", "dy_plus", "dy_minus"} <= set(made.classes)


def test_classes_of_the_demo_run_emerge(db):
    """The shipped classifier finds nothing at the start of the training, and more and more later."""
    db.ingest("demo_run")
    db.import_classifier("small-nets-7x7")
    db.classify("small-nets-7x7", model="demo_run@*")
    rows = db.sql(
        "SELECT step, avg(clustered::INT) FROM classes JOIN filters USING (filter_id) JOIN models USING (model) "
        "WHERE run = 'demo_run' AND classifier = 'small-nets-7x7' GROUP BY step ORDER BY step"
    ).fetchall()
    shares = dict(rows)
    assert len(shares) == 10
    assert shares[0] == 0
    assert shares[6000] > shares[1600] > 0.1
