"""Scores of what a model decodes by itself, and of what it predicts ahead of time, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from lvmzoo.batch import Batch, Observation
from lvmzoo.metrics import Evaluation
from lvmzoo.metrics.decoded_behavior import DecodedBehavior
from lvmzoo.metrics.forecast_behavior import ForecastBehavior
from lvmzoo.metrics.forecast_r2 import ForecastR2
from lvmzoo.models.base import Decodes, Forecasts, ForecastsBehavior
from tests.metrics.toy import Base, make_session

LENGTH, TRIALS = 40, 12
HELD_IN = [0, 1, 2, 4]


class Recalls(Base, Decodes, Forecasts, ForecastsBehavior):
    """Says of a bin what a slow oscillation was some bins earlier."""

    def said(self, batch: Batch, horizon: int, channels: int) -> torch.Tensor:
        bins = torch.arange(batch.n_bins, dtype=torch.float64)[None, :, None]
        turn = 0.1 * (bins - horizon) + batch.trial_index[:, None, None] + torch.arange(channels)
        return torch.sin(turn)

    def forecast(self, batch: Batch, horizon: int) -> torch.Tensor:
        return self.said(batch, horizon, batch.layout.n_units)

    def decode(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"velocity": self.said(batch, 0, 2) + 5, "side": (self.said(batch, 0, 1) > 0).double()}

    def forecast_behavior(self, batch: Batch, horizon: int) -> dict[str, torch.Tensor]:
        return {"velocity": self.said(batch, horizon, 2) + 5}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    session = make_session(
        trials=60, lengths=(LENGTH,), units=(3, 2), held_out=(3,), observation=Observation.CONTINUOUS
    )
    return Evaluation(Recalls(session), session)


def on_grid(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return trial number and bin of the trial of all valid test bins, which have no gap but one at the start."""
    test = evaluation.session.test
    trial, inside = np.divmod(np.arange(TRIALS * LENGTH), LENGTH)
    valid = np.concatenate([test.valid.numpy()[a:b] for a, b in zip(test.start, test.stop, strict=True)])
    return trial[valid], inside[valid]


@pytest.mark.parametrize("horizon", [1, 5])
def test_a_forecast_is_scored_in_the_bins_of_which_something_is_known(evaluation: Evaluation, horizon: int) -> None:
    trial, inside = on_grid(evaluation)
    index = np.concatenate([batch.trial_index.numpy() for batch in evaluation.batches("test")])
    shown = inside >= horizon
    turns = 0.1 * (inside - horizon) + index[trial]
    said = np.sin(turns[:, None] + np.array(HELD_IN))
    truth = evaluation.activity("test").numpy()[:, HELD_IN]
    (score,) = ForecastR2((horizon,))(evaluation)
    assert (score.metric, score.n) == (f"forecast_r2_{horizon}", shown.sum())
    assert score.value == pytest.approx(r2_score(truth[shown], said[shown]), abs=1e-9)
    assert score.spread is not None
    behavior = evaluation.behavior("test", "velocity")
    known = shown & np.isfinite(behavior).all(1)
    said = np.sin(turns[:, None] + np.arange(2)) + 5
    (score,) = ForecastBehavior((horizon,))(evaluation)
    assert (score.metric, score.target) == (f"forecast_behavior_r2_{horizon}", "velocity")
    assert score.n == known.sum()
    assert score.value == pytest.approx(r2_score(behavior[known], said[known]), abs=1e-6)


def test_a_horizon_longer_than_every_trial_has_no_row(evaluation: Evaluation) -> None:
    assert [score.metric for score in ForecastR2((LENGTH - 1, LENGTH))(evaluation)] == [f"forecast_r2_{LENGTH - 1}"]


def test_what_a_model_decodes_is_scored_as_it_is(evaluation: Evaluation) -> None:
    trial, inside = on_grid(evaluation)
    index = np.concatenate([batch.trial_index.numpy() for batch in evaluation.batches("test")])
    turns = 0.1 * inside + index[trial]
    velocity, side = DecodedBehavior()(evaluation)  # the heading, which it does not decode, has no row
    truth = evaluation.behavior("test", "velocity")
    known = np.isfinite(truth).all(1)
    expected = r2_score(truth[known], (np.sin(turns[:, None] + np.arange(2)) + 5)[known])
    assert (velocity.metric, velocity.target) == ("decoded_r2", "velocity")
    assert velocity.value == pytest.approx(expected, abs=1e-6)
    right = (np.sin(turns) > 0) == evaluation.behavior("test", "side")[:, 0]
    assert (side.metric, side.value) == ("decoded_accuracy", pytest.approx(right.mean()))
