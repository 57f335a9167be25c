"""``python -m tests.screenshots --db DB --out data/pictures``: the pictures of the explorer that the README shows.

Each page at 1280 px and on a phone, light and dark, as ``explorer_PAGE_WIDTH_SCHEME.png``; ``--only`` makes some. The database
needs the model demo and its run demo_run, classified by small-nets-7x7.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent))

from browser import DESK, PHONE, browsing, served

SQL = """SELECT filter_id, direction
FROM descriptors JOIN filters USING (filter_id)
WHERE band = 'differential' AND model = 'demo'
ORDER BY direction LIMIT 54"""
PAGES = {
    "gallery": "/?size=7x7&band=lowpass&band=bandpass&band=differential&sort=random&seed=1",
    "class": "/?classifier=small-nets-7x7&class=on_centre&sort=template_score",
    "filter": "/filter/demo:stages.1.blocks.1.conv_dw:9", "model": "/model/demo", "models": "/models", "banks": "/banks",
    "bank": "/bank/greedy8", "spectrum": "/spectrum/small-nets-7x7?code=0.3", "compare": "/compare?a=demo&b=demo_run@0",
    "sql": f"/sql?q={quote(SQL)}",
}  # fmt: skip
WIDTHS = {"1280": DESK, "phone": PHONE}
SCHEMES = ("light", "dark")


def main() -> None:
    """Serve, look, keep."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description="Pictures of the explorer.")
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="PAGE_WIDTH_SCHEME", help="such as gallery_1280_light")
    parser.add_argument("--whole", action="store_true", help="the whole page, not just what a window shows")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with served(given.db) as address, browsing() as browser:
        for page, path in PAGES.items():
            for width, size in WIDTHS.items():
                for scheme in SCHEMES:
                    name = f"{page}_{width}_{scheme}"
                    if given.only and name not in given.only:
                        continue
                    browser.look(address.rstrip("/") + path, size, scheme)
                    browser.wait("[data-pending]", 300, gone=True)
                    browser.picture(given.out / f"explorer_{name}.png", given.whole, size)
                    print(given.out / f"explorer_{name}.png", flush=True)


if __name__ == "__main__":
    main()
