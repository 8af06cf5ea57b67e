"""Each metric is its definition, worked out by hand on a planted session."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import poisson
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from lvmzoo.batch import Kind, Layout, Observation, Variable
from lvmzoo.data.trials import Session, Trials
from lvmzoo.findings import Findings
from lvmzoo.metrics import evaluate, score
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.baselines import PENALTIES, _smooth, baselines, oracle, principal_components
from lvmzoo.metrics.behavior_r2 import BehaviorR2

from .toy import Base, Full, Gaussian, make_session


def table(scores):
    return {(row.metric, row.target): row for row in scores}


def by_hand(session, model, part, method="latents", *given):
    """The view of a part, one trial at a time and nothing shared with Evaluation."""
    trials = getattr(session, part)
    rows = []
    with torch.no_grad():
        for i in range(len(trials)):
            batch = trials.batch([i]).hide(session.layout.held_out)
            rows.append(getattr(model.eval(), method)(batch, *given)[0][batch.valid[0]])
    return torch.cat(rows).numpy()


def stored(session, part, values):
    trials = getattr(session, part)
    index = np.concatenate([np.arange(a, b) for a, b in zip(trials.start, trials.stop, strict=True)])
    return values[index][trials.valid[index]].numpy()


def test_co_bps_scores_held_out_units_and_bits_per_spike_the_others():
    session = make_session()
    found = table(evaluate(Full(session), [session]))
    rates = by_hand(session, Full(session), "test", "rates")
    counts = stored(session, "test", session.test.activity).astype(float)
    for name, units in (("co_bps", session.layout.held_out), ("bits_per_spike", session.layout.held_in)):
        r, y = rates[:, units], counts[:, units]
        gain = poisson.logpmf(y, r).sum() - poisson.logpmf(y, y.mean(0)).sum()
        assert found[name, ""].value == pytest.approx(gain / y.sum() / np.log(2), abs=1e-10)
        assert found[name, ""].n == y.sum()
        assert found[name, ""].spread > 0


def test_a_held_out_unit_does_not_reach_its_own_prediction():
    session = make_session()
    changed = make_session()
    changed.test.activity[:, list(session.layout.held_out)] = 9
    for part in ("train", "test"):
        np.testing.assert_array_equal(
            Evaluation(Full(session), session).latents(part), Evaluation(Full(session), changed).latents(part)
        )


def test_without_held_out_units_there_is_no_co_bps():
    session = make_session(held_out=())
    found = table(evaluate(Gaussian(session), [session]))
    assert ("co_bps", "") not in found
    assert ("bits_per_spike", "") in found


def test_a_gaussian_model_is_scored_through_a_readout():
    session = make_session(trials=60)
    model = Gaussian(session)
    assert (by_hand(session, model, "test", "rates") < 0).any()
    row = table(evaluate(model, [session]))["co_bps", ""]
    assert "Poisson readout" in row.note
    counts = stored(session, "test", session.test.activity).astype(float)[:, session.layout.held_out]
    rates = stored(session, "test", session.test.truth["rates"])[:, session.layout.held_out]
    best = (poisson.logpmf(counts, rates) - poisson.logpmf(counts, counts.mean(0))).sum() / counts.sum() / np.log(2)
    assert 0 < row.value < best


def test_log_likelihood_is_per_valid_bin():
    session = make_session()
    model = Full(session)
    trials = session.test
    total, bins = 0.0, 0
    for i in range(len(trials)):
        batch = trials.batch([i])
        total += float(model.log_likelihood(batch))
        bins += int(batch.valid.sum())
    row = table(evaluate(model, [session]))["log_likelihood", ""]
    assert row.value == pytest.approx(total / bins)
    assert row.n == bins


def test_log_likelihood_of_one_long_trial_has_a_spread_over_blocks():
    session = make_session(trials=10, lengths=(400,))
    row = table(evaluate(Full(session), [session]))["log_likelihood", ""]
    assert row.spread > 0


def test_latent_r2_is_recovery_and_state_r2():
    session = make_session()
    model = Base(session)
    inferred = {part: by_hand(session, model, part) for part in ("train", "test")}
    true = {part: stored(session, part, session.train.truth["latents"]) for part in ("train", "test")}
    found = table(evaluate(model, [session]))
    for name, x, y in (("latent_r2", inferred, true), ("state_r2", true, inferred)):
        predicted = LinearRegression().fit(x["train"], y["train"]).predict(x["test"])
        expected = r2_score(y["test"], predicted, multioutput="variance_weighted")
        assert found[name, ""].value == pytest.approx(expected, abs=1e-6)


def test_variance_explained_is_around_the_training_mean():
    session = make_session()
    model = Full(session)
    region = session.layout.region("b")
    train, test = (stored(session, part, session.train.activity)[:, region].astype(float) for part in ("train", "test"))
    predicted = by_hand(session, model, "test", "predict_target", "b")
    expected = 1 - ((test - predicted) ** 2).sum() / ((test - train.mean(0)) ** 2).sum()
    row = table(evaluate(model, [session]))["variance_explained", "b"]
    assert row.value == pytest.approx(expected)


def test_continuous_activity_has_r2_and_no_spikes():
    session = make_session(observation=Observation.CONTINUOUS)
    found = table(evaluate(Gaussian(session), [session]))
    rates = by_hand(session, Gaussian(session), "test", "rates")
    truth = stored(session, "test", session.test.activity)
    units = list(session.layout.held_out)
    assert found["co_r2", ""].value == pytest.approx(r2_score(truth[:, units], rates[:, units]), rel=1e-6)
    assert not {"co_bps", "bits_per_spike"} & {row.metric for row in evaluate(Gaussian(session), [session])}


@pytest.mark.parametrize(
    ("model", "observation"),
    [(Full, Observation.COUNTS), (Gaussian, Observation.COUNTS), (Gaussian, Observation.CONTINUOUS)],
)
def test_models_can_be_chosen_on_validation_data(model, observation):
    session = make_session(observation=observation)
    fitted = model(session)
    found = table(evaluate(fitted, [session]))
    moved = table(evaluate(fitted, [replace(session, test=session.validation)]))
    chosen = [key for key, row in found.items() if row.validation is not None]
    counts = {"co_bps", "bits_per_spike", "rate_r2", "co_rate_r2"}
    expected = counts if observation is Observation.COUNTS else {"co_r2", "activity_r2"}
    expected = expected | {"latent_r2", "state_r2"}
    assert {metric for metric, _ in chosen} == expected | ({"variance_explained"} if model is Full else set())
    for key in chosen:
        assert found[key].validation == pytest.approx(moved[key].value, abs=1e-12)
    none = evaluate(fitted, [replace(session, validation=session.validation.select([]))])
    assert [row.validation for row in none] == [None] * len(none)


def test_behavior_rows_fit_their_kind():
    found = table(evaluate(Base(make_session()), [make_session()]))
    for suffix in ("", "_knn"):
        assert found["behavior_error" + suffix, "heading"].unit == "deg"
        assert found["behavior_error" + suffix, "heading"].better == "lower"
        assert found["behavior_error" + suffix, "heading"].value < 60  # chance: 90
        assert found["behavior_r2" + suffix, "velocity"].value > 0.15
        assert found["behavior_accuracy" + suffix, "side"].note.startswith("majority 0.653")
    for name, row in table(score(oracle(make_session()))).items():
        if name[0].startswith("behavior_accuracy"):
            assert row.value > 0.95  # the side is a property of the first latent
    assert (
        found["behavior_r2", "velocity"].n < found["behavior_accuracy", "side"].n
    )  # bins without a label are not counted


def test_baselines_bound_a_model():
    session = make_session(trials=60)
    found = {name.split(" smoothed")[0]: table(rows) for name, rows in baselines(session, 2).items()}
    assert set(found) == {"PCA on counts", "counts", "oracle"}
    assert 0.3 < found["PCA on counts"]["latent_r2", ""].value < 1
    assert found["oracle"]["co_bps", ""].value > found["PCA on counts"]["co_bps", ""].value > 0
    assert found["oracle"]["behavior_r2", "velocity"].value > 0.99
    assert found["counts"]["behavior_error", "heading"].value < 45


def test_principal_components_see_training_bins_of_held_in_units_only():
    session, changed = make_session(), make_session()
    stop = int(changed.train.stop[-1])
    changed.test.activity[stop:] = torch.flip(changed.test.activity[stop:], [0]) * 3
    changed.test.activity[:, list(session.layout.held_out)] = 50
    one, _ = principal_components(session, 2)
    other, _ = principal_components(changed, 2)
    assert one.latents("train").shape == (len(one.bins("train")), 2)
    if np.shape(one.latents("train")) == np.shape(other.latents("train")):
        width_one, width_other = principal_components(session, 2)[1], principal_components(changed, 2)[1]
        if width_one == width_other:
            np.testing.assert_allclose(one.latents("train"), other.latents("train"), atol=1e-9)


def test_the_oracle_needs_the_truth():
    session = make_session()
    for part in (session.train, session.validation, session.test):
        part.truth.clear()
    assert oracle(session) is None
    assert not {"latent_r2", "state_r2"} & {row.metric for row in score(principal_components(session, 2)[0])}


def m1(folder, held_out):
    with np.load(folder / "m1_reach_100ms.npz") as file:
        stored = {name: file[name] for name in file.files}
    counts = torch.from_numpy(stored["counts"].astype(np.uint8))
    length = stored["trial_length_bins"].astype(np.int64)
    stop = np.cumsum(length)
    velocity = Variable(Kind.CONTINUOUS, 2)
    names = tuple(map(str, range(174)))
    layout = Layout("m1", {"m1": 174}, names, Observation.COUNTS, 0.1, {"velocity": velocity}, held_out=held_out)
    whole = Trials(
        layout=layout,
        activity=counts,
        start=stop - length,
        stop=stop,
        valid=torch.ones(len(counts), dtype=torch.bool),
        table=pd.DataFrame({"start_s": (stop - length) * 0.1}),
        behavior={"velocity": torch.from_numpy(stored["hand_velocity"].astype(np.float32))},
    )
    test = np.arange(len(length)) % 5 == 0
    return Session(whole.select(np.flatnonzero(~test)), whole.select([]), whole.select(np.flatnonzero(test)))


def test_m1_principal_components_reach_the_known_co_bps(shared_data):
    """Ten components and a Poisson readout, every fourth unit and every fifth trial held out: .235."""
    evaluation, _ = principal_components(m1(shared_data, tuple(range(0, 174, 4))), 10)
    assert table(score(evaluation))["co_bps", ""].value == pytest.approx(0.235, abs=0.02)


def test_m1_ridge_reaches_the_known_velocity_r2(shared_data):
    """.55 from the same bin, .64 from counts smoothed by one bin; every fifth trial held out."""
    session = m1(shared_data, ())
    for width, known in ((1e-3, 0.55), (0.1, 0.64)):
        smooth = {part: np.concatenate([*_smooth(session, part, width)]) for part in ("train", "validation", "test")}
        found = table(BehaviorR2(PENALTIES)(Evaluation(None, session, known={"latents": smooth})))
        assert found["behavior_r2", "velocity"].value == pytest.approx(known, abs=0.015)


def test_trials_of_unknown_condition_are_left_out_of_findings(monkeypatch, caplog):
    session = make_session()
    condition = np.arange(len(session.train)) % 3 - 1
    train = replace(session.train, condition=condition)
    asked = []
    monkeypatch.setattr(Full, "findings", lambda self, batch, *rest: asked.append(batch) or Findings(()))
    evaluation = Evaluation(Full(session), replace(session, train=train), 0)
    evaluation.findings()
    assert asked[0].condition.tolist() == condition[condition >= 0].tolist()
    known = session.train.batch().activity[condition >= 0]
    assert torch.equal(asked[0].activity[:, : known.shape[1]], known[:, : asked[0].n_bins])
    assert f"{(condition < 0).sum()} of {len(condition)} training trials" in caplog.text
