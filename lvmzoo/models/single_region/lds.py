r"""Linear dynamical system with Gaussian, Poisson or negative binomial emissions, fitted by EM.

.. math:: x_{t+1} = A x_t + B u_t + w_t, \quad y_t = C x_t + d + D u_t + v_t, \quad w_t \sim N(0, Q), v_t \sim N(0, R)

with diagonal R, or counts of mean :math:`\exp(C x_t + d + D u_t)`; each trial begins anew with
:math:`x_1 \sim N(\mu, V)`. The known inputs u of a bin (all of ``data.inputs``, one after the other, each less its mean
over the training data) drive the step to the next bin; where there are none, B and D do not exist. Sessions share the
dynamics and the way trials begin, and each has its own readout C, d, D, R. Ghahramani, Hinton (1996), Parameter
estimation for linear dynamical systems, University of Toronto CRG-TR-96-2; Shumway, Stoffer (1982),
doi:10.1111/j.1467-9892.1982.tb00349.x; of counts: Macke et al. (2011), Empirical models of spiking in neural
populations, NeurIPS 24; Khan, Lin (2017), https://arxiv.org/abs/1703.04265.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError, unknown
from lvmzoo.inference.canonical import canonical
from lvmzoo.inference.emissions import emissions_of
from lvmzoo.inference.given_values import with_given
from lvmzoo.inference.lagged_moments import Recorded
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.maximization import Constraints
from lvmzoo.inference.online import Prediction, first_prediction, predicted
from lvmzoo.inference.starting import starting_values, untrained
from lvmzoo.models.base import (
    Filters,
    Forecasts,
    HasDynamics,
    HasPosterior,
    Reconstructs,
    Samples,
    Scores,
    StatisticsModel,
)
from lvmzoo.parts.session_units import SessionUnits
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["LDS", "LDSConfig"]


@dataclass(frozen=True)
class LDSConfig:
    """Linear dynamical system."""

    name: str = "lds"
    latents: int = 8  # dimensions of the latent state
    emissions: str = "gaussian"  # gaussian; of counts also poisson, or negative_binomial where units burst
    dynamics: str = "full"  # full, or diagonal: latents that decay independently of each other
    fixed: list[str] = field(default_factory=list)  # left at their starting values by EM: dynamics, readout
    given: dict[str, Any] = field(default_factory=dict)  # starting values of dynamics or readout, row by row
    initialization: str = "subspace"  # of EM: subspace (identification) or factor_analysis

    def __post_init__(self) -> None:
        """Refuse what there is not; raises UserError. Arrays of given values become lists, which files can hold."""
        if self.latents < 1:
            raise UserError(
                f"model.latents is {self.latents}.",
                "A linear dynamical system has at least one latent dimension.",
                "Set model.latents to 1 or more, such as 8.",
            )
        for name, value, allowed in (
            ("emissions", [self.emissions], ("gaussian", "poisson", "negative_binomial")),
            ("dynamics", [self.dynamics], ("full", "diagonal")),
            ("fixed", self.fixed, ("dynamics", "readout")),
            ("given", list(self.given), ("dynamics", "readout")),
            ("initialization", [self.initialization], ("subspace", "factor_analysis")),
        ):
            for choice in value:
                if choice not in allowed:
                    raise unknown(f"choice of model.{name}", choice, allowed, f"Set model.{name} to one of these.")
        given = {name: rows.tolist() if hasattr(rows, "tolist") else rows for name, rows in self.given.items()}
        object.__setattr__(self, "given", given)


class State(NamedTuple):
    """What the filter knows of the coming bin."""

    session: str
    coming: Prediction


class LDS(StatisticsModel, Reconstructs, Forecasts, Filters, HasDynamics, Samples, Scores, HasPosterior):
    """Linear dynamical system: smooth latents with linear dynamics, Gaussian or count activity, EM."""

    passes = None
    uses_inputs = True

    dynamics: Tensor  # A
    dynamics_noise: Tensor  # Q
    initial_mean: Tensor
    initial_covariance: Tensor
    readout: Tensor  # C, the units of all sessions one after the other
    offset: Tensor  # d
    noise: Tensor  # diagonal of R; of negative binomial counts the overdispersion
    drive: Tensor | None  # B; None without known inputs
    feedthrough: Tensor | None  # D
    input_mean: Tensor | None  # over the training bins: inputs count from there
    latent_moment: Tensor  # mean of x x' over the training bins: the scale of the latents, for the canonical form

    def __init__(self, config: LDSConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        self._counts = any(layout.observation is Observation.COUNTS for layout in layouts)
        self._emissions = emissions_of(config.emissions, layouts)
        self.is_bound, self.positive_rates = self._emissions.bound, self._emissions.positive
        self._constraints = Constraints(
            diagonal=config.dynamics == "diagonal",
            dynamics="dynamics" in config.fixed,
            readout="readout" in config.fixed,
        )
        self.inputs = dict(layouts[0].inputs)
        self.units = SessionUnits(layouts)
        for layout in layouts:
            if dict(layout.inputs) != self.inputs:
                raise UserError(
                    f"Session '{layout.session}' has the known inputs {dict(layout.inputs)}.",
                    f"Session '{layouts[0].session}' has {self.inputs}: all sessions must share them, and their order.",
                    "Set data.inputs to variables that every session has, with as many channels.",
                )
        channels = sum(self.inputs.values())
        start: dict[str, Tensor | None] = untrained(self.units.total, config.latents, channels)._asdict()
        start["input_mean"] = torch.zeros(channels, dtype=torch.float64) if channels else None
        start["latent_moment"] = torch.eye(config.latents, dtype=torch.float64)
        for name, value in start.items():
            self.register_buffer(name, value)

    def parameters_of(self, session: str) -> LinearGaussian:
        """Return the parameters of one session; raises UserError for a session that the model was not built for."""
        everything, units = self._everything(), self.units.of(session)
        of_units = ("readout", "offset", "noise", "feedthrough")
        chosen = {name: value[units] for name in of_units if (value := getattr(everything, name)) is not None}
        return everything._replace(**chosen)

    def _everything(self) -> LinearGaussian:
        return LinearGaussian(*(getattr(self, name) for name in LinearGaussian._fields))

    def _set(self, values: LinearGaussian) -> None:
        for name, value in values._asdict().items():
            if value is not None:
                getattr(self, name).copy_(value)

    def _known(self, batch: Batch) -> Float[Tensor, "trial bin channel"] | None:
        if self.input_mean is None:
            return None
        return torch.cat([batch.inputs[name] for name in self.inputs], -1) - self.input_mean

    def _mean_input(self, batches: Iterable[Batch]) -> Float[Tensor, " channel"]:
        total, bins = self.offset.new_zeros(()), self.offset.new_zeros(())
        for batch in batches:
            total = total + torch.cat([batch.inputs[name][batch.valid] for name in self.inputs], -1).double().sum(0)
            bins += batch.valid.sum()
        return total / bins

    def _data(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        return batch.activity, batch.valid, batch.observed, self._known(batch)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Start from the covariances of the activity within and between bins."""
        if self.input_mean is not None:
            self.input_mean.copy_(self._mean_input(batches))

        def of_session(session: str) -> Iterable[Recorded]:
            return (
                Recorded(batch.activity, batch.valid, batch.observed, batch.trial_index, self._known(batch))
                for batch in batches
                if batch.layout.session == session
            )

        units = {session: layout.n_units for session, layout in self.layouts.items()}
        subspace, diagonal = self.config.initialization == "subspace", self._constraints.diagonal
        start = starting_values(of_session, units, self.config.latents, self._counts, subspace, diagonal)
        self._set(with_given(self._emissions.start(start), self.config.given, diagonal))

    @torch.no_grad()
    def statistics(self, batch: Batch) -> Any:
        """Return the expected sufficient statistics; units of other sessions hold zeros."""
        parameters = self.parameters_of(batch.layout.session)
        moments = self._emissions.expectations(parameters, *self._data(batch))
        session = batch.layout.session
        placed = {name: self.units.place(session, getattr(moments, name)) for name in self._emissions.of_units}
        return moments._replace(**placed)

    @torch.no_grad()
    def update(self, statistics: Any) -> Float[Tensor, ""]:
        """Set the parameters that maximize the expected log-likelihood; return nats per bin before that."""
        self._set(self._emissions.maximize(self._everything(), statistics, self._constraints))
        reached = statistics.trials + statistics.transitions  # bins up to each trial's end, gaps included
        if reached > 0:
            self.latent_moment.copy_((statistics.initial_moment + statistics.after) / reached)
        return statistics.log_likelihood / statistics.bins.clamp(min=1)

    @torch.no_grad()
    def finish(self) -> None:
        """Choose among the equivalent parameters, see ``inference.canonical``; what is fixed leaves no choice."""
        if self._constraints.dynamics or self._constraints.readout:
            return
        values, moment = canonical(self._everything(), self.latent_moment, self._constraints.diagonal)
        self._set(values)
        self.latent_moment.copy_(moment)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the smoothed mean of the latents."""
        parameters = self.parameters_of(batch.layout.session)
        return _at_valid(self._emissions.smoothed(parameters, *self._data(batch))[0], batch)

    @torch.no_grad()
    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the smoothed mean and covariance of the latents."""
        parameters = self.parameters_of(batch.layout.session)
        mean, covariance = self._emissions.posterior(parameters, *self._data(batch))
        return _at_valid(mean, batch), _at_valid(covariance, batch)

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given all that is observed; it can be negative if emissions are Gaussian."""
        parameters = self.parameters_of(batch.layout.session)
        mean, covariance = self._emissions.smoothed(parameters, *self._data(batch))
        return _at_valid(self._emissions.emit(parameters, mean, covariance, self._known(batch)), batch)

    @torch.no_grad()
    def forecast(self, batch: Batch, horizon: int) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity ``horizon`` bins ahead of the filter, given all known inputs up to then.

        Raises UserError below one bin.
        """
        if horizon < 1:
            raise UserError(
                f"The forecast horizon is {horizon} bins.",
                "A forecast looks at least one bin ahead.",
                "Use a horizon of 1 or more, or `rates` for the bins themselves.",
            )
        parameters = self.parameters_of(batch.layout.session)
        mean, covariance = self._emissions.filtered(parameters, *self._data(batch))
        mean, covariance = predicted(parameters, mean, covariance, self._known(batch), horizon)
        return _at_valid(self._emissions.emit(parameters, mean, covariance, self._known(batch)), batch)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the observed activity of each trial, or a lower bound on it, in nats."""
        parameters = self.parameters_of(batch.layout.session)
        return self._emissions.log_likelihood(parameters, *self._data(batch))

    @torch.no_grad()
    def sample(
        self, session: str, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw latents and activity of new trials of one session, with known inputs at their training mean."""
        parameters = LinearGaussian(*(value.cpu() for value in self.parameters_of(session) if value is not None))
        drawn, activity = self._emissions.sample(parameters, trials, bins, seed)
        return drawn.to(self.dynamics.device), activity.to(self.dynamics.device)

    @torch.no_grad()
    def posterior_sample(self, batch: Batch, draws: int, seed: int) -> Float[Tensor, "draw trial bin latent"]:
        """Draw whole trajectories of the latents given what is observed; bins that are not valid hold zeros."""
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(draws, *batch.valid.shape, len(self.dynamics), generator=generator, dtype=torch.float64)
        parameters = self.parameters_of(batch.layout.session)
        drawn = self._emissions.draws(parameters, normal.to(self.dynamics), *self._data(batch))
        return torch.where(batch.valid[..., None], drawn, 0.0)

    @torch.no_grad()
    def filtered(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the mean of the latents of each bin given the bins up to it."""
        parameters = self.parameters_of(batch.layout.session)
        return _at_valid(self._emissions.filtered(parameters, *self._data(batch))[0], batch)

    def initial(self, session: str, trials: int) -> State:
        """Return what is known before the first bin of some trials."""
        return State(session, first_prediction(self.parameters_of(session), trials))

    @torch.no_grad()
    def step(self, state: State, bin: Batch) -> tuple[State, Float[Tensor, "trial latent"]]:
        """Return what is known after one more bin, and the mean of its latents."""
        known = self._known(bin)
        inputs = None if known is None else known[:, 0]
        seen = bin.observed[:, 0] & bin.valid
        parameters = self.parameters_of(state.session)
        coming, mean = self._emissions.observe(parameters, state.coming, bin.activity[:, 0], seen, inputs)
        return State(state.session, coming), torch.where(bin.valid, mean, 0.0)

    def advance(self, latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        """Return the expected latents one bin later, with known inputs at their training mean."""
        return latents @ self.dynamics.to(latents).T


def _at_valid(values: Tensor, batch: Batch) -> Tensor:
    """Zero the bins that are not valid, in place."""
    if not bool(batch.valid.all()):
        values[~batch.valid] = 0.0
    return values


register(
    Entry(
        model=LDS,
        config=LDSConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            citation="Shumway RH, Stoffer DS (1982). An approach to time series smoothing and forecasting using the EM "
            "algorithm. Journal of Time Series Analysis 3(4), 253-264.",
            doi="10.1111/j.1467-9892.1982.tb00349.x",
            key="shumway1982approach",
        ),
        tiny=lambda layout: LDSConfig(latents=2),
        training=Training(max_epochs=100),
    )
)
