r"""Principal components of smoothed activity.

.. math:: x_t = V' (\tilde y_t - \mu)

with V the leading eigenvectors of the covariance of :math:`\tilde y`, the activity (roots of counts) smoothed by a
Gaussian within trials. What to expect of units that are not observed follows from probabilistic PCA: Tipping ME, Bishop
CM (1999), Probabilistic principal component analysis, Journal of the Royal Statistical Society B 61, 611-622,
doi:10.1111/1467-9868.00196. Smoothing before PCA: Yu et al. (2009), doi:10.1152/jn.90941.2008.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.inference.kernel_smoothing import smooth, widths_bins
from lvmzoo.inference.pieces import Piece, joined, mean_of_seen, pieces, rounded
from lvmzoo.inference.principal_components import Components, Moments, components, moments, project, shared_variance
from lvmzoo.inference.shared_variance import CANDIDATES, SharedVariance
from lvmzoo.inference.width import choose_width
from lvmzoo.models.base import HasSharedVariance, Reconstructs, StatisticsModel
from lvmzoo.parts.shared_variance_folds import SharedVarianceFolds
from lvmzoo.parts.single_session import single_session
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["PCA", "PCAConfig"]


@dataclass(frozen=True)
class PCAConfig:
    """Principal components."""

    name: str = "pca"
    latents: int | None = 8  # number of components; null: by predicting units from others in folds of the training data
    smoothing_s: float | None = None  # standard deviation of a Gaussian within trials, s; 0: none; null: likewise
    square_root: bool = True  # of counts, which makes the noise of all units alike
    folds: int = 5  # folds of the training data behind these choices and the shared variance

    def __post_init__(self) -> None:
        """Raise UserError for a setting that no model can have."""
        _check(self)


class PCA(StatisticsModel, Reconstructs, HasSharedVariance):
    """Principal components of square-rooted, smoothed activity, in closed form."""

    passes = 1

    mean: Tensor
    vectors: Tensor
    variances: Tensor
    rest: Tensor  # mean variance of the directions that are left out
    variance_of_roots: Tensor  # of counts: what squared rates lack
    shift: Tensor  # around which sums lose no digits
    chosen: Tensor  # number of components
    width_bins: Tensor

    def __init__(self, config: PCAConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        layout = single_session(config.name, layouts)
        self._root = config.square_root and layout.observation is Observation.COUNTS
        fixed = config.smoothing_s is not None
        self.widths = [float(config.smoothing_s or 0) / layout.bin_width_s] if fixed else [0.0]
        self.widths += [] if fixed else widths_bins(layout.bin_width_s)
        units, latents = layout.n_units, min(config.latents or CANDIDATES[-1], layout.n_units)
        start = {
            "mean": torch.zeros(units),
            "vectors": torch.eye(units, latents),
            "variances": torch.ones(latents),
            "rest": torch.tensor(1.0),
            "variance_of_roots": torch.zeros(units),
            "shift": torch.zeros(units),
            "width_bins": torch.tensor(self.widths[0]),
        }
        for name, value in start.items():
            self.register_buffer(name, value.to(torch.float64))
        self.register_buffer("chosen", torch.tensor(latents))
        self.folds = SharedVarianceFolds(config.folds)

    @property
    def components(self) -> Components:
        """The parameters."""
        kept = slice(0, int(self.chosen))
        return Components(self.mean, self.vectors[:, kept], self.variances[kept], self.rest)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Choose the width, and the number of components where it is not given, on folds of the training data."""
        found, fold = pieces(batches, self.config.folds)
        found = [Piece(self._transform(piece.activity), piece.seen) for piece in found]
        activity, seen, _ = joined(found, fold)
        self.shift.copy_(rounded(mean_of_seen(activity, seen)))
        width = choose_width(found, fold, self.widths)[0] if len(self.widths) > 1 else self.widths[0]
        shared = shared_variance(found, fold, width)
        self.width_bins.fill_(width)
        if self.config.latents is None:
            self.chosen.fill_(max(1, int(shared.latents)))
        self.folds.remember(shared)

    @torch.no_grad()
    def statistics(self, batch: Batch) -> Moments:
        """Return the second moments of the smoothed activity of one batch."""
        seen = batch.observed[batch.valid]
        return moments(*self._smoothed(batch), self.shift, batch.activity[batch.valid].to(torch.float64), seen)

    @torch.no_grad()
    def update(self, statistics: Moments) -> Float[Tensor, ""]:
        """Solve; return the share of variance that the components explain."""
        found = components(statistics, self.shift, int(self.chosen))
        size = found.vectors.shape[1]
        self.mean.copy_(found.mean)
        self.vectors[:, :size], self.variances[:size] = found.vectors, found.variances
        self.rest.copy_(found.rest)
        explained = found.vectors.square() @ found.variances
        raw = statistics.raw / statistics.raw_bins.clamp(min=1)
        self.variance_of_roots.copy_((raw - found.mean.square() - explained).clamp(min=0))
        return found.variances.sum() / (found.variances.sum() + found.rest * (len(found.mean) - size)).clamp(min=1e-30)

    @property
    def smoothing_s(self) -> float:
        """The standard deviation of the Gaussian, s."""
        [layout] = self.layouts.values()
        return float(self.width_bins) * layout.bin_width_s

    @property
    def shared_variance(self) -> SharedVariance:
        """How much of the variance is shared, by cross-validation on the training data."""
        return self.folds.found

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the components; of units that are hidden, what is expected given the others."""
        projected = project(self.components, *self._smoothed(batch))
        latents = projected.new_zeros(*batch.valid.shape, projected.shape[1])
        latents[batch.valid] = projected
        return latents

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the activity that the components stand for; of counts, the square of the roots and their variance."""
        rates = self.mean + self.latents(batch) @ self.components.vectors.T
        if self._root:
            rates = rates.square() + self.variance_of_roots
        return torch.where(batch.valid[..., None], rates, 0.0)

    def _smoothed(self, batch: Batch) -> tuple[Float[Tensor, "bin unit"], Bool[Tensor, "bin unit"]]:
        """Return the smoothed activity in the valid bins of all trials, and where there is any."""
        seen = batch.observed & batch.valid[..., None]
        activity = torch.where(seen, batch.activity.to(torch.float64), 0.0)
        values, there = smooth(self._transform(activity), seen, float(self.width_bins))
        return values[batch.valid], there[batch.valid]

    def _transform(self, activity: Tensor) -> Tensor:
        return activity.clamp(min=0).sqrt() if self._root else activity


def _check(config: PCAConfig) -> None:
    if config.latents is not None and config.latents < 1:
        raise UserError(
            f"model.latents is {config.latents}.",
            "There is at least one principal component.",
            "Set model.latents to 1 or more, or to null to choose it by cross-validation.",
        )
    if config.smoothing_s is not None and not config.smoothing_s >= 0:
        raise UserError(
            f"model.smoothing_s is {config.smoothing_s:g}.",
            "The width of a Gaussian is zero (no smoothing) or positive.",
            "Write model.smoothing_s=0.05, or null to choose it by cross-validation.",
        )


register(
    Entry(
        model=PCA,
        config=PCAConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            citation="Tipping ME, Bishop CM (1999). Probabilistic principal component analysis. Journal of the Royal "
            "Statistical Society B 61(3), 611-622.",
            doi="10.1111/1467-9868.00196",
            key="tipping1999probabilistic",
        ),
        tiny=lambda layout: PCAConfig(latents=2, folds=3),
        working_bytes=40.0,  # 41 to 61 of 4 to 12 million counts of 100 units
        training=Training(max_epochs=1),
    )
)
