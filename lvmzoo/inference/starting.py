"""Starting values for linear dynamical systems, from second moments of the activity within a bin and one bin apart.

Factor analysis of the covariance gives a readout of latents with unit variance; the covariance one bin apart, free of
private noise, then gives their dynamics. Latents are rotated to a form that depends on the dynamics alone, in which
sessions with different units agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.inference.maximization import noise_floor
from lvmzoo.inference.patterns import patterns, residual_blocks

__all__ = ["LaggedMoments", "Start", "factor_analysis", "lagged_moments", "shared_dynamics", "starting_readout"]

WINDOW = 256  # bins: pairs of neighboring bins are taken within windows of a trial
BUDGET = 5e9  # products of activity to sum; of more data, evenly spread windows are used
LARGEST = 0.98  # singular value of the starting dynamics, which leaves room for noise

Activity = tuple[Num[Tensor, "trial bin unit"], Bool[Tensor, "trial bin"], Bool[Tensor, "trial bin unit"], Tensor]


class LaggedMoments(NamedTuple):
    """Moments of one session's activity."""

    mean: Float[Tensor, " unit"]
    covariance: Float[Tensor, "unit unit"]  # within a bin
    lagged: Float[Tensor, "unit unit"]  # of a bin with the one before


class Start(NamedTuple):
    """Starting values of one session: its readout, and what it says about the dynamics."""

    readout: Float[Tensor, "unit latent"]
    offset: Float[Tensor, " unit"]
    noise: Float[Tensor, " unit"]
    dynamics: Float[Tensor, "latent latent"]


def lagged_moments(batches: Callable[[], Iterable[Activity]], units: int) -> LaggedMoments:
    """Sum the moments of one session in two passes; missing samples count as the unit's mean.

    Parameters
    ----------
    batches : gives (activity, valid, observed, index of each trial) of each batch anew.
    units : number of units.
    """
    total = torch.zeros(units, dtype=torch.float64)
    samples = torch.zeros(units, dtype=torch.float64)
    bins = 0
    for activity, valid, observed, _ in batches():
        total, samples = total.to(activity.device), samples.to(activity.device)
        zero = torch.zeros_like(total)
        bins += int(valid.sum())
        for pattern in patterns(valid, observed):
            if pattern.mask is None:
                samples += pattern.seen.sum() * pattern.units
            else:
                samples += pattern.mask.sum((0, 1))
            for _, _, block in residual_blocks(activity, zero, pattern, 0, pattern.bins):
                total.addmv_(block.T, block.new_ones(len(block)))
    mean = total / samples.clamp(min=1)
    stride = max(1, round(bins * units**2 / BUDGET))
    within, lagged = mean.new_zeros(units, units), mean.new_zeros(units, units)
    counted, pairs = torch.zeros_like(mean), 0
    for activity, valid, observed, index in batches():
        for pattern in patterns(valid, observed):
            for start in range(0, pattern.bins, WINDOW):
                stop = min(start + WINDOW, pattern.bins)
                used = (index.to(mean.device)[pattern.rows] + start // WINDOW) % stride == 0
                if not bool(used.any()):
                    continue
                for who, when, block in residual_blocks(activity, mean, pattern, start, stop):
                    cube = block.view(who.stop - who.start, -1, units)
                    seen = pattern.seen[who, when]
                    shown = seen[..., None] & (pattern.units if pattern.mask is None else pattern.mask[who, when])
                    if stride > 1:
                        cube, seen, shown = cube[used[who]], seen[used[who]], shown[used[who]]
                    flat = cube.flatten(0, 1)
                    within.addmm_(flat.T, flat)
                    lagged.addmm_(cube[:, 1:].flatten(0, 1).T, cube[:, :-1].flatten(0, 1))
                    counted += shown.sum((0, 1))
                    pairs += int((seen[:, 1:] & seen[:, :-1]).sum())
    scale = counted.clamp(min=1).sqrt()
    scale = torch.outer(scale, scale)
    share = pairs / max(1.0, float(counted.max()))
    return LaggedMoments(mean, within / scale, lagged / scale / max(share, 1e-12))


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
    C, r = factor_analysis(moments.covariance, latents)
    r = torch.maximum(r, noise_floor(moments.covariance.diagonal(), counts))
    weights = C / r[:, None]
    gram = C.T @ weights
    ridge = torch.eye(latents, dtype=C.dtype, device=C.device) * (1e-3 * gram.diagonal().mean()).clamp(min=1e-30)
    project = torch.linalg.solve(gram + ridge, weights.T)
    A = project @ moments.lagged @ project.T
    _, rotation = torch.linalg.eigh(A + A.T)
    rotation = rotation.flip(1)
    C = C @ rotation
    rows = C.abs().argmax(0, keepdim=True)
    sign = torch.where(C.gather(0, rows)[0] < 0, -1.0, 1.0).to(C)
    return Start(C * sign, moments.mean, r, sign[:, None] * (rotation.T @ A @ rotation) * sign)


def shared_dynamics(
    starts: list[Start], weights: list[float]
) -> tuple[list[Start], Float[Tensor, "latent latent"], Float[Tensor, "latent latent"]]:
    """Return the sessions with the signs of their latents made to agree, their mean dynamics, and its noise.

    Only the part of the dynamics that turns one latent into another depends on the signs.
    """
    first = starts[0].dynamics
    aligned = [starts[0]]
    for start in starts[1:]:
        agreement = start.dynamics * first
        agreement = agreement - torch.diag(agreement.diagonal())
        sign = torch.where(torch.linalg.eigh(agreement + agreement.T)[1][:, -1] < 0, -1.0, 1.0).to(first)
        aligned.append(start._replace(readout=start.readout * sign, dynamics=sign[:, None] * start.dynamics * sign))
    mean = sum((w * s.dynamics for w, s in zip(weights, aligned, strict=True)), torch.zeros_like(first)) / sum(weights)
    U, values, Vh = torch.linalg.svd(mean)
    A = (U * values.clamp(max=LARGEST)) @ Vh
    identity = torch.eye(len(A), dtype=A.dtype, device=A.device)
    return aligned, A, identity - A @ A.T
