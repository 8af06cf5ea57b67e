"""What is true of LFADS: identities of the loss, what it hides, what it finds in planted data."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from lvmzoo.batch import Observation
from lvmzoo.config import SplitConfig
from lvmzoo.data.load import prepare
from lvmzoo.data.trials import Session
from lvmzoo.errors import UserError
from lvmzoo.models.single_region.lfads import LFADS, LFADSConfig
from tests.contract import world

SMALL: dict[str, Any] = {
    "latents": 3,
    "generator": 10,
    "encoder": 8,
    "initial_condition": 4,
    "controller": 6,
    "ramp_steps": 10,
}


def model_of(session: Session, **settings: Any) -> LFADS:
    torch.manual_seed(0)
    model = LFADS(LFADSConfig(**{**SMALL, **settings}), [session.layout])
    model.prepare([session.train.batch()])
    return model


@pytest.fixture(scope="module")
def session() -> Session:
    return world.session()


@pytest.fixture(scope="module")
def split() -> Session:
    """The world with some units held out."""
    config = dataclasses.replace(
        world.DATA, split=SplitConfig(validation=0.2, test=0.2, gap_s=0.0, held_out_units=[3, 12])
    )
    return prepare([world.recording()], config)[0]


@pytest.mark.parametrize("inputs", [0, 2])
def test_the_loss_is_the_bound_by_torchs_distributions(session: Session, inputs: int) -> None:
    model = model_of(session, inferred_inputs=inputs, coordinated_dropout=0.0, dropout=0.0).eval()
    batch = session.test.batch()
    parameters: list[torch.Tensor] = []
    hook = model._layers("arrays").readout.register_forward_hook(lambda *given: parameters.append(given[2]))
    torch.manual_seed(3)
    loss = model.loss(batch, 10_000)
    hook.remove()
    seen = batch.observed & batch.valid.unsqueeze(-1)
    log_prob = torch.distributions.Poisson(parameters[0][0].exp()).log_prob(batch.activity.float())
    counts = batch.activity.float()
    expected = -(log_prob + torch.lgamma(counts + 1))[seen].mean()
    torch.testing.assert_close(loss.terms["reconstruction"], expected, rtol=1e-5, atol=1e-6)
    assert float(loss.weight) == int(seen.sum())
    assert set(loss.terms) == {"reconstruction", "kl_initial_condition"} | ({"kl_inputs"} if inputs else set())
    assert all(float(term.detach()) > 0 for term in loss.terms.values())


def test_ramps_are_in_steps(session: Session) -> None:
    model = model_of(session, inferred_inputs=1, l2=0.5).eval()
    batch = session.test.batch()
    values = []
    for step in (4, 9, 10_000):
        torch.manual_seed(0)
        values.append({name: float(term.detach()) for name, term in model.loss(batch, step).terms.items()})
    for name in ("kl_initial_condition", "kl_inputs", "l2"):
        assert values[0][name] == pytest.approx(values[1][name] / 2)
        assert values[1][name] == values[2][name]
    assert values[0]["reconstruction"] == values[2]["reconstruction"]


def test_what_the_encoders_see_teaches_nothing(split: Session) -> None:
    """Coordinated dropout: the gradient at kept samples is 0, that of held-out units and forward bins never is."""
    model = model_of(split, coordinated_dropout=0.4, dropout=0.0, forward_bins=3).train()
    batch = split.train.batch()
    found: dict[str, torch.Tensor] = {}
    layers = model._layers("arrays")

    def keep(module: Any, given: Any, parameters: torch.Tensor) -> None:
        parameters.retain_grad()
        found["parameters"] = parameters

    layers.readout.register_forward_hook(keep)
    layers.read_in.register_forward_hook(lambda module, given, signal: found.update(signal=signal))
    model.loss(batch, 100).total.backward()
    gradient = found["parameters"].grad
    assert gradient is not None
    gradient, seen = gradient[0] != 0, found["signal"] != 0
    lengths = batch.valid.sum(1)
    bins = torch.arange(batch.n_bins)
    hidden = (bins >= lengths[:, None] - 3) & batch.valid
    inside = (bins < lengths[:, None] - 3) & batch.valid
    held_in, held_out = list(split.layout.held_in), list(split.layout.held_out)
    assert not gradient[..., held_in][seen & inside.unsqueeze(-1)].any()
    assert gradient[..., held_in][~seen & inside.unsqueeze(-1)].all()
    assert gradient[..., held_out][batch.valid].all()
    assert gradient[hidden].all()


@pytest.mark.parametrize("inputs", [0, 1])
def test_held_out_units_and_forward_bins_never_enter_the_encoders(split: Session, inputs: int) -> None:
    model = model_of(split, inferred_inputs=inputs, forward_bins=4).eval()
    batch = split.test.batch()
    changed = batch.activity.clone()
    changed[..., list(split.layout.held_out)] += 5
    last = torch.arange(batch.n_bins) >= batch.valid.sum(1, keepdim=True) - 4
    changed[last] += 5
    other = dataclasses.replace(batch, activity=changed)
    assert torch.equal(model.rates(batch), model.rates(other))
    changed = batch.activity.clone()
    changed[:, 2, 0] += 5
    assert not torch.equal(model.rates(batch), model.rates(dataclasses.replace(batch, activity=changed)))


def test_factors_have_unit_norm_rows(session: Session) -> None:
    model = model_of(session)
    torch.testing.assert_close(model._unit_norm().norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("inputs", [0, 2])
def test_posterior_averages_approach_those_of_many_draws(session: Session, inputs: int) -> None:
    batch = session.test.batch([0, 1])
    with torch.no_grad():
        rates = [
            model_of(session, inferred_inputs=inputs, posterior_samples=n).eval().rates(batch)[batch.valid]
            for n in (0, 3, 100, 400)
        ]
    errors = [float((value - rates[-1]).square().mean()) for value in rates[:-1]]
    assert errors[2] < errors[1]
    assert not torch.equal(rates[0], rates[1])


def test_a_gap_inside_a_trial_is_time_that_passes(session: Session) -> None:
    model = model_of(session).eval()
    batch = session.test.batch([0])
    valid = batch.valid.clone()
    valid[:, 5:8] = False
    activity = batch.activity.float()
    activity[:, 5:8] = torch.nan
    gap = model.latents(dataclasses.replace(batch, activity=activity, valid=valid))
    observed = batch.observed.clone()
    observed[:, 5:8] = False
    hidden = model.latents(dataclasses.replace(batch, observed=observed))
    torch.testing.assert_close(gap[valid], hidden[valid])


@pytest.mark.parametrize("inputs", [0, 2])
def test_known_inputs_drive_the_generator_forward_in_time(inputs: int) -> None:
    made = world.session()
    layout = dataclasses.replace(made.layout, inputs={"light": 2})
    model = LFADS(LFADSConfig(**SMALL, inferred_inputs=inputs), [layout]).eval()
    batch = dataclasses.replace(made.test.batch([0]), layout=layout)
    batch = dataclasses.replace(batch, inputs={"light": torch.zeros(1, batch.n_bins, 2)})
    with torch.no_grad():
        posterior = model._encode(torch.zeros(1, batch.n_bins, layout.n_units), batch, 0.0)
        noise, draws = torch.zeros(1, 4), torch.zeros(batch.n_bins, 1, inputs)
        before = model._generate(posterior, noise, draws).states
        external = posterior.external.clone()
        external[10] = 1.0
        after = model._generate(posterior._replace(external=external), noise, draws).states
    same = (before == after).all(-1)[:, 0]
    assert same[:10].all()
    assert not same[10:].any()
    missing = dataclasses.replace(
        batch, valid=torch.zeros_like(batch.valid), inputs={"light": torch.full((1, batch.n_bins, 2), torch.nan)}
    )
    assert bool(torch.isfinite(model.loss(missing, 0).total))


def test_samples_have_the_rates_of_their_factors(session: Session) -> None:
    model = model_of(session, inferred_inputs=1).eval()
    factors, activity = model.sample("arrays", 300, 40, seed=0)
    assert activity.dtype == torch.float32
    assert torch.equal(activity, activity.round())
    with torch.no_grad():
        expected = model._layers("arrays").rates(factors)
    error = (expected.mean((0, 1)) / (300 * 40)).sqrt()
    assert bool(((activity.mean((0, 1)) - expected.mean((0, 1))).abs() < 5 * error).all())
    again = model.sample("arrays", 300, 40, seed=0)[1]
    assert torch.equal(activity, again)


@pytest.mark.parametrize("likelihood", [None, "zero_inflated_gamma"])
def test_rates_of_continuous_activity_are_in_its_own_unit(likelihood: str | None) -> None:
    made = world.session(counts=False)
    activity = made.train.activity
    scaled = activity * 1e3 - 5e3 if likelihood is None else activity.clamp(min=0) * 1e-3
    made = dataclasses.replace(made, train=dataclasses.replace(made.train, activity=scaled))
    assert made.layout.observation is Observation.CONTINUOUS
    model = model_of(made, likelihood=likelihood).eval()
    assert model.positive_rates is (likelihood is not None)
    for readout in (model._layers("arrays").readout,):
        readout.weight.data.zero_()
    batch = made.train.batch()
    with torch.no_grad():
        rates = model.rates(batch)[batch.valid].mean(0)
    torch.testing.assert_close(rates, batch.activity[batch.valid].mean(0), rtol=0.02, atol=0.0)


def test_sessions_begin_with_common_factors_and_none_touches_another() -> None:
    recordings = [world.recording(seed) for seed in (0, 1)]
    recordings = [dataclasses.replace(recording, session=f"day.{k}") for k, recording in enumerate(recordings)]
    sessions = prepare(recordings, world.DATA)
    torch.manual_seed(0)
    model = LFADS(LFADSConfig(**SMALL), [session.layout for session in sessions])
    read_in = model._layers("day.1").read_in
    assert isinstance(read_in, torch.nn.Linear)
    before = read_in.weight.clone()
    model.prepare([session.train.batch() for session in sessions])
    assert not torch.equal(before, read_in.weight)
    model.loss(sessions[0].train.batch(), 0).total.backward()
    assert all(p.grad is not None for p in model._layers("day.0").parameters())
    assert all(p.grad is None for p in model._layers("day.1").parameters())
    assert model.rates(sessions[1].test.batch()).shape[-1] == sessions[1].layout.n_units
    alien = dataclasses.replace(sessions[0].layout, session="night")
    with pytest.raises(UserError, match="no readout for session 'night'"):
        model.latents(dataclasses.replace(sessions[0].test.batch(), layout=alien))


def test_a_batch_without_a_valid_bin_has_no_weight(session: Session) -> None:
    model = model_of(session, inferred_inputs=1)
    loss = model.loss(session.train.batch([-1, -1]), 0)
    assert float(loss.weight) == 0
    assert bool(torch.isfinite(loss.total))
    loss.total.backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("setting", "value"), [("latents", 0), ("coordinated_dropout", 1.0), ("dropout", -0.1), ("likelihood", "poison")]
)
def test_impossible_settings_are_refused(session: Session, setting: str, value: Any) -> None:
    with pytest.raises(UserError, match=str(value)):
        model_of(session, **{setting: value})


def test_without_a_controller_there_are_no_inferred_inputs(session: Session) -> None:
    with pytest.raises(UserError, match="infers no inputs"):
        model_of(session).inferred_inputs(session.test.batch())
