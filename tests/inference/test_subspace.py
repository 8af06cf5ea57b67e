"""Subspace identification against planted systems, and against what EM finds in the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmzoo.inference.subspace import LAGS, identify
from tests.models import lds_world as world


def planted_covariances(latents: int, units: int, size: float = 0.5) -> tuple[world.LinearGaussian, torch.Tensor]:
    true = world.rotations(latents, units, seed=0, size=size)
    powers = [torch.linalg.matrix_power(true.dynamics, lag) for lag in range(LAGS)]
    covariance = torch.stack([true.readout @ power @ true.readout.T for power in powers])
    covariance[0] += torch.diag(true.noise)
    return true, covariance


@pytest.mark.parametrize("private", [1.0, 1e4])
@pytest.mark.parametrize(("latents", "units"), [(4, 12), (6, 6), (8, 60)])
def test_exact_covariances_give_the_exact_system(latents: int, units: int, private: float) -> None:
    """However large the private noise is: it does not enter the covariances between bins."""
    true, covariance = planted_covariances(latents, units)
    noise = true.noise * private
    covariance[0] += torch.diag(noise - true.noise)
    found = identify(covariance, torch.full((LAGS,), 1e4, dtype=torch.float64), noise, latents)
    assert found is not None
    assert world.eigenvalue_error(found.dynamics, true.dynamics) < 1e-9
    for lag in range(LAGS):
        power = torch.linalg.matrix_power(found.dynamics, lag)
        shared = covariance[lag] - (torch.diag(noise) if lag == 0 else 0)
        np.testing.assert_allclose(found.readout @ power @ found.readout.T, shared, atol=1e-9)


def test_where_it_is_impossible_nothing_is_found() -> None:
    true, covariance = planted_covariances(4, 12)
    pairs = torch.full((LAGS,), 1e4, dtype=torch.float64)
    short = torch.where(torch.arange(LAGS) > 5, 0.0, pairs)
    assert identify(covariance, short, true.noise, 4) is None
    assert identify(covariance, pairs, true.noise, 13) is None
    assert identify(torch.zeros_like(covariance), pairs, true.noise, 4) is None


@pytest.mark.parametrize(
    ("units", "size"), [pytest.param(50, 0.1, id="private noise dominates"), pytest.param(6, 0.5, id="few units")]
)
def test_the_start_is_near_the_optimum_at_once(units: int, size: float) -> None:
    """Factor analysis starts far from the truth here, and needs ten times the passes."""
    true = world.rotations(4, units, seed=1, size=size)
    _, y = world.build(world.batch(torch.zeros(1, 2, units)), 4, true).sample("a", 150, 100, seed=2)
    data, ends = world.batch(y), []
    at_start = {}
    for initialization in ("subspace", "factor_analysis"):
        model = world.build(data, 4, initialization=initialization)
        trace = world.fit(model, [data], 1)
        at_start[initialization] = world.eigenvalue_error(model.dynamics, true.dynamics), trace[0]
        trace = world.fit(model, [data], 30, prepare=False)
        assert world.rises(trace)
        ends.append((trace[-1], world.eigenvalue_error(model.dynamics, true.dynamics)))
    best, error = max(ends)
    assert at_start["subspace"][0] < error + 0.01
    assert at_start["factor_analysis"][0] > 2 * at_start["subspace"][0]
    assert best - at_start["subspace"][1] < 0.25 * (best - at_start["factor_analysis"][1])


def test_the_start_does_not_depend_on_how_trials_are_batched() -> None:
    true = world.rotations(4, 20, seed=3)
    _, y = world.build(world.batch(torch.zeros(1, 2, 20)), 4, true).sample("a", 30, 50, seed=2)
    lengths = [50 - (7 * i) % 45 for i in range(30)]
    whole = world.batch(y, lengths)
    parts = [whole.map(lambda tensor, i=i: tensor[i : i + 7]) for i in range(0, 30, 7)]
    models = []
    for batches in ([whole], parts):
        models.append(world.build(whole, 4))
        models[-1].prepare(batches)
    for name, value in models[0].state_dict().items():
        np.testing.assert_allclose(models[1].state_dict()[name], value, atol=1e-8, err_msg=name)


def test_short_trials_start_by_factor_analysis() -> None:
    true = world.rotations(4, 20, seed=3)
    _, y = world.build(world.batch(torch.zeros(1, 2, 20)), 4, true).sample("a", 100, 6, seed=2)
    models = []
    for initialization in ("subspace", "factor_analysis"):
        models.append(world.build(world.batch(y), 4, initialization=initialization))
        models[-1].prepare([world.batch(y)])
    assert torch.equal(models[0].readout, models[1].readout)
