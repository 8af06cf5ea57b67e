"""Starting values of linear dynamical systems whose latents belong to regions, from moments of the activity.

Each region's readout is found by itself, as that of a linear dynamical system; projected on the readouts, the
covariances between bins are those of the latents, which private noise does not enter, and the dynamics are a regression
on them. Sessions are turned, region by region, until their latents have the same covariances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Layout, Observation
from lvmzoo.inference.lagged_moments import LaggedMoments, Recorded, lagged_moments
from lvmzoo.inference.linear_gaussian import LinearGaussian, zero_moments
from lvmzoo.inference.maximization import noise_floor
from lvmzoo.inference.regional_maximization import solve_regional_dynamics
from lvmzoo.inference.regional_structure import Structure
from lvmzoo.inference.starting import Start, agreeing, identified, starting_drive, starting_readout, untrained
from lvmzoo.inference.subspace import LAGS

__all__ = ["regional_start"]

LEAST = 0.02  # variance, of latents of unit variance, that no direction and no noise may have less of
LARGEST = 0.98  # modulus of an eigenvalue of the starting dynamics
TURNS = 20  # steps by which sessions are made to agree
RIDGE = 1e-3  # of the information about latents, in their projection


def regional_start(
    batches: Callable[[str], Iterable[Recorded]], layouts: Sequence[Layout], structure: Structure
) -> LinearGaussian:
    """Return starting values of sessions that share dynamics, with the units of all sessions one after the other.

    Parameters
    ----------
    batches : gives the data of a session, anew at each call.
    layouts : of the sessions, each with all regions.
    structure : regions of the state.
    """
    starts: list[Start] = []
    responses: list[Tensor] = []
    covariances: list[Tensor] = []
    for layout in layouts:
        lags = max(LAGS, structure.max_lag + 1)
        moments = lagged_moments(partial(batches, layout.session), layout.n_units, lags)
        start = _readouts(moments, layout, structure)
        covariance = _of_latents(moments, start, structure)
        if covariances:
            T = _agreeing(covariances[0], covariance, structure)
            start, covariance = start._replace(readout=start.readout @ T.T), T @ covariance @ T.T
        starts.append(start)
        covariances.append(covariance)
        if moments.response is not None:
            responses.append(moments.response)
    total = sum(layout.n_units for layout in layouts)
    mean = torch.stack([c * (layout.n_units / total) for c, layout in zip(covariances, layouts, strict=True)]).sum(0)
    A, Q, stationary = _dynamics(mean, structure)
    readout = torch.cat([start.readout for start in starts])
    beyond = (0, structure.size - structure.present)
    drive = starting_drive(starts, responses, A[: structure.present, : structure.present]) if responses else None
    return LinearGaussian(
        A,
        Q,
        A.new_zeros(structure.size),
        stationary,
        torch.nn.functional.pad(readout, beyond),
        torch.cat([start.offset for start in starts]),
        torch.cat([start.noise for start in starts]),
        None if drive is None else torch.nn.functional.pad(drive, (0, 0, *beyond)),
        torch.cat([response[0] for response in responses]) if responses else None,
    )


def _readouts(moments: LaggedMoments, layout: Layout, structure: Structure) -> Start:
    """Return the readout of each region by itself, in its own columns."""
    counts = layout.observation is Observation.COUNTS
    readout = moments.mean.new_zeros(layout.n_units, structure.present)
    noise = torch.empty_like(moments.mean)
    for name, rows in structure.regions.items():
        units = layout.region(name)
        own = LaggedMoments(moments.mean[units], moments.covariance[:LAGS, units, units], moments.pairs[:LAGS], None)
        found = identified(starting_readout(own, structure.latents, counts), own, counts)
        readout[units, rows], noise[units] = found.readout, found.noise
    # The floor of private noise is that of the M-step, for which a silent region has the scale of the others.
    noise = torch.maximum(noise, noise_floor(moments.covariance[0].diagonal(), counts))
    return Start(readout, moments.mean, noise, moments.mean.new_zeros(structure.present, structure.present))


def _of_latents(moments: LaggedMoments, start: Start, structure: Structure) -> Float[Tensor, "lag latent latent"]:
    """Return the covariances of the latents of each bin with those of earlier bins; within a region and bin, unity."""
    weights = start.readout / start.noise[:, None]
    gram = start.readout.T @ weights
    project = torch.zeros_like(weights.T)
    for rows in structure.regions.values():
        own = gram[rows, rows]
        ridge = torch.eye(len(own)).to(own) * (RIDGE * own.diagonal().mean()).clamp(min=1e-30)
        project[rows] = torch.linalg.solve(own + ridge, weights.T[rows])
    found = project @ moments.covariance[: structure.max_lag + 1] @ project.T
    for rows in structure.regions.values():
        found[0, rows, rows] = torch.eye(structure.latents).to(found)
    found[0] = (found[0] + found[0].T) / 2
    return found


def _agreeing(
    first: Float[Tensor, "lag latent latent"], other: Float[Tensor, "lag latent latent"], structure: Structure
) -> Float[Tensor, "latent latent"]:
    """Return what turns the latents of another session, region by region, into those of the first.

    Signs come from the strongest couplings, and turns from there by steps to covariances that agree at all lags.
    """
    nothing = first.new_zeros(structure.present, 0)
    T = agreeing(first[1] + first[0], nothing, other[1] + other[0], nothing)
    for _ in range(TURNS):
        pull = (first @ T @ other.mT + first.mT @ T @ other).sum(0)
        pull += T * (torch.linalg.matrix_norm(first, 2) * torch.linalg.matrix_norm(other, 2)).sum()  # no step back
        for rows in structure.regions.values():
            U, _, Vh = torch.linalg.svd(pull[rows, rows])
            T[rows, rows] = U @ Vh
    return T


def _dynamics(
    covariance: Float[Tensor, "lag latent latent"], structure: Structure
) -> tuple[Float[Tensor, "state state"], Float[Tensor, "state state"], Float[Tensor, "state state"]]:
    """Return A, Q and the covariance of the state."""
    latent = torch.empty(structure.size, dtype=torch.long)
    age = torch.empty(structure.size, dtype=torch.long)
    for name, rows in structure.regions.items():
        for lag in range(1, 1 + (structure.max_lag if name in structure.senders else 1)):
            latent[structure.place(name, lag)] = torch.arange(rows.start, rows.stop)
            age[structure.place(name, lag)] = lag - 1
    both = torch.cat([covariance.flip(0)[:-1].mT, covariance])  # lags -max … max
    apart = age - age[:, None] + structure.max_lag
    state = both[apart, latent[:, None], latent]
    values, vectors = torch.linalg.eigh((state + state.T) / 2)
    state = (vectors * values.clamp(min=LEAST)) @ vectors.T
    following = both[(apart + 1).clamp(max=2 * structure.max_lag), latent[:, None], latent]
    shift = structure.shift.to(state)
    start = untrained(0, structure.size, 0)._replace(dynamics=shift, dynamics_noise=torch.eye(len(shift)).to(shift))
    moments = zero_moments(start)._replace(transitions=state.new_ones(()), before=state, after=state, cross=following)
    A, _, Q = solve_regional_dynamics(
        start, moments, structure.regions, structure.allowed, structure.rank, structure.columns
    )
    radius = float(torch.linalg.eigvals(A).abs().max())
    if radius > LARGEST:  # what acts later is raised to a higher power in the state's dynamics
        slower = (LARGEST / radius) ** (age + 1).to(A)
        A = torch.where(structure.allowed.to(A.device), A * slower, shift)
    for rows in structure.regions.values():
        values, vectors = torch.linalg.eigh(Q[rows, rows])
        Q[rows, rows] = (vectors * values.clamp(min=LEAST)) @ vectors.T
    return A, torch.where(structure.noisy.to(Q.device), Q, 0.0), state
