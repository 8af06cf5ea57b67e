"""What the units of each region tell about its latents, in as few channels as there are latents.

All that activity says about latents is h = C' R^-1 (y - d). Channels with noise of unit variance that say the same take
the place of units wherever many fits of the same activity are needed: as many as latents, whatever the number of units.

Poisson counts are taken to Gaussian channels by one step of Newton's method: the working responses of generalized
linear models (McCullagh, Nelder 1989, Generalized Linear Models, 2.5), around rates that each region's own activity
explains. No region's channels depend on another's activity, so that trials of one can be exchanged for others of its
trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.findings import Progress, quiet_progress
from lvmzoo.inference.emissions import Emissions
from lvmzoo.inference.granger import told_directions
from lvmzoo.inference.lagged_moments import Recorded
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.regional_maximization import maximize_regional
from lvmzoo.inference.regional_starting import regional_start
from lvmzoo.inference.regional_structure import Structure, shown_latents
from lvmzoo.inference.riccati import stable, stationary_covariance

__all__ = ["Channels", "apart", "each_by_itself", "region_channels"]

FEW, STRETCH = 20, 200  # fewer trials of counts than that are fitted in stretches of so many bins
RAREST = 1e-6  # spikes per bin: a unit that is as good as silent


class Channels(NamedTuple):
    """Trials of one session as channels of its regions, and the system that they show; no known inputs are left."""

    model: LinearGaussian
    activity: Float[Tensor, "trial bin channel"]
    valid: Bool[Tensor, "trial bin"]
    observed: Bool[Tensor, "trial bin channel"]
    regions: Mapping[str, slice]  # channels of each region of the session

    def recombined(self, orders: Mapping[str, Int[Tensor, " trial"]]) -> Channels:
        """Return trials of which each region brings one of its own: trial ``orders[region][i]`` to trial i.

        Trials of unequal length are cut to the shortest of them.
        """
        valid = torch.stack([self.valid[order] for order in orders.values()]).all(0)
        activity, observed = torch.empty_like(self.activity), torch.empty_like(self.observed)
        for name, order in orders.items():
            own = self.regions[name]
            activity[..., own] = self.activity[order][..., own]
            observed[..., own] = self.observed[order][..., own]
        return self._replace(activity=activity, valid=valid, observed=observed & valid[..., None])

    def trials(self, order: Int[Tensor, " trial"]) -> Channels:
        """Return some of the trials, or some of them several times."""
        return self._replace(activity=self.activity[order], valid=self.valid[order], observed=self.observed[order])


def apart(model: LinearGaussian, structure: Structure) -> LinearGaussian:
    """Return the system whose regions neither act on each other nor begin trials in concert."""
    owner = torch.empty(structure.size, dtype=torch.int64)
    for i, name in enumerate(structure.names):
        owner[structure.columns[name]] = i
    same = (owner[:, None] == owner).to(model.dynamics.device)
    return model._replace(
        dynamics=torch.where(same, model.dynamics, 0.0),
        initial_covariance=torch.where(same, model.initial_covariance, 0.0),
    )


def _decaying(alone: LinearGaussian, structure: Structure) -> LinearGaussian:
    """Return regions that are apart, of which none grows for ever without what others send.

    What others send may be all that holds a region back; rates that it explains by itself would grow without bound.
    """
    dynamics = alone.dynamics.clone()
    for own in structure.regions.values():
        dynamics[own, own] = stable(dynamics[own, own])
    return alone._replace(dynamics=dynamics)


def each_by_itself(
    structure: Structure,
    emissions: Emissions,
    batch: Batch,
    inputs: Float[Tensor, "trial bin channel"] | None,
    passes: int,
    progress: Progress = quiet_progress,
) -> LinearGaussian:
    """Return the system whose regions are apart, of which each is fitted to its own activity, from its own start.

    Latents that were fitted together, or began as such, show more of what two regions happen to share in the observed
    trials than latents fitted to recombined trials would: the observed trials would no longer be one draw among others.

    Few long trials of counts are fitted in stretches: bins of a trial follow one another, stretches go side by side.
    """
    recorded = Recorded(batch.activity, batch.valid, batch.observed, batch.trial_index, inputs)
    if emissions.bound and batch.n_trials < FEW and batch.n_bins > STRETCH:
        recorded = _in_stretches(recorded)
    lone = Structure(structure.names, structure.latents, ())  # regions apart need no memory of each other
    small = apart(emissions.start(regional_start(lambda _: [recorded], [batch.layout], lone)), lone)
    shown = shown_latents(lone.regions, [batch.layout], lone.size)
    for k in range(passes):
        moments = emissions.expectations(small, recorded.activity, recorded.valid, recorded.observed, recorded.inputs)
        small = apart(maximize_regional(emissions, small, moments, lone.regions, lone.allowed, shown), lone)
        progress("each region by itself", (k + 1) / passes)
    return _remembering(small, structure)


def _in_stretches(whole: Recorded) -> Recorded:
    """Return trials cut into stretches, of which the last of a trial may end early."""
    trials, bins = whole.valid.shape
    count = -(-bins // STRETCH)

    def cut(values: Tensor) -> Tensor:
        longer = values.new_zeros(trials, count * STRETCH, *values.shape[2:])
        longer[:, :bins] = values
        return longer.view(trials * count, STRETCH, *values.shape[2:])

    valid = cut(whole.valid)
    kept = valid.any(1)
    return Recorded(
        cut(whole.activity)[kept],
        valid[kept],
        cut(whole.observed)[kept],
        torch.arange(int(kept.sum()), device=kept.device),
        None if whole.inputs is None else cut(whole.inputs)[kept],
    )


def _remembering(small: LinearGaussian, structure: Structure) -> LinearGaussian:
    """Return the system of regions that are apart with a state that holds the past of those that send."""
    beyond = (0, structure.size - structure.present)
    dynamics, noise, covariance = (
        torch.nn.functional.pad(each, beyond + beyond)
        for each in (small.dynamics, small.dynamics_noise, small.initial_covariance)
    )
    stationary = stationary_covariance(stable(small.dynamics), small.dynamics_noise)
    for name in structure.senders:
        own = structure.regions[name]
        for lag in range(2, structure.max_lag + 1):
            place = structure.place(name, lag)
            covariance[place, place] = stationary[own, own]
    return small._replace(
        dynamics=dynamics + structure.shift.to(dynamics),
        dynamics_noise=noise,
        initial_mean=torch.nn.functional.pad(small.initial_mean, beyond),
        initial_covariance=covariance,
        readout=torch.nn.functional.pad(small.readout, beyond),
        drive=None if small.drive is None else torch.nn.functional.pad(small.drive, (0, 0, *beyond)),
    )


def region_channels(
    model: LinearGaussian,
    structure: Structure,
    emissions: Emissions,
    batch: Batch,
    inputs: Float[Tensor, "trial bin channel"] | None = None,
) -> Channels:
    """Return the trials of a session as channels of its regions.

    Where some units of a region are observed in a bin and others are not, its units are the channels.

    Parameters
    ----------
    model : fitted parameters of the session.
    structure : which latents belong to which region.
    emissions : how latents show in the activity.
    batch : all trials.
    inputs : known inputs, where the model has a drive; what they do is taken out of the channels, and what regions that
        they drive make of it in others.
    """
    observed = batch.observed & batch.valid[..., None]
    if emissions.bound:
        alone = _decaying(apart(model, structure), structure)
        values, noise = _working_responses(alone, emissions, batch, observed, inputs)
    else:
        values, noise = batch.activity.to(model.dynamics) - model.offset, model.noise
        if inputs is not None and model.feedthrough is not None:
            values = values - inputs.to(values) @ model.feedthrough.T
    if inputs is not None and model.drive is not None:
        values = values - _driven(model, inputs) @ model.readout.T
    values = torch.where(observed, values, 0.0)
    parts, shown, readouts, regions, start = [], [], [], {}, 0
    for name in batch.layout.units:
        own = batch.layout.region(name)
        part, seen, readout = _compressed(values[..., own], observed[..., own], model.readout[own], noise[own])
        regions[name] = slice(start, start + len(readout))
        start += len(readout)
        parts.append(part)
        shown.append(seen)
        readouts.append(readout)
    activity, seen, readout = torch.cat(parts, -1), torch.cat(shown, -1), torch.cat(readouts)
    channels = LinearGaussian(
        *model[:4], readout, readout.new_zeros(len(readout)), readout.new_ones(len(readout)), None, None
    )
    return Channels(channels, activity, batch.valid, seen, regions)


def _working_responses(
    alone: LinearGaussian,
    emissions: Emissions,
    batch: Batch,
    observed: Bool[Tensor, "trial bin unit"],
    inputs: Float[Tensor, "trial bin channel"] | None,
) -> tuple[Float[Tensor, "trial bin unit"], Float[Tensor, " unit"]]:
    """Return C x plus noise as Poisson counts tell it, and its variance, from the mean information of a bin."""
    mean, covariance = emissions.posterior(alone, batch.activity, batch.valid, batch.observed, inputs)
    rates = emissions.emit(alone, mean, covariance, inputs)
    information = torch.where(observed, rates, 0.0).sum((0, 1)) / observed.sum((0, 1)).clamp(min=1)
    noise = 1 / information.clamp(min=RAREST)
    surprise = torch.where(observed, batch.activity.to(rates) - rates, 0.0)
    return mean @ alone.readout.T + surprise * noise, noise


def _driven(model: LinearGaussian, inputs: Float[Tensor, "trial bin channel"]) -> Float[Tensor, "trial bin latent"]:
    """Return the latents that known inputs alone would make."""
    assert model.drive is not None
    drive = torch.nan_to_num(inputs.to(model.drive)) @ model.drive.T
    x = torch.zeros_like(drive)
    for t in range(1, x.shape[1]):
        x[:, t] = x[:, t - 1] @ model.dynamics.T + drive[:, t - 1]
    return x


def _compressed(
    values: Float[Tensor, "trial bin unit"],
    observed: Bool[Tensor, "trial bin unit"],
    readout: Float[Tensor, "unit latent"],
    noise: Float[Tensor, " unit"],
) -> tuple[Float[Tensor, "trial bin channel"], Bool[Tensor, "trial bin channel"], Float[Tensor, "channel latent"]]:
    """Return channels of one region with noise of unit variance, what is observed of them, and their readout."""
    ever = observed.any(0).any(0)
    scaled = readout / noise.sqrt()[:, None]
    if bool((observed[..., ever].all(-1) != observed[..., ever].any(-1)).any()):
        return (values / noise.sqrt())[..., ever], observed[..., ever], scaled[ever]
    root, directions = told_directions(scaled[ever].T @ scaled[ever])
    weights = (scaled / noise.sqrt()[:, None])[ever] @ (directions / root)
    shown = observed.any(-1, keepdim=True).expand(*observed.shape[:2], len(root))
    return values[..., ever] @ weights, shown, root[:, None] * directions.T
