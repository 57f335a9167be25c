"""Kernels as colours and as PNG, without matplotlib: matplotlib and Pillow are the oracles."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from conftest import random_kernels
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib import colormaps
from PIL import Image

from filterdb import Bank
from filterdb.errors import InvalidArgument
from filterdb.kernels import heat_map


def pixels(png: bytes) -> np.ndarray:
    """A PNG as Pillow reads it, (h, w, 4)."""
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGBA")
    return np.asarray(image)


@given(
    hnp.arrays(np.float32, (5, 7), elements=st.floats(-3, 3, width=32)),
    st.one_of(st.none(), st.floats(0.125, 4)),
)
def test_colours_are_those_of_matplotlib(kernel, limit):
    whole = limit or float(np.abs(kernel).max()) or 1.0
    place = np.clip(kernel.astype(np.float64) / whole, -1, 1) / 2 + 0.5
    expected = colormaps["RdBu_r"](place, bytes=True)[..., :3].astype(int)
    assert np.abs(heat_map.rgb(kernel, limit).astype(int) - expected).max() <= 1


def test_zero_is_white_signs_are_red_and_blue_and_what_is_beyond_the_limit_is_as_at_it():
    r, g, b = heat_map.rgb(np.array([[0.0, 1.0, -1.0, 9.0, np.nan, np.inf]]), limit=1.0)[0].astype(int).T
    assert min(r[0], g[0], b[0]) >= 245
    assert r[1] > g[1] + 80
    assert b[2] > r[2] + 80
    assert (r[3], g[3], b[3]) == (r[1], g[1], b[1])
    assert [r[4], g[4], b[4], r[5], g[5], b[5]] == [255] * 6
    assert (heat_map.rgb(np.zeros((2, 2))) == heat_map.rgb(np.zeros((2, 2)), 5.0)).all()


@pytest.mark.parametrize(("h", "w", "scale"), [(7, 7, 1), (3, 3, 8), (1, 5, 2), (31, 31, 3)])
def test_a_png_decodes_to_the_colours_of_the_taps(h, w, scale):
    [kernel] = random_kernels(1, h, w)
    found = pixels(heat_map.png(kernel, scale=scale))
    assert found.shape == (h * scale, w * scale, 4)
    assert (found[..., 3] == 255).all()
    assert (found[..., :3] == heat_map.rgb(kernel).repeat(scale, 0).repeat(scale, 1)).all()


def test_several_kernels_stand_side_by_side_with_transparent_gaps():
    kernels = random_kernels(5, 3, 4)
    found = pixels(heat_map.png(kernels, columns=2))
    assert found.shape == (3 * 3 + 2, 2 * 4 + 1, 4)
    for i, kernel in enumerate(kernels):
        top, left = i // 2 * 4, i % 2 * 5
        assert (found[top : top + 3, left : left + 4, :3] == heat_map.rgb(kernel)).all()
    assert not found[3, :, 3].any()
    assert not found[:, 4, 3].any()
    assert not found[8:, 5:, 3].any()  # the last place is empty
    one_scale = pixels(heat_map.png(list(kernels), limit=2.0))
    assert one_scale.shape == (3, 5 * 4 + 4, 4)
    assert (one_scale[:, :4, :3] == heat_map.rgb(kernels[0], 2.0)).all()
    mixed = pixels(heat_map.png([np.ones((3, 3)), np.ones((5, 5))]))
    assert mixed.shape == (5, 11, 4)
    assert heat_map.png([[1.0, -1.0], [0.0, 0.5]]) == heat_map.png(np.array([[1.0, -1.0], [0.0, 0.5]]))


def test_a_data_uri_holds_the_png():
    [kernel] = random_kernels(1)
    head, _, body = heat_map.data_uri(kernel, scale=2).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body, validate=True) == heat_map.png(kernel, scale=2)


@pytest.mark.parametrize("given", [{"scale": 0}, {"columns": 0}])
def test_what_cannot_be_drawn_is_refused(given):
    with pytest.raises(InvalidArgument, match="at least 1"):
        heat_map.png(np.ones((2, 3, 3)), **given)
    with pytest.raises(InvalidArgument, match="needs a kernel"):
        heat_map.png([])
    with pytest.raises(InvalidArgument, match=r"got the shapes \(2, 2, 2\)"):
        heat_map.png([np.ones((2, 2, 2))])


def test_a_bank_shows_itself_with_its_names_as_text():
    bank = Bank("edges & <b>", ["<script>alert(1)</script>", "right"], random_kernels(2, 5, 5))
    page = bank._repr_html_()
    assert "<script" not in page
    assert "<b>edges &amp; &lt;b&gt;: 2 templates of 5x5</b>" in page
    found = re.findall(r"base64,([\w+/=]+)", page)
    assert len(found) == 2
    for text, template in zip(found, bank.templates, strict=True):
        assert (pixels(base64.b64decode(text))[..., :3] == heat_map.rgb(template - template.mean())).all()
