"""Likelihoods of activity given what a network reads out of its latents.

A likelihood has ``n_parameters`` for each unit. The first ``n_varying`` of them are read out of the latents in every
bin; the others are one number a unit. All are unbounded: a network can produce any value. Whatever is passed in must be
finite; select what is observed afterwards, with ``torch.where`` on the result.

The zero-inflated Gamma of deconvolved calcium events: Wei, Zhou, Grosenick, Shen, Kass, Cunningham, Paninski (2020),
doi:10.1080/10618600.2020.1751460.
"""

from __future__ import annotations

import abc
import math
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor
from torch.nn import functional

from lvmzoo.batch import Observation
from lvmzoo.errors import unknown

__all__ = ["Gaussian", "Likelihood", "Poisson", "UnitMoments", "ZeroInflatedGamma", "choose_likelihood"]


class UnitMoments(NamedTuple):
    """Sums over training bins, in float64, from which a likelihood finds its starting values; add leaf by leaf."""

    bins: Float[Tensor, " unit"]
    total: Float[Tensor, " unit"]
    squares: Float[Tensor, " unit"]
    positive_bins: Float[Tensor, " unit"]
    positive_total: Float[Tensor, " unit"]
    positive_squares: Float[Tensor, " unit"]

    @classmethod
    def of(cls, activity: Num[Tensor, "*rows unit"], seen: Bool[Tensor, "*rows unit"]) -> UnitMoments:
        """Sum over all axes but the last, where ``seen``."""
        values = torch.where(seen, activity.double(), 0.0).flatten(0, -2)
        counted, positive = seen.flatten(0, -2).double(), values.clamp(min=0)
        return cls(
            counted.sum(0),
            values.sum(0),
            values.square().sum(0),
            (values > 0).double().sum(0),
            positive.sum(0),
            positive.square().sum(0),
        )

    @property
    def mean(self) -> Float[Tensor, " unit"]:
        """Mean of each unit; 0 where it was never seen."""
        return self.total / self.bins.clamp(min=1)

    @property
    def variance(self) -> Float[Tensor, " unit"]:
        """Variance of each unit; 0 for one that is constant up to rounding."""
        return _variance(self.bins, self.total, self.squares)


class Likelihood(abc.ABC):
    """The distribution of one unit's activity in one bin."""

    name: ClassVar[str]
    n_parameters: ClassVar[int]
    n_varying: ClassVar[int]
    positive: ClassVar[bool]  # the mean is positive whatever the parameters
    counts: ClassVar[bool] = False

    @abc.abstractmethod
    def mean(self, parameters: Float[Tensor, " parameter *shape"]) -> Float[Tensor, "*shape"]:
        """Return the expected activity per bin."""

    @abc.abstractmethod
    def log_prob(
        self, parameters: Float[Tensor, " parameter *shape"], activity: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the log-density (of counts: log-probability) of the activity, in nats."""

    def loss(
        self, parameters: Float[Tensor, " parameter *shape"], activity: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the negative log-density, in nats, up to a term that does not depend on the parameters."""
        return -self.log_prob(parameters, activity)

    @abc.abstractmethod
    def scaling(self, moments: UnitMoments) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
        """Return shift and scale by which activity is standardized first; counts stay counts."""

    @abc.abstractmethod
    def start(self, moments: UnitMoments) -> Float[Tensor, "parameter unit"]:
        """Return the parameters of units that do not vary over bins, for standardized activity."""

    @abc.abstractmethod
    def sample(self, parameters: Float[Tensor, " parameter *shape"], generator: torch.Generator) -> Tensor:
        """Draw activity, on the CPU."""


class Poisson(Likelihood):
    """Counts; the parameter is the log rate per bin, held within [-12, 8]."""

    name = "poisson"
    counts = True
    n_parameters = 1
    n_varying = 1
    positive = True
    bounds: ClassVar[tuple[float, float]] = (-12.0, 8.0)

    def mean(self, parameters: Float[Tensor, " parameter *shape"]) -> Float[Tensor, "*shape"]:
        """Return the rate, in spikes per bin."""
        return parameters[0].clamp(*self.bounds).exp()

    def log_prob(
        self, parameters: Float[Tensor, " parameter *shape"], activity: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the log-probability of the counts, with its constant."""
        return -self.loss(parameters, activity) - torch.lgamma(activity + 1)

    def loss(
        self, parameters: Float[Tensor, " parameter *shape"], activity: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the negative log-probability without the constant log(count!)."""
        log_rate = parameters[0].clamp(*self.bounds)
        return log_rate.exp() - activity * log_rate

    def scaling(self, moments: UnitMoments) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
        """Return 0 and 1."""
        return torch.zeros_like(moments.total), torch.ones_like(moments.total)

    def start(self, moments: UnitMoments) -> Float[Tensor, "parameter unit"]:
        """Return log mean rates, of half a spike where there was none."""
        return (moments.total.clamp(min=0.5) / moments.bins.clamp(min=1)).log()[None]

    def sample(self, parameters: Float[Tensor, " parameter *shape"], generator: torch.Generator) -> Tensor:
        """Draw counts."""
        return torch.poisson(self.mean(parameters).cpu(), generator=generator)


class Gaussian(Likelihood):
    """A continuous signal; the parameters are its mean in every bin and one log variance, held within [-12, 12]."""

    name = "gaussian"
    n_parameters = 2
    n_varying = 1
    positive = False
    bounds: ClassVar[tuple[float, float]] = (-12.0, 12.0)

    def mean(self, parameters: Float[Tensor, " parameter *shape"]) -> Float[Tensor, "*shape"]:
        """Return the mean."""
        return parameters[0]

    def log_prob(
        self, parameters: Float[Tensor, " parameter *shape"], activity: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the log-density."""
        log_variance = parameters[1].clamp(*self.bounds)
        squares = (activity - parameters[0]).square() * torch.exp(-log_variance)
        return -0.5 * (math.log(2 * math.pi) + log_variance + squares)

    def scaling(self, moments: UnitMoments) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
        """Return mean and standard deviation; 1 for a constant unit."""
        return moments.mean, _or_one(moments.variance.sqrt())

    def start(self, moments: UnitMoments) -> Float[Tensor, "parameter unit"]:
        """Return mean 0 and variance 1: those of standardized activity."""
        return torch.zeros_like(moments.total).repeat(2, 1)

    def sample(self, parameters: Float[Tensor, " parameter *shape"], generator: torch.Generator) -> Tensor:
        """Draw a signal."""
        mean, log_variance = parameters.cpu()
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        return mean + noise * torch.exp(0.5 * log_variance.clamp(*self.bounds))


class ZeroInflatedGamma(Likelihood):
    """Deconvolved calcium: zero, or an event of Gamma-distributed size.

    The parameters are, in every bin, the log of an event's mean size and the logit of the probability of an event; and
    of each unit, the log of the Gamma distribution's shape. Activity of zero or below is no event.
    """

    name = "zero_inflated_gamma"
    n_parameters = 3
    n_varying = 2
    positive = True
    bounds: ClassVar[tuple[tuple[float, float], ...]] = ((-12.0, 8.0), (-12.0, 12.0), (-4.0, 6.0))

    def _bounded(self, parameters: Tensor) -> list[Tensor]:
        return [parameter.clamp(*bounds) for parameter, bounds in zip(parameters, self.bounds, strict=True)]

    def mean(self, parameters: Float[Tensor, " parameter *shape"]) -> Float[Tensor, "*shape"]:
        """Return the probability of an event times its mean size."""
        log_size, logit, _ = self._bounded(parameters)
        return torch.sigmoid(logit) * log_size.exp()

    def log_prob(
        self, parameters: Float[Tensor, " parameter *shape"], activity: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the log-probability of no event, or the log-density of an event of this size."""
        log_size, logit, log_shape = self._bounded(parameters)
        event = activity > 0
        size = torch.where(event, activity, 1.0)  # before the logarithm: a masked infinity still sends NaN back
        shape = log_shape.exp()
        density = (
            shape * (log_shape - log_size)
            - torch.lgamma(shape)
            + (shape - 1) * size.log()
            - torch.exp(log_shape - log_size) * size
        )
        return torch.where(event, functional.logsigmoid(logit) + density, functional.logsigmoid(-logit))

    def scaling(self, moments: UnitMoments) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
        """Return 0 and the mean size of events."""
        return torch.zeros_like(moments.total), _or_one(moments.positive_total / moments.positive_bins.clamp(min=1))

    def start(self, moments: UnitMoments) -> Float[Tensor, "parameter unit"]:
        """Return size 1, the fraction of bins with an event, and the shape that gives the sizes' variance."""
        fraction = (moments.positive_bins + 0.5) / (moments.bins + 1)
        mean = moments.positive_total / moments.positive_bins.clamp(min=1)
        spread = _variance(moments.positive_bins, moments.positive_total, moments.positive_squares)
        shape = torch.where(spread > 0, mean.square() / _or_one(spread), 1.0).clamp(0.05, 100.0)
        return torch.stack([torch.zeros_like(fraction), torch.logit(fraction), shape.log()])

    def sample(self, parameters: Float[Tensor, " parameter *shape"], generator: torch.Generator) -> Tensor:
        """Draw events."""
        log_size, logit, log_shape = self._bounded(parameters.cpu())
        event = torch.rand(logit.shape, generator=generator) < torch.sigmoid(logit)
        draws = torch._standard_gamma(log_shape.exp(), generator=generator)
        return torch.where(event, draws * torch.exp(log_size - log_shape), 0.0)


LIKELIHOODS: tuple[type[Likelihood], ...] = (Poisson, Gaussian, ZeroInflatedGamma)


def choose_likelihood(name: str | None, observation: Observation) -> Likelihood:
    """Return a likelihood by name; None: Poisson for counts, Gaussian else. Raises UserError for an unknown name."""
    if name is None:
        return Poisson() if observation is Observation.COUNTS else Gaussian()
    for likelihood in LIKELIHOODS:
        if likelihood.name == name:
            return likelihood()
    raise unknown("likelihood", name, [likelihood.name for likelihood in LIKELIHOODS])


def _variance(count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    mean = total / count.clamp(min=1)
    power = squares / count.clamp(min=1)
    variance = power - mean.square()
    return torch.where(variance > 1e-12 * power, variance, 0.0)  # below it, rounding


def _or_one(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)
