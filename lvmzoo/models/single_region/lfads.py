r"""LFADS: trials as runs of one recurrent network, each from its own initial condition.

Bidirectional GRUs encode a trial's activity into a distribution of the initial condition of a generator, a GRU whose
state is read out as a few factors, and these as the rates of the units:

.. math:: g_0 = W z, \quad g_t = \mathrm{GRU}(g_{t-1}, [u_t, v_t]), \quad f_t = F g_t, \quad \log r_t = C f_t + d

with unit-norm rows of F. Known inputs v drive the generator; inferred inputs u come from a controller, which sees the
codes of a second encoder and the factors, under an autoregressive prior. Trained by the evidence lower bound.

Sussillo, Jozefowicz, Abbott, Pandarinath (2016), doi:10.48550/arXiv.1608.06315; Pandarinath et al. (2018),
doi:10.1038/s41592-018-0109-9 (several sessions); Keshtkaran, Pandarinath (2019), doi:10.48550/arXiv.1908.07896
(coordinated dropout).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError, unknown_session
from lvmzoo.models.base import GradientModel, InfersInputs, Loss, Reconstructs, Samples
from lvmzoo.parts.draws import across
from lvmzoo.parts.draws import dropout as drop
from lvmzoo.parts.dropout import blocked, coordinated_dropout
from lvmzoo.parts.likelihoods import UnitMoments, choose_likelihood
from lvmzoo.parts.priors import AutoregressivePrior, NormalPrior
from lvmzoo.parts.recurrent import BidirectionalEncoder, lagged
from lvmzoo.parts.recurrent_loop import controlled_generator
from lvmzoo.parts.session_layers import SessionLayers
from lvmzoo.parts.stitching import condition_averages, principal_component_regression
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["LFADS", "LFADSConfig"]

_LEAST_LOG_VARIANCE = -9.2  # of the posterior of the initial condition: 1e-4, so that it never becomes a point


@dataclass(frozen=True)
class LFADSConfig:
    """Sizes of the networks, and what keeps them from learning noise."""

    name: str = "lfads"
    latents: int = 8  # factors: dimensions of the latent trajectory
    generator: int = 64  # units of the recurrent network that generates the factors
    encoder: int = 64  # units of each encoder, in each direction
    initial_condition: int = 32  # dimensions of the code that a trial begins from
    inferred_inputs: int = 0  # inputs inferred from the activity in every bin; 0: the generator runs by itself
    controller: int = 64  # units of the recurrent network that infers inputs
    likelihood: str | None = None  # poisson, gaussian or zero_inflated_gamma (calcium events); null: by the activity
    read_in: int | None = (
        None  # channels between units and encoders; null: none for one session, else as many as latents
    )
    forward_bins: int = 0  # last bins of each trial that the encoders never see: they are predicted
    dropout: float = 0.05  # in the encoders and before the factors
    coordinated_dropout: float = 0.3  # fraction of samples that the encoders miss; the readout learns from these alone
    kl_initial_condition: float = 1.0  # weight of the divergence of initial conditions from their prior
    kl_inputs: float = 1.0  # weight of the divergence of inferred inputs from their prior
    l2: float = 0.0  # weight of the mean square of recurrent weights of generator and controller
    ramp_steps: int = 500  # steps over which the three weights rise from 0
    posterior_samples: int = 8  # draws averaged for latents and rates; 0: those at the posterior mean

    def __post_init__(self) -> None:
        """Raise UserError for a setting that no model can have."""
        _check(self)


class Posterior(NamedTuple):
    """What the encoders say about trials; bins first, as recurrent networks take them."""

    mean: Float[Tensor, "trial dimension"]  # of the initial condition
    log_variance: Float[Tensor, "trial dimension"]
    codes: Float[Tensor, "bin trial code"] | None  # for the controller
    external: Float[Tensor, "bin trial channel"]


class Path(NamedTuple):
    """One run of the generator: its states, and the inferred inputs with means and log variances (or None)."""

    states: Float[Tensor, "bin trial generator"]
    inputs: tuple[Tensor, Tensor, Tensor] | None


class LFADS(GradientModel, Reconstructs, Samples, InfersInputs):
    """Recurrent network that generates each trial from an inferred initial condition and inputs (LFADS)."""

    uses_inputs = True

    def __init__(self, config: LFADSConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        counts = all(layout.observation is Observation.COUNTS for layout in layouts)
        observation = Observation.COUNTS if counts else Observation.CONTINUOUS
        self.likelihood = choose_likelihood(config.likelihood, observation)
        self.positive_rates = self.likelihood.positive
        self.infers_inputs = config.inferred_inputs > 0
        self.external = sum(layouts[0].inputs.values())
        several = len(layouts) > 1
        channels = config.read_in or (config.latents if several else None)
        self.sessions = nn.ModuleList(
            SessionLayers(layout, self.likelihood, config.latents, channels) for layout in layouts
        )
        self._session = {layout.session: index for index, layout in enumerate(layouts)}
        seen = (channels or len(layouts[0].held_in)) + self.external
        self.encoder = BidirectionalEncoder(seen, config.encoder)
        self.to_initial_condition = nn.Linear(2 * config.encoder, 2 * config.initial_condition)
        self.prior = NormalPrior(config.initial_condition)
        self.to_generator = nn.Linear(config.initial_condition, config.generator)
        self.factors = nn.Parameter(torch.randn(config.latents, config.generator))
        if config.inferred_inputs:
            self.input_encoder = BidirectionalEncoder(seen, config.encoder)
            self.controller = nn.GRUCell(2 * config.encoder + config.latents, config.controller)
            self.controller_start = nn.Parameter(torch.zeros(config.controller))
            self.to_inputs = nn.Linear(config.controller, 2 * config.inferred_inputs)
            self.input_prior = AutoregressivePrior(config.inferred_inputs)
            self.generator: nn.GRUCell | nn.GRU = nn.GRUCell(config.inferred_inputs + self.external, config.generator)
        else:
            self.generator = nn.GRU(max(self.external, 1), config.generator)
            if not self.external:  # torch asks for an input: one channel of zeros
                self.generator.weight_ih_l0.requires_grad_(False)

    def _layers(self, session: str) -> SessionLayers:
        if session not in self._session:
            raise unknown_session(session, self._session)
        layers = self.sessions[self._session[session]]
        assert isinstance(layers, SessionLayers)
        return layers

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Standardize the units and start from their means; give several sessions common factors."""
        moments: dict[str, UnitMoments] = {}
        for batch in batches:
            name = batch.layout.session
            new = UnitMoments.of(batch.activity, batch.observed & batch.valid.unsqueeze(-1))
            moments[name] = UnitMoments(*map(torch.add, moments[name], new)) if name in moments else new
        for name, found in moments.items():
            self._layers(name).start(found)
        if len(self.layouts) > 1 and len(moments) == len(self.layouts):
            averages = condition_averages(batches, self.layouts)
            standardized = [self._layers(name).standardize(values) for name, values in averages.items()]
            channels = min(self.config.read_in or self.config.latents, self.config.latents)
            held_in = [self.layouts[name].held_in for name in averages]
            for name, maps in zip(
                averages, principal_component_regression(standardized, held_in, channels), strict=True
            ):
                self._layers(name).share(maps)

    def loss(self, batch: Batch, step: int) -> Loss:
        """Return the negative evidence lower bound, in nats per observed sample, and the penalty of weights."""
        config, layers = self.config, self._layers(batch.layout.session)
        counted = batch.observed & batch.valid.unsqueeze(-1)
        activity = layers.clean(batch.activity, counted)
        seen = layers.encoder_input(activity)
        learn = None
        if self.training and config.coordinated_dropout:
            uniform = across(batch, lambda trials: torch.rand(trials, *seen.shape[1:], device=seen.device))
            seen, keep = coordinated_dropout(seen, uniform, config.coordinated_dropout)
            learn, gain = layers.predicted(keep), layers.gain(config.coordinated_dropout)
            if config.forward_bins:
                forward = (_bins(batch) >= self._encoded(batch).unsqueeze(1)).unsqueeze(-1)
                learn, gain = learn | forward, torch.where(forward, 1.0, gain)
        dropout = config.dropout if self.training else 0.0
        posterior = self._encode(seen, batch, dropout)
        empty, inputs = posterior.mean.new_empty, config.inferred_inputs
        noise = across(batch, lambda trials: empty(trials, posterior.mean.shape[1]).normal_())
        draws = across(batch, lambda trials: empty(batch.n_bins, trials, inputs).normal_(), dim=1)
        path = self._generate(posterior, noise, draws)
        factors = self._factors(drop(batch, path.states, dropout, dim=1)).transpose(0, 1)
        errors = self.likelihood.loss(layers.readout(factors), activity)
        if learn is not None:
            errors = blocked(errors, learn, gain)
        if not bool(counted.all()):
            errors = torch.where(counted, errors, 0.0)
        weight = counted.sum().to(errors.dtype)
        scale = 1 / weight.clamp(min=1)
        ramp = min(1.0, (step + 1) / config.ramp_steps) if config.ramp_steps else 1.0
        lengths = _lengths(batch.valid)
        divergence = self.prior.divergence(posterior.mean, posterior.log_variance)
        terms = {
            "reconstruction": errors.sum() * scale,
            "kl_initial_condition": ramp
            * config.kl_initial_condition
            * scale
            * torch.where(lengths > 0, divergence, 0.0).sum(),
        }
        if path.inputs is not None:
            divergence = self.input_prior.divergence(*path.inputs)
            inside = (_bins(batch) < lengths.unsqueeze(1)).T
            terms["kl_inputs"] = ramp * config.kl_inputs * scale * torch.where(inside, divergence, 0.0).sum()
        if config.l2:
            terms["l2"] = ramp * config.l2 * sum(weights.square().mean() for weights in self._recurrent())
        return Loss(terms, weight)

    def _recurrent(self) -> Iterator[Tensor]:
        if isinstance(self.generator, nn.GRUCell):
            yield from (self.generator.weight_hh, self.controller.weight_hh)
        else:
            yield cast("Tensor", self.generator.weight_hh_l0)

    def _encoded(self, batch: Batch) -> Int[Tensor, " trial"]:
        """Return how many bins of each trial the encoders run over."""
        return (_lengths(batch.valid) - self.config.forward_bins).clamp(min=1)

    def _encode(self, seen: Float[Tensor, "trial bin held_in"], batch: Batch, dropout: float) -> Posterior:
        layers = self._layers(batch.layout.session)
        signal = layers.read_in(seen).transpose(0, 1)
        external = signal.new_zeros(batch.n_bins, batch.n_trials, 0)
        if self.external:
            known = torch.cat([batch.inputs[name] for name in batch.layout.inputs], -1)
            external = torch.where(batch.valid.unsqueeze(-1), known, 0.0).transpose(0, 1).to(signal.dtype)
            signal = torch.cat([signal, external], -1)
        signal = drop(batch, signal, dropout, dim=1)
        lengths = self._encoded(batch)
        _, last = self.encoder(signal, lengths)
        mean, log_variance = self.to_initial_condition(drop(batch, last, dropout)).chunk(2, -1)
        codes = None
        if self.config.inferred_inputs:
            states, _ = self.input_encoder(signal, lengths)
            codes = drop(batch, lagged(states), dropout, dim=1)
        return Posterior(mean, log_variance.clamp(min=_LEAST_LOG_VARIANCE), codes, external)

    def _generate(
        self,
        posterior: Posterior,
        noise: Float[Tensor, "trial dimension"],
        draws: Float[Tensor, "bin trial input"],
        driven: bool = True,
    ) -> Path:
        start = self.to_generator(posterior.mean + noise * torch.exp(0.5 * posterior.log_variance))
        if posterior.codes is None:
            return Path(self._run(posterior.external, start), None)
        if not driven:
            return Path(self._drive(torch.zeros_like(draws), posterior.external, start), None)
        assert isinstance(self.generator, nn.GRUCell)
        states, moments, drawn = controlled_generator(
            self.controller,
            self.generator,
            self.to_inputs,
            self._unit_norm(),
            posterior.codes,
            posterior.external,
            draws,
            (self.controller_start.expand(len(start), -1), start),
        )
        mean, log_variance = moments.chunk(2, -1)
        return Path(states, (mean, log_variance, drawn))

    def _run(
        self, external: Float[Tensor, "bin trial channel"], start: Float[Tensor, "trial generator"]
    ) -> Float[Tensor, "bin trial generator"]:
        """Run a generator that nothing but known inputs drives."""
        if not self.external:
            external = external.new_zeros(*external.shape[:2], 1)
        states, _ = self.generator(external, start[None].contiguous())
        return states

    def _drive(
        self,
        inputs: Float[Tensor, "bin trial input"],
        external: Float[Tensor, "bin trial channel"],
        start: Float[Tensor, "trial generator"],
    ) -> Float[Tensor, "bin trial generator"]:
        """Run a generator that is driven by given inputs."""
        states, state = start.new_empty(len(inputs), *start.shape), start
        for t, both in enumerate(torch.cat([inputs, external], -1)):
            states[t] = state = self.generator(both, state)
        return states

    def _unit_norm(self) -> Float[Tensor, "latent generator"]:
        return functional.normalize(self.factors, dim=1)

    def _factors(self, states: Float[Tensor, "bin trial generator"]) -> Float[Tensor, "bin trial latent"]:
        return functional.linear(states, self._unit_norm())

    def _draws(self, batch: Batch, driven: bool = True) -> Iterator[Path]:
        """Run the generator from the posterior mean, or from draws of it; inputs that do not drive it are zero.

        The noise of a draw is the same in every trial, and that of a bin does not depend on later ones.
        """
        layers = self._layers(batch.layout.session)
        counted = batch.observed & batch.valid.unsqueeze(-1)
        posterior = self._encode(layers.encoder_input(layers.clean(batch.activity, counted)), batch, 0.0)
        noise, inputs = torch.zeros_like(posterior.mean), self.config.inferred_inputs
        draws = noise.new_zeros(batch.n_bins, batch.n_trials, inputs)
        if not self.config.posterior_samples:
            yield self._generate(posterior, noise, draws, driven)
        for sample in range(self.config.posterior_samples):
            generator = torch.Generator().manual_seed(sample)
            noise[:] = torch.randn(noise.shape[1], generator=generator).to(noise)
            if inputs:
                for t in range(batch.n_bins):
                    draws[t] = torch.randn(inputs, generator=generator).to(noise)
            yield self._generate(posterior, noise, draws, driven)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the factors, averaged over the posterior."""
        return self._average(batch, lambda path: self._factors(path.states))

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity per bin, averaged over the posterior."""
        layers = self._layers(batch.layout.session)
        return self._average(batch, lambda path: layers.rates(self._factors(path.states)))

    @torch.no_grad()
    def undriven_rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the rates of a generator whose inferred inputs are zero, the mean of their prior."""
        layers = self._layers(batch.layout.session)
        return self._average(batch, lambda path: layers.rates(self._factors(path.states)), driven=False)

    @torch.no_grad()
    def inferred_inputs(self, batch: Batch) -> Float[Tensor, "trial bin input"]:
        """Return the posterior mean of the inferred inputs; raises UserError for a model without a controller."""
        if not self.config.inferred_inputs:
            raise UserError(
                "This LFADS model infers no inputs.",
                "model.inferred_inputs is 0: its generator runs by itself.",
                "Fit it with model.inferred_inputs=1 or more.",
            )
        return self._average(batch, lambda path: path.inputs[0] if path.inputs else path.states)

    def _average(self, batch: Batch, of: Callable[[Path], Tensor], driven: bool = True) -> Tensor:
        """Return the mean of something over draws of the posterior, trials first, 0 where a bin is not valid."""
        values = [of(path) for path in self._draws(batch, driven)]
        mean = (values[0] if len(values) == 1 else torch.stack(values).mean(0)).transpose(0, 1).contiguous()
        return mean if bool(batch.valid.all()) else torch.where(batch.valid.unsqueeze(-1), mean, 0.0)

    @torch.no_grad()
    def sample(
        self, session: str, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw factors and activity of new trials of one session from the prior, with known inputs at zero."""
        layers = self._layers(session)
        generator = torch.Generator().manual_seed(seed)
        state = self.to_generator(self.prior.sample(trials, generator).to(self.factors))
        external = state.new_zeros(bins, trials, self.external)
        if self.config.inferred_inputs:
            states = self._drive(self.input_prior.sample(bins, trials, generator).to(state), external, state)
        else:
            states = self._run(external, state)
        factors = self._factors(states).transpose(0, 1).contiguous()
        activity = self.likelihood.sample(layers.readout(factors), generator).to(state)
        return factors, layers.recorded(activity)


def _bins(batch: Batch) -> Int[Tensor, "one bin"]:
    return torch.arange(batch.n_bins, device=batch.valid.device)[None]


def _lengths(valid: Bool[Tensor, "trial bin"]) -> Int[Tensor, " trial"]:
    """Return the number of bins up to each trial's last; a gap inside counts: time passes."""
    bins = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    return torch.where(valid, bins, 0).amax(1)


def _check(config: LFADSConfig) -> None:
    least = {
        **dict.fromkeys(("latents", "generator", "encoder", "initial_condition", "controller"), 1),
        **dict.fromkeys(("inferred_inputs", "forward_bins", "ramp_steps", "posterior_samples"), 0),
        **dict.fromkeys(("dropout", "coordinated_dropout", "kl_initial_condition", "kl_inputs", "l2"), 0),
        **({} if config.read_in is None else {"read_in": 1}),
    }
    for name, bound in least.items():
        if not getattr(config, name) >= bound:
            raise UserError(
                f"model.{name}={getattr(config, name)} of lfads is too small.",
                f"It is at least {bound}.",
                f"Set model.{name}={bound} or more.",
            )
    for name in ("dropout", "coordinated_dropout"):
        if not getattr(config, name) < 1:
            raise UserError(
                f"model.{name}={getattr(config, name)} of lfads leaves nothing.",
                "It is the fraction that is dropped: at least 0 and below 1.",
                f"Set model.{name}=0.2, for instance.",
            )


register(
    Entry(
        model=LFADS,
        config=LFADSConfig,
        family=Family.SINGLE_REGION,
        reference=Reference(
            citation="Pandarinath C, O'Shea DJ, Collins J, et al. (2018). Inferring single-trial neural population "
            "dynamics using sequential auto-encoders. Nature Methods 15, 805-815.",
            doi="10.1038/s41592-018-0109-9",
            key="pandarinath2018inferring",
        ),
        tiny=lambda layout: LFADSConfig(
            latents=3,
            generator=16,
            encoder=16,
            initial_condition=4,
            inferred_inputs=2,
            controller=16,
            coordinated_dropout=0.0,
            dropout=0.0,
            kl_initial_condition=0.1,
            kl_inputs=0.1,
            ramp_steps=100,
        ),
        training=Training(
            max_steps=3000,
            batch_size=64,
            learning_rate=7e-3,
            gradient_clip=0.05,
            decay=0.7,
            decay_patience=2,
            patience=15,
            validate_every_steps=100,
        ),
    )
)
