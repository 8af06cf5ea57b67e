"""The Lorenz system seen through Poisson spikes, the benchmark of Sussillo et al. 2016 (doi:10.48550/arXiv.1608.06315).

dx/dt = 10 (y - x), dy/dt = x (28 - z) - y, dz/dt = x y - 8/3 z, begun on the attractor at one point a condition.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from lvmzoo.data.recording import Recording, Signal
from lvmzoo.simulate.spikes import spikes_in_bins

__all__ = ["integrate", "lorenz"]

SPAN = 1.5  # the system's own time in 100 bins
STEP = 0.002  # of the integration, in the system's own time; Runge-Kutta of fourth order


def lorenz(
    seed: int = 0,
    conditions: int = 65,
    trials: int = 5,
    bins: int = 100,
    units: int = 30,
    bin_width_s: float = 0.01,
    speed: float = 1.0,
) -> Recording:
    """Simulate ``trials`` trials of each condition, in random order and without a pause between them.

    Truth: ``latents`` (x, y, z, each scaled to zero mean and unit variance) and ``rates`` in Hz. Trials of a condition
    share their latents and differ in their spikes. Log rates are affine in the latents, with means of about 5 to 30 Hz.

    Parameters
    ----------
    seed : of every draw.
    conditions, trials : starting points, and trials of each.
    bins, bin_width_s : length of a trial.
    units : number of units.
    speed : at 1, about two turns of the attractor pass in 100 bins.
    """
    random = np.random.default_rng(seed)
    state = random.normal(size=(conditions, 3)) * 5 + [0, 0, 25]
    state = integrate(state, 2 * STEP, 2000)[-1]  # by then they have reached the attractor and spread over it
    inner = max(1, round(SPAN * speed / 100 / STEP))
    path = integrate(state, SPAN * speed / 100 / inner, inner * (bins - 1))[::inner].swapaxes(0, 1)
    path = (path - path.mean((0, 1))) / path.std((0, 1))
    condition = random.permutation(np.repeat(np.arange(conditions), trials))
    latents = path[condition].reshape(-1, 3)
    drive = latents @ random.normal(0.0, 0.5, (3, units))
    mean_hz = np.exp(random.uniform(np.log(5.0), np.log(30.0), units))
    rates_hz = mean_hz * np.exp(drive) / np.exp(drive).mean(axis=0)
    start_s = bins * bin_width_s * np.arange(len(condition))
    stop_s = float(bins * bin_width_s * len(condition))

    def on_bins(values: Float[np.ndarray, "bin channel"], unit: str, description: str) -> Signal:
        return Signal(
            values.astype(np.float32),
            start_s=bin_width_s / 2,
            rate_hz=1 / bin_width_s,
            unit=unit,
            description=description,
        )

    return Recording.from_spike_times(
        "lorenz",
        spikes_in_bins(random.poisson(rates_hz * bin_width_s), bin_width_s, random),
        stop_s=stop_s,
        trials=pd.DataFrame({"start_s": start_s, "stop_s": start_s + bins * bin_width_s, "condition": condition}),
        truth={
            "latents": on_bins(latents, "a.u.", "x, y, z"),
            "rates": on_bins(rates_hz, "Hz", "Rate of each unit."),
        },
        observed=np.array([[0.0, stop_s]]),
    )


def integrate(
    start: Float[np.ndarray, "start 3"], step: float, steps: int
) -> Float[np.ndarray, "steps_and_start start 3"]:
    """Return the states at the start and after each step of the system's own time (Runge-Kutta of fourth order)."""
    path = np.empty((steps + 1, *start.shape))
    path[0] = start
    for i in range(steps):
        slope = total = np.zeros_like(start)
        for reach, weight in ((0.0, 1), (0.5, 2), (0.5, 2), (1.0, 1)):
            x, y, z = (path[i] + reach * step * slope).T
            slope = np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], axis=1)
            total = total + weight * slope
        path[i + 1] = path[i] + step / 6 * total
    return path
