"""What a fitted multi-region linear dynamical system can do, and which settings it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from lvmzoo.errors import UserError
from lvmzoo.inference.linear_gaussian import log_likelihood
from lvmzoo.models.multi_region.multi_region_lds import MultiRegionLDS, MultiRegionLDSConfig
from tests.models.multi_region_lds_world import (
    batch,
    build,
    draw,
    fit,
    influence,
    layout,
    world,
)

CHAIN = (("A", "B"), ("B", "C"))


def test_predicts_a_region_from_the_others_alone() -> None:
    units = {"A": 10, "B": 8, "C": 6}
    planted = world(0, units, CHAIN, strength=0.6)
    train, test = (batch(draw(planted, seed, 60, 60), layout(units)) for seed in (1, 2))
    model = build(train.layout)
    fit(model, [train], 25)
    assert model.routes == {"A": ("B", "C"), "B": ("A", "C"), "C": ("A", "B")}
    for name in units:
        region = train.layout.region(name)
        expected = model.predict_target(test, name)
        scrambled = test.activity.clone()
        scrambled[..., region] = 1e3
        torch.testing.assert_close(model.predict_target(replace(test, activity=scrambled), name), expected)
        truth = test.activity[..., region]
        off = float((truth - expected).square().sum() / (truth - truth.mean((0, 1))).square().sum())
        assert off < 0.95, name


def test_residuals_leave_out_what_trials_of_a_condition_share() -> None:
    """A course that both regions share in every trial of a condition is no communication, and is in the rates."""
    units = {"A": 10, "B": 10}
    planted = world(2, units)
    random = np.random.default_rng(0)
    condition = np.arange(80) % 2
    course = 1.5 * random.normal(size=(2, 60, 2)).cumsum(1)[condition] @ random.normal(size=(2, 20)) / 3
    of = layout(units, conditions=("left", "right"), longest_bins=60)
    data = replace(batch(draw(planted, 1, 80, 60) + course, of), condition=torch.from_numpy(condition))
    plain, removed = (build(of, residuals=wanted) for wanted in (False, True))
    for model in (plain, removed):
        fit(model, [data], 25)
    found = [float(influence(model.parameters_of("s"), of).max()) for model in (plain, removed)]
    assert found[1] < 0.01 < found[0]
    expected = removed.rates(data)
    error = float((expected.mean(0) - data.activity.mean(0)).abs().mean())
    assert error < 0.5 * float(data.activity.mean(0).abs().mean())


@pytest.mark.parametrize("emissions", ["gaussian", "poisson"])
def test_messages_take_latents_apart(emissions: str) -> None:
    """What regions send and what is new add up to the latents; only who may drive a region sends it something."""
    units = {"A": 6, "B": 5, "C": 4}
    counts = emissions == "poisson"
    of = layout(units, counts)
    data = batch(draw(world(0, units, CHAIN, lag=2), 1, 12, 20, counts), of, [20, 14, 9] * 4)
    model = build(of, emissions=emissions, max_lag=2, connections=["A->B", "B->C"])
    fit(model, [data], 3)
    sent, new = model.messages(data)
    latents = model.latents(data)
    for i, rows in enumerate(model.regions.values()):
        torch.testing.assert_close(sent[i].sum(0) + new[i], latents[..., rows], rtol=0, atol=1e-10)
    loud = sent.abs().amax((2, 3, 4)) > 0
    assert loud.tolist() == [[True, False, False], [True, True, False], [False, True, True]]
    now = sent[1, 0][0, 5] - model.blocks(1)["A", "B"] @ latents[0, 4, :2]
    torch.testing.assert_close(now, model.blocks(2)["A", "B"] @ latents[0, 3, :2], rtol=0, atol=1e-10)


def test_samples_are_of_the_model() -> None:
    """Covariances of drawn latents at every lag are those of the planted lagged system."""
    units = {"A": 4, "B": 3}
    planted = world(0, units, (("A", "B"),), lag=3)
    model = build(layout(units), max_lag=3)
    true = planted.truth
    for name in ("dynamics", "dynamics_noise", "readout", "noise"):
        getattr(model, name).copy_(getattr(true, name))
    latents, activity = model.sample("s", 1000, 60, seed=1)
    assert latents.shape == (1000, 60, 4)
    late = activity[:, 30:].numpy()
    P = solve_discrete_lyapunov(true.dynamics.numpy(), true.dynamics_noise.numpy())
    C = true.readout.numpy()
    for lag in (0, 3, 6):
        ours = np.einsum("tbi,tbj->ij", late[:, lag:], late[:, : 30 - lag]) / late[:, lag:, 0].size
        expected = C @ np.linalg.matrix_power(true.dynamics.numpy(), lag) @ P @ C.T + np.eye(7) * (lag == 0)
        np.testing.assert_allclose(ours, expected, atol=0.08)
    data = batch(activity[:2, :20].numpy(), layout(units))
    drawn = model.posterior_sample(data, 1000, 0)
    mean, covariance = model.posterior(data)
    torch.testing.assert_close(drawn.mean(0)[0, 5], mean[0, 5], rtol=0, atol=0.15)
    torch.testing.assert_close(drawn[:, 0, 5].T.cov(), covariance[0, 5], rtol=0, atol=0.1)


def test_advance_counts_all_lags_of_latents_that_stay() -> None:
    model = build(layout({"A": 4, "B": 3}), max_lag=3)
    random = torch.Generator().manual_seed(0)
    state = torch.randn(model.structure.size, generator=random, dtype=torch.float64)
    model.dynamics.copy_(torch.where(model.structure.allowed, torch.outer(state, state), model.structure.shift))
    latents = torch.randn(1, 4, generator=random, dtype=torch.float64)
    still = torch.cat([latents[0]] * 3)  # of all regions, now and one and two bins before
    torch.testing.assert_close(model.advance(latents)[0], (model.dynamics @ still)[:4])


def test_known_inputs_are_no_influence() -> None:
    """What an input does to both regions is not taken for communication."""
    units = {"A": 10, "B": 10}
    planted = world(0, units)
    random = np.random.default_rng(3)
    wheel = random.normal(size=(60, 81, 1))
    response = wheel[:, 1:] @ random.normal(size=(1, 20)) + np.where(np.arange(20) < 10, 0, wheel[:, :-1] * 2)
    of = layout(units, inputs={"wheel": 1})
    plain = batch(draw(planted, 4, 60, 80) + response, of)
    data = replace(plain, inputs={"wheel": torch.from_numpy(wheel[:, 1:]).float()})
    told, ignorant = build(of), build(layout(units))
    fit(told, [data], 25)
    fit(ignorant, [replace(plain, layout=layout(units))], 25)
    assert float(influence(told.parameters_of("s"), of).max()) < 0.01
    assert float(influence(ignorant.parameters_of("s"), of).max()) > 0.1
    assert torch.equal(told.dynamics[~told.structure.allowed], told.structure.shift[~told.structure.allowed])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"latents": 0}, "at least 1"),
        ({"max_lag": 0}, "at least 1"),
        ({"rank": -1}, "at least 0"),
        ({"emissions": "gausian"}, "gaussian"),
        ({"residuals": True, "emissions": "poisson"}, "no counts"),
        ({"connections": ["A>B"]}, "arrow"),
        ({"connections": ["A->Z"]}, "Z"),
        ({"connections": ["A->A"]}, "drives itself"),
    ],
)
def test_wrong_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(layout({"A": 4, "B": 3}, counts=True), **config)


def test_lags_beyond_every_trial_are_refused() -> None:
    with pytest.raises(UserError, match="longest trial has 5 bins"):
        build(layout({"A": 4, "B": 3}, longest_bins=5), max_lag=5)
    two = [layout({"A": 4, "B": 3}, session=name, longest_bins=bins) for name, bins in (("short", 5), ("long", 6))]
    assert build(two, max_lag=5).structure.max_lag == 5
    assert build(layout({"A": 4, "B": 3}, longest_bins=1)).structure.max_lag == 1


def test_sessions_must_have_two_regions_and_the_same() -> None:
    with pytest.raises(UserError, match=r"one region.*\n.*needs two regions with units that are not silent"):
        build(layout({"A": 4}))
    with pytest.raises(UserError, match="has the regions A, C"):
        build([layout({"A": 4, "B": 3}), layout({"A": 4, "C": 3}, session="t")])


def test_likelihood_is_that_of_the_parameters() -> None:
    """What the model scores is the likelihood of ``parameters_of``, by which others read the model."""
    units = {"A": 5, "B": 4}
    data = batch(draw(world(0, units), 1, 5, 20), layout(units))
    model = MultiRegionLDS(MultiRegionLDSConfig(latents=2, max_lag=2), [data.layout])
    fit(model, [data], 3)
    expected = log_likelihood(model.parameters_of("s"), data.activity, data.valid, data.observed)
    assert torch.equal(model.log_likelihood(data), expected)
