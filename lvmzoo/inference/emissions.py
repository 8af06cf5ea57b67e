"""How latents show in the activity of a linear dynamical system, and the inference that goes with it.

A model holds one of these and never asks which. Parameters are of one session; ``data`` is (activity, valid, observed,
known inputs or None) of a batch of it. A covariance is None where the expected activity does not depend on it.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from lvmzoo.batch import Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.inference.count_expectations import CountMoments, count_bounds, count_expectations, count_posterior
from lvmzoo.inference.count_filter import count_draws, count_filter, count_observe, count_trials, expected_counts
from lvmzoo.inference.count_maximization import maximize_counts, solve_units
from lvmzoo.inference.count_start import log_linear
from lvmzoo.inference.linear_gaussian import (
    LinearGaussian,
    Moments,
    expectations,
    filtered_means,
    log_likelihood,
    smoothed_covariance,
    smoothed_means,
)
from lvmzoo.inference.maximization import Constraints, maximize, solve_readout
from lvmzoo.inference.online import Prediction, observe
from lvmzoo.inference.sampling import draw_latents, draw_trials

__all__ = ["CountEmissions", "Emissions", "GaussianEmissions", "emissions_of"]

Belief = tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"] | None]


class Emissions(abc.ABC):
    """Inference for one kind of emissions."""

    bound: bool  # the log-likelihood is a lower bound
    positive: bool  # expected activity is
    of_units: tuple[str, ...]  # moments that each unit has its own of

    @abc.abstractmethod
    def start(self, gaussian: LinearGaussian) -> LinearGaussian:
        """Return starting values, given those of Gaussian emissions."""

    @abc.abstractmethod
    def expectations(self, model: LinearGaussian, *data: Any) -> Any:
        """Return the moments for the M-step."""

    @abc.abstractmethod
    def maximize(self, model: LinearGaussian, moments: Any, constraints: Constraints) -> LinearGaussian:
        """Return the parameters after the M-step."""

    @abc.abstractmethod
    def units(self, model: LinearGaussian, moments: Any) -> LinearGaussian:
        """Return the parameters with what the M-step finds for the units; the latents stay as they are."""

    @abc.abstractmethod
    def log_likelihood(self, model: LinearGaussian, *data: Any) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of each trial, or a lower bound on it, in nats."""

    @abc.abstractmethod
    def posterior(
        self, model: LinearGaussian, *data: Any
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the mean and the covariance of the latents given all bins."""

    @abc.abstractmethod
    def smoothed(self, model: LinearGaussian, *data: Any) -> Belief:
        """Return what all bins tell about the latents, as far as the expected activity depends on it."""

    @abc.abstractmethod
    def filtered(self, model: LinearGaussian, *data: Any) -> Belief:
        """Return what the bins up to each bin tell about its latents."""

    @abc.abstractmethod
    def emit(
        self,
        model: LinearGaussian,
        mean: Float[Tensor, "trial bin latent"],
        covariance: Float[Tensor, "trial bin latent latent"] | None,
        inputs: Float[Tensor, "trial bin channel"] | None,
    ) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given a belief about the latents."""

    @abc.abstractmethod
    def observe(
        self,
        model: LinearGaussian,
        coming: Prediction,
        activity: Num[Tensor, "trial unit"],
        observed: Bool[Tensor, "trial unit"],
        inputs: Float[Tensor, "trial channel"] | None,
    ) -> tuple[Prediction, Float[Tensor, "trial latent"]]:
        """Return the prediction of the next bin, and the mean of the latents of this one."""

    @abc.abstractmethod
    def sample(
        self, model: LinearGaussian, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw latents and activity of new trials, with known inputs at zero; all on the CPU."""

    @abc.abstractmethod
    def draws(
        self, model: LinearGaussian, normal: Float[Tensor, "draw trial bin latent"], *data: Any
    ) -> Float[Tensor, "draw trial bin latent"]:
        """Return draws of whole trajectories given all bins, from standard normal numbers."""


class GaussianEmissions(Emissions):
    """Activity with Gaussian noise: exact inference.

    ``sessions`` are the units of each, one after the other, and whether they are counts all the same.
    """

    bound, positive, of_units = False, False, ("squares", "activity", "readout")

    def __init__(self, sessions: Sequence[tuple[slice, bool]]) -> None:
        self._sessions = sessions

    def start(self, gaussian: LinearGaussian) -> LinearGaussian:
        """Return them as they are."""
        return gaussian

    def expectations(self, model: LinearGaussian, *data: Any) -> Moments:
        """Return the moments for the M-step."""
        return expectations(model, *data)

    def maximize(self, model: LinearGaussian, moments: Moments, constraints: Constraints) -> LinearGaussian:
        """Return the parameters that maximize the expected log-likelihood."""
        return maximize(model, moments, self._sessions, constraints)

    def units(self, model: LinearGaussian, moments: Moments) -> LinearGaussian:
        """Return the parameters with the readout that maximizes the expected log-likelihood."""
        C, D, d, r = solve_readout(model, moments, self._sessions)
        return model._replace(readout=C, feedthrough=D, offset=d, noise=r)

    def log_likelihood(self, model: LinearGaussian, *data: Any) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of each trial, in nats."""
        return log_likelihood(model, *data)

    def posterior(
        self, model: LinearGaussian, *data: Any
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the mean and the covariance of the latents given all bins."""
        _, valid, observed, _ = data
        return smoothed_means(model, *data), smoothed_covariance(model, valid, observed)

    def smoothed(self, model: LinearGaussian, *data: Any) -> Belief:
        """Return the mean of the latents given all bins."""
        return smoothed_means(model, *data), None

    def filtered(self, model: LinearGaussian, *data: Any) -> Belief:
        """Return the mean of the latents given the bins up to each bin."""
        return filtered_means(model, *data), None

    def emit(
        self,
        model: LinearGaussian,
        mean: Float[Tensor, "trial bin latent"],
        covariance: Float[Tensor, "trial bin latent latent"] | None,
        inputs: Float[Tensor, "trial bin channel"] | None,
    ) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given the mean of the latents."""
        rates = torch.matmul(mean, model.readout.T).add_(model.offset)
        if inputs is not None and model.feedthrough is not None:
            rates += inputs.to(rates) @ model.feedthrough.T
        return rates

    def observe(
        self,
        model: LinearGaussian,
        coming: Prediction,
        activity: Num[Tensor, "trial unit"],
        observed: Bool[Tensor, "trial unit"],
        inputs: Float[Tensor, "trial channel"] | None,
    ) -> tuple[Prediction, Float[Tensor, "trial latent"]]:
        """Return the prediction of the next bin, and the mean of the latents of this one."""
        return observe(model, coming, activity, observed, inputs)

    def sample(
        self, model: LinearGaussian, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw latents and activity of new trials."""
        return draw_trials(model, trials, bins, torch.Generator().manual_seed(seed))

    def draws(
        self, model: LinearGaussian, normal: Float[Tensor, "draw trial bin latent"], *data: Any
    ) -> Float[Tensor, "draw trial bin latent"]:
        """Return draws of whole trajectories given all bins."""
        activity, valid, observed, inputs = data
        return draw_latents(model, activity, valid, observed, inputs, normal)


class CountEmissions(Emissions):
    """Poisson counts of log-linear rates, or negative binomial ones: a lower bound that EM never lowers."""

    bound, positive, of_units = True, True, ("samples", "gain", "rivals", "gradient", "curvature")

    def __init__(self, poisson: bool) -> None:
        self._poisson = poisson

    def start(self, gaussian: LinearGaussian) -> LinearGaussian:
        """Return the system of log rates with the moments of a Gaussian system."""
        return log_linear(gaussian)

    def expectations(self, model: LinearGaussian, *data: Any) -> CountMoments:
        """Return the moments for the M-step."""
        return count_expectations(model, *data, poisson=self._poisson)

    def maximize(self, model: LinearGaussian, moments: CountMoments, constraints: Constraints) -> LinearGaussian:
        """Return parameters with a higher bound."""
        return maximize_counts(model, moments, constraints, poisson=self._poisson)

    def units(self, model: LinearGaussian, moments: CountMoments) -> LinearGaussian:
        """Return the parameters after a safe step of the readout."""
        C, d, D, a = solve_units(model, moments, self._poisson)
        return model._replace(readout=C, offset=d, feedthrough=D, noise=a)

    def log_likelihood(self, model: LinearGaussian, *data: Any) -> Float[Tensor, " trial"]:
        """Return a lower bound on the log-likelihood of each trial, in nats."""
        return count_bounds(model, *data, poisson=self._poisson)

    def posterior(
        self, model: LinearGaussian, *data: Any
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the mean and the covariance of the latents given all bins."""
        return count_posterior(model, *data, poisson=self._poisson)

    def smoothed(self, model: LinearGaussian, *data: Any) -> Belief:
        """Return the same: the expected counts depend on both."""
        return self.posterior(model, *data)

    def filtered(self, model: LinearGaussian, *data: Any) -> Belief:
        """Return the mean and the covariance of the latents given the bins up to each bin."""
        return count_filter(model, *data, poisson=self._poisson)

    def emit(
        self,
        model: LinearGaussian,
        mean: Float[Tensor, "trial bin latent"],
        covariance: Float[Tensor, "trial bin latent latent"] | None,
        inputs: Float[Tensor, "trial bin channel"] | None,
    ) -> Float[Tensor, "trial bin unit"]:
        """Return the expected counts."""
        return expected_counts(model, mean, covariance, inputs)

    def observe(
        self,
        model: LinearGaussian,
        coming: Prediction,
        activity: Num[Tensor, "trial unit"],
        observed: Bool[Tensor, "trial unit"],
        inputs: Float[Tensor, "trial channel"] | None,
    ) -> tuple[Prediction, Float[Tensor, "trial latent"]]:
        """Return the prediction of the next bin, and the mean of the latents of this one."""
        return count_observe(model, coming, activity, observed, inputs, poisson=self._poisson)

    def sample(
        self, model: LinearGaussian, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw latents and counts of new trials."""
        return count_trials(model, trials, bins, seed, poisson=self._poisson)

    def draws(
        self, model: LinearGaussian, normal: Float[Tensor, "draw trial bin latent"], *data: Any
    ) -> Float[Tensor, "draw trial bin latent"]:
        """Return draws of whole trajectories from the posterior."""
        activity, valid, observed, inputs = data
        return count_draws(model, activity, valid, observed, inputs, normal, poisson=self._poisson)


def emissions_of(kind: str, layouts: Sequence[Layout]) -> Emissions:
    """Return Gaussian emissions, or of counts poisson or negative_binomial ones.

    Raises UserError for those of counts where a session's activity is not counts.
    """
    if kind == "gaussian":
        ends = list(itertools.accumulate(layout.n_units for layout in layouts))
        slices = [slice(end - layout.n_units, end) for end, layout in zip(ends, layouts, strict=True)]
        counts = [layout.observation is Observation.COUNTS for layout in layouts]
        return GaussianEmissions(list(zip(slices, counts, strict=True)))
    for layout in layouts:
        if layout.observation is not Observation.COUNTS:
            raise UserError(
                f"model.emissions is {kind}, but the activity of session '{layout.session}' is not counts.",
                "Poisson and negative binomial emissions are of spikes per bin, neither smoothed nor scaled.",
                "Set model.emissions to gaussian, or leave out what changes the counts, such as data.smoothing_s.",
            )
    return CountEmissions(poisson=kind == "poisson")
