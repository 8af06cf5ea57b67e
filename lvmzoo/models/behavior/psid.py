r"""Preferential subspace identification: a linear dynamical system whose first states are those that behavior shares.

.. math:: x_{t+1} = A x_t + B u_t + w_t, \quad y_t = C x_t + D u_t + d + v_t, \quad z_t = C_z x_t + D_z u_t + \epsilon_t

with activity y, behavior z and known inputs u (all of ``data.inputs``), and noise w, v that may be correlated. The
first ``relevant`` states are identified from how the past of y predicts the future of z, the others from what that
leaves of y; with none of them relevant this is plain subspace identification. Moments of the activity's block-Hankel
matrix are all that is needed, in one pass; a second one fits the readout of behavior from the Kalman states. Angles
are read out as cosine and sine, categories by a logistic regression. Each of several sessions is identified by itself:
moments of different units do not add up.

Sani, Abbaspourazad, Wong, Pesaran, Shanechi (2021), Modeling behaviorally relevant neural dynamics enabled by
preferential subspace identification, Nature Neuroscience 24, 140-149, doi:10.1038/s41593-020-00733-0; with inputs:
Vahidi, Sani, Shanechi (2024), PNAS 121, e2212887121, doi:10.1073/pnas.2212887121.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from lvmzoo.batch import Batch, Layout
from lvmzoo.errors import UserError, unknown, unknown_session
from lvmzoo.inference.hankel import HankelMoments
from lvmzoo.inference.preferential_columns import Columns
from lvmzoo.inference.preferential_gains import System
from lvmzoo.inference.preferential_readout import codes
from lvmzoo.models.base import Decodes, DynamicalSystem, ForecastsBehavior, Selects, StatisticsModel
from lvmzoo.parts.preferential_session import PreferentialSession, ReadoutSums, Sizes
from lvmzoo.parts.preferential_system import State
from lvmzoo.parts.session_sums import apart, together
from lvmzoo.registry import Entry, Family, Reference, Training, register

__all__ = ["PSID", "PSIDConfig"]

STATES = ("predictor", "filter", "smoother")


@dataclass(frozen=True)
class PSIDConfig:
    """Preferential subspace identification."""

    name: str = "psid"
    latents: int | None = 8  # dimensions of the state, relevant ones included; null: by cross-validation
    relevant: int | None = 4  # of them that behavior shares; 0: plain subspace identification; null: cross-validation
    horizon_bins: int | None = 10  # of past and future that are compared; null: by cross-validation
    behavior: list[str] | None = None  # variables that define what is relevant; null: all of the recording
    states: str = "smoother"  # latents, and decoding, given all bins; filter: bins up to now; predictor: earlier ones
    components: int | None = None  # principal components of the activity to identify from; null: its units
    standardize: str = "behavior"  # divided by standard deviations: none, behavior (units of measure differ), or all
    folds: int = 5  # of the cross-validation, contiguous in time

    def __post_init__(self) -> None:
        """Refuse what there is not; raises UserError."""
        for name, value, allowed in (
            ("states", self.states, STATES),
            ("standardize", self.standardize, ("none", "behavior", "all")),
        ):
            if value not in allowed:
                raise unknown(f"choice of model.{name}", value, allowed, f"Set model.{name} to one of these.")
        least = {"latents": 1, "relevant": 0, "horizon_bins": 2, "components": 1, "folds": 2}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise UserError(
                    f"model.{name} is {value}.",
                    f"It is at least {smallest}.",
                    f"Set model.{name}={max(smallest, 2)} or more.",
                )
        if self.latents is not None and self.relevant is not None and self.relevant > self.latents:
            raise UserError(
                f"model.relevant is {self.relevant}, with model.latents={self.latents}.",
                "The relevant dimensions are among the latents.",
                f"Set model.latents={self.relevant} or more, or model.relevant={self.latents} (0 without behavior).",
            )


class PSID(StatisticsModel, DynamicalSystem, Decodes, ForecastsBehavior, Selects):
    """Preferential subspace identification: latents that behavior shares first, then the others, in closed form."""

    passes: int | None = 2  # more with known inputs, and with categories, whose readout takes steps of Newton
    uses_inputs = True
    selects = MappingProxyType(
        {
            "relevant": "share of coming behavior explained in held-out windows, by as many latents",
            "latents": "share of coming activity explained in held-out windows",
        }
    )

    def __init__(self, config: PSIDConfig, layouts: Sequence[Layout]) -> None:
        super().__init__(config, layouts)
        self.sessions = nn.ModuleList([_session(config, layout) for layout in layouts])
        self.passes = max(session.passes for session in self._all())
        self._place = {layout.session: place for place, layout in enumerate(layouts)}

    def _all(self) -> Iterator[PreferentialSession]:
        for session in self.sessions:
            assert isinstance(session, PreferentialSession)
            yield session

    def of(self, session: str | None = None) -> PreferentialSession:
        """Return what was identified of a session, of the first where none is named; raises UserError for others."""
        if session is not None and session not in self._place:
            raise unknown_session(session, self._place)
        found = self.sessions[self._place[session] if session is not None else 0]
        assert isinstance(found, PreferentialSession)
        return found

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Find means and scales, what is missing, and how long trials are."""
        for session in self._place:
            self.of(session).prepare(_OfSession(batches, session))

    @torch.no_grad()
    def statistics(self, batch: Batch) -> HankelMoments | ReadoutSums:
        """Return moments of the windows in the first pass, and sums for what is read out from the states later.

        Of several sessions each leaf is flat, one session after the other.
        """
        name = batch.layout.session
        found = self.of(name).statistics(batch)
        return together(found, [session.shapes for session in self._all()], self._place[name])

    @torch.no_grad()
    def update(self, statistics: HankelMoments | ReadoutSums) -> Float[Tensor, ""]:
        """Solve for the parameters; return nats per bin, expected ones in the first pass: the mean over sessions."""
        sums = apart(statistics, [session.shapes for session in self._all()])
        return torch.stack([session.update(own) for session, own in zip(self._all(), sums, strict=True)]).mean()

    @torch.no_grad()
    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the mean of the states, the relevant ones first, given the bins that ``model.states`` names."""
        return self.of(batch.layout.session).system.latents(batch)

    @torch.no_grad()
    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the mean and covariance of the states given the bins that ``model.states`` names."""
        return self.of(batch.layout.session).system.posterior(batch)

    @torch.no_grad()
    def filtered(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the mean of the states of each bin given the bins up to it."""
        return self.of(batch.layout.session).system.filtered(batch)

    @torch.no_grad()
    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given the latents; it can be negative."""
        return self.of(batch.layout.session).system.rates(batch)

    @torch.no_grad()
    def decode(self, batch: Batch) -> Mapping[str, Float[Tensor, "trial bin channel"]]:
        """Return behavior as the latents say: values, angles in radians, or the index of the most probable level."""
        return self.of(batch.layout.session).system.decode(batch)

    @torch.no_grad()
    def level_probabilities(self, batch: Batch) -> dict[str, Float[Tensor, "trial bin level"]]:
        """Return the probability of each level of the categorical variables."""
        return self.of(batch.layout.session).system.level_probabilities(batch)

    @torch.no_grad()
    def forecast(self, batch: Batch, horizon: int) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given the bins up to ``horizon`` bins earlier, and all known inputs.

        Raises UserError below one bin.
        """
        return self.of(batch.layout.session).system.forecast(batch, horizon)

    @torch.no_grad()
    def forecast_behavior(self, batch: Batch, horizon: int) -> Mapping[str, Float[Tensor, "trial bin channel"]]:
        """Return behavior as expected from the bins up to ``horizon`` bins earlier; raises UserError below one bin."""
        return self.of(batch.layout.session).system.forecast_behavior(batch, horizon)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the observed activity of each trial, in nats."""
        return self.of(batch.layout.session).system.log_likelihood(batch)

    @torch.no_grad()
    def sample(
        self, session: str, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw states and activity of new trials, with known inputs at their training mean.

        Trials begin with what is expected of the state before the first bin.
        """
        return self.of(session).system.sample(trials, bins, seed)

    def initial(self, session: str, trials: int) -> State:
        """Return what is known before the first bin of some trials."""
        return self.of(session).system.initial(trials)

    @torch.no_grad()
    def step(self, state: State, bin: Batch) -> tuple[State, Float[Tensor, "trial latent"]]:
        """Return what is known after one more bin, and the mean of its states."""
        return self.of(bin.layout.session).system.step(state, bin)

    def advance(self, latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        """Return the expected states one bin later, with known inputs at their training mean.

        Raises UserError for several sessions, each of which has dynamics of its own.
        """
        if len(self.sessions) > 1:
            raise UserError(
                f"psid was fitted to {len(self.sessions)} sessions.",
                "Each has dynamics of its own.",
                "Call advance_in(session, latents).",
            )
        return self.advance_in(next(iter(self._place)), latents)

    def advance_in(self, session: str, latents: Float[Tensor, "point latent"]) -> Float[Tensor, "point latent"]:
        """Return the expected states of a session one bin later, with known inputs at their training mean."""
        return latents @ self.system(session).dynamics.T.to(latents)

    def system(self, session: str | None = None) -> System:
        """Return the parameters of a session, of the first where none is named."""
        return self.of(session).system.system()

    def eigenvalues(self, session: str | None = None) -> dict[str, Complex[np.ndarray, " _"]]:
        """Return the eigenvalues of the dynamics: those of the "relevant" states, and those of the "other" ones."""
        return self.of(session).system.eigenvalues

    def curves(self, session: str | None = None) -> dict[str, dict[str, Any]]:
        """Return what cross-validation compared: "relevant", "latents" and "horizon", those that were null.

        Each has its ``candidates``, the share of variance ``explained`` (of future behavior, of future activity, of the
        next bin), the ``standard_error`` of its difference from the best, and what was ``chosen``.
        """
        return self.of(session).curves

    def compared(self, setting: str) -> dict[int, Float[Tensor, " fold"]]:
        """Return how much of coming behavior ("relevant"), or of activity ("latents"), each number explains by fold."""
        found = [session.compared(setting) for session in self._all()]
        common = [value for value in found[0] if all(value in each for each in found)]
        return {value: torch.stack([each[value] for each in found]).mean(0) for value in common}

    @torch.no_grad()
    def by_dimension(self, session: str, batches: Iterable[Batch]) -> dict[str, dict[str, Any]]:
        """Return how much of the next bin's behavior models of several sizes explain, cross-validated.

        "preferential": as many states for behavior as there are, at most those of this model; "plain": none, that is
        plain subspace identification. Fields are those of ``curves``; nothing where no state is relevant.
        """
        return self.of(session).by_dimension(batches)


class _OfSession:
    """The batches of one session, which can be iterated more than once."""

    def __init__(self, batches: Iterable[Batch], session: str) -> None:
        self.batches, self.session = batches, session

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self.batches if batch.layout.session == self.session)


def _session(config: PSIDConfig, layout: Layout) -> PreferentialSession:
    names = list(layout.behavior) if config.behavior is None else config.behavior
    for name in names:
        if name not in layout.behavior:
            raise unknown("behavior variable", name, layout.behavior, fix="See data.behavior.")
    variables = codes({name: layout.behavior[name] for name in names})
    columns = Columns(layout, variables, config.standardize, config.components)
    _check(config, layout, columns)
    sizes = Sizes(config.latents, config.relevant, config.horizon_bins, config.folds)
    return PreferentialSession(layout, variables, columns, sizes, config.states)


def _check(config: PSIDConfig, layout: Layout, columns: Columns) -> None:
    if config.relevant and not columns.codes:
        raise UserError(
            f"model.relevant={config.relevant} needs behavior, and session '{layout.session}' has none in use.",
            f"Its behavior variables are: {', '.join(layout.behavior) or 'none'}.",
            "Name variables in model.behavior and data.behavior, or set model.relevant=0 for plain subspace "
            "identification.",
        )
    if config.components is not None and config.components > layout.n_units:
        raise UserError(
            f"model.components is {config.components}.",
            f"Session '{layout.session}' has {layout.n_units} units.",
            f"Set model.components={layout.n_units} or less, or null.",
        )
    if config.horizon_bins is None:
        return
    for name, value, channels, what in (
        ("relevant", config.relevant, columns.codes, "channels of behavior"),
        ("latents", (config.latents or 0) - (config.relevant or 0), columns.activity, "channels of activity"),
    ):
        if (value or 0) > channels * (config.horizon_bins - 1):
            raise UserError(
                f"model.{name}={getattr(config, name)} is too many for model.horizon_bins={config.horizon_bins}.",
                f"{channels} {what} over {config.horizon_bins - 1} further bins tell of as many states as their "
                "product.",
                f"Set model.horizon_bins={-(-int(value or 0) // channels) + 1} or more, or fewer states.",
            )


def _tiny(layout: Layout) -> PSIDConfig:
    return PSIDConfig(latents=4, relevant=2 if layout.behavior else 0, horizon_bins=4)


register(
    Entry(
        model=PSID,
        config=PSIDConfig,
        family=Family.BEHAVIOR,
        reference=Reference(
            "Sani, Abbaspourazad, Wong, Pesaran & Shanechi (2021). Modeling behaviorally relevant neural dynamics "
            "enabled by preferential subspace identification. Nature Neuroscience 24, 140-149.",
            "10.1038/s41593-020-00733-0",
            "sani2021psid",
        ),
        tiny=_tiny,
        working_bytes=25.0,  # 14 to 59 of 4 to 12 million counts of 100 units
        training=Training(max_epochs=20),
    )
)
