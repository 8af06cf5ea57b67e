"""A chain of regions, each driving the next after a known delay: A -> B, and with three regions B -> C.

Every region has smooth latents of its own, and every region but the first has further ones that receive: what the
region before it sent, a few bins earlier, and noise that is new in each bin. A region sends a few directions of all its
latents, those that receive included, and keeps the others to itself (a communication subspace, Semedo et al. 2019,
doi:10.1016/j.neuron.2019.01.026). As what is received does not linger, activity follows the source by the delay itself.

The chain is chosen because it tells methods apart. A and C share activity, 100 ms apart, although neither drives the
other: who compares two regions at a time finds A -> C, who accounts for B need not. That the direct edges can be told
rests on B being seen well. Granger causality of the true system (one bin ahead, given the past of all regions; nats a
bin; two seeds): A -> B .49 to .53 and B -> C .46 to .47 in the Gaussian chain, .28 to .33 and .26 to .28 in the Poisson
one; A -> C .0014 to .0019 and .004 to .006, because B is seen through noise, so that A's past says a little more of
what B sent; every other pair .002 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from lvmzoo.batch import Observation
from lvmzoo.data.recording import Recording, Signal, unit_table
from lvmzoo.errors import UserError, unknown
from lvmzoo.simulate.spikes import smooth_noise, spikes_in_bins

__all__ = ["regions"]

MESSAGE = 0.6  # of the standard deviation of what is received: its square is the share of the variance
DECAYS = (0.9, 0.7)  # of the fastest and slowest latents in a bin
KEPT, OWN = 1, 2  # latents of the first region beside those that it could send; own latents of the others
PAUSE_BINS = 10  # between trials
SIGNAL = 1.0  # variance of the latents' part in a Gaussian unit, whose noise has variance 1
DRIVE = 0.8  # standard deviation of log rates
COURSE, COURSE_BINS = 0.7, 5.0  # standard deviation and timescale of a condition's mean course


def regions(
    seed: int = 0,
    regions: int = 2,
    trials: int = 120,
    trial_s: float = 0.8,
    units: int = 30,
    dimensions: int = 2,
    delays_s: Sequence[float] = (0.04, 0.06),
    observation: str = "poisson",
    ragged: bool = True,
    conditions: int = 0,
    drift: float = 0.0,
    bin_width_s: float = 0.02,
    mean_hz: float = 20.0,
) -> Recording:
    """Simulate regions "A", "B", ..., each of which drives the next one.

    Counts are Poisson with log rates affine in the latents; the Gaussian signal is affine in them with noise of unit
    variance. Truth: ``latents`` (of unit variance, named in their description), ``rates`` in Hz (counts) or expected
    activity (Gaussian), and ``connections``. Trials are 0.2 s apart; the latents go on between them.

    Parameters
    ----------
    seed : of every draw.
    regions : 2 to 26.
    trials, trial_s : number of trials, and their length; with ``ragged`` one of five from three to five quarters of it.
    units : in each region.
    dimensions : of what a region sends to the next.
    delays_s : from each region to the next, over and over where there are more; whole bins, at least one.
    observation : "poisson" or "gaussian".
    ragged : trials differ in their length.
    conditions : number of conditions, each with a mean course in every region, by which regions that do not communicate
        vary together; 0: none.
    drift : standard deviation of a slow change over the session, independent in each region.
    bin_width_s : one step of the latents.
    mean_hz : mean rate of the units.

    Raises
    ------
    UserError : for another observation, a delay that is not of whole bins, or fewer than two regions.
    """
    if observation not in ("poisson", "gaussian"):
        raise unknown("observation", observation, ("poisson", "gaussian"))
    if not 2 <= regions <= len(ascii_uppercase):
        raise UserError(f"{regions} regions were asked for.", "A chain has 2 to 26.", "Write regions=3.")
    names = tuple(ascii_uppercase[:regions])
    lags = _lags(delays_s, bin_width_s, regions - 1)
    random = np.random.default_rng(seed)
    start, length = _trials(trials, round(trial_s / bin_width_s), ragged, random)
    bins = int(start[-1] + length[-1]) + PAUSE_BINS
    latents, labels, owner = _chain(names, lags, dimensions, bins, random)
    condition = random.permutation(np.arange(trials) % max(conditions, 1))
    nuisance = _courses(names, condition, conditions, start, length, bins, random) if conditions else None
    drives = []
    for name in names:
        own = latents[:, owner == name]
        drive = own @ (random.normal(size=(own.shape[1], units)) / np.sqrt(own.shape[1]))
        if nuisance is not None:
            drive += nuisance[name] @ random.normal(size=(nuisance[name].shape[1], units))
        if drift:
            drive += drift * smooth_noise(bins, 1, bins / 10, random) @ random.normal(size=(1, units))
        drives.append(drive)
    drive = np.hstack(drives)
    table = pd.DataFrame({"start_s": start * bin_width_s, "stop_s": (start + length) * bin_width_s})
    if conditions:
        table["condition"] = condition
    session = f"{regions}_regions_{observation}"
    of_units = [name for name in names for _ in range(units)]
    connections = pd.DataFrame(
        {
            "source": names[:-1],
            "target": names[1:],
            "delay_s": [lag * bin_width_s for lag in lags],
            "dimensions": dimensions,
        }
    )

    def on_bins(values: Float[np.ndarray, "bin channel"], unit: str, description: str) -> Signal:
        return Signal(
            values.astype(np.float32),
            start_s=bin_width_s / 2,
            rate_hz=1 / bin_width_s,
            unit=unit,
            description=description,
        )

    truth = {"latents": on_bins(latents, "a.u.", ", ".join(labels))}
    if observation == "gaussian":
        expected = np.sqrt(SIGNAL) * drive
        return Recording(
            session=session,
            activity=on_bins(expected + random.normal(size=expected.shape), "a.u.", "Noisy readout of the latents."),
            observation=Observation.CONTINUOUS,
            units=unit_table(regions * units, of_units),
            start_s=0.0,
            stop_s=bins * bin_width_s,
            trials=table,
            truth=truth | {"rates": on_bins(expected, "a.u.", "Expected activity of each unit.")},
            connections=connections,
        )
    drive *= DRIVE
    rates_hz = mean_hz * np.exp(drive - 0.5 * drive.var(axis=0))
    return Recording.from_spike_times(
        session,
        spikes_in_bins(random.poisson(rates_hz * bin_width_s), bin_width_s, random),
        regions=of_units,
        stop_s=bins * bin_width_s,
        trials=table,
        truth=truth | {"rates": on_bins(rates_hz, "Hz", "Rate of each unit.")},
        observed=np.array([[0.0, bins * bin_width_s]]),
        connections=connections,
    )


def _lags(delays_s: Sequence[float], bin_width_s: float, edges: int) -> list[int]:
    """Return the delay of each edge in bins."""
    lags = [round(delay / bin_width_s) for delay in delays_s]
    if not lags or any(lag < 1 or abs(lag * bin_width_s - d) > 1e-9 for lag, d in zip(lags, delays_s, strict=True)):
        raise UserError(
            f"delays_s is {list(delays_s)}.",
            f"Delays are whole bins of {bin_width_s:g} s, at least one.",
            f"Write delays_s=[{2 * bin_width_s:g},{3 * bin_width_s:g}].",
        )
    return [lags[edge % len(lags)] for edge in range(edges)]


def _trials(
    trials: int, bins: int, ragged: bool, random: np.random.Generator
) -> tuple[Int[np.ndarray, " trial"], Int[np.ndarray, " trial"]]:
    """Return the first bin of each trial, and its number of bins."""
    length = bins + (bins // 8) * (random.integers(-2, 3, trials) if ragged else np.zeros(trials, dtype=np.int64))
    return np.cumsum(np.r_[PAUSE_BINS, length[:-1] + PAUSE_BINS]), length


def _chain(
    names: Sequence[str], lags: Sequence[int], dimensions: int, bins: int, random: np.random.Generator
) -> tuple[Float[np.ndarray, "bin latent"], list[str], np.ndarray]:
    """Return the latents of all regions, a name for each, and the region of each."""
    before = sum(lags)  # so that messages are on their way when the recording begins
    parts: list[np.ndarray] = []
    labels: list[str] = []
    owner: list[str] = []
    for place, name in enumerate(names):
        decay = np.linspace(*DECAYS, dimensions + KEPT if place == 0 else OWN)
        own = _autoregressive(decay, bins + before, random)
        labels += [f"{name}_own_{i + 1}" for i in range(own.shape[1])]
        owner += [name] * own.shape[1]
        if place:
            source, lag = parts[-1], lags[place - 1]
            directions = np.linalg.qr(random.normal(size=(source.shape[1], source.shape[1])))[0][:, :dimensions]
            received = np.sqrt(1 - MESSAGE**2) * random.normal(size=(bins + before, dimensions))
            received[lag:] += MESSAGE * (source @ directions)[: len(source) - lag]
            labels += [f"{name}_from_{names[place - 1]}_{i + 1}" for i in range(dimensions)]
            owner += [name] * dimensions
            own = np.hstack([own, received])
        parts.append(own)
    return np.hstack(parts)[before:], labels, np.array(owner)


def _autoregressive(
    decay: Float[np.ndarray, " latent"], bins: int, random: np.random.Generator
) -> Float[np.ndarray, "bin latent"]:
    """Return x[t] = decay x[t-1] + w from the stationary distribution, of unit variance."""
    x = random.normal(size=(bins, len(decay)))
    for t in range(1, bins):
        x[t] = decay * x[t - 1] + np.sqrt(1 - decay**2) * x[t]
    return x


def _courses(
    names: Sequence[str],
    condition: Int[np.ndarray, " trial"],
    conditions: int,
    start: Int[np.ndarray, " trial"],
    length: Int[np.ndarray, " trial"],
    bins: int,
    random: np.random.Generator,
) -> dict[str, Float[np.ndarray, "bin course"]]:
    """Return for each region two courses that trials of a condition share; zero between trials."""
    longest = int(length.max())
    found = {}
    for name in names:
        course = COURSE * smooth_noise(conditions * longest, 2, COURSE_BINS, random).reshape(conditions, longest, 2)
        found[name] = np.zeros((bins, 2))
        for trial, first in enumerate(start):
            found[name][first : first + length[trial]] = course[condition[trial], : length[trial]]
    return found
