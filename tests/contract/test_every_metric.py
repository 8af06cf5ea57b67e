"""What every metric keeps to, whatever it measures."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math

import numpy as np
import pytest
import torch

from lvmzoo.batch import Observation
from lvmzoo.metrics import METRICS, Evaluation, Score, evaluate, score
from lvmzoo.models.base import CAPABILITIES
from tests.metrics.toy import Base, Contrasting, Full, Gaussian, Remembering, make_session

MODELS = {"latents only": Base, "every capability": Full, "negative rates": Gaussian, "pairs": Contrasting}
SESSIONS = {
    "counts": {},
    "missing samples": {"missing": True},
    "no held-out units": {"held_out": ()},
    "continuous": {"observation": Observation.CONTINUOUS},
    "one long trial a part": {"trials": 5, "lengths": (400,)},
    "a time among the behavior": {"timed": True},
    "conditions": {"trials": 60, "conditions": 2},
}

everywhere = pytest.mark.parametrize("data", SESSIONS)
all_models = pytest.mark.parametrize("model", MODELS)
all_metrics = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def rows(metric, model, session):
    if metric.needs is not None and not isinstance(model, metric.needs):
        return []
    return metric(Evaluation(model, session))


@all_metrics
def test_it_is_named_and_says_what_it_needs(metric):
    assert METRICS[metric.name] is metric
    assert metric.needs is None or metric.needs in CAPABILITIES
    assert "``n`` counts" in inspect.getdoc(type(metric))


def test_each_metric_gives_a_row_somewhere():
    silent = set(METRICS)
    for settings in SESSIONS.values():
        session = make_session(**settings)
        for model in (Full, Contrasting, Remembering):
            silent -= {name for name in silent if rows(METRICS[name], model(session), session)}
    assert not silent


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_model_of_no_latents_is_scored_by_all():
    """Cross-validation may choose none."""

    class Empty(Base):
        def latents(self, batch):
            return super().latents(batch)[..., :0]

    session = make_session()
    found = score(Evaluation(Empty(session), session))
    assert found
    assert all(math.isfinite(row.value) or row.note for row in found)


@everywhere
@all_models
@all_metrics
def test_scores_are_complete(metric, model, data):
    session = make_session(**SESSIONS[data])
    for row in rows(metric, MODELS[model](session), session):
        assert isinstance(row, Score)
        assert row.session == session.layout.session
        assert math.isfinite(row.value)
        assert math.isfinite(row.spread)
        assert row.spread >= 0
        assert row.n > 0
        assert row.target in ("", *session.layout.behavior, *session.layout.units)
        json.dumps(dataclasses.asdict(row), allow_nan=False)


@all_models
def test_it_needs_a_capability_or_gives_no_row(model):
    session = make_session()
    has = MODELS[model](session)
    found = {row.metric for row in evaluate(has, [session])}
    lacking = {m.name for m in METRICS.values() if m.needs is not None and not isinstance(has, m.needs)}
    assert not found & lacking
    assert {"latent_r2", "co_bps", "behavior_r2", "behavior_error_knn"} <= found


@everywhere
@all_models
def test_the_same_input_gives_the_same_scores_and_leaves_everything_as_it_was(model, data):
    session = make_session(**SESSIONS[data])
    fitted = MODELS[model](session).train()
    before, held = copy.deepcopy(fitted.state_dict()), session.test.activity.clone()
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = evaluate(fitted, [session], seed=3)
    assert first == evaluate(fitted, [session], seed=3)
    assert fitted.training
    assert all(torch.equal(before[name], value) for name, value in fitted.state_dict().items())
    assert torch.equal(held, session.test.activity)
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


@all_models
def test_garbage_where_nothing_was_recorded_changes_no_score(model):
    clean, dirty = make_session(missing=True), make_session(missing=True)
    dirty.test.activity[dirty.test.missing] = 3000
    dirty.test.activity[~dirty.test.valid] = 3000
    assert evaluate(MODELS[model](clean), [clean]) == evaluate(MODELS[model](dirty), [dirty])


@all_models
def test_nothing_is_fitted_on_test_bins(model):
    """What the readouts say of the same test bins does not depend on the other test trials."""
    session = make_session()
    fitted = MODELS[model](session)
    whole, half = Evaluation(fitted, session), dataclasses.replace(session, test=session.test.select(range(3)))
    score(whole)
    part = Evaluation(fitted, half)
    score(part)
    for key in (("decoders", "ridge"), ("decoders", "knn")):
        kept = [next(v for k, v in e._kept.items() if k[:2] == key) for e in (whole, part)]
        for name, decoder in kept[0].items():
            latents = whole.latents("test")
            np.testing.assert_array_equal(decoder.predict(latents), kept[1][name].predict(latents))


@all_models
@pytest.mark.parametrize("emptied", ["validation", "test"])
def test_an_empty_part_is_survived(model, emptied):
    session = make_session()
    session = dataclasses.replace(session, **{emptied: session.test.select([])})
    found = evaluate(MODELS[model](session), [session])
    assert bool(found) == (emptied == "validation")


@all_models
@pytest.mark.parametrize("trials", [0, 1])
@pytest.mark.filterwarnings("error")
def test_too_little_to_fit_a_readout_to_is_survived_in_silence(model, trials):
    session = make_session()
    session = dataclasses.replace(session, train=session.train.select(range(trials)))
    found = {row.metric for row in evaluate(MODELS[model](session), [session])}
    read_out = model != "every capability"
    assert ("bits_per_spike" in found) == (trials > 0 or not read_out)


def test_several_sessions_each_have_their_rows():
    one = make_session()
    other = dataclasses.replace(one)
    found = evaluate(Full(one), [one, other])
    between = [row for row in found if row.metric == "session_consistency"]
    assert len(found) - len(between) == 2 * len(evaluate(Full(one), [one]))
    assert [row.value for row in between] == pytest.approx([1.0, 1.0])  # the same session twice
