"""Smoothing of Gaussian chains whose evidence differs in every bin of every trial, as sites exp(h'x - x'Jx/2).

All trials go through a bin together, in batches of small matrices. Every covariance is a Gram matrix or a sum of them,
so it stays positive semidefinite however singular the evidence J. A bin without evidence has J = 0 and h = 0, and so
have the bins after a trial's end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Chain", "Sites", "Smoothed", "root_of", "smooth"]

SINGULAR = 1e-14  # smallest eigenvalue of a covariance, relative to the largest, where it is singular to rounding


class Chain(NamedTuple):
    """The prior of the latents: x_1 ~ N(mu, V), x_{t+1} = A x_t + b_t + w, w ~ N(0, Q)."""

    dynamics: Float[Tensor, "latent latent"]  # A
    noise: Float[Tensor, "latent latent"]  # Q
    initial_mean: Float[Tensor, "trial latent"]  # mu
    initial_covariance: Float[Tensor, "trial latent latent"]  # V
    drive: Float[Tensor, "bin trial latent"] | None = None  # b, of the known inputs


class Sites(NamedTuple):
    """Gaussian evidence of each bin, exp(h'x - x'Jx/2)."""

    precision: Float[Tensor, "bin trial latent latent"]  # J
    shift: Float[Tensor, "bin trial latent"]  # h


class Smoothed(NamedTuple):
    """The posterior of a chain given its sites."""

    mean: Float[Tensor, "bin trial latent"]
    covariance: Float[Tensor, "bin trial latent latent"]
    gain: Float[Tensor, "transition trial latent latent"]  # G: Cov(x_t, x_{t+1}) = G_t Cov(x_{t+1})
    log_normalizer: Float[Tensor, " trial"]  # log of the integral of the prior times the sites; NaN: they are too sharp


def smooth(chain: Chain, sites: Sites) -> Smoothed:
    """Return the posterior of all bins and the normalizer of the sites under the prior."""
    A, J, h = chain.dynamics, sites.precision, sites.shift
    bins, trials, latents = h.shape
    identity = torch.eye(latents, dtype=h.dtype, device=h.device)
    noise = chain.noise.expand(trials, -1, -1)
    root, half = torch.empty_like(J), torch.empty_like(J)  # P = L L', V = W' W
    determinant_root = torch.empty_like(J)
    predicted, mean = torch.empty_like(h), torch.empty_like(h)
    linear = h.new_zeros(trials)
    failed = torch.zeros(trials, dtype=torch.int32, device=h.device)
    P, mp = chain.initial_covariance, chain.initial_mean[..., None]
    for t in range(bins):
        L = root_of(P)
        K, info = torch.linalg.cholesky_ex(torch.baddbmm(identity, torch.bmm(L.mT, J[t]), L))
        failed |= info
        W = torch.linalg.solve_triangular(K, L.mT, upper=False)
        residual = torch.baddbmm(h[t, :, :, None], J[t], mp, alpha=-1.0)
        innovation = torch.bmm(W, residual)
        m = torch.baddbmm(mp, W.mT, innovation)
        linear += innovation.square().sum((1, 2)) + ((h[t, :, :, None] + residual) * mp).sum((1, 2))
        root[t], half[t], determinant_root[t], predicted[t], mean[t] = L, W, K, mp[..., 0], m[..., 0]
        if t + 1 < bins:
            U = W @ A.T
            P = torch.baddbmm(noise, U.mT, U)
            mp = A @ m
            if chain.drive is not None:
                mp = mp + chain.drive[t, :, :, None]
    log_determinant = determinant_root.diagonal(dim1=-2, dim2=-1).log().sum((0, 2))
    del determinant_root
    gain, covariance = _conditionals(chain, root, half, identity)
    if bins > 1:
        mean[:-1] -= (gain @ predicted[1:, :, :, None])[..., 0]
    for t in range(bins - 2, -1, -1):
        G = gain[t]
        covariance[t].baddbmm_(torch.bmm(G, covariance[t + 1]), G.mT)
        mean[t, :, :, None].baddbmm_(G, mean[t + 1, :, :, None])
    normalizer = (0.5 * linear - log_determinant).masked_fill(failed != 0, torch.nan)
    return Smoothed(mean, covariance, gain, normalizer)


def root_of(P: Float[Tensor, "case latent latent"]) -> Float[Tensor, "case latent latent"]:
    """Return the lower triangular roots of covariances, which may be singular to rounding."""
    root, info = torch.linalg.cholesky_ex(P)
    if bool(info.any()):
        which = info != 0
        values, vectors = torch.linalg.eigh(P[which])
        kept = torch.maximum(values, SINGULAR * values[:, -1:]).sqrt()
        upper = torch.linalg.qr((vectors * kept[:, None]).mT)[1]
        root[which] = (upper * torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None]).mT
    return root


def _conditionals(chain: Chain, root: Tensor, half: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gains of the smoother and the covariance of each bin given the bin after (of the last bin, its own).

    With the gain G = V A' P^-1 that covariance is (I - GA) V (I - GA)' + G Q G': a sum of Gram matrices.
    """
    A = chain.dynamics
    forward = half[:-1]
    across = (forward @ A.T).mT @ forward  # A V
    gain = torch.cholesky_solve(across, root[1:]).mT.contiguous()
    remaining = forward @ (identity - gain @ A).mT
    covariance = torch.empty_like(half)
    covariance[:-1] = remaining.mT @ remaining + gain @ chain.noise @ gain.mT
    covariance[-1] = half[-1].mT @ half[-1]
    return gain, covariance
