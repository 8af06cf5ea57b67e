"""A linear dynamical system: latents that turn and decay, seen through Gaussian signals or spike counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from lvmzoo.batch import Observation
from lvmzoo.data.recording import Recording, Signal, unit_table
from lvmzoo.errors import unknown
from lvmzoo.simulate.modes import modes_of
from lvmzoo.simulate.spikes import spikes_in_bins

__all__ = ["dynamics_matrix", "lds"]


def lds(
    seed: int = 0,
    trials: int = 100,
    bins: int = 100,
    units: int = 50,
    latents: int = 4,
    bin_width_s: float = 0.02,
    observation: str = "counts",
    mean_hz: float = 10.0,
) -> Recording:
    """Simulate trials of x[t+1] = A x[t] + w, each begun from the stationary distribution, of unit variance.

    Counts are Poisson with log rates affine in x, at spike times uniform within their bins; the Gaussian signal is
    affine in x with noise of unit variance. Trials follow each other without a pause. Truth: ``latents``, ``rates`` in
    Hz (counts) or expected activity (Gaussian), and ``modes``.

    Parameters
    ----------
    seed : of every draw.
    trials, bins : number of trials, and their length.
    units, latents : sizes.
    bin_width_s : one step of the system.
    observation : "counts" or "gaussian".
    mean_hz : mean rate of the units.

    Raises
    ------
    UserError : for another observation.
    """
    if observation not in ("counts", "gaussian"):
        raise unknown("observation", observation, ("counts", "gaussian"))
    random = np.random.default_rng(seed)
    dynamics = dynamics_matrix(latents, random)
    noise = np.linalg.cholesky(np.eye(latents) - dynamics @ dynamics.T)
    x = np.empty((trials, bins, latents))
    x[:, 0] = random.normal(size=(trials, latents))
    for t in range(1, bins):
        x[:, t] = x[:, t - 1] @ dynamics.T + random.normal(size=(trials, latents)) @ noise.T
    flat = x.reshape(-1, latents)
    readout = random.normal(size=(latents, units)) / np.sqrt(latents)
    start_s = bin_width_s * bins * np.arange(trials)
    table = pd.DataFrame({"start_s": start_s, "stop_s": start_s + bin_width_s * bins})
    stop_s = float(table["stop_s"].iloc[-1])

    def on_bins(values: Float[np.ndarray, "bin channel"], unit: str, description: str) -> Signal:
        return Signal(
            values.astype(np.float32),
            start_s=bin_width_s / 2,
            rate_hz=1 / bin_width_s,
            unit=unit,
            description=description,
        )

    truth = {"latents": on_bins(flat, "a.u.", ", ".join(f"state_{i + 1}" for i in range(latents)))}
    if observation == "gaussian":
        expected = flat @ readout
        activity = on_bins(
            expected + random.normal(size=expected.shape), "a.u.", "Noisy affine readout of the latents."
        )
        return Recording(
            session="lds",
            activity=activity,
            observation=Observation.CONTINUOUS,
            units=unit_table(units),
            start_s=0.0,
            stop_s=stop_s,
            trials=table,
            truth=truth | {"rates": on_bins(expected, "a.u.", "Expected activity of each unit.")},
            modes=modes_of(dynamics, bin_width_s),
        )
    drive = 0.6 * flat @ readout
    rates_hz = mean_hz * np.exp(drive - 0.5 * drive.var(axis=0))
    return Recording.from_spike_times(
        "lds",
        spikes_in_bins(random.poisson(rates_hz * bin_width_s), bin_width_s, random),
        stop_s=stop_s,
        trials=table,
        truth=truth | {"rates": on_bins(rates_hz, "Hz", "Rate of each unit.")},
        observed=np.array([[0.0, stop_s]]),
        modes=modes_of(dynamics, bin_width_s),
    )


def dynamics_matrix(latents: int, random: np.random.Generator) -> Float[np.ndarray, "latent latent"]:
    """Return normal dynamics: planes that turn and decay, with eigenvalues of modulus .93 to .99.

    With an odd number of latents the last one decays alone.
    """
    dynamics = np.zeros((latents, latents))
    decay = np.linspace(0.99, 0.93, -(-latents // 2))
    for plane, modulus in enumerate(decay):
        i = 2 * plane
        if i + 1 < latents:
            angle = 2 * np.pi * random.uniform(0.01, 0.05)
            turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            dynamics[i : i + 2, i : i + 2] = modulus * np.array(turn)
        else:
            dynamics[i, i] = modulus
    return dynamics
