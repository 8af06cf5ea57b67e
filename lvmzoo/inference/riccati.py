"""Steady states of the Kalman filter, by doubling: each step does the work of all the steps before it.

Nothing of size (unit, unit) is formed: what bins tell enters through J = C' R^-1 C. Neither Q nor J has to be
invertible. Chu, Fan, Lin, Wang (2004), Structure-preserving algorithms for periodic discrete-time algebraic Riccati
equations, Int. J. Control 77, 767, doi:10.1080/00207170410001714988; Anderson, Moore (1979), Optimal Filtering, 6.7.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["predicted_covariance", "stable", "stationary_covariance"]

DOUBLINGS = 60
STEADY = 1e-15  # largest relative change that counts as none
RADIUS = 0.999  # largest modulus of an eigenvalue of dynamics that have a steady state


def stable(dynamics: Float[Tensor, "*case latent latent"]) -> Float[Tensor, "*case latent latent"]:
    """Return dynamics that decay: scaled as a whole where they would grow for ever, or fade in over 1000 bins.

    Zeros stay zeros.
    """
    radius = torch.linalg.eigvals(dynamics).abs().amax(-1)
    return dynamics * (RADIUS / radius.clamp(min=RADIUS))[..., None, None]


def predicted_covariance(
    dynamics: Float[Tensor, "*#case latent latent"],
    noise: Float[Tensor, "*#case latent latent"],
    information: Float[Tensor, "*#case latent latent"],
) -> Float[Tensor, "*case latent latent"]:
    """Return the steady covariance P = A (I + P J)^-1 P A' + Q of the latents of a bin given all bins before it.

    Parameters
    ----------
    dynamics : A, with all eigenvalues inside the unit circle.
    noise : Q.
    information : J.
    """
    identity = torch.eye(dynamics.shape[-1], dtype=dynamics.dtype, device=dynamics.device)
    A, G, P = torch.broadcast_tensors(dynamics.mT, information, noise)
    for _ in range(DOUBLINGS):
        W = torch.linalg.solve(identity + G @ P, torch.cat([A, G], -1))
        through, gained = W.split(A.shape[-1], -1)
        step = _symmetric(A.mT @ P @ through)
        G, A, P = _symmetric(G + A @ gained @ A.mT), A @ through, P + step
        if float(step.abs().max()) <= STEADY * float(P.abs().max()):
            break
    return P


def stationary_covariance(
    dynamics: Float[Tensor, "*case latent latent"], noise: Float[Tensor, "*case latent latent"]
) -> Float[Tensor, "*case latent latent"]:
    """Return the covariance S = A S A' + Q of latents that have been running for ever.

    All eigenvalues of the dynamics lie inside the unit circle.
    """
    A, S = dynamics, noise
    for _ in range(DOUBLINGS):
        step = A @ S @ A.mT
        S, A = S + step, A @ A
        if float(step.abs().max()) <= STEADY * float(S.abs().max()):
            break
    return _symmetric(S)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
