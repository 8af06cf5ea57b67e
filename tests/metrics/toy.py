"""A small session with planted latents, and a closed-form model with every capability that metrics look for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from lvmzoo.batch import Batch, Kind, Layout, Observation, PairSampling, Variable
from lvmzoo.data.trials import Session, Trials
from lvmzoo.findings import Claim, Findings, Progress, Question, quiet_progress
from lvmzoo.inference.shared_variance import SharedVariance
from lvmzoo.models.base import (
    Communicates,
    Connects,
    Decodes,
    Forecasts,
    ForecastsBehavior,
    GradientModel,
    HasDynamics,
    HasPosterior,
    HasSharedVariance,
    InfersInputs,
    Loss,
    Model,
    Reconstructs,
    Samples,
    Scores,
)
from lvmzoo.parts.info_nce import InfoNCE


def make_session(
    trials=30,
    lengths=(40, 25, 33),
    units=(12, 6),
    held_out=(3, 13),
    observation=Observation.COUNTS,
    seed=0,
    missing=False,
    timed=False,
    conditions=0,
) -> Session:
    random = np.random.default_rng(seed)
    length = np.resize(np.array(lengths), trials)
    bins, n = int(length.sum()), sum(units)
    angle = np.cumsum(random.normal(0, 0.25, bins))
    amplitude = 1 + 0.5 * np.sin(np.arange(bins) / 37)
    latents = np.stack([amplitude * np.cos(angle), amplitude * np.sin(angle)], 1)
    weights = random.normal(0, 0.6, (2, n))
    rates = np.exp(latents @ weights - 0.3)
    if observation is Observation.COUNTS:
        activity = torch.from_numpy(random.poisson(rates).astype(np.int16))
    else:
        activity = torch.from_numpy((latents @ weights + 0.3 * random.normal(size=(bins, n))).astype(np.float32))
    heading = torch.from_numpy((angle % (2 * np.pi))[:, None].astype(np.float32))
    velocity = torch.from_numpy((latents @ random.normal(size=(2, 2)) + 5).astype(np.float32))
    velocity[::17] = torch.nan
    side = torch.from_numpy((latents[:, :1] > 0).astype(np.float32))
    variables = {
        "heading": Variable(Kind.CIRCULAR),
        "velocity": Variable(Kind.CONTINUOUS, 2),
        "side": Variable(Kind.CATEGORICAL, 1, ("left", "right")),
    }
    behavior = {"heading": heading, "velocity": velocity, "side": side}
    if timed:  # a time that the latents tell
        variables["movie_s"] = Variable(Kind.CONTINUOUS)
        behavior["movie_s"] = torch.from_numpy((2 * latents[:, :1]).astype(np.float32))
    layout = Layout(
        session="toy",
        units={"a": units[0], "b": units[1]},
        unit_ids=tuple(f"u{i}" for i in range(n)),
        observation=observation,
        bin_width_s=0.02,
        behavior=variables,
        conditions=tuple(f"condition {i}" for i in range(conditions)),
        held_out=held_out,
    )
    stop = np.cumsum(length)
    valid = torch.ones(bins, dtype=torch.bool)
    valid[5:8] = False
    absent = torch.from_numpy(random.random((bins, n)) < 0.1) if missing else None
    whole = Trials(
        layout=layout,
        activity=activity,
        start=stop - length,
        stop=stop,
        valid=valid,
        table=pd.DataFrame({"start_s": (stop - length) * 0.02}),
        missing=absent,
        behavior=behavior,
        truth={
            "latents": torch.from_numpy(latents.astype(np.float32)),
            "rates": torch.from_numpy(rates.astype(np.float32)),
        },
        condition=np.arange(trials) % conditions if conditions else None,
    )
    a, b = trials * 6 // 10, trials * 8 // 10
    return Session(
        whole.select(range(a)),
        whole.select(range(a, b)),
        whole.select(range(b, trials)),
        connections=pd.DataFrame([{"source": "a", "target": "b", "delay_s": 0.04, "dimensions": 2}]),
        modes=pd.DataFrame({"timescale_s": [0.2, 0.1], "frequency_hz": [2.0, 0.0]}),
    )


class Base(Model):
    """Latents: a fixed projection of what is observed; it needs no fitting."""

    def __init__(self, session: Session, positive: bool = True) -> None:
        super().__init__(SimpleNamespace(), [session.layout])
        generator = torch.Generator().manual_seed(0)
        self.projection = torch.nn.Parameter(
            torch.randn(session.layout.n_units, 3, generator=generator, dtype=torch.float64), requires_grad=False
        )
        self.dropout = torch.nn.Dropout(0.5)

    def latents(self, batch: Batch) -> torch.Tensor:
        seen = torch.where(batch.observed, batch.activity.double(), 0.0)
        return self.dropout(seen @ self.projection) * batch.valid.unsqueeze(-1)


class Full(
    Base,
    Reconstructs,
    Scores,
    Communicates,
    Connects,
    HasSharedVariance,
    Decodes,
    Forecasts,
    ForecastsBehavior,
    HasDynamics,
    HasPosterior,
    Samples,
    InfersInputs,
):
    positive_rates = True
    routes: ClassVar = {"b": ("a",)}

    def rates(self, batch: Batch) -> torch.Tensor:
        return torch.exp(0.1 * torch.tanh(self.latents(batch)) @ self.projection.T)

    def undriven_rates(self, batch: Batch) -> torch.Tensor:
        return self.rates(batch).sqrt()

    def log_likelihood(self, batch: Batch) -> torch.Tensor:
        value = torch.distributions.Poisson(1.3).log_prob(batch.activity.double().clamp_min(0).round())
        return torch.where(batch.observed, value, 0.0).sum((1, 2))

    @property
    def shared_variance(self) -> SharedVariance:
        folds = torch.tensor([[0.3, 0.4, torch.nan], [2.0, 3.0, torch.nan], [0.2, 0.3, torch.nan]])
        return SharedVariance(torch.tensor(3.0), *folds)

    def findings(self, batch: Batch, seed: int, progress: Progress = quiet_progress) -> Findings:
        claims = (
            Claim(Question.COMMUNICATION, "a", "b", 0.5, "correlation", evidence=True),
            Claim(Question.DIRECTION, "a", "b", 0.3, "gain", evidence=True),
            Claim(Question.DIRECTION, "b", "a", 0.0, "gain", evidence=False),
            Claim(Question.DELAY, "a", "b", 43.0, "peak", "ms", evidence=True),
            Claim(Question.DIMENSIONS, "a", "b", 3.0, "rank"),
        )
        return Findings(claims)

    def predict_target(self, batch: Batch, target: str) -> torch.Tensor:
        return 0.1 * self.latents(batch) @ self.projection[batch.layout.region(target)].T

    def decode(self, batch: Batch) -> dict[str, torch.Tensor]:
        x = self.latents(batch)
        return {
            "heading": torch.atan2(x[..., :1], x[..., 1:2]),
            "velocity": x[..., :2],
            "side": (x[..., :1] > 0).double(),
        }

    def forecast(self, batch: Batch, horizon: int) -> torch.Tensor:
        return shifted(self.rates(batch), horizon)

    def advance(self, latents: torch.Tensor) -> torch.Tensor:
        return latents * latents.new_tensor([0.9, 0.8, 0.5]) + 1

    def posterior(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.latents(batch)
        return mean, torch.eye(3, dtype=torch.float64).expand(*mean.shape, 3)

    def sample(self, session: str, trials: int, bins: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(trials, bins, 3, generator=generator, dtype=torch.float64)
        return drawn, torch.poisson(torch.exp(0.1 * drawn @ self.projection.T), generator=generator)

    def forecast_behavior(self, batch: Batch, horizon: int) -> dict[str, torch.Tensor]:
        return {name: shifted(values, horizon) for name, values in self.decode(batch).items()}


class Remembering(Full):
    """Latents that decay over time, so that what was seen tells something of later bins."""

    def latents(self, batch: Batch) -> torch.Tensor:
        seen = torch.where(batch.observed, batch.activity.double(), 0.0) @ self.projection
        lag = torch.arange(batch.n_bins)[:, None] - torch.arange(batch.n_bins)
        return torch.where(lag >= 0, 0.5 ** lag.clamp(min=0), 0.0).double() @ seen * batch.valid.unsqueeze(-1)


def shifted(values: torch.Tensor, bins: int) -> torch.Tensor:
    """Return what was said that many bins earlier; zero before."""
    return torch.nn.functional.pad(values, (0, 0, bins, 0))[:, : values.shape[1]]


class Gaussian(Base, Reconstructs):
    def rates(self, batch: Batch) -> torch.Tensor:
        return self.latents(batch) @ self.projection.T - 1.0


class Contrasting(Base, GradientModel):
    """Latents of unit length, and InfoNCE of pairs of labels."""

    sampling = PairSampling(0, 1, positives="behavior", behavior=("velocity",), delta=0.1)

    def latents(self, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.normalize(super().latents(batch), dim=-1)

    def loss(self, batch: Batch, step: int) -> Loss:
        reference, positive, negative = (self.latents(batch)[rows, 0] for rows in batch.pairs["behavior"])
        align, uniform = InfoNCE("cosine", 1.0)(reference, positive, negative)
        terms = {"behavior_align": align, "behavior_uniform": uniform}
        return Loss(terms, torch.tensor(float(len(reference))))
