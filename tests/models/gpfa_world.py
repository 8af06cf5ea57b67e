"""Data of Gaussian processes, and the model fitted without a trainer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.inference.gaussian_process import Sums
from lvmzoo.models.single_region.gpfa import GPFA, GPFAConfig


def layout(units: int, session: str = "a", observation: Observation = Observation.CONTINUOUS) -> Layout:
    ids = tuple(f"{session}{unit}" for unit in range(units))
    return Layout(session, {"region": units}, ids, observation, 0.02)


def batch(activity: Tensor | Sequence[np.ndarray], session: str = "a", counts: bool = False) -> Batch:
    """Return trials; bins beyond a trial's length hold garbage."""
    trials = [torch.as_tensor(trial) for trial in activity]
    bins, units = max(map(len, trials)), trials[0].shape[1]
    values = torch.full((len(trials), bins, units), 0 if counts else torch.nan, dtype=trials[0].dtype)
    valid = torch.zeros(len(trials), bins, dtype=torch.bool)
    for row, trial in enumerate(trials):
        values[row, : len(trial)], valid[row, : len(trial)] = trial, True
    index = torch.arange(len(trials))
    kind = Observation.COUNTS if counts else Observation.CONTINUOUS
    observed = valid[..., None].expand(values.shape)
    return Batch(values, valid, observed, {}, {}, index, torch.zeros_like(index), layout(units, session, kind))


def rows(whole: Batch, selected: slice) -> Batch:
    return whole.map(lambda tensor: tensor[selected])


def total(model: GPFA, batches: Sequence[Batch]) -> Sums:
    return Sums(*(sum(leaves) for leaves in zip(*(model.statistics(part) for part in batches), strict=True)))


def fit(model: GPFA, batches: Sequence[Batch], passes: int) -> list[float]:
    return [float(model.update(total(model, batches))) for _ in range(passes)]


def build(data: Batch, latents: int, **config: str) -> GPFA:
    model = GPFA(GPFAConfig(latents=latents, **config), [data.layout])
    model.prepare([data])
    return model


def simulate(
    timescales: Sequence[float], trials: int, bins: int, units: int, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return parameters, latents and activity."""
    draw, t = np.random.default_rng(seed), np.arange(bins)
    latents = np.zeros((trials, bins, len(timescales)))
    for i, tau in enumerate(timescales):
        kernel = 0.999 * np.exp(-0.5 * ((t[:, None] - t) / tau) ** 2) + 1e-3 * np.eye(bins)
        latents[..., i] = draw.normal(size=(trials, bins)) @ np.linalg.cholesky(kernel).T
    readout = 0.5 * draw.normal(size=(units, len(timescales)))
    offset, noise = draw.normal(size=units), draw.uniform(0.5, 1.5, units)
    activity = latents @ readout.T + offset + draw.normal(size=(trials, bins, units)) * np.sqrt(noise)
    return {"readout": readout, "offset": offset, "noise": noise}, latents, activity


def put(model: GPFA, values: dict[str, np.ndarray], timescales: Sequence[float] | np.ndarray) -> GPFA:
    for name in ("readout", "offset", "noise"):
        getattr(model, name).copy_(torch.from_numpy(values[name]))
    model.timescales.copy_(torch.tensor(timescales, dtype=torch.float64))
    return model
