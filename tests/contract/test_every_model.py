"""Promises that every model of the zoo keeps, and every plugin: the registry is the test plan."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from lvmzoo import registry
from lvmzoo.batch import Batch
from lvmzoo.config import Experiment, TrainerConfig
from lvmzoo.data.trials import Session
from lvmzoo.findings import Findings
from lvmzoo.models.base import (
    Communicates,
    Connects,
    Decodes,
    Filters,
    Forecasts,
    GradientModel,
    HasDynamics,
    HasPosterior,
    Model,
    Reconstructs,
    Samples,
    Scores,
    StatisticsModel,
)
from lvmzoo.run import Run, load_run
from lvmzoo.train import train
from tests.contract import world

NAMES = list(registry.entries())
STATISTICS = [name for name in NAMES if issubclass(registry.get(name).model, StatisticsModel)]
EM = [name for name in STATISTICS if registry.get(name).model.passes is None]
GRADIENT = [name for name in NAMES if issubclass(registry.get(name).model, GradientModel)]
FILTERS = [name for name in NAMES if issubclass(registry.get(name).model, Filters)]
DYNAMICAL = [name for name in NAMES if issubclass(registry.get(name).model, HasDynamics)]
STEPS = 150
FEW_STEPS = 20  # where it does not matter what was learned


@pytest.fixture(scope="module")
def session() -> Session:
    return world.session()


def experiment(name: str, **trainer: Any) -> Experiment:
    entry = registry.get(name)
    layout = world.session().layout
    limits = {"max_epochs": 8} if name in STATISTICS else {"max_steps": STEPS, "batch_size": 64, "learning_rate": 3e-3}
    return Experiment(
        model=entry.tiny(layout),
        data=world.DATA,
        trainer=TrainerConfig(**{**limits, "tolerance": 0.0, "patience": 0, "progress": False, **trainer}),
        report=False,
    )


def short(name: str) -> dict[str, int]:
    """Limits of training for tests that need a model to be fitted, but not well."""
    return {} if name in STATISTICS else {"max_steps": FEW_STEPS}


def fit(name: str, recording: Any = None, **trainer: Any) -> Run:
    return train(experiment(name, **trainer), [recording or world.recording()], write=False)


class Fitted(dict[str, Run]):
    """Models by name, each fitted when it is first asked for."""

    def __missing__(self, name: str) -> Run:
        self[name] = fit(name)
        return self[name]


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return Fitted()


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, fitted: Fitted) -> Run:
    return fitted[request.param]


def outputs(model: Model, batch: Batch) -> dict[str, torch.Tensor]:
    """Everything that the model says about a batch, by capability."""
    with torch.no_grad():
        found = {"latents": model.latents(batch)}
        if isinstance(model, Reconstructs):
            found["rates"] = model.rates(batch)
        if isinstance(model, Communicates):
            found.update({f"target {name}": model.predict_target(batch, name) for name in model.routes})
        if isinstance(model, Decodes):
            found.update({f"decoded {name}": value for name, value in model.decode(batch).items()})
        if isinstance(model, Forecasts):
            found["forecast"] = model.forecast(batch, 2)
        if isinstance(model, Filters):
            found["filtered"] = model.filtered(batch)
        if isinstance(model, Scores):
            found["log-likelihood"] = model.log_likelihood(batch)
        if isinstance(model, HasPosterior):
            found["posterior mean"], found["posterior covariance"] = model.posterior(batch)
    return found


def assert_close(one: torch.Tensor, other: torch.Tensor, bins: torch.Tensor | None = None) -> None:
    if bins is not None and one.ndim > 1:
        one, other = one[bins], other[bins]
    tolerance = 1e-9 if one.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_fits_and_writes_a_run_that_loads_identically(tmp_path: Any, session: Session) -> None:
    for name in NAMES:
        made = train(dataclasses.replace(experiment(name, **short(name)), output=str(tmp_path)), [world.recording()])
        assert made.folder is not None
        assert (made.folder / "checkpoints" / "last.ckpt").is_file(), name
        again = load_run(made.folder)
        batch = session.test.batch().without_behavior()
        for key, value in outputs(made.model, batch).items():
            assert torch.equal(value, outputs(again.model, batch)[key]), (name, key)
        assert made.scores, f"no metric applies to {name}"
        assert [dataclasses.astuple(s)[:2] for s in again.scores] == [dataclasses.astuple(s)[:2] for s in made.scores]


def test_shapes_and_finite_values(run: Run, session: Session) -> None:
    batch = session.test.batch().without_behavior()
    trials, bins, units = batch.activity.shape
    found = outputs(run.model, batch)
    latents = found["latents"].shape[-1]
    assert found["latents"].shape == (trials, bins, latents)
    assert latents >= 1
    if "rates" in found:
        assert (
            found["rates"].shape == found["forecast" if "forecast" in found else "rates"].shape == (trials, bins, units)
        )
    if isinstance(run.model, Communicates):
        for target, sources in run.model.routes.items():
            assert set(sources) <= set(world.UNITS) - {target}
            assert found[f"target {target}"].shape == (trials, bins, world.UNITS[target])
    if "log-likelihood" in found:
        assert found["log-likelihood"].shape == (trials,)
    if "posterior mean" in found:
        assert found["posterior covariance"].shape == (trials, bins, latents, latents)
        assert_close(found["posterior mean"], found["latents"])
    if isinstance(run.model, Samples):
        drawn, activity = run.model.sample(batch.layout.session, 3, 11, seed=0)
        assert drawn.shape == (3, 11, latents)
        assert activity.shape == (3, 11, units)
        found["sample"] = activity
    for key, value in found.items():
        chosen = value[batch.valid] if value.ndim > 2 and value.shape[:2] == batch.valid.shape else value
        assert bool(torch.isfinite(chosen).all()), key


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_result_bit_for_bit(name: str) -> None:
    once = fit(name, **short(name)).model.state_dict()
    torch.rand(3)  # the state of the user's generator does not matter
    again = fit(name, **short(name)).model.state_dict()
    for key, value in once.items():
        assert torch.equal(value, again[key]), key


def test_fitting_and_latents_leave_no_trace(run: Run, session: Session) -> None:
    batch = session.test.batch().without_behavior()
    activity, observed = batch.activity.clone(), batch.observed.clone()
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    state = torch.get_rng_state()
    threads = torch.get_num_threads()
    outputs(run.model, batch)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.equal(activity, batch.activity)
    assert torch.equal(observed, batch.observed)
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("garbage", [1e6, float("nan")])
def test_padding_and_garbage_change_nothing(run: Run, session: Session, garbage: float) -> None:
    batch = session.test.batch([0, 1, 2]).without_behavior()
    hidden = batch.hide([3, 12])
    padded = session.test.batch([0, 1, 2, -1]).without_behavior().hide([3, 12])
    extra = 4
    trials, bins, units = padded.activity.shape
    activity = torch.full((trials, bins + extra, units), garbage)
    activity[:, :bins] = padded.activity
    valid = torch.zeros(trials, bins + extra, dtype=torch.bool)
    valid[:, :bins] = padded.valid
    observed = torch.zeros(activity.shape, dtype=torch.bool)
    observed[:, :bins] = padded.observed
    activity[~observed] = garbage
    dirty = dataclasses.replace(
        padded,
        activity=activity,
        valid=valid,
        observed=observed,
        behavior={k: torch.full((trials, bins + extra, v.shape[-1]), torch.nan) for k, v in padded.behavior.items()},
    )
    clean = outputs(run.model, hidden)
    for key, value in outputs(run.model, dirty).items():
        if value.ndim == 1:
            assert_close(value[:3], clean[key])
        else:
            assert_close(value[:3, :bins], clean[key], hidden.valid)


def test_trials_do_not_depend_on_each_other(run: Run, session: Session) -> None:
    together = outputs(run.model, session.test.batch().without_behavior())
    alone = session.test.batch([2]).without_behavior()
    for key, value in outputs(run.model, alone).items():
        if value.ndim == 1:
            assert_close(value[0], together[key][2])
        else:
            assert_close(value[0], together[key][2, : alone.n_bins])


@pytest.mark.parametrize("name", FILTERS)
def test_filters_step_by_step_and_look_no_further(name: str, fitted: Fitted, session: Session) -> None:
    model = fitted[name].model
    assert isinstance(model, Filters)
    batch = session.test.batch([0, 3]).without_behavior().hide([4])
    with torch.no_grad():
        whole = model.filtered(batch)
        state = model.initial(batch.layout.session, 2)
        for t in range(batch.n_bins):
            state, latents = model.step(state, batch.bins(t, t + 1))
            if t >= model.lag_bins:
                there = batch.valid[:, t]
                assert_close(latents[there], whole[there, t - model.lag_bins])
        middle = int(batch.valid.sum(1).min()) // 2
        later = batch.activity.clone()
        later[:, middle + 1 + model.lag_bins :] += 3
        changed = model.filtered(dataclasses.replace(batch, activity=later))
        assert_close(changed[:, : middle + 1], whole[:, : middle + 1])
        assert not torch.allclose(changed[:, middle + 1], whole[:, middle + 1])


@pytest.mark.parametrize("name", DYNAMICAL)
def test_dynamics_can_be_linearized(name: str, fitted: Fitted, session: Session) -> None:
    model = fitted[name].model
    assert isinstance(model, HasDynamics)
    batch = session.test.batch([0]).without_behavior()
    with torch.no_grad():
        points = model.latents(batch)[batch.valid]
    after = model.advance(points)
    assert after.shape == points.shape
    slope = torch.func.jacrev(lambda point: model.advance(point[None])[0])(points[0])
    nudge = 1e-3 * torch.randn(points.shape[1], generator=torch.Generator().manual_seed(0)).to(points)
    torch.testing.assert_close(
        model.advance((points[0] + nudge)[None])[0], after[0] + slope @ nudge, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("batch_size", [1, 5, 37])
def test_batch_size_changes_nothing(name: str, batch_size: int, fitted: Fitted, session: Session) -> None:
    batch = session.test.batch()
    other = outputs(fit(name, batch_size=batch_size).model, batch)
    for key, value in outputs(fitted[name].model, batch).items():
        torch.testing.assert_close(other[key], value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_add_up_over_any_partition(name: str, session: Session) -> None:
    entry = registry.get(name)
    model = entry.model(entry.tiny(session.layout), [session.layout])
    whole = session.train.batch()
    model.prepare([whole])
    order = np.random.default_rng(0).permutation(len(session.train))
    parts = [model.statistics(session.train.batch(rows)) for rows in np.array_split(order, 4)]
    filler = model.statistics(session.train.batch([-1]))
    for leaf, total, nothing in zip(zip(*parts, strict=True), model.statistics(whole), filler, strict=True):
        assert total.dtype == torch.float64
        scale = float(total.abs().max()) or 1.0
        assert float((sum(leaf) - total).abs().max()) <= 1e-10 * scale
        assert float(nothing.abs().max()) == 0.0


@pytest.mark.parametrize("name", EM)
def test_objective_never_falls(name: str, fitted: Fitted) -> None:
    objective = fitted[name].history["train/log_likelihood_per_bin"].to_numpy()
    assert len(objective) == 8
    assert (np.diff(objective) >= -1e-9 * np.abs(objective[1:])).all()
    assert objective[-1] > objective[0]


@pytest.mark.parametrize("name", GRADIENT)
def test_loss_falls_and_every_parameter_learns(name: str, fitted: Fitted) -> None:
    run = fitted[name]
    first = fit(name, max_steps=1)
    start, end = first.history["train/loss"].iloc[0], run.history["train/loss"].iloc[-1]
    assert end < start
    before, after = dict(first.model.named_parameters()), dict(run.model.named_parameters())
    for key, value in after.items():
        if value.requires_grad:
            assert not torch.equal(value, before[key]), f"{key} never changed"


@pytest.mark.parametrize("name", NAMES)
def test_silent_and_duplicated_units(name: str) -> None:
    """The data path drops a unit that is silent in training; one that is nearly silent, or twice there, it keeps."""
    from lvmzoo import from_arrays

    random = np.random.default_rng(1)
    counts = random.poisson(1.0, (16, 20, 10))
    counts[:, :, 3] = 0
    counts[0, 0, 3] = 1
    counts[:, :, 7] = counts[:, :, 6]
    hand = random.normal(size=(16, 20, 2)).cumsum(1)
    recording = from_arrays(
        counts,
        {"hand": hand, "heading": np.arctan2(hand[..., :1], hand[..., 1:]), "side": (hand[..., :1] > 0) * 1.0},
        bin_width_s=0.05,
        regions=["V1"] * 5 + ["V2"] * 5,
    )
    run = fit(name, recording, **short(name))
    assert run.sessions is not None
    for key, value in outputs(run.model, run.sessions[0].test.batch().without_behavior()).items():
        assert bool(torch.isfinite(value).all()), key


def test_finds_what_was_planted(run: Run, session: Session) -> None:
    """Latents are recovered better than by PCA of equal size; a target region better than by its mean."""
    train_batch, test_batch = session.train.batch().without_behavior(), session.test.batch().without_behavior()
    if isinstance(run.model, Communicates):
        for target in run.model.routes:
            region = session.layout.region(target)
            with torch.no_grad():
                predicted = run.model.predict_target(test_batch, target)[test_batch.valid].numpy()
            truth = test_batch.activity[test_batch.valid][:, region].double().numpy()
            mean = train_batch.activity[train_batch.valid][:, region].double().numpy().mean(0)
            assert ((truth - predicted) ** 2).sum() < 0.97 * ((truth - mean) ** 2).sum(), target
        return
    raw = [batch.activity[batch.valid].double().numpy() for batch in (train_batch, test_batch)]
    with torch.no_grad():
        found = [run.model.latents(batch)[batch.valid].numpy() for batch in (train_batch, test_batch)]
    pca = PCA(found[0].shape[1]).fit(raw[0])
    hand = [batch.behavior["hand"][batch.valid].numpy() for batch in (session.train.batch(), session.test.batch())]
    ours = LinearRegression().fit(found[0], hand[0]).score(found[1], hand[1])
    theirs = LinearRegression().fit(pca.transform(raw[0]), hand[0]).score(pca.transform(raw[1]), hand[1])
    assert ours > theirs


@pytest.mark.parametrize("name", NAMES)
def test_known_inputs_are_used_or_said_not_to_be(name: str) -> None:
    plan = experiment(name, **({"max_epochs": 2} if name in STATISTICS else short(name)))
    data = dataclasses.replace(world.DATA, inputs=["side"])
    run = train(dataclasses.replace(plan, data=data), [world.recording()], write=False)
    assert run.sessions is not None
    batch = run.sessions[0].test.batch().without_behavior()
    other = dataclasses.replace(batch, inputs={"side": 1 - batch.inputs["side"]})
    used = not torch.equal(outputs(run.model, batch)["latents"], outputs(run.model, other)["latents"])
    assert used == run.model.uses_inputs
    assert used != any("has no known inputs" in note for note in run.sessions[0].notes)


@pytest.mark.parametrize("name", NAMES)
def test_the_module_cites_its_paper(name: str) -> None:
    entry = registry.get(name)
    assert entry.reference.doi in (sys.modules[entry.model.__module__].__doc__ or "")
    assert entry.reference.key
    assert entry.summary.endswith(".")


def test_what_is_said_of_regions_is_complete(run: Run, session: Session) -> None:
    """Claims name regions of the session, nulls and intervals contain what they should, and a seed gives them again."""
    if not isinstance(run.model, Connects):
        return
    batch = session.train.batch().without_behavior()
    found = run.model.findings(batch, 0)
    assert found.claims
    for claim in found.claims:
        assert {claim.source, claim.target} <= set(session.layout.units)
        assert claim.source != claim.target
        assert claim.sentence.endswith(".")
        assert claim.p is None or 0 < claim.p <= 1
        if claim.interval is not None:
            assert claim.interval[0] <= claim.value <= claim.interval[1], claim
        if claim.evidence is not None and claim.question != "dimensions":
            assert claim.p is not None, claim
            assert claim.interval is not None, claim
    for profile in found.profiles:
        assert profile.value.shape == tuple(len(places) for places in profile.axes.values())
    assert Findings.from_json(json.loads(json.dumps(found.to_json()))).claims == found.claims
    assert run.model.findings(batch, 0).to_json() == found.to_json()
