"""A new session for a trained contrastive model: a tenth of the steps give the decoding of a full fit.

Sessions are simulated: a hundred Poisson units tuned to one angle, other units in each session, 6000 bins of 50 ms. A
model is trained on the first; the second is decoded by nearest neighbors on held-out bins after (a) a model of its own,
(b) adapting the first one's input layer for a tenth of the steps, the body frozen, (c) a model of its own for as few
steps, (d) the frozen body behind an input layer that was not trained. Ratios of R2 are to (a).
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np

from lvmzoo import Estimator, from_arrays
from lvmzoo.data.recording import Recording
from lvmzoo.metrics import evaluate
from lvmzoo.run import Run
from lvmzoo.train import train

SEEDS, STEPS, SHARE = 3, 1000, 0.95


def session(name: str, seed: int) -> Recording:
    """Return a session with units and a course of the angle of its own."""
    random = np.random.default_rng(seed)
    angle = np.cumsum(random.normal(size=6000) * 0.2)
    preferred, peak = random.uniform(0, 2 * np.pi, 100), random.uniform(0.2, 0.6, 100)  # spikes per bin
    counts = random.poisson(peak * np.exp(2 * (np.cos(angle[:, None] - preferred) - 1)))
    heading = np.angle(np.exp(1j * angle))
    return from_arrays(counts, {"heading": heading}, bin_width_s=0.05, session=name)


def model(seed: int, steps: int = STEPS) -> Estimator:
    """Return what is fitted, with a test block."""
    trainer = {"max_steps": steps, "batch_size": 256, "progress": False}
    data = {"split": {"validation": 0.15, "test": 0.2}}
    options: dict[str, Any] = {"positives": "behavior", "delta": 0.6, "latents": 3, "receptive_field_bins": 5}
    return Estimator("contrastive", seed=seed, bin_width_s=0.05, trainer=trainer, data=data, **options)


def r2(made: Run) -> float:
    """Return the R2 of nearest neighbors on the test block."""
    scores = evaluate(made.model, made.sessions or [])
    return next(score.value for score in scores if score.metric == "behavior_r2_knn")


def run() -> list[dict[str, Any]]:
    """Return the shares of a full fit's decoding, median and range over seeds."""
    found: dict[str, list[float]] = {"adapted": [], "short": [], "untrained": []}
    full = []
    for seed in range(SEEDS):
        old, new = session("old", 2 * seed), session("new", 2 * seed + 1)
        trained = model(seed).fit(old)
        own = r2(model(seed).fit(new).run_)
        full.append(own)
        found["adapted"].append(r2(trained.adapt(new).run_) / own)
        found["short"].append(r2(model(seed, STEPS // 10).fit(new).run_) / own)
        plan = trained.run_.experiment
        still = dataclasses.replace(plan, trainer=dataclasses.replace(plan.trainer, max_steps=1, learning_rate=1e-12))
        found["untrained"].append(r2(train(still, [new], write=False, trained=trained.run_.model)) / own)
    source = f"simulated ring, 100 other units; R2 of a full fit of {STEPS} steps: {statistics.median(full):.3f}"
    claims = (
        ("adapted", f"contrastive, new session, input layer alone in {STEPS // 10} steps: share of a full fit's R2"),
        ("short", f"the same, a model of its own in {STEPS // 10} steps"),
        ("untrained", "the same, frozen body and an input layer that was not trained"),
    )
    return [
        {
            "claim": claim,
            "source": source,
            "bound": f">= {SHARE}" if name == "adapted" else "beside it",
            "measured": round(statistics.median(found[name]), 3),
            "spread": [round(min(found[name]), 3), round(max(found[name]), 3)],
            "ok": name != "adapted" or min(found[name]) >= SHARE,
        }
        for name, claim in claims
    ]


if __name__ == "__main__":
    for row in run():
        print(row, flush=True)
