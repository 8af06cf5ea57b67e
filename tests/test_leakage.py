"""Nothing is decoded where there is nothing: slow drifts that are independent of each other, and white noise.

A split whose parts lie too near to each other, or anything that is fitted on test data, would show here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lvmzoo import from_arrays, registry
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.data.load import prepare
from lvmzoo.data.recording import Recording
from lvmzoo.metrics import METRICS
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.behavior_r2 import BehaviorR2
from lvmzoo.models.base import Reconstructs
from lvmzoo.train import train

SEEDS = 20
MOST_R2, MOST_CO_BPS = 0.1, 0.005
TRIALS, BINS, UNITS = 80, 20, {"V1": 9, "V2": 7}
DATA = DataConfig(bin_width_s=0.05, split=SplitConfig(held_out_units=0.25))  # all else as it is by default


def canary(kind: str, seed: int) -> Recording:
    """Return a session of trials end to end: counts, and behavior that has nothing to do with them."""
    random = np.random.default_rng([seed, kind == "drifts"])
    units = sum(UNITS.values())
    values = random.normal(size=(TRIALS * BINS, units + 2))
    if kind == "drifts":
        timescales = TRIALS * BINS * random.uniform(0.1, 0.5, units + 2)
        values = np.stack([drift(each, random) for each in timescales], 1)
    rates = np.exp(0.5 * values[:, :units] + np.log(0.5))
    parts = [slice(start, start + BINS) for start in range(0, TRIALS * BINS, BINS)]
    counts = random.poisson(rates)
    return from_arrays(
        [counts[part] for part in parts],
        {"hand": [values[part, units:] for part in parts]},
        bin_width_s=0.05,
        regions=[name for name, number in UNITS.items() for _ in range(number)],
    )


def drift(timescale: float, random: np.random.Generator) -> np.ndarray:
    """Return an Ornstein-Uhlenbeck process of unit variance; the time scale is in bins."""
    keep = np.exp(-1 / timescale)
    values = np.empty(TRIALS * BINS)
    values[0] = random.normal()
    for bin in range(1, len(values)):
        values[bin] = keep * values[bin - 1] + random.normal(0, np.sqrt(1 - keep**2))
    return values


def scores(name: str, kind: str, seed: int) -> tuple[float, float]:
    """Fit a model by its own defaults of a small kind; return R2 of behavior and bits a spike of held-out units."""
    entry, recording = registry.get(name), canary(kind, seed)
    (session,) = prepare([recording], DATA)
    trainer = TrainerConfig(max_epochs=10, max_steps=60, progress=False, threads=1)
    fitted = train(Experiment(entry.tiny(session.layout), DATA, trainer, seed=seed), [recording], write=False)
    assert fitted.sessions is not None
    evaluation = Evaluation(fitted.model, fitted.sessions[0], seed)
    behavior = [score.value for score in BehaviorR2(chance=False)(evaluation) if score.metric == "behavior_r2"]
    smoothed = [0.0]
    if isinstance(fitted.model, Reconstructs):
        smoothed = [score.value for score in METRICS["co_bps"](evaluation) if score.metric == "co_bps"]
    return max(behavior), max(smoothed)


@pytest.mark.parametrize("kind", ["drifts", "noise"])
@pytest.mark.parametrize("name", registry.entries())
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_decoded_where_there_is_nothing(name: str, kind: str) -> None:
    r2, co_bps = np.median([scores(name, kind, seed) for seed in range(SEEDS)], axis=0)
    assert r2 <= MOST_R2
    assert co_bps <= MOST_CO_BPS


def test_a_split_that_leaks_would_be_seen(tmp_path: Path) -> None:
    leaky = DataConfig(bin_width_s=0.05, split=SplitConfig(by="every", gap_s=0.0))
    found = []
    for seed in range(5):
        (session,) = prepare([canary("drifts", seed)], leaky)
        trainer = TrainerConfig(max_epochs=2, progress=False, threads=1)
        model = registry.get("pca").config(latents=8, smoothing_s=0.2)
        fitted = train(Experiment(model, leaky, trainer), [canary("drifts", seed)], write=False)
        evaluation = Evaluation(fitted.model, session, seed)
        found.append(max(s.value for s in BehaviorR2(chance=False)(evaluation) if s.metric == "behavior_r2"))
    assert np.median(found) > MOST_R2
