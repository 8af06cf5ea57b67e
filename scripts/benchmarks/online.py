"""One bin in a closed loop: update of the bins in view, latents, and decoded behavior, on one thread.

`contrastive` with 300 units and 10 bins in view, decoded by nearest neighbors among 20 000 training bins; the filter of
`psid`. Both through what a user calls, `Estimator.online().step(counts)`.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from lvmzoo import Estimator
from lvmzoo.batch import Kind, Variable
from lvmzoo.metrics.decode import KnnDecoder, fit_decoder
from lvmzoo.online import Online

UNITS, BINS, FIELD, STEPS = 300, 20_000, 10, 3000


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return counts (bin, unit) and a position in two dimensions."""
    random = np.random.default_rng(0)
    position = np.sin(np.cumsum(random.normal(size=(BINS + STEPS, 2)), 0) * 0.05)
    return random.poisson(np.exp(position @ random.normal(size=(2, UNITS)) - 0.5)).astype(np.uint8), position


def milliseconds(online: Online, counts: np.ndarray) -> list[float]:
    """Return what each step took; the first hundred, which warm up, are left out."""
    found = []
    for bin in counts:
        began = time.perf_counter()
        online.step(bin)
        found.append(1e3 * (time.perf_counter() - began))
    return found[100:]


def contrastive(counts: np.ndarray, position: np.ndarray) -> list[float]:
    """Return the times of a contrastive model with nearest neighbors; how long it was trained changes nothing."""
    estimator = Estimator(
        "contrastive",
        positives="behavior",
        receptive_field_bins=FIELD,
        causal=True,
        trainer={"max_steps": 100, "progress": False},
    ).fit(counts[:BINS], {"position": position[:BINS]})
    latents = estimator.transform(counts[:BINS]).astype(np.float64)
    decoder = fit_decoder(latents, position[:BINS], Variable(Kind.CONTINUOUS, 2), "knn")
    assert isinstance(decoder, KnnDecoder)
    assert len(decoder.references) == BINS
    run = estimator.run_
    return milliseconds(Online(run.model, "arrays", {"position": decoder}, run.experiment.data), counts[BINS:])


def psid(counts: np.ndarray, position: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the times of its filter alone, and of a step with the linear readout."""
    estimator = Estimator("psid", latents=8, relevant=4, trainer={"progress": False})
    estimator.fit(counts[:BINS].astype(np.float32), {"position": position[:BINS]})
    run = estimator.run_
    alone = Online(run.model, "arrays", {}, run.experiment.data)
    return milliseconds(alone, counts[BINS:]), milliseconds(estimator.online(), counts[BINS:])


def run() -> list[dict[str, Any]]:
    """Return the median time of a step of each."""
    torch.set_num_threads(1)
    counts, position = data()
    filtered, decoded = psid(counts, position)
    found = (
        (f"contrastive: a bin online, {FIELD} bins in view, encoded and decoded by kNN over {BINS} points", 1.0,
         contrastive(counts, position)),
        ("psid: a bin online, filtered, 8 latents", 0.1, filtered),
        ("psid: a bin online, filtered and decoded by a linear readout", 0.1, decoded),
    )  # fmt: skip
    rows = []
    for claim, bound, times in found:
        median = statistics.median(times)
        quantiles = [round(float(np.quantile(times, share)), 3) for share in (0.05, 0.95)]
        rows.append(
            {
                "claim": f"{claim}, {UNITS} units, ms (median of {len(times)})",
                "source": "a closed loop",
                "bound": f"< {bound:g}",
                "ours": round(median, 3),
                "peer": None,
                "ratio": round(bound / median, 1),
                "spread": quantiles,
                "ok": median < bound,
                "note": "one thread; spread: 5 and 95 % of steps; ratio: bound over measured",
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row, flush=True)
