"""Regions with latents of their own that drive each other, drawn by plain recursion, and fits of the model to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.inference.granger import granger, region_information
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.regional_structure import Structure
from lvmzoo.models.multi_region.multi_region_lds import MultiRegionLDS, MultiRegionLDSConfig
from tests.models.lds_world import eigenvalue_error

LATENTS = 2  # of each region


class World(NamedTuple):
    """A planted system; A maps lags to dynamics."""

    A: Mapping[int, np.ndarray]
    Q: np.ndarray
    C: np.ndarray
    units: Mapping[str, int]

    @property
    def truth(self) -> LinearGaussian:
        """Parameters of the same system as a model of all connections holds them."""
        structure = everything(tuple(self.units), max(self.A))
        F, Q = structure.shift.clone(), torch.zeros_like(structure.shift)
        for lag, dynamics in self.A.items():
            for name, rows in structure.regions.items():
                if lag == 1 or name in structure.senders:
                    F[: structure.present, structure.place(name, lag)] = torch.from_numpy(dynamics[:, rows])
        Q[: structure.present, : structure.present] = torch.from_numpy(self.Q)
        C = torch.zeros(len(self.C), structure.size, dtype=torch.float64)
        C[:, : structure.present] = torch.from_numpy(self.C)
        zeros, ones = C.new_zeros(structure.size), C.new_ones(len(C))
        return LinearGaussian(F, Q, zeros, torch.eye(structure.size).double(), C, 0 * ones, ones)


def everything(names: tuple[str, ...], max_lag: int) -> Structure:
    pairs = tuple((a, b) for a in names for b in names if a != b)
    return Structure(names, LATENTS, pairs, max_lag)


def world(
    seed: int, units: Mapping[str, int], edges: Sequence[tuple[str, str]] = (), lag: int = 1, strength: float = 0.3
) -> World:
    """Return planes that turn and decay, one a region; ``edges`` lead from source to target."""
    draw = np.random.default_rng(seed)
    place = {name: slice(LATENTS * i, LATENTS * (i + 1)) for i, name in enumerate(units)}
    size = LATENTS * len(units)
    A = {k: np.zeros((size, size)) for k in range(1, lag + 1)}
    for i, rows in enumerate(place.values()):  # eigenvalues that nearly coincide would be hard to tell apart
        angle, modulus = draw.uniform(0.2 * i + 0.1, 0.2 * i + 0.2), draw.uniform(0.75, 0.9)
        turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        A[1][rows, rows] = modulus * np.array(turn)
    for source, target in edges:
        block = draw.normal(size=(LATENTS, LATENTS))
        A[lag][place[target], place[source]] = strength * block / np.linalg.norm(block, 2)
    C = np.zeros((sum(units.values()), size))
    start = 0
    for name, number in units.items():
        C[start : start + number, place[name]] = 0.7 * draw.normal(size=(number, LATENTS))
        start += number
    return World(A, 0.2 * np.eye(size), C, units)


def layout(units: Mapping[str, int], counts: bool = False, session: str = "s", **more: Any) -> Layout:
    observation = Observation.COUNTS if counts else Observation.CONTINUOUS
    ids = tuple(f"{session}{unit}" for unit in range(sum(units.values())))
    return Layout(session, dict(units), ids, observation, 0.02, **more)


def batch(activity: np.ndarray, of: Layout, lengths: Sequence[int] | None = None) -> Batch:
    """Return trials; NaN are samples that are missing."""
    values = torch.from_numpy(activity)
    trials, bins, _ = values.shape
    valid = torch.arange(bins) < torch.tensor(lengths or [bins] * trials)[:, None]
    observed = valid[..., None] & ~torch.isnan(values.double())
    index = torch.arange(trials)
    return Batch(values, valid, observed, {}, {}, index, torch.zeros_like(index), of)


def draw(planted: World, seed: int, trials: int, bins: int, counts: bool = False) -> np.ndarray:
    """Return activity (trial, bin, unit), stationary from the first bin."""
    random = np.random.default_rng(seed)
    settled = 100
    root = np.linalg.cholesky(planted.Q)
    x = np.zeros((trials, bins + settled, len(planted.Q)))
    for t in range(bins + settled):
        x[:, t] = random.normal(size=x[:, t].shape) @ root.T
        for lag, dynamics in planted.A.items():
            if t >= lag:
                x[:, t] += x[:, t - lag] @ dynamics.T
    drive = x[:, settled:] @ planted.C.T
    if counts:
        return random.poisson(np.exp(0.6 * drive - 0.5)).astype(np.float64)
    return drive + random.normal(size=drive.shape)


def build(of: Layout | Sequence[Layout], **config: Any) -> MultiRegionLDS:
    layouts = [of] if isinstance(of, Layout) else list(of)
    return MultiRegionLDS(MultiRegionLDSConfig(**{"latents": LATENTS, **config}), layouts)


def fit(model: MultiRegionLDS, batches: Sequence[Batch], passes: int) -> list[float]:
    """Return the objective before each pass."""
    model.prepare(batches)
    trace = []
    for _ in range(passes):
        parts = [model.statistics(part) for part in batches]
        sums = (sum(leaves[1:], leaves[0]) for leaves in zip(*parts, strict=True))
        trace.append(float(model.update(type(parts[0])(*sums))))
    model.finish()
    return trace


def influence(parameters: LinearGaussian, of: Layout) -> torch.Tensor:
    """Return Granger causality [target, source]."""
    information = region_information(parameters.readout, parameters.noise, [of.region(name) for name in of.units])
    return granger(parameters.dynamics, parameters.dynamics_noise, information)


def eigenvalues_off(model: MultiRegionLDS, planted: World) -> float:
    """Return the largest distance between eigenvalues of the present latents' dynamics."""
    return eigenvalue_error(model.dynamics, planted.truth.dynamics)
