r"""Linear dynamical system with Gaussian emissions, fitted by EM.

.. math:: x_{t+1} = A x_t + w_t, \quad y_t = C x_t + d + v_t, \quad w_t \sim N(0, Q), \quad v_t \sim N(0, R)

with diagonal R; each trial begins anew with :math:`x_1 \sim N(\mu, V)`. Sessions share the dynamics and the way trials
begin, and each has its own readout C, d, R. Ghahramani, Hinton (1996), Parameter estimation for linear dynamical
systems, University of Toronto CRG-TR-96-2; Shumway, Stoffer (1982), doi:10.1111/j.1467-9892.1982.tb00349.x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.inference.linear_gaussian import (
    LinearGaussian,
    Moments,
    expectations,
    filtered_means,
    log_likelihood,
    smoothed_covariance,
    smoothed_means,
)
from lvmzoo.inference.maximization import maximize
from lvmzoo.inference.starting import Activity, lagged_moments, shared_dynamics, starting_readout
from lvmzoo.models.base import Forecasts, HasPosterior, Reconstructs, Samples, Scores, StatisticsModel
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["LDS", "LDSConfig"]


@dataclass(frozen=True)
class LDSConfig:
    """Linear dynamical system."""

    name: str = "lds"
    latents: int = 8  # dimensions of the latent state


class LDS(StatisticsModel, Reconstructs, Forecasts, Samples, Scores, HasPosterior):
    """Linear dynamical system: smooth latents with linear dynamics, Gaussian activity, exact inference, EM."""

    passes = None

    dynamics: Tensor  # A
    dynamics_noise: Tensor  # Q
    initial_mean: Tensor
    initial_covariance: Tensor
    readout: Tensor  # C, the units of all sessions one after the other
    offset: Tensor  # d
    noise: Tensor  # diagonal of R
    latent_moment: Tensor  # mean of x x' over the training bins: the scale of the latents, for the canonical form

    def __init__(self, config: LDSConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        if config.latents < 1:
            raise UserError(
                f"model.latents is {config.latents}.",
                "A linear dynamical system has at least one latent dimension.",
                "Set model.latents to 1 or more, such as 8.",
            )
        self._counts = any(layout.observation is Observation.COUNTS for layout in layouts)
        self.sessions: dict[str, slice] = {}
        units = 0
        for layout in layouts:
            self.sessions[layout.session] = slice(units, units + layout.n_units)
            units += layout.n_units
        identity = torch.eye(config.latents, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        start = {
            "dynamics": 0.9 * identity,
            "dynamics_noise": (1 - 0.9**2) * identity,
            "initial_mean": torch.zeros(config.latents, dtype=torch.float64),
            "initial_covariance": identity.clone(),
            "readout": 0.1 * torch.randn(units, config.latents, generator=generator, dtype=torch.float64),
            "offset": torch.zeros(units, dtype=torch.float64),
            "noise": torch.ones(units, dtype=torch.float64),
            "latent_moment": identity.clone(),
        }
        for name, value in start.items():
            self.register_buffer(name, value)

    def parameters_of(self, session: str) -> LinearGaussian:
        """Return the parameters of one session; raises UserError for a session that the model was not built for."""
        if session not in self.sessions:
            raise UserError(
                f"The model has no readout for session '{session}'.",
                f"It was built for: {', '.join(self.sessions)}.",
                "Fit the model with this session among its data.",
            )
        units = self.sessions[session]
        return LinearGaussian(*self._shared(), self.readout[units], self.offset[units], self.noise[units])

    def _shared(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.dynamics, self.dynamics_noise, self.initial_mean, self.initial_covariance

    def _set(self, values: LinearGaussian) -> None:
        for name, value in values._asdict().items():
            if value is not None:
                getattr(self, name).copy_(value)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Start from factor analysis within bins and the covariance one bin apart."""
        starts, weights = [], []
        for session, units in self.sessions.items():

            def of_session(session: str = session) -> Iterable[Activity]:
                return (
                    (batch.activity, batch.valid, batch.observed, batch.trial_index)
                    for batch in batches
                    if batch.layout.session == session
                )

            moments = lagged_moments(of_session, units.stop - units.start)
            starts.append(starting_readout(moments, self.config.latents, self._counts))
            weights.append(float(units.stop - units.start))
        starts, dynamics, noise = shared_dynamics(starts, weights)
        identity = torch.eye(len(dynamics), dtype=dynamics.dtype, device=dynamics.device)
        self._set(
            LinearGaussian(
                dynamics,
                noise,
                torch.zeros_like(self.initial_mean),
                identity,
                torch.cat([start.readout for start in starts]),
                torch.cat([start.offset for start in starts]),
                torch.cat([start.noise for start in starts]),
            )
        )

    @torch.no_grad()
    def statistics(self, batch: Batch) -> Moments:
        """Return the expected sufficient statistics; units of other sessions hold zeros."""
        parameters = self.parameters_of(batch.layout.session)
        moments = expectations(parameters, batch.activity, batch.valid, batch.observed)
        if len(self.sessions) == 1:
            return moments
        units = self.sessions[batch.layout.session]

        def place(values: Tensor) -> Tensor:
            everywhere = values.new_zeros(len(self.offset), *values.shape[1:])
            everywhere[units] = values
            return everywhere

        return moments._replace(
            squares=place(moments.squares), activity=place(moments.activity), readout=place(moments.readout)
        )

    @torch.no_grad()
    def update(self, statistics: Moments) -> Float[Tensor, ""]:
        """Set the parameters that maximize the expected log-likelihood; return nats per bin before that."""
        before = LinearGaussian(*self._shared(), self.readout, self.offset, self.noise)
        self._set(maximize(before, statistics, self._counts))
        reached = statistics.trials + statistics.transitions  # bins up to each trial's end, gaps included
        if reached > 0:
            self.latent_moment.copy_((statistics.initial_moment + statistics.after) / reached)
        return statistics.log_likelihood / statistics.bins.clamp(min=1)

    def finish(self) -> None:
        """Put the fitted parameters into canonical form."""
        self.canonical()

    @torch.no_grad()
    def canonical(self) -> None:
        """Choose among the equivalent parameters: latents with unit covariance, ordered by the variance they explain.

        The columns of the readout become orthogonal, with falling norms, and the largest loading of each is positive.
        The model of the activity does not change.
        """
        root = torch.linalg.cholesky(self.latent_moment)
        loadings = self.readout @ root
        _, rotation = torch.linalg.eigh(loadings.T @ loadings)
        rotation = rotation.flip(1)
        loadings = loadings @ rotation
        largest = loadings.gather(0, loadings.abs().argmax(0, keepdim=True))[0]
        rotation = rotation * torch.where(largest < 0, -1.0, 1.0).to(rotation)
        back = root @ rotation  # x = back z
        into = torch.linalg.inv(back)
        self.readout.copy_(self.readout @ back)
        self.dynamics.copy_(into @ self.dynamics @ back)
        self.initial_mean.copy_(into @ self.initial_mean)
        for covariance in (self.dynamics_noise, self.initial_covariance, self.latent_moment):
            changed = into @ covariance @ into.T
            covariance.copy_((changed + changed.T) / 2)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the smoothed mean of the latents."""
        parameters = self.parameters_of(batch.layout.session)
        return _at_valid(smoothed_means(parameters, batch.activity, batch.valid, batch.observed), batch)

    @torch.no_grad()
    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the smoothed mean and covariance of the latents."""
        parameters = self.parameters_of(batch.layout.session)
        return self.latents(batch), _at_valid(smoothed_covariance(parameters, batch.valid, batch.observed), batch)

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given all that is observed; it can be negative: emissions are Gaussian."""
        return self._emit(self.latents(batch), batch)

    @torch.no_grad()
    def forecast(self, batch: Batch, horizon: int) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity ``horizon`` bins ahead of the filter; raises UserError below one bin."""
        if horizon < 1:
            raise UserError(
                f"The forecast horizon is {horizon} bins.",
                "A forecast looks at least one bin ahead.",
                "Use a horizon of 1 or more, or `rates` for the bins themselves.",
            )
        parameters = self.parameters_of(batch.layout.session)
        ahead = filtered_means(parameters, batch.activity, batch.valid, batch.observed)
        bins = ahead.shape[1]
        result = torch.zeros_like(ahead)
        mean = self.initial_mean
        for t in range(min(horizon, bins)):  # nothing has been seen yet
            result[:, t] = mean
            mean = self.dynamics @ mean
        if bins > horizon:
            result[:, horizon:] = ahead[:, : bins - horizon] @ torch.linalg.matrix_power(self.dynamics, horizon).T
        return self._emit(_at_valid(result, batch), batch)

    def _emit(self, latents: Tensor, batch: Batch) -> Tensor:
        parameters = self.parameters_of(batch.layout.session)
        rates = torch.matmul(latents, parameters.readout.T).add_(parameters.offset)
        return _at_valid(rates, batch)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the observed activity of each trial, in nats."""
        parameters = self.parameters_of(batch.layout.session)
        return log_likelihood(parameters, batch.activity, batch.valid, batch.observed)

    @torch.no_grad()
    def sample(
        self, session: str, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw latents and activity of new trials of one session."""
        parameters = LinearGaussian(*(value.cpu() for value in self.parameters_of(session) if value is not None))
        generator = torch.Generator().manual_seed(seed)
        latents = len(parameters.dynamics)
        draws = torch.randn(bins, trials, latents, generator=generator, dtype=torch.float64)
        noise = torch.randn(trials, bins, len(parameters.offset), generator=generator, dtype=torch.float64)
        if bins:
            draws[0] = parameters.initial_mean + draws[0] @ torch.linalg.cholesky(parameters.initial_covariance).T
            draws[1:] = draws[1:] @ torch.linalg.cholesky(parameters.dynamics_noise).T
        for t in range(1, bins):
            draws[t].addmm_(draws[t - 1], parameters.dynamics.T)
        drawn = draws.transpose(0, 1).contiguous()
        activity = noise.mul_(parameters.noise.sqrt()).add_(parameters.offset).add_(drawn @ parameters.readout.T)
        return drawn.to(self.dynamics.device), activity.to(self.dynamics.device)


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
