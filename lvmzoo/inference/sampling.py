"""Draws from a linear dynamical system: of new trials, and of the latents given activity.

Latents given activity are drawn from the last bin to the first, each given the one after it and the filter's past
(Carter, Kohn 1994, doi:10.1093/biomet/81.3.541; Fruehwirth-Schnatter 1994, doi:10.1111/j.1467-9892.1994.tb00184.x).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.kalman import square_root
from lvmzoo.inference.sequences import LinearGaussian, together

__all__ = ["draw_latents", "draw_trials"]


def draw_trials(
    model: LinearGaussian, trials: int, bins: int, generator: torch.Generator
) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
    """Draw latents and activity of new trials, with known inputs at zero; all on the CPU."""
    latents = len(model.dynamics)
    draws = torch.randn(bins, trials, latents, generator=generator, dtype=torch.float64)
    noise = torch.randn(trials, bins, len(model.offset), generator=generator, dtype=torch.float64)
    if bins:
        draws[0] = model.initial_mean + draws[0] @ _root(model.initial_covariance).T
        draws[1:] = draws[1:] @ _root(model.dynamics_noise).T
    for t in range(1, bins):
        draws[t].addmm_(draws[t - 1], model.dynamics.T)
    drawn = draws.transpose(0, 1).contiguous()
    return drawn, noise.mul_(model.noise.sqrt()).add_(model.offset).add_(drawn @ model.readout.T)


def draw_latents(
    model: LinearGaussian,
    activity: Num[Tensor, "trial bin unit"],
    valid: Bool[Tensor, "trial bin"],
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None,
    normal: Float[Tensor, "draw trial bin latent"],
) -> Float[Tensor, "draw trial bin latent"]:
    """Return draws of whole trajectories given the activity; zero after a trial's last valid bin.

    ``normal`` are independent standard normal numbers, of which the draws are an affine function.
    """
    result = torch.zeros_like(normal)
    A, Q = model.dynamics.cpu().numpy(), model.dynamics_noise.cpu().numpy()
    for _, means, parts in together(model, activity, valid, observed, inputs):
        V, G = means.matrices.filtered, means.matrices.gain
        stay = np.eye(len(A)) - G @ A
        # V - G P G' as a sum of Gram matrices; Q is singular where the state holds past latents.
        given_next = square_root(stay @ V @ stay.swapaxes(-1, -2) + G @ Q @ G.swapaxes(-1, -2))
        at_end = square_root(V)
        inner, last = (
            torch.from_numpy(np.ascontiguousarray((root[:, 0] if means.shared else root).swapaxes(-1, -2))).to(normal)
            for root in (given_next, at_end)
        )
        for sequences in parts:
            part, stretches = sequences.part, list(sequences.filter())
            for drawn, numbers in zip(result, normal, strict=True):
                ours = numbers[part.rows, : part.bins].transpose(0, 1).contiguous()
                noise = means.apply(ours, inner, 0)
                ends = means.apply(ours, last, 0)
                rows = np.arange(len(part.lengths))
                noise[part.lengths - 1, rows] = ends[part.lengths - 1, rows]
                reached = torch.from_numpy(np.arange(part.bins)[:, None] < part.lengths).to(noise.device)
                noise[~reached] = 0.0
                following = torch.zeros_like(ours[0])
                for stretch in reversed(stretches):
                    bins = slice(stretch.start, stretch.start + len(stretch.m))
                    x = means.smooth(stretch.m, stretch.start, following, part.counts, stretch.drive, noise[bins])
                    drawn[part.rows, bins] = x.transpose(0, 1)
                    following = x[0]
    return result


def _root(covariance: Tensor) -> Float[Tensor, "latent latent"]:
    """Return a square root of a covariance, which may be singular: past latents in a state have no noise."""
    root, failed = torch.linalg.cholesky_ex(covariance)
    return torch.from_numpy(square_root(covariance.numpy())) if bool(failed) else root
