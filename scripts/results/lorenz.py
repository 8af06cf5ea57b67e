"""Rates of a Lorenz system recovered from its spikes, on three seeds of data and training."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from _family import BASELINES, fit_all, row

from lvmzoo.data.load import load, prepare
from lvmzoo.metrics import score
from lvmzoo.metrics.baselines import oracle
from lvmzoo.store import compose

SEEDS, LEAST, MINUTES = (0, 1, 2), 0.85, 20.0
SOURCE = "simulated: 65 conditions x 20 trials, 30 units, 100 bins of 10 ms; test trials of seeds 0, 1, 2"


def run() -> list[dict[str, Any]]:
    """Return the rate R2 of each model, the median over seeds, and what the true rates give."""
    found = fit_all("lorenz", "lorenz", seeds=SEEDS)
    every = list(dict.fromkeys(member for member, _ in found))
    names = [member for member in every if ("rate_r2", "") in found[member, SEEDS[0]].scores]  # those with rates
    values = {member: [found[member, seed].scores["rate_r2", ""][0] for seed in SEEDS] for member in names}
    medians = {member: statistics.median(values[member]) for member in names}
    linear = min(medians["gpfa"], medians["poisson_lds"])
    others = max(value for name, value in medians.items() if name != "lfads")
    bounds = {
        "smoothing": (f"< {linear:.3f} (gpfa, poisson_lds)", medians["smoothing"] < linear),
        "lfads": (f">= {LEAST} and above each", medians["lfads"] >= LEAST and medians["lfads"] > others),
    }
    rows = []
    for member in sorted(names, key=lambda member: -medians[member]):
        bound, ok = bounds.get(member, ("beside it", True))
        spread = [round(min(values[member]), 4), round(max(values[member]), 4)]
        rows.append(row(f"rate R2 of {member}", SOURCE, bound, round(medians[member], 4), spread, ok))
        if member in BASELINES:
            continue
        minutes = [found[member, seed].seconds / 60 for seed in SEEDS]
        limited = member == "lfads"
        rows.append(
            row(f"processor time of {member}, minutes", SOURCE, f"<= {MINUTES:g}" if limited else "beside it",
                round(statistics.median(minutes), 2), [round(min(minutes), 2), round(max(minutes), 2)],
                not limited or max(minutes) <= MINUTES)
        )  # fmt: skip
    for member in every:
        bits = [found[member, seed].scores["bits_per_spike", ""][0] for seed in SEEDS]
        rows.append(row(f"bits/spike of {member}", SOURCE, "beside it", *_median(bits), True))
    rows.append(row("bits/spike of the oracle (true rates)", SOURCE, "beside it", *_median(ceiling()), True))
    return rows


def ceiling() -> list[float]:
    """Return the bits per spike of the true rates, for each seed."""
    found = []
    for seed in SEEDS:
        experiment = compose(["experiment=lorenz", f"seed={seed}"])
        known = oracle(prepare(load(experiment.data), experiment.data)[0])
        assert known is not None
        found.append(next(line.value for line in score(known) if line.metric == "bits_per_spike"))
    return found


def _median(values: list[float]) -> tuple[float, list[float]]:
    return round(float(np.median(values)), 4), [round(min(values), 4), round(max(values), 4)]


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
