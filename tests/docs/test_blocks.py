"""README and docs tell the truth: their commands run and print what they show, and so does their Python.

python tests/docs/test_blocks.py [PAGE …]      runs the blocks again and writes their output into the pages
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest
import typer

sys.path.insert(0, str(Path(__file__).parent))

from blocks import PAGES, README, ROOT, Demo, Player, blocks, differences, rewrite

PLAYED = [page for page in PAGES if blocks(page, "console", "python")]


def name(page: Path) -> str:
    return page.stem


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return Demo(tmp_path_factory.mktemp("demo"))


@pytest.mark.parametrize("page", PLAYED, ids=name)
def test_a_page_prints_what_it_shows(page, demo, tmp_path):
    player = Player(demo, tmp_path)
    for block in blocks(page):
        found = list(differences(block, player.play(block)))
        assert not found, f"{page.name}, {block.title}\n" + "\n".join(found)


def commands_of(page: Path) -> list[str]:
    """All that looks like a command in a page's sh blocks and in its sentences."""
    text = page.read_text("utf-8")
    inline = re.findall(r"(?<!`)`(filterdb [^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = [line for block in blocks(page, "sh") for line in block.body.replace("\\\n", " ").splitlines()]
    return inline + [line for line in lines if line.startswith("filterdb ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=name)
def test_commands_and_their_flags_exist(page):
    from filterdb.cli.app import app
    from filterdb.figures import PICTURES
    from filterdb.store import named_queries

    for text in commands_of(page):
        words = shlex.split(text, comments=True)[1:]
        command = typer.main.get_command(app)
        try:
            while hasattr(command, "get_command") and words and not words[0].startswith("-"):
                found = command.get_command(None, words[0])
                assert found is not None, f"{page.name}: {text}: there is no command {words[0]}"
                command, words = found, words[1:]
            if words and command.name in ("plot", "query"):
                options = (
                    {one.name for one in PICTURES[words[0]].options} if command.name == "plot"
                    else {one.name for one in named_queries.load(words[0]).parameters}
                )  # fmt: skip
                options |= {word.removeprefix("--") for one in command.params for word in one.opts}
                assert {word[2:].replace("-", "_") for word in words if word.startswith("--")} <= options | {
                    one.replace("-", "_") for one in options
                }, text
            elif words and words != ["--help"]:
                command.make_context(command.name, list(words))
        except click.MissingParameter:
            pass  # `filterdb greedy` names a verb in a sentence, and needs not be whole there
        except (click.ClickException, AssertionError) as error:
            raise AssertionError(f"{page.name}: {text}: {error}") from error


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_name_what_exists(page):
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor and there.suffix == ".md" and there.stem not in ("api", "commands"):  # these have headings made at build time
            headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            assert anchor in {slug(one) for one in headings}, f"{page.name} links to {target}"


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 250


def test_ci_runs_the_second_command_and_nothing_less():
    [command] = re.findall(r"<!-- test -->\n```sh\n(.*)\n```", README.read_text("utf-8"))
    extracted = subprocess.run(
        ["sed", "-n", "/<!-- test -->/,/```$/p", "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert command in extracted
    assert command.endswith("-m pytest")


if __name__ == "__main__":
    chosen = [Path(one).resolve() for one in sys.argv[1:]] or PLAYED
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "demo").mkdir()
        made = Demo(Path(temporary) / "demo")
        for one in chosen:
            print(one.name, flush=True)
            rewrite(one, Player(made, Path(temporary) / one.stem))
        if README in chosen:
            picture = made.folder / "filterdb-demo" / "nearest.png"
            (ROOT / "data" / "pictures" / "nearest.png").write_bytes(picture.read_bytes())
