"""The posterior of latents given counts: against direct search, quadrature, finite differences and dense normals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from lvmzoo.inference.count_expectations import CountMoments, count_bounds, count_expectations, count_posterior
from lvmzoo.inference.count_filter import count_draws, count_filter, count_observe, count_trials, expected_counts
from lvmzoo.inference.count_maximization import maximize_counts, solve_units
from lvmzoo.inference.count_smoother import Chain, Sites, smooth
from lvmzoo.inference.linear_gaussian import LinearGaussian
from lvmzoo.inference.maximization import Constraints
from lvmzoo.inference.online import first_prediction
from tests.inference.dense import Dense, draw_activity, random_model
from tests.inference.dense_counts import dense_optimum, log_probability

KINDS = [True, False]


def system(seed: int = 0, latents: int = 2, units: int = 5, channels: int = 0, scale: float = 0.7) -> LinearGaussian:
    """Return parameters without special structure, at moderate rates; the noise is an overdispersion."""
    model = random_model(latents, units, seed, channels)
    return model._replace(readout=scale * model.readout, offset=0.5 * model.offset, noise=0.5 * model.noise)


def draw(model: LinearGaussian, trials: int, bins: int, seed: int = 0, poisson: bool = True) -> Tensor:
    return count_trials(model, trials, bins, seed, poisson=poisson)[1]


def everything(counts: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones(counts.shape[:2], dtype=torch.bool), torch.ones(counts.shape, dtype=torch.bool)


def test_smoother_equals_a_dense_normal() -> None:
    model = random_model(3, 4)
    y = draw_activity(model, 2, 7)
    weights = model.readout / model.noise[:, None]
    J = (model.readout.T @ weights).expand(7, 2, 3, 3).clone()
    h = ((y - model.offset) @ weights).transpose(0, 1).contiguous()
    J[2], h[2] = 0.0, 0.0  # a bin without evidence
    chain = Chain(
        model.dynamics,
        model.dynamics_noise,
        model.initial_mean.expand(2, -1),
        model.initial_covariance.expand(2, -1, -1),
    )
    posterior = smooth(chain, Sites(J, h))
    observed = np.ones((7, 4), bool)
    observed[2] = False
    dense = Dense(model, 7)
    for trial in range(2):
        mean, covariance = dense.posterior(y[trial].numpy(), observed)
        np.testing.assert_allclose(posterior.mean[:, trial], mean, atol=1e-11)
        for t in range(7):
            np.testing.assert_allclose(posterior.covariance[t, trial], covariance[t, :, t], atol=1e-11)
        for t in range(6):
            cross = posterior.gain[t, trial] @ posterior.covariance[t + 1, trial]
            np.testing.assert_allclose(cross, covariance[t, :, t + 1], atol=1e-11)
        residual = (y[trial] - model.offset)[torch.from_numpy(observed[:, 0])]
        constant = 0.5 * float((residual.square() / model.noise + torch.log(2 * np.pi * model.noise)).sum())
        likelihood = dense.likelihood(y[trial].numpy(), observed)
        assert float(posterior.log_normalizer[trial]) == pytest.approx(likelihood + constant, rel=1e-11)


@pytest.mark.parametrize("poisson", KINDS)
def test_posterior_is_the_optimum_of_a_direct_search(poisson: bool) -> None:
    model = system(1, channels=2)
    random = np.random.default_rng(0)
    counts = draw(model, 1, 4, poisson=poisson)
    valid, observed = everything(counts)
    observed &= torch.from_numpy(random.random(observed.shape) < 0.7)
    inputs = torch.from_numpy(random.normal(size=(1, 4, 2)))
    counts[~observed] = torch.nan
    value, mean, covariance = dense_optimum(model, counts[0].numpy(), observed[0].numpy(), poisson, inputs[0].numpy())
    bound = count_bounds(model, counts, valid, observed, inputs, poisson=poisson)
    assert float(bound) == pytest.approx(value, abs=1e-7)
    found = count_posterior(model, counts, valid, observed, inputs, poisson=poisson)
    np.testing.assert_allclose(found[0][0], mean, atol=2e-5)
    for t in range(4):
        np.testing.assert_allclose(found[1][0, t], covariance.reshape(4, 2, 4, 2)[t, :, t], atol=2e-5)


@pytest.mark.parametrize("poisson", KINDS)
@pytest.mark.parametrize(("loading", "offset"), [(0.7, -3.0), (1.0, 0.0), (0.5, 3.0)])
def test_bound_is_below_the_likelihood_and_close(poisson: bool, loading: float, offset: float) -> None:
    """Two bins of one latent: the likelihood by quadrature."""

    def value(x: float) -> Tensor:
        return torch.tensor([[x]], dtype=torch.float64)

    readout = loading * torch.tensor([[1.0], [-0.6], [0.8]], dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    model = LinearGaussian(value(0.8), value(0.36), value(0.0)[0], value(1.0), readout, offset * one, 0.4 * one)
    counts = draw(model, 6, 2, seed=3, poisson=poisson)
    bounds = count_bounds(model, counts, *everything(counts), poisson=poisson)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    x1 = nodes[:, None]
    x2 = 0.8 * x1 + 0.6 * nodes[None, :]
    a = None if poisson else model.noise.numpy()
    for trial, bound in zip(counts.numpy(), bounds.tolist(), strict=True):
        logs = [
            log_probability(trial[t], x[..., None] * readout[:, 0].numpy() + offset, a).sum(-1)
            for t, x in enumerate((np.broadcast_to(x1, x2.shape), x2))
        ]
        exact = np.log((np.exp(logs[0] + logs[1]) * weights[:, None] * weights).sum())
        assert bound <= exact + 1e-9
        assert bound >= exact - 0.02


def test_a_count_of_100_under_a_standard_normal_prior() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    model = LinearGaussian(one, one, 0 * one[0], one, one, 0 * one[0], one[0])
    counts = torch.full((1, 1, 1), 100.0, dtype=torch.float64)
    mean, covariance = count_posterior(model, counts, *everything(counts), poisson=True)
    m, v = float(mean), float(covariance)
    rate = np.exp(m + v / 2)
    assert 100 - rate - m == pytest.approx(0.0, abs=1e-4)
    assert 1 / v == pytest.approx(1 + rate, rel=1e-6)


@pytest.mark.parametrize("poisson", KINDS)
@pytest.mark.parametrize(("seed", "scale", "shift"), [(0, 3.0, 0.0), (1, 2.0, 5.0), (2, 0.0, -3.0), (3, 1.0, 9.0)])
def test_extreme_parameters_give_a_posterior_at_rest(seed: int, scale: float, shift: float, poisson: bool) -> None:
    """At the optimum the mean solves K^-1 (m - mu) = C'(y - expected draws); with counts up to 1e5."""
    model = system(seed, scale=scale)
    counts = draw(model._replace(offset=model.offset + shift), 3, 5, seed, poisson).clamp(max=1e5)
    model = model._replace(offset=model.offset + shift)
    mean, covariance = count_posterior(model, counts, *everything(counts), poisson=poisson)
    assert bool(torch.isfinite(mean).all())
    if not poisson:
        return
    rate = expected_counts(model, mean, covariance)
    pull = torch.einsum("btn,nd->btd", counts - rate, model.readout)
    dense = Dense(model, 5)
    for trial in range(3):
        expected = dense.prior_mean + dense.prior @ pull[trial].numpy().ravel()
        np.testing.assert_allclose(mean[trial].numpy().ravel(), expected, atol=2e-3 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("poisson", KINDS)
def test_moments_are_the_gradient_of_the_bound(poisson: bool) -> None:
    """With the posterior at its optimum, only the parameters themselves move the bound."""
    model = system(2, channels=1)
    counts = draw(model, 4, 6, 1, poisson)
    valid, observed = everything(counts)
    valid[1, 4:] = False
    observed[2, :, 1] = False
    inputs = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 6, 1)))
    data = (counts, valid, observed, inputs)
    moments = count_expectations(model, *data, poisson=poisson)
    assert float(moments.log_likelihood) == pytest.approx(
        float(count_bounds(model, *data, poisson=poisson).sum()), rel=1e-12
    )
    assert model.drive is not None
    drift = torch.cat([model.dynamics, model.drive], 1)
    expected = {
        "readout": moments.gradient[:, :2],
        "feedthrough": moments.gradient[:, 2:3],
        "offset": moments.gradient[:, 3],
        "dynamics": torch.linalg.solve(model.dynamics_noise, moments.cross - drift @ moments.before)[:, :2],
        "drive": torch.linalg.solve(model.dynamics_noise, moments.cross - drift @ moments.before)[:, 2:],
        "initial_mean": torch.linalg.solve(
            model.initial_covariance, moments.initial_sum - moments.trials * model.initial_mean
        ),
    }
    for name, gradient in expected.items():
        value = getattr(model, name)
        for index in itertools.islice(np.ndindex(*value.shape), 2):
            ends = []
            for step in (1e-4, -1e-4):
                moved = value.clone()
                moved[index] += step
                bound = count_bounds(model._replace(**{name: moved}), *data, poisson=poisson)
                ends.append(float(bound.sum()))
            difference = (ends[0] - ends[1]) / 2e-4
            assert float(gradient[index]) == pytest.approx(difference, rel=1e-4, abs=1e-4), (name, index)


@pytest.mark.parametrize("poisson", KINDS)
def test_hidden_units_bins_and_garbage_equal_leaving_them_out(poisson: bool) -> None:
    model = system(3)
    counts = draw(model, 5, 8, 2, poisson)
    valid, observed = everything(counts)
    kept = [0, 2, 3]
    fewer = model._replace(readout=model.readout[kept], offset=model.offset[kept], noise=model.noise[kept])
    observed[..., [1, 4]] = False
    hidden = counts.clone()
    hidden[..., [1, 4]] = torch.nan
    there = count_bounds(fewer, counts[..., kept], valid, observed[..., kept], poisson=poisson)
    torch.testing.assert_close(count_bounds(model, hidden, valid, observed, poisson=poisson), there, rtol=1e-10, atol=0)
    valid[0, 5:] = False
    hidden[0, 5:] = 1e6
    short = count_posterior(
        fewer, counts[:1, :5][..., kept], valid[:1, :5], observed[:1, :5][..., kept], poisson=poisson
    )
    long = count_posterior(model, hidden, valid, observed, poisson=poisson)
    for ours, theirs in zip(long, short, strict=True):
        torch.testing.assert_close(ours[:1, :5], theirs, rtol=1e-9, atol=1e-9)
        assert float(ours[0, 5:].abs().max()) == 0.0


@pytest.mark.parametrize("poisson", KINDS)
def test_steps_of_the_units_never_lower_what_they_raise(poisson: bool) -> None:
    """From parameters far off: the expected log-likelihood under the posterior of the old ones, by its definition."""
    for seed in range(4):
        true = system(seed, units=8)
        counts = draw(true, 10, 20, seed, poisson).clamp(max=1e5)
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(8, 2, generator=random, dtype=torch.float64)
        model = true._replace(
            readout=true.readout + (seed % 3) * noise, offset=true.offset + 2.0 * noise[:, 0], noise=2 * true.noise
        )
        valid, observed = everything(counts)
        moments = count_expectations(model, counts, valid, observed, poisson=poisson)
        mean, covariance = count_posterior(model, counts, valid, observed, poisson=poisson)
        units = solve_units(model, moments, poisson)
        new = model._replace(readout=units.readout, offset=units.offset, noise=units.overdispersion)
        values = [unit_fit(m, counts, mean, covariance, poisson) for m in (model, new)]
        assert bool((values[1] >= values[0] - 1e-9 * values[0].abs()).all())
        assert float((values[1] - values[0]).sum()) > 1e-3


def unit_fit(model: LinearGaussian, counts: Tensor, mean: Tensor, covariance: Tensor, poisson: bool) -> Tensor:
    """Return the expected log-likelihood of each unit, by quadrature over its log rate."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    eta = mean @ model.readout.T + model.offset
    spread = torch.einsum("ni,btij,nj->btn", model.readout, covariance, model.readout).sqrt()
    points = (eta[..., None] + spread[..., None] * torch.from_numpy(nodes)).numpy()
    a = None if poisson else model.noise.numpy()[:, None]
    values = log_probability(counts.numpy()[..., None], points, a) @ (weights / weights.sum())
    return torch.from_numpy(values.sum((0, 1)))


@pytest.mark.parametrize("poisson", KINDS)
def test_bound_never_falls_from_a_bad_start(poisson: bool) -> None:
    true = system(7, units=6)
    counts = draw(true, 12, 15, 7, poisson)
    model = system(14, units=6)
    values = []
    for _ in range(25):
        moments = count_expectations(model, counts, *everything(counts), poisson=poisson)
        values.append(float(moments.log_likelihood))
        model = maximize_counts(model, moments, Constraints(), poisson=poisson)
    assert (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()
    assert values[-1] > float(count_bounds(true, counts, *everything(counts), poisson=poisson).sum())


def test_little_overdispersion_is_poisson() -> None:
    model = system(5)._replace(noise=torch.full((5,), 1e-7, dtype=torch.float64))
    counts = draw(model, 4, 6)
    poisson = count_posterior(model, counts, *everything(counts), poisson=True)
    other = count_posterior(model, counts, *everything(counts), poisson=False)
    for a, b in zip(poisson, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("poisson", KINDS)
def test_moments_add_up_and_are_pure(poisson: bool) -> None:
    model = system(6)
    counts = draw(model, 9, 10, poisson=poisson)
    valid, observed = everything(counts)
    valid[3, 6:] = False
    observed[5, 2:4] = False

    def moments(rows: list[int]) -> CountMoments:
        return count_expectations(model, counts[rows], valid[rows], observed[rows], poisson=poisson)

    whole, again = moments(list(range(9))), moments(list(range(9)))
    parts = [moments([4, 0]), moments([7]), moments([8, 3, 5, 1]), moments([2, 6])]
    for name, leaf, repeated, *pieces in zip(CountMoments._fields, whole, again, *parts, strict=True):
        assert torch.equal(leaf, repeated), name
        scale = float(leaf.abs().max()) or 1.0
        assert float((sum(pieces) - leaf).abs().max()) <= 1e-10 * scale, name


@pytest.mark.parametrize("poisson", KINDS)
def test_filter_is_causal_steps_bin_by_bin_and_is_near_the_exact_one(poisson: bool) -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    readout = torch.tensor([[1.0], [-0.7], [0.5]], dtype=torch.float64)
    units = torch.ones(3, dtype=torch.float64)
    model = LinearGaussian(0.9 * one, 0.19 * one, 0 * one[0], one, readout, 0.2 * units, 0.3 * units)
    counts = draw(model, 4, 6, 5, poisson)
    valid, observed = everything(counts)
    mean, covariance = count_filter(model, counts, valid, observed, poisson=poisson)
    early, _ = count_filter(model, counts[:, :4], valid[:, :4], observed[:, :4], poisson=poisson)
    torch.testing.assert_close(mean[:, :4], early, rtol=0, atol=1e-12)
    coming = first_prediction(model, 4)
    for t in range(6):
        coming, stepped = count_observe(model, coming, counts[:, t], observed[:, t], poisson=poisson)
        torch.testing.assert_close(stepped, mean[:, t], rtol=0, atol=1e-12)
    grid = np.linspace(-7, 7, 1401)
    move = np.exp(-0.5 * (grid[:, None] - 0.9 * grid) ** 2 / 0.19)
    a = None if poisson else model.noise.numpy()
    for trial in range(4):
        density = np.exp(-0.5 * grid**2)
        for t in range(6):
            eta = grid[:, None] * readout[:, 0].numpy() + 0.2
            density = density * np.exp(log_probability(counts[trial, t].numpy(), eta, a).sum(1))
            density /= density.sum()
            exact = density @ grid
            assert float(mean[trial, t, 0]) == pytest.approx(exact, abs=0.02)
            assert float(covariance[trial, t, 0, 0]) == pytest.approx(density @ (grid - exact) ** 2, rel=0.06)
            density = move @ density


def test_draws_have_the_moments_of_the_posterior() -> None:
    model = system(7)
    counts = draw(model, 2, 5)
    valid, observed = everything(counts)
    valid[1, 3:] = False
    normal = torch.randn(20000, 2, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = count_draws(model, counts, valid, observed, None, normal, poisson=True)
    mean, covariance = count_posterior(model, counts, valid, observed, poisson=True)
    assert float((drawn.mean(0) - mean).abs().max()) < 0.03
    for trial, t in ((0, 0), (0, 4), (1, 2)):
        np.testing.assert_allclose(np.cov(drawn[:, trial, t].T.numpy()), covariance[trial, t], atol=0.03)
    assert float(drawn[:, 1, 3:].abs().max()) == 0.0


def test_expected_counts_and_drawn_counts_agree() -> None:
    model = system(8)
    for poisson in KINDS:
        latents, counts = count_trials(model, 20000, 1, 3, poisson=poisson)
        mean, covariance = model.initial_mean.expand(1, 1, -1), model.initial_covariance[None, None]
        expected = expected_counts(model, mean, covariance)[0, 0]
        np.testing.assert_allclose(counts.mean((0, 1)), expected, rtol=0.06)
        rate = expected_counts(model, latents, None)
        spread = (counts - rate).square().mean((0, 1)) - rate.mean((0, 1))
        excess = 0.0 if poisson else model.noise * rate.square().mean((0, 1))
        error = (spread - excess) / (rate + rate.square()).mean((0, 1))
        assert float(error.abs().max()) < 0.1
