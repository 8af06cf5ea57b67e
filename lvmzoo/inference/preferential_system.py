"""From identified parameters to a system whose Kalman filter runs: in the units of the data, with an invertible R."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.preferential import Identified
from lvmzoo.inference.preferential_gains import System
from lvmzoo.inference.riccati import predicted_covariance, stable

__all__ = ["fading", "less_noise", "usable"]

FLOOR = 1e-9  # smallest eigenvalue of the noise, in units of each unit's own
NOISELESS = 1e-26  # of the largest variance of noise: rounding, as where components have no variance (see ``whiten``)
KEPT = 0.1  # of the smallest eigenvalue of the noise, in units of what was added, that is kept


def usable(
    found: Identified,
    scale: Float[Tensor, " unit"],
    offset: Float[Tensor, " unit"],
    basis: Float[Tensor, "unit component"] | None = None,
    remaining: Float[Tensor, "unit unit"] | None = None,
) -> System:
    """Return the parameters in the units of the data, with the steady covariance of the predictor.

    Dynamics that grow so that no filter follows are scaled to be stable.

    Parameters
    ----------
    found : of scaled activity, or of its components.
    scale, offset : that activity was divided by, after the offset was subtracted.
    basis, remaining : of the components, and the covariance of what they leave; it becomes noise.
    """
    A, Q, S, R, C, D = found.dynamics, found.state_noise, found.cross, found.noise, found.readout, found.feedthrough
    if basis is not None and remaining is not None:
        C, D, S, R = basis @ C, basis @ D, S @ basis.T, basis @ R @ basis.T + remaining
    C, D, S, R = scale[:, None] * C, scale[:, None] * D, S * scale, _invertible(R * torch.outer(scale, scale))
    for dynamics, cross in ((A, S), (stable(A), S), (stable(A), torch.zeros_like(S))):
        solved = torch.linalg.solve(R, torch.cat([C, cross.T], 1))
        n = len(A)
        J, T = _symmetric(C.T @ solved[:, :n]), cross @ solved[:, :n]
        explained = _symmetric(cross @ solved[:, n:])
        state_noise = _positive(Q - explained)
        through = dynamics - T
        P = predicted_covariance(through, state_noise, J)
        if bool(torch.isfinite(P).all()):
            closed = through @ torch.linalg.inv(torch.eye(n, dtype=P.dtype, device=P.device) + P @ J)
            if not n or float(torch.linalg.eigvals(closed).abs().max()) < 1:
                break
    return System(dynamics, found.drive, C, offset, D, state_noise + explained, cross, R, _positive(P))


def fading(dynamics: Float[Tensor, "latent latent"]) -> Float[Tensor, "latent latent"]:
    """Return dynamics by which forecasts do not explode: modes that grow fade as fast instead, the others stay.

    A mode that grows is an artifact of more states than the data have; eigenvalues beyond the unit circle are mirrored.
    """
    values, vectors = torch.linalg.eig(dynamics)
    size = values.abs()
    if not len(size) or float(size.max()) <= 1:
        return dynamics
    mirrored = torch.where(size > 1, values / size.square(), values)
    result = torch.linalg.solve(vectors, vectors * mirrored, left=False).real
    return result if bool(torch.isfinite(result).all()) else stable(dynamics)


def less_noise(found: Identified, added: Float[Tensor, " unit"]) -> Identified:
    """Return the parameters without white noise that was added to the activity, as far as noise remains."""
    if not len(added) or float(added.min()) <= 0:
        return found
    scale = added.rsqrt()
    least = float(torch.linalg.eigvalsh(found.noise * torch.outer(scale, scale))[0])
    return found._replace(noise=found.noise - min(1.0, (1 - KEPT) * max(least, 0.0)) * torch.diag(added))


def _invertible(R: Float[Tensor, "unit unit"]) -> Float[Tensor, "unit unit"]:
    """Return R, with a little noise of each unit where some directions have none: silent and duplicated units."""
    own = R.diagonal()
    own = torch.where(own > NOISELESS * own.max().clamp(min=1e-300), own, 1.0)
    silent = torch.where(R.diagonal() == own, 0.0, 1.0)
    R = R + torch.diag(silent)
    scale = own.sqrt()
    least = float(torch.linalg.eigvalsh(R / torch.outer(scale, scale))[0])
    return R if least > FLOOR else R + torch.diag((FLOOR - min(least, 0.0)) * own)


def _positive(matrix: Float[Tensor, "latent latent"]) -> Float[Tensor, "latent latent"]:
    """Return the nearest positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(_symmetric(matrix))
    return (
        _symmetric(matrix) if not len(values) or float(values[0]) >= 0 else (vectors * values.clamp(min=0)) @ vectors.T
    )


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
