"""Systems of several regions with planted blocks, and fits of such systems, for tests of influence between regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.inference.emissions import Emissions, emissions_of
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.regional_maximization import maximize_regional
from lvmzoo.inference.regional_structure import Structure, shown_latents
from lvmzoo.inference.riccati import stationary_covariance
from lvmzoo.inference.sampling import draw_trials

Edge = tuple[str, str, int]  # source, target, lag
FEW = torch.linspace(0, 0.5, 5, dtype=torch.float64)  # frequencies


def structure(names: str, latents: int, max_lag: int = 1) -> Structure:
    """Return regions named by letters, each connected with each."""
    every = tuple((a, b) for a in names for b in names if a != b)
    return Structure(tuple(names), latents, every, max_lag)


def planted(
    regions: Structure, units: int, edges: Sequence[Edge], seed: int = 0, size: float = 0.3, noise: float = 1.0
) -> LinearGaussian:
    """Return a system with blocks of rank one where there is an edge, in its stationary state."""
    draw = np.random.default_rng(seed)
    d, n = regions.latents, len(regions.names)
    A, Q, C = regions.shift.numpy().copy(), np.zeros((regions.size,) * 2), np.zeros((n * units, regions.size))
    for k, rows in enumerate(regions.regions.values()):
        A[rows, rows] = 0.8 * np.eye(d)
        if d > 1:
            angle = draw.uniform(0.1, 0.4)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            A[rows.start : rows.start + 2, rows.start : rows.start + 2] = 0.85 * turn
        Q[rows, rows] = 0.2 * np.eye(d)
        C[units * k : units * (k + 1), rows] = draw.normal(size=(units, d))
    for source, target, lag in edges:
        out, into = (v / np.linalg.norm(v) for v in draw.normal(size=(2, d)))
        A[regions.regions[target], regions.place(source, lag)] = size * np.outer(out, into)
    dynamics, process = torch.from_numpy(A), torch.from_numpy(Q)
    return LinearGaussian(
        dynamics,
        process,
        dynamics.new_zeros(regions.size),
        stationary_covariance(dynamics, process),
        torch.from_numpy(C),
        dynamics.new_zeros(n * units),
        torch.full((n * units,), noise, dtype=torch.float64),
    )


def unit_slices(names: str, units: int) -> list[slice]:
    return [slice(units * k, units * (k + 1)) for k in range(len(names))]


def batch_of(activity: Tensor, names: str, lengths: Sequence[int] | None = None) -> Batch:
    """Return trials of regions with equally many units; bins beyond a trial's length hold garbage."""
    trials, bins, units = activity.shape
    valid = torch.ones(trials, bins, dtype=torch.bool)
    for i, length in enumerate(lengths or []):
        valid[i, length:] = False
    layout = Layout(
        "a",
        {name: units // len(names) for name in names},
        tuple(map(str, range(units))),
        Observation.CONTINUOUS,
        0.02,
        longest_bins=bins,
    )
    index = torch.arange(trials)
    observed = valid[..., None].expand(activity.shape)
    activity = torch.where(valid[..., None], activity, torch.nan)
    return Batch(activity, valid, observed, {}, {}, index, torch.zeros_like(index), layout)


def fitted(batch: Batch, regions: Structure, passes: int = 20) -> tuple[LinearGaussian, Emissions]:
    """Return a fit from the principal components of each region."""
    emissions = emissions_of("gaussian", [batch.layout])
    rows = batch.activity[batch.valid].double()
    mean, variance = rows.mean(0), rows.var(0)
    C = rows.new_zeros(rows.shape[1], regions.size)
    for name, latents in regions.regions.items():
        own = batch.layout.region(name)
        _, strength, axes = torch.linalg.svd(rows[:, own] - mean[own], full_matrices=False)
        kept = min(regions.latents, len(strength))
        scale = strength[:kept] / len(rows) ** 0.5
        C[own, latents.start : latents.start + kept] = axes[:kept].T * scale
    eye = torch.eye(regions.size, dtype=torch.float64)
    A = regions.shift.clone()
    Q = torch.zeros_like(A)
    A[: regions.present, : regions.present] = 0.9 * torch.eye(regions.present, dtype=torch.float64)
    Q[: regions.present, : regions.present] = 0.19 * torch.eye(regions.present, dtype=torch.float64)
    noise = (variance - C.square().sum(1)).clamp(min=0.1 * variance.mean())
    start = LinearGaussian(A, Q, C.new_zeros(regions.size), eye, C, mean, noise)
    return regional_fit(start, batch, regions, passes), emissions


def regional_fit(model: LinearGaussian, batch: Batch, regions: Structure, passes: int) -> LinearGaussian:
    """Return the parameters after some passes of EM."""
    emissions = emissions_of("gaussian", [batch.layout])
    shown = shown_latents(regions.regions, [batch.layout], regions.size)
    for _ in range(passes):
        moments = emissions.expectations(model, batch.activity, batch.valid, batch.observed, None)
        model = maximize_regional(emissions, model, moments, regions.regions, regions.allowed, shown)
    return model


def simulated(
    names: str, edges: list[Edge], max_lag: int = 1, trials: int = 40, bins: int = 16, units: int = 6, seed: int = 0
) -> tuple[LinearGaussian, Batch]:
    """Return a planted system and trials of it."""
    model = planted(structure(names, 2, max_lag), units, edges, size=0.6)
    _, activity = draw_trials(model, trials, bins, torch.Generator().manual_seed(seed))
    return model, batch_of(activity, names)
