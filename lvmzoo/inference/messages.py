"""What a region's latents owe to each region, and what a model loses without a block of its dynamics.

Two ways to take latents apart, both of which add up to them exactly. Messages: what the latents of the bin before, of
each region, make of a region's latents one bin later, and what is new in it. Origins: where that which is new arose,
however long ago and by whatever way it came.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.inference.linear_gaussian import LinearGaussian, filtered_means, log_likelihood
from lvmzoo.inference.regional_structure import Structure

__all__ = ["Loss", "Messages", "ablated", "ablation", "messages", "origins", "owed"]


class Messages(NamedTuple):
    """Latents of each region, taken apart: the sum over sources and what is new is the whole."""

    sent: Float[Tensor, "target source trial bin latent"]  # through the dynamics; of a target to itself, too
    new: Float[Tensor, "target trial bin latent"]  # innovations; all of a trial's first bin


class Loss(NamedTuple):
    """What is lost without a block, trial by trial; an ``order`` of trials takes some of them several times."""

    gained: Float[Tensor, " trial"]  # nats, of log-likelihood by the block
    bins: Float[Tensor, " trial"]
    missed: Float[Tensor, "model trial"]  # squares of the target's next bin, predicted with the block and without it
    spread: Float[Tensor, " trial"]  # squares about the mean

    def log_likelihood(self, order: Tensor | slice = slice(None)) -> float:
        """Return what is lost in nats per bin."""
        return float(self.gained[order].sum() / self.bins[order].sum().clamp(min=1))

    def explained(self, order: Tensor | slice = slice(None)) -> tuple[float, float]:
        """Return 1 - NSE of the target's next bin, with the block and without it."""
        spread = self.spread[order].sum().clamp(min=1e-300)
        whole, without = (1 - self.missed[:, order].sum(1) / spread).tolist()
        return whole, without


def messages(
    dynamics: Float[Tensor, "state state"],
    structure: Structure,
    state: Float[Tensor, "trial bin state"],
    valid: Bool[Tensor, "trial bin"],
) -> Messages:
    """Return what each region sent to each, from the smoothed state; zeros after the end of a trial."""
    regions, rows = len(structure.names), list(structure.regions.values())
    inside = _reached(valid)[..., None]
    sent = state.new_zeros(regions, regions, *valid.shape, structure.latents)
    new = torch.stack([torch.where(inside, state[..., own], 0.0) for own in rows])
    for i, own in enumerate(rows):
        for j, source in enumerate(structure.names):
            columns = structure.columns[source]
            arrived = state[:, :-1, columns] @ dynamics[own][:, columns].T
            sent[i, j, :, 1:] = torch.where(inside[:, 1:], arrived, 0.0)
            new[i] -= sent[i, j]
    return Messages(sent, new)


def origins(
    dynamics: Float[Tensor, "state state"],
    structure: Structure,
    state: Float[Tensor, "trial bin state"],
    valid: Bool[Tensor, "trial bin"],
) -> Float[Tensor, "region trial bin state"]:
    """Return the smoothed state by the region in which it arose: as an innovation, or before the trial began."""
    inside = _reached(valid)[..., None]
    state = torch.where(inside, state, 0.0)
    new = state.clone()
    new[:, 1:] -= state[:, :-1] @ dynamics.T
    result = state.new_zeros(len(structure.names), *state.shape)
    for j, source in enumerate(structure.names):
        columns = structure.columns[source]
        result[j][..., columns] = new[..., columns]
    for t in range(1, state.shape[1]):
        result[:, :, t] += result[:, :, t - 1] @ dynamics.T
    return torch.where(inside, result, 0.0)


def owed(
    parts: Float[Tensor, "region trial bin state"],
    readout: Float[Tensor, "unit state"],
    valid: Bool[Tensor, "trial bin"],
) -> Float[Tensor, "region bin"]:
    """Return the share of some units' expected activity, as it varies over trials, that each origin accounts for.

    The shares of a bin add up to one; one below zero works against the others. NaN where fewer than two trials reach.
    """
    weight = valid.to(parts)[..., None]
    count = weight.sum(0)
    shown = parts @ readout.T
    shown = (shown - (shown * weight).sum(1, keepdim=True) / count.clamp(min=1)) * weight
    total = shown.sum(0)
    together = (shown * total).sum((1, 3))
    whole = total.square().sum((0, 2))
    return torch.where((count[:, 0] >= 2) & (whole > 0), together / whole.clamp(min=1e-300), torch.nan)


def ablated(model: LinearGaussian, structure: Structure, source: str, target: str) -> LinearGaussian:
    """Return the model without what a source sends to a target."""
    dynamics = model.dynamics.clone()
    rows = structure.regions[target]
    dynamics[rows.start : rows.stop, structure.columns[source]] = 0.0
    return model._replace(dynamics=dynamics)


def ablation(
    model: LinearGaussian,
    structure: Structure,
    data: tuple[Float[Tensor, "trial bin unit"], Bool[Tensor, "trial bin"], Bool[Tensor, "trial bin unit"]],
    units: slice,
    source: str,
    target: str,
) -> Loss:
    """Return what is lost without what a source sends to a target.

    Parameters
    ----------
    model, structure : the fitted model of a session, without known inputs.
    data : activity, valid and observed of trials.
    units : of the target.
    """
    without = ablated(model, structure, source, target)
    activity, valid, observed = data
    gained = log_likelihood(model, *data) - log_likelihood(without, *data)
    mean = filtered_means(model, *data)
    seen = (observed & valid[..., None])[:, 1:, units]
    truth = torch.where(seen, activity[:, 1:, units].to(mean), 0.0)
    count = seen.sum((0, 1)).clamp(min=1)
    spread = torch.where(seen, truth - truth.sum((0, 1)) / count, 0.0).square().sum((1, 2))
    missed = []
    for each in (model, without):
        predicted = mean[:, :-1] @ (each.readout[units] @ each.dynamics).T + each.offset[units]
        missed.append(torch.where(seen, truth - predicted, 0.0).square().sum((1, 2)))
    return Loss(gained, valid.sum(1).to(gained), torch.stack(missed), spread)


def _reached(valid: Bool[Tensor, "trial bin"]) -> Bool[Tensor, "trial bin"]:
    """Return the bins up to the last valid one of each trial."""
    return valid.flip(1).cummax(1).values.flip(1)
