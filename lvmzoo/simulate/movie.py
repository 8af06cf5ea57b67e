"""Visual cortex that watches a short movie several times: calcium-like traces, or spikes of other units.

The recordings in which a frame of a movie was first decoded by a contrastive model (Schneider, Lee & Mathis 2023,
doi:10.1038/s41586-023-06031-6; de Vries et al. 2020, doi:10.1038/s41593-019-0550-9) in outline. Every unit has its own
direction in the features of the movie, which repeat exactly, and responds above a threshold. What the animal does
besides does not repeat: it drives units as strongly, along directions of its own, and scales their responses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from lvmzoo.batch import Observation
from lvmzoo.data.recording import Recording, Signal, unit_table
from lvmzoo.errors import UserError, unknown
from lvmzoo.simulate.spikes import poisson_spikes, smooth_noise

__all__ = ["FRAME_HZ", "MODALITIES", "calcium", "movie"]

MODALITIES = ("spikes", "calcium")
FRAME_HZ = 30.0
FEATURES = 16
FEATURE_S = (0.15, 1.5)  # timescales of the features, from the fastest to the slowest
STATES, STATE_S = 6, 1.5  # what the animal does besides
STATE_DRIVE, GAIN = 0.9, 0.35  # against the features, of unit variance; of the logarithm of the gain
THRESHOLD = 1.0  # standard deviations of the drive: a unit is silent most of the time
MEAN_HZ = {"spikes": 4.0, "calcium": 1.5}
DECAY_S, RISE_S = 0.6, 0.06  # of the fluorescence after a spike
NOISE = 0.8  # of the fluorescence, against the transient of one spike


def movie(
    seed: int = 0, units: int = 300, repeats: int = 10, movie_s: float = 30.0, modality: str = "spikes"
) -> Recording | list[Recording]:
    """Simulate one or two sessions of the same movie; each repeat is a trial.

    Behavior: ``movie_s``, the time in the movie in seconds, one sample a frame (30 a second). Truth: ``latents``, the
    features of the movie and after them what else the animal does, and ``rates`` in Hz (spikes) or expected
    fluorescence. The first units are the same however many there are.

    Parameters
    ----------
    seed : of every draw; the movie is the same in both modalities, the units and the state of the animal are not.
    units, repeats : number of units, and of times that the movie is shown without a pause.
    movie_s : length of the movie in seconds.
    modality : "spikes", "calcium" (fluorescence at the frame rate), or "both": two sessions, calcium first.

    Raises
    ------
    UserError : for another modality, or a movie shorter than a second.
    """
    if modality == "both":
        return [_session(seed, units, repeats, movie_s, one) for one in ("calcium", "spikes")]
    if modality not in MODALITIES:
        raise unknown("modality", modality, (*MODALITIES, "both"))
    return _session(seed, units, repeats, movie_s, modality)


def calcium(
    counts: Float[np.ndarray, "frame unit"], noise: float = 0.0, random: np.random.Generator | None = None
) -> Float[np.ndarray, "frame unit"]:
    """Return fluorescence at the frame rate: each spike a transient of height one, and white noise."""
    from scipy.signal import lfilter

    step = 1 / FRAME_HZ
    slow, fast = np.exp(-step / DECAY_S), np.exp(-step / RISE_S)
    times = np.arange(200) * step
    peak = (np.exp(-times / DECAY_S) - np.exp(-times / RISE_S)).max()
    trace = (lfilter([1], [1, -slow], counts, axis=0) - lfilter([1], [1, -fast], counts, axis=0)) / peak
    return trace if random is None else trace + noise * random.normal(size=trace.shape)


@dataclass(frozen=True)
class _World:
    """What units respond to, frame by frame over all repeats."""

    features: Float[np.ndarray, "frame feature"]
    states: Float[np.ndarray, "frame state"]


def _session(seed: int, units: int, repeats: int, movie_s: float, modality: str) -> Recording:
    frames = round(movie_s * FRAME_HZ)
    if frames < FRAME_HZ or repeats < 1 or units < 1:
        raise UserError(
            f"A movie of {movie_s:g} s, shown {repeats} times to {units} units, cannot be simulated.",
            "It is a second long at least, and shown once or more to one unit or more.",
            "Try data.simulator_options={movie_s:30,repeats:10,units:300}.",
        )
    place = MODALITIES.index(modality)
    world = _world(seed, place, frames, repeats)
    rates_hz = np.stack([_rate(world, modality, np.random.default_rng([seed, 2 + place, i])) for i in range(units)], 1)
    random = np.random.default_rng([seed, 4 + place])
    start_s = np.arange(repeats) * frames / FRAME_HZ
    stop_s = repeats * frames / FRAME_HZ
    names = [f"feature_{i + 1}" for i in range(FEATURES)] + [f"state_{i + 1}" for i in range(STATES)]
    behavior = {"movie_s": _per_frame(np.tile(np.arange(frames) / FRAME_HZ, repeats), "s", "time in the movie")}
    truth = {"latents": _per_frame(np.hstack([world.features, world.states]), "a.u.", ", ".join(names))}
    trials = pd.DataFrame({"start_s": start_s, "stop_s": start_s + frames / FRAME_HZ, "repeat": np.arange(repeats)})
    if modality == "calcium":
        counts = random.poisson(rates_hz / FRAME_HZ).astype(float)
        return Recording(
            session="movie_calcium",
            activity=_per_frame(calcium(counts, NOISE, random), "a.u.", "Fluorescence of each unit."),
            observation=Observation.CONTINUOUS,
            units=unit_table(units, ["VISp"] * units),
            start_s=0.0,
            stop_s=stop_s,
            trials=trials,
            behavior=behavior,
            truth=truth | {"rates": _per_frame(calcium(rates_hz / FRAME_HZ), "a.u.", "Expected fluorescence.")},
        )
    rates = _per_frame(rates_hz, "Hz", "Rate of the Poisson process of each unit, in the order of the units.")
    return Recording.from_spike_times(
        "movie_spikes",
        poisson_spikes(rates_hz, 1 / FRAME_HZ, random),
        regions=["VISp"] * units,
        stop_s=stop_s,
        trials=trials,
        behavior=behavior,
        truth=truth | {"rates": rates},
        observed=np.array([[0.0, stop_s]]),
    )


def _world(seed: int, place: int, frames: int, repeats: int) -> _World:
    shared, own = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, place])
    timescales = np.geomspace(*FEATURE_S, FEATURES) * FRAME_HZ
    shown = np.hstack([smooth_noise(frames, 1, timescale, shared) for timescale in timescales])
    return _World(np.tile(shown, (repeats, 1)), smooth_noise(frames * repeats, STATES, STATE_S * FRAME_HZ, own))


def _rate(world: _World, modality: str, random: np.random.Generator) -> Float[np.ndarray, " frame"]:
    """Return the rate of one unit in Hz."""
    tuning, other = random.normal(size=FEATURES), random.normal(size=STATES)
    drive = world.features @ (tuning / np.linalg.norm(tuning))
    drive = drive + STATE_DRIVE * world.states @ (other / np.linalg.norm(other))
    gain = np.exp(GAIN * world.states @ random.normal(0, STATES**-0.5, STATES))
    response = np.logaddexp(0.0, 4.0 * (drive - THRESHOLD)) * gain
    return MEAN_HZ[modality] * random.uniform(0.5, 1.5) * response / response.mean()


def _per_frame(values: np.ndarray, unit: str, description: str) -> Signal:
    return Signal(
        values.astype(np.float32), start_s=0.5 / FRAME_HZ, rate_hz=FRAME_HZ, unit=unit, description=description
    )
