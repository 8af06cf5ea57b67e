"""What a network with a shared core has of its own for each session: scaling, read-in and readout."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from lvmzoo.batch import Layout
from lvmzoo.parts.likelihoods import Likelihood, UnitMoments
from lvmzoo.parts.readouts import Readout
from lvmzoo.parts.stitching import Maps

__all__ = ["SessionLayers"]


class SessionLayers(nn.Module):
    """From the units of one session to the encoders, and from the latents to the parameters of its likelihood.

    The encoders see the held-in units alone, each with its mean subtracted, over one scale for all (counts) or its own
    standard deviation (other activity). ``channels`` is the size of a linear read-in; None: there is none.
    """

    units: Tensor
    mean: Tensor
    scale: Tensor
    shift_of_activity: Tensor
    scale_of_activity: Tensor

    def __init__(self, layout: Layout, likelihood: Likelihood, latents: int, channels: int | None) -> None:
        super().__init__()
        units = layout.n_units
        self.likelihood = likelihood
        self.all_held_in = len(layout.held_in) == units
        self.register_buffer("units", torch.tensor(layout.held_in, dtype=torch.int64), persistent=False)
        self.register_buffer("mean", torch.zeros(units))
        self.register_buffer("scale", torch.ones(units))
        self.register_buffer("shift_of_activity", torch.zeros(units))
        self.register_buffer("scale_of_activity", torch.ones(units))
        self.read_in: nn.Module = nn.Linear(len(layout.held_in), channels) if channels else nn.Identity()
        self.readout = Readout(latents, units, likelihood)

    def start(self, moments: UnitMoments) -> None:
        """Find the scaling, and the readout's offsets, from training data."""
        shift, scale = self.likelihood.scaling(moments)
        self.shift_of_activity.copy_(shift)
        self.scale_of_activity.copy_(scale)
        self.mean.copy_((moments.mean - shift) / scale)
        variance = moments.variance / scale.square()
        if self.likelihood.counts:
            variance = variance[self.units].mean().expand_as(variance)
        self.scale.copy_(torch.where(variance > 0, variance, 1.0).sqrt())
        parameters = self.likelihood.start(moments).to(self.mean.dtype)
        varying = self.likelihood.n_varying
        self.readout.offset.data.copy_(parameters[:varying])
        if self.readout.constants is not None:
            self.readout.constants.data.copy_(parameters[varying:])

    def standardize(self, activity: Float[Tensor, "sample unit"]) -> Float[Tensor, "sample unit"]:
        """Return recorded activity, of all units, as the encoders see it."""
        scaled = (activity - self.shift_of_activity) / self.scale_of_activity
        return (scaled - self.mean) / self.scale

    @torch.no_grad()
    def share(self, maps: Maps) -> None:
        """Begin with a read-in to common components, and a readout from latents that stand for them."""
        assert isinstance(self.read_in, nn.Linear)
        found = len(maps.read_in)
        self.read_in.weight[:found] = maps.read_in.to(self.mean.dtype)
        self.read_in.bias[:found] = 0.0
        change = maps.readout.to(self.mean.dtype) * self.scale.unsqueeze(1)
        if self.likelihood.positive:  # the first parameter is the logarithm of the mean
            change = change / self.mean.clamp(min=1e-3).unsqueeze(1)
        self.readout.weight[0, :, :found] = change

    def clean(
        self, activity: Num[Tensor, "trial bin unit"], counted: Bool[Tensor, "trial bin unit"]
    ) -> Float[Tensor, "trial bin unit"]:
        """Return scaled activity, the mean where nothing was observed."""
        scaled = activity.to(self.mean.dtype)
        if not self.likelihood.counts:
            scaled = (scaled - self.shift_of_activity) / self.scale_of_activity
        return scaled if bool(counted.all()) else torch.where(counted, scaled, self.mean)

    def encoder_input(self, clean: Float[Tensor, "trial bin unit"]) -> Float[Tensor, "trial bin held_in"]:
        """Return what the encoders see of scaled activity: 0 where nothing was observed."""
        standardized = (clean - self.mean) / self.scale
        return standardized if self.all_held_in else standardized[..., self.units]

    def predicted(self, kept: Bool[Tensor, "trial bin held_in"]) -> Bool[Tensor, "trial bin unit"]:
        """Return which activity the encoders did not see, of all units."""
        if self.all_held_in:
            return ~kept
        hidden = torch.ones(*kept.shape[:2], len(self.mean), dtype=torch.bool, device=kept.device)
        hidden[..., self.units] = ~kept
        return hidden

    def gain(self, probability: float) -> Float[Tensor, " unit"]:
        """Return one over the fraction of each unit's samples that coordinated dropout leaves to learn from."""
        gain = torch.ones_like(self.mean)
        gain[self.units] = 1 / probability
        return gain

    def rates(self, latents: Float[Tensor, "trial bin latent"]) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity as it was recorded."""
        return self.recorded(self.likelihood.mean(self.readout(latents)))

    def recorded(self, activity: Float[Tensor, "trial bin unit"]) -> Float[Tensor, "trial bin unit"]:
        """Return scaled activity as it was recorded."""
        return activity if self.likelihood.counts else activity * self.scale_of_activity + self.shift_of_activity
