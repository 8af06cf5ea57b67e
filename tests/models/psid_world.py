"""Planted systems and fits for the tests of psid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.optimize import linear_sum_assignment

from lvmzoo.batch import Batch, Kind, Layout, Observation, Variable
from lvmzoo.models.behavior.psid import PSID, PSIDConfig


def plane(angle: float, modulus: float) -> np.ndarray:
    return modulus * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


class Planted:
    """x[t+1] = A x[t] + B u[t] + w, y = C x + D u + v, z = Cz x + e; z sees the first two of four latents."""

    def __init__(self, seed: int = 0, units: int = 8, behavior: int = 2, inputs: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.A = block_diag(plane(0.3, 0.9), plane(1.0, 0.95))
        self.C = random.normal(size=(units, 4))
        self.Cz = np.concatenate([random.normal(size=(behavior, 2)), np.zeros((behavior, 2))], 1)
        self.B, self.D = random.normal(size=(4, inputs)), random.normal(size=(units, inputs))
        self.seed = seed

    def draw(self, bins: int, stream: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return activity, behavior and slow inputs."""
        random = np.random.default_rng([self.seed, stream, 7])
        u, x = random.normal(size=(bins, self.B.shape[1])), random.normal(size=(bins, 4))
        for t in range(1, bins):
            u[t] += 0.8 * u[t - 1]
            x[t] += self.A @ x[t - 1] + self.B @ u[t - 1]
        y = x @ self.C.T + u @ self.D.T + random.normal(size=(bins, len(self.C)))
        return y + 3.0, x @ self.Cz.T + random.normal(size=(bins, len(self.Cz))) - 1.0, u


def batch(
    y: Sequence[np.ndarray], z: Sequence[np.ndarray] | dict[str, Sequence[np.ndarray]] | None = None,
    u: Sequence[np.ndarray] | None = None, kinds: dict[str, Variable] | None = None,
) -> Batch:  # fmt: skip
    """Return trials of any lengths as one padded batch; NaN of the activity was not observed."""
    behavior = z if isinstance(z, dict) else {} if z is None else {"z": z}
    bins = max(map(len, y))

    def padded(values: Sequence[np.ndarray], fill: float) -> torch.Tensor:
        full = np.full((len(values), bins, values[0].shape[1]), fill)
        for row, trial in zip(full, values, strict=True):
            row[: len(trial)] = trial
        return torch.from_numpy(full)

    valid = torch.arange(bins) < torch.tensor([len(trial) for trial in y])[:, None]
    activity = padded(y, np.nan)
    layout = Layout(
        session="a",
        units={"all": y[0].shape[1]},
        unit_ids=tuple(str(i) for i in range(y[0].shape[1])),
        observation=Observation.CONTINUOUS,
        bin_width_s=0.05,
        behavior=kinds or {name: Variable(Kind.CONTINUOUS, v[0].shape[1]) for name, v in behavior.items()},
        inputs={} if u is None else {"u": u[0].shape[1]},
        longest_bins=bins,
    )
    return Batch(
        activity=activity,
        valid=valid,
        observed=~activity.isnan() & valid[..., None],
        behavior={name: padded(v, np.nan) for name, v in behavior.items()},
        inputs={} if u is None else {"u": padded(u, 0.0)},
        trial_index=torch.arange(len(y)),
        start_bin=torch.zeros(len(y), dtype=torch.int64),
        layout=layout,
    )


def fit(data: Batch, batches: Sequence[Batch] | None = None, **config: Any) -> PSID:
    """Fit by the statistics of one batch or several."""
    chosen = {"latents": 4, "relevant": 2, "horizon_bins": 5, "standardize": "none", "states": "predictor"} | config
    model = PSID(PSIDConfig(**chosen), [data.layout])
    batches = [data] if batches is None else list(batches)
    solve(model, batches)
    return model


def solve(model: PSID, batches: Sequence[Batch]) -> None:
    """Make all passes over the batches."""
    model.prepare(batches)
    for _ in range(model.passes):
        found = [model.statistics(part) for part in batches]
        model.update(type(found[0])(*(sum(leaves[1:], leaves[0]) for leaves in zip(*found, strict=True))))
    model.finish()


def eigenvalue_error(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest distance of the eigenvalues after matching, relative to the largest."""
    a, b = np.linalg.eigvals(np.asarray(one)), np.linalg.eigvals(np.asarray(other))
    distance = np.abs(a[:, None] - b)
    return float(distance[linear_sum_assignment(distance)].max() / np.abs(b).max())


def r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float((1 - ((truth - predicted) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)).mean())
