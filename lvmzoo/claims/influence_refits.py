"""How far regions act on each other: measures of one fit, of refits to recombined trials, and of refits to resamples.

The observed trials and those recombined by chance are fitted by the same protocol: from regions that do not act on each
other, by the same number of passes of EM over the dynamics, with what the units show as it is. Recombined trials bring
together what regions did in different trials of the same condition and of the same part of the session, or, in a long
session, at different times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.claims.influence_channels import Channels, apart
from lvmzoo.claims.influence_surrogates import rearranged
from lvmzoo.claims.nulls import bootstrap
from lvmzoo.claims.surrogates import CircularShifts, TrialPermutations
from lvmzoo.findings import Progress, quiet_progress
from lvmzoo.inference.granger import granger, granger_by_frequency, region_information
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments, expectations
from lvmzoo.inference.maximization import solve_initial
from lvmzoo.inference.regional_maximization import solve_regional_dynamics
from lvmzoo.inference.regional_structure import Structure
from lvmzoo.inference.riccati import stable, stationary_covariance

__all__ = [
    "PASSES",
    "Influence",
    "chance",
    "contributions",
    "measure",
    "refit",
    "resampled",
]

PASSES = 15  # of EM, for the observed trials as for recombined ones
SINGULAR = 1e-9  # of the variance: what is left below it is rounding


class Influence(NamedTuple):
    """What one fit says of every ordered pair of regions; rows are targets, columns are sources."""

    granger: Float[Tensor, "*case region region"]  # nats per bin
    spectrum: Float[Tensor, "*case region region frequency"]  # nats
    likelihood_ratio: Float[Tensor, "*case region region"]  # nats, of the block given all else, if latents were seen
    correlations: Float[Tensor, "*case region region latent"]  # partial canonical ones, of a target with a source
    lagged: Float[Tensor, "*case region region lag"]  # nats per bin, of a source's latents of one lag alone


def chance(
    channels: Channels,
    structure: Structure,
    surrogates: TrialPermutations | CircularShifts | None,
    frequencies: Float[Tensor, " frequency"],
    draws: int,
    seed: int,
    progress: Progress = quiet_progress,
) -> tuple[Influence, Influence]:
    """Return what the observed trials say, as one case, and what recombined ones do; both by the same protocol."""
    alone, allowed = _alone(channels, structure), _allowed(structure, list(channels.regions))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for k in range(draws + 1 if surrogates is not None else 1):
        data = rearranged(channels, surrogates, generator) if k and surrogates is not None else channels
        found.append(measure(*refit(alone, data, structure, allowed, PASSES), channels, structure, frequencies))
        progress("regions against chance", (k + 1) / (draws + 1))
    observed = _stack(found[:1])
    return observed, _stack(found[1:]) if len(found) > 1 else _none(observed)


def resampled(
    channels: Channels,
    structure: Structure,
    frequencies: Float[Tensor, " frequency"],
    draws: int,
    seed: int,
    progress: Progress = quiet_progress,
) -> Influence | None:
    """Return what resamples of the trials say, by the protocol of the observed trials; None without any."""
    if not draws:
        return None
    generator = torch.Generator().manual_seed(seed)
    alone, allowed = _alone(channels, structure), _allowed(structure, list(channels.regions))
    found = []
    for k in range(draws):
        data = channels.trials(bootstrap(len(channels.valid), generator))
        found.append(measure(*refit(alone, data, structure, allowed, PASSES), channels, structure, frequencies))
        progress("resampling trials", (k + 1) / draws)
    return _stack(found)


def _alone(channels: Channels, structure: Structure) -> LinearGaussian:
    """Return the system of regions that do not act on each other; none depends on which trials belong together."""
    model, nothing = apart(channels.model, structure), _allowed(structure, [])
    for _ in range(PASSES):
        model = apart(refit(model, channels, structure, nothing, 1)[0], structure)
    return model


def refit(
    model: LinearGaussian,
    channels: Channels,
    structure: Structure,
    allowed: Bool[Tensor, "state state"],
    passes: int,
) -> tuple[LinearGaussian, Moments]:
    """Return the system after some passes of EM over its dynamics and start, and the moments of the last pass."""
    assert passes > 0
    for _ in range(passes):
        moments = expectations(model, channels.activity, channels.valid, channels.observed)
        A, _, Q = solve_regional_dynamics(model, moments, structure.regions, allowed, structure.rank, structure.columns)
        mean, covariance = solve_initial(model, moments)
        model = model._replace(dynamics=A, dynamics_noise=Q, initial_mean=mean, initial_covariance=covariance)
    return model, moments


def measure(
    model: LinearGaussian,
    moments: Moments,
    channels: Channels,
    structure: Structure,
    frequencies: Float[Tensor, " frequency"],
) -> Influence:
    """Return what a fit and its moments say of the regions that the session shows."""
    names = list(channels.regions)
    information = region_information(model.readout, model.noise, [channels.regions[name] for name in names])
    A, Q = stable(model.dynamics), model.dynamics_noise
    correlations = A.new_zeros(len(names), len(names), structure.latents)
    lagged = A.new_zeros(len(names), len(names), structure.max_lag)
    for i, target in enumerate(names):
        for j, source in enumerate(names):
            if (source, target) in structure.connections:
                found = _partial_correlations(moments, structure, names, target, source, structure.columns[source])
                correlations[i, j, : len(found)] = found
                for lag in range(1, structure.max_lag + 1):
                    place = structure.place(source, lag)
                    one = torch.arange(place.start, place.stop)
                    alone = _partial_correlations(moments, structure, names, target, source, one)
                    lagged[i, j, lag - 1] = _information(alone)
    return Influence(
        granger(A, Q, information),
        granger_by_frequency(A, Q, information, frequencies),
        float(moments.transitions) * _information(correlations),
        correlations,
        lagged,
    )


def contributions(model: LinearGaussian, structure: Structure) -> Float[Tensor, "region region"]:
    """Return the share of the variance of a target's latents that [target, source] makes in one bin, over all lags.

    It is the mean over axes in which the latents of each region are white. Latents have no scale or axes of their own:
    unlike the blocks themselves, these shares do not depend on them.
    """
    A = stable(model.dynamics)
    covariance = stationary_covariance(A, model.dynamics_noise)
    roots = {name: torch.linalg.cholesky(covariance[rows, rows]) for name, rows in structure.regions.items()}
    result = A.new_zeros(len(structure.names), len(structure.names))
    for i, target in enumerate(structure.names):
        for j, source in enumerate(structure.names):
            rows, columns = structure.regions[target], structure.columns[source]
            sent = A[rows][:, columns]
            made = torch.cholesky_solve(sent @ covariance[columns][:, columns] @ sent.T, roots[target])
            result[i, j] = made.trace() / structure.latents
    return result


def _allowed(structure: Structure, names: Sequence[str]) -> Bool[Tensor, "state state"]:
    """Return the free elements of the dynamics if only the named regions act on each other."""
    free = torch.zeros_like(structure.allowed)
    for target, rows in structure.regions.items():
        free[rows, rows] = True
        for source in structure.names:
            if (source, target) in structure.connections and source in names and target in names:
                free[rows.start : rows.stop, structure.columns[source]] = True
    return free


def _partial_correlations(
    moments: Moments,
    structure: Structure,
    names: Sequence[str],
    target: str,
    source: str,
    columns: Int[Tensor, " source"],
) -> Float[Tensor, " latent"]:
    """Return the canonical correlations of a target's coming latents with some of a source, given all other regions."""
    rows = structure.regions[target]
    given = _allowed(structure, names)[rows.start]
    given[structure.columns[source]] = False
    gram, cross = moments.before, moments.cross[rows]
    # What is given may be singular: regions may be copies of each other.
    both = torch.cat([gram[given][:, columns], cross[:, given].T], 1)
    through, known = _least_squares(gram[given][:, given], both).split([len(columns), len(cross)], 1)
    inner = gram[columns][:, columns] - gram[columns][:, given] @ through
    shared = cross[:, columns] - cross[:, given] @ through
    left = moments.after[rows, rows] - cross[:, given] @ known
    scales = gram.diagonal()[columns], moments.after.diagonal()[rows]
    return torch.linalg.svdvals(_inverse_root(left, scales[1]) @ shared @ _inverse_root(inner, scales[0]))


def _information(correlations: Float[Tensor, "*pair latent"]) -> Float[Tensor, "*pair"]:
    """Return -1/2 sum of log(1 - r^2), the nats by which Gaussian numbers tell of each other."""
    return 0.5 * (1 - correlations.square().clamp(max=1 - 1e-12)).log().sum(-1).abs()


def _least_squares(gram: Float[Tensor, "given given"], right: Float[Tensor, "given right"]) -> Tensor:
    root = _inverse_root(gram, gram.diagonal())
    return root @ (root @ right)


def _inverse_root(covariance: Float[Tensor, "row row"], scale: Float[Tensor, " row"]) -> Float[Tensor, "row row"]:
    """Return the inverse root of a covariance, zero in directions that have next to no part of the scale's variance."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > SINGULAR * float(scale.max())
    return (vectors * torch.where(kept, values.clamp(min=1e-300).rsqrt(), 0.0)) @ vectors.T


def _stack(cases: Sequence[Influence]) -> Influence:
    return Influence(*(torch.stack(values) for values in zip(*cases, strict=True)))


def _none(like: Influence) -> Influence:
    return Influence(*(value[:0] for value in like))
