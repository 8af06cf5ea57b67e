r"""The M-step of linear dynamical systems with counts: a Newton step of each unit that cannot lower the bound.

Along a step s D of [C, D, d] the expected log-likelihood of a unit loses at most

.. math:: s^2 \, D'HD \, (1/3 + k(s) / 6), \quad k(s) = (1 + 2 s S + s^2 U) \exp(s S + s^2 U / 2)

of its linear gain s g'D, where S and U bound the mean and the variance, over all bins, of the change of the log rate: the
second derivative changes by the factor k(s) at most. (A self-concordance, as in Bach 2010, doi:10.1214/09-EJS521.) The step
is the longest that this makes safe, and it becomes the whole Newton step as EM converges.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.count_expectations import CountMoments, reach_of
from lvmzoo.inference.sequences import LinearGaussian

__all__ = ["solve_count_readout", "solve_overdispersion"]

RAREST = 0.1  # spikes that a silent unit is expected to fire in all its training bins with the latents at zero
OVERDISPERSION = (1e-3, 1e2)  # smallest and largest
JITTER = 1e-12  # of the mean curvature


def solve_count_readout(
    model: LinearGaussian, moments: CountMoments
) -> tuple[Float[Tensor, "unit latent"], Float[Tensor, " unit"], Float[Tensor, "unit channel"] | None]:
    """Return C, d and D after one safe step; units without samples stay as they are."""
    latents = model.readout.shape[1]
    gradient, curvature = moments.gradient, moments.curvature
    identity = torch.eye(gradient.shape[1], dtype=gradient.dtype, device=gradient.device)
    size = curvature.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-300)
    step = _newton(gradient / size[:, None], curvature / size[:, None, None] + JITTER * identity)
    room = (RAREST / moments.samples.clamp(min=1)).log() - model.offset  # to the floor of d
    sinking = step[:, -1] < room.clamp(max=0.0)
    if bool(sinking.any()):
        step[sinking] = _pinned(gradient, curvature + (JITTER * size)[:, None, None] * identity, room, sinking)
    gain = (gradient * step).sum(1)
    loss = torch.einsum("ni,nij,nj->n", step, curvature, step)
    length = _safe_length(model, moments, step, gain, loss)
    moved = torch.where((moments.samples > 0)[:, None], length[:, None] * step, 0.0)
    feedthrough = None if model.feedthrough is None else model.feedthrough + moved[:, latents:-1]
    return model.readout + moved[:, :latents], model.offset + moved[:, -1], feedthrough


def _newton(gradient: Tensor, curvature: Tensor) -> Tensor:
    return torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(curvature))[..., 0]


def _pinned(gradient: Tensor, curvature: Tensor, room: Tensor, units: Tensor) -> Tensor:
    """Return the Newton step of some units whose offset goes as far as its floor and no farther."""
    fall = room[units].clamp(max=0.0)
    g, H = gradient[units, :-1] - curvature[units, :-1, -1] * fall[:, None], curvature[units, :-1, :-1]
    size = H.diagonal(dim1=-2, dim2=-1).mean(-1)
    return torch.cat([_newton(g / size[:, None], H / size[:, None, None]), fall[:, None]], 1)


def _safe_length(
    model: LinearGaussian, moments: CountMoments, step: Tensor, gain: Tensor, loss: Tensor
) -> Float[Tensor, " unit"]:
    """Return the length of each unit's step with the largest certain gain."""
    latents = model.readout.shape[1]
    reach, spread = reach_of(moments)
    deviation = step[:, :latents].abs() @ spread
    S = step[:, :-1].abs() @ reach + step[:, -1].abs() + deviation * (model.readout.abs() @ spread)
    U = deviation.square()
    s = torch.logspace(-4, 0, 81, dtype=step.dtype, device=step.device)[:, None]
    growth = (1 + 2 * s * S + s.square() * U) * torch.exp((s * S + 0.5 * s.square() * U).clamp(max=200.0))
    certain = s * gain - s.square() * loss * (1 / 3 + growth / 6)
    best, which = certain.max(0)
    return torch.where(best > 0, s[which, 0], 0.0)


def solve_overdispersion(model: LinearGaussian, moments: CountMoments) -> Float[Tensor, " unit"]:
    """Return the overdispersion a: the shape r = 1 / a of Gamma gains solves log r + 1 - digamma(r) + E(log g - g) = 0."""
    target = -1 - moments.gain / moments.samples.clamp(min=1)  # log r - digamma(r), which falls from infinity to 0
    low = torch.full_like(target, OVERDISPERSION[0])
    high = torch.full_like(target, OVERDISPERSION[1])
    for _ in range(60):
        middle = (low * high).sqrt()
        more = -middle.log() - torch.digamma(1 / middle) < target
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return torch.where(moments.samples > 0, (low * high).sqrt(), model.noise)
