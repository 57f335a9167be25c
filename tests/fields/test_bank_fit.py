"""The fit of greedy8 finds jets that are there, and gives the shipped file again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from filterdb import banks
from filterdb.errors import InvalidArgument
from filterdb.fields import bank_fit
from filterdb.kernels.scale_space import Jet
from filterdb.share import folder

LEARNED = Path(__file__).parents[3] / "shared" / "data" / "greedy8" / "learned.txt"
needs_learned = pytest.mark.skipif(not LEARNED.is_file(), reason="shared/data/greedy8/learned.txt is not here")


def test_it_recovers_a_jet_from_itself() -> None:
    form = bank_fit.Form("edge", "edge", ("T", "dx"), 1)
    kernel = Jet(0.8, 1.3, {"T": 0.4, "dx": -2}).kernel(7, 7)
    fit = bank_fit.fit(form, 3 * kernel + 5)
    assert fit.similarity == pytest.approx(1, abs=1e-6)
    assert fit.scales[0]["sigma"] == pytest.approx([0.8, 1.3], abs=2e-3)
    assert fit.scales[0]["dx"] / fit.scales[0]["T"] == pytest.approx(-5, rel=1e-2)  # type: ignore[operator]


def test_an_impulse_is_part_of_the_form_where_asked() -> None:
    form = bank_fit.Form("sharpen", "sharpening", ("T",), 1, impulse=True)
    kernel = Jet(1.0, 1.0, {"T": -0.5}).kernel(7, 7) + Jet(0, 0, {"T": 1}).kernel(7, 7)
    fit = bank_fit.fit(form, kernel)
    assert fit.similarity == pytest.approx(1, abs=1e-6)
    assert fit.scales[-1]["sigma"] == [0, 0]


@needs_learned
def test_fitting_again_gives_the_shipped_bank(tmp_path: Path) -> None:
    out = tmp_path / "greedy8.toml"
    assert bank_fit.main([str(LEARNED), str(out)]) == 0
    again, ships, learned = banks.read(out), banks.load("greedy8"), banks.read(LEARNED)
    # Tolerant, as another linear algebra library may stop the search a little elsewhere.
    assert np.einsum("ij,ij->i", again.unit, ships.unit).min() > 0.999
    np.testing.assert_allclose(
        np.einsum("ij,ij->i", again.unit, learned.unit), np.einsum("ij,ij->i", ships.unit, learned.unit), atol=1e-3
    )
    assert (again.names, again.labels, again.citation) == (ships.names, ships.labels, ships.citation)


@needs_learned
def test_the_shipped_numbers_are_parameters_not_the_learned_weights() -> None:
    text = (folder("data") / "banks" / "greedy8.toml").read_text(encoding="utf-8")
    weights = {f"{abs(weight):.6f}"[2:] for weight in banks.read(LEARNED).templates.ravel()}
    assert not any(weight in text for weight in weights)
    assert sum(line.strip().startswith("{ sigma") for line in text.splitlines()) == 18


def test_the_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bank_fit.main([]) == 2
    assert bank_fit.main([str(tmp_path / "no.txt"), "out.toml"]) == 1
    assert "No such file" in capsys.readouterr().err
    with pytest.raises(InvalidArgument, match="8 filters"):
        bank_fit.fit_all(np.ones((3, 7, 7)))
