"""Affine maps between the units of a session and latents that sessions share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout
from lvmzoo.parts.draws import dropout as drop
from lvmzoo.parts.likelihoods import Likelihood, UnitMoments
from lvmzoo.parts.readouts import Readout

__all__ = ["AffineSession"]


class AffineSession(nn.Module):
    """What one session has of its own beside shared dynamics: the units' scaling, the read-in and the readout.

    The read-in sees held-in units alone. Both maps are affine and begin as factor analysis: the latents that it infers
    from a bin, and its loadings.
    """

    shift: Tensor
    scale: Tensor
    mean: Tensor
    deviation: Tensor
    held_in: Tensor

    def __init__(self, layout: Layout, likelihood: Likelihood, latents: int) -> None:
        super().__init__()
        self.counts = likelihood.name == "poisson"
        units = layout.n_units
        self.register_buffer("held_in", torch.tensor(layout.held_in, dtype=torch.int64), persistent=False)
        for name, value in (("shift", 0.0), ("scale", 1.0), ("mean", 0.0), ("deviation", 1.0)):
            self.register_buffer(name, torch.full((units,), value))  # shift and scale: of the likelihood's activity
        self.into = nn.Linear(len(layout.held_in), latents)
        self.readout = Readout(latents, units, likelihood)
        nn.init.zeros_(self.into.bias)

    def standardize(self, batches: Iterable[Batch]) -> None:
        """Find the units' means and scales, and the readout of activity that does not vary."""
        parts = [UnitMoments.of(batch.activity, batch.observed & batch.valid.unsqueeze(-1)) for batch in batches]
        moments = UnitMoments(*(sum(leaf, start=torch.zeros_like(leaf[0])) for leaf in zip(*parts, strict=True)))
        likelihood = self.readout.likelihood
        shift, scale = likelihood.scaling(moments)
        deviation = moments.variance.sqrt()
        deviation = torch.where(deviation > 0, deviation, 1.0)
        parameters = likelihood.start(moments)
        for buffer, value in ((self.shift, shift), (self.scale, scale), (self.mean, moments.mean)):
            buffer.copy_(value)
        self.deviation.copy_(deviation)
        self.readout.offset.copy_(parameters[: likelihood.n_varying])
        if self.readout.constants is not None:
            self.readout.constants.copy_(parameters[likelihood.n_varying :])

    def start(self, readout: Float[Tensor, "unit latent"], noise: Float[Tensor, " unit"]) -> None:
        """Read in the posterior mean of factor analysis, and read out its loadings."""
        C, r = readout[self.held_in], noise[self.held_in]
        weights = C / r[:, None]
        identity = torch.eye(C.shape[1], dtype=C.dtype, device=C.device)
        project = torch.linalg.solve(identity + C.T @ weights, weights.T)
        self.into.weight.copy_(project * self.deviation[self.held_in])
        # Counts: to first order exp(d + c z) is mean + mean c z.
        unit = self.mean.clamp(min=1e-3) if self.counts else self.scale
        self.readout.weight[0].copy_((readout / unit[:, None]).clamp(-1, 1))

    def read_in(
        self, batch: Batch, seen: Bool[Tensor, "trial bin unit"], dropout: float
    ) -> tuple[Float[Tensor, "trial bin channel"], Bool[Tensor, "trial bin"]]:
        """Return what the encoder sees of each bin, and of which bins it sees anything."""
        seen = seen[..., self.held_in]
        units = self.held_in
        standardized = (batch.activity[..., units].to(self.mean.dtype) - self.mean[units]) / self.deviation[units]
        standardized = drop(batch, torch.where(seen, standardized, 0.0), dropout)
        share = seen.to(standardized.dtype).mean(-1, keepdim=True)
        return torch.cat([self.into(standardized), share], -1), seen.any(-1)

    def loss(
        self,
        latents: Float[Tensor, "trial bin latent"],
        activity: Num[Tensor, "trial bin unit"],
        seen: Bool[Tensor, "trial bin unit"],
    ) -> Float[Tensor, ""]:
        """Return the negative log-likelihood of what was seen, in nats, up to a constant."""
        likelihood = self.readout.likelihood
        standardized = (torch.where(seen, activity.to(self.mean.dtype), self.shift) - self.shift) / self.scale
        return torch.where(seen, likelihood.loss(self.readout(latents), standardized), 0.0).sum()

    def rates(self, latents: Float[Tensor, "trial bin latent"]) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity."""
        return self.readout.likelihood.mean(self.readout(latents)) * self.scale + self.shift

    def sample(self, latents: Float[Tensor, "trial bin latent"], generator: torch.Generator) -> Tensor:
        """Draw activity."""
        drawn = self.readout.likelihood.sample(self.readout(latents), generator).to(self.scale)
        return drawn * self.scale + self.shift
