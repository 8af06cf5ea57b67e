"""Of noise, a model explains only what it saw: every such score says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lvmzoo.batch import Observation
from lvmzoo.metrics import evaluate
from lvmzoo.models.base import Reconstructs

from .toy import Base, make_session

# These are high without a model that explains anything: one compares a model with itself, the others have a majority.
APART = {"cycle_consistency", "behavior_accuracy", "behavior_accuracy_knn"}


class Copies(Base, Reconstructs):
    """Its rates are the activity that it is shown, and 1 elsewhere."""

    positive_rates = True

    def rates(self, batch):
        return torch.where(batch.observed, batch.activity.double(), 1.0)


def noise(observation):
    """A session whose activity has nothing to do with anything."""
    session = make_session(trials=60, conditions=2, observation=observation)
    shape, random = session.train.activity.shape, np.random.default_rng(5)
    drawn = random.poisson(1.0, shape) if observation is Observation.COUNTS else random.normal(1.0, 1.0, shape)
    activity = torch.from_numpy(drawn).to(session.train.activity.dtype)
    parts = (replace(part, activity=activity) for part in (session.train, session.validation, session.test))
    return replace(session, **dict(zip(("train", "validation", "test"), parts, strict=True)))


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (Observation.COUNTS, {"bits_per_spike", "residual_r2"}),
        (Observation.CONTINUOUS, {"activity_r2", "psth_r2", "residual_r2"}),
    ],
)
def test_whatever_explains_noise_is_of_what_the_model_saw(observation, expected):
    session = noise(observation)
    found = [row for row in evaluate(Copies(session), [session]) if row.metric not in APART]
    explained = [row for row in found if row.better == "higher" and row.value > 0.3]
    assert {row.metric for row in explained} >= expected
    assert [row.metric for row in explained if not row.seen] == []
    assert all(not row.seen for row in found if row.metric.startswith(("co_", "few_shot_co_bps", "fp_bps")))
