"""Linear dynamical systems as models: what they can do once they are fitted, whatever their structure."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.inference.emissions import emissions_of
from lvmzoo.inference.lagged_moments import Recorded
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.online import Prediction, first_prediction, predicted
from lvmzoo.inference.starting import untrained
from lvmzoo.models.base import DynamicalSystem, StatisticsModel
from lvmzoo.parts.residuals import Residuals
from lvmzoo.parts.session_units import SessionUnits

__all__ = ["State", "StateSpace"]


class State(NamedTuple):
    """What the filter knows of the coming bin."""

    session: str
    coming: Prediction


class StateSpace(StatisticsModel, DynamicalSystem):
    """A linear dynamical system of one or several sessions, which share all but their readouts; fitted by EM.

    Parameters
    ----------
    config, layouts : of the model.
    size : elements of the state.
    latents : elements of the state that are latents, which come first; the others are their past.
    emissions : kind of emissions.
    residuals : the activity is less its condition's mean course.
    """

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

    def __init__(
        self, config: Any, layouts: Sequence[Layout], size: int, latents: int, emissions: str, residuals: bool = False
    ) -> None:
        super().__init__(config, layouts)
        self._counts = any(layout.observation is Observation.COUNTS for layout in layouts)
        self._emissions = emissions_of(emissions, layouts)
        self.is_bound, self.positive_rates = self._emissions.bound, self._emissions.positive and not residuals
        self._present = slice(0, latents)
        self.residuals = Residuals(layouts, residuals)
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
        start: dict[str, Tensor | None] = untrained(self.units.total, size, channels)._asdict()
        start["input_mean"] = torch.zeros(channels, dtype=torch.float64) if channels else None
        start["latent_moment"] = torch.eye(size, dtype=torch.float64)
        for name, value in start.items():
            self.register_buffer(name, value)

    @abc.abstractmethod
    def _maximized(self, statistics: Any) -> LinearGaussian:
        """Return the parameters of all sessions that maximize the expected log-likelihood."""

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
        activity = self.residuals(batch) if self.residuals.wanted else batch.activity
        return activity, batch.valid, batch.observed, self._known(batch)

    def _recorded(self, batches: Iterable[Batch], session: str) -> Iterable[Recorded]:
        for batch in batches:
            if batch.layout.session == session:
                activity, valid, observed, known = self._data(batch)
                yield Recorded(activity, valid, observed, batch.trial_index, known)

    def _emitted(self, batch: Batch, mean: Tensor, covariance: Tensor | None) -> Float[Tensor, "trial bin unit"]:
        parameters = self.parameters_of(batch.layout.session)
        rates = self._emissions.emit(parameters, mean, covariance, self._known(batch))
        return _at_valid(rates + self.residuals.mean(batch) if self.residuals.wanted else rates, batch)

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
        self._set(self._maximized(statistics))
        reached = statistics.trials + statistics.transitions  # bins up to each trial's end, gaps included
        if reached > 0:
            self.latent_moment.copy_((statistics.initial_moment + statistics.after) / reached)
        return statistics.log_likelihood / statistics.bins.clamp(min=1)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the smoothed mean of the latents."""
        parameters = self.parameters_of(batch.layout.session)
        return _at_valid(self._emissions.smoothed(parameters, *self._data(batch))[0][..., self._present], batch)

    @torch.no_grad()
    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the smoothed mean and covariance of the latents."""
        parameters = self.parameters_of(batch.layout.session)
        mean, covariance = self._emissions.posterior(parameters, *self._data(batch))
        present = self._present
        return _at_valid(mean[..., present], batch), _at_valid(covariance[..., present, present], batch)

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given all that is observed; it can be negative if emissions are Gaussian."""
        parameters = self.parameters_of(batch.layout.session)
        mean, covariance = self._emissions.smoothed(parameters, *self._data(batch))
        return self._emitted(batch, mean, covariance)

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
        return self._emitted(batch, mean, covariance)

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
        return drawn[..., self._present].to(self.dynamics.device), activity.to(self.dynamics.device)

    @torch.no_grad()
    def posterior_sample(self, batch: Batch, draws: int, seed: int) -> Float[Tensor, "draw trial bin latent"]:
        """Draw whole trajectories of the latents given what is observed; bins that are not valid hold zeros."""
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(draws, *batch.valid.shape, len(self.dynamics), generator=generator, dtype=torch.float64)
        parameters = self.parameters_of(batch.layout.session)
        drawn = self._emissions.draws(parameters, normal.to(self.dynamics), *self._data(batch))
        return torch.where(batch.valid[..., None], drawn[..., self._present], 0.0)

    @torch.no_grad()
    def filtered(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the mean of the latents of each bin given the bins up to it."""
        parameters = self.parameters_of(batch.layout.session)
        return _at_valid(self._emissions.filtered(parameters, *self._data(batch))[0][..., self._present], batch)

    def initial(self, session: str, trials: int) -> State:
        """Return what is known before the first bin of some trials."""
        return State(session, first_prediction(self.parameters_of(session), trials))

    @torch.no_grad()
    def step(self, state: State, bin: Batch) -> tuple[State, Float[Tensor, "trial latent"]]:
        """Return what is known after one more bin, and the mean of its latents."""
        activity, _, _, known = self._data(bin)
        inputs = None if known is None else known[:, 0]
        seen = bin.observed[:, 0] & bin.valid
        parameters = self.parameters_of(state.session)
        coming, mean = self._emissions.observe(parameters, state.coming, activity[:, 0], seen, inputs)
        return State(state.session, coming), torch.where(bin.valid, mean[..., self._present], 0.0)


def _at_valid(values: Tensor, batch: Batch) -> Tensor:
    """Zero the bins that are not valid, in place."""
    if not bool(batch.valid.all()):
        values[~batch.valid] = 0.0
    return values
