"""Two regions that communicate: latents of the first drive the second after a known delay.

The structure of DLAG (Gokcen et al. 2022, doi:10.1038/s43588-022-00282-5): smooth latents across regions, which one
region sees later, and latents within each region; here seen through spikes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lvmzoo.data.recording import Recording, Signal
from lvmzoo.simulate.spikes import poisson_spikes, smooth_noise

__all__ = ["two_regions"]

STEP_S = 0.001  # delays are multiples of it


def two_regions(
    seed: int = 0,
    trials: int = 100,
    trial_s: float = 1.0,
    units: int = 40,
    across: int = 2,
    within: int = 1,
    delay_s: float = 0.03,
    timescale_s: float = 0.06,
    mean_hz: float = 15.0,
) -> Recording:
    """Simulate regions "A" and "B"; what they share reaches B ``delay_s`` after A.

    Truth: ``latents`` every millisecond, named in their description: those across as A sees them, the same as B sees
    them, those within A and those within B; ``rates`` in Hz, every 10 ms; and ``connections``, the region that
    leads as the source; None at a delay of zero, where neither leads. Trials follow each other without a pause, and so
    do the latents, so there is nothing that a condition average could explain.

    Parameters
    ----------
    seed : of every draw.
    trials, trial_s : number of trials, and their length in seconds.
    units : in each region.
    across, within : latents that are shared, and latents of each region's own.
    delay_s : from A to B in whole milliseconds; below zero B leads.
    timescale_s : of the latents' autocorrelation, exp(-lag^2 / (2 timescale^2)).
    mean_hz : mean rate of the units.
    """
    random = np.random.default_rng(seed)
    steps, lag = round(trials * trial_s / STEP_S), round(delay_s / STEP_S)
    shared = smooth_noise(steps + abs(lag), across, timescale_s / STEP_S, random)
    # B at time t sees what A saw at t - lag.
    in_a, in_b = (shared[max(0, shift) :][:steps] for shift in (lag, -lag))
    own = smooth_noise(steps, 2 * within, timescale_s / STEP_S, random)
    rates = []
    for latents in (np.hstack([in_a, own[:, :within]]), np.hstack([in_b, own[:, within:]])):
        drive = latents @ random.normal(0.0, 0.7 / np.sqrt(across + within), (across + within, units))
        rates.append(mean_hz * np.exp(drive - 0.5 * drive.var(axis=0)))
    rates_hz = np.hstack(rates)
    names = [f"across_{i + 1}_in_{region}" for region in "AB" for i in range(across)]
    names += [f"within_{region}_{i + 1}" for region in "AB" for i in range(within)]
    start_s = trial_s * np.arange(trials)
    every = round(0.01 / STEP_S)
    stop_s = steps * STEP_S
    source, target = ("A", "B") if lag > 0 else ("B", "A")
    connection = {"source": source, "target": target, "delay_s": abs(lag) * STEP_S, "dimensions": across}
    return Recording.from_spike_times(
        "two_regions",
        poisson_spikes(rates_hz, STEP_S, random),
        regions=["A"] * units + ["B"] * units,
        stop_s=stop_s,
        trials=pd.DataFrame({"start_s": start_s, "stop_s": start_s + trial_s}),
        truth={
            "latents": Signal(
                np.hstack([in_a, in_b, own]).astype(np.float32),
                start_s=STEP_S / 2,
                rate_hz=1 / STEP_S,
                unit="a.u.",
                description=", ".join(names) + f"; B follows A after {lag * STEP_S:g} s",
            ),
            "rates": Signal(
                rates_hz[: steps // every * every].reshape(-1, every, 2 * units).mean(axis=1).astype(np.float32),
                start_s=every * STEP_S / 2,
                rate_hz=1 / (every * STEP_S),
                unit="Hz",
                description="Rate of the Poisson process of each unit, in the order of the units.",
            ),
        },
        observed=np.array([[0.0, stop_s]]),
        connections=None if lag == 0 else pd.DataFrame([connection]),
    )
