"""Processes with delays by dense covariance matrices: an independent reference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lvmzoo.inference.delayed_processes import DelayedProcesses


def planted(
    units: Sequence[int] = (4, 3), across: int = 2, within: int = 1, seed: int = 0, engine: str = "auto"
) -> DelayedProcesses:
    """Return parameters of regions of these sizes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    edges = np.cumsum([0, *units]).tolist()
    regions = tuple(slice(a, b) for a, b in itertools.pairwise(edges))
    delays = 3 * normal(len(units), across)
    delays[0] = 0
    timescales = 1.5 + normal(across + len(units) * within).abs()
    noise = 0.3 + normal(sum(units)).square()
    readout, offset = normal(sum(units), across + within), normal(sum(units))
    return DelayedProcesses(timescales, delays, readout, offset, noise, regions, 1e-3, engine)


def joint(model: DelayedProcesses, bins: int) -> tuple[Tensor, Tensor]:
    """Return the covariance of (bin, region, column) and its covariance with (bin, unit)."""
    regions, columns = len(model.regions), model.readout.shape[1]
    t = torch.arange(bins, dtype=torch.float64)
    K = torch.zeros(bins, regions, columns, bins, regions, columns, dtype=torch.float64)
    for m in range(regions):
        for n in range(regions):
            for c in range(columns):
                if c >= model.across and m != n:
                    continue
                shift = (model.delays[m, c] - model.delays[n, c]) if c < model.across else 0.0
                lags = t[:, None] - t - shift
                tau = model.timescales[c if c < model.across else c + m * model.within]
                value = (1 - model.nugget) * torch.exp(-0.5 * (lags / tau) ** 2)
                K[:, m, c, :, n, c] = value + (model.nugget * torch.eye(bins) if m == n else 0)
    C = torch.zeros(regions, columns, len(model.offset), dtype=torch.float64)
    for m, units in enumerate(model.regions):
        C[m, :, units] = model.readout[units].T
    return K, torch.einsum("amcbnd,ndu->amcbu", K, C)


def covariance(model: DelayedProcesses, bins: int) -> Tensor:
    """Return the covariance of the activity (bin, unit)."""
    _, cross = joint(model, bins)
    C = torch.zeros(cross.shape[1], cross.shape[2], len(model.offset), dtype=torch.float64)
    for m, units in enumerate(model.regions):
        C[m, :, units] = model.readout[units].T
    flat = torch.einsum("mcv,amcbu->avbu", C, cross).flatten(0, 1).flatten(1)
    return flat + torch.diag(model.noise.repeat(bins))


def log_likelihood(model: DelayedProcesses, trial: Tensor, shown: Tensor) -> Tensor:
    """Return the log-density of what is shown of one trial (bin, unit)."""
    S = covariance(model, len(trial))
    seen = shown.flatten()
    left = (trial - model.offset).flatten()[seen]
    return torch.distributions.MultivariateNormal(torch.zeros_like(left), S[seen][:, seen]).log_prob(left)


def ragged(model: DelayedProcesses, activity: Tensor) -> tuple[Tensor, Tensor]:
    """Return valid and observed of six trials: complete, short, with a missing bin, unit, sample, and region."""
    trials, bins, units = activity.shape
    valid = torch.ones(trials, bins, dtype=torch.bool)
    valid[1, 7:], valid[2, 3:] = False, False
    observed = valid[..., None].expand(-1, -1, units).clone()
    observed[3, 4, 1], observed[4, 2], observed[5, :, 0] = False, False, False
    observed[0, 6:, model.regions[-1]] = False
    return valid, observed
