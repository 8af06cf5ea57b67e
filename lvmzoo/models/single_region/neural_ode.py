r"""Latent neural ODE: activity read out of a trajectory that follows a learned vector field.

.. math:: z_0 \sim N(m, \mathrm{diag}\, s^2), \quad \dot z = f(z, u), \quad y_t \sim p(y \mid C z_t + d)

with f a network with one hidden layer beside a linear part, u known inputs that are constant within bins, and p Poisson
for counts, Gaussian else. An encoder that reads the trial from its end gives q(z_0 | y); encoder, field and readout
maximize the evidence lower bound E_q[log p(y | z)] - KL(q || p). All that distinguishes trials is in :math:`z_0` (and
u): the latents of a trial are the trajectory that begins at the posterior mean.

Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural ordinary differential equations, NeurIPS 31,
doi:10.48550/arXiv.1806.07366; the encoder: Rubanova, Chen, Duvenaud (2019), doi:10.48550/arXiv.1907.03907; for spikes:
Kim, Luo, Pillow, Brody (2021), Inferring latent dynamics underlying neural population activity via neural differential
equations, ICML, PMLR 139, 5551-5561.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout
from lvmzoo.errors import UserError, unknown, unknown_session
from lvmzoo.inference.lagged_moments import Recorded
from lvmzoo.inference.ode import METHODS, solve, solve_adaptive
from lvmzoo.inference.starting import starting_values
from lvmzoo.models.base import GradientModel, HasDynamics, Loss, Reconstructs, Samples
from lvmzoo.parts.affine_session import AffineSession
from lvmzoo.parts.draws import across
from lvmzoo.parts.likelihoods import choose_likelihood
from lvmzoo.parts.priors import NormalPrior
from lvmzoo.parts.reverse_encoder import ReverseEncoder
from lvmzoo.parts.vector_fields import TanhField
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["NeuralODE", "NeuralODEConfig"]


@dataclass(frozen=True)
class NeuralODEConfig:
    """A vector field, its solver, and the encoder of initial latents."""

    name: str = "neural_ode"
    latents: int = 8  # dimensions of the trajectory
    hidden: int = 64  # hidden units of the vector field
    encoder_hidden: int = 64  # state of the recurrent encoder
    dropout: float = 0.2  # fraction of the samples that the encoder misses in training
    kl_ramp_steps: int = 500  # steps over which the KL term comes in
    timescale_bins: float = 10.0  # unit of the field's time: untrained latents do not decay faster than by e within it
    solver: str = "rk4"  # euler, heun, rk4 (fixed steps) or adaptive (dopri5 of torchdiffeq)
    stride: int = 1  # bins in a fixed step, with interpolation between them; 1 where there are known inputs
    tolerance: float = 1e-5  # of the adaptive solver, relative and absolute
    likelihood: str | None = None  # poisson, gaussian or zero_inflated_gamma; null: poisson for counts, else gaussian

    def __post_init__(self) -> None:
        """Raise UserError for a setting that no model can have."""
        _check(self)


class NeuralODE(GradientModel, Reconstructs, HasDynamics, Samples):
    """Neural ODE: latents follow a learned vector field from initial conditions that a recurrent encoder infers."""

    uses_inputs = True

    def __init__(self, config: NeuralODEConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        _check_inputs(config, layouts)
        self.config: NeuralODEConfig
        self._timescale_s = config.timescale_bins * layouts[0].bin_width_s
        self._bin_width_s = layouts[0].bin_width_s
        inputs = sum(layouts[0].inputs.values())
        self.sessions = nn.ModuleDict()
        for index, layout in enumerate(layouts):
            self.sessions[str(index)] = AffineSession(
                layout, choose_likelihood(config.likelihood, layout.observation), config.latents
            )
        self._index = {layout.session: str(index) for index, layout in enumerate(layouts)}
        self.encoder = ReverseEncoder(config.latents + 1 + inputs, config.encoder_hidden)
        self.posterior = nn.Linear(config.encoder_hidden, 2 * config.latents)
        self.field = TanhField(config.latents, config.hidden, inputs)
        self.prior = NormalPrior(config.latents)
        with torch.no_grad():
            self.posterior.bias[config.latents :].fill_(-2.0)  # draws stay near the mean until the readout is found

    @property
    def positive_rates(self) -> bool:  # type: ignore[override]  # an attribute in the base; here the likelihood decides
        """Whether every session's likelihood has positive means."""
        return all(self._session(name).readout.likelihood.positive for name in self.layouts)

    def _session(self, name: str) -> AffineSession:
        if name not in self._index:
            raise unknown_session(name, self._index)
        session = self.sessions[self._index[name]]
        assert isinstance(session, AffineSession)
        return session

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Start as a linear system: factor analysis for readout and read-in, lagged covariances for the field."""

        def of(name: str) -> Iterable[Batch]:
            return (batch for batch in batches if batch.layout.session == name)

        def recorded(name: str) -> Iterable[Recorded]:
            return (Recorded(batch.activity, batch.valid, batch.observed, batch.trial_index) for batch in of(name))

        units = {name: layout.n_units for name, layout in self.layouts.items()}
        counts = all(self._session(name).counts for name in units)
        start = starting_values(recorded, units, self.config.latents, counts, subspace=False, diagonal=False)
        sizes = list(units.values())
        for name, readout, noise in zip(units, start.readout.split(sizes), start.noise.split(sizes), strict=True):
            self._session(name).standardize(of(name))
            self._session(name).start(readout, noise)
        self.field.linear.copy_(
            _contracting(
                self.config.timescale_bins * (start.dynamics - torch.eye(len(start.dynamics)).to(start.dynamics))
            )
        )

    def loss(self, batch: Batch, step: int) -> Loss:
        """Return the negative evidence lower bound, in nats per bin with anything observed."""
        session = self._session(batch.layout.session)
        seen = batch.observed & batch.valid.unsqueeze(-1)
        mean, log_variance = self._encode(batch, session, seen)
        bins = seen.any(-1).sum().to(mean.dtype)
        noise = across(batch, lambda trials: mean.new_empty(trials, mean.shape[1]).normal_())
        start = mean + noise * torch.exp(0.5 * log_variance)
        losses = session.loss(self._trajectory(batch, start), batch.activity, seen)
        kl = torch.where(batch.valid.any(1), self.prior.divergence(mean, log_variance), 0.0).sum()
        ramp = min(1.0, (step + 1) / max(self.config.kl_ramp_steps, 1))
        return Loss({"reconstruction": losses / bins.clamp(min=1), "kl": ramp * kl / bins.clamp(min=1)}, bins)

    def _encode(
        self, batch: Batch, session: AffineSession, seen: Bool[Tensor, "trial bin unit"]
    ) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the initial latents."""
        features, shown = session.read_in(batch, seen, self.config.dropout if self.training else 0.0)
        inputs = self._inputs(batch)
        state = self.encoder(features if inputs is None else torch.cat([features, inputs], -1), shown)
        mean, log_variance = self.posterior(state).chunk(2, -1)
        return mean, log_variance.clamp(-12, 6)

    def _inputs(self, batch: Batch) -> Tensor | None:
        if self.field.drive is None:
            return None
        values = torch.cat([batch.inputs[name] for name in batch.layout.inputs], -1).to(self.prior.mean.dtype)
        return torch.where(batch.valid.unsqueeze(-1), values, 0.0)

    def _trajectory(self, batch: Batch, start: Float[Tensor, "trial latent"]) -> Float[Tensor, "trial bin latent"]:
        return self._solve(start, batch.n_bins, batch.layout.bin_width_s, self._inputs(batch))

    def _solve(self, start: Tensor, bins: int, bin_width_s: float, inputs: Tensor | None) -> Tensor:
        step = bin_width_s / self._timescale_s
        if self.config.solver == "adaptive":
            return solve_adaptive(self.field, start, bins, step, self.config.tolerance, inputs)
        method = METHODS[self.config.solver]
        return self.field.trajectory(start, bins, step, method, self.config.stride, inputs)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the trajectory from the posterior mean of the initial latents."""
        session = self._session(batch.layout.session)
        start, _ = self._encode(batch, session, batch.observed & batch.valid.unsqueeze(-1))
        return torch.where(batch.valid.unsqueeze(-1), self._trajectory(batch, start), 0.0)

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity along the latents."""
        rates = self._session(batch.layout.session).rates(self.latents(batch))
        return torch.where(batch.valid.unsqueeze(-1), rates, 0.0)

    def advance(self, latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        """Return the latents one bin (of the first session) later, where known inputs are zero."""
        step = self._bin_width_s / self._timescale_s
        if self.config.solver == "adaptive":
            return solve_adaptive(self.field, latents, 2, step, self.config.tolerance)[:, 1]
        return solve(self.field, latents, 2, step, METHODS[self.config.solver])[:, 1]

    @torch.no_grad()
    def sample(
        self, session: str, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw latents and activity of new trials from the prior, where known inputs are zero."""
        emit = self._session(session).sample
        generator = torch.Generator().manual_seed(seed)
        start = self.prior.sample(trials, generator).to(self.prior.mean)
        latents = self._solve(start, bins, self.layouts[session].bin_width_s, None)
        return latents, emit(latents, generator)


def _contracting(slope: Float[Tensor, "latent latent"]) -> Float[Tensor, "latent latent"]:
    """Return the matrix with rotations as they are, and decay within bounds: any two trajectories approach each other.

    Noise makes latents look short-lived; slower than one per unit of time, they keep what the encoder says of them for
    long enough to learn from it, and steps of several bins stay stable.
    """
    values, vectors = torch.linalg.eigh((slope + slope.T) / 2)
    return (vectors * values.clamp(-1.0, -0.02)) @ vectors.T + (slope - slope.T) / 2


def _check(config: NeuralODEConfig) -> None:
    for field in ("latents", "hidden", "encoder_hidden", "stride"):
        if getattr(config, field) < 1:
            raise UserError(
                f"model.{field}={getattr(config, field)} of neural_ode is too small.",
                "It is at least 1.",
                f"Set model.{field}=1 or more.",
            )
    if not 0 <= config.dropout < 1:
        raise UserError(
            f"model.dropout={config.dropout} of neural_ode is not possible.",
            "It is a fraction: at least 0 and below 1.",
            "Set model.dropout=0.2, for instance.",
        )
    for field in ("timescale_bins", "tolerance"):
        if not getattr(config, field) > 0:
            raise UserError(
                f"model.{field}={getattr(config, field)} of neural_ode is not positive.",
                "It is a number above zero.",
                f"Leave model.{field} at its default.",
            )
    if config.solver not in (*METHODS, "adaptive"):
        raise unknown("solver", config.solver, (*METHODS, "adaptive"))


def _check_inputs(config: NeuralODEConfig, layouts: Sequence[Layout]) -> None:
    if config.stride > 1 and layouts[0].inputs:
        raise UserError(
            f"model.stride={config.stride} does not go with known inputs ({', '.join(layouts[0].inputs)}).",
            "Inputs change from bin to bin, and a step must not cross such a change.",
            "Set model.stride=1.",
        )


register(
    Entry(
        model=NeuralODE,
        config=NeuralODEConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            "Chen RTQ, Rubanova Y, Bettencourt J, Duvenaud D (2018). Neural ordinary differential equations. Advances "
            "in Neural Information Processing Systems 31.",
            "10.48550/arXiv.1806.07366",
            "chen2018neural",
        ),
        tiny=lambda layout: NeuralODEConfig(latents=2, hidden=16, encoder_hidden=16, kl_ramp_steps=20),
        training=Training(
            max_steps=3000, batch_size=32, learning_rate=3e-3, gradient_clip=5.0, decay=0.5, decay_patience=4
        ),
    )
)
