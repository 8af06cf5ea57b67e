"""Spike times from rates, and smooth random trajectories: what the simulators share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer

__all__ = ["CLOCK_HZ", "poisson_spikes", "smooth_noise", "spikes_in_bins"]

CLOCK_HZ = 30_000.0  # spike times are multiples of this clock's tick, as those of a recording system


def poisson_spikes(
    rates_hz: Float[np.ndarray, "step unit"], step_s: float, random: np.random.Generator
) -> list[np.ndarray]:
    """Return spike times, in seconds, of inhomogeneous Poisson processes that begin at 0.

    Rates are constant within a step; the times are exact draws (a Poisson number of them, placed by the inverse of the
    cumulative rate), rounded down to the clock's tick.
    """
    edges = step_s * np.arange(len(rates_hz) + 1)
    trains = []
    for unit in range(rates_hz.shape[1]):
        cumulative = np.concatenate([[0.0], np.cumsum(rates_hz[:, unit] * step_s)])
        places = np.sort(random.uniform(0.0, cumulative[-1], random.poisson(cumulative[-1])))
        trains.append(np.unique(np.floor(np.interp(places, cumulative, edges) * CLOCK_HZ)) / CLOCK_HZ)
    return trains


def spikes_in_bins(
    counts: Integer[np.ndarray, "bin unit"], bin_width_s: float, random: np.random.Generator
) -> list[np.ndarray]:
    """Return spike times, in seconds from 0, that give these counts when they are binned again; uniform within bins."""
    trains = []
    for unit in range(counts.shape[1]):
        bins = np.repeat(np.arange(len(counts)), counts[:, unit])
        # Kept off the edges, so that rounding cannot move a spike into the next bin.
        trains.append(np.sort((bins + random.uniform(0.001, 0.999, len(bins))) * bin_width_s))
    return trains


def smooth_noise(
    steps: int, channels: int, timescale_steps: float, random: np.random.Generator
) -> Float[np.ndarray, "step channel"]:
    """Return independent stationary Gaussian processes of unit variance.

    White noise convolved with a Gaussian: the autocorrelation is exp(-lag^2 / (2 timescale^2)), that of a Gaussian
    process with squared-exponential covariance.
    """
    width = timescale_steps / np.sqrt(2)
    reach = int(np.ceil(5 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    white = random.normal(size=(steps + 2 * reach, channels))
    return np.stack([np.convolve(white[:, i], kernel, mode="valid") for i in range(channels)], axis=1)
