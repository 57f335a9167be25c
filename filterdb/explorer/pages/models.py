"""All models, and a model's page: facts, layers, proportions by depth, what was measured."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from filterdb.explorer import data, data_models, looks
from filterdb.explorer.desk import Desk

FACTS = (
    "architecture", "source", "dataset", "pretrain_dataset", "task", "params", "top1", "input_size", "licence", "run", "step",
    "revision", "bytes_read", "ingested_at", "skipped", "notes",
)  # fmt: skip


def every(desk: Desk, request: Request) -> Response:
    """``/models``"""
    status = desk.status()
    found = desk.kept("models", lambda: data_models.models(desk.cursor()))
    return desk.html("models.html", status=status, title="Models", models=found)


def page(desk: Desk, request: Request) -> Response:
    """``/model/NAME``; ``?measure=1`` also measures sparsity, entropy and orthogonality."""
    status, cur = desk.status(), desk.cursor()
    model = request.path_params["name"]
    data_models.check_model(cur, model)
    facts = data_models.facts(cur, model)
    searched = (("runs", model), lambda: _runs(desk, model, facts["run"]))
    desk.begin(*searched)
    told = data_models.told_by(cur, model)
    classifier = request.query_params.get("classifier") or (told[0] if told else "")
    number = data.check(cur, data.Choice(classifier=classifier))
    layers = data_models.layers(cur, model, number)
    measure = request.query_params.get("measure") == "1"
    runs = desk.work(*searched)
    measured = desk.work(("layer_metrics", model), lambda: _metrics(desk, model)) if measure else None
    bands = [looks.band_bar(row.bands) for row in layers]
    classes = [looks.bar(row.classes) for row in layers] if number else []
    return desk.html(
        "model.html", status=status, title=model, model=model, layers=layers, facts=facts, fact_names=FACTS, runs=runs, told=told,
        classifier=classifier, totals=data_models.totals(cur, model, number), bands=bands, classes=classes,
        band_legend=looks.legend(bands), class_legend=looks.legend(classes), measure=measure, measured=measured,
        most=data_models.LAYERS,
    )  # fmt: skip


def _runs(desk: Desk, model: str, run: str | None) -> list[dict[str, Any]]:
    """What was evaluated and trained of a model, each with its last numbers."""
    runs = desk.db.sql(
        "SELECT run_id, kind, mode, bank, data, images, finished_at, "
        "(SELECT list({'metric': metric, 'value': value} ORDER BY metric) FROM metrics AS m WHERE m.run_id = runs.run_id "
        "AND coalesce(m.step, 0) = (SELECT coalesce(max(step), 0) FROM metrics AS x WHERE x.run_id = m.run_id)) AS last "
        "FROM runs WHERE model = $model OR run_id = $run ORDER BY started_at DESC", model=model, run=run or model,
    )  # fmt: skip
    return [dict(zip(runs.columns, one, strict=True)) for one in runs.fetchall()]


def _metrics(desk: Desk, model: str) -> list[dict[str, Any]]:
    relation = desk.db.layer_metrics(model)
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
