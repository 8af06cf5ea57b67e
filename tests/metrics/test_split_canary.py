"""Nothing can be decoded from independent drifts, unless the split lets it."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from lvmzoo.data.trials import Session
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.split_canary import SplitCanary, drifts

from .toy import Base, make_session

TRIALS = 100


def whole(**settings):
    """All trials of the toy session, of one length, as one part."""
    session = make_session(trials=TRIALS, lengths=(30,), **settings)
    trials = session.train
    bins = np.arange(TRIALS) * 30
    table = trials.table.iloc[np.zeros(TRIALS, dtype=int)].reset_index(drop=True).assign(start_s=bins * 0.02)
    return replace(trials, start=bins, stop=bins + 30, table=table)


def interleaved():
    number = np.arange(TRIALS)
    test, validation = number % 5 == 0, number % 10 == 3
    parts = (~test & ~validation, validation, test)
    return Session(*(whole().select(np.flatnonzero(part)) for part in parts))


def blocks():
    return Session(*(whole().select(range(*ends)) for ends in ((0, 60), (65, 75), (80, 100))))


def by_scikit_learn(x, y):
    """Ridge on features of unit variance in the mean, its penalty by contiguous folds."""
    center, scale = x["train"].mean(0), np.sqrt(x["train"].var(0).mean())
    train, test = ((x[part] - center) / scale for part in ("train", "test"))
    penalties = np.logspace(-4, 0, 9)
    judged = [
        sum(
            r2_score(y["train"][held], Ridge(penalty).fit(train[rest], y["train"][rest]).predict(train[held]))
            for rest, held in KFold(5).split(train)
        )
        for penalty in penalties
    ]
    model = Ridge(penalties[int(np.argmax(judged))]).fit(train, y["train"])
    return r2_score(y["test"], model.predict(test))


@pytest.mark.parametrize("split", [interleaved, blocks])
def test_it_is_what_scikit_learn_decodes(split, monkeypatch):
    session = split()
    start = {part: getattr(session, part).table["start_s"].to_numpy() for part in ("train", "test")}
    times = {part: (first[:, None] + 0.02 * np.arange(30)).ravel() for part, first in start.items()}
    if split is interleaved:  # bins 5 to 7 of the first trial, which is tested, are a gap
        times["test"] = np.delete(times["test"], [5, 6, 7])
    else:
        times["train"] = np.delete(times["train"], [5, 6, 7])
    drawn = []

    def recorded(times_s, timescales_s, random):
        drawn.append((times_s, timescales_s, drifts(times_s, timescales_s, random)))
        return drawn[-1][-1]

    monkeypatch.setattr("lvmzoo.metrics.split_canary.drifts", recorded)
    [found] = SplitCanary(draws=6)(Evaluation(Base(session), session))
    expected = []
    for moments, timescales, drift in drawn:
        np.testing.assert_allclose(moments, np.concatenate([times["train"], times["test"]]), atol=1e-9)
        assert sorted(timescales[:-1] / np.ptp(moments)) == pytest.approx(np.repeat([1 / 8, 1 / 4, 1 / 2, 1], 4))
        parts = dict(zip(times, np.split(drift, [len(times["train"])]), strict=True))
        x, y = ({part: array[:, cut] for part, array in parts.items()} for cut in (slice(-1), slice(-1, None)))
        expected.append(by_scikit_learn(x, y))
    assert len(expected) == 6
    assert f"slow drifts {np.median(expected):.2g}, white noise -0.0" in found.note
    if split is interleaved:
        assert found.value == pytest.approx(np.median(expected), abs=1e-8)
    assert found.n == len(times["test"])


@pytest.mark.parametrize("seed", range(2))
def test_interleaved_trials_share_drift_and_blocks_do_not(seed):
    [leaky], [sound] = (SplitCanary()(Evaluation(Base(s), s, seed)) for s in (interleaved(), blocks()))
    assert leaky.value > 0.4
    assert -0.1 < sound.value < 0.02  # white noise is read out from white noise no better than by chance
    assert "slow drifts -" in sound.note
    assert leaky.better == sound.better == "lower"


def test_drifts_remember_for_their_timescale():
    times, timescales = np.linspace(0, 2000, 40_001), np.array([5.0, 20.0])
    found = drifts(times, np.repeat(timescales, 30), np.random.default_rng(0))
    assert found.std(0).mean() == pytest.approx(1, abs=0.05)
    lag = {5.0: 100, 20.0: 400}  # bins of 0.05 s
    for timescale, columns in zip(timescales, np.split(found, 2, axis=1), strict=True):
        shift = lag[float(timescale)]
        measured = (columns[shift:] * columns[:-shift]).mean() / columns.var()
        assert measured == pytest.approx(np.exp(-1), abs=0.06)


def test_a_baseline_of_the_same_session_has_no_row():
    session = interleaved()
    assert SplitCanary()(Evaluation(None, session)) == []


def test_a_long_session_takes_no_longer():
    session = make_session(trials=30, lengths=(20_000,), units=(2, 1), held_out=())
    evaluation = Evaluation(Base(session), session)
    evaluation.bins("train"), evaluation.bins("test")
    began = time.process_time()
    assert len(SplitCanary()(evaluation)) == 1
    assert time.process_time() - began < 3
