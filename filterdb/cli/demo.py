"""``filterdb demo``: the main job, offline, on the network that ships with the project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from filterdb.cli.output import Format, write_rows
from filterdb.cli.progress import line

QUESTIONS: tuple[tuple[str, dict[str, str]], ...] = (("sizes", {}), ("layers", {"model": "demo"}), ("depth", {"size": "7x7"}))
REAL_MODEL = "timm:convnextv2_atto.fcmae_ft_in1k"
"""Small enough to try at once: 2,080 kernels of 7x7, about 0.4 MB of a 15 MB file."""


def run(out: Path) -> None:
    """Ingest the demo network, ask three questions, find nearest templates, draw them, and say what to try next."""
    from filterdb.database import Database
    from filterdb.figures import draw_nearest

    database_folder, picture = out / "filters", out / "nearest.png"
    database = Database(database_folder)

    _step(f"filterdb ingest demo --db {database_folder}")
    for outcome in database.ingest("demo"):
        print(line(outcome))

    for name, parameters in QUESTIONS:
        flags = "".join(f" --{key} {value}" for key, value in parameters.items())
        _step(f"filterdb query {name}{flags} --db {database_folder}")
        write_rows(database.query(name, **parameters).to_arrow_reader(), Format.table, None, 40)

    _step(f"filterdb nearest --bank greedy8 --summary --db {database_folder}")
    write_rows(database.nearest_summary("greedy8").to_arrow_reader(), Format.table, None, 40)

    bank = database.bank("greedy8")
    title = "The eight filters, and the demo network's kernels closest to them"
    draw_nearest(bank, database.exemplars(bank), title=title).save(picture)
    print(f"\nEach template beside its closest real kernels: {picture}")

    print("\nTry next:")
    print(f'  filterdb sql "SELECT layer, median(norm) FROM filters GROUP BY ALL ORDER BY 2 DESC" --db {database_folder}')
    print(f"  filterdb similar demo:stages.0.blocks.0.conv_dw:0 --db {database_folder}")
    print(f"  filterdb cluster --size 7x7 --report {out / 'shapes'} --db {database_folder}    # its shapes")
    print(f"  filterdb ingest {REAL_MODEL} --db {database_folder}    # a real model, from the Hugging Face hub")
    _offer(database)
    print(f"\nLook at it in a browser: filterdb serve --db {database_folder}")


def _step(command: str) -> None:
    print(f"\n$ {command}")


def _offer(database: object) -> None:
    """Where a hub answers and a person is there to say yes, ingest a real model at once."""
    if not hub_reachable():
        print("\nNo hub can be reached from here; a checkpoint file works too: filterdb ingest FILE")
        return
    print("\nThe hub can be reached.")
    if sys.stdin.isatty() and input(f"Ingest {REAL_MODEL} now (about 0.4 MB)? [y/N] ").strip().lower() in ("y", "yes"):
        for outcome in database.ingest(REAL_MODEL):  # type: ignore[attr-defined]
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
