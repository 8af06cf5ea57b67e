"""Starting values for Gaussian processes: factor analysis, turned to latents that differ in how slow they are.

The covariance of the activity one bin apart is free of private noise. In the space that factor analysis finds, its
eigenvectors are directions whose latents are uncorrelated one bin apart, as processes with different timescales are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.gaussian_process_posterior import GaussianProcess, groups, residuals
from lvmzoo.inference.maximization import noise_floor
from lvmzoo.inference.starting import factor_analysis

__all__ = ["Recorded", "Start", "starting_process"]

SHRINKAGE = 1e-3  # of the projection to the latents, where units tell little about one

Recorded = tuple[Num[Tensor, "trial bin unit"], Bool[Tensor, "trial bin"], Bool[Tensor, "trial bin unit"]]


class Start(NamedTuple):
    """Starting values of one session."""

    readout: Float[Tensor, "unit latent"]  # of latents with unit variance, the slowest first
    offset: Float[Tensor, " unit"]
    noise: Float[Tensor, " unit"]
    correlation: Float[Tensor, " latent"]  # of each latent, one bin apart


def starting_process(
    batches: Callable[[], Iterable[Recorded]], units: int, latents: int, counts: bool, square_root: bool
) -> Start:
    """Return starting values of one session, in two passes; missing samples count as the unit's mean.

    Parameters
    ----------
    batches : gives (activity, valid, observed) of each batch anew.
    units, latents : numbers of them.
    counts : the activity is spikes per bin.
    square_root : the square roots of counts are modeled.
    """
    zeros = torch.zeros(units, latents, dtype=torch.float64)
    model = GaussianProcess(zeros[0], zeros, zeros[:, 0], zeros[:, 0], square_root=square_root)
    total, samples = torch.zeros_like(model.offset), torch.zeros_like(model.offset)
    for block, shown in _blocks(model, batches):
        total += block.sum((0, 1))
        samples += len(block) * shown
    mean = total / samples.clamp(min=1)
    within, lagged = mean.new_zeros(units, units), mean.new_zeros(units, units)
    pairs = 0
    for block, _ in _blocks(model._replace(offset=mean), batches):
        flat = block.flatten(0, 1)
        within.addmm_(flat.T, flat)
        lagged.addmm_(block[:, 1:].flatten(0, 1).T, block[:, :-1].flatten(0, 1))
        pairs += len(block) * (block.shape[1] - 1)
    scale = torch.outer(samples, samples).clamp(min=1).sqrt()
    covariance, lagged = within / scale, lagged / max(pairs, 1)
    C, r = factor_analysis(covariance, latents)
    r = torch.maximum(r, noise_floor(covariance.diagonal(), counts))
    weights = C / r[:, None]
    gram = C.T @ weights
    ridge = (SHRINKAGE * gram.diagonal().mean()).clamp(min=1e-30) * torch.eye(latents, dtype=C.dtype)
    project = torch.linalg.solve(gram + ridge, weights.T)
    following = project @ lagged @ project.T
    correlation, rotation = torch.linalg.eigh((following + following.T) / 2)
    return Start(C @ rotation.flip(1), mean, r, correlation.flip(0))


def _blocks(
    model: GaussianProcess, batches: Callable[[], Iterable[Recorded]]
) -> Iterable[tuple[Float[Tensor, "some bin unit"], Float[Tensor, " unit"]]]:
    """Yield activity above the offset, and in how many bins of a trial each unit is shown."""
    for activity, valid, observed in batches():
        for pattern in groups(valid, observed):
            if pattern.mask is None:
                shown = (pattern.seen[0].sum() * pattern.units).to(model.offset)
            else:
                shown = pattern.mask[0].sum(0).to(model.offset)
            for _, block in residuals(model, activity, pattern):
                yield block.cpu(), shown.cpu()
