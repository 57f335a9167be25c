"""The nearest template of every kernel f: the g of a bank for which a g + b has the smallest residual.

That residual is (1 - rho^2) |f - mean f|^2 with rho the Pearson correlation, so the search is one matrix product of centred unit
kernels with centred unit templates, streamed over the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cache

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from filterdb.banks import Bank
from filterdb.kernels import CentredUnit, Floats, centred_unit
from filterdb.kernels.affine import affine
from filterdb.store import KernelBatch
from filterdb.store.view import View

IDENTITY = ("filter_id", "model", "layer", "channel")
"""The columns of ``filters`` that say which filter a row is about."""

_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("filter_id", pa.int64()), ("model", _NAME), ("layer", _NAME), ("channel", pa.int32()), ("template", _NAME),
        ("similarity", pa.float32()), ("gain", pa.float32()), ("offset", pa.float32()), ("residual", pa.float32()),
        ("runner_up", _NAME), ("margin", pa.float32()), ("dead", pa.bool_()),
    ]
)  # fmt: skip

SUMMARY = """
SELECT coalesce(template, '(dead)') AS template, count(*) AS filters, 100.0 * count(*) / sum(count(*)) OVER () AS percent,
       avg(abs(similarity)) AS mean_similarity, 100.0 * count(*) FILTER (abs(similarity) >= 0.9) / count(*) AS percent_above_90,
       100.0 * count(*) FILTER (gain < 0) / count(*) AS percent_inverted
FROM nearest
GROUP BY ALL
ORDER BY filters DESC, template
"""

EXEMPLARS = """
SELECT template, filter_id, gain
FROM nearest
WHERE template IS NOT NULL AND gain != 0
QUALIFY row_number() OVER (PARTITION BY template ORDER BY abs(similarity) DESC, filter_id) <= $count
ORDER BY template, abs(similarity) DESC, filter_id
"""


def match(kernels: NDArray[np.float32], bank: Bank, *, signed: bool = False) -> dict[str, NDArray]:
    """Match kernels with a bank.

    Args:
        kernels: (n, d) raw kernels, d = the bank's number of taps.
        bank: m templates.
        signed: only positive gains count: the best template has the largest rho. Otherwise the largest |rho|, which is the
            least-squares choice.

    Returns:
        Arrays of length n: ``template`` and ``runner_up`` (indices into the bank, -1 where there is none), ``similarity`` (rho
        with its sign), ``gain``, ``offset``, ``residual`` = |f - (gain g + offset)|, ``margin`` (by how much the runner-up's rho,
        or |rho|, is smaller) and ``dead``. Dead kernels have template -1, similarity and margin NaN, gain 0, offset = mean.
        With ``signed``, a kernel whose largest rho is negative has gain 0: no positive multiple of any template helps.
    """
    parts, templates, rho = correlations(kernels, bank)
    score = rho if signed else np.abs(rho)
    rows = np.arange(len(rho))
    best = score.argmax(axis=1)
    top = score[rows, best]
    similarity = rho[rows, best]
    if len(bank) > 1:
        if score is rho:
            score = rho.copy()
        score[rows, best] = -np.inf
        second = score.argmax(axis=1)
        margin = top - score[rows, second]
    else:
        second, margin = np.full(len(rho), -1), np.full(len(rho), np.nan, np.float32)
    gain, offset, residual = fitted(parts, templates, best, similarity, signed=signed)
    if parts.dead.any():
        best[parts.dead] = second[parts.dead] = -1
        similarity[parts.dead] = margin[parts.dead] = np.nan
        gain[parts.dead] = residual[parts.dead] = 0
        offset[parts.dead] = parts.mean[parts.dead]
    return {
        "template": best, "similarity": similarity, "gain": gain, "offset": offset, "residual": residual,
        "runner_up": second, "margin": margin, "dead": parts.dead,
    }  # fmt: skip


def correlations(kernels: NDArray[np.float32], bank: Bank) -> tuple[CentredUnit, CentredUnit, NDArray]:
    """Kernels (n, d) and the m templates of a bank, both centred and scaled, and rho (n, m) between them; 0 for dead kernels."""
    templates = centred_unit(bank.templates.reshape(len(bank), -1))
    # The product is thin (d x m taps by templates): a second BLAS thread gains nothing and gets in the way of Parquet's decoders.
    with _pools().limit(limits=1, user_api="blas"):
        parts = centred_unit(kernels)
        rho = parts.unit @ templates.unit.astype(np.float32).T
    np.clip(rho, -1, 1, out=rho)
    return parts, templates, rho


def fitted(
    parts: CentredUnit, templates: CentredUnit, chosen: NDArray[np.integer], rho: NDArray[np.float32], *, signed: bool
) -> tuple[Floats, Floats, Floats]:
    """Gain, offset and residual (n,) of kernels, each with the template chosen for it (n,), given their correlation (n,)."""
    used = np.maximum(rho, 0) if signed else rho
    mean, deviation = (numbers.astype(np.float32)[chosen] for numbers in (templates.mean, templates.deviation))
    return affine(parts, mean, deviation, used)


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


def nearest(batches: Iterable[KernelBatch], bank: Bank, *, signed: bool = False) -> Iterator[pa.RecordBatch]:
    """The answer of ``db.nearest``, a row group at a time and in its order: memory does not grow with the database."""
    names = pa.array(bank.names)

    def named(indices: NDArray) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32), mask=indices < 0), names)

    for batch in batches:
        found = match(batch.kernels, bank, signed=signed)
        columns: dict[str, pa.Array] = {name: batch.table[name].combine_chunks() for name in IDENTITY}
        columns |= {"template": named(found["template"]), "runner_up": named(found["runner_up"])}
        for name in ("similarity", "margin"):
            columns[name] = pa.array(found[name], pa.float32(), mask=np.isnan(found[name]))
        for name in ("gain", "offset", "residual", "dead"):
            columns[name] = pa.array(found[name], SCHEMA.field(name).type)
        yield pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def exemplars(batches: Iterable[pa.RecordBatch], bank: Bank, count: int, view: View) -> dict[str, NDArray[np.float32]]:
    """The real kernels closest to each template, from the rows of ``nearest``; see ``db.exemplars``."""
    with closing(duckdb.connect()) as con:
        con.register("nearest", pa.RecordBatchReader.from_batches(SCHEMA, batches))
        rows = con.execute(EXEMPLARS, {"count": count}).fetchall()
    sql = "SELECT filter_id, kernel FROM filters WHERE filter_id IN (SELECT unnest($ids))"
    found = view.rows(sql, ids=[row[1] for row in rows])
    kernels = {row[0]: np.array(row[1], np.float32).reshape(bank.templates.shape[1:]) for row in found}
    return {
        name: np.array([np.sign(gain) * kernels[filter_id] for template, filter_id, gain in rows if template == name])
        for name in bank.names
    }
