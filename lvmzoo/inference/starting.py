"""Starting values for linear dynamical systems, from second moments of the activity within and between bins.

Factor analysis of the covariance within a bin gives a readout of latents with unit variance; the covariance one bin
apart, free of private noise, then gives their dynamics. Subspace identification finds both from the covariances between
bins. Latents are rotated to a form that depends on the dynamics alone, in which sessions with different units agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.lagged_moments import LaggedMoments, Recorded, lagged_moments
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.maximization import least_norm, noise_floor
from lvmzoo.inference.subspace import LAGS, identify

__all__ = [
    "Start",
    "agreeing",
    "factor_analysis",
    "identified",
    "shared_dynamics",
    "starting_drive",
    "starting_readout",
    "starting_values",
    "untrained",
]

LARGEST = 0.98  # singular value of the starting dynamics, which leaves room for noise
EQUALLY_SLOW = 0.02  # difference of the dynamics' diagonal that cannot tell latents apart
LARGEST_IDENTIFIED = 0.9975  # the same, where the dynamics are near the truth already


class Start(NamedTuple):
    """Starting values of one session: its readout, and what it says about the dynamics of latents of unit variance."""

    readout: Float[Tensor, "unit latent"]
    offset: Float[Tensor, " unit"]
    noise: Float[Tensor, " unit"]
    dynamics: Float[Tensor, "latent latent"]


def untrained(units: int, latents: int, channels: int) -> LinearGaussian:
    """Return parameters of the right shapes, before any data were seen: slow latents, a small random readout."""
    identity = torch.eye(latents, dtype=torch.float64)
    zeros = identity.new_zeros
    readout = torch.randn(units, latents, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return LinearGaussian(
        0.9 * identity,
        (1 - 0.9**2) * identity,
        zeros(latents),
        identity.clone(),
        0.1 * readout,
        zeros(units),
        identity.new_ones(units),
        zeros(latents, channels) if channels else None,
        zeros(units, channels) if channels else None,
    )


def starting_values(
    batches: Callable[[str], Iterable[Recorded]],
    units: Mapping[str, int],
    latents: int,
    counts: bool,
    subspace: bool,
    diagonal: bool,
) -> LinearGaussian:
    """Return starting values of sessions that share dynamics, with the units of all sessions one after the other.

    Parameters
    ----------
    batches : gives the data of a session, anew at each call.
    units : sessions, and how many units each has.
    latents : number of latents.
    counts : activity is spikes per bin.
    subspace : start by subspace identification; otherwise by factor analysis.
    diagonal : latents are independent of each other.
    """
    starts, responses = [], []
    for session, number in units.items():
        moments = lagged_moments(partial(batches, session), number, LAGS if subspace else 2)
        start = starting_readout(moments, latents, counts)
        starts.append(identified(start, moments, counts) if subspace else start)
        responses.append(moments.response)
    weights = [float(number) for number in units.values()]
    starts, A, Q = shared_dynamics(starts, responses, weights, LARGEST_IDENTIFIED if subspace else LARGEST)
    if diagonal:
        A, Q = torch.diag(A.diagonal()), torch.diag(1 - A.diagonal().square())
    known = [response for response in responses if response is not None]
    return LinearGaussian(
        A,
        Q,
        A.new_zeros(latents),
        torch.eye(latents, dtype=A.dtype, device=A.device),
        torch.cat([start.readout for start in starts]),
        torch.cat([start.offset for start in starts]),
        torch.cat([start.noise for start in starts]),
        starting_drive(starts, known, A) if known else None,
        torch.cat([response[0] for response in known]) if known else None,
    )


def identified(start: Start, moments: LaggedMoments, counts: bool) -> Start:
    """Return what subspace identification makes of a start; the same start where that is impossible."""
    found = identify(moments.covariance, moments.pairs, start.noise, start.readout.shape[1])
    if found is None:
        return start
    variance = moments.covariance[0].diagonal()
    noise = torch.maximum(variance - found.readout.square().sum(1), noise_floor(variance, counts))
    return turned(Start(found.readout, start.offset, noise, found.dynamics))


def factor_analysis(
    covariance: Float[Tensor, "unit unit"], latents: int, iterations: int = 50
) -> tuple[Float[Tensor, "unit latent"], Float[Tensor, " unit"]]:
    """Return loadings and private variances of a covariance, by EM from its principal components.

    Rubin, Thayer (1982) Psychometrika 47, 69, doi:10.1007/BF02293851.
    """
    variance = covariance.diagonal()
    scale = variance.clamp(min=max(1e-12 * float(variance.mean()), 1e-30)).sqrt()
    correlation = covariance / torch.outer(scale, scale)
    values, vectors = torch.linalg.eigh(correlation)
    rank = min(latents, len(values))
    top = values.flip(0)[:rank]
    rest = float(values.flip(0)[rank:].mean()) if rank < len(values) else 0.1 * float(values.mean())
    C = correlation.new_zeros(len(values), latents)
    C[:, :rank] = vectors.flip(1)[:, :rank] * (top - rest).clamp(min=1e-3).sqrt()
    r = (1 - C.square().sum(1)).clamp(min=0.05)
    identity = torch.eye(latents, dtype=C.dtype, device=C.device)
    for _ in range(iterations):
        weights = C / r[:, None]
        beta = torch.linalg.solve(identity + C.T @ weights, weights.T)
        product = correlation @ beta.T
        C = torch.linalg.solve(identity - beta @ C + beta @ product, product, left=False)
        r = (correlation.diagonal() - (C * product).sum(1)).clamp(min=1e-3)
    if rank < latents:  # latents that no unit needs: small loadings, so that EM can use them
        generator = torch.Generator().manual_seed(0)
        extra = torch.randn(len(values), latents - rank, generator=generator, dtype=torch.float64)
        C[:, rank:] = 0.1 * extra.to(C)
    return C * scale[:, None], r * scale.square()


def starting_readout(moments: LaggedMoments, latents: int, counts: bool) -> Start:
    """Return a readout of latents with unit variance, slow ones first, and their dynamics one bin ahead."""
    within, lagged = moments.covariance[:2]
    C, r = factor_analysis(within, latents)
    r = torch.maximum(r, noise_floor(within.diagonal(), counts))
    weights = C / r[:, None]
    gram = C.T @ weights
    ridge = torch.eye(latents, dtype=C.dtype, device=C.device) * (1e-3 * gram.diagonal().mean()).clamp(min=1e-30)
    project = torch.linalg.solve(gram + ridge, weights.T)
    return turned(Start(C, moments.mean, r, project @ lagged @ project.T))


def turned(start: Start) -> Start:
    """Return the same model with latents ordered by how slow they are, a form that units do not enter."""
    C, A = start.readout, start.dynamics
    _, rotation = torch.linalg.eigh(A + A.T)
    rotation = rotation.flip(1)
    C = C @ rotation
    rows = C.abs().argmax(0, keepdim=True)
    sign = torch.where(C.gather(0, rows)[0] < 0, -1.0, 1.0).to(C)
    return start._replace(readout=C * sign, dynamics=sign[:, None] * (rotation.T @ A @ rotation) * sign)


def shared_dynamics(
    starts: list[Start], responses: list[Tensor | None], weights: list[float], largest: float = LARGEST
) -> tuple[list[Start], Float[Tensor, "latent latent"], Float[Tensor, "latent latent"]]:
    """Return the sessions with their latents made to agree, their mean dynamics, and its noise.

    Singular values of the dynamics above ``largest`` would leave no noise.
    """
    drives = [
        start.dynamics[:, :0] if response is None else starting_drive([start], [response], start.dynamics)
        for start, response in zip(starts, responses, strict=True)
    ]
    first = starts[0].dynamics
    aligned = [
        start._replace(readout=start.readout @ T.T, dynamics=T @ start.dynamics @ T.T)
        for start, drive in zip(starts, drives, strict=True)
        for T in [agreeing(first, drives[0], start.dynamics, drive)]
    ]
    mean = sum((w * s.dynamics for w, s in zip(weights, aligned, strict=True)), torch.zeros_like(first)) / sum(weights)
    U, values, Vh = torch.linalg.svd(mean)
    A = (U * values.clamp(max=largest)) @ Vh
    identity = torch.eye(len(A), dtype=A.dtype, device=A.device)
    return aligned, A, identity - A @ A.T


def agreeing(
    A: Float[Tensor, "latent latent"],
    B: Float[Tensor, "latent channel"],
    other_A: Float[Tensor, "latent latent"],
    other_B: Float[Tensor, "latent channel"],
) -> Float[Tensor, "latent latent"]:
    """Return the orthogonal matrix that turns the latents of another session into those of the first.

    The slowness of the latents says which is which. Their signs follow from the part of the dynamics that turns one
    into another, and from the drive; where latents are equally slow, as in a plane that rotates, they can be turned
    among each other without a change of the dynamics, and the drive alone decides.
    """
    coupling = other_A * A
    own = (other_B * B).sum(1)
    coupling = coupling - torch.diag(coupling.diagonal())
    agreement = torch.zeros(len(A) + 1, len(A) + 1).to(A)  # the last row is the drive, whose sign is known
    agreement[:-1, :-1] = coupling + coupling.T
    agreement[-1, :-1] = agreement[:-1, -1] = own
    leading = torch.linalg.eigh(agreement)[1][:, -1]
    sign = torch.where(leading[:-1] * torch.where(leading[-1] < 0, -1.0, 1.0) < 0, -1.0, 1.0).to(A)
    T = torch.diag(sign)
    slowness = A.diagonal()
    edges = [0, *(1 + (slowness[:-1] - slowness[1:] > EQUALLY_SLOW).nonzero()[:, 0]).tolist(), len(A)]
    for start, stop in itertools.pairwise(edges):
        if stop - start > 1 and B.shape[1]:
            among = slice(start, stop)
            U, _, Vh = torch.linalg.svd(B[among] @ (sign[among, None] * other_B[among]).T)
            if torch.linalg.det(U @ Vh) < 0:  # a mirror image would turn the other way round
                U[:, -1] *= -1
            T[among, among] = U @ Vh @ T[among, among]
    return T


def starting_drive(
    starts: list[Start], responses: list[Tensor], dynamics: Float[Tensor, "latent latent"]
) -> Float[Tensor, "latent channel"]:
    """Return what the inputs add to the latents, from the responses of all sessions one bin later and after that."""
    gram, cross = dynamics.new_zeros(()), dynamics.new_zeros(())
    for start, response in zip(starts, responses, strict=True):
        effect = start.readout  # of the inputs that many bins later
        for later in response[1:]:
            weighted = (effect / start.noise[:, None]).T
            gram, cross = gram + weighted @ effect, cross + weighted @ later
            effect = effect @ dynamics
    return least_norm(gram, cross)
