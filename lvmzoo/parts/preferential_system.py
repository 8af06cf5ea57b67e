"""A linear system with correlated noise and a readout of behavior: what it says of trials once it is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from lvmzoo.batch import Batch, Kind, Layout
from lvmzoo.errors import UserError
from lvmzoo.inference.kalman import square_root
from lvmzoo.inference.preferential_filter import Passed, passes
from lvmzoo.inference.preferential_gains import Observer, System
from lvmzoo.inference.preferential_readout import Coded, decoded
from lvmzoo.inference.preferential_scattered import Scattered
from lvmzoo.inference.preferential_system import fading
from lvmzoo.inference.riccati import stable

__all__ = ["PreferentialSystem", "State"]


class State(NamedTuple):
    """What the filter knows of the coming bin."""

    mean: Float[Tensor, "trial latent"]
    covariance: Float[np.ndarray, "trial latent latent"] | None  # None: as infinitely many bins leave it


class PreferentialSystem(nn.Module):
    """A linear dynamical system of one session, whose first states are those that behavior shares.

    Parameters
    ----------
    layout : of the session.
    variables : codes of the behavior variables.
    latents, relevant : most states, and how many of them are behavior's.
    states : bins that latents are inferred from: "predictor" (earlier ones), "filter" (up to now) or "smoother" (all).
    """

    dynamics: Tensor  # A
    drive: Tensor  # B
    readout: Tensor  # C
    offset: Tensor  # d
    feedthrough: Tensor  # D
    state_noise: Tensor  # Q
    cross: Tensor  # S
    noise: Tensor  # R
    predicted: Tensor  # covariance of the states given all bins before
    behavior_readout: Tensor  # [Cz, Dz, 0], or weights of a logistic readout with its intercept
    size: Tensor  # number of states, and of relevant ones
    input_mean: Tensor  # over the training bins: inputs count from there

    def __init__(
        self, layout: Layout, variables: Mapping[str, Coded], latents: int, relevant: int, states: str
    ) -> None:
        super().__init__()
        self.session, self.states = layout.session, states
        self.codes, self.inputs = dict(variables), dict(layout.inputs)
        p, m, L = layout.n_units, sum(layout.inputs.values()), latents
        self.input_channels = m
        q = max((code.columns.stop for code in variables.values()), default=0)
        shapes = {
            "dynamics": (L, L),
            "drive": (L, m),
            "readout": (p, L),
            "offset": (p,),
            "feedthrough": (p, m),
            "state_noise": (L, L),
            "cross": (L, p),
            "noise": (p, p),
            "predicted": (L, L),
            "behavior_readout": (q, L + m + 1),
            "input_mean": (m,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.noise.copy_(torch.eye(p))
        self.register_buffer("size", torch.tensor([L, min(relevant, L)]))
        self._observed_by: tuple[tuple[int, int], Observer] | None = None

    def set(self, system: System) -> None:
        """Take over what was identified."""
        for name, value in system._asdict().items():
            buffer = getattr(self, name).zero_()
            buffer[tuple(slice(size) for size in value.shape)] = value

    def system(self) -> System:
        """Return the parameters that were identified."""
        n = int(self.size[0])
        along = {"dynamics": (n, n), "drive": (n,), "readout": (None, n), "state_noise": (n, n), "cross": (n,)}
        along["predicted"] = (n, n)
        return System(
            *(getattr(self, name)[tuple(slice(size) for size in along.get(name, ()))] for name in System._fields)
        )

    @property
    def observer(self) -> Observer:
        """What sets of units tell about the states."""
        key = (self.predicted._version + self.drive._version, self.predicted.data_ptr())
        if self._observed_by is None or self._observed_by[0] != key:
            self._observed_by = (key, Observer(self.system()))
        return self._observed_by[1]

    def _known(self, batch: Batch) -> Float[Tensor, "trial bin input"] | None:
        if not self.input_channels:
            return None
        inputs = torch.cat([batch.inputs[name] for name in self.inputs], -1).to(self.offset.dtype)
        return inputs - self.input_mean

    def data(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return activity, which bins are valid and which samples are observed, and known inputs."""
        return batch.activity, batch.valid, batch.observed, self._known(batch)

    def _passes(self, batch: Batch, squares: bool = False) -> Iterator[Passed | Scattered]:
        return passes(self.observer, *self.data(batch), squares)

    def infer(self, batch: Batch, states: str, likelihood: bool = False) -> tuple[Tensor, Tensor]:
        """Return the mean of the states given the bins that are named, and the log-likelihood if it is asked for."""
        x = self.dynamics.new_zeros(*batch.valid.shape, int(self.size[0]))
        total = x.new_zeros(())
        for passed in self._passes(batch, likelihood):
            x[passed.rows, : len(passed.x)] = _estimate(passed, states).transpose(0, 1)
            if likelihood:
                total += passed.log_likelihood().sum()
        return at_valid(x, batch), total

    def latents(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the mean of the states, the relevant ones first, given the bins that ``states`` names."""
        return self.infer(batch, self.states)[0]

    def posterior(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin latent latent"]]:
        """Return the mean and covariance of the states given the bins that ``states`` names."""
        n = int(self.size[0])
        x = self.dynamics.new_zeros(*batch.valid.shape, n)
        covariance = x.new_zeros(*batch.valid.shape, n, n)
        for passed in self._passes(batch):
            bins = len(passed.x)
            x[passed.rows, :bins] = _estimate(passed, self.states).transpose(0, 1)
            covariance[passed.rows, :bins] = passed.covariances(self.states).transpose(0, 1)
        return at_valid(x, batch), at_valid(covariance, batch)

    def filtered(self, batch: Batch) -> Float[Tensor, "trial bin latent"]:
        """Return the mean of the states of each bin given the bins up to it."""
        return self.infer(batch, "filter")[0]

    def _emitted(self, batch: Batch, x: Tensor) -> Float[Tensor, "trial bin unit"]:
        system, known = self.observer.system, self._known(batch)
        rates = x @ system.readout.T + system.offset
        return at_valid(rates if known is None else rates + known @ system.feedthrough.T, batch)

    def rates(self, batch: Batch) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given the latents; it can be negative."""
        return self._emitted(batch, self.latents(batch))

    def _decoded(self, batch: Batch, x: Tensor) -> dict[str, Tensor]:
        found = self._coded(batch, x)
        return {name: at_valid(decoded(found[name], code.variable), batch) for name, code in self.codes.items()}

    def _coded(self, batch: Batch, x: Tensor) -> dict[str, Tensor]:
        known, n = self._known(batch), x.shape[-1]
        regressors = x if known is None else torch.cat([x, known], -1)
        width = n + self.input_channels
        code = regressors @ self.behavior_readout[:, :width].T + self.behavior_readout[:, width]
        return {name: code[..., variable.columns] for name, variable in self.codes.items()}

    def decode(self, batch: Batch) -> Mapping[str, Float[Tensor, "trial bin channel"]]:
        """Return behavior as the latents say: values, angles in radians, or the index of the most probable level."""
        return self._decoded(batch, self.latents(batch))

    def level_probabilities(self, batch: Batch) -> dict[str, Float[Tensor, "trial bin level"]]:
        """Return the probability of each level of the categorical variables."""
        found = self._coded(batch, self.latents(batch))
        return {
            name: torch.softmax(found[name], -1)
            for name, code in self.codes.items()
            if code.variable.kind is Kind.CATEGORICAL
        }

    def _ahead(self, batch: Batch, horizon: int) -> Float[Tensor, "trial bin latent"]:
        if horizon < 1:
            raise UserError(
                f"The forecast horizon is {horizon} bins.",
                "A forecast looks at least one bin ahead.",
                "Use a horizon of 1 or more, or `rates` and `decode` for the bins themselves.",
            )
        x, system, known = self.infer(batch, "predictor")[0], self.observer.system, self._known(batch)
        drive = 0.0 if known is None else known[:, :-1] @ system.drive.T
        dynamics = fading(system.dynamics)
        for _ in range(min(horizon - 1, batch.n_bins)):
            x[:, 1:] = x[:, :-1] @ dynamics.T + drive
            x[:, 0] = 0.0  # nothing has been seen yet
        return x

    def forecast(self, batch: Batch, horizon: int) -> Float[Tensor, "trial bin unit"]:
        """Return the expected activity given the bins up to ``horizon`` bins earlier, and all known inputs.

        Raises UserError below one bin.
        """
        return self._emitted(batch, self._ahead(batch, horizon))

    def forecast_behavior(self, batch: Batch, horizon: int) -> Mapping[str, Float[Tensor, "trial bin channel"]]:
        """Return behavior as expected from the bins up to ``horizon`` bins earlier; raises UserError below one bin."""
        return self._decoded(batch, self._ahead(batch, horizon))

    def log_likelihood(self, batch: Batch) -> Float[Tensor, " trial"]:
        """Return the log-likelihood of the observed activity of each trial, in nats."""
        result = self.dynamics.new_zeros(batch.n_trials)
        for passed in self._passes(batch, squares=True):
            result[passed.rows] = passed.log_likelihood()
        return result

    def sample(
        self, trials: int, bins: int, seed: int
    ) -> tuple[Float[Tensor, "trial bin latent"], Float[Tensor, "trial bin unit"]]:
        """Draw states and activity of new trials, with known inputs at their training mean.

        Trials begin with what is expected of the state before the first bin.
        """
        system, n = self.system(), int(self.size[0])
        joint = torch.cat(
            [torch.cat([system.state_noise, system.cross], 1), torch.cat([system.cross.T, system.noise], 1)]
        )
        generator = torch.Generator().manual_seed(seed)
        root, first = (torch.from_numpy(square_root(c.cpu().numpy())) for c in (joint, system.predicted))
        drawn = torch.randn(bins, trials, len(joint), generator=generator, dtype=torch.float64) @ root.T
        x = torch.randn(trials, n, generator=generator, dtype=torch.float64) @ first.T
        states = x.new_zeros(bins, trials, n)
        dynamics = stable(system.dynamics).cpu().T
        for t in range(bins):
            states[t] = x
            x = x @ dynamics + drawn[t, :, :n]
        states, noise = states.transpose(0, 1).to(self.dynamics), drawn[..., n:].transpose(0, 1).to(self.dynamics)
        return states, states @ system.readout.T + system.offset + noise

    def initial(self, trials: int) -> State:
        """Return what is known before the first bin of some trials."""
        return State(self.dynamics.new_zeros(trials, int(self.size[0])), None)

    def step(self, state: State, bin: Batch) -> tuple[State, Float[Tensor, "trial latent"]]:
        """Return what is known after one more bin, and the mean of its states."""
        observer, known = self.observer, self._known(bin)
        y = bin.activity[:, 0].to(self.offset.dtype)
        u = None if known is None else known[:, 0]
        x, covariance, mean = observer.step(state.mean, state.covariance, y, bin.observed[:, 0] & bin.valid, u)
        return State(x, covariance), mean

    @property
    def eigenvalues(self) -> dict[str, Complex[np.ndarray, " _"]]:
        """Eigenvalues of the dynamics: those of the "relevant" states, and those of the "other" ones."""
        dynamics, n1 = self.system().dynamics.cpu().numpy(), int(self.size[1])
        return {
            "relevant": np.linalg.eigvals(dynamics[:n1, :n1]).astype(np.complex128),
            "other": np.linalg.eigvals(dynamics[n1:, n1:]).astype(np.complex128),
        }


def _estimate(passed: Passed | Scattered, states: str) -> Float[Tensor, "bin trial latent"]:
    if states == "predictor":
        return passed.x
    return passed.filtered() if states == "filter" else passed.smoothed()


def at_valid(values: Tensor, batch: Batch) -> Tensor:
    """Zero the bins that are not valid, in place."""
    if not bool(batch.valid.all()):
        values[~batch.valid] = 0.0
    return values
