"""How far regions act on each other, in numbers that do not depend on the coordinates of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.claims.influence_channels import Channels
from lvmzoo.inference.granger import granger, granger_by_frequency, region_information
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments
from lvmzoo.inference.regional_structure import Structure
from lvmzoo.inference.riccati import stable, stationary_covariance

__all__ = ["Influence", "contributions", "measure"]

SINGULAR = 1e-9  # of the variance: what is left below it is rounding


class Influence(NamedTuple):
    """What fits say of every ordered pair of regions; rows are targets, columns are sources."""

    granger: Float[Tensor, "case region region"]  # nats per bin
    spectrum: Float[Tensor, "case region region frequency"]  # nats
    likelihood_ratio: Float[Tensor, "case region region"]  # nats, of the block given all else, if latents were seen
    correlations: Float[Tensor, "case region region latent"]  # partial canonical ones, of a target with a source
    lagged: Float[Tensor, "case region region lag"]  # nats per bin, of a source's latents of one lag alone
    added: Float[Tensor, "case region region"]  # nats per bin, of Granger causality by the block itself
    share: Float[Tensor, "case region region"]  # of the variance of a target's latents, made in one bin


def measure(
    model: LinearGaussian,
    moments: Moments,
    channels: Channels,
    structure: Structure,
    frequencies: Float[Tensor, " frequency"],
) -> Influence:
    """Return what fits and their moments say of the regions that the session shows; both of several cases."""
    names = list(channels.regions)
    information = region_information(model.readout, model.noise, [channels.regions[name] for name in names])
    A, Q = stable(model.dynamics), model.dynamics_noise
    correlations = A.new_zeros(len(A), len(names), len(names), structure.latents)
    lagged = A.new_zeros(len(A), len(names), len(names), structure.max_lag)
    causality = granger(A, Q, information)
    added = torch.zeros_like(causality)
    for i, target in enumerate(names):
        for j, source in enumerate(names):
            if (source, target) in structure.connections:
                found = _partial_correlations(moments, structure, names, target, source, structure.columns[source])
                correlations[:, i, j, : found.shape[-1]] = found
                without, rows = A.clone(), structure.regions[target]
                without[:, rows, structure.columns[source]] = 0.0
                # Where noise hides a region's own past, another predicts it a little without driving it.
                added[:, i, j] = causality[:, i, j] - granger(stable(without), Q, information)[:, i, j]
                for lag in range(1, structure.max_lag + 1):
                    place = structure.place(source, lag)
                    one = torch.arange(place.start, place.stop)
                    alone = _partial_correlations(moments, structure, names, target, source, one)
                    lagged[:, i, j, lag - 1] = _information(alone)
    return Influence(
        causality,
        granger_by_frequency(A, Q, information, frequencies),
        moments.transitions[:, None, None] * _information(correlations),
        correlations,
        lagged,
        added,
        contributions(model, structure, names),
    )


def contributions(
    model: LinearGaussian, structure: Structure, names: Sequence[str]
) -> Float[Tensor, "*case region region"]:
    """Return the share of the variance of a target's latents that [target, source] makes in one bin, over all lags.

    It is the mean over axes in which the latents of each region are white. Latents have no scale or axes of their own:
    unlike the blocks themselves, these shares do not depend on them.
    """
    A = stable(model.dynamics)
    covariance = stationary_covariance(A, model.dynamics_noise)
    result = A.new_zeros(*A.shape[:-2], len(names), len(names))
    for i, target in enumerate(names):
        rows = structure.regions[target]
        root = torch.linalg.cholesky(covariance[..., rows, rows])
        for j, source in enumerate(names):
            columns = structure.columns[source]
            sent = A[..., rows, :][..., columns]
            made = sent @ covariance[..., columns[:, None], columns] @ sent.mT
            result[..., i, j] = torch.cholesky_solve(made, root).diagonal(dim1=-2, dim2=-1).mean(-1)
    return result


def _partial_correlations(
    moments: Moments,
    structure: Structure,
    names: Sequence[str],
    target: str,
    source: str,
    columns: Int[Tensor, " source"],
) -> Float[Tensor, "case latent"]:
    """Return the canonical correlations of a target's coming latents with some of a source, given all other regions."""
    rows = structure.regions[target]
    free = structure.among(names)[rows.start]
    free[structure.columns[source]] = False
    given = free.nonzero()[:, 0]
    gram, cross, after = moments.before, moments.cross[:, rows], moments.after[:, rows, rows]
    # What is given may be singular: regions may be copies of each other.
    both = torch.cat([gram[:, given[:, None], columns], cross[..., given].mT], -1)
    through, known = _least_squares(gram[:, given[:, None], given], both).split([len(columns), cross.shape[1]], -1)
    inner = gram[:, columns[:, None], columns] - gram[:, columns[:, None], given] @ through
    shared = cross[..., columns] - cross[..., given] @ through
    left = after - cross[..., given] @ known
    scales = gram.diagonal(dim1=1, dim2=2)[:, columns], after.diagonal(dim1=1, dim2=2)
    return torch.linalg.svdvals(_inverse_root(left, scales[1]) @ shared @ _inverse_root(inner, scales[0]))


def _information(correlations: Float[Tensor, "*pair latent"]) -> Float[Tensor, "*pair"]:
    """Return -1/2 sum of log(1 - r^2), the nats by which Gaussian numbers tell of each other."""
    return 0.5 * (1 - correlations.square().clamp(max=1 - 1e-12)).log().sum(-1).abs()


def _least_squares(gram: Float[Tensor, "case given given"], right: Float[Tensor, "case given right"]) -> Tensor:
    root = _inverse_root(gram, gram.diagonal(dim1=1, dim2=2))
    return root @ (root @ right)


def _inverse_root(
    covariance: Float[Tensor, "case row row"], scale: Float[Tensor, "case row"]
) -> Float[Tensor, "case row row"]:
    """Return the inverse root of a covariance, zero in directions that have next to no part of the scale's variance."""
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    kept = values > SINGULAR * scale.amax(-1, keepdim=True)
    return (vectors * torch.where(kept, values.clamp(min=1e-300).rsqrt(), 0.0)[:, None]) @ vectors.mT
