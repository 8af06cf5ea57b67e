r"""Activity smoothed over time by a Gaussian kernel, whose width is found by cross-validation.

.. math:: \hat y_t = \frac{\sum_s k(t - s)\, y_s}{\sum_s k(t - s)}, \quad k(d) = e^{-d^2 / 2 w^2}

within a trial and over what was observed. The width is the one with which units predict each other best in folds of the
training data. The baseline of Yu et al. (2009), Journal of Neurophysiology 102, 614,
doi:10.1152/jn.90941.2008, and of Pei et al. (2021), doi:10.48550/arXiv.2109.04463.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout
from lvmzoo.errors import UserError
from lvmzoo.inference.kernel_smoothing import smooth, widths_bins
from lvmzoo.inference.pieces import Piece, pieces
from lvmzoo.inference.width import choose_width
from lvmzoo.models.base import Reconstructs, StatisticsModel
from lvmzoo.parts.single_session import single_session
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["Smoothing", "SmoothingConfig"]

FOLDS = 5  # of the training data, behind the choice of the width


@dataclass(frozen=True)
class SmoothingConfig:
    """Gaussian smoothing."""

    name: str = "smoothing"
    width_s: float | None = None  # standard deviation of the Gaussian, s; null: the one that predicts other units best

    def __post_init__(self) -> None:
        """Raise UserError for a width that no Gaussian has."""
        if self.width_s is not None and not self.width_s >= 0:
            raise UserError(
                f"model.width_s is {self.width_s:g}.",
                "The width of a Gaussian is zero (no smoothing) or positive.",
                "Write model.width_s=0.05, or null to choose it by cross-validation.",
            )


class Sums(NamedTuple):
    """Of the training data."""

    bins: Float[Tensor, " unit"]
    activity: Float[Tensor, " unit"]


class Smoothing(StatisticsModel, Reconstructs):
    """Gaussian smoothing of each unit's activity, the baseline without latents: its latents are the smoothed units."""

    passes = 1

    mean: Tensor
    width_bins: Tensor
    explained: Tensor  # cross-validated R2 by width

    def __init__(self, config: SmoothingConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        layout = single_session(config.name, layouts)
        fixed = config.width_s is not None
        self.widths = [float(config.width_s or 0) / layout.bin_width_s] if fixed else widths_bins(layout.bin_width_s)
        self._seen = list(layout.held_in)
        self.register_buffer("mean", torch.zeros(layout.n_units, dtype=torch.float64))
        self.register_buffer("explained", torch.zeros(len(self.widths), dtype=torch.float64))
        self.register_buffer("width_bins", torch.tensor(self.widths[0], dtype=torch.float64))

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Choose the width with which the units that the model may look at predict each other best."""
        found, fold = pieces(batches, FOLDS)
        found = [Piece(piece.activity[:, self._seen], piece.seen[:, self._seen]) for piece in found]
        width, explained = choose_width(found, fold, self.widths)
        self.width_bins.fill_(width)
        self.explained.copy_(explained)

    @torch.no_grad()
    def statistics(self, batch: Batch) -> Sums:
        """Return the sum of each unit's activity."""
        seen = batch.observed & batch.valid[..., None]
        activity = torch.where(seen, batch.activity.to(torch.float64), 0.0)
        return Sums(seen.sum((0, 1)).to(torch.float64), activity.sum((0, 1)))

    @torch.no_grad()
    def update(self, statistics: Sums) -> Float[Tensor, ""]:
        """Set the mean of each unit; return the cross-validated R2 of units predicted from smoothed others."""
        self.mean.copy_(statistics.activity / statistics.bins.clamp(min=1))
        return self.explained.max()

    @property
    def width_s(self) -> float:
        """The standard deviation of the Gaussian, s."""
        [layout] = self.layouts.values()
        return float(self.width_bins) * layout.bin_width_s

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the smoothed activity; the training mean of units that are hidden."""
        seen = batch.observed & batch.valid[..., None]
        smoothed, there = smooth(batch.activity.to(torch.float64), seen, float(self.width_bins))
        rates = torch.where(there, smoothed, self.mean)
        return torch.where(batch.valid[..., None], rates, 0.0)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the smoothed activity of the units that are not held out for co-smoothing."""
        return self.rates(batch)[..., self._seen]


register(
    Entry(
        model=Smoothing,
        config=SmoothingConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            "Yu BM, Cunningham JP, Santhanam G, Ryu SI, Shenoy KV, Sahani M (2009). Gaussian-process factor analysis "
            "for low-dimensional single-trial analysis of neural population activity. Journal of Neurophysiology "
            "102(1), 614-635.",
            "10.1152/jn.90941.2008",
            "yu2009gaussian",
        ),
        tiny=lambda layout: SmoothingConfig(),
        working_bytes=30.0,  # 28 to 54 of 4 to 12 million counts of 100 units
        training=Training(max_epochs=1),
    )
)
