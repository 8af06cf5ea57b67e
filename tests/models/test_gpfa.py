"""What is true of Gaussian-process factor analysis: the acceptance experiments G1 to G8, and its capabilities.

G2, G3 and G8 are in tests/inference/test_gaussian_process.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lvmzoo import Estimator
from lvmzoo.batch import Batch, Layout, Observation
from lvmzoo.errors import UserError
from lvmzoo.inference.gaussian_process import Sums
from lvmzoo.models.single_region.gpfa import GPFA, GPFAConfig
from tests.models.frozen.make_gpfa import LENGTHS, TIMESCALES, case

FROZEN = json.loads((Path(__file__).parent / "frozen" / "gpfa.json").read_text())


def layout(units: int, session: str = "a", observation: Observation = Observation.CONTINUOUS) -> Layout:
    ids = tuple(f"{session}{unit}" for unit in range(units))
    return Layout(session, {"region": units}, ids, observation, 0.02)


def batch(activity: Tensor | Sequence[np.ndarray], session: str = "a", counts: bool = False) -> Batch:
    """Return trials; bins beyond a trial's length hold garbage."""
    trials = [torch.as_tensor(trial) for trial in activity]
    bins, units = max(map(len, trials)), trials[0].shape[1]
    values = torch.full((len(trials), bins, units), 0 if counts else torch.nan, dtype=trials[0].dtype)
    valid = torch.zeros(len(trials), bins, dtype=torch.bool)
    for row, trial in enumerate(trials):
        values[row, : len(trial)], valid[row, : len(trial)] = trial, True
    index = torch.arange(len(trials))
    kind = Observation.COUNTS if counts else Observation.CONTINUOUS
    observed = valid[..., None].expand(values.shape)
    return Batch(values, valid, observed, {}, {}, index, torch.zeros_like(index), layout(units, session, kind))


def rows(whole: Batch, selected: slice) -> Batch:
    return whole.map(lambda tensor: tensor[selected])


def total(model: GPFA, batches: Sequence[Batch]) -> Sums:
    return Sums(*(sum(leaves) for leaves in zip(*(model.statistics(part) for part in batches), strict=True)))


def fit(model: GPFA, batches: Sequence[Batch], passes: int) -> list[float]:
    return [float(model.update(total(model, batches))) for _ in range(passes)]


def build(data: Batch, latents: int, **config: str) -> GPFA:
    model = GPFA(GPFAConfig(latents=latents, **config), [data.layout])
    model.prepare([data])
    return model


def simulate(
    timescales: Sequence[float], trials: int, bins: int, units: int, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return parameters, latents and activity."""
    draw, t = np.random.default_rng(seed), np.arange(bins)
    latents = np.zeros((trials, bins, len(timescales)))
    for i, tau in enumerate(timescales):
        kernel = 0.999 * np.exp(-0.5 * ((t[:, None] - t) / tau) ** 2) + 1e-3 * np.eye(bins)
        latents[..., i] = draw.normal(size=(trials, bins)) @ np.linalg.cholesky(kernel).T
    readout = 0.5 * draw.normal(size=(units, len(timescales)))
    offset, noise = draw.normal(size=units), draw.uniform(0.5, 1.5, units)
    activity = latents @ readout.T + offset + draw.normal(size=(trials, bins, units)) * np.sqrt(noise)
    return {"readout": readout, "offset": offset, "noise": noise}, latents, activity


def put(model: GPFA, values: dict[str, np.ndarray], timescales: Sequence[float] | np.ndarray) -> GPFA:
    for name in ("readout", "offset", "noise"):
        getattr(model, name).copy_(torch.from_numpy(values[name]))
    model.timescales.copy_(torch.tensor(timescales, dtype=torch.float64))
    return model


def frozen_model() -> tuple[GPFA, Batch]:
    values = case()
    data = batch(values["trials"])
    return put(GPFA(GPFAConfig(latents=len(TIMESCALES)), [data.layout]), values, TIMESCALES), data


@pytest.mark.parametrize("engine", ["auto", "dense", "spectral"])
def test_equals_elephant(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """G1, ragged: likelihoods, latents and their variances at fixed parameters."""
    model, data = frozen_model()
    process = model._process
    monkeypatch.setattr(model, "_process", lambda *of: process(*of)._replace(engine=engine))
    found = model.log_likelihood(data).numpy()
    np.testing.assert_allclose(found, FROZEN["of_trials"], rtol=3e-10)
    assert float(found.sum()) == pytest.approx(FROZEN["log_likelihood"], rel=1e-10)
    means = model.processes(data)[0, : LENGTHS[0]].numpy()
    np.testing.assert_allclose(means, FROZEN["first_trial"], atol=1e-8)
    turn = np.linalg.inv(model._orthonormal("a")[0].numpy())
    variances = turn @ model.posterior(data)[1][0, : LENGTHS[0]].numpy() @ turn.T
    np.testing.assert_allclose(np.diagonal(variances, 0, 1, 2), FROZEN["variances_of_first_trial"], atol=1e-8)


def test_em_step_equals_that_of_elephant() -> None:
    """The readout after one M-step, at the old timescales; with its own step of them, elephant's is not better."""
    model, data = frozen_model()
    objective = fit(model, [data], 1)[0]
    assert objective * sum(LENGTHS) == pytest.approx(FROZEN["passes"][0], rel=1e-10)
    stepped = model.timescales.clone()
    model.timescales.copy_(torch.from_numpy(TIMESCALES))
    assert float(model.log_likelihood(data).sum()) == pytest.approx(FROZEN["passes_with_fixed_timescales"][1], rel=1e-9)
    model.timescales.copy_(stepped)
    assert float(model.log_likelihood(data).sum()) > FROZEN["passes_with_fixed_timescales"][1]


def test_finds_the_timescales() -> None:
    """G4: within 5 % of the truth at a likelihood above that of the truth; the objective never falls."""
    true = [3.0, 5.0, 8.0, 12.0, 20.0]
    values, latents, activity = simulate(true, 100, 50, 60)
    data = batch(activity)
    model = build(data, 5)
    objective = np.array(fit(model, [data], 90))
    assert (np.diff(objective) >= 0).all()
    model.finish()
    reached = float(model.log_likelihood(data).sum())
    assert reached >= objective[-1] * 5000 - 1e-6
    oracle = put(build(data, 5), values, true)
    assert reached > float(oracle.log_likelihood(data).sum())
    np.testing.assert_allclose(np.sort(model.timescales_s.numpy()), 0.02 * np.array(true), rtol=0.05)
    found = model.latents(data).reshape(-1, 5).numpy()
    truth = latents.reshape(-1, 5)
    design = np.column_stack([found, np.ones(len(found))])
    left = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    assert 1 - (left**2).sum() / ((truth - truth.mean(0)) ** 2).sum() >= 0.97


def test_stops_by_itself_when_converged() -> None:
    _, _, activity = simulate([4.0, 15.0], 30, 40, 20)
    run = Estimator("gpfa", latents=2, trainer={"progress": False}).fit(activity).run_
    assert len(run.history) < 100
    assert run.model.fitting.settled
    longer = Estimator("gpfa", latents=2, trainer={"progress": False, "tolerance": 0.0, "max_epochs": 150})
    model = longer.fit(activity).run_.model
    torch.testing.assert_close(run.model.timescales, model.timescales, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("passes", [4, 10, 11, 20])
def test_a_fit_that_is_taken_up_again_goes_on_bit_for_bit(passes: int) -> None:
    """In EM, between EM and the search, and within the search."""
    data = batch(simulate([3.0, 9.0], 12, 25, 10)[2])
    whole = build(data, 2)
    fit(whole, [data], passes)
    again = GPFA(whole.config, [data.layout])
    again.load_state_dict({name: value.clone() for name, value in whole.state_dict().items()})
    assert fit(whole, [data], 9) == fit(again, [data], 9)
    whole.finish()
    again.finish()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("passes", [2, 7, 13, 24])
def test_finished_parameters_are_at_least_as_likely_as_was_said(passes: int) -> None:
    data = batch(simulate([3.0, 9.0], 12, 25, 10, seed=1)[2])
    model = build(data, 2)
    objective = fit(model, [data], passes)[-1]
    model.finish()
    assert float(model.log_likelihood(data).sum()) / (12 * 25) >= objective - 1e-9


def test_each_unit_from_the_others() -> None:
    """G5: the cavity equals hiding the unit."""
    data = batch(simulate([3.0, 9.0], 4, 31, 6)[2])
    model = build(data, 2)
    fit(model, [data], 3)
    found = model.leave_unit_out(data)
    for unit in range(6):
        torch.testing.assert_close(found[..., unit], model.rates(data.hide([unit]))[..., unit], rtol=1e-8, atol=1e-8)


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


def test_latents_are_orthonormal_and_ordered() -> None:
    data = batch(simulate([3.0, 8.0, 20.0], 20, 30, 12)[2])
    model = build(data, 3)
    fit(model, [data], 15)
    model.finish()
    turn, norms = model._orthonormal("a")
    directions = model.readout @ torch.linalg.inv(turn)
    torch.testing.assert_close(directions.T @ directions, torch.eye(3, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.latents(data) @ directions.T + model.offset, model.rates(data))
    share = model.variance_explained("a")
    assert bool((share.diff() <= 0).all())
    assert float(share.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(norms, torch.linalg.svdvals(model.readout))
    assert bool((model.readout.square().sum(0).diff() <= 0).all())


def test_rates_of_square_rooted_counts() -> None:
    """Where nothing is seen they are the mean of draws; with everything seen their mean is that of the counts."""
    draw = np.random.default_rng(3)
    drive = np.exp(0.7 * np.sin(np.arange(40) / 4 + draw.uniform(0, 6, (30, 1)))[..., None] * draw.normal(size=15))
    counts = draw.poisson(2 * drive).astype(np.int16)
    data = batch(counts, counts=True)
    model = build(data, 2)
    fit(model, [data], 15)
    model.finish()
    rates = model.rates(data)
    assert float(rates.min()) > 0
    np.testing.assert_allclose(rates.mean((0, 1)).numpy(), counts.mean((0, 1)), rtol=0.05)
    _, drawn = model.sample("a", 4000, 5, seed=1)
    np.testing.assert_allclose(drawn.mean((0, 1)), model.rates(data.hide(range(15)))[0, 0], rtol=0.05)
    plain = build(data, 2, transform="none")
    torch.testing.assert_close(
        plain.rates(data), plain.processes(data) @ plain.readout.T + plain.offset, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("kernel", "bins"), [("squared_exponential", 12), ("matern52", 12), ("matern52", 120)])
def test_samples_have_the_covariance_of_the_kernel(kernel: str, bins: int) -> None:
    data = batch(simulate([3.0, 9.0], 5, 20, 6)[2])
    model = build(data, 2, kernel=kernel)
    fit(model, [data], 3)
    latents, activity = model.sample("a", 20_000 if bins < 100 else 4000, bins, seed=0)
    processes = latents @ torch.linalg.inv(model._orthonormal("a")[0]).T
    lag = 4.0 / model.timescales
    if kernel == "squared_exponential":
        wanted = 0.999 * torch.exp(-0.5 * lag**2)
    else:
        wanted = (1 + 5**0.5 * lag + 5 / 3 * lag**2) * torch.exp(-(5**0.5) * lag)
    found = (processes[:, :-4] * processes[:, 4:]).mean((0, 1))
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.03)
    spread = activity.flatten(0, 1).var(0)
    torch.testing.assert_close(spread, model.readout.square().sum(1) + model.noise, rtol=0.05, atol=0.0)


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


def test_dimension_by_cross_validation() -> None:
    data = batch(simulate([3.0, 6.0, 15.0], 24, 25, 20)[2])
    found = GPFA.select_dimension(data, [1, 2, 3, 4], folds=3)
    assert found.latents == 3
    assert found.errors.shape == found.log_likelihoods.shape == (3, 4)
    assert (found.errors < 1).all()
    assert (found.log_likelihoods[:, 2] > found.log_likelihoods[:, 0]).all()
    with pytest.raises(UserError, match="folds"):
        GPFA.select_dimension(rows(data, slice(0, 2)), [1], folds=3)


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


def test_mistakes_are_named() -> None:
    for config, message in (
        ({"latents": 0}, "model.latents is 0"),
        ({"kernel": "matern"}, "Did you mean 'matern"),
        ({"transform": "log"}, "no choice of model.transform named 'log'"),
    ):
        with pytest.raises(UserError, match=message):
            GPFA(GPFAConfig(**config), [layout(4)])
