"""The members of a comparison of configs/experiment, each fitted in a process of its own, two at a time."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

PROCESSES = 2
BASELINES = ("smoothing", "pca", "factor_analysis")


@dataclass(frozen=True)
class Result:
    """Scores of one run, (metric, target) -> (value, spread), and its processor time."""

    scores: dict[tuple[str, str], tuple[float, float | None]]
    seconds: float


def members(experiment: str, group: str) -> list[str]:
    """Return what the experiment sweeps over."""
    from lvmzoo.store import config_folder

    plain = yaml.safe_load((config_folder() / "experiment" / f"{experiment}.yaml").read_text())
    names: str = plain["hydra"]["sweeper"]["params"][f"family/{group}"]
    return names.split(",")


def fit_all(
    experiment: str, group: str, overrides: Sequence[str] = (), seeds: Sequence[int] = (0,)
) -> dict[tuple[str, int], Result]:
    """Fit every member with every seed, say the scores of each as it ends: (member, seed) -> result."""
    jobs = [(name, seed) for name in reversed(members(experiment, group)) for seed in seeds]  # the slow ones first
    lines = [
        [f"experiment={experiment}", f"family/{group}={name}", f"seed={seed}", "trainer.threads=1", *overrides]
        for name, seed in jobs
    ]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(fit, line): (job, line) for job, line in zip(jobs, lines, strict=True)}
        found = {}
        for future in concurrent.futures.as_completed(waiting):
            job, line = waiting[future]
            found[job] = future.result()
            scores = ", ".join(
                f"{'/'.join(filter(None, key))} {value:.4g}" for key, (value, _) in found[job].scores.items()
            )
            print(
                f"  {' '.join(line)}: {found[job].seconds:.0f} s, {scores}", flush=True
            )  # kept should a later one fail
    return {job: found[job] for job in jobs}


def fit(overrides: Sequence[str]) -> Result:
    """Fit one member and score it."""
    from lvmzoo.store import compose
    from lvmzoo.train import train

    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        made = train(compose([*overrides, f"output={folder}", "report=false", "trainer.progress=false"]))
        seconds = time.process_time() - began
    return Result({(s.metric, s.target): (s.value, s.spread) for s in made.scores}, seconds)


def row(claim: str, source: str, bound: str, measured: Any, spread: Any, ok: bool) -> dict[str, Any]:
    """Return a line of results."""
    return {"claim": claim, "source": source, "bound": bound, "measured": measured, "spread": spread, "ok": ok}
