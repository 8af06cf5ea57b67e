"""Which of the equivalent parameters of a regional linear dynamical system to report.

The latents of each region may be turned and scaled by themselves; those of two regions may not be mixed.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.inference.canonical import canonical_coordinates, in_coordinates
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.regional_structure import Structure

__all__ = ["regional_canonical"]


def regional_canonical(
    model: LinearGaussian,
    moment: Float[Tensor, "state state"],
    structure: Structure,
    shown: Bool[Tensor, "unit state"],
) -> tuple[LinearGaussian, Float[Tensor, "state state"]]:
    """Return parameters and moment of the state with the latents of each region in canonical coordinates.

    Parameters
    ----------
    model : parameters, with the units of all sessions one after the other.
    moment : mean of s s' over the bins, where s is the state.
    structure : regions of the state.
    shown : elements of the state that each unit may show.
    """
    T = torch.zeros_like(model.dynamics)
    for name, rows in structure.regions.items():
        units = shown[:, rows.start].to(model.readout.device)
        turn = canonical_coordinates(model.readout[units][:, rows], moment[rows, rows], False)
        lags = structure.max_lag if name in structure.senders else 1
        for lag in range(1, lags + 1):
            place = structure.place(name, lag)
            T[place, place] = turn
    changed, moment = in_coordinates(model, moment, T)
    free, shift = structure.allowed.to(T.device), structure.shift.to(T.device)
    return changed._replace(
        dynamics=torch.where(free, changed.dynamics, shift),
        dynamics_noise=torch.where(structure.noisy.to(T.device), changed.dynamics_noise, 0.0),
        readout=torch.where(shown.to(T.device), changed.readout, 0.0),
    ), moment
