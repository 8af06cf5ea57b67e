"""Forward prediction, few-shot co-smoothing and condition averages are their definitions, worked out densely."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import r2_score

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.few_shot_co_bps import FewShotCoBps, draws_of
from lvmzoo.metrics.forward import cut_long
from lvmzoo.metrics.fp_bps import FpBps
from lvmzoo.metrics.poisson_readout import fit_readout
from lvmzoo.metrics.psth_r2 import PsthR2
from lvmzoo.metrics.residual_r2 import ResidualR2

from .toy import Base, Full, Gaussian, Remembering, make_session


def of(metric, model, session):
    return {row.metric: row for row in metric(Evaluation(model(session) if model else None, session))}


def bits(rates, counts, keep):
    """nlb_tools' bits per spike, with the mean of each unit over what is kept."""
    mean = np.where(keep, counts, 0).sum(0) / keep.sum(0)
    model, null = (poisson.logpmf(counts, np.where(r == 0, 1e-9, r)) for r in (rates, mean + 0 * rates))
    return (model - null)[keep].sum() / counts[keep].sum() / np.log(2)


def trial_by_trial(session, part, function):
    """What a function of a trial of its own and the number of its last bin gives, trial after trial."""
    trials = getattr(session, part)
    found = []
    for i in range(len(trials)):
        batch = trials.batch([i]).hide(session.layout.held_out)
        found.append(function(batch, int(batch.valid[0].nonzero().max()) + 1))
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def ends_by_hand(session, part, method, model):
    """Views of the last ten bins of 20 ms of each trial, or a quarter of it, with these bins set to garbage."""

    def one(batch, length):
        ahead = min(10, length // 4)
        first = length - ahead
        observed = batch.observed.clone()
        observed[:, first:] = False
        activity = batch.activity.clone()
        activity[:, first:] = 77
        blind = replace(batch, activity=activity, observed=observed)
        stop = slice(first, length)
        with torch.no_grad():
            seen = getattr(model.eval(), method)(blind)[0, stop]
        there = getattr(session, part).batch([int(batch.trial_index)]).observed[0, stop]
        kept = batch.valid[0, stop]
        return tuple(each[kept].double().numpy() for each in (seen, batch.activity[0, stop], there))

    values, counts, there = trial_by_trial(session, part, one)
    return values, counts, there.astype(bool)


@pytest.mark.parametrize("missing", [False, True])
def test_fp_bps_is_of_the_last_200_ms_that_the_model_does_not_see(missing):
    session = make_session(trials=60, missing=missing)
    row = of(FpBps(), Remembering, session)["fp_bps"]
    rates, counts, there = ends_by_hand(session, "test", "rates", Remembering(session))
    assert row.value == pytest.approx(bits(rates, counts, there), abs=1e-9)
    assert row.n == counts[there].sum()
    assert not row.seen
    session.test.truth["rates"] *= 0
    session.test.truth["rates"] += 1.3
    even = of(FpBps(), Remembering, session)["fp_bps"]
    assert even.ceiling == pytest.approx(bits(1.3 + 0 * rates, counts, there), abs=1e-6)


def test_fp_bps_of_negative_rates_is_read_out_from_expected_latents():
    class Linear(Remembering):
        positive_rates = False

    session = make_session(trials=60)
    row = of(FpBps(), Linear, session)["fp_bps"]
    model = Linear(session)
    x, y, _ = ends_by_hand(session, "train", "latents", model)
    new, counts, there = ends_by_hand(session, "test", "latents", model)
    rates = fit_readout(x, torch.from_numpy(y)).rates(new)
    assert row.value == pytest.approx(bits(rates, counts, there), abs=1e-9)
    assert "Poisson readout" in row.note


def test_what_a_model_says_of_the_end_without_looking_back_is_not_scored():
    session = make_session()
    assert not of(FpBps(), Full, session)
    assert not of(FpBps(), Base, session)
    assert not FpBps()(Evaluation(None, session))


def test_long_trials_are_cut_for_forward_prediction():
    session = make_session(trials=5, lengths=(20_000,))
    assert len(session.test) == 1
    pieces = cut_long(session.test)
    assert set(pieces.lengths[:-1]) == {500}  # ten seconds
    assert pieces.n_bins == session.test.n_bins
    assert of(FpBps(), Remembering, session)["fp_bps"].n > 1000
    short = make_session(trials=5, lengths=(400,))
    assert list(cut_long(short.test).lengths) == [100] * 4  # two seconds
    one = make_session(trials=30)
    assert cut_long(one.test).lengths.tolist() == one.test.lengths.tolist()


@pytest.mark.parametrize("missing", [False, True])
def test_few_shot_co_bps_is_of_readouts_of_few_trials(missing):
    session = make_session(trials=40, missing=missing)
    evaluation = Evaluation(Gaussian(session), session)
    metric = FewShotCoBps(shots=(6,))
    [row] = metric(evaluation)
    units = list(session.layout.held_out)
    x, new = evaluation.latents("train"), evaluation.latents("test")
    white = np.linalg.inv(np.linalg.cholesky(np.cov(x.T, bias=True)))
    x, new = (x - x.mean(0)) @ white.T, (new - evaluation.latents("train").mean(0)) @ white.T
    y = evaluation.activity("train", units).numpy().astype(float)
    counts = evaluation.activity("test", units).numpy().astype(float)
    seen, there = (evaluation.recorded(part, units) for part in ("train", "test"))
    seen, there = (np.ones(a.shape, bool) if b is None else b.numpy() for a, b in ((y, seen), (counts, there)))
    draws = draws_of(evaluation.groups("train"), 6, 0)
    assert len(draws) == 20
    assert {len(np.unique(evaluation.groups("train")[draw])) for draw in draws} == {6}
    found = {}
    for penalty in (1000.0, 100.0, 10.0, 1.0):
        values, gains = [], []
        for draw in draws:
            pooled = y[draw][seen[draw]].mean()
            weights = []
            for unit in range(len(units)):
                kept = draw & seen[:, unit]
                # The pseudo-observation of half a spike is one more bin at the mean of the latents.
                weight = np.r_[np.ones(kept.sum()), 0.5 / pooled]
                fit = PoissonRegressor(alpha=penalty / weight.sum(), tol=1e-12, max_iter=500, solver="newton-cholesky")
                fit.fit(np.r_[x[kept], np.zeros((1, 3))], np.r_[y[kept, unit], pooled], sample_weight=weight)
                weights.append(fit)
            rates, rest = (np.stack([fit.predict(z) for fit in weights], 1) for z in (new, x[~draw]))
            values.append(bits(rates, counts, there))
            gains.append(bits(rest, y[~draw], seen[~draw]) * y[~draw][seen[~draw]].sum())
        found[np.sum(gains)] = values
    values = found[max(found)]
    assert row.value == pytest.approx(np.mean(values), abs=1e-6)
    assert row.spread == pytest.approx(np.std(values, ddof=1) / np.sqrt(20), abs=1e-6)
    assert row.metric == "few_shot_co_bps_6"
    assert row.value < row.ceiling


def test_latents_that_are_noise_cost_few_shots_more_than_many():
    """Latents that the model invented: co-bps of all training trials hardly tells, that of four trials does."""
    session = make_session(trials=60, lengths=(30,))
    random = np.random.default_rng(0)
    true = {part: Evaluation(None, session).truth(part, "latents") for part in ("train", "validation", "test")}
    more = {part: np.c_[x, random.normal(size=(len(x), 12))] for part, x in true.items()}
    metric = FewShotCoBps(shots=(4, 16))
    lean, fat = (metric(Evaluation(None, session, known={"latents": latents})) for latents in (true, more))
    lost = [a.value - b.value for a, b in zip(lean, fat, strict=True)]
    assert lost[0] > 4 * abs(lost[1])
    assert lost[0] > 2 * lean[0].spread


def test_there_are_no_few_shots_without_trials_or_held_out_units_or_counts():
    assert not of(FewShotCoBps(), Gaussian, make_session(held_out=()))
    assert not of(FewShotCoBps(), Gaussian, make_session(observation=Observation.CONTINUOUS))
    assert not of(FewShotCoBps(shots=(10,)), Gaussian, make_session(trials=30))  # 18 for training
    [row] = of(FewShotCoBps(), Gaussian, make_session(trials=5, lengths=(400,))).values()
    assert row.metric == "few_shot_co_bps_4"
    assert "twentieths" in row.note


def test_silent_held_out_units_stay_finite():
    session = make_session(trials=60, conditions=2)
    session.test.activity[:, [3, 4]] = 0
    for metric in (FewShotCoBps(), FpBps(), PsthR2(), ResidualR2()):
        rows = of(metric, Remembering, session)
        assert rows
        assert all(np.isfinite([row.value, row.spread]).all() for row in rows.values())


def dense(session, values, width=0.0):
    """Test values as trial x bin x unit, NaN where nothing was recorded; smoothed by a dense kernel."""
    trials = session.test
    found = np.full((len(trials), trials.lengths.max(), values.shape[1]), np.nan)
    for i, (start, stop) in enumerate(zip(trials.start, trials.stop, strict=True)):
        x = values[start:stop].double().numpy()
        there = trials.valid[start:stop, None].numpy() & np.ones(x.shape, bool)
        if trials.missing is not None:
            there &= ~trials.missing[start:stop].numpy()
        lag = np.abs(np.subtract.outer(np.arange(len(x)), np.arange(len(x))))
        reach = int(np.ceil(3 * width))
        kernel = np.where(lag <= reach, np.exp(-0.5 * (lag / width) ** 2), 0) if width else np.eye(len(x))
        x = kernel @ np.where(there, x, 0) / np.maximum(kernel @ there, 1e-300)
        found[i, : stop - start] = np.where(there, x, np.nan)
    return found


def averages(values, condition):
    """Condition means of at least five trials, condition x bin x unit."""
    found = []
    for level in np.unique(condition[condition >= 0]):
        of_level = values[condition == level]
        few = np.isfinite(of_level).sum(0) < 5
        found.append(np.where(few, np.nan, np.nanmean(np.where(few, 0.0, of_level), 0)))
    return np.array(found)


def mean_r2(truth, predicted, told):
    found = []
    for unit in range(truth.shape[-1]):
        y, r = truth[..., unit].ravel(), predicted[..., unit].ravel()
        known = np.isfinite(y)
        if told[unit]:
            found.append(r2_score(y[known], r[known]))
    return np.mean(found)


def ceilings(values, condition):
    """What the true condition means would reach, of each unit: the variance of the measured ones is noise."""
    means, noise = averages(values, condition), []
    for level in np.unique(condition[condition >= 0]):
        of_level = values[condition == level]
        count = np.isfinite(of_level).sum(0)
        squares = np.nansum((of_level - averages(values, condition)[len(noise)]) ** 2, 0)
        noise.append(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
    known = np.isfinite(means)
    total = np.where(known, (means - np.nanmean(means, (0, 1))) ** 2, 0).sum((0, 1))
    return 1 - np.where(known, noise, 0).sum((0, 1)) / np.maximum(total, 1e-300)


@pytest.mark.parametrize("observation", Observation)
@pytest.mark.parametrize("missing", [False, True])
def test_psth_and_residual_r2_are_those_of_dense_averages(missing, observation):
    held_out = (3, 5, 7, 9, 13, 14)
    session = make_session(trials=70, conditions=2, missing=missing, observation=observation, held_out=held_out)
    for start in session.test.start[session.test.condition == 1]:
        session.test.activity[start : start + 12] += 3  # what the trials of a condition share
    session.test.condition[3] = -1
    model = Full(session)
    counts = observation is Observation.COUNTS
    trials, condition = session.test, session.test.condition
    rates = torch.zeros(session.test.activity.shape, dtype=torch.float64)
    stored = trials.flat[trials.valid[trials.flat].numpy()]
    rates[stored] = torch.from_numpy(Evaluation(model, session).rates("test"))
    smooth, raw, predicted = (
        dense(session, values, width)
        for values, width in ((trials.activity, 0.07 / 0.02 * counts), (trials.activity, 0), (rates, 0))
    )
    rows = of(PsthR2(), Full, session) | of(ResidualR2(), Full, session)
    for prefix, units in (("", session.layout.held_in), ("co_", session.layout.held_out)):
        truth, ours = averages(smooth, condition)[..., units], averages(predicted, condition)[..., units]
        row = rows[f"{prefix}psth_r2"]
        best = ceilings(smooth, condition)[list(units)]
        assert row.value == pytest.approx(mean_r2(truth, ours, best > 0), abs=1e-9)
        assert row.ceiling == pytest.approx(best[best > 0].mean(), abs=1e-9)
        assert row.n == np.isfinite(truth).any(-1).sum()
        assert row.seen == (prefix == "")
        left = [
            np.concatenate([x[condition == c] - averages(x, condition)[c] for c in range(2)])[..., units]
            for x in (raw, predicted)
        ]
        share = np.nansum((left[0] - left[1]) ** 2) / np.nansum(left[0] ** 2)
        assert rows[f"{prefix}residual_r2"].value == pytest.approx(1 - share, abs=1e-9)
        assert rows[f"{prefix}residual_r2"].n == np.isfinite(left[0]).any(-1).sum()


def test_the_ceiling_of_the_psth_is_that_of_all_halves_of_the_trials():
    session = make_session(trials=30, lengths=(25,), conditions=1)  # six test trials, one condition
    smooth = dense(session, session.test.activity, 0.07 / 0.02)
    units = list(session.layout.held_in)
    noise = np.zeros(smooth.shape[1:])
    halves = list(combinations(range(6), 3))
    for half in halves:
        rest = [i for i in range(6) if i not in half]
        noise += (smooth[list(half)].mean(0) - smooth[rest].mean(0)) ** 2 / 4 / len(halves)
    mean = np.nanmean(smooth, 0)[:, units]
    known = np.isfinite(mean).all(1)
    total = ((mean[known] - mean[known].mean(0)) ** 2).sum(0)
    row = of(PsthR2(), Full, session)["psth_r2"]
    best = 1 - noise[:, units][known].sum(0) / total
    assert row.ceiling == pytest.approx(best[best > 0].mean(), abs=1e-9)
    assert f"{(best > 0).sum()} of {len(units)} units" in row.note
    assert "1 condition, 6 test trials" in row.note


def test_the_true_averages_reach_the_ceiling():
    random = np.random.default_rng(3)
    session = make_session(trials=800, lengths=(30,), conditions=4, held_out=())
    psth = np.exp(random.normal(0, 0.8, (4, 30, 18)))
    rates = np.concatenate([psth[i % 4] for i in range(800)])
    session.test.activity[:] = torch.from_numpy(random.poisson(rates).astype(np.int16))
    stored = session.test.flat[session.test.valid[session.test.flat].numpy()]
    [row] = PsthR2()(Evaluation(None, session, known={"rates": {"test": rates[stored]}}))
    width = 0.07 / 0.02
    lag = np.abs(np.subtract.outer(np.arange(30), np.arange(30)))
    kernel = np.where(lag <= np.ceil(3 * width), np.exp(-0.5 * (lag / width) ** 2), 0)
    smooth = np.einsum("st,ctu->csu", kernel / kernel.sum(1, keepdims=True), psth)
    known = {"rates": {"test": np.concatenate([smooth[i % 4] for i in range(800)])[stored]}}
    [best] = PsthR2()(Evaluation(None, session, known=known))
    assert best.value == pytest.approx(best.ceiling, abs=0.02)
    assert row.value < best.value
    assert 0 < best.spread < 0.05


def test_a_unit_of_one_spike_does_not_decide():
    values = []
    for spikes in (0, 1):
        session = make_session(trials=60, conditions=2)
        session.test.activity[:, 0] = 0
        session.test.activity[session.test.start[2] + 4, 0] = spikes
        known = {"rates": {"test": Evaluation(None, session).truth("test", "rates")}}
        values.append(PsthR2()(Evaluation(None, session, known=known))[0].value)
    assert values[0] == values[1]


def test_without_conditions_or_with_too_few_trials_there_are_no_averages():
    plain, few = make_session(), make_session(trials=30, conditions=2)  # three test trials each
    single = make_session(trials=5, lengths=(400,), conditions=1)
    for metric in (PsthR2(), ResidualR2()):
        for session in (plain, few, single):
            assert not of(metric, Full, session)


def test_units_that_the_model_saw_are_labeled():
    from lvmzoo.metrics import evaluate

    for observation in Observation:
        session = make_session(trials=60, conditions=2, observation=observation)
        seen = {row.metric: row.seen for row in evaluate(Remembering(session), [session])}
        shown = {name for name, value in seen.items() if value}
        assert shown == {"bits_per_spike", "rate_r2", "activity_r2", "psth_r2", "residual_r2"} & set(seen)
