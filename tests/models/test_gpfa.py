"""What is true of Gaussian-process factor analysis: the acceptance experiments G1, G4 and G5, and its capabilities.

G2, G3 and G8 are in tests/inference/test_gaussian_process.py, G6 and G7 in test_gpfa_data.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lvmzoo import Estimator
from lvmzoo.batch import Batch
from lvmzoo.errors import UserError
from lvmzoo.models.single_region.gpfa import GPFA, GPFAConfig
from tests.models.frozen.make_gpfa import LENGTHS, TIMESCALES, case
from tests.models.gpfa_world import batch, build, fit, layout, put, rows, simulate

FROZEN = json.loads((Path(__file__).parent / "frozen" / "gpfa.json").read_text())


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


def test_dimension_by_cross_validation() -> None:
    data = batch(simulate([3.0, 6.0, 15.0], 24, 25, 20)[2])
    found = GPFA.select_dimension(data, [1, 2, 3, 4], folds=3)
    assert found.latents == 3
    assert found.errors.shape == found.log_likelihoods.shape == (3, 4)
    assert (found.errors < 1).all()
    assert (found.log_likelihoods[:, 2] > found.log_likelihoods[:, 0]).all()
    with pytest.raises(UserError, match="folds"):
        GPFA.select_dimension(rows(data, slice(0, 2)), [1], folds=3)


def test_mistakes_are_named() -> None:
    for config, message in (
        ({"latents": 0}, "model.latents is 0"),
        ({"kernel": "matern"}, "Did you mean 'matern"),
        ({"transform": "log"}, "no choice of model.transform named 'log'"),
    ):
        with pytest.raises(UserError, match=message):
            GPFA(GPFAConfig(**config), [layout(4)])
