"""What readouts of shuffled labels reach agrees with scikit-learn on the same shuffles, and is chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

from lvmzoo.batch import Kind, Variable
from lvmzoo.data.trials import Session
from lvmzoo.metrics.base import PARTS, Evaluation
from lvmzoo.metrics.behavior_knn import BehaviorKnn
from lvmzoo.metrics.behavior_r2 import BehaviorR2
from lvmzoo.metrics.chance import shuffles
from lvmzoo.metrics.decode import PENALTIES, fit_decoder
from lvmzoo.metrics.decoded_behavior import DecodedBehavior
from lvmzoo.metrics.forecast_behavior import ForecastBehavior
from lvmzoo.metrics.within_a_second import WithinASecond

from .toy import Base, Full, make_session


def labeled(evaluation, name):
    """Latents, labels and trial of the bins that have a label, by part; trials count through the parts."""
    latents, labels, trial, past = {}, {}, {}, 0
    for part in PARTS:
        trials = evaluation.trials(part)
        known = np.isfinite(evaluation.behavior(part, name)).all(1)
        number = np.repeat(np.arange(len(trials)), trials.lengths)
        trial[part] = number[trials.valid[trials.flat].numpy()][known] + past
        latents[part], labels[part] = evaluation.latents(part)[known], evaluation.behavior(part, name)[known]
        past += len(trials)
    return latents, labels, trial


def ridge_by_hand(x, y, new, truth):
    """R2 of scikit-learn's ridge regression, its penalty from five contiguous folds."""
    scale = np.sqrt(x.var(0).mean())
    x, new = (x - x.mean(0)) / scale, (new - x.mean(0)) / scale
    totals = []
    for penalty in PENALTIES:
        total = 0.0
        for fold in np.array_split(np.arange(len(x)), 5):
            rest = np.setdiff1d(np.arange(len(x)), fold)
            total += r2_score(y[fold], Ridge(penalty).fit(x[rest], y[rest]).predict(x[fold]))
        totals.append(total)
    return r2_score(truth, Ridge(PENALTIES[int(np.argmax(totals))]).fit(x, y).predict(new))


def knn_by_hand(x, y, held, judged, new, truth):
    best = (-np.inf, 0, "")
    for metric in ("euclidean", "cosine"):
        for k in (1, 2, 4, 8, 16, 32, 64):
            model = KNeighborsRegressor(k, metric=metric, algorithm="brute").fit(x, y)
            value = r2_score(judged, model.predict(held))
            best = max(best, (value, k, metric), key=lambda each: each[0])
    model = KNeighborsRegressor(best[1], metric=best[2], algorithm="brute").fit(x, y)
    return r2_score(truth, model.predict(new))


@pytest.mark.parametrize("settings", [{}, {"trials": 5, "lengths": (300,)}])
@pytest.mark.parametrize("kind", ["ridge", "knn"])
def test_readouts_of_shuffled_labels_are_those_of_scikit_learn(kind, settings):
    session = make_session(**settings)
    evaluation = Evaluation(Base(session), session, seed=4)
    metric = BehaviorR2() if kind == "ridge" else BehaviorKnn()
    [row] = [r for r in metric(evaluation) if "_r2" in r.metric and r.target == "velocity"]
    x, y, trial = labeled(evaluation, "velocity")
    null = []
    for drawn in shuffles(y, trial, 4):
        if kind == "ridge":
            null.append(ridge_by_hand(x["train"], drawn["train"], x["test"], drawn["test"]))
        else:
            train, held = (x["train"], drawn["train"]), (x["validation"], drawn["validation"])
            null.append(knn_by_hand(*train, *held, x["test"], drawn["test"]))
    null = np.sort(null)
    assert len(null) == 20
    # The 95th percentile lies between the 19th and the 20th of 20: 0.95 x 21 = 19.95.
    assert row.chance == pytest.approx(0.05 * null[18] + 0.95 * null[19], abs=1e-8)
    assert row.p == pytest.approx((1 + (null >= row.value).sum()) / 21)


def test_shuffled_trials_hold_the_labels_of_another_trial_in_their_order():
    trial = {"train": np.repeat(np.arange(12), 5), "test": np.repeat([12, 13], [3, 7])}
    labels = {part: (100.0 * n + np.concatenate([np.arange(c) for c in np.bincount(n)[n[0] :]]))[:, None]
              for part, n in trial.items()}  # fmt: skip
    for drawn in shuffles(labels, trial, 0, draws=50):
        for part, n in trial.items():
            for one in np.unique(n):
                got = drawn[part][n == one, 0]
                donor, place = np.unique(got // 100), got % 100
                assert len(donor) == 1
                length = {12: 3, 13: 7}.get(int(donor[0]), 5)
                assert (np.diff(place) % length == 1).all()
    assert len({drawn["test"].tobytes() for drawn in shuffles(labels, trial, 0)}) == 20


def test_with_few_trials_labels_are_rolled_along_the_session():
    trial = {"train": np.repeat([0, 1], 40), "validation": np.full(10, 2), "test": np.full(10, 3)}
    labels = {part: (np.arange(len(n)) + 100.0 * n[0])[:, None] for part, n in trial.items()}
    whole = np.concatenate([*labels.values()])
    for drawn in shuffles(labels, trial, 1):
        moved = np.concatenate([*drawn.values()])
        [shift] = [s for s in range(100) if (np.roll(whole, s, axis=0) == moved).all()]
        assert 25 <= shift <= 75


def drifting(session, seed):
    """Latents that know nothing of behavior, and last as long as it does."""
    random = np.random.default_rng(seed)
    n = len(session.train.valid)
    kernel = np.exp(-0.5 * (np.arange(-30, 31) / 10) ** 2)
    noise = np.stack([np.convolve(x, kernel, "same") for x in random.normal(size=(2, n))], 1)
    return {part: noise[Evaluation(None, session).bins(part)] for part in PARTS}


@pytest.mark.parametrize("metric", [BehaviorR2(), BehaviorKnn()])
def test_latents_that_know_nothing_are_at_chance(metric):
    rows = []
    for seed in range(12):
        session = make_session(seed=seed)
        rows += metric(Evaluation(None, session, seed, known={"latents": drifting(session, seed)}))
    ps = np.array([row.p for row in rows])
    assert len(ps) == 12 * 4
    assert (ps <= 0.05).mean() < 0.15
    assert 0.3 < ps.mean() < 0.7


@pytest.mark.parametrize("metric", [BehaviorR2(), BehaviorKnn()])
def test_latents_that_know_are_beyond_chance_for_every_kind_of_variable(metric):
    session = make_session(trials=60)
    known = {"latents": {part: Evaluation(None, session).truth(part, "latents") for part in PARTS}}
    rows = metric(Evaluation(None, session, known=known))
    assert {row.target for row in rows} == {"heading", "velocity", "side"}
    for row in rows:
        assert row.p == pytest.approx(1 / 21)
        assert (row.value < row.chance) if row.better == "lower" else (row.value > row.chance)


def test_a_label_that_is_the_same_in_every_trial_can_be_told():
    """The frame of a movie: labels of another trial would be the same ones."""
    session = make_session(trials=40, lengths=(30,))
    time = torch.arange(len(session.train.valid)) % 30
    wave = torch.stack([torch.sin(time / 5), torch.cos(time / 7)], 1).double()
    layout = replace(session.layout, behavior={"frame": Variable(Kind.CONTINUOUS)})
    parts = {
        part: replace(getattr(session, part), layout=layout, behavior={"frame": time[:, None].float()}, truth={})
        for part in PARTS
    }
    session = Session(**parts)
    latents = {part: wave.numpy()[Evaluation(None, session).bins(part)] for part in PARTS}
    for metric in (BehaviorR2(), BehaviorKnn()):
        [row] = metric(Evaluation(None, session, known={"latents": latents}))
        assert row.p == pytest.approx(1 / 21)


def test_one_test_trial_and_labels_that_are_mostly_missing():
    session = make_session(trials=30)
    session = replace(session, test=session.test.select([0]))
    session.train.behavior["velocity"][::2] = torch.nan
    for metric in (BehaviorR2(), BehaviorKnn()):
        for row in metric(Evaluation(Base(session), session)):
            assert np.isfinite([row.value, row.chance, row.p]).all()


def test_chance_can_be_left_out():
    session = make_session()
    for metric in (BehaviorR2(chance=False), BehaviorKnn(chance=False)):
        assert all(row.chance is None and row.p is None for row in metric(Evaluation(Base(session), session)))


def test_what_a_model_says_by_itself_is_beside_the_same_labels_shuffled():
    session = make_session(timed=True)
    model = Full(session)
    evaluation = Evaluation(model, session)
    rows = DecodedBehavior()(evaluation) + ForecastBehavior((2,))(evaluation)
    assert len(rows) == 8
    assert all(row.chance is not None and row.p is not None for row in rows)
    _, labels, trial = labeled(evaluation, "velocity")
    said = evaluation.decoded("test")["velocity"][np.isfinite(evaluation.behavior("test", "velocity")).all(1)]
    null = [r2_score(shuffled["test"], said) for shuffled in shuffles(labels, trial, 0)]
    row = next(row for row in rows if (row.metric, row.target) == ("decoded_r2", "velocity"))
    assert row.chance == pytest.approx(np.quantile(null, 0.95, method="weibull"), abs=1e-9)
    assert row.p == (1 + sum(value >= row.value for value in null)) / 21
    error = next(row for row in rows if row.metric == "decoded_error")
    assert 60 < error.chance < 120  # degrees; knowing nothing errs by 90


def test_how_often_a_time_is_right_by_chance():
    session = make_session(timed=True, trials=60)
    rows = {row.metric: row for row in WithinASecond()(Evaluation(Base(session), session))}
    linear = rows["behavior_within_1s"]
    evaluation = Evaluation(Base(session), session)
    x, labels, trial = labeled(evaluation, "movie_s")
    null = []
    for shuffled in shuffles(labels, trial, 0):
        decoded = fit_decoder(x["train"], shuffled["train"], Variable(Kind.CONTINUOUS)).predict(x["test"])
        null.append((np.abs(decoded - shuffled["test"]) <= 1).mean())
    assert linear.chance == pytest.approx(np.quantile(null, 0.95, method="weibull"))
    assert linear.value > linear.chance
    assert linear.p == pytest.approx(1 / 21)
    assert rows["behavior_within_1s_knn"].chance is not None


def test_a_variable_that_a_session_lacks_has_no_row():
    session = make_session()
    layout = replace(session.layout, behavior={"side": session.layout.behavior["side"]})
    without = Session(*(replace(getattr(session, part), layout=layout) for part in PARTS))
    assert {row.target for row in DecodedBehavior()(Evaluation(Full(session), without))} == {"side"}
