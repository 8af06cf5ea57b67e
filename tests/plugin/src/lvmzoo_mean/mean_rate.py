"""Mean rates: every unit fires at its mean, and the latents are the projections that vary most around it.

The plain baseline of any latent-variable model: principal components of the observed activity, by their covariance.
Pearson (1901), On lines and planes of closest fit, doi:10.1080/14786440109462720.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.models.base import StatisticsModel
from lvmzoo.registry import Entry, Family, Reference, Training, register


@dataclass(frozen=True)
class MeanRateConfig:
    """How many projections."""

    name: str = "mean_rate"
    latents: int = 2  # number of principal components


class Moments(NamedTuple):
    """Sums over the observed activity."""

    bins: Float[Tensor, "unit unit"]
    sum: Float[Tensor, "unit unit"]
    products: Float[Tensor, "unit unit"]


class MeanRate(StatisticsModel):
    """Project the activity on its principal components."""

    passes = 1
    projection: Tensor
    mean: Tensor

    def __init__(self, config: MeanRateConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        units = layouts[0].n_units
        self.register_buffer("mean", torch.zeros(units, dtype=torch.float64))
        self.register_buffer("projection", torch.zeros(units, config.latents, dtype=torch.float64))

    def statistics(self, batch: Batch) -> Moments:
        """Return pairwise counts, sums and products over the bins where both units are observed."""
        x, w = _observed(batch)
        return Moments(w.mT @ w, x.mT @ w, x.mT @ x)

    def update(self, statistics: Moments) -> Float[Tensor, ""]:
        """Solve for the components; the objective is the share of variance that they hold."""
        bins = statistics.bins.clamp(min=1)
        self.mean.copy_(statistics.sum.diagonal() / bins.diagonal())
        covariance = statistics.products / bins - statistics.sum * statistics.sum.mT / bins**2
        values, vectors = torch.linalg.eigh(covariance)
        latents = self.config.latents
        chosen = vectors[:, -latents:].flip(1)
        sign = chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()
        self.projection.copy_(chosen * sign)
        return values[-latents:].sum() / values.sum().clamp(min=torch.finfo(values.dtype).tiny)

    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the projections; a unit that is not observed counts as its mean."""
        centered = torch.where(batch.observed, batch.activity.double() - self.mean, 0.0)
        return torch.where(batch.valid.unsqueeze(-1), centered, 0.0) @ self.projection


def _observed(batch: Batch) -> tuple[Tensor, Tensor]:
    seen = batch.observed & batch.valid.unsqueeze(-1)
    x = torch.where(seen, batch.activity.double(), 0.0)
    return x.flatten(0, 1), seen.double().flatten(0, 1)


register(
    Entry(
        model=MeanRate,
        config=MeanRateConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            "Pearson (1901). On lines and planes of closest fit to systems of points in space. "
            "Philosophical Magazine 2(11), 559-572.",
            "10.1080/14786440109462720",
            "pearson1901lines",
        ),
        tiny=lambda layout: MeanRateConfig(latents=min(2, layout.n_units)),
        training=Training(max_epochs=1),
    )
)
