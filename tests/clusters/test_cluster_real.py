"""The clusters of real checkpoints: two seeds agree, nothing is found in noise, and the 3x3 classes are there."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_kernels
from real import data

from filterdb import Database
from filterdb.clusters import clustering, compare, controls, make
from filterdb.kernels import centred_unit, shapes
from filterdb.kernels.sizes import parse_size

SEVEN = ["mcunet-320kb-1mb_imagenet.pth", "proxyless-w0.3-r176_imagenet.pth", "mcunet_in1_cifar10.pth", "team10_HFENet.pth"]
SHARE_TOLERANCE = 0.05
"""By how much the share clustered may differ between seeds, of all kernels."""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A database of four real networks and the demo network."""
    db = Database(tmp_path_factory.mktemp("real") / "filters")
    db.ingest(*[data() / "weights" / name for name in SEVEN], "demo")
    return db


def kernels(db, size):
    return clustering.gather(db._view(), size, db._view().having(*parse_size(size)), 0)


@pytest.fixture(scope="module")
def trained(real):
    """Two autoencoders of the 7x7 kernels that differ in their seed, trained for a third of the usual time."""
    found = kernels(real, "7x7")
    return found, [make.train(found, name=f"seed {s}", size="7x7", seed=s, epochs=50, restarts=4) for s in (0, 1)]


def test_two_seeds_agree_on_real_kernels(trained):
    found, classifiers = trained
    stable = compare.stability(found, classifiers)
    assert stable["most_clustered"] - stable["least_clustered"] < SHARE_TOLERANCE
    assert stable["same_class"] > 0.8
    assert stable["least_clustered"] > 0.5
    for classifier in classifiers:  # the common shapes are in every spectrum
        assert {"on_centre", "off_centre", "dy_plus", "dy_minus"} <= set(classifier.classes)


def test_what_a_class_is_called_is_what_its_kernels_look_like(trained):
    found, [classifier, _] = trained
    told = classifier.classify(found)
    names, scores = shapes.fit(centred_unit(found).unit, 7, 7)
    for name in ("on_centre", "off_centre", "dy_plus", "dy_minus"):
        members = scores[told["class"] == name]
        assert len(members) > 50
        # of the average member of the class, the shape of its name is the best of all
        assert names[int(members.mean(axis=0).argmax())] == name


def test_noise_and_shuffled_taps_collapse(trained):
    found, [classifier, _] = trained
    shuffled = np.random.default_rng(0).permuted(found, axis=1)
    noise = random_kernels(len(found)).reshape(len(found), -1)
    assert classifier.share_clustered(found) > 0.5
    assert classifier.share_clustered(noise) < 0.01
    assert classifier.share_clustered(shuffled) < 0.1
    own = controls.retrain(classifier, noise[:2000])  # and a training on noise finds nothing in noise
    assert own.share_clustered(noise[:2000]) < 0.01


def test_kmeans_finds_the_published_kinds_at_3x3(real):
    """k-means settles on different minima, so what is asked of both seeds is what the paper's ten classes are."""
    found = kernels(real, "3x3")
    first, second = (make.train(found, name="k", size="3x3", method="kmeans", seed=seed) for seed in (0, 1))
    for classifier in (first, second):
        assert classifier.scaling == "minmax"
        assert len(classifier.prototypes) == 10
        assert {"on_centre", "off_centre", "dy_plus", "dy_minus"} <= set(classifier.classes)
    assert compare.stability(found, [first, second])["same_class"] > 0.8
