"""What is true of processes with delays: they equal a dense multivariate normal, and gpfa where there is no delay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvmzoo.claims.delayed_claims import fisher_draws
from lvmzoo.inference import gaussian_process
from lvmzoo.inference.delayed_expectations import draw, expectations, log_likelihood, posterior_moments
from lvmzoo.inference.delayed_fit import free_delays
from lvmzoo.inference.delayed_processes import DelayedProcesses
from lvmzoo.inference.delayed_refits import Recordings, refine
from tests.inference import delayed_dense as dense

ENGINES = ("auto", "dense", "spectral")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("units", [(4, 3), (4, 3, 5), (1, 6)])
def test_likelihood_equals_a_dense_normal(units: tuple[int, ...], engine: str) -> None:
    """D4: ragged, with missing bins, units and samples."""
    model = dense.planted(units, engine=engine)
    _, activity = draw(model, 6, 10, 1)
    valid, observed = dense.ragged(model, activity)
    expected = torch.stack([dense.log_likelihood(model, y, o) for y, o in zip(activity, observed, strict=True)])
    dirty = torch.where(observed, activity, torch.nan)
    torch.testing.assert_close(log_likelihood(model, dirty, valid, observed), expected, rtol=1e-9, atol=0)
    sums = expectations(model, dirty, valid, observed)
    torch.testing.assert_close(sums.log_likelihood, expected.sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_derivatives_equal_finite_differences(engine: str) -> None:
    model = dense.planted((4, 3), engine=engine)
    _, activity = draw(model, 6, 10, 1)
    valid, observed = dense.ragged(model, activity)
    slope = expectations(model, activity, valid, observed).slope
    for k, (up, down) in enumerate(zip(*(shaped(model, h) for h in (1e-4, -1e-4)), strict=True)):
        difference = log_likelihood(up, activity, valid, observed) - log_likelihood(down, activity, valid, observed)
        assert float(slope[k]) == pytest.approx(float(difference.sum()) / 2e-4, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_information_is_that_of_the_covariance(engine: str) -> None:
    """1/2 tr(S^-1 dS S^-1 dS), with the derivatives of the dense covariance by finite differences."""
    model = dense.planted((3, 2), engine=engine)
    valid = torch.ones(2, 8, dtype=torch.bool)
    observed = valid[..., None].expand(-1, -1, 5).clone()
    observed[1, 3, 2] = False
    found = expectations(model, torch.zeros(2, 8, 5, dtype=torch.float64), valid, observed).information
    ups, downs = shaped(model, 1e-4), shaped(model, -1e-4)
    changes = [(dense.covariance(a, 8) - dense.covariance(b, 8)) / 2e-4 for a, b in zip(ups, downs, strict=True)]
    expected = torch.zeros_like(found)
    for shown in observed:
        seen = shown.flatten()
        inverse = torch.linalg.inv(dense.covariance(model, 8)[seen][:, seen])
        turned = [inverse @ change[seen][:, seen] for change in changes]
        expected += 0.5 * torch.stack([torch.stack([(a * b.T).sum() for b in turned]) for a in turned])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def shaped(model: DelayedProcesses, h: float) -> list[DelayedProcesses]:
    """Return models with one log timescale, or one delay, changed each."""
    steps = h * torch.eye(len(model.timescales), dtype=torch.float64)
    shifts = h * torch.eye(model.delays.numel(), dtype=torch.float64)
    return [
        *(model._replace(timescales=model.timescales * step.exp()) for step in steps),
        *(model._replace(delays=model.delays + shift.view_as(model.delays)) for shift in shifts),
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_posterior_equals_conditioning(engine: str) -> None:
    model = dense.planted((4, 3), engine=engine)
    _, activity = draw(model, 6, 10, 2)
    valid, observed = dense.ragged(model, activity)
    places = [(0, 0), (1, 0), (1, 2), (0, 2), (0, 1)]
    means, covariances = posterior_moments(model, activity, valid, observed, places)
    for row, bins in ((0, 10), (1, 7), (3, 10)):
        K, cross = dense.joint(model, bins)
        seen = observed[row, :bins].flatten()
        S = dense.covariance(model, bins)[seen][:, seen]
        gain = torch.linalg.solve(S, cross.flatten(0, 2).flatten(1)[:, seen].T).T
        left = (activity[row, :bins] - model.offset).flatten()[seen]
        expected = (gain @ left).view(K.shape[:3])
        prior = K.flatten(0, 2).flatten(1)
        spread = (prior - gain @ cross.flatten(0, 2).flatten(1)[:, seen].T).view(K.shape)
        for i, (m, c) in enumerate(places):
            torch.testing.assert_close(means[row, :bins, i], expected[:, m, c], rtol=1e-7, atol=1e-8)
            for k, (n, d) in enumerate(places):
                own = spread[:, m, c, :, n, d].diagonal()
                torch.testing.assert_close(covariances[row, :bins, i, k], own, rtol=1e-7, atol=1e-8)


def test_one_region_without_delay_is_gpfa() -> None:
    """Processes across regions that only one region sees: the likelihood of Gaussian-process factor analysis."""
    model = dense.planted((6,), across=2, within=1)
    _, activity = draw(model, 6, 12, 3)
    valid, observed = dense.ragged(model._replace(regions=(slice(4, 6),)), activity)
    gpfa = gaussian_process.GaussianProcess(model.timescales, model.readout, model.offset, model.noise)
    expected = gaussian_process.log_likelihood(gpfa, activity, valid, observed)
    torch.testing.assert_close(log_likelihood(model, activity, valid, observed), expected, rtol=1e-9, atol=0)


def test_a_common_shift_of_the_delays_changes_nothing() -> None:
    model = dense.planted((4, 3, 2))
    _, activity = draw(model, 3, 10, 4)
    valid = torch.ones(3, 10, dtype=torch.bool)
    observed = valid[..., None].expand(-1, -1, 9)
    shifted = model._replace(delays=model.delays + torch.tensor([1.7, -2.3], dtype=torch.float64))
    torch.testing.assert_close(
        log_likelihood(shifted, activity, valid, observed), log_likelihood(model, activity, valid, observed)
    )
    slope = expectations(model, activity, valid, observed).slope[-6:].view(3, 2)
    torch.testing.assert_close(slope.sum(0), torch.zeros(2, dtype=torch.float64), atol=1e-8, rtol=0)


def coupled(trials: int = 60, seed: int = 0) -> tuple[DelayedProcesses, Recordings]:
    """Return one process across two regions, one within each, and trials."""
    model = dense.planted((8, 8), 1, 1, seed)._replace(
        timescales=torch.tensor([4.0, 3.0, 5.0], dtype=torch.float64),
        delays=torch.tensor([[0.0], [1.5]], dtype=torch.float64),
    )
    _, activity = draw(model, trials, 25, seed)
    valid = torch.ones(trials, 25, dtype=torch.bool)
    return model, Recordings(activity, valid, valid[..., None].expand(-1, -1, 16))


def test_refits_reach_the_top_and_ties_hold() -> None:
    """No derivative is left, nothing that is tied comes loose, and the likelihood is above that of the truth."""
    truth, data = coupled()
    fit, reached = refine(truth, data, False, 200, 1e-6, 8)
    assert reached > float(log_likelihood(truth, *data).sum())
    assert reached == pytest.approx(float(log_likelihood(fit, *data).sum()), rel=1e-10)
    sums = expectations(fit, *data)
    free = [0, 1, 2, 4]
    step = torch.linalg.solve(sums.information[free][:, free], sums.slope[free])
    assert float(sums.slope[free] @ step) < 1e-2  # nats to gain by one more step
    start = truth._replace(delays=torch.zeros_like(truth.delays))
    tied, lower = refine(start, data, False, 200, 1e-6, 0, free_delays(2, 1)[:, :0])
    assert bool((tied.delays == 0).all())
    assert lower < reached - 10


def test_draws_of_the_information_spread_as_its_inverse() -> None:
    model, data = coupled()
    draws = fisher_draws(model, data, [(0, 1)], torch.Generator().manual_seed(0))
    information = expectations(model, *data).information
    free = [0, 1, 2, 4]
    expected = float(torch.linalg.inv(information[free][:, free])[3, 3].sqrt())
    assert float(draws.delays[:, 1, 0].std()) == pytest.approx(expected, rel=0.1)
    assert float(draws.delays[:, 1, 0].mean()) == pytest.approx(1.5, abs=0.2 * expected)
    assert not bool(draws.delays[:, 0].any())


def test_draws_have_the_covariance_of_the_model() -> None:
    model = dense.planted((2, 2), 1, 1)
    _, activity = draw(model, 20_000, 4, 5)
    flat = (activity - model.offset).flatten(1)
    expected = dense.covariance(model, 4)
    scale = expected.diagonal().sqrt()
    error: Tensor = (flat.T @ flat / len(flat) - expected) / torch.outer(scale, scale)
    assert float(error.abs().max()) < 0.05
