"""The contracts that a model signs: two ways of fitting, and capabilities that metrics look for.

A model is a plain ``nn.Module``. It never sees a trainer, an optimizer, a device setting or a file.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout, Sampling, TrialSampling
from lvmzoo.findings import Findings, Progress, quiet_progress
from lvmzoo.inference.attribution import Attribution
from lvmzoo.inference.shared_variance import SharedVariance

__all__ = [
    "Adapts",
    "Attributes",
    "Communicates",
    "Connects",
    "Decodes",
    "DynamicalSystem",
    "Filters",
    "Forecasts",
    "ForecastsBehavior",
    "GradientModel",
    "HasDynamics",
    "HasPosterior",
    "HasSharedVariance",
    "InfersInputs",
    "Loss",
    "Model",
    "Reconstructs",
    "Samples",
    "Scores",
    "Selects",
    "StatisticsModel",
    "capabilities",
]

Statistics = TypeVar("Statistics", bound=tuple)  # a flat NamedTuple of float64 tensors, added leaf by leaf


class Model(nn.Module, abc.ABC):
    """A latent-variable model of population activity, built as ``Model(config, layouts)``, one layout a session.

    Numbers that the data decide come from the layouts and are never typed into a config.
    """

    uses_inputs: ClassVar[bool] = False  # ``Batch.inputs`` drive it; a run says where a model leaves them out

    def __init__(self, config: Any, layouts: Sequence[Layout]) -> None:
        super().__init__()
        self.config = config
        self.layouts = {layout.session: layout for layout in layouts}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Set starting values from training data: once, the same on each rank, not on resume.

        ``batches`` can be iterated more than once.
        """

    def finish(self) -> None:
        """Put the parameters into their canonical form; called once, when fitting is over."""

    @abc.abstractmethod
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the posterior mean of the latents given what is observed.

        Behavior is hidden unless the model declares it as input. Bins that are not valid hold zeros.
        """


class StatisticsModel(Model):
    """Fitted by summing statistics over the data, then solving: closed form, or EM."""

    passes: int | None  # passes over the data to a solution; None: until converged

    @property
    def settled(self) -> bool:
        """Whether the gain of the objective, since this was last true, tells how near convergence is.

        False within a line search, or in a phase that another follows.
        """
        return True

    @abc.abstractmethod
    def statistics(self, batch: Batch) -> Any:
        """Return moments of one batch (closed form) or their posterior expectation (the E-step).

        A flat ``NamedTuple`` of float64 tensors; the learner adds them over batches, sessions and ranks.
        """

    @abc.abstractmethod
    def update(self, statistics: Any) -> Float[Tensor, ""]:
        """Solve for the parameters (the M-step); return the objective per valid bin, higher is better.

        For EM it is the log-likelihood, in nats per bin, of the parameters *before* the update.
        """


class Loss(NamedTuple):
    """Named terms whose sum is minimized, each a mean over ``weight`` observations."""

    terms: Mapping[str, Tensor]
    weight: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of the terms."""
        return sum(self.terms.values(), start=self.weight.new_zeros(()))


class GradientModel(Model):
    """Fitted by descending a loss.

    The learner seeds torch's random state from (seed, step) before every call of ``loss``: draws need no generator.
    """

    @property
    def sampling(self) -> Sampling:
        """How the training data are drawn."""
        return TrialSampling()

    @abc.abstractmethod
    def loss(self, batch: Batch, step: int) -> Loss:
        """Return the loss of one batch; finite, with weight 0, for a batch without a valid bin."""


class Reconstructs(abc.ABC):
    """Predicts the activity of every unit, whether it was observed or not."""

    positive_rates: bool = False  # True: the rates of counts are positive and scored as they are

    @abc.abstractmethod
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity per bin of every unit."""


class Communicates(abc.ABC):
    """Predicts regions from other regions."""

    @property
    @abc.abstractmethod
    def routes(self) -> Mapping[str, tuple[str, ...]]:
        """The regions that it predicts, and from which regions it predicts each of them."""

    @abc.abstractmethod
    def predict_target(self, batch: Batch, target: str) -> Float[Tensor, "trial bin target_unit"]:
        """Return the expected activity of a region of ``routes`` given its source regions alone."""


class Connects(abc.ABC):
    """Says which regions communicate, in which direction, with what delay and through how many dimensions."""

    @abc.abstractmethod
    def findings(self, batch: Batch, seed: int, progress: Progress = quiet_progress) -> Findings:
        """Return claims about the regions of a session, each with its null and interval.

        Parameters
        ----------
        batch : all training trials of the session.
        seed : of permutations and resamples.
        progress : is told how far long work is.
        """


class Decodes(abc.ABC):
    """Predicts behavior by itself."""

    @abc.abstractmethod
    def decode(self, batch: Batch) -> Mapping[str, Float[Tensor, "trial bin channel"]]:
        """Return each behavior variable that the model decodes."""


class Forecasts(abc.ABC):
    """Predicts activity ahead of time."""

    @abc.abstractmethod
    def forecast(self, batch: Batch, horizon: int) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity of each bin given the bins up to ``horizon`` bins earlier."""


class ForecastsBehavior(abc.ABC):
    """Predicts behavior ahead of time."""

    @abc.abstractmethod
    def forecast_behavior(self, batch: Batch, horizon: int) -> Mapping[str, Float[Tensor, "trial bin channel"]]:
        """Return the behavior expected in each bin given the activity up to ``horizon`` bins earlier."""


class Filters(abc.ABC):
    """Infers latents as the recording goes on, bin by bin."""

    lag_bins: int = 0  # later bins that it waits for; 0: causal

    @abc.abstractmethod
    def filtered(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the expected latents of each bin given the bins up to ``lag_bins`` after it."""

    @abc.abstractmethod
    def initial(self, session: str, trials: int) -> Any:
        """Return the state before the first bin of that many trials, to begin ``step`` with."""

    @abc.abstractmethod
    def step(self, state: Any, bin: Batch) -> tuple[Any, Float[Tensor, "trial latent"]]:
        """Return the state after one more bin, and what ``filtered`` says of the bin ``lag_bins`` before it."""


class Adapts(abc.ABC):
    """Shares a body among sessions, so that a new one is learned by fitting its own layers alone.

    ``prepare`` sets the starting values of each session from batches of that session alone.
    """

    adjustable: frozenset[str] = frozenset()  # settings that may be others than those the body was trained with

    @abc.abstractmethod
    def own_layers(self, session: str) -> nn.Module:
        """Return what belongs to one session alone, parameters and buffers; all sessions share the rest."""


class Attributes(abc.ABC):
    """Says how strongly each unit carries each latent, or what is read out from the latents."""

    attributes_reliably: bool = True  # False: it was not trained for it, and a report leaves it out

    @abc.abstractmethod
    def attribution(
        self, batch: Batch, readout: Float[Tensor, "latent code"] | None = None, windows: int = 1000
    ) -> Attribution:
        """Return the attribution of the held-in units; others hold zeros.

        Parameters
        ----------
        batch : where to look.
        readout : linear, from the latents; None: the latents themselves.
        windows : bins to look at, evenly spaced among the valid ones.
        """


class HasDynamics(abc.ABC):
    """Its latents follow a law of motion."""

    @abc.abstractmethod
    def advance(self, latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        """Return the expected latents one bin later, with known inputs at zero; it can be differentiated."""

    def advance_in(self, session: str, latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        """Return the same by the law of one session; all sessions share it unless a model fits each by itself."""
        return self.advance(latents)


class Samples(abc.ABC):
    """Generates data."""

    @abc.abstractmethod
    def sample(self, session: str, trials: int, bins: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return latents (trial, bin, latent) and activity (trial, bin, unit), drawn from the model."""


class Scores(abc.ABC):
    """Has a tractable likelihood, or a lower bound of it."""

    is_bound: bool = False  # True: a lower bound, not to be compared with a likelihood

    @abc.abstractmethod
    def log_likelihood(self, batch: Batch) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the observed activity of each trial, in nats."""


class HasPosterior(abc.ABC):
    """Knows how uncertain its latents are."""

    @abc.abstractmethod
    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the mean and covariance of the latents in each bin given what is observed."""


class InfersInputs(abc.ABC):
    """Drives its dynamics by inputs that it infers from the activity."""

    infers_inputs: bool = True  # False: as it is configured, it has none

    @abc.abstractmethod
    def undriven_rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return ``rates`` with each inferred input at its prior mean; the initial condition is as inferred."""


class HasSharedVariance(abc.ABC):
    """Knows from the training data how much variance units share, and in how many dimensions."""

    @property
    @abc.abstractmethod
    def shared_variance(self) -> SharedVariance:
        """What cross-validation on folds of the training data says."""


class Selects(abc.ABC):
    """Compares all values of some of its settings in one fit, by the moments of ``folds`` of the training data."""

    selects: ClassVar[Mapping[str, str]]  # setting, fitted with null there -> what its values are compared by, in words

    @abc.abstractmethod
    def compared(self, setting: str) -> Mapping[int, Float[Tensor, " fold"]]:
        """Return what each value of one of these settings scored on each fold left out; higher is better.

        A fold without data holds NaN. Of several sessions it is the mean.
        """


class DynamicalSystem(Reconstructs, Forecasts, Filters, HasDynamics, Samples, Scores, HasPosterior, abc.ABC):
    """All that a probabilistic dynamical system can do."""


CAPABILITIES: tuple[type, ...] = (
    Reconstructs,
    Communicates,
    Connects,
    Decodes,
    Forecasts,
    ForecastsBehavior,
    Filters,
    Adapts,
    Attributes,
    HasDynamics,
    Samples,
    Scores,
    HasPosterior,
    HasSharedVariance,
    InfersInputs,
)


def capabilities(model: Model | type[Model]) -> tuple[str, ...]:
    """Return the names of what a model, or a class of models, can do."""
    cls = model if isinstance(model, type) else type(model)
    return tuple(capability.__name__ for capability in CAPABILITIES if issubclass(cls, capability))
