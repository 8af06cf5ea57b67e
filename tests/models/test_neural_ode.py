"""The neural ODE: planted fields recovered, missing bins, the bound by an independent computation, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from torch.distributions import Normal, kl_divergence

from lvmzoo import from_arrays
from lvmzoo.batch import Batch
from lvmzoo.config import DataConfig, Experiment, SplitConfig, TrainerConfig
from lvmzoo.data.load import prepare
from lvmzoo.data.recording import Recording
from lvmzoo.data.trials import Session
from lvmzoo.errors import UserError
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.co_bps import CoBps
from lvmzoo.metrics.latent_r2 import LatentR2
from lvmzoo.models.single_region.neural_ode import NeuralODE, NeuralODEConfig
from lvmzoo.simulate.planar import spiral, spiral_field, van_der_pol, van_der_pol_field
from lvmzoo.train import train

SYSTEMS = {"spiral": (spiral, spiral_field), "van_der_pol": (van_der_pol, van_der_pol_field)}


def recovered(model: NeuralODE, session: Session) -> float:
    """Return R2 of the true latents on test trials, by an affine map from the inferred ones."""
    return LatentR2()(Evaluation(model, session))[0].value


def field_cosine(model: NeuralODE, session: Session, true_field: Any) -> float:
    """Return the mean cosine of the learned and the true velocity where test trials went, in the true coordinates."""
    evaluation = Evaluation(model, session)
    inferred, true = evaluation.latents("train"), evaluation.truth("train", "latents")
    visited = evaluation.latents("test")
    assert true is not None
    weights = np.linalg.lstsq(inferred - inferred.mean(0), true - true.mean(0), rcond=None)[0]
    with torch.no_grad():
        learned = model.field(torch.from_numpy(visited).float()).double().numpy() @ weights
    expected = true_field((visited - inferred.mean(0)) @ weights + true.mean(0))
    return float(
        ((learned * expected).sum(1) / np.linalg.norm(learned, axis=1) / np.linalg.norm(expected, axis=1)).mean()
    )


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.timeout(1800)
def test_n3_the_field_is_found_by_train(system: str) -> None:
    simulate, true_field = SYSTEMS[system]
    config = Experiment(
        model=NeuralODEConfig(latents=2, stride=2),
        data=DataConfig(simulator=system),
        trainer=TrainerConfig(max_steps=2000, progress=False),
        report=False,
    )
    run = train(config, [simulate(seed=0)], write=False)
    assert run.sessions is not None
    assert isinstance(run.model, NeuralODE)
    assert recovered(run.model, run.sessions[0]) >= 0.95
    assert field_cosine(run.model, run.sessions[0], true_field) >= 0.9


def with_missing_bins(session: Session, fraction: float, seed: int = 0) -> Session:
    """Return the session with a fraction of the bins of every part not recorded, at random."""
    generator = torch.Generator().manual_seed(seed)
    stored = session.train.activity
    gone = torch.rand(len(stored), 1, generator=generator) < fraction
    missing = gone.expand(-1, stored.shape[1]).contiguous()
    activity = torch.where(missing, 77, stored)  # what must not be looked at
    parts = {
        part: replace(getattr(session, part), activity=activity, missing=missing)
        for part in ("train", "validation", "test")
    }
    return replace(session, **parts)


def descend(session: Session, steps: int, rate: float = 1e-2, size: int = 64, **config: Any) -> NeuralODE:
    """Fit by a bare loop."""
    torch.manual_seed(0)
    model = NeuralODE(NeuralODEConfig(**config), [session.layout])
    model.prepare([session.train.batch()])
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    random = np.random.default_rng(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        model.loss(session.train.batch(random.permutation(len(session.train))[:size]), step).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return model.eval()


def test_n3_the_field_is_found_in_short_trials() -> None:
    (session,) = prepare([van_der_pol(seed=0, bins=50)], DataConfig(simulator="van_der_pol"))
    model = descend(session, 300, latents=2, hidden=32, encoder_hidden=32, stride=3, dropout=0.4)
    assert recovered(model, session) > 0.85
    assert field_cosine(model, session, van_der_pol_field) > 0.85


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_n4_the_field_is_found_though_half_of_the_bins_are_missing() -> None:
    (full,) = prepare([spiral(seed=0)], DataConfig(simulator="spiral"))
    session = with_missing_bins(full, 0.5)
    model = descend(session, 800, latents=2, stride=2, dropout=0.4)
    assert recovered(model, session) > 0.82
    assert field_cosine(model, session, spiral_field) > 0.88


def test_n4_bins_that_are_missing_do_not_matter_but_when_they_were_does() -> None:
    (session,) = prepare([spiral(seed=0, trials=6, bins=20, units=8)], DataConfig(simulator="spiral"))
    model = built(session)
    half = with_missing_bins(session, 0.5)
    other = replace(half.train, activity=torch.where(half.train.missing, 5, half.train.activity))
    assert torch.equal(model.latents(half.train.batch()), model.latents(other.batch()))
    for function in (lambda batch: model.latents(batch), lambda batch: model.eval().loss(batch, 9).total):
        torch.manual_seed(0)
        one = function(half.train.batch())
        torch.manual_seed(0)
        assert torch.equal(one, function(other.batch()))
    batch = session.train.batch()
    only = [torch.zeros_like(batch.observed) for _ in range(2)]
    only[0][:, [0, 3]], only[1][:, [0, 9]] = True, True
    moved = batch.activity.clone()
    moved[:, 9] = batch.activity[:, 3]
    early, late = replace(batch, observed=only[0]), replace(batch, activity=moved, observed=only[1])
    assert not torch.allclose(model.latents(early), model.latents(late))


def built(session: Session, **config: Any) -> NeuralODE:
    torch.manual_seed(0)
    model = NeuralODE(NeuralODEConfig(**{"latents": 3, "hidden": 8, "encoder_hidden": 8} | config), [session.layout])
    model.prepare([session.train.batch()])
    return model.eval()


@pytest.mark.parametrize(("trials", "bins"), [(5, 1), (1, 40), (1, 1), (5, 2)])
def test_n5_one_bin_and_one_trial(trials: int, bins: int) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (12, bins, 7))
    (session,) = prepare([from_arrays(counts, bin_width_s=0.05)], DataConfig(bin_width_s=0.05))
    session = replace(session, train=session.train.select(np.arange(trials)))
    model = descend(session, 5, latents=3, hidden=8, encoder_hidden=8)
    batch = session.train.batch()
    for values in (model.latents(batch), model.rates(batch), model.loss(batch, 0).total):
        assert bool(torch.isfinite(values).all())
    assert model.latents(batch).shape == (trials, bins, 3)


def test_the_loss_is_the_evidence_lower_bound() -> None:
    """Against scipy's Poisson and torch's divergence of normal distributions."""
    (session,) = prepare([van_der_pol(trials=20, bins=30, units=9)], DataConfig(simulator="van_der_pol"))
    model = built(session)
    torch.nn.init.normal_(model.prior.mean)
    torch.nn.init.normal_(model.prior.log_variance)
    session = with_missing_bins(session, 0.3)
    batch = session.train.batch()
    torch.manual_seed(5)
    loss = model.loss(batch, 10_000)
    terms = {name: value.item() for name, value in loss.terms.items()}
    counted = (batch.valid & batch.observed.any(-1)).numpy()
    assert float(loss.weight) == counted.sum()
    with torch.no_grad():
        mean, log_variance = model._encode(batch, model._session("van_der_pol"), batch.observed)
        posterior = Normal(mean, torch.exp(0.5 * log_variance))
        prior = Normal(model.prior.mean, torch.exp(0.5 * model.prior.log_variance))
        kl = float(kl_divergence(posterior, prior).sum()) / counted.sum()
        torch.manual_seed(5)
        start = posterior.loc + posterior.scale * torch.randn_like(mean)
        path = model.field.trajectory(start, batch.n_bins, 0.1, *_rk4())
        rates = model._session("van_der_pol").rates(path).double().numpy()
    counts = batch.activity.numpy()
    constant = -poisson.logpmf(counts, 1.0) - 1.0  # log(count!), which the loss leaves out
    nll = (-poisson.logpmf(counts, rates) - constant)[counted].sum() / counted.sum()
    assert terms["kl"] == pytest.approx(kl, rel=1e-4)
    assert terms["reconstruction"] == pytest.approx(nll, rel=1e-4)
    torch.manual_seed(5)
    early = model.loss(batch, 99)
    assert early.terms["kl"].item() == pytest.approx(kl * 100 / 500, rel=1e-4)


def _rk4() -> tuple[Any, ...]:
    from lvmzoo.inference.ode import METHODS

    return (METHODS["rk4"],)


@pytest.mark.parametrize("latents", [2, 6])
def test_it_starts_contracting(latents: int) -> None:
    (session,) = prepare([van_der_pol(trials=20, bins=40, units=9)], DataConfig(simulator="van_der_pol"))
    model = built(session, latents=latents)
    points = 3 * torch.randn(30, latents, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float((torch.pdist(model.advance(points)) / torch.pdist(points)).max()) < 1
        turning = model.field.linear - model.field.linear.T
    assert float(turning.abs().max()) > 0.5  # and turns as the data do: 2 pi in 67 bins, in units of 10 bins


def test_a_batch_without_a_valid_bin_has_a_finite_loss() -> None:
    (session,) = prepare([spiral(trials=6, bins=10, units=8)], DataConfig(simulator="spiral"))
    model = built(session)
    loss = model.loss(session.train.batch([-1]), 0)
    assert float(loss.weight) == 0
    assert loss.total.item() == 0
    loss.total.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_solvers_agree_and_one_bin_ahead_is_the_next_bin() -> None:
    (session,) = prepare([van_der_pol(trials=10, bins=25, units=9)], DataConfig(simulator="van_der_pol"))
    batch = session.train.batch()
    reference = built(session)
    path = reference.latents(batch)
    for solver, stride, tolerance in (("adaptive", 1, 1e-4), ("rk4", 3, 1e-2), ("heun", 1, 1e-2), ("euler", 1, 0.1)):
        other = built(session, solver=solver, stride=stride)
        torch.testing.assert_close(other.latents(batch), path, atol=tolerance, rtol=0)
        with torch.no_grad():
            ahead = other.advance(other.latents(batch)[:, 3])
        torch.testing.assert_close(ahead, other.latents(batch)[:, 4], atol=1e-2 if stride > 1 else 1e-4, rtol=0)


def driven(seed: int = 0, trials: int = 60, bins: int = 40, units: int = 20) -> tuple[Recording, np.ndarray]:
    """Return counts of a latent that follows a random square wave, dx/dt = (u - x) / (5 bins), and the latent."""
    random = np.random.default_rng(seed)
    u = np.repeat(random.normal(size=(trials, bins // 8)), 8, axis=1)
    x = np.zeros((trials, bins))
    for t in range(1, bins):
        x[:, t] = u[:, t - 1] + (x[:, t - 1] - u[:, t - 1]) * np.exp(-1 / 5)
    rates = np.exp(-0.5 + x[..., None] * random.normal(0, 0.7, units))
    return from_arrays(random.poisson(rates), {"u": u[..., None]}, bin_width_s=0.02), x


def test_known_inputs_drive_the_latents() -> None:
    recording, x = driven()
    data = DataConfig(bin_width_s=0.02, inputs=["u"], split=SplitConfig(gap_s=0.0))
    (session,) = prepare([recording], data)
    model = descend(session, 200, latents=1, hidden=16, encoder_hidden=16)
    batch = session.test.batch()
    blind = replace(batch, observed=torch.zeros_like(batch.observed))  # the inputs alone say where the latent is
    found = model.latents(blind).numpy().ravel()
    truth = x.ravel()[session.test.flat]
    assert np.corrcoef(found, truth)[0, 1] ** 2 > 0.95
    later = {"u": batch.inputs["u"].clone()}
    later["u"][:, 20:] += 1
    changed = model.latents(replace(blind, inputs=later))
    assert torch.equal(changed[:, :21], model.latents(blind)[:, :21])
    assert not torch.equal(changed[:, 21], model.latents(blind)[:, 21])
    with pytest.raises(UserError, match=r"model\.stride=1"):
        NeuralODE(NeuralODEConfig(stride=2), [session.layout])


def test_a_continuous_signal_has_a_gaussian_likelihood() -> None:
    random = np.random.default_rng(0)
    phase = random.uniform(0, 2 * np.pi, (60, 1)) + 0.2 * np.arange(30)
    latents = np.stack([np.cos(phase), np.sin(phase)], -1)
    signal = 100 + 20 * (latents @ random.normal(size=(2, 12)) + 0.5 * random.normal(size=(60, 30, 12)))
    (session,) = prepare(
        [from_arrays(signal.astype(np.float32), bin_width_s=0.02)], DataConfig(split=SplitConfig(gap_s=0.0))
    )
    model = descend(session, 150, latents=2, hidden=16, encoder_hidden=16)
    assert not model.positive_rates
    batch = session.test.batch()
    residual = (batch.activity - model.rates(batch)).numpy().reshape(-1, 12)
    assert np.sqrt((residual**2).mean()) == pytest.approx(10, rel=0.15)
    drawn, activity = model.sample(session.layout.session, 400, 30, seed=1)
    assert drawn.shape == (400, 30, 2)
    np.testing.assert_allclose(activity.mean((0, 1)), signal.mean((0, 1)), atol=4)
    np.testing.assert_allclose(activity.std((0, 1)), signal.std((0, 1)), rtol=0.3)


def test_sessions_share_the_field() -> None:
    recordings = [replace(van_der_pol(seed=seed, trials=20, bins=30, units=units), session=name)
                  for seed, units, name in ((0, 8, "a"), (1, 11, "b"))]  # fmt: skip
    sessions = prepare(recordings, DataConfig())
    layouts = [session.layout for session in sessions]
    model = NeuralODE(NeuralODEConfig(latents=2, hidden=8, encoder_hidden=8), layouts)
    batches: list[Batch] = [session.train.batch() for session in sessions]
    model.prepare(batches)
    for batch in batches:
        model.loss(batch, 0).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert [model.eval().rates(batch).shape[-1] for batch in batches] == [8, 11]
    stranger = replace(batches[0], layout=replace(layouts[0], session="c"))
    with pytest.raises(UserError, match="built for: a, b"):
        model.latents(stranger)
    with pytest.raises(UserError, match="built for: a, b"):
        model.sample("c", 2, 5, seed=0)


def test_held_out_units_never_enter_the_encoder() -> None:
    data = DataConfig(simulator="spiral", split=SplitConfig(held_out_units=[1, 4]))
    (session,) = prepare([spiral(trials=10, bins=15, units=8)], data)
    model, batch = built(session), session.train.batch()
    other = batch.activity.clone()
    other[..., [1, 4]] += 9
    assert torch.equal(model.latents(batch), model.latents(replace(batch, activity=other)))
    grown = model.loss(replace(batch, activity=other), 0).total
    assert grown.item() != model.loss(batch, 0).total.item()  # but they are learned from


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("latents", 0, "at least 1"),
        ("hidden", 0, "at least 1"),
        ("stride", 0, "at least 1"),
        ("dropout", 1.0, "below 1"),
        ("timescale_bins", 0.0, "not positive"),
        ("tolerance", -1.0, "not positive"),
        ("solver", "rk5", "Did you mean 'rk4'"),
        ("likelihood", "poison", "Did you mean 'poisson'"),
    ],
)
def test_what_is_not_possible_is_refused(field: str, value: Any, said: str) -> None:
    (session,) = prepare([spiral(trials=6, bins=10, units=5)], DataConfig(simulator="spiral"))
    with pytest.raises(UserError, match=said):
        NeuralODE(NeuralODEConfig(**{field: value}), [session.layout])


@pytest.mark.slow
def test_held_out_units_of_real_reaches(shared_data: Path) -> None:
    """Above the .235 bits/spike of principal components with a Poisson readout on the same split."""
    split = SplitConfig(by="every", every=5, held_out_units=list(range(0, 174, 4)))
    data = DataConfig(path=str(shared_data / "m1_reach_100ms.npz"), bin_width_s=0.1, split=split)
    run = train(
        Experiment(model=NeuralODEConfig(), data=data, trainer=TrainerConfig(progress=False), report=False), write=False
    )
    assert run.sessions is not None
    assert CoBps()(Evaluation(run.model, run.sessions[0]))[0].value > 0.235
