"""Intervals that are right cover what they say, in any coordinates; overconfident and cautious ones are found out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from lvmzoo.batch import Layout, Observation
from lvmzoo.data.trials import Session, Trials
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.calibration import Calibration
from lvmzoo.models.base import HasPosterior

from .toy import Base

LATENTS, UNITS, BINS = 2, 6, 50
MIXING = np.array([[30.0, 4.0], [-0.2, 0.5]])


def world(seed=0, trials=120):
    """Unit-variance latents, each bin by itself, seen through a linear readout with noise of unit variance."""
    random = np.random.default_rng(seed)
    latents = random.normal(size=(trials * BINS, LATENTS)) @ np.linalg.cholesky([[1, 0.6], [0.6, 1]]).T
    readout = np.random.default_rng(1).normal(size=(LATENTS, UNITS)) * 0.7
    activity = latents @ readout + random.normal(size=(len(latents), UNITS))
    start = np.arange(trials) * BINS
    layout = Layout("planted", {"all": UNITS}, tuple("abcdef"), Observation.CONTINUOUS, 0.02)
    whole = Trials(
        layout=layout,
        activity=torch.from_numpy(activity),
        start=start,
        stop=start + BINS,
        valid=torch.ones(len(latents), dtype=torch.bool),
        table=pd.DataFrame({"start_s": 0.02 * start}),
        truth={"latents": torch.from_numpy(latents)},
    )
    parts = (range(trials // 2), [], range(trials // 2, trials))
    return Session(*(whole.select(rows) for rows in parts)), readout


class Exact(Base, HasPosterior):
    """The posterior of the world in other coordinates, its standard deviations times a factor."""

    def __init__(self, session, readout, factor=1.0, keep=LATENTS):
        super().__init__(session)
        prior = np.array([[1, 0.6], [0.6, 1]])
        precision = np.linalg.inv(prior) + readout @ readout.T
        self.covariance = np.linalg.inv(precision)
        gain = self.covariance @ readout
        mixing = MIXING[:keep]
        self.projection.data = torch.from_numpy((mixing @ gain).T.copy())
        self.covariance = torch.from_numpy(factor**2 * mixing @ self.covariance @ mixing.T)

    def latents(self, batch):
        return super().latents(batch) + 3

    def posterior(self, batch):
        mean = self.latents(batch)
        return mean, self.covariance.expand(*mean.shape, mean.shape[-1])


def rows(**settings):
    session, readout = world()
    return Calibration()(Evaluation(Exact(session, readout, **settings), session))


def test_a_right_posterior_is_calibrated_in_any_coordinates():
    found = rows()
    assert [row.metric for row in found] == ["coverage_error_50", "coverage_error_90", "coverage_error_95"]
    for row in found:
        assert row.value < max(3 * row.spread, 0.015)
        assert (row.better, row.n) == ("lower", 60 * BINS)


@pytest.mark.parametrize("factor", [1 / 3, 0.7, 2.0])
def test_a_wrong_one_is_found_out_and_by_how_much(factor):
    for row, level in zip(rows(factor=factor), (0.5, 0.9, 0.95), strict=True):
        expected = 2 * norm.cdf(factor * norm.ppf(0.5 + level / 2)) - 1
        assert row.value == pytest.approx(abs(expected - level), abs=0.02)
        assert row.note.endswith("overconfident" if factor < 1 else "too cautious")


def test_it_is_the_share_of_true_values_within_the_intervals():
    session, readout = world(trials=40)
    model = Exact(session, readout)
    evaluation = Evaluation(model, session)
    known, mean = np.c_[evaluation.latents("train"), np.ones(20 * BINS)], evaluation.latents("test")
    solution = np.linalg.solve(known.T @ known, known.T @ evaluation.truth("train", "latents"))
    deviation = np.sqrt(np.diag(solution[:-1].T @ model.covariance.numpy() @ solution[:-1]))
    off = np.abs(evaluation.truth("test", "latents") - mean @ solution[:-1] - solution[-1]) / deviation
    for row, level in zip(Calibration()(evaluation), (0.5, 0.9, 0.95), strict=True):
        inside = off <= norm.ppf(0.5 + level / 2)
        assert row.value == pytest.approx(abs(inside.mean() - level), abs=1e-9)
        trials = inside.mean(1).reshape(20, -1).mean(1)
        assert row.spread == pytest.approx(trials.std(ddof=1) / np.sqrt(20))


def test_latents_that_are_missing_lie_outside():
    assert rows(keep=1)[1].note.endswith("overconfident")


def test_without_true_latents_there_is_no_row():
    session, readout = world(trials=12)
    session.train.truth.clear()
    assert Calibration()(Evaluation(Exact(session, readout), session)) == []
