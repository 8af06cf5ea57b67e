"""Statistics of samples: each is its definition; samples of the truth pass, and each planted fault is found out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ks_2samp

from lvmzoo.batch import Layout, Observation
from lvmzoo.data.trials import Session, Trials
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.counted import Limits, correlations, counted, ks, less, means, total
from lvmzoo.metrics.generation import Generation
from lvmzoo.models.base import Samples

from .toy import Base

UNITS, BINS = 8, 40
MEAN = np.linspace(0.2, 2.0, UNITS)  # spikes per bin
LOADING = np.linspace(-0.6, 0.6, UNITS)


def drawn(trials, bins, seed, correlated=True, factor=1.0, early=False):
    """Poisson counts whose log rates share one latent, in each bin by itself."""
    random = np.random.default_rng(seed)
    latent = random.normal(size=(trials, bins, 1 if correlated else UNITS))
    counts = random.poisson(factor * MEAN * np.exp(latent * LOADING - LOADING**2 / 2))
    return -np.sort(-counts, axis=1) if early else counts


def world(trials=150, held_out=(), lengths=(BINS,), missing=False):
    activity = drawn(trials, max(lengths), 0)
    length = np.resize(lengths, trials)
    flat = torch.from_numpy(np.concatenate([counts[:n] for counts, n in zip(activity, length, strict=True)]))
    stop = np.cumsum(length)
    layout = Layout(
        "planted", {"all": UNITS}, tuple("abcdefgh"), Observation.COUNTS, 0.02, longest_bins=BINS, held_out=held_out
    )
    absent = torch.from_numpy(np.random.default_rng(5).random(flat.shape) < 0.2) if missing else None
    whole = Trials(
        layout=layout,
        activity=flat.to(torch.int16),
        start=stop - length,
        stop=stop,
        valid=torch.ones(len(flat), dtype=torch.bool),
        table=pd.DataFrame({"start_s": 0.02 * (stop - length)}),
        missing=absent,
    )
    return Session(whole.select(range(10)), whole.select([]), whole.select(range(10, trials)))


class Makes(Base, Samples):
    def __init__(self, session, **how):
        super().__init__(session)
        self.how = how

    def sample(self, session, trials, bins, seed):
        activity = drawn(trials, bins, seed, **self.how)
        return torch.zeros(trials, bins, 1), torch.from_numpy(activity).double()


def table(session, **how):
    return {
        row.metric.removeprefix("generated_"): row for row in Generation()(Evaluation(Makes(session, **how), session))
    }


@pytest.fixture(scope="module")
def session():
    return world()


def halves(row):
    return float(row.note.split()[-1])


@pytest.mark.parametrize("settings", [{}, {"lengths": (40, 25, 33)}, {"missing": True}, {"held_out": (1, 4)}])
def test_samples_of_the_truth_pass(settings):
    found = table(world(**settings))
    assert list(found) == ["rates", "correlations", "counts", "population", "intervals"]
    for name in ("rates", "correlations"):
        assert found[name].better == "higher"
        assert found[name].value == pytest.approx(found[name].ceiling, abs=max(3 * found[name].spread, 0.01))
        assert found[name].value > 0.9
    for name in ("counts", "population", "intervals"):
        assert found[name].better == "lower"
        assert found[name].value < halves(found[name])


def test_twice_the_rate_is_found_out(session):
    good, bad = table(session), table(session, factor=2.0)
    assert bad["rates"].value < 0 < good["rates"].value
    for name in ("counts", "population", "intervals"):
        assert bad[name].value > 3 * halves(bad[name])
        assert bad[name].value - good[name].value > 5 * bad[name].spread


def test_independent_units_are_found_out_by_correlations_and_population_alone(session):
    good, bad = table(session), table(session, correlated=False)
    assert bad["correlations"].value < 0.1
    assert bad["rates"].value > 0.98
    assert bad["counts"].value < halves(bad["counts"])
    assert bad["population"].value > 1.5 * good["population"].value


def test_spikes_that_crowd_in_time_are_found_out_by_intervals_and_not_by_counts(session):
    bad = table(session, early=True)
    assert bad["intervals"].value > 3 * halves(bad["intervals"])
    assert bad["counts"].value < halves(bad["counts"])


def test_values_are_those_of_scipy_and_numpy(session):
    found = table(session)
    data = session.test.activity[10 * BINS :].numpy().astype(float)
    seed = [int(np.random.default_rng([0, repeat, 0]).integers(2**31)) for repeat in range(4)]  # 5600 bins to 20 000
    samples = np.concatenate([drawn(140, BINS, each).reshape(-1, UNITS) for each in seed])

    def r2(one, other):
        return 1 - ((one - other) ** 2).sum() / ((other - other.mean()) ** 2).sum()

    pairs = np.triu_indices(UNITS, 1)
    assert found["rates"].value == pytest.approx(r2(samples.mean(0), data.mean(0)))
    expected = r2(np.corrcoef(samples.T)[pairs], np.corrcoef(data.T)[pairs])
    assert found["correlations"].value == pytest.approx(expected)
    each = [ks_2samp(samples[:, unit], data[:, unit]).statistic for unit in range(UNITS)]
    assert found["counts"].value == pytest.approx(np.mean(each))
    assert found["population"].value == pytest.approx(ks_2samp(samples.sum(1), data.sum(1)).statistic)
    apart = [[intervals(side, unit) for unit in range(UNITS)] for side in (samples, data)]
    each = [ks_2samp(*pair).statistic for pair in zip(*apart, strict=True)]
    assert found["intervals"].value == pytest.approx(np.average(each, weights=[len(unit) for unit in apart[1]]))
    assert found["rates"].n == len(data)


def intervals(counts, unit):
    found = []
    for trial in counts[:, unit].astype(int).reshape(-1, BINS):
        found += list(np.diff(np.repeat(np.arange(BINS), trial)))
    return found


def test_the_spread_is_how_far_values_vary(session):
    found = []
    for part in np.array_split(np.arange(len(session.test)), 10):
        found.append(table(replace(session, test=session.test.select(part)))["counts"])
    varied = np.std([row.value for row in found], ddof=1)
    assert 0.4 < np.mean([row.spread for row in found]) / varied < 2.5


def test_missing_samples_are_left_out_of_pairs():
    random = np.random.default_rng(0)
    x, known = random.poisson(2.0, (500, 4)).astype(float), random.random((500, 4)) < 0.7
    x[:, 1] += x[:, 0]
    x[:, 3] = 2.0
    bins = np.arange(500)
    half = [
        counted(np.where(known, x, 0)[s], known[s], 0 * bins[s], bins[s], np.arange(4), None)
        for s in (slice(0, 200), slice(200, 500))
    ]
    frame = pd.DataFrame(np.where(known, x, np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = frame.corr().to_numpy()[np.triu_indices(4, 1)]
    np.testing.assert_allclose(correlations(total(half)), expected, atol=1e-12)
    np.testing.assert_allclose(means(total(half)), frame.mean())
    np.testing.assert_allclose(means(less(total(half), half[0])), frame[200:].mean())


def test_histograms_end_where_the_limits_are():
    x = np.array([[0.0, 7], [2, 9], [0, 0], [1, 1]])
    bins = np.arange(4)
    found = counted(x, np.ones_like(x, dtype=bool), 0 * bins, bins, [0, 1], Limits(3, 6, 2))
    np.testing.assert_array_equal(found.counts, [[2, 1, 1, 0], [1, 1, 0, 2]])
    np.testing.assert_array_equal(found.population, [[1, 0, 1, 0, 0, 0, 2]])
    np.testing.assert_array_equal(found.intervals, [[1, 0, 1], [14, 1, 1]])
    assert ks(np.zeros((1, 3)), np.ones((1, 3)), np.ones(1)) == 1  # nothing was sampled
    assert np.isnan(ks(np.ones((1, 3)), np.zeros((1, 3)), np.ones(1)))  # nothing was recorded


def test_models_of_residuals_have_no_rows(session):
    model = Makes(session)
    model.config.residuals = True
    assert Generation()(Evaluation(model, session)) == []
