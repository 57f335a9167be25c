"""fit and describe: kernels a second with all families, and how far the fits are from what scipy finds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.measure import Clock, Row, in_turns, once

SAMPLE = 40
"""Kernels that scipy fits too: half of the demo network's, half synthetic."""
STARTS = 8
CLOSE = 1e-3
"""In rho."""


def benchmark(folder: Path, small: bool) -> list[Row]:
    """The whole verb on a database; then ours and scipy's best of ``STARTS`` searches, family by family, on the same kernels."""
    models, times = (1, 1) if small else (1, 3)
    path = data.database(folder, models)
    found = in_turns({"fit": partial(fit_database, path=str(path)), "describe": partial(describe, count=50_000)}, times)
    fitted, described = found["fit"], found["describe"]
    sample = 8 if small else SAMPLE
    oracle = once(against_scipy, sample=sample)
    by_family = oracle.value["families"]
    single = [one for name, one in by_family.items() if name != "jet1_two_scales"]
    two = by_family["jet1_two_scales"]
    rows = [
        Row("7x7 kernels a second, all families, read, fitted and stored", fitted.value / fitted.seconds, "", least=5000),
        Row("7x7 kernels a second, descriptors", described.value / described.seconds, ""),
        Row(
            f"one kernel with all families ({sample} at once)", oracle.value["ours"] / sample, "s",
            f"scipy, best of {STARTS} L-BFGS-B", oracle.seconds / sample,
        ),
        Row(
            "largest loss of rho against scipy, all families but the next", max(one["largest"] for one in single), "", "within",
            CLOSE, most=1,
        ),
        Row("jet1_two_scales: mean loss of rho", max(two["mean"], 0.0), "", "within", CLOSE, most=1),
        Row("jet1_two_scales: share of kernels within 1e-3 of scipy, or better", two["close"], "", least=0.95),
        Row("the best family's rho: largest loss", oracle.value["best"], "", "within", CLOSE, most=1),
    ]  # fmt: skip
    return rows


def fit_database(clock: Clock, path: str) -> int:
    """The whole verb, after torch is imported and the grids are made, as in a fit of many models."""
    from filterdb import Database
    from filterdb.fields import fits

    db = Database(path)
    fits.fit(data.synthetic(64, 1))
    with clock:
        db.fit("7x7", again=True)
    count: int = db.sql("SELECT count(*) FROM filters").fetchall()[0][0]
    return count


def describe(clock: Clock, count: int) -> int:
    """Descriptors as at ingest, rows of the table included."""
    import numpy as np

    from filterdb.fields.store import descriptor_table

    kernels = data.synthetic(count, 5)
    descriptor_table(np.arange(64), kernels[:64])
    with clock:
        descriptor_table(np.arange(count), kernels)
    return count


def against_scipy(clock: Clock, sample: int) -> dict[str, Any]:
    """The clock is scipy's; ours is in the answer."""
    import time

    import numpy as np

    from filterdb.fields import fits

    kernels = np.concatenate([_demo(sample // 2), data.synthetic(sample - sample // 2, 11)])
    fits.fit(kernels)
    start = time.perf_counter()
    ours = fits.fit(kernels)
    seconds = time.perf_counter() - start
    theirs = np.zeros((len(ours), len(kernels)))
    with clock:
        for i, one in enumerate(ours):
            for j, kernel in enumerate(kernels):
                theirs[i, j] = max(_search(form, one.family.opposite, kernel) for form in one.family.forms)
    loss = theirs - np.stack([one.rho for one in ours])
    winner = fits.best(ours)
    families = {
        one.family.name: {
            "largest": float(loss[i].max()), "mean": float(loss[i].mean()), "close": float((loss[i] < CLOSE).mean()),
        }
        for i, one in enumerate(ours)
    }  # fmt: skip
    return {"ours": seconds, "families": families, "best": float(loss[winner, np.arange(len(kernels))].max())}


def _demo(count: int) -> Any:
    import numpy as np
    from safetensors.numpy import load_file

    from filterdb.share import folder

    weights = load_file(str(folder("data") / "demo.safetensors"))
    kernels = np.concatenate([w.reshape(-1, 7, 7) for w in weights.values() if w.shape[-2:] == (7, 7)])
    return kernels[np.random.default_rng(0).choice(len(kernels), count, replace=False)].astype(np.float32)


def _search(form: Any, opposite: bool, kernel: Any) -> float:
    """The largest rho that L-BFGS-B finds for one form, from the numpy kernels of scale space and ``lstsq`` alone."""
    import numpy as np
    from scipy.optimize import minimize

    from filterdb.fields.fits.solve import bounds

    target = kernel.astype(np.float64).ravel() - kernel.mean()
    target /= np.linalg.norm(target)

    def rho(log_sigma: Any) -> float:
        columns = _columns(form, np.exp(log_sigma), kernel.shape)
        weights = np.linalg.lstsq(columns, target, rcond=1e-10)[0]
        if opposite and weights[0] * weights[1] > 0:
            return float(max(abs(target @ c) / np.linalg.norm(c) for c in columns.T))
        return float(np.linalg.norm(columns @ weights))

    if not form.searched:
        return rho(np.zeros(0))
    low, high = np.log(bounds(*kernel.shape))
    starts = np.random.default_rng(0).uniform(low, high, (STARTS, form.searched))
    found = [minimize(lambda p: -rho(p), start, method="L-BFGS-B", bounds=[(low, high)] * form.searched) for start in starts]
    return max(-one.fun for one in found)


def _columns(form: Any, sigmas: Any, size: tuple[int, int]) -> Any:
    import numpy as np

    from filterdb.fields.fits.families import IMPULSE, LINE, ONE
    from filterdb.kernels.scale_space import profile

    def along(kind: str, sigma: float, taps: int) -> Any:
        n = np.arange(taps) - taps // 2
        if kind in (ONE, IMPULSE):
            return np.ones(taps) if kind == ONE else (n == 0).astype(float)
        return np.exp(-(n**2) / (2 * sigma**2)) if kind == LINE else profile(taps // 2, sigma, kind)

    columns = []
    for combination in form.basis:
        total = np.zeros(size)
        for term, weight in combination:
            x, y = (sigmas[i] for i in form.scales[term.pair]) if form.scales else (0.0, 0.0)
            total += weight * np.outer(along(term.y, y, size[0])[::-1], along(term.x, x, size[1]))
        columns.append(total.ravel() - total.mean())
    return np.stack(columns, 1)
