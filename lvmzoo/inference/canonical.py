"""Which of the equivalent parameters of a linear dynamical system to report.

The latents x may be replaced by any z with x = T z: the model of the activity does not change.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.inference.linear_gaussian import LinearGaussian

__all__ = ["canonical", "canonical_coordinates", "in_coordinates"]

LEAST = 1e-3  # norm of a column of the readout, per the largest, that is still brought to one


def canonical(
    model: LinearGaussian, moment: Float[Tensor, "latent latent"], diagonal: bool
) -> tuple[LinearGaussian, Float[Tensor, "latent latent"]]:
    """Return parameters and moment of the latents in canonical coordinates, see :func:`canonical_coordinates`."""
    return in_coordinates(model, moment, canonical_coordinates(model.readout, moment, diagonal))


def in_coordinates(
    model: LinearGaussian, moment: Float[Tensor, "latent latent"], T: Float[Tensor, "latent latent"]
) -> tuple[LinearGaussian, Float[Tensor, "latent latent"]]:
    """Return parameters and moment of the latents z, where x = T z."""
    into = torch.linalg.inv(T)

    def covariance(matrix: Tensor) -> Tensor:
        changed = into @ matrix @ into.T
        return (changed + changed.T) / 2

    changed = model._replace(
        dynamics=into @ model.dynamics @ T,
        dynamics_noise=covariance(model.dynamics_noise),
        initial_mean=into @ model.initial_mean,
        initial_covariance=covariance(model.initial_covariance),
        readout=model.readout @ T,
        drive=None if model.drive is None else into @ model.drive,
    )
    return changed, covariance(moment)


def canonical_coordinates(
    readout: Float[Tensor, "unit latent"], moment: Float[Tensor, "latent latent"], diagonal: bool
) -> Float[Tensor, "latent latent"]:
    """Return T such that z is in the units of the activity, uncorrelated, and ordered by the variance that it explains.

    The columns of the readout become orthonormal, as in Yu et al. (2009), doi:10.1152/jn.90941.2008;
    for diagonal dynamics, whose latents have a meaning of their own, they are only scaled and ordered. The largest
    loading of each is positive.

    Parameters
    ----------
    readout : of all units.
    moment : mean of x x' over the bins.
    diagonal : keep the axes of the latents.
    """
    if diagonal:
        T = torch.diag(moment.diagonal().sqrt())
        T = T[:, (readout @ T).square().sum(0).argsort(descending=True)]
    else:
        root = torch.linalg.cholesky(moment)
        loadings = readout @ root
        T = root @ torch.linalg.eigh(loadings.T @ loadings)[1].flip(1)
    loadings = readout @ T
    largest = loadings.gather(0, loadings.abs().argmax(0, keepdim=True))[0]
    norms = loadings.norm(dim=0)
    norms = norms.clamp(min=LEAST * float(norms.max()) or 1.0)  # no unit may show a latent, or any of them
    return T * torch.where(largest < 0, -1.0, 1.0).to(T) / norms
