"""EM of a multi-region linear dynamical system beside that of `lds` at equal size, as a user calls them.

Both fits go from the same activity in memory to fitted parameters, alternating; claims about regions, which `lds` does
not make, are not asked for. Communication over three bins, with a state three times as large, is reported beside.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from lvmzoo import Estimator

PASSES, REPEATS = 20, 7
TRIALS, BINS, UNITS, LATENTS = 200, 100, 50, 8  # of both regions together
MOST = 1.5  # times as long as `lds`


def simulate(seed: int = 0) -> np.ndarray:
    """Return float32 activity (trial, bin, unit) of two regions, the first of which drives the second."""
    random = np.random.default_rng(seed)
    half = LATENTS // 2
    A = np.zeros((LATENTS, LATENTS))
    for k, angle in enumerate(random.uniform(0.02, 0.3, LATENTS // 2)):
        turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = 0.95 * np.array(turn)
    A[half:, :half] = 0.05 * random.normal(size=(half, half))
    C = np.zeros((UNITS, LATENTS))
    C[: UNITS // 2, :half], C[UNITS // 2 :, half:] = 0.5 * random.normal(size=(2, UNITS // 2, half))
    x = random.normal(size=(TRIALS, LATENTS))
    activity = np.empty((TRIALS, BINS, UNITS), np.float32)
    for t in range(BINS):
        activity[:, t] = x @ C.T + random.normal(size=(TRIALS, UNITS))
        x = x @ A.T + 0.3 * random.normal(size=x.shape)
    return activity


def seconds(activity: np.ndarray, model: str, **settings: Any) -> float:
    """Return the seconds of a fit as a user starts it."""
    trainer = {"max_epochs": PASSES, "tolerance": 0.0, "progress": False}
    estimator = Estimator(model, trainer=trainer, **settings)
    begin = time.perf_counter()
    estimator.fit(activity)
    return time.perf_counter() - begin


def row(claim: str, ours: list[float], theirs: list[float], bound: float | None) -> dict[str, Any]:
    """Return one claim: medians of both sides and the median, least and largest ratio of alternating runs."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    ratio = statistics.median(ratios)
    return {
        "claim": claim,
        "source": "lds",
        "bound": None if bound is None else round(bound, 3),
        "ours": round(statistics.median(ours), 4),
        "peer": round(statistics.median(theirs), 4),
        "ratio": round(ratio, 3),
        "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        "ok": bound is None or ratio >= bound,
        "note": f"{1 / ratio:.2f} times the time of lds",
    }


def run() -> list[dict[str, Any]]:
    """Return the claim on one lag, and the figures of three."""
    activity = simulate()
    regions = ["A"] * (UNITS // 2) + ["B"] * (UNITS // 2)
    regional: dict[str, Any] = {"regions": regions, "latents": LATENTS // 2, "permutations": 0, "resamples": 0}
    plain, ours, lagged = [], [], []
    for _ in range(REPEATS + 1):
        plain.append(seconds(activity, "lds", latents=LATENTS))
        ours.append(seconds(activity, "multi_region_lds", **regional))
        lagged.append(seconds(activity, "multi_region_lds", max_lag=3, **regional))
    regions_by_latents = f"2 x {LATENTS // 2} latents"
    size = f"multi_region_lds, {TRIALS} trials x {BINS} bins x {UNITS} units, {regions_by_latents}, {PASSES} passes, s"
    # The first of each is left out: imports and first allocations are not the fit's.
    return [
        row(f"{size}: at most {MOST} times lds", ours[1:], plain[1:], 1 / MOST),
        row(f"{size}, max_lag 3 (24 state elements)", lagged[1:], plain[1:], None),
    ]


if __name__ == "__main__":
    for result in run():
        print(result)
