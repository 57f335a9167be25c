"""The documentation site builds without a warning, its notebooks run from a clean kernel, and its links lead somewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    """So that a change of a notebook is a change of words and code; the site is built with outputs of today."""
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[str, nbformat.NotebookNode]:
    """The notebooks, each run from a clean kernel in an empty folder, without a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        found = {}
        for path in NOTEBOOKS:
            notebook = nbformat.read(path, as_version=4)
            folder = tmp_path_factory.mktemp(path.stem)
            NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
            found[path.name] = notebook
        return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_clean_kernel_and_shows_pictures(path, ran):
    outputs = [output for cell in ran[path.name].cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.fixture(scope="module")
def site(ran, tmp_path_factory) -> Path:
    """The site, with the outputs of the notebooks that ran."""
    base = tmp_path_factory.mktemp("site")
    for name in ("docs", "data/pictures", "tests/benchmarks"):  # what the pages show lies beside them as in the checkout
        shutil.copytree(ROOT / name, base / name, ignore=shutil.ignore_patterns("_build", "__pycache__", "jupyter_execute"))
    for name, notebook in ran.items():
        nbformat.write(notebook, base / "docs" / "notebooks" / name)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", base / "docs", base / "html"],
        capture_output=True, text=True, cwd=base,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return base / "html"


class Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def dead(pages: dict[Path, Page]) -> Iterator[str]:
    """The internal links that lead nowhere."""
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors
            ):
                yield f"{path.name}: {link}"


def test_every_internal_link_and_anchor_leads_somewhere(site):
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 15
    assert list(dead(pages)) == []


def test_the_link_check_finds_dead_links(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">x</a><a href="#no">x</a><a href="c.html">x</a><h1 id="top">t</h1>')
    (tmp_path / "b.html").write_text('<a id="here" href="a.html#top">x</a><img src="x.png">')
    pages = {path.resolve(): Page(path) for path in tmp_path.glob("*.html")}
    assert sorted(dead(pages)) == ["a.html: #no", "a.html: c.html", "b.html: x.png"]


def test_the_api_has_every_public_name(site):
    import filterdb

    anchors = Page(site / "api.html").anchors
    for name in filterdb.__all__:
        if name != "__version__":
            assert f"filterdb.{name}" in anchors or f"module-filterdb.kernels.{name}" in anchors, name
    verbs = [name for name in dir(filterdb.Database) if not name.startswith("_")]
    assert [name for name in verbs if f"filterdb.Database.{name}" not in anchors] == []


def test_the_help_of_every_command_is_there(site):
    sys.path.insert(0, str(DOCS / "extensions"))
    from command_help import commands

    text = (site / "commands.html").read_text("utf-8")
    for words in commands():
        assert f"Usage: filterdb {' '.join(words)}" in text
