"""Batches and fits of linear dynamical systems, for the tests of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.inference.linear_gaussian import LinearGaussian, Moments
from lvmzoo.models.single_region.lds import LDS, LDSConfig


def layout(units: int, session: str = "a", channels: int = 0) -> Layout:
    ids = tuple(f"{session}{unit}" for unit in range(units))
    inputs = {"wheel": 1, "sound": channels - 1} if channels > 1 else {"wheel": 1} if channels else {}
    return Layout(session, {"region": units}, ids, Observation.CONTINUOUS, 0.02, inputs=inputs)


def batch(
    activity: Tensor, lengths: Sequence[int] | None = None, session: str = "a", inputs: Tensor | None = None
) -> Batch:
    """Return trials; bins beyond a trial's length hold garbage."""
    trials, bins, units = activity.shape
    valid = torch.ones(trials, bins, dtype=torch.bool)
    for i, length in enumerate(lengths or []):
        valid[i, length:] = False
    activity = torch.where(valid[..., None], activity, torch.nan)
    index = torch.arange(trials)
    made = layout(units, session, 0 if inputs is None else inputs.shape[-1])
    named, start = {}, 0
    for name, channels in made.inputs.items():
        assert inputs is not None
        named[name] = torch.where(valid[..., None], inputs[..., start : start + channels], 0.0).float()
        start += channels
    observed = valid[..., None].expand(activity.shape)
    return Batch(activity, valid, observed, {}, named, index, torch.zeros_like(index), made)


def build(data: Batch, latents: int, true: LinearGaussian | None = None, **config: Any) -> LDS:
    model = LDS(LDSConfig(latents=latents, **config), [data.layout])
    if true is not None:
        for name, value in true._asdict().items():
            if value is not None:
                getattr(model, name).copy_(value)
    return model


def total(model: LDS, batches: Sequence[Batch]) -> Moments:
    parts = [model.statistics(part) for part in batches]
    return Moments(*(sum(leaves[1:], leaves[0]) for leaves in zip(*parts, strict=True)))


def fit(model: LDS, batches: Sequence[Batch], passes: int, prepare: bool = True) -> list[float]:
    if prepare:
        model.prepare(batches)
    return [float(model.update(total(model, batches))) for _ in range(passes)]


def rises(trace: list[float]) -> bool:
    return bool(np.diff(trace).min() >= -1e-9 * abs(trace[-1]))


def rotations(
    latents: int,
    units: int,
    seed: int,
    size: float = 0.5,
    moduli: tuple[float, float] = (0.9, 0.98),
    channels: int = 0,
) -> LinearGaussian:
    """Return planted parameters: planes that turn and decay, unit latent variance without inputs."""
    draw = np.random.default_rng(seed)
    A = np.zeros((latents, latents))
    for k in range(latents // 2):
        angle, radius = draw.uniform(0.05, 0.5), draw.uniform(*moduli)
        block = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = radius * np.array(block)
    eye = np.eye(latents)
    readout = draw.normal(size=(units, latents)) * size
    values = [A, eye - A @ A.T, np.zeros(latents), eye, readout, draw.normal(size=units), draw.uniform(0.5, 1.5, units)]
    if channels:
        values += [draw.normal(size=(latents, channels)), draw.normal(size=(units, channels))]
    return LinearGaussian(*(torch.from_numpy(value) for value in values))


def eigenvalue_error(one: Tensor, other: Tensor) -> float:
    """Return the largest distance between matched eigenvalues."""
    a, b = np.linalg.eigvals(one.numpy()), np.linalg.eigvals(other.numpy())
    distance = np.abs(a[:, None] - b)
    return float(distance[linear_sum_assignment(distance)].max())
