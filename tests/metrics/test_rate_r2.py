"""R2 of rates is that of scikit-learn, unit by unit; shared variance is the mean over the folds that there are."""

from __future__ import annotations

import pytest
from sklearn.metrics import r2_score

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.rate_r2 import RateR2
from lvmzoo.metrics.shared_variance import SharedVarianceOfUnits

from .toy import Base, Full, make_session


def test_it_is_the_mean_over_units_of_the_r2_of_scikit_learn():
    session = make_session(held_out=(3, 13))
    evaluation = Evaluation(Full(session), session)
    truth, rates = evaluation.truth("test", "rates"), evaluation.rates("test")
    held_in, held_out = RateR2()(evaluation)
    assert held_in.metric == "rate_r2"
    assert held_in.value == pytest.approx(r2_score(truth[:, session.layout.held_in], rates[:, session.layout.held_in]))
    assert held_out.metric == "co_rate_r2"
    assert held_out.value == pytest.approx(r2_score(truth[:, [3, 13]], rates[:, [3, 13]]))
    assert held_in.n == len(truth)


class Oracle(Base):
    def rates(self, batch):
        truth = self.session.test.truth["rates"][self.session.test.flat]
        return truth.double().reshape(*batch.activity.shape[:2], -1)


def test_true_rates_have_one():
    session = make_session(lengths=(40,), held_out=())
    model = Oracle(session)
    model.session = session
    [row] = RateR2()(Evaluation(model, session))
    assert row.value == pytest.approx(1.0)


def test_no_row_without_truth_or_without_counts():
    session = make_session(observation=Observation.CONTINUOUS)
    assert RateR2()(Evaluation(Full(session), session)) == []
    session = make_session()
    session.test.truth.clear()
    assert RateR2()(Evaluation(Full(session), session)) == []


def test_shared_variance_is_over_the_folds_that_hold_data():
    session = make_session()
    share, dimensions = SharedVarianceOfUnits()(Evaluation(Full(session), session))
    assert (share.metric, share.value, share.n) == ("shared_variance", pytest.approx(0.35), 2)
    assert (dimensions.metric, dimensions.value) == ("dimensionality", pytest.approx(2.5))
    assert share.spread == pytest.approx(0.05)
    assert "3 latents" in share.note
