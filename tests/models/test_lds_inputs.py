"""Known inputs of the linear dynamical system: the planted ones are found, and leaving them out does harm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lvmzoo.batch import Batch
from lvmzoo.errors import UserError
from lvmzoo.models.single_region.lds import LDS, LDSConfig
from tests.inference.dense import Dense, draw_activity, random_model
from tests.models import lds_world as world


def planted(
    trials: int = 60, bins: int = 80, units: int = 20, seed: int = 0
) -> tuple[world.LinearGaussian, torch.Tensor, torch.Tensor]:
    """Return parameters, activity, and inputs that vary slowly, as a stimulus or a running speed does."""
    true = world.rotations(4, units, seed=seed, channels=3)
    noise = torch.randn(trials, bins, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inputs = torch.zeros_like(noise)
    for t in range(1, bins):
        inputs[:, t] = 0.9 * inputs[:, t - 1] + 0.4 * noise[:, t]
    return true, draw_activity(true, trials, bins, inputs=inputs.float().double()), inputs


def without_inputs(data: Batch) -> Batch:
    return dataclasses.replace(data, inputs={}, layout=dataclasses.replace(data.layout, inputs={}))


def test_planted_inputs_are_found_and_leaving_them_out_harms() -> None:
    true, y, inputs = planted()
    data = world.batch(y, [80] * 50 + [31] * 10, inputs=inputs)
    model = world.build(data, 4)
    trace = world.fit(model, [data], 60)
    assert world.rises(trace)
    assert world.eigenvalue_error(model.dynamics, true.dynamics) < 0.015
    for lag in range(4):  # the effect on the activity that many bins later does not depend on the coordinates
        ours, planted_effect = (
            p.feedthrough if lag == 0 else p.readout @ torch.linalg.matrix_power(p.dynamics, lag - 1) @ p.drive
            for p in (model.parameters_of("a"), true)
        )
        np.testing.assert_allclose(ours, planted_effect, atol=0.12)
        assert float(((ours - planted_effect) ** 2).mean() / (planted_effect**2).mean()) < 1e-3
    ignorant = world.build(without_inputs(data), 4)
    blind = world.fit(ignorant, [without_inputs(data)], 60)
    assert world.eigenvalue_error(ignorant.dynamics, true.dynamics) > 0.05
    assert trace[-1] > blind[-1] + 1
    test = world.batch(y[:10], inputs=inputs[:10])
    oracle = float(world.build(test, 4, true).log_likelihood(test).sum())
    assert float(model.log_likelihood(test).sum()) == pytest.approx(oracle, rel=0.01)


def test_the_start_knows_the_inputs_already() -> None:
    true, y, inputs = planted()
    data = world.batch(y, inputs=inputs)
    model = world.build(data, 4)
    model.prepare([data])
    assert world.eigenvalue_error(model.dynamics, true.dynamics) < 0.05
    effect = model.feedthrough - true.feedthrough
    assert float(effect.square().mean() / true.feedthrough.square().mean()) < 0.1


def test_zero_and_unit_of_an_input_do_not_matter() -> None:
    _, y, inputs = planted(20, 30)
    fits = []
    for scale, zero in ((1.0, 0.0), (1e3, 0.0), (0.01, 30.0)):
        data = world.batch(y, [30] * 15 + [9] * 5, inputs=inputs.float().double() * scale + zero * scale)
        model = world.build(data, 4)
        fits.append((world.fit(model, [data], 15)[-1], model.forecast(data, 2)))
    for likelihood, forecast in fits[1:]:
        assert likelihood == pytest.approx(fits[0][0], rel=1e-5)  # inputs are stored in single precision
        np.testing.assert_allclose(forecast, fits[0][1], atol=2e-3)


@pytest.mark.parametrize("missing", [False, True])
def test_likelihood_never_falls_and_converges_to_a_stationary_point(missing: bool) -> None:
    true = random_model(units=8, seed=5, channels=2)
    inputs = torch.randn(30, 15, 2, generator=torch.Generator().manual_seed(0)).double()
    y = draw_activity(true, 30, 15, inputs=inputs)
    data = world.batch(y, [15] * 20 + [7] * 10, inputs=inputs)
    if missing:
        gone = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < 0.2
        data = dataclasses.replace(data, observed=data.observed & ~gone)
    model = world.build(data, 2)
    assert world.rises(world.fit(model, [data], 30))
    if missing:
        return
    world.fit(model, [data], 300, prepare=False)
    for name in ("drive", "feedthrough", "dynamics", "readout", "offset", "noise"):
        value, step = getattr(model, name), 1e-4
        for flat in range(min(value.numel(), 4)):
            ends = []
            for sign in (1, -1):
                value.view(-1)[flat] += sign * step
                ends.append(float(model.log_likelihood(data).sum()))
                value.view(-1)[flat] -= sign * step
            assert abs(ends[0] - ends[1]) / (2 * step) / int(data.valid.sum()) < 1e-4, name


def test_rates_and_forecasts_are_conditional_means() -> None:
    true = random_model(units=6, channels=2)
    inputs = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0)).double()
    data = world.batch(draw_activity(true, 2, 8, inputs=inputs), inputs=inputs)
    model = world.build(data, 2, true)
    known = torch.cat(list(data.inputs.values()), -1).double().numpy()
    for horizon in (0, 1, 3, 20):
        ours = model.forecast(data, horizon) if horizon else model.rates(data)
        for i in range(2):
            dense = Dense(true, 8, known[i])
            for t in range(8):
                shown = np.ones((8, 6), bool)
                if horizon:
                    shown[max(0, t - horizon + 1) :] = False
                latents, _ = dense.posterior(data.activity[i].numpy(), shown)
                expected = true.readout.numpy() @ latents[t] + dense.offset.reshape(8, 6)[t]
                np.testing.assert_allclose(ours[i, t], expected, atol=1e-9)


def test_canonical_form_keeps_the_model() -> None:
    _, y, inputs = planted(20, 30)
    data = world.batch(y, inputs=inputs)
    model = world.build(data, 4)
    world.fit(model, [data], 5)
    before, forecast = model.log_likelihood(data), model.forecast(data, 2)
    model.finish()
    np.testing.assert_allclose(model.log_likelihood(data), before, rtol=1e-10)
    np.testing.assert_allclose(model.forecast(data, 2), forecast, atol=1e-8)


def test_inputs_that_repeat_each_other_do_no_harm() -> None:
    """The levels of a category add up to one, as the offset does; a level may never occur."""
    true = world.rotations(2, 10, seed=1, channels=1)
    level = torch.randint(0, 2, (30, 40), generator=torch.Generator().manual_seed(0))
    inputs = torch.nn.functional.one_hot(level, 3).double()
    data = world.batch(draw_activity(true, 30, 40, inputs=inputs[..., :1]), inputs=inputs)
    model = world.build(data, 2)
    trace = world.fit(model, [data], 30)
    assert world.rises(trace)
    one = world.batch(data.activity, inputs=inputs[..., :1])
    reference = world.fit(world.build(one, 2), [one], 30)[-1]
    assert trace[-1] == pytest.approx(reference, abs=0.02)
    for name, value in model.state_dict().items():
        assert torch.isfinite(value).all(), name


def test_sessions_share_the_drive_and_keep_their_feedthrough() -> None:
    one, y, u = planted(units=20, seed=0)
    other = world.rotations(4, 25, seed=7, channels=3)._replace(
        dynamics=one.dynamics, dynamics_noise=one.dynamics_noise, drive=one.drive
    )
    v = torch.randn(40, 50, 3, generator=torch.Generator().manual_seed(3)).double()
    z = draw_activity(other, 40, 50, inputs=v)
    data = [world.batch(y, inputs=u), world.batch(z, session="b", inputs=v)]
    model = LDS(LDSConfig(latents=4), [part.layout for part in data])
    assert world.rises(world.fit(model, data, 60))
    assert model.drive.shape == (4, 3)
    for session, true in (("a", one), ("b", other)):
        p = model.parameters_of(session)
        for ours, planted_effect in (
            (p.feedthrough, true.feedthrough),
            (p.readout @ p.drive, true.readout @ true.drive),
        ):
            assert float(((ours - planted_effect) ** 2).mean() / (planted_effect**2).mean()) < 5e-3


def test_sessions_must_share_their_inputs() -> None:
    with pytest.raises(UserError, match="Session 'b' has the known inputs"):
        LDS(LDSConfig(latents=2), [world.layout(5, "a", channels=2), world.layout(5, "b")])
