r"""The M-step of linear dynamical systems with counts: a Newton step of each unit that cannot lower the bound.

Along a step s D of [C, D, d] the expected log-likelihood of a unit loses at most

.. math:: s^2 \, D'HD \, (1/3 + k(s) / 6), \quad k(s) = (1 + 2 s S + s^2 U) \exp(s S + s^2 U / 2)

of its linear gain s g'D, where S and U bound the mean and the variance, over all bins, of the change of the log rate:
the second derivative changes by the factor k(s) at most (a self-concordance, as in Bach 2010, doi:10.1214/09-EJS521).
The step has the length of the largest certain gain, and becomes the whole Newton step as EM converges.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.count_expectations import RIVALS, CountMoments, reach_of
from lvmzoo.inference.maximization import Constraints, solve_dynamics, solve_initial
from lvmzoo.inference.sequences import LinearGaussian

__all__ = ["maximize_counts", "solve_units"]

RAREST = 0.1  # spikes that a silent unit is expected to fire in all its training bins with the latents at zero
OVERDISPERSION = (1e-3, 1e2)  # smallest and largest
JITTER = 1e-12  # of the mean curvature


class Units(NamedTuple):
    """What the M-step finds for the units."""

    readout: Float[Tensor, "unit latent"]  # C
    offset: Float[Tensor, " unit"]  # d
    feedthrough: Float[Tensor, "unit channel"] | None  # D
    overdispersion: Float[Tensor, " unit"]  # a


def maximize_counts(
    model: LinearGaussian, moments: CountMoments, constraints: Constraints, *, poisson: bool
) -> LinearGaussian:
    """Return parameters with a higher bound; what the data do not tell stays as it was."""
    A, B, Q = solve_dynamics(model, moments, constraints)
    units = solve_units(model, moments, poisson, constraints.readout)
    mean, covariance = solve_initial(model, moments)
    return LinearGaussian(
        A, Q, mean, covariance, units.readout, units.offset, units.overdispersion, B, units.feedthrough
    )


def solve_units(model: LinearGaussian, moments: CountMoments, poisson: bool, fixed: bool = False) -> Units:
    """Return C, d, D and the overdispersion after one safe step; units without samples stay as they are.

    EM changes the overdispersion slowly, but it can do so together with the rest. A unit that gains more by one of the
    overdispersions that were tried, with the rest as it is, takes that instead. ``fixed`` keeps C.
    """
    latents = model.readout.shape[1]
    step, gain = _safe_step(model, moments, latents if fixed else 0)
    a = model.noise
    if not poisson:
        rival, which = moments.rivals.max(1)
        other = a * a.new_tensor(RIVALS)[which]
        allowed = (other >= OVERDISPERSION[0]) & (other <= OVERDISPERSION[1])
        jump = allowed & (rival > gain)
        step = torch.where(jump[:, None], 0.0, step)
        a = torch.where(jump, other, _overdispersion(model, moments))
    feedthrough = None if model.feedthrough is None else model.feedthrough + step[:, latents:-1]
    return Units(model.readout + step[:, :latents], model.offset + step[:, -1], feedthrough, a)


def _safe_step(
    model: LinearGaussian, moments: CountMoments, kept: int
) -> tuple[Float[Tensor, "unit regressor"], Float[Tensor, " unit"]]:
    """Return the step of each unit's [C, D, d], the first ``kept`` of which stay, and what it gains at least."""
    gradient, curvature = moments.gradient[:, kept:], moments.curvature[:, kept:, kept:]
    identity = torch.eye(gradient.shape[1], dtype=gradient.dtype, device=gradient.device)
    size = curvature.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-300)
    g, H = gradient / size[:, None], curvature / size[:, None, None] + JITTER * identity
    step = _newton(g, H)
    room = ((RAREST / moments.samples.clamp(min=1)).log() - model.offset).clamp(max=0.0)  # to the floor of d
    sinking = step[:, -1] < room
    if bool(sinking.any()):
        step[sinking] = _pinned(g[sinking], H[sinking], room[sinking])
    step = torch.where((moments.samples > 0)[:, None], step, 0.0)
    gain = (gradient * step).sum(1)
    loss = torch.einsum("ni,nij,nj->n", step, curvature, step)
    step = torch.cat([step.new_zeros(len(step), kept), step], 1)
    length, certain = _safe_length(model, moments, step, gain, loss)
    return length[:, None] * step, certain


def _newton(gradient: Tensor, curvature: Tensor) -> Tensor:
    """Return the steps, zero for units whose curvature is not positive to rounding."""
    root, info = torch.linalg.cholesky_ex(curvature)
    step = torch.cholesky_solve(gradient[..., None], root)[..., 0]
    return torch.where((info == 0)[:, None] & step.isfinite(), step, 0.0)


def _pinned(gradient: Tensor, curvature: Tensor, fall: Tensor) -> Tensor:
    """Return the Newton step of units whose offset falls to its floor, and no farther."""
    rest = _newton(gradient[:, :-1] - curvature[:, :-1, -1] * fall[:, None], curvature[:, :-1, :-1])
    return torch.cat([rest, fall[:, None]], 1)


def _safe_length(
    model: LinearGaussian, moments: CountMoments, step: Tensor, gain: Tensor, loss: Tensor
) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
    """Return the length of each unit's step with the largest certain gain, and that gain."""
    latents = model.readout.shape[1]
    reach, spread = reach_of(moments)
    deviation = step[:, :latents].abs() @ spread
    S = step[:, :-1].abs() @ reach + step[:, -1].abs() + deviation * (model.readout.abs() @ spread)
    U = deviation.square()
    s = torch.logspace(-4, 0, 81, dtype=step.dtype, device=step.device)[:, None]
    growth = (1 + 2 * s * S + s.square() * U) * torch.exp((s * S + 0.5 * s.square() * U).clamp(max=200.0))
    certain = s * gain - s.square() * loss * (1 / 3 + growth / 6)
    best, which = certain.max(0)
    return torch.where(best > 0, s[which, 0], 0.0), best.clamp(min=0.0)


def _overdispersion(model: LinearGaussian, moments: CountMoments) -> Float[Tensor, " unit"]:
    """Return the overdispersion a of EM.

    The shape r = 1 / a of Gamma gains solves log r + 1 - digamma(r) + E(log g - g) = 0.
    """
    target = -1 - moments.gain / moments.samples.clamp(min=1)  # log r - digamma(r), which falls from infinity to 0
    low = torch.full_like(target, OVERDISPERSION[0])
    high = torch.full_like(target, OVERDISPERSION[1])
    for _ in range(60):
        middle = (low * high).sqrt()
        more = -middle.log() - torch.digamma(1 / middle) < target
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return torch.where(moments.samples > 0, (low * high).sqrt(), model.noise)
