"""Steps per second of the contrastive model beside cebra: 120 units, batches of 512, 10 bins in view, float32.

Both sides fit through the interface that a user calls, in turn. Ours counts everything, from the arrays to the fitted
model; of cebra only what steps cost is counted (a long fit less a short one), not its set-up.
"""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import numpy as np
import torch

from lvmzoo import Estimator

UNITS, BATCH, REPEATS = 120, 512, 3
CASES = (
    # positives, bins, steps of ours, steps of cebra, least ratio
    ("behavior", 40_000, 600, 6, 12.0),
    ("behavior", 100_000, 600, 3, 30.0),
    ("time", 40_000, 600, 100, 1.2),
    ("time", 100_000, 600, 100, 1.2),
)


def data(bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return counts (bin, unit) and a position in two dimensions."""
    random = np.random.default_rng(0)
    position = np.sin(np.cumsum(random.normal(size=(bins, 2)), 0) * 0.05)
    rates = np.exp(position @ random.normal(size=(2, UNITS)) - 0.5)
    return random.poisson(rates).astype(np.uint8), position


def ours(positives: str, counts: np.ndarray, position: np.ndarray, steps: int) -> float:
    """Return steps per second of ``Estimator.fit``: preparation, Trainer and all."""
    began = time.perf_counter()
    Estimator(
        "contrastive", positives=positives, trainer={"max_steps": steps, "batch_size": BATCH, "progress": False}
    ).fit(counts, {"position": position})
    return steps / (time.perf_counter() - began)


def cebras(positives: str, counts: np.ndarray, position: np.ndarray, steps: int) -> float:
    """Return steps per second of ``CEBRA.fit``, set-up taken out."""
    import cebra

    def fit(iterations: int) -> float:
        model = cebra.CEBRA(
            model_architecture="offset10-model",
            batch_size=BATCH,
            max_iterations=iterations,
            output_dimension=3,
            num_hidden_units=32,
            learning_rate=1e-3,
            time_offsets=10,
            conditional="time" if positives == "time" else "time_delta",
            device="cpu",
        )
        began = time.perf_counter()
        model.fit(counts.astype(np.float32), *([] if positives == "time" else [position.astype(np.float32)]))
        return time.perf_counter() - began

    short = fit(1)
    return steps / max(fit(1 + steps) - short, 1e-9)


def run() -> list[dict[str, Any]]:
    """Return one row a case; the first run of each side is not counted."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # two wait for each other on shared cores, and the ratio is of luck
    rows = []
    for positives, bins, our_steps, cebra_steps, bound in CASES:
        counts, position = data(bins)
        ours(positives, counts, position, 20)
        pairs = []
        for _ in range(REPEATS):
            pairs.append(
                (ours(positives, counts, position, our_steps), cebras(positives, counts, position, cebra_steps))
            )
        ratios = sorted(one / other for one, other in pairs)
        ratio = statistics.median(ratios)
        rows.append(
            {
                "claim": f"contrastive, {positives} mode, {bins} bins x {UNITS} units, batch {BATCH}, steps/s",
                "ours": round(statistics.median(one for one, _ in pairs), 2),
                "source": "cebra 0.6.1",
                "peer": round(statistics.median(other for _, other in pairs), 3),
                "ratio": round(ratio, 1),
                "spread": [round(ratios[0], 1), round(ratios[-1], 1)],
                "bound": f">= {bound:g}",
                "ok": ratio >= bound,
                "note": "one thread on both sides",
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row, flush=True)
