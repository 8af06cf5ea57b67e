r"""Subspace identification of a linear dynamical system, from the covariances of activity between bins.

The covariance of future and past, the block-Hankel matrix of :math:`\Lambda_k = C A^k \Sigma C'` (lag k, k >= 1), has
the rank of the latents, and private noise does not enter it. In units of that noise its leading singular vectors, the
past whitened, span what the past tells about the future; the shift from one bin of the future to the next gives A.
Van Overschee, De Moor (1996), Subspace identification for linear systems, doi:10.1007/978-1-4613-0465-4; Katayama
(2005), Subspace methods for system identification, doi:10.1007/1-84628-158-X.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LAGS", "Identified", "identify"]

HORIZON = 5  # bins of the past, and of the future
ENOUGH = 0.3  # pairs of the longest lag per pair of neighboring bins: in shorter trials factor analysis starts better
LAGS = 2 * HORIZON  # of the covariances that are needed, zero included
WIDTH = 3  # dimensions of the activity per latent in which the Hankel matrix is formed
RIDGE = 1e-6  # of the past's covariance
STABLE = 0.999  # largest modulus of an eigenvalue


class Identified(NamedTuple):
    """Latents of unit variance."""

    readout: Float[Tensor, "unit latent"]
    dynamics: Float[Tensor, "latent latent"]


def identify(
    covariance: Float[Tensor, "lag unit unit"],
    pairs: Float[Tensor, " lag"],
    noise: Float[Tensor, " unit"],
    latents: int,
) -> Identified | None:
    """Return readout and dynamics; None where trials are too short, or the activity has too few dimensions for it.

    Parameters
    ----------
    covariance : of bins with those that many bins before them.
    pairs : number of pairs of bins of each lag.
    noise : private variance of each unit, roughly: the scale on which units are compared.
    latents : number of latents.
    """
    horizon = len(covariance) // 2
    scale = noise.sqrt()
    scaled = covariance / torch.outer(scale, scale)
    spread = sum((lag @ lag.T + lag.T @ lag for lag in scaled[1:]), torch.zeros_like(scaled[0]))
    basis = torch.linalg.eigh(spread)[1].flip(1)[:, : max(16, WIDTH * latents)]
    width = basis.shape[1]
    if pairs[-1] < ENOUGH * pairs[1].clamp(min=1) or width < latents:
        return None
    small = basis.T @ scaled @ basis
    hankel = torch.cat([torch.cat([small[a + b + 1] for b in range(horizon)], 1) for a in range(horizon)])
    toeplitz = torch.cat(
        [torch.cat([small[b - a] if b >= a else small[a - b].T for b in range(horizon)], 1) for a in range(horizon)]
    )  # of the past (y_{t-1}, y_{t-2}, …): block (a, b) is E y_{t-1-a} y_{t-1-b}'
    values, vectors = torch.linalg.eigh((toeplitz + toeplitz.T) / 2)
    whiten = vectors * values.clamp(min=max(RIDGE * float(values[-1]), 1e-300)).rsqrt()
    U, strength, Vh = torch.linalg.svd(hankel @ whiten, full_matrices=False)
    if not float(strength[latents - 1]) > 1e-9 * float(strength[0]):
        return None
    strength = strength[:latents].sqrt()
    observability = U[:, :latents] * strength
    A = torch.linalg.lstsq(observability[:-width], observability[width:]).solution
    first = torch.cat([scaled[b + 1] @ basis for b in range(horizon)], 1)  # the units' own, outside the basis, too
    C = first @ whiten @ (Vh[:latents].T / strength)
    values, modes = torch.linalg.eig(A)
    if not float(torch.linalg.cond(modes)) < 1e8:
        return None
    values = values * (STABLE / values.abs().clamp(min=1e-12)).clamp(max=1.0)
    A = ((modes * values) @ torch.linalg.inv(modes)).real
    predictable = torch.diag(strength.square())  # covariance of the latents as the past predicts them
    variance = _variance(scaled[1:], C, values, modes, predictable)
    root = torch.linalg.cholesky(variance)
    return Identified(scale[:, None] * (C @ root), torch.linalg.solve(root, A @ root))


def _variance(
    scaled: Float[Tensor, "lag unit unit"], C: Tensor, values: Tensor, modes: Tensor, predictable: Tensor
) -> Float[Tensor, "latent latent"]:
    """Return the covariance of the latents: what fits all lags best, and not less than the predictable part.

    In the modes of the dynamics each lag says X_k = diag(values)^k S, one number after the other.
    """
    read = torch.linalg.pinv(C)
    lagged = torch.linalg.solve(modes, (read @ scaled @ read.T).to(modes))
    powers = torch.stack([values**k for k in range(1, len(scaled) + 1)])[..., None]
    fitted = (powers.conj() * lagged).sum(0) / powers.abs().square().sum(0).clamp(min=1e-12)
    variance = (modes @ fitted).real
    rest, axes = torch.linalg.eigh((variance + variance.T) / 2 - predictable)
    return predictable + (axes * rest.clamp(min=1e-3 * float(predictable.diagonal().mean()))) @ axes.T
