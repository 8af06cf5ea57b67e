"""Smoothing of Gaussian chains whose evidence differs in every bin of every trial, as sites exp(h'x - x'Jx/2).

All trials go through a bin together, in batches of small matrices. Every covariance is a Gram matrix or a sum of them,
so it stays positive semidefinite however singular the evidence J. A bin without evidence has J = 0 and h = 0, and so
have the bins after a trial's end.

Evidence may be of the first latents alone. Where the last latents only remember what the first were in the bin before,
whatever is remembered is known for certain once the bin after is, and all that is left to infer is what is forgotten.
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
    """Gaussian evidence of each bin about the first latents x, exp(h'x - x'Jx/2)."""

    precision: Float[Tensor, "bin trial shown shown"]  # J
    shift: Float[Tensor, "bin trial shown"]  # h


class Smoothed(NamedTuple):
    """The posterior of a chain given its sites."""

    mean: Float[Tensor, "bin trial latent"]
    covariance: Float[Tensor, "bin trial latent latent"]
    forgotten: Float[Tensor, "transition trial forgotten latent"]  # gain of the latents that the next bin forgets
    log_normalizer: Float[Tensor, " trial"]  # log of the integral of the prior times the sites; NaN: they are too sharp

    @property
    def gain(self) -> Float[Tensor, "transition trial latent latent"]:
        """G of Cov(x_t, x_{t+1}) = G_t Cov(x_{t+1})."""
        transitions, trials, forgotten, latents = self.forgotten.shape
        kept = torch.eye(latents).to(self.forgotten)[forgotten:]
        return torch.cat([kept.expand(transitions, trials, -1, -1), self.forgotten], 2)

    def shown(self, latents: int) -> tuple[Float[Tensor, "bin trial shown"], Float[Tensor, "bin trial shown shown"]]:
        """Return the mean and covariance of the first latents."""
        return self.mean[..., :latents], self.covariance[..., :latents, :latents]


def smooth(chain: Chain, sites: Sites) -> Smoothed:
    """Return the posterior of all bins and the normalizer of the sites under the prior."""
    A, J, h = chain.dynamics, sites.precision, sites.shift
    (bins, trials, shown), latents = h.shape, len(A)
    fresh = _fresh(chain)
    identity = torch.eye(shown, dtype=h.dtype, device=h.device)
    noise = chain.noise.expand(trials, -1, -1)
    root, half = h.new_empty(2, bins, trials, latents, latents)  # P = L L', V = W' W
    through = h.new_empty(max(0, bins - 1), trials, latents, latents)  # W A'
    determinant_root = torch.empty_like(J)
    predicted, mean = h.new_empty(2, bins, trials, latents)
    linear = h.new_zeros(trials)
    failed = torch.zeros(trials, dtype=torch.int32, device=h.device)
    P, mp = chain.initial_covariance, chain.initial_mean[..., None]
    for t in range(bins):
        L = root_of(P)
        corner, mine = L[:, :shown, :shown], mp[:, :shown]  # of a triangular L, all that meets the evidence
        K, info = torch.linalg.cholesky_ex(torch.baddbmm(identity, torch.bmm(corner.mT, J[t]), corner))
        failed |= info
        W = half[t]
        W[:, :shown] = torch.linalg.solve_triangular(K, L[:, :, :shown].mT, upper=False)
        W[:, shown:] = L[:, :, shown:].mT
        residual = torch.baddbmm(h[t, :, :, None], J[t], mine, alpha=-1.0)
        innovation = torch.bmm(W[:, :shown, :shown], residual)
        m = torch.baddbmm(mp, W[:, :shown].mT, innovation)
        linear += innovation.square().sum((1, 2)) + ((h[t, :, :, None] + residual) * mine).sum((1, 2))
        root[t], determinant_root[t], predicted[t], mean[t] = L, K, mp[..., 0], m[..., 0]
        if t + 1 < bins:
            U = through[t]
            U[..., :fresh] = W @ A[:fresh].T
            U[..., fresh:] = W[..., : latents - fresh]
            P = torch.baddbmm(noise, U.mT, U)
            mp = A @ m
            if chain.drive is not None:
                mp = mp + chain.drive[t, :, :, None]
    log_determinant = determinant_root.diagonal(dim1=-2, dim2=-1).log().sum((0, 2))
    del determinant_root
    kept, left = slice(0, latents - fresh), slice(latents - fresh, latents)
    gain, conditional = _conditionals(chain, root[1:], half[:-1], through, left, fresh)
    covariance = torch.empty_like(half)
    covariance[-1] = half[-1].mT @ half[-1]
    if bins > 1:
        mean[:-1, :, left] -= (gain @ predicted[1:, :, :, None])[..., 0]
    for t in range(bins - 2, -1, -1):
        G, now, after = gain[t], covariance[t], covariance[t + 1]
        carried = torch.bmm(G, after)
        now[:, left, left] = torch.baddbmm(conditional[t], carried, G.mT)
        if fresh < latents:
            now[:, kept, kept] = after[:, fresh:, fresh:]
            now[:, left, kept] = carried[:, :, fresh:]
            now[:, kept, left] = carried[:, :, fresh:].mT
            mean[t, :, kept] = mean[t + 1, :, fresh:]
        mean[t, :, left, None].baddbmm_(G, mean[t + 1, :, :, None])
    normalizer = (0.5 * linear - log_determinant).masked_fill(failed != 0, torch.nan)
    return Smoothed(mean, covariance, gain, normalizer)


def _fresh(chain: Chain) -> int:
    """Return how many latents come first that are not, from there on, what the first latents were one bin before."""
    latents = len(chain.dynamics)
    identity = torch.eye(latents).to(chain.dynamics)
    quiet = chain.noise.abs().amax(1) == 0
    if chain.drive is not None:
        quiet &= chain.drive.abs().amax((0, 1)) == 0
    for fresh in range(1, latents):
        if bool(quiet[fresh:].all()) and torch.equal(chain.dynamics[fresh:], identity[: latents - fresh]):
            return fresh
    return latents


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


def _conditionals(
    chain: Chain, root: Tensor, half: Tensor, through: Tensor, left: slice, fresh: int
) -> tuple[Tensor, Tensor]:
    """Return the gains of the smoother and the covariance of each bin given the bin after, of the latents ``left``.

    With the gain G = V A' P^-1 that covariance is (I - GA) V (I - GA)' + G Q G': a sum of Gram matrices.
    """
    gain = torch.cholesky_solve(through.mT @ half[..., left], root).mT.contiguous()
    remaining = half[..., left] - through @ gain.mT
    new = gain[..., :fresh]  # the others have no noise
    return gain, remaining.mT @ remaining + new @ chain.noise[:fresh, :fresh] @ new.mT
