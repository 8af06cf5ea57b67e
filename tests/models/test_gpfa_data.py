"""Gaussian-process factor analysis on any data: ragged, missing, degenerate, long, and in several sessions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from lvmzoo.errors import UserError
from lvmzoo.models.single_region.gpfa import GPFA, GPFAConfig
from tests.models.gpfa_world import batch, build, fit, rows, simulate, total


@pytest.mark.parametrize("kernel", ["squared_exponential", "matern32"])
def test_ragged_trials(kernel: str) -> None:
    """G6: one batch of trials of any length is the sum of the trials alone."""
    lengths = [1, 2, 17, 50, 17, 130]
    whole = simulate([3.0, 9.0], len(lengths), 130, 8)[2]
    data = batch([trial[:length] for trial, length in zip(whole, lengths, strict=True)])
    model = build(data, 2, kernel=kernel)
    together, apart = model.statistics(data), total(model, [rows(data, slice(i, i + 1)) for i in range(len(lengths))])
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert (np.diff(fit(model, [data], 25)) >= 0).all()
    for i, length in enumerate(lengths):
        alone = batch([whole[i, :length]])
        torch.testing.assert_close(model.latents(alone)[0], model.latents(data)[i, :length], rtol=1e-9, atol=1e-9)


def adversarial() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(5)
    plain = draw.normal(size=(8, 20, 5)).cumsum(1)
    return {
        "a unit twice": np.concatenate([plain, plain[..., :1]], -1),
        "a silent unit": np.concatenate([plain, np.zeros((8, 20, 1))], -1),
        "fewer units than latents": plain[..., :2],
        "trials of one bin": plain[:, :1],
        "one trial": plain[:1],
        "one trial of one bin": plain[:1, :1],
        "constant": np.full((8, 20, 5), 3.0),
        "tiny": 1e-6 * plain,
        "huge": 1e6 * plain,
        "large counts": draw.poisson(1e5, (8, 20, 5)).astype(float),
        "float32": plain.astype(np.float32),
    }


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_input_stays_finite(name: str) -> None:
    """G7."""
    data = batch(adversarial()[name])
    model = build(data, 3)
    objective = fit(model, [data], 18)
    assert (np.diff(objective) >= -1e-9 * np.abs(objective[1:])).all()
    model.finish()
    for value in (*model.posterior(data), model.rates(data), model.log_likelihood(data), model.leave_unit_out(data)):
        assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(model.variance_explained("a")).all())


def test_private_noise_has_a_floor() -> None:
    """A unit that a latent explains perfectly keeps a hundredth of its variance, in EM and in the search."""
    draw = np.random.default_rng(0)
    activity = draw.normal(size=(10, 30, 6))
    activity[..., 0] = np.sin(np.arange(30) / 5 + draw.uniform(0, 6, (10, 1)))
    data = batch(activity)
    model = build(data, 2)
    for passes in (8, 20):
        fit(model, [data], passes)
        least = 0.01 * activity.var((0, 1))
        assert bool((model.noise.numpy() >= least * (1 - 1e-9)).all())
        assert float(model.noise[0]) == pytest.approx(least[0], rel=1e-6)


def test_samples_that_are_missing_are_not_looked_at() -> None:
    """Parameters found with a tenth of the samples missing are near those found with all of them."""
    _, _, activity = simulate([4.0, 15.0], 30, 40, 20)
    whole = batch(activity)
    keep = torch.from_numpy(np.random.default_rng(0).random(activity.shape) > 0.1)
    holed = dataclasses.replace(
        whole, activity=torch.where(keep, whole.activity, torch.nan), observed=whole.observed & keep
    )
    models = [build(data, 2) for data in (whole, holed)]
    for model, data in zip(models, (whole, holed), strict=True):
        fit(model, [data], 30)
        model.finish()
    one, other = (np.sort(model.timescales.numpy()) for model in models)
    np.testing.assert_allclose(one, other, rtol=0.1)
    found, filled = models[0].rates(whole), models[1].rates(holed)
    error = (found - filled)[~keep].square().mean() / found[~keep].var()
    assert float(error) < 0.05


def test_matern_latents_of_a_long_trial() -> None:
    """A recording without trials: the timescales of processes that are rough, in time that grows with the bins only."""
    draw, bins, true = np.random.default_rng(0), 6000, np.array([4.0, 30.0])
    latents = np.zeros((bins, 2))
    for t in range(1, bins):
        latents[t] = np.exp(-1 / true) * latents[t - 1] + np.sqrt(1 - np.exp(-2 / true)) * draw.normal(size=2)
    activity = latents @ draw.normal(size=(2, 20)) + draw.normal(size=(bins, 20))
    data = batch([activity])
    model = build(data, 2, kernel="matern12")
    objective = fit(model, [data], 25)
    assert (np.diff(objective) >= 0).all()
    model.finish()
    np.testing.assert_allclose(np.sort(model.timescales.numpy()), true, rtol=0.2)


def test_too_long_for_the_squared_exponential() -> None:
    data = batch([np.random.default_rng(0).normal(size=(40_000, 3))])
    model = build(data, 8)
    for ask in (lambda: model.statistics(data), lambda: model.sample("a", 1, 40_000, seed=0)):
        with pytest.raises(UserError, match=r"matern52"):
            ask()
    rough = build(data.bins(0, 200), 3, kernel="matern52")
    assert rough.sample("a", 1, 40_000, seed=0)[1].shape == (1, 40_000, 3)


def test_sessions_share_timescales_and_have_their_own_units() -> None:
    activity = simulate([4.0, 14.0], 40, 30, 25)[2]
    parts = [batch(activity[:20, :, :15], "a"), batch(activity[20:, :, 10:], "b")]
    model = GPFA(GPFAConfig(latents=2), [part.layout for part in parts])
    model.prepare(parts)
    objective = fit(model, parts, 45)
    assert (np.diff(objective) >= 0).all()
    model.finish()
    np.testing.assert_allclose(np.sort(model.timescales.numpy()), [4.0, 14.0], rtol=0.12)
    assert model.rates(parts[1]).shape == (20, 30, 15)
    alone = GPFA(GPFAConfig(latents=2), [parts[1].layout])
    for name in ("readout", "offset", "noise"):
        getattr(alone, name).copy_(getattr(model, name)[15:])
    alone.timescales.copy_(model.timescales)
    torch.testing.assert_close(alone.log_likelihood(parts[1]), model.log_likelihood(parts[1]))
    with pytest.raises(UserError, match="no readout for session 'c'"):
        model.latents(batch(activity[:2], "c"))


def test_units_and_sessions_may_differ_in_scale() -> None:
    """Continuous activity in other units of measure gives the same timescales, and the same of everything else."""
    activity = simulate([4.0, 14.0], 20, 30, 12)[2]

    def fitted(of_unit: float, of_session: float) -> tuple[Tensor, Tensor]:
        scale = np.ones(12)
        scale[0] = of_unit
        parts = [batch(activity[:10] * scale, "a"), batch(of_session * activity[10:], "b")]
        model = GPFA(GPFAConfig(latents=2), [part.layout for part in parts])
        model.prepare(parts)
        fit(model, parts, 18)
        model.finish()
        return model.timescales.sort()[0], model.rates(parts[0])[..., 1:]

    plain, other = fitted(1.0, 1.0), fitted(1e5, 1e6)
    for one, two in zip(plain, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


def test_a_unit_that_was_never_observed_tells_nothing_later() -> None:
    whole = batch(simulate([4.0, 14.0], 10, 20, 8)[2])
    observed = whole.observed.clone()
    observed[..., 3] = False
    data = dataclasses.replace(whole, observed=observed)
    model = build(data, 2)
    fit(model, [data], 18)
    model.finish()
    torch.testing.assert_close(model.latents(whole), model.latents(data))
    lost = (model.log_likelihood(data) - model.log_likelihood(whole)) / whole.n_bins
    assert float(lost.max()) < 1000.0  # nats per bin, not millions


def test_units_have_no_order() -> None:
    activity = simulate([4.0, 14.0], 10, 20, 8)[2]
    turned = np.random.default_rng(0).permutation(8)
    data, other = batch(activity), batch(activity[..., turned])
    models = [build(data, 2), build(other, 2)]
    for model, part in zip(models, (data, other), strict=True):
        fit(model, [part], 18)
        model.finish()
    torch.testing.assert_close(models[0].latents(data), models[1].latents(other), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(models[0].rates(data)[..., turned], models[1].rates(other), rtol=1e-7, atol=1e-7)


def test_square_roots_are_of_counts_alone() -> None:
    """A session of counts beside a continuous one: each is modeled in its own way."""
    counts = batch(np.random.default_rng(0).poisson(2.0, (4, 10, 3)), "a", counts=True)
    signal = batch(np.random.default_rng(1).normal(size=(4, 10, 3)), "b")
    model = GPFA(GPFAConfig(latents=1), [counts.layout, signal.layout])
    model.prepare([counts, signal])
    torch.testing.assert_close(model.modeled(counts), counts.activity.double().sqrt())
    torch.testing.assert_close(model.modeled(signal), signal.activity)
    assert bool(torch.isfinite(torch.tensor(fit(model, [counts, signal], 3))).all())
    assert bool(torch.isfinite(model.rates(signal)).all())
