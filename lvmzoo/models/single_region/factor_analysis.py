r"""Factor analysis: latents of each bin by itself, and private noise of each unit.

.. math:: y_t = \mu + L x_t + \epsilon_t, \quad x_t \sim N(0, I), \ \epsilon_t \sim N(0, \Psi), \ \Psi \text{ diagonal}

Fitted by EM: Rubin DB, Thayer DT (1982), EM algorithms for ML factor analysis, Psychometrika 47, 69-76,
doi:10.1007/BF02293851. The E-step fills in samples that were not observed; the M-step maximizes the likelihood over
loadings and noise to convergence, so that without missing samples the first pass finds the solution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.inference.factor_analysis import (
    Factors,
    Moments,
    expected_moments,
    maximize,
    maximum_likelihood,
    posterior,
)
from lvmzoo.inference.maximization import noise_floor
from lvmzoo.inference.pieces import joined, mean_of_seen, pieces, rounded
from lvmzoo.inference.shared_variance import CANDIDATES, FoldMoments, SharedVariance, cross_validate
from lvmzoo.models.base import HasPosterior, HasSharedVariance, Reconstructs, Samples, Scores, StatisticsModel
from lvmzoo.parts.shared_variance_folds import SharedVarianceFolds
from lvmzoo.parts.single_session import single_session
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["FactorAnalysis", "FactorAnalysisConfig"]


@dataclass(frozen=True)
class FactorAnalysisConfig:
    """Factor analysis."""

    name: str = "factor_analysis"
    latents: int | None = 8  # number of latents; null: by the likelihood of folds of the training data
    square_root: bool = False  # of counts, which makes the noise of all units alike; the likelihood is of the roots
    folds: int = 5  # folds of the training data behind the shared variance

    def __post_init__(self) -> None:
        """Raise UserError for a setting that no model can have."""
        _check(self)


class FactorAnalysis(StatisticsModel, Reconstructs, Samples, Scores, HasPosterior, HasSharedVariance):
    """Factor analysis: independent latents in each bin and private noise of each unit, fitted by EM."""

    passes = None

    mean: Tensor
    loadings: Tensor
    noise: Tensor
    floor: Tensor  # of the noise
    shift: Tensor  # around which sums lose no digits
    chosen: Tensor  # number of latents

    def __init__(self, config: FactorAnalysisConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        layout = single_session(config.name, layouts)
        self._counts = layout.observation is Observation.COUNTS
        self._root = config.square_root and self._counts
        units, latents = layout.n_units, config.latents or min(CANDIDATES[-1], layout.n_units)
        start = {
            "mean": torch.zeros(units),
            "loadings": torch.zeros(units, latents),
            "noise": torch.ones(units),
            "floor": torch.full((units,), 1e-6),
            "shift": torch.zeros(units),
        }
        for name, value in start.items():
            self.register_buffer(name, value.to(torch.float64))
        self.register_buffer("chosen", torch.tensor(config.latents or 1))
        self.folds = SharedVarianceFolds(config.folds)

    @property
    def factors(self) -> Factors:
        """The parameters."""
        return Factors(self.mean, self.loadings[:, : int(self.chosen)], self.noise)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Cross-validate on folds of the training data, and start from moments in which missing samples are means."""
        found, fold = pieces(batches, self.config.folds)
        activity, seen, of_bin = joined(found, fold)
        activity = self._transform(activity)
        mean = mean_of_seen(activity, seen)
        self.shift.copy_(rounded(mean))
        residual = torch.where(seen, activity - mean, 0.0)
        parts = [residual[of_bin == number] for number in range(self.config.folds)]
        moments = FoldMoments(
            self.shift.new_tensor([float(len(part)) for part in parts]),
            torch.stack([part.sum(0) for part in parts]),
            torch.stack([part.T @ part for part in parts]),
        )
        covariance = moments.products.sum(0) / moments.bins.sum().clamp(min=1)
        self.floor.copy_(noise_floor(covariance.diagonal(), self._counts))
        self.folds.remember(cross_validate(moments, self.floor))
        if self.config.latents is None:
            self.chosen.copy_(self.folds.latents.clamp(min=1))
        loadings, noise = maximum_likelihood(covariance, int(self.chosen), self.floor, None, 1, 1e-2)
        self._set(Factors(mean, loadings, noise))

    @torch.no_grad()
    def statistics(self, batch: Batch) -> Moments:
        """Return the expected moments of the complete activity."""
        return expected_moments(self.factors, *self._bins(batch), self.shift)

    @torch.no_grad()
    def update(self, statistics: Moments) -> Float[Tensor, ""]:
        """Maximize the expected likelihood; return nats per bin before that."""
        self._set(maximize(statistics, self.shift, self.factors, self.floor))
        return statistics.log_likelihood / statistics.bins.clamp(min=1)

    @property
    def shared_variance(self) -> SharedVariance:
        """How much of the variance is shared, by cross-validation on the training data."""
        return self.folds.found

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the posterior mean of the latents."""
        return self.posterior(batch)[0]

    @torch.no_grad()
    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the posterior mean and covariance of the latents."""
        mean, covariance, _ = posterior(self.factors, *self._bins(batch))
        return _spread(mean, batch), _spread(covariance, batch)

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity; it can be negative unless counts are square-rooted: the noise is Gaussian."""
        mean, covariance, _ = posterior(self.factors, *self._bins(batch))
        loadings = self.factors.loadings
        rates = self.mean + mean @ loadings.T
        if self._root:  # E(y^2) = E(y)^2 + Var(y)
            uncertain = torch.einsum("ul,blm,um->bu", loadings, covariance, loadings)
            rates = rates.square() + uncertain + self.noise
        return _spread(rates, batch)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the observed activity of each trial, in nats."""
        return _spread(posterior(self.factors, *self._bins(batch))[2], batch).sum(1)

    @torch.no_grad()
    def sample(
        self, session: str, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw latents and activity of new trials; roots of counts are drawn as such, and squared."""
        factors = Factors(*(value.cpu() for value in self.factors))
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(trials, bins, factors.loadings.shape[1], generator=generator, dtype=torch.float64)
        noise = torch.randn(trials, bins, len(factors.mean), generator=generator, dtype=torch.float64)
        activity = factors.mean + drawn @ factors.loadings.T + noise * factors.noise.sqrt()
        return drawn.to(self.mean.device), (activity.square() if self._root else activity).to(self.mean.device)

    def _bins(self, batch: Batch) -> tuple[Float[Tensor, "bin unit"], Bool[Tensor, "bin unit"]]:
        """Return the valid bins of all trials, and what was observed in them."""
        seen = batch.observed[batch.valid]
        activity = torch.where(seen, batch.activity[batch.valid].to(torch.float64), 0.0)
        return self._transform(activity), seen

    def _transform(self, activity: Tensor) -> Tensor:
        return activity.clamp(min=0).sqrt() if self._root else activity

    def _set(self, factors: Factors) -> None:
        self.mean.copy_(factors.mean)
        self.loadings.zero_()
        self.loadings[:, : factors.loadings.shape[1]] = factors.loadings
        self.noise.copy_(factors.noise)


def _spread(values: Tensor, batch: Batch) -> Tensor:
    """Put the values of the valid bins of all trials where these bins are; zeros elsewhere."""
    spread = values.new_zeros(*batch.valid.shape, *values.shape[1:])
    spread[batch.valid] = values
    return spread


def _check(config: FactorAnalysisConfig) -> None:
    if config.latents is not None and config.latents < 1:
        raise UserError(
            f"model.latents is {config.latents}.",
            "Factor analysis has at least one latent.",
            "Set model.latents to 1 or more, or to null to choose it by cross-validation.",
        )


register(
    Entry(
        model=FactorAnalysis,
        config=FactorAnalysisConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            citation="Rubin DB, Thayer DT (1982). EM algorithms for ML factor analysis. Psychometrika 47(1), 69-76.",
            doi="10.1007/BF02293851",
            key="rubin1982em",
        ),
        tiny=lambda layout: FactorAnalysisConfig(latents=2, folds=3),
        working_bytes=10.0,  # 5 to 25 of 4 to 12 million counts of 100 units
        training=Training(max_epochs=100),
    )
)
