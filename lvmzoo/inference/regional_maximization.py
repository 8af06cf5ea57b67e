r"""The M-step of a linear dynamical system whose latents belong to regions.

With the noise of the regions independent, and the same zeros in all rows of a region, the rows of regions decouple
exactly: :math:`A_{i,S} = E[x^i_{t+1} s_t'] E[s_t s_t']^{-1}` over the elements S of the state that may act on region i.
Blocks of low rank are reduced-rank regressions in the metric :math:`Q_i^{-1}`, one source after the other, together
with what the region does by itself; Q follows from the general quadratic form, since A is no longer the regression on
everything. No step lowers the expected log-likelihood.

Izenman (1975) J. Multivariate Anal. 5, 248, doi:10.1016/0047-259X(75)90042-1, of reduced-rank regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.inference.count_expectations import CountMoments
from lvmzoo.inference.emissions import Emissions
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments
from lvmzoo.inference.maximization import floored, least_norm, solve_initial

__all__ = ["maximize_regional", "solve_regional_dynamics", "within_regions"]

SWEEPS = 3  # of the blocks of low rank, and of the noise that weighs them, in a pass


def maximize_regional(
    emissions: Emissions,
    model: LinearGaussian,
    moments: Any,
    regions: Mapping[str, slice],
    allowed: Bool[Tensor, "state state"],
    shown: Bool[Tensor, "unit state"],
    rank: int | None = None,
    columns: Mapping[str, Int[Tensor, " _column"]] | None = None,
) -> LinearGaussian:
    """Return the parameters after the M-step; ``shown``: elements of the state that each unit may show."""
    A, B, Q = solve_regional_dynamics(model, moments, regions, allowed, rank, columns)
    mean, covariance = solve_initial(model, moments)
    shown = shown.to(model.readout.device)
    found = emissions.units(model, within_regions(moments, shown))
    return found._replace(
        dynamics=A,
        drive=B,
        dynamics_noise=Q,
        initial_mean=mean,
        initial_covariance=covariance,
        readout=torch.where(shown, found.readout, 0.0),
    )


def solve_regional_dynamics(
    model: LinearGaussian,
    moments: Moments | CountMoments,
    regions: Mapping[str, slice],
    allowed: Bool[Tensor, "state state"],
    rank: int | None = None,
    columns: Mapping[str, Int[Tensor, " _column"]] | None = None,
) -> tuple[
    Float[Tensor, "*case state state"], Float[Tensor, "*case state channel"] | None, Float[Tensor, "*case state state"]
]:
    """Return A, B and Q, region by region, of one system or of several; what is not free stays as it was."""
    A, Q = model.dynamics.clone(), model.dynamics_noise.clone()
    B = None if model.drive is None else model.drive.clone()
    if not bool((moments.transitions > 0).all()):  # trials of one bin
        return A, B, Q
    state, before, transitions = A.shape[-1], moments.before, moments.transitions[..., None, None]
    channels = torch.arange(state, before.shape[-1], device=A.device)
    for name, rows in regions.items():
        free = torch.cat([allowed[rows.start].nonzero()[:, 0].to(A.device), channels])
        gram, cross = before[..., free[:, None], free], moments.cross[..., rows, :][..., free]
        after = moments.after[..., rows, rows]
        if rank is None or columns is None:
            found = _regression(gram, cross, model.drive is not None)
        else:
            sources = [_among(free, columns[other].to(A.device)) for other in regions if other != name]
            sources = [source for source in sources if len(source)]
            present = torch.cat([A[..., rows, :], *([] if B is None else [B[..., rows, :]])], -1)[..., free]
            found = _low_rank(gram, cross, after, present, Q[..., rows, rows], sources, rank, transitions)
        Q[..., rows, rows] = floored(_unexplained(gram, cross, after, found) / transitions)
        inner = free < state
        A[..., rows, free[inner]] = found[..., inner]
        if B is not None:
            B[..., rows, :] = found[..., ~inner]
    return A, B, Q


def within_regions(moments: Any, shown: Bool[Tensor, "unit state"]) -> Any:
    """Return moments of which the M-step's readout is zero exactly where a unit does not show the state."""
    kept = torch.ones_like(
        moments.gradient if isinstance(moments, CountMoments) else moments.activity, dtype=torch.bool
    )
    kept[:, : shown.shape[1]] = shown
    both = kept[:, :, None] & kept[:, None, :]
    if isinstance(moments, CountMoments):
        return moments._replace(
            gradient=torch.where(kept, moments.gradient, 0.0), curvature=torch.where(both, moments.curvature, 0.0)
        )
    readout = torch.where(both, moments.readout, 0.0)
    readout.diagonal(dim1=1, dim2=2).masked_fill_(~kept & (readout[:, -1, -1:] > 0), 1.0)
    return moments._replace(activity=torch.where(kept, moments.activity, 0.0), readout=readout)


def _regression(gram: Tensor, cross: Tensor, inputs: bool) -> Tensor:
    """Return the coefficients of the regression; known inputs may be collinear, latents never are."""
    return (least_norm if inputs else torch.linalg.solve)(gram, cross.mT).mT


def _unexplained(gram: Tensor, cross: Tensor, after: Tensor, coefficients: Tensor) -> Tensor:
    """Return the sum of squares and products that any coefficients leave."""
    explained = cross @ coefficients.mT
    return after - explained - explained.mT + coefficients @ gram @ coefficients.mT


def _low_rank(
    gram: Float[Tensor, "*case free free"],
    cross: Float[Tensor, "*case latent free"],
    after: Float[Tensor, "*case latent latent"],
    start: Float[Tensor, "*case latent free"],
    noise: Float[Tensor, "*case latent latent"],
    sources: list[Int[Tensor, " _source"]],
    rank: int,
    transitions: Float[Tensor, "*case 1 1"],
) -> Float[Tensor, "*case latent free"]:
    """Return coefficients whose block of each source has at most a rank, no worse than ``start``.

    With the blocks of the other sources as they are, that of one source and all that has no limit are solved for
    together: what the unlimited part can explain is taken out of the source, and the rest is a reduced-rank regression.
    """
    limited = torch.zeros(gram.shape[-1], dtype=torch.bool, device=gram.device)
    for source in sources:
        limited[source] = True
    rest = (~limited).nonzero()[:, 0]
    own = gram[..., rest[:, None], rest]
    found = start.clone()
    for _ in range(SWEEPS):
        values, vectors = torch.linalg.eigh((noise + noise.mT) / 2)
        root = (vectors * values.clamp(min=1e-300).sqrt()[..., None, :]) @ vectors.mT
        whiten = (vectors * values.clamp(min=1e-300).rsqrt()[..., None, :]) @ vectors.mT
        for source in sources:
            others = limited.clone()
            others[source] = False
            shared = gram[..., rest[:, None], source]
            left = cross - found[..., others] @ gram[..., others, :]
            through = least_norm(own, shared)  # what the unlimited part says of the source
            inner = gram[..., source[:, None], source] - through.mT @ shared
            target = left[..., source] - left[..., rest] @ through
            found[..., source] = root @ _reduced(whiten @ target, inner, rank)
            found[..., rest] = least_norm(own, (left[..., rest] - found[..., source] @ shared.mT).mT).mT
        if not sources:
            found[..., rest] = least_norm(own, cross[..., rest].mT).mT
        noise = floored(_unexplained(gram, cross, after, found) / transitions)
    return found


def _reduced(
    target: Float[Tensor, "*case latent source"], gram: Float[Tensor, "*case source source"], rank: int
) -> Float[Tensor, "*case latent source"]:
    """Return B of at most a rank that minimizes tr(B gram B' - 2 B target')."""
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    kept = values > 1e-12 * values[..., -1:].clamp(min=1e-300)
    inverse = torch.where(kept, values.clamp(min=1e-300).rsqrt(), 0.0)
    U, strength, Vh = torch.linalg.svd(target @ (vectors * inverse[..., None, :]), full_matrices=False)
    strength = torch.where(torch.arange(strength.shape[-1], device=strength.device) < rank, strength, 0.0)
    return (U * strength[..., None, :]) @ Vh @ (inverse[..., None] * vectors.mT)


def _among(free: Int[Tensor, " free"], columns: Int[Tensor, " state"]) -> Int[Tensor, " source"]:
    """Return which of the free elements are among the columns."""
    return torch.isin(free, columns).nonzero()[:, 0]
