"""The examples that end each command's help. ``tests/cli/test_help.py`` runs them all."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("filterdb demo",),
    "ingest": ("filterdb ingest demo", "filterdb ingest net.safetensors --name net --dataset imagenet-1k"),
    "sql": (
        'filterdb sql "SELECT size, count(*) FROM filters GROUP BY size"',
        'filterdb sql "FROM models" --format csv --out models.csv',
    ),
    "query": ("filterdb query", "filterdb query depth --size 7x7"),
    "nearest": (
        "filterdb nearest --bank greedy8 --summary",
        "filterdb nearest --model demo --format parquet --out nearest.parquet",
    ),
    "similar": ("filterdb similar demo:stages.0.blocks.0.conv_dw:0 -k 5",),
    "describe": ("filterdb describe demo:stages.0.blocks.0.conv_dw:0", "filterdb describe demo --picture demo.png"),
    "fit": ("filterdb fit --model demo --family gaussian --summary",),
    "cluster": (
        "filterdb cluster --size 7x7 --epochs 10 --restarts 2 --name quick",
        "filterdb cluster --size 7x7 --method kmeans --report shapes",
    ),
    "cluster list": ("filterdb cluster list",),
    "cluster show": ("filterdb cluster show small-nets-7x7",),
    "cluster compare": ("filterdb cluster compare small-nets-7x7 shapes",),
    "cluster control": ("filterdb cluster control shapes",),
    "cluster label": (
        "filterdb cluster label shapes labels.toml --write",
        "filterdb cluster label shapes labels.toml",
    ),
    "cluster report": ("filterdb cluster report small-nets-7x7 report",),
    "cluster export": ("filterdb cluster export shapes shapes.safetensors",),
    "cluster import": ("filterdb cluster import small-nets-7x7",),
    "cluster remove": ("filterdb cluster remove shapes",),
    "classify": ("filterdb classify --classifier small-nets-7x7 --summary",),
    "metrics": ("filterdb metrics --model demo",),
    "compare": ("filterdb compare demo run:demo_run --size 7x7",),
    "bank": ("filterdb bank list", "filterdb bank show greedy8"),
    "bank list": ("filterdb bank list",),
    "bank show": ("filterdb bank show greedy8", "filterdb bank show greedy8 --size 5x5"),
    "bank create": (
        "filterdb bank create ten --kmeans 10 --size 7x7",
        "filterdb bank create codes --classifier small-nets-7x7 --count 10",
    ),
    "bank import": ("filterdb bank import templates.npy --name templates",),
    "bank export": ("filterdb bank export greedy8 greedy8.csv",),
    "bank fit": ("filterdb bank fit greedy8 --forms dy+,dx-,dy-,dx+,dx,dy,sharpening,T",),
    "bank remove": ("filterdb bank remove mine",),
    "evaluate": (
        "filterdb evaluate demo --data images",
        "filterdb evaluate net.pt --architecture convnext_atto --data images --limit 50",
    ),
    "freeze": (
        "filterdb freeze demo --bank greedy8 --out frozen.safetensors",
        "filterdb freeze demo --out repaired.safetensors --data images --repair correct",
    ),
    "greedy": ("filterdb greedy demo --bank greedy8 --name four --count 4",),
    "train": (
        "filterdb train --recipe demo --data images --val-data images --out run",
        "filterdb train --model demo --mode frozen --bank greedy8 --epochs 1 \\\n"
        "    --warmup-epochs 0 --batch-size 64 --data images --val-data images --out run-frozen",
    ),
    "plot": ("filterdb plot", "filterdb plot nearest --model demo --out nearest.png"),
    "serve": ("filterdb serve --port 8000",),
    "info": ("filterdb info", "filterdb info --versions"),
    "verify": ("filterdb verify", "filterdb verify --repair --vacuum"),
    "remove": ("filterdb remove demo",),
}
"""Verb to commands, run in this order in one folder."""
