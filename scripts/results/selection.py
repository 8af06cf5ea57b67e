"""`lvmzoo select` finds planted dimensions: of LDS, GPFA, reduced-rank regression and PSID, five seeds each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _family import row

from lvmzoo import DataConfig, Experiment, Recording, TrainerConfig, from_arrays
from lvmzoo.data.recording import Signal
from lvmzoo.models.behavior.psid import PSIDConfig
from lvmzoo.models.multi_region.reduced_rank_regression import ReducedRankRegressionConfig
from lvmzoo.models.single_region.gpfa import GPFAConfig
from lvmzoo.models.single_region.lds import LDSConfig
from lvmzoo.selection import Selection, select
from lvmzoo.simulate.lds import lds
from lvmzoo.simulate.spikes import smooth_noise

SEEDS, ENOUGH = range(5), 4
TRIALS, BINS, UNITS = 100, 50, 50
WIDTH_S = 0.02
SIZES = f"{TRIALS} trials of {BINS} bins, {UNITS} units, last fifth untouched, 5 folds, {len(SEEDS)} seeds"


def choose(config: Any, key: str, values: Sequence[int], recording: Recording) -> Selection:
    """Return the selection of a setting with the defaults of `lvmzoo select`."""
    experiment = Experiment(config, DataConfig(bin_width_s=WIDTH_S), TrainerConfig(progress=False))
    return select(experiment, key, values, [recording])


def of_lds(seed: int, observation: str) -> int:
    """Choose the latents of a linear dynamical system of 8."""
    recording = lds(seed, TRIALS, BINS, UNITS, latents=8, bin_width_s=WIDTH_S, observation=observation)
    found: int = choose(LDSConfig(), "model.latents", range(5, 12), recording).chosen
    return found


def of_gpfa(seed: int, observation: str) -> int:
    """Choose the latents of five Gaussian processes with timescales of 2 to 9 bins."""
    random = np.random.default_rng([seed, 5])
    trials = [
        np.hstack([smooth_noise(BINS, 1, timescale, random) for timescale in (2, 3, 4, 6, 9)]) for _ in range(TRIALS)
    ]
    expected = np.stack(trials) @ random.normal(size=(5, UNITS)) / np.sqrt(5)
    if observation == "gaussian":
        activity = expected + random.normal(size=expected.shape)
    else:
        activity = random.poisson(0.5 * np.exp(0.6 * expected - 0.18 * expected.var((0, 1))))
    recording = from_arrays(activity, bin_width_s=WIDTH_S)
    found: int = choose(GPFAConfig(), "model.latents", range(2, 9), recording).chosen
    return found


def of_regression(seed: int) -> int:
    """Choose the rank by which 30 source units, of which ten latents are shared, predict 30 target units: 3."""
    random = np.random.default_rng([seed, 3])
    latents = random.normal(size=(TRIALS, BINS, 10))
    source = latents @ random.normal(size=(10, 30)) + 3 * random.normal(size=(TRIALS, BINS, 30))
    weights = random.normal(size=(30, 3)) @ random.normal(size=(3, 30))
    target = source @ weights
    target += 2.5 * target.std() * random.normal(size=target.shape)
    regions = ["A"] * 30 + ["B"] * 30
    recording = from_arrays(np.concatenate([source, target], 2), bin_width_s=WIDTH_S, regions=regions)
    found: int = choose(ReducedRankRegressionConfig(), "model.rank", range(11), recording).chosen
    return found


def of_psid(seed: int, channels: int) -> tuple[int, int]:
    """Choose the relevant latents, then all, of a system of eight, four of which move channels of behavior."""
    simulated = lds(seed, TRIALS, BINS, UNITS, latents=8, bin_width_s=WIDTH_S, observation="gaussian")
    assert isinstance(simulated.activity, Signal)
    random = np.random.default_rng([seed, 4])
    hand = np.asarray(simulated.truth["latents"].values)[:, :4] @ random.normal(size=(4, channels))
    hand += random.normal(size=hand.shape)
    shape = (TRIALS, BINS, -1)
    activity = np.asarray(simulated.activity.values).reshape(shape)
    recording = from_arrays(activity, {"hand": hand.reshape(shape)}, bin_width_s=WIDTH_S)
    relevant: int = choose(PSIDConfig(latents=8), "model.relevant", range(9), recording).chosen
    config = PSIDConfig(latents=relevant or 1, relevant=relevant)
    return relevant, choose(config, "model.latents", range(max(relevant, 1), 13), recording).chosen


LDS, PROCESSES = f"simulator lds, {SIZES}", f"five Gaussian processes, {SIZES}"
PSID = f"simulator lds, behavior of four of its latents and noise, {SIZES}"
CASES: tuple[tuple[str, Callable[[int], Any], Any, str], ...] = (
    ("lds, Gaussian activity", lambda seed: of_lds(seed, "gaussian"), 8, LDS),
    ("lds, spike counts", lambda seed: of_lds(seed, "counts"), 8, LDS),
    ("gpfa, Gaussian activity", lambda seed: of_gpfa(seed, "gaussian"), 5, PROCESSES),
    ("gpfa, spike counts", lambda seed: of_gpfa(seed, "counts"), 5, PROCESSES),
    ("reduced_rank_regression", of_regression, 3, f"planted rank, 30 + 30 units, R2 .14, {TRIALS * BINS} bins"),
    ("psid, four channels of behavior", lambda seed: of_psid(seed, 4), (4, 8), PSID),
)
# Of two channels, two of the four relevant latents show in how behavior changes alone: 4000 bins may be too few.
BESIDE: tuple[tuple[str, Callable[[int], Any], Any, str], ...] = (
    ("psid, two channels of behavior", lambda seed: of_psid(seed, 2), (4, 8), PSID),
)


def run() -> list[dict[str, Any]]:
    """Return how often each planted number is found."""
    rows = []
    for case in (*CASES, *BESIDE):
        name, chosen, planted, source = case
        found = [chosen(seed) for seed in SEEDS]
        right = sum(value == planted for value in found)
        said = "4 relevant of 8" if isinstance(planted, tuple) else planted
        told, spread = f"{right} of {len(SEEDS)} seeds", ", ".join(str(value) for value in found)
        bound = f"on {ENOUGH} of {len(SEEDS)}" if case in CASES else "beside it"
        claim = f"select, {name}: the planted {said} chosen"
        rows.append(row(claim, source, bound, told, spread, case in BESIDE or right >= ENOUGH))
    return rows


if __name__ == "__main__":
    for line in run():
        print(line["claim"], line["bound"], line["measured"], line["spread"], line["ok"])
