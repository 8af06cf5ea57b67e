"""Directed influence between regions of a linear dynamical system: Granger causality from its innovations.

How much better the coming bin of a target is predicted if the past of a source is known besides the past of all other
regions, in nats per bin:

    F_{j->i} = log |Cov(y_i | past of all but j)| - log |Cov(y_i | past of all)|.

Both come from steady states of the filter, of size (latent, latent). F is not zero where noise hides a target's own
past and a source knows something of it, even where nothing leads from the source to the target: whether something does
is a question about the blocks of the dynamics.

Geweke (1982), J. Am. Stat. Assoc. 77, 304, doi:10.1080/01621459.1982.10477803, and (1984), ibid. 79, 907,
doi:10.1080/01621459.1984.10477110; Barnett, Seth (2015), Granger causality for state-space models, Phys. Rev. E 91,
040101, doi:10.1103/PhysRevE.91.040101.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from lvmzoo.inference.riccati import predicted_covariance

__all__ = ["granger", "granger_by_frequency", "region_information", "told_directions"]

NOTHING = 1e-12  # of the largest eigenvalue of information: a direction that the activity does not show


def region_information(
    readout: Float[Tensor, "unit latent"], noise: Float[Tensor, " unit"], units: Sequence[slice]
) -> Float[Tensor, "region latent latent"]:
    """Return J = C' R^-1 C of each region, from its readout and the variances of its units."""
    return torch.stack([readout[own].T @ (readout[own] / noise[own, None]) for own in units])


def told_directions(
    information: Float[Tensor, "latent latent"],
) -> tuple[Float[Tensor, " channel"], Float[Tensor, "latent channel"]]:
    """Return the directions of which something is told, and by how much, as a root of information."""
    values, vectors = torch.linalg.eigh(information)
    told = values > NOTHING * values[-1].clamp(min=1e-300)
    return values[told].sqrt(), vectors[:, told]


def granger(
    dynamics: Float[Tensor, "*case latent latent"],
    noise: Float[Tensor, "*case latent latent"],
    information: Float[Tensor, "region latent latent"],
) -> Float[Tensor, "*case region region"]:
    """Return F[target, source] in nats per bin, each given all other regions; zero on the diagonal.

    Parameters
    ----------
    dynamics, noise : A, stable, and Q; of one system or of several.
    information : J = C' R^-1 C of each region.
    """
    told = _told(_uncertain(_predicted(dynamics, noise, information), information))
    return told.clamp(min=0.0)


def granger_by_frequency(
    dynamics: Float[Tensor, "*case latent latent"],
    noise: Float[Tensor, "*case latent latent"],
    information: Float[Tensor, "region latent latent"],
    frequencies: Float[Tensor, " frequency"],
) -> Float[Tensor, "*case region region frequency"]:
    """Return f[target, source] in nats at frequencies in cycles per bin, each given all other regions.

    The mean over frequencies from 0 to 1/2 is F of :func:`granger`, or less where the target's own filter has zeros
    outside the unit circle.

    Parameters
    ----------
    dynamics, noise : A, stable, and Q; of one system or of several.
    information : J = C' R^-1 C of each region.
    frequencies : 0 to .5.
    """
    regions = len(information)
    P = _predicted(dynamics, noise, information)
    told = _told(_uncertain(P, information))
    shown = [_shown(J) for J in information]
    rows = np.split(np.arange(sum(map(len, shown))), np.cumsum([len(C) for C in shown])[:-1])
    whole = _Innovations(dynamics, P[..., 0, :, :], torch.cat(shown), frequencies)
    passed = whole.transfer()
    result = told[..., None].expand(*told.shape, len(frequencies)).clone()
    for j in range(regions):
        others = [i for i in range(regions) if i != j]
        kept = np.concatenate([rows[i] for i in others])
        without = _Innovations(dynamics, P[..., j + 1, :, :], torch.cat([shown[i] for i in others]), frequencies)
        mixed = without.whitening() @ passed[..., kept, :]  # what surprises those who do not know j, from all surprises
        first = 0
        for i in others:
            mine, own = slice(first, first + len(rows[i])), torch.from_numpy(rows[i])
            first = mine.stop
            covariance = whole.covariance[..., own, :]
            share = torch.linalg.solve(covariance[..., own], covariance).to(mixed)
            # A surprise of the target comes with the share of the other surprises that goes along with it.
            direct = torch.linalg.det(mixed[..., mine, :] @ share[..., None, :, :].mT).abs()
            result[..., i, j, :] -= 2 * direct.log()
    return result.clamp(min=0.0)


class _Innovations:
    """A system as seen by those who predict it: x' = A x + K e, z = C x + e, where z has noise of unit variance."""

    def __init__(self, dynamics: Tensor, P: Tensor, readout: Tensor, frequencies: Tensor) -> None:
        self.dynamics, self.readout = dynamics, readout
        identity = torch.eye(len(readout), dtype=P.dtype, device=P.device)
        self.covariance = identity + readout @ P @ readout.T
        self.gain = torch.linalg.solve(self.covariance, readout @ P @ dynamics.mT).mT
        self.turn = torch.exp(2j * torch.pi * frequencies)[:, None, None]

    def transfer(self) -> Complex[Tensor, "*case frequency channel channel"]:
        """Return what makes activity of surprises, 1 + C (z - A)^-1 K."""
        return self._identity(self.readout) + self._response(self.dynamics)

    def whitening(self) -> Complex[Tensor, "*case frequency channel channel"]:
        """Return its inverse, what makes surprises of activity, 1 - C (z - A + K C)^-1 K."""
        return self._identity(self.readout) - self._response(self.dynamics - self.gain @ self.readout)

    def _response(self, dynamics: Tensor) -> Tensor:
        gain, readout = self.gain.to(self.turn), self.readout.to(self.turn)
        turned = self.turn * self._identity(self.readout.T) - dynamics[..., None, :, :]
        return readout @ torch.linalg.solve(turned, gain[..., None, :, :])

    def _identity(self, like: Tensor) -> Tensor:
        return torch.eye(len(like), dtype=self.turn.dtype, device=like.device)


def _predicted(
    dynamics: Float[Tensor, "*case latent latent"],
    noise: Float[Tensor, "*case latent latent"],
    information: Float[Tensor, "region latent latent"],
) -> Float[Tensor, "*case known latent latent"]:
    """Return the steady covariance given the past of all regions, and without each of them."""
    total = information.sum(0)
    without = [information[[i for i in range(len(information)) if i != j]].sum(0) for j in range(len(information))]
    return predicted_covariance(dynamics[..., None, :, :], noise[..., None, :, :], torch.stack([total, *without]))


def _uncertain(
    P: Float[Tensor, "*case known latent latent"], information: Float[Tensor, "region latent latent"]
) -> Float[Tensor, "*case known region"]:
    """Return log |Cov(y_i | past)| of each region, less what its noise alone has."""
    identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    return torch.linalg.slogdet(identity + P[..., None, :, :] @ information).logabsdet


def _told(uncertain: Float[Tensor, "*case known region"]) -> Float[Tensor, "*case region region"]:
    """Return by how much the past of a source [target, source] makes a target more certain; zero on the diagonal."""
    told = (uncertain[..., 1:, :] - uncertain[..., :1, :]).mT
    return torch.where(torch.eye(told.shape[-1], dtype=torch.bool, device=told.device), 0.0, told)


def _shown(information: Float[Tensor, "latent latent"]) -> Float[Tensor, "channel latent"]:
    """Return a readout with noise of unit variance that tells as much, with as few channels as will do."""
    roots, directions = told_directions(information)
    return roots[:, None] * directions.T
