"""Steps of the contrastive model beside cebra: 120 units a session, batches of 512, 10 bins in view, float32.

Both sides fit through the interface that a user calls, in turn, on one thread; what is compared is processor time, that
of the thread which prepares draws included. Ours counts everything, from the arrays to the fitted model; of cebra only
what steps cost is counted (a long fit less a short one), not its set-up. Of several sessions both take 512 references
each. cebra has no mixed labels for several sessions.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lvmzoo import from_arrays
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.models.behavior.contrastive_config import ContrastiveConfig
from lvmzoo.train import train

UNITS, BATCH, REPEATS = 120, 512, 3


class Case(NamedTuple):
    """What is fitted, for how many steps, and how many times faster ours should be."""

    labels: str  # time, continuous, discrete or mixed
    bins: int  # of each session
    sessions: int
    steps: int
    steps_of_cebra: int
    bound: float


CASES = (
    Case("continuous", 40_000, 1, 150, 4, 12.0),
    Case("continuous", 100_000, 1, 150, 2, 30.0),
    Case("time", 40_000, 1, 150, 60, 1.2),
    Case("time", 100_000, 1, 250, 60, 1.2),
    Case("discrete", 40_000, 1, 150, 60, 1.2),
    Case("mixed", 40_000, 1, 150, 8, 6.0),
    Case("continuous", 40_000, 2, 80, 3, 8.0),
    Case("discrete", 40_000, 2, 80, 30, 1.2),
)


class Recorded(NamedTuple):
    """One session: counts (bin, unit), a position in two dimensions and its quadrant."""

    counts: np.ndarray
    position: np.ndarray
    quadrant: np.ndarray


def data(bins: int, seed: int) -> Recorded:
    """Return a session of units that follow a position."""
    random = np.random.default_rng(seed)
    position = np.sin(np.cumsum(random.normal(size=(bins, 2)), 0) * 0.05)
    rates = np.exp(position @ random.normal(size=(2, UNITS)) - 0.5)
    quadrant = (position[:, 0] > 0) + 2 * (position[:, 1] > 0)
    return Recorded(random.poisson(rates).astype(np.uint8), position, quadrant.astype(np.int64))


def ours(case: Case, sessions: Sequence[Recorded], steps: int) -> float:
    """Return milliseconds a step: preparation, Trainer and all."""
    wanted = {"continuous": ["position"], "discrete": ["quadrant"], "mixed": ["position", "quadrant"], "time": None}
    experiment = Experiment(
        model=ContrastiveConfig(
            positives="time" if case.labels == "time" else "behavior", behavior=wanted[case.labels]
        ),
        data=DataConfig(
            bin_width_s=0.02, split=SplitConfig(validation=0, test=0), behavior_kinds={"quadrant": "categorical"}
        ),
        trainer=TrainerConfig(max_steps=steps, batch_size=BATCH, progress=False),
    )
    began = time.process_time()
    recordings = [
        dataclasses.replace(
            from_arrays(each.counts, {"position": each.position, "quadrant": each.quadrant[:, None]}, bin_width_s=0.02),
            session=str(number),
        )
        for number, each in enumerate(sessions)
    ]
    train(experiment, recordings, write=False)
    return (time.process_time() - began) / steps * 1e3


def cebras(case: Case, sessions: Sequence[Recorded], steps: int) -> float:
    """Return milliseconds a step of ``CEBRA.fit``, set-up taken out."""
    import cebra

    arguments: list[Any] = [[each.counts.astype(np.float32) for each in sessions]]
    if case.labels in ("continuous", "mixed"):
        arguments.append([each.position.astype(np.float32) for each in sessions])
    if case.labels in ("discrete", "mixed"):
        arguments.append([each.quadrant for each in sessions])
    if case.sessions == 1:
        arguments = [argument[0] for argument in arguments]

    def fit(iterations: int) -> float:
        model = cebra.CEBRA(
            model_architecture="offset10-model",
            batch_size=BATCH,
            max_iterations=iterations,
            output_dimension=3,
            num_hidden_units=32,
            learning_rate=1e-3,
            time_offsets=10,
            conditional="time" if case.labels == "time" else "time_delta",
            device="cpu",
        )
        began = time.process_time()
        model.fit(*arguments)
        return time.process_time() - began

    short = fit(1)
    return max(fit(1 + steps) - short, 1e-9) / steps * 1e3


def run() -> list[dict[str, Any]]:
    """Return one row a case; the first run of each side is not counted."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        sessions = [data(case.bins, seed) for seed in range(case.sessions)]
        ours(case, sessions, 10)
        pairs = [
            (ours(case, sessions, case.steps), cebras(case, sessions, case.steps_of_cebra)) for _ in range(REPEATS)
        ]
        ratios = sorted(other / one for one, other in pairs)
        ratio = statistics.median(ratios)
        several = f"{case.sessions} sessions of " if case.sessions > 1 else ""
        rows.append(
            {
                "claim": f"contrastive, {case.labels} positives, {several}{case.bins} bins x {UNITS} units, "
                f"batch {BATCH}, ms a step",
                "ours": round(statistics.median(one for one, _ in pairs), 1),
                "source": "cebra 0.6.1",
                "peer": round(statistics.median(other for _, other in pairs), 1),
                "ratio": round(ratio, 1),
                "spread": [round(ratios[0], 1), round(ratios[-1], 1)],
                "bound": f">= {case.bound:g}",
                "ok": ratio >= case.bound,
                "note": "processor time; one thread on both sides",
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row, flush=True)
