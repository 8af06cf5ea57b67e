"""Planted regions: independent ones that only seem to communicate, and ones that do, with a known delay.

Every draw depends on the seed alone. Regions are named "A", "B", "C"; bins are 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lvmzoo.batch import Batch, Layout, Observation

KINDS = ("autocorrelated", "conditions", "drift")
BIN_S = 0.02
CONDITIONS = 4


def independent(
    kind: str,
    seed: int,
    trials: int = 80,
    bins: int = 20,
    units: Sequence[int] = (5, 5),
    latents: int = 2,
    counts: bool = False,
    ragged: bool = False,
) -> Batch:
    """Return regions that do not communicate: each has latents, a loading and noise of its own.

    Parameters
    ----------
    kind : "autocorrelated": the latents of a region are slow, and that is all. "conditions": beside them, all regions
        follow the same mean course in each of four conditions. "drift": beside them, each region drifts slowly over
        the session, by itself.
    trials, bins, units : sizes; one region for each number of ``units``. One trial is one continuous session.
    latents : of each region.
    counts : spikes instead of continuous activity.
    ragged : trials of different lengths, down to three quarters of ``bins``.
    """
    random = np.random.default_rng([KINDS.index(kind), seed])
    condition = random.integers(0, CONDITIONS, trials)
    course = autoregressive(random, CONDITIONS, bins, latents)[condition]
    parts = []
    for _ in units:
        own = autoregressive(random, trials, bins, latents)
        if kind == "conditions":
            own = own + 1.5 * course
        if kind == "drift":
            own = own + 1.5 * slow(random, trials, bins, latents)
        parts.append(own)
    return observe(random, parts, units, condition if kind == "conditions" else None, counts, ragged)


def coupled(
    seed: int,
    lag: int = 4,
    trials: int = 80,
    bins: int = 20,
    units: Sequence[int] = (5, 5),
    shared: int = 2,
    own: int = 1,
    rho: float = 0.8,
    counts: bool = False,
    ragged: bool = False,
    conditions: bool = False,
) -> Batch:
    """Return regions of which "B" sees the latents of "A" ``lag`` bins later; any third one is independent of them.

    Parameters
    ----------
    lag : in bins; below zero "A" follows "B".
    trials, bins, units, counts, ragged : as in ``independent``.
    shared, own : latents that "A" and "B" share, and latents of each region alone.
    rho : autocorrelation of all latents from bin to bin.
    conditions : every region also follows the same mean course in each condition.
    """
    random = np.random.default_rng([99, seed])
    condition = random.integers(0, CONDITIONS, trials)
    course = autoregressive(random, CONDITIONS, bins, shared)[condition] * conditions
    long = autoregressive(random, trials, bins + abs(lag), shared, rho)
    # What B sees in bin t was in A in bin t - lag.
    first, second = long[:, max(0, lag) :][:, :bins], long[:, max(0, -lag) :][:, :bins]
    parts = []
    for region in range(len(units)):
        seen = (first, second)[region] if region < 2 else autoregressive(random, trials, bins, shared, rho)
        parts.append(np.concatenate([seen + course, autoregressive(random, trials, bins, own, rho)], 2))
    return observe(random, parts, units, condition if conditions else None, counts, ragged)


def autoregressive(random: np.random.Generator, trials: int, bins: int, latents: int, rho: float = 0.9) -> np.ndarray:
    """Return stationary latents of unit variance (trial, bin, latent), each trial drawn anew."""
    found = random.normal(size=(trials, bins, latents))
    for t in range(1, bins):
        found[:, t] = rho * found[:, t - 1] + (1 - rho**2) ** 0.5 * found[:, t]
    return found


def slow(random: np.random.Generator, trials: int, bins: int, latents: int) -> np.ndarray:
    """Return drift of unit variance over the session (trial, bin, latent), with a timescale of a quarter of it."""
    place = (np.arange(trials * bins) + 0.5) / (trials * bins)
    frequency = random.normal(0, 1 / 0.25, (latents, 30))
    phase = random.uniform(0, 2 * np.pi, (latents, 30))
    waves = np.cos(place[:, None, None] * frequency + phase).sum(2) * (2 / 30) ** 0.5
    return waves.reshape(trials, bins, latents)


def observe(
    random: np.random.Generator,
    parts: Sequence[np.ndarray],
    units: Sequence[int],
    condition: np.ndarray | None,
    counts: bool,
    ragged: bool,
) -> Batch:
    """Return a batch in which each region reads its latents out with random loadings, private noise or spikes."""
    trials, bins, _ = parts[0].shape
    drives = [
        part @ random.normal(0, part.shape[2] ** -0.5, (part.shape[2], n)) for part, n in zip(parts, units, strict=True)
    ]
    drive = np.concatenate(drives, 2)
    activity = random.poisson(np.exp(0.7 * drive)) if counts else drive + random.normal(0, 0.7, drive.shape)
    lengths = random.integers(3 * bins // 4, bins + 1, trials) if ragged else np.full(trials, bins)
    lengths[0] = bins
    valid = torch.from_numpy(np.arange(bins) < lengths[:, None])
    layout = Layout(
        session="planted",
        units=dict(zip("ABCDEFGH"[: len(units)], units, strict=True)),
        unit_ids=tuple(map(str, range(sum(units)))),
        observation=Observation.COUNTS if counts else Observation.CONTINUOUS,
        bin_width_s=BIN_S,
        conditions=() if condition is None else tuple(map(str, range(CONDITIONS))),
        longest_bins=bins,
    )
    return Batch(
        activity=torch.from_numpy(np.where(valid.numpy()[..., None], activity, 0)),
        valid=valid,
        observed=valid[..., None].expand(trials, bins, sum(units)),
        behavior={},
        inputs={},
        trial_index=torch.arange(trials),
        start_bin=torch.zeros(trials, dtype=torch.int64),
        layout=layout,
        condition=None if condition is None else torch.from_numpy(condition),
    )
