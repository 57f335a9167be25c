"""The explorer on 13 million filters: how long a browser waits for each page, over HTTP from `filterdb serve`.

721 synthetic models of 56 layers, 18,032 kernels each, of 3x3, 5x5 and 7x7, with descriptors and, at 7x7, classes: about as many
as all of timm. Every request asks for something that was not asked before. The database (8 GB with its shelf and index) is made,
measured and removed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.benchmarks import data
from tests.benchmarks.measure import ROOT, Clock, Row, median, once, say

MODELS, LAYERS, CHANNELS = 721, 56, 322
SIZES = (7, 3, 5, 3)
"""Of the layers, in turn."""
TIMES = 20
PEOPLE = 8
GOAL = 1.0
"""Seconds."""
CLASSIFIER, CLASSES = "small-nets-7x7", ("on_centre", "off_centre", "other", "dx_plus")
LAYER = "SELECT filter_id FROM filters WHERE model = '{}' AND depth = {}"
ENDLESS = quote("SELECT count(*) FROM range(10000000000) a, range(1000) b WHERE hash(a.range, b.range) = 1")


def benchmark(folder: Path, small: bool) -> list[Row]:
    """Make, serve, ask, remove."""
    models = 20 if small else MODELS
    path = folder / f"explorer-{models}-models"
    if not (path / "complete").exists():
        say(f"    making a database of {models} models with {LAYERS * CHANNELS:,} kernels each …")
        once(make, path=path, models=models)
    (found,) = [once(ask, path=path, models=models).value]
    shutil.rmtree(path)
    rows = []
    for what, seconds in found["pages"].items():
        rows.append(Row(f"{what}: median of {len(seconds)}", median(seconds), "s"))
        rows.append(Row(f"{what}: the slowest", max(seconds), "s", "a second", GOAL, most=1.0))
    once_only = ("start", "filled", "index", "bank")
    names = {
        "start": "filterdb serve: until it answers", "filled": "the shelf: filled in the background, once",
        "index": "the index of 7x7 kernels: built in the background, once", "bank": "a bank matched with all 7x7 kernels, once",
    }  # fmt: skip
    rows += [Row(names[name], found[name], "s") for name in once_only if name in found]
    rows.append(
        Row(f"the shelf of {models * LAYERS * CHANNELS:,} filters on disk", found["bytes"], "B", "all tables", found["tables"])
    )
    rows.append(Row("memory of the server, all asked", found["memory"], "B"))
    return rows


def make(clock: Clock, path: str, models: int) -> None:
    """A task: what is there already is kept, so that an interrupted run is resumed."""
    import numpy as np

    from filterdb import Database
    from tests.conftest import put

    db = Database(path)
    there = set(db.models) if db.exists() else set()
    kernels = data.synthetic(LAYERS * CHANNELS * 4, 0)
    random = np.random.default_rng(1)
    for number in range(models):
        name = data.synthetic_name(number)
        if name not in there:
            layers = {}
            for depth in range(LAYERS):
                k = SIZES[depth % len(SIZES)]
                cut = (data.SIDE - k) // 2
                chosen = kernels[random.integers(len(kernels), size=CHANNELS), cut : cut + k, cut : cut + k]
                layers[f"stages.{depth // 14}.blocks.{depth % 14}.conv_dw"] = chosen * random.uniform(0.5, 2)
            put(db, name, layers, architecture=f"family{number % 40}_base", dataset=f"data-{number % 7}")
        if number % 100 == 0:
            say(f"      {number} of {models}")
    db.import_classifier(CLASSIFIER)
    db.classify(CLASSIFIER)
    (Path(path) / "complete").touch()


def ask(clock: Clock, path: str, models: int) -> dict[str, Any]:
    """A task: serve the database, and time what a browser would ask."""
    import numpy as np

    from filterdb.store.schema import filter_ids

    random = np.random.default_rng(2)

    def model() -> str:
        return data.synthetic_name(int(random.integers(models)))

    def filter_id(k: int) -> int:
        depth = int(random.choice([i for i in range(LAYERS) if SIZES[i % len(SIZES)] == k]))
        return int(random.choice(filter_ids(model(), f"stages.{depth // 14}.blocks.{depth % 14}.conv_dw", CHANNELS)))

    columns = [
        "dc_ratio", "dc_gain", "nyquist_x", "nyquist_y", "nyquist_xy", "centroid", "bandwidth", "energy_low", "energy_mid",
        "energy_high", "anisotropy", "orientation", "even_energy", "separable_energy", "mean_x", "var_x", "cov_xy",
        "norm", "total", "direction",
    ]  # fmt: skip
    pages: dict[str, Callable[[int], str]] = {
        "gallery": lambda i: f"/?page={1 + i * 7001}" if i else "/",
        "gallery of a model": lambda i: f"/?model={model()}",
        "gallery of a family": lambda i: f"/?family=family{i}",
        "gallery of layers by a glob": lambda i: f"/?layer=stages.*.blocks.{i % 14}.*&page={1 + i}",
        "gallery of a range of depth": lambda i: f"/?depth_from={i / 40}&depth_to={0.5 + i / 40}",
        "gallery of a size": lambda i: f"/?size={(3, 5, 7)[i % 3]}x{(3, 5, 7)[i % 3]}&page={1 + i}",
        "gallery of a data set": lambda i: f"/?dataset=data-{i % 7}&page={1 + i}",
        "gallery of a class": lambda i: f"/?classifier={CLASSIFIER}&class={CLASSES[i % 4]}&page={1 + i}",
        "gallery of a word": lambda i: f"/?band={('lowpass', 'bandpass', 'differential', 'other')[i % 4]}&page={1 + i}",
        "gallery of the living": lambda i: f"/?dead=no&page={1 + i}",
        "sorted by a column": lambda i: f"/?sort={columns[i]}&order={('asc', 'desc')[i % 2]}",
        "sorted, its last page": lambda i: f"/?sort={columns[i]}&page=100",
        "sorted, of a word, size and family": lambda i: f"/?sort={columns[i]}&band=lowpass&size=7x7&family=family{i}",
        "a class sorted by its score": lambda i: f"/?classifier={CLASSIFIER}&class=on_centre&sort=template_score&page={1 + i}",
        "a random sample": lambda i: f"/?sort=random&seed={i}",
        "a random sample of a word": lambda i: f"/?sort=random&seed={i}&band=bandpass",
        "filter, first seen": lambda i: f"/filter/{filter_id((3, 5, 7)[i % 3])}",
        "models": lambda i: "/models",
        "model": lambda i: f"/model/{model()}",
        "spectrum at a code": lambda i: f"/spectrum/{CLASSIFIER}?code={i / 20}",
        "compare two models": lambda i: f"/compare?a={model()}&b={data.synthetic_name(i)}",
        "SQL: count(*)": lambda i: f"/sql?q={quote(f'SELECT count(*) + {i} FROM filters')}",
        "SQL: kernels of a layer": lambda i: f"/sql?q={quote(LAYER.format(model(), i))}",
    }  # fmt: skip
    found: dict[str, Any] = {"pages": {}}
    fresh = not (Path(path) / "explorer").exists()
    start = time.perf_counter()
    with served(path) as (address, process):
        found["start"] = time.perf_counter() - start
        if fresh:  # a run that was interrupted has a shelf already
            found["pages"]["gallery while the shelf is filled"] = [get(f"{address}/?seed={i}", 0.5)[0] for i in range(TIMES)]
        filled = wait(f"{address}/models", start)
        if fresh:
            found["filled"] = filled
        for what, page in pages.items():
            found["pages"][what] = [get(address + page(i))[0] for i in range(TIMES)]
            say(f"      {what}: {median(found['pages'][what]):.3f} s, at most {max(found['pages'][what]):.3f} s")
        found["index"] = wait(f"{address}/filter/{filter_id(7)}")
        found["pages"]["filter with its neighbours"] = [until_whole(f"{address}/filter/{filter_id(7)}") for _ in range(TIMES)]
        found["bank"] = wait(f"{address}/bank/greedy8")
        found["pages"]["bank"] = [get(f"{address}/bank/greedy8")[0] for _ in range(TIMES)]
        found["pages"][f"{PEOPLE} people at once, two of them with endless SQL"] = together(address, pages)
        status = (Path("/proc") / str(process.pid) / "status").read_text()
        found["memory"] = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]
    found["bytes"] = sum(file.stat().st_size for file in (Path(path) / "explorer").iterdir())
    tables = ("models", "layers", "filters", "descriptors", "classes")
    found["tables"] = sum(file.stat().st_size for table in tables for file in (Path(path) / table).rglob("*.parquet"))
    return found


@contextmanager
def served(path: str) -> Iterator[tuple[str, Any]]:
    """The address of the explorer."""
    command = [sys.executable, "-c", "from filterdb.cli import main; main()", "serve", "--db", path, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        yield re.search(r"http://\S+?(?=/$|/\s)", process.stdout.readline())[0], process  # type: ignore[index]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            say("      the server is still ending after 30 s: killed")
            process.kill()


def get(address: str, pause: float = 0.0) -> tuple[float, str]:
    """Seconds until the whole page was there, and the page."""
    time.sleep(pause)
    start = time.perf_counter()
    try:
        with urllib.request.urlopen(address, timeout=120) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{address}: {error.code}") from error
    return time.perf_counter() - start, text


def wait(address: str, start: float | None = None) -> float:
    """Seconds until a page has no part that is still to come."""
    start = time.perf_counter() if start is None else start
    while "data-pending" in get(address, pause=0.2)[1]:
        pass
    return time.perf_counter() - start


def until_whole(address: str) -> float:
    """Seconds of the first answer; the page must be whole when it is asked for again."""
    seconds = get(address)[0]
    wait(address)
    return seconds


def together(address: str, pages: dict[str, Callable[[int], str]]) -> list[float]:
    """Seconds of pages that several people ask for at once, while queries run that do not end by themselves."""
    asked = [page(i + 3) for page in list(pages.values())[1:16] for i in range(3)]
    found: list[float] = []
    endless = [threading.Thread(target=_slow, args=(f"{address}/sql?q={ENDLESS}",)) for _ in range(2)]

    def look(mine: list[str]) -> None:
        found.extend(get(address + one, pause=0.3)[0] for one in mine)

    people = [threading.Thread(target=look, args=(asked[n :: PEOPLE - 2],)) for n in range(PEOPLE - 2)]
    for one in [*endless, *people]:
        one.start()
    for one in [*people, *endless]:
        one.join()
    return found


def _slow(address: str) -> None:
    try:
        urllib.request.urlopen(address, timeout=120).read()
    except urllib.error.HTTPError as error:
        if error.code != 400:  # which says that it was stopped
            raise
