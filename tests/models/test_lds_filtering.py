"""The linear dynamical system bin by bin, and draws from its posterior, against the joint normal of all bins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.func import jacrev

from lvmzoo.batch import Batch
from lvmzoo.inference.sampling import draw_latents
from tests.inference.dense import Dense, draw_activity, random_model
from tests.models import lds_world as world


def world_of(kind: str, bins: int = 9, channels: int = 2) -> tuple[world.LinearGaussian, Batch]:
    true = random_model(2, 5, seed=1, channels=channels)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, bins, channels, generator=generator).double()
    data = world.batch(draw_activity(true, 4, bins, inputs=inputs), [bins, bins, 4, 1], inputs=inputs)
    observed = data.observed.clone()
    if kind == "units":
        observed[..., 2] = False
    if kind == "bins":
        data.valid[0, 3:5] = False
        observed[0, 3:5] = False
        observed[1, 6:] = False
    if kind == "scattered":
        observed &= torch.rand(observed.shape, generator=generator) < 0.6
    return true, dataclasses.replace(data, observed=observed, activity=data.activity.masked_fill(~observed, torch.nan))


@pytest.mark.parametrize("kind", ["complete", "units", "bins", "scattered"])
def test_steps_equal_the_filter_and_the_joint_normal(kind: str) -> None:
    true, data = world_of(kind)
    model = world.build(data, 2, true)
    ours = model.filtered(data)
    state = model.initial("a", 4)
    for t in range(9):
        state, latents = model.step(state, data.bins(t, t + 1))
        np.testing.assert_allclose(latents, ours[:, t], atol=1e-10)
    known = torch.cat(list(data.inputs.values()), -1).double().numpy()
    for i in range(4):
        for t in np.flatnonzero(data.valid[i]):
            dense = Dense(true, t + 1, known[i])
            mean, _ = dense.posterior(data.activity[i, : t + 1].numpy(), data.observed[i, : t + 1].numpy())
            np.testing.assert_allclose(ours[i, t], mean[t], atol=1e-10)
    assert not ours[~data.valid].any()


@pytest.mark.parametrize("chunk", [4, 2**17])
@pytest.mark.parametrize("kind", ["complete", "units", "bins", "scattered"])
def test_draws_have_the_joint_covariance_over_time(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly: a draw is an affine function of standard normal numbers, whose matrix unit vectors give."""
    monkeypatch.setattr("lvmzoo.inference.sequences.CHUNK", chunk)
    true, data = world_of(kind, bins=6)
    known = torch.cat(list(data.inputs.values()), -1)
    size = 6 * 2
    units = torch.eye(size, dtype=torch.float64).view(size, 1, 6, 2).expand(-1, 4, -1, -1).contiguous()
    normal = torch.cat([torch.zeros_like(units[:1]), units])
    drawn = draw_latents(true, data.activity, data.valid, data.observed, known, normal)
    for i in range(4):
        bins = int(data.valid[i].nonzero().max()) + 1
        mean, covariance = Dense(true, bins, known[i].double().numpy()).posterior(
            data.activity[i, :bins].numpy(), data.observed[i, :bins].numpy()
        )
        np.testing.assert_allclose(drawn[0, i, :bins], mean, atol=1e-10)
        root = (drawn[1:, i, :bins] - drawn[0, i, :bins]).reshape(size, -1)
        np.testing.assert_allclose(root.T @ root, covariance.reshape(bins * 2, -1), atol=1e-10)
        assert not drawn[:, i, bins:].any()


def test_draws_are_random_reproducible_and_centered_on_the_posterior() -> None:
    true, data = world_of("scattered")
    model = world.build(data, 2, true)
    drawn = model.posterior_sample(data, 400, seed=0)
    mean, covariance = model.posterior(data)
    error = covariance.diagonal(dim1=-2, dim2=-1).sqrt() / 400**0.5
    assert bool(((drawn.mean(0) - mean).abs() <= 5 * error).all())
    assert not drawn[:, ~data.valid].any()
    assert torch.equal(drawn[:7], model.posterior_sample(data, 400, seed=0)[:7])
    assert not torch.equal(model.posterior_sample(data, 1, seed=1), model.posterior_sample(data, 1, seed=2))


def test_advance_is_the_dynamics_and_can_be_differentiated() -> None:
    true, data = world_of("complete")
    model = world.build(data, 2, true)
    point = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    jacobian = jacrev(lambda x: model.advance(x[None])[0])(point[0])
    np.testing.assert_allclose(jacobian, true.dynamics, atol=1e-14)
    np.testing.assert_allclose(model.advance(point)[0], true.dynamics @ point[0], atol=1e-14)
