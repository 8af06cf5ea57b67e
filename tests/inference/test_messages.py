"""What latents owe to each region: identities, a case by hand, and what a model loses without a block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmzoo.claims.influence_measures import contributions
from lvmzoo.inference.linear_gaussian import LinearGaussian, smoothed_means
from lvmzoo.inference.messages import ablated, ablation, messages, origins, owed
from lvmzoo.inference.riccati import stationary_covariance
from lvmzoo.inference.sampling import draw_trials
from tests.claims.influence_world import batch_of, planted, structure
from tests.inference.dense import Dense

LENGTHS = [12, 9, 12, 1, 7, 12]


@pytest.fixture(params=[1, 3], ids=lambda lag: f"lag{lag}")
def smoothed(request: pytest.FixtureRequest) -> tuple[object, ...]:
    """Structure, model, smoothed state of ragged trials, and which bins are valid."""
    regions = structure("ABC", 2, request.param)
    model = planted(regions, 4, [("A", "B", request.param), ("B", "C", 1)], size=0.5)
    _, activity = draw_trials(model, len(LENGTHS), 12, torch.Generator().manual_seed(0))
    batch = batch_of(activity, "ABC", LENGTHS)
    return regions, model, smoothed_means(model, batch.activity, batch.valid, batch.observed), batch.valid


def test_messages_add_up_to_the_latents(smoothed: tuple) -> None:
    regions, model, state, valid = smoothed
    sent, new = messages(model.dynamics, regions, state, valid)
    for i, rows in enumerate(regions.regions.values()):
        torch.testing.assert_close(sent[i].sum(0) + new[i], state[..., rows], atol=1e-12, rtol=0)
    assert float(sent[0, 1:].abs().max()) == 0.0  # nothing leads to A
    assert float(sent[2, 0].abs().max()) == 0.0
    assert float(sent[1, 0].abs().max()) > 0.1
    assert float(sent[:, :, :, 0].abs().max()) == 0.0
    assert float(sent.transpose(0, 2)[:, 0][~valid[:, None].expand(-1, 3, -1)].abs().max()) == 0.0


def test_origins_add_up_to_the_state(smoothed: tuple) -> None:
    regions, model, state, valid = smoothed
    parts = origins(model.dynamics, regions, state, valid)
    torch.testing.assert_close(parts.sum(0), state, atol=1e-12, rtol=0)
    A, B, C = (parts[:, ..., rows] for rows in regions.regions.values())
    assert float(A[1:].abs().max()) < 1e-12  # nothing of A arose elsewhere
    assert float(B[2].abs().max()) < 1e-12
    assert float(B[0].abs().max()) > 0.1
    assert float(C[0].abs().max()) > 0.01  # A reaches C by way of B, which no message says


def test_shares_add_up_to_one(smoothed: tuple) -> None:
    regions, model, state, valid = smoothed
    parts = origins(model.dynamics, regions, state, valid)
    shares = owed(parts, model.readout[4:8], valid)
    torch.testing.assert_close(shares.sum(0), torch.ones(12, dtype=torch.float64), atol=1e-12, rtol=0)
    alone = owed(parts, model.readout[:4], valid)
    torch.testing.assert_close(alone[0], torch.ones(12, dtype=torch.float64), atol=1e-12, rtol=0)
    single = owed(parts[:, :1], model.readout[:4], valid[:1])
    assert bool(single.isnan().all())  # one trial does not vary


def test_by_hand() -> None:
    """One latent a region: B keeps half of itself and adds twice what A was."""
    regions = structure("AB", 1)
    dynamics = torch.tensor([[0.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    state = torch.tensor([[[1.0, 1.0], [3.0, 4.0], [0.0, 9.0]]], dtype=torch.float64)
    valid = torch.ones(1, 3, dtype=torch.bool)
    sent, new = messages(dynamics, regions, state, valid)
    assert sent[1, 0, 0, :, 0].tolist() == [0.0, 2.0, 6.0]
    assert sent[1, 1, 0, :, 0].tolist() == [0.0, 0.5, 2.0]
    assert new[1, 0, :, 0].tolist() == [1.0, 1.5, 1.0]
    parts = origins(dynamics, regions, state, valid)
    assert parts[0, 0, :, 1].tolist() == [0.0, 2.0, 7.0]  # 2, half of which is left, and 6
    assert parts[1, 0, :, 1].tolist() == [1.0, 2.0, 2.0]


def test_contributions_do_not_depend_on_coordinates() -> None:
    regions = structure("AB", 2)
    model = planted(regions, 3, [("A", "B", 1)], size=0.5)
    draw = np.random.default_rng(0)
    T = torch.block_diag(*(torch.from_numpy(draw.normal(size=(2, 2))) for _ in "AB"))
    back = torch.linalg.inv(T)
    other = model._replace(dynamics=T @ model.dynamics @ back, dynamics_noise=T @ model.dynamics_noise @ T.T)
    found = contributions(model, regions, "AB")
    torch.testing.assert_close(found, contributions(other, regions, "AB"), rtol=1e-9, atol=1e-12)
    assert float(found[0, 1]) == 0.0
    assert abs(float((other.dynamics[2:, :2]).norm() / model.dynamics[2:, :2].norm()) - 1) > 0.1  # as the blocks do
    # Both regions in coordinates in which they are white, by another way: roots by eigenvectors.
    covariance = stationary_covariance(model.dynamics, model.dynamics_noise).numpy()

    def power(rows: slice, exponent: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(covariance[rows, rows])
        return (vectors * values**exponent) @ vectors.T

    A, B = slice(0, 2), slice(2, 4)
    block = power(B, -0.5) @ model.dynamics[B, A].numpy() @ power(A, 0.5)
    assert float(found[1, 0]) == pytest.approx((block**2).sum() / 2)


def test_what_is_lost_without_a_block_is_what_dense_likelihoods_say() -> None:
    regions = structure("AB", 2, 2)
    model = planted(regions, 3, [("A", "B", 2)], size=0.5)
    _, activity = draw_trials(model, 6, 8, torch.Generator().manual_seed(0))
    batch = batch_of(activity, "AB")
    data = batch.activity, batch.valid, batch.observed
    loss = ablation(model, regions, data, slice(3, 6), "A", "B")
    without = ablated(model, regions, "A", "B")
    assert float(regions.block(without.dynamics, "A", "B", 2).abs().max()) == 0.0
    torch.testing.assert_close(without.dynamics[4:], model.dynamics[4:])  # the registers stay

    def likelihood(system: LinearGaussian) -> float:
        dense, seen = Dense(system, 8), np.ones((8, 6), bool)
        return sum(dense.likelihood(trial, seen) for trial in activity.numpy())

    assert loss.log_likelihood() == pytest.approx((likelihood(model) - likelihood(without)) / 48, rel=1e-9)


def test_a_true_block_is_missed_and_a_false_one_is_not() -> None:
    regions = structure("AB", 2)
    model = planted(regions, 10, [("A", "B", 1)], size=0.8)
    _, activity = draw_trials(model, 40, 30, torch.Generator().manual_seed(0))
    batch = batch_of(activity, "AB", [30] * 20 + [15] * 20)
    data = batch.activity, batch.valid, batch.observed
    there = ablation(model, regions, data, slice(10, 20), "A", "B")
    back = ablation(model, regions, data, slice(0, 10), "B", "A")
    assert there.log_likelihood() > 0.1
    assert there.explained()[0] > there.explained()[1] + 0.02
    assert back.log_likelihood() == 0.0
    assert back.explained()[0] == back.explained()[1] > 0.1
