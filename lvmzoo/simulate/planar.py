"""Two nonlinear systems in the plane, each trial from another start, seen through Poisson spikes.

A spiral whose turns slow down as it closes in (Chen, Rubanova, Bettencourt, Duvenaud 2018,
doi:10.48550/arXiv.1806.07366): dx/dt = -0.1 x^3 + 2 y^3, dy/dt = -2 x^3 - 0.1 y^3; and the van der Pol oscillator,
whose cycle every start joins: dx/dt = y, dy/dt = (1 - x^2) y - x.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float

from lvmzoo.data.recording import Recording, Signal
from lvmzoo.simulate.spikes import spikes_in_bins

__all__ = ["SPIRAL_SPAN", "VAN_DER_POL_SPAN", "spiral", "spiral_field", "van_der_pol", "van_der_pol_field"]

SPIRAL_SPAN, VAN_DER_POL_SPAN = 4.0, 10.0  # the systems' own time in 100 bins
_INNER = 10  # Runge-Kutta steps in a bin

Field = Callable[[np.ndarray], np.ndarray]


def spiral_field(state: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points 2"]:
    """Return the velocity of the spiral, per unit of its own time."""
    return state**3 @ np.array([[-0.1, 2.0], [-2.0, -0.1]]).T


def van_der_pol_field(state: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points 2"]:
    """Return the velocity of the van der Pol oscillator, per unit of its own time."""
    x, y = state[..., 0], state[..., 1]
    return np.stack([y, (1 - x**2) * y - x], -1)


def spiral(seed: int = 0, trials: int = 200, bins: int = 100, units: int = 40, bin_width_s: float = 0.02) -> Recording:
    """Simulate trials that begin 1 to 2 from the center, in any direction, and spiral inward.

    Truth: ``latents`` (x, y in the system's own units) and ``rates`` in Hz; in 100 bins, 4 units of its time pass.
    Trials follow each other without a pause. Log rates are affine in the latents, with means of about 5 to 30 Hz.

    Parameters
    ----------
    seed : of every draw.
    trials, bins, bin_width_s : number of trials, and their length.
    units : number of units.
    """
    random = np.random.default_rng(seed)
    angle, radius = random.uniform(0, 2 * np.pi, trials), random.uniform(1.0, 2.0, trials)
    start = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return _recording("spiral", spiral_field, start, SPIRAL_SPAN / 100, random, bins, units, bin_width_s)


def van_der_pol(
    seed: int = 0, trials: int = 200, bins: int = 100, units: int = 40, bin_width_s: float = 0.02
) -> Recording:
    """Simulate trials that begin anywhere within 2.5 of the origin, in both coordinates, and join the limit cycle.

    Truth: ``latents`` (x, y in the system's own units) and ``rates`` in Hz; in 100 bins, 10 units of its time pass, one
    and a half turns. Trials follow each other without a pause. Log rates are affine in the latents, with means of about
    5 to 30 Hz.

    Parameters
    ----------
    seed : of every draw.
    trials, bins, bin_width_s : number of trials, and their length.
    units : number of units.
    """
    random = np.random.default_rng(seed)
    start = random.uniform(-2.5, 2.5, (trials, 2))
    return _recording("van_der_pol", van_der_pol_field, start, VAN_DER_POL_SPAN / 100, random, bins, units, bin_width_s)


def _recording(
    name: str,
    field: Field,
    start: Float[np.ndarray, "trial 2"],
    step: float,
    random: np.random.Generator,
    bins: int,
    units: int,
    bin_width_s: float,
) -> Recording:
    latents = _integrate(field, start, step, bins).reshape(-1, 2)
    center, scale = latents.mean(0), latents.std(0)
    drive = (latents - center) / scale @ random.normal(0.0, 0.6, (2, units))
    mean_hz = np.exp(random.uniform(np.log(5.0), np.log(30.0), units))
    rates_hz = mean_hz * np.exp(drive) / np.exp(drive).mean(axis=0)
    start_s = bins * bin_width_s * np.arange(len(start))
    stop_s = float(bins * bin_width_s * len(start))

    def on_bins(values: Float[np.ndarray, "bin channel"], unit: str, description: str) -> Signal:
        return Signal(
            values.astype(np.float32),
            start_s=bin_width_s / 2,
            rate_hz=1 / bin_width_s,
            unit=unit,
            description=description,
        )

    return Recording.from_spike_times(
        name,
        spikes_in_bins(random.poisson(rates_hz * bin_width_s), bin_width_s, random),
        stop_s=stop_s,
        trials=pd.DataFrame({"start_s": start_s, "stop_s": start_s + bins * bin_width_s}),
        truth={
            "latents": on_bins(latents, "a.u.", "x, y"),
            "rates": on_bins(rates_hz, "Hz", "Rate of each unit."),
        },
        observed=np.array([[0.0, stop_s]]),
    )


def _integrate(
    field: Field, start: Float[np.ndarray, "trial 2"], step: float, bins: int
) -> Float[np.ndarray, "trial bin 2"]:
    """Return the states at the bins, the first of them ``start`` (Runge-Kutta of fourth order within the bins)."""
    path, length = [start], step / _INNER
    for _ in range(bins - 1):
        state = path[-1]
        for _ in range(_INNER):
            a = field(state)
            b = field(state + length / 2 * a)
            c = field(state + length / 2 * b)
            d = field(state + length * c)
            state = state + length / 6 * (a + 2 * b + 2 * c + d)
        path.append(state)
    return np.stack(path, 1)
