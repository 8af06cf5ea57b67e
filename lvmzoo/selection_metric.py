"""What the values of one setting are compared by: one metric, of what the fitted models did not see."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lvmzoo.batch import Observation, PairSampling
from lvmzoo.config import Experiment
from lvmzoo.data.trials import Session
from lvmzoo.errors import UserError
from lvmzoo.metrics import METRICS
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.behavior_r2 import BehaviorR2
from lvmzoo.models.base import Communicates, GradientModel, Model, Reconstructs, Scores
from lvmzoo.run import Run

__all__ = ["HELD_OUT_UNITS", "Measure", "is_number", "measure_of", "named", "refuse_other_questions"]

HELD_OUT_UNITS = 0.25  # for co-smoothing, where data.split.held_out_units says nothing
FEWEST_UNITS = 8  # of which a quarter is held out
SMOOTHING = ("data.smoothing_s", "data.causal_smoothing")
JUDGES = {**METRICS, "behavior_r2": BehaviorR2(chance=False)}  # a choice between values needs no null
CHANGES_NOTHING = ("data.inputs",)  # of the data, in what is predicted


@dataclass(frozen=True)
class Measure:
    """A metric of ``JUDGES``, and those of its rows that count; higher is better."""

    metric: str
    row: str  # names of rows begin with it
    title: str  # in words
    unit: str = ""
    hides_units: bool = False  # scores units that the model does not see

    def of(self, run: Run) -> float:
        """Return the mean over sessions and targets on the test part; NaN where there is none."""
        assert run.sessions is not None
        found = [
            score.value
            for session in run.sessions
            for score in JUDGES[self.metric](Evaluation(run.model, session, run.experiment.seed))
            if score.metric.startswith(self.row) and score.better == "higher"
        ]
        return float(np.mean(found)) if found else math.nan


LIKELIHOOD = Measure("log_likelihood", "log_likelihood", "log-likelihood of held-out trials", "nats/bin")
REGIONS = Measure("variance_explained", "variance_explained", "1 - NSE of the target region in held-out trials")
PAIRS = Measure("goodness_of_fit", "goodness_of_fit", "goodness of fit of held-out pairs", "bits")
BEHAVIOR = Measure("behavior_r2", "behavior", "decoding of behavior from the latents of held-out trials")
COUNTS = Measure("co_bps", "co_bps", "co-smoothing of held-out units in held-out trials", "bits/spike", True)
ACTIVITY = Measure("activity_r2", "co_r2", "R2 of held-out units in held-out trials", "", True)


def measure_of(experiment: Experiment, model: Model, session: Session, key: str, values: Sequence[Any]) -> Measure:
    """Return what the values of a setting are compared by: an honest prediction of what a fit did not see.

    Held-out units in held-out trials, where a model reconstructs: of eight planted latents of an LDS and five of
    Gaussian processes it chose the planted number for spike counts with 10 of 10 seeds, where the likelihood of
    held-out trials did with 7 (a Gaussian density counts what is not Gaussian as further latents), and with 10 of 10
    for Gaussian activity, as the likelihood did (scripts/results/selection.py; 50 units, 100 trials of 50 bins). Of few
    units, too few to hold some out, it is the likelihood, unless values are words, which can change what a density is
    of. A target region is predicted from the others; pairs of a contrastive model are drawn from held-out trials, and
    behavior is decoded where the setting says which pairs belong together.

    Parameters
    ----------
    experiment : with one of the values.
    model, session : built for it; not fitted.
    key, values : the setting, and its values.

    Raises
    ------
    UserError
        Where nothing compares such values.
    """
    layout, numbers = session.layout, all(is_number(value) for value in values)
    if key in SMOOTHING and layout.behavior:
        return BEHAVIOR
    if isinstance(model, GradientModel) and isinstance(model.sampling, PairSampling):
        if not _draws_other_pairs(key):
            return PAIRS
    elif isinstance(model, Communicates) and not isinstance(model, Reconstructs):
        return REGIONS
    elif layout.n_units < FEWEST_UNITS and isinstance(model, Scores) and not model.is_bound and numbers:
        return LIKELIHOOD
    elif layout.observation is Observation.COUNTS:
        return COUNTS
    elif isinstance(model, Reconstructs):
        return ACTIVITY
    if layout.behavior:
        return BEHAVIOR
    raise UserError(
        f"Values of {key} cannot be compared for {experiment.model.name} on session '{layout.session}'.",
        "It predicts no activity, and there is no behavior to decode from its latents.",
        "Give behavior (data.behavior), or choose another setting.",
    )


def refuse_other_questions(key: str, model: type[Model]) -> None:
    """Raise UserError for a setting whose values are not answers to one question.

    Parameters
    ----------
    key : of the setting.
    model : that it is a setting of; where it predicts no activity, smoothing changes nothing that is predicted.
    """
    group = key.partition(".")[0]
    if "." not in key or group not in ("model", "trainer", "data"):
        raise UserError(
            f"{key} cannot be chosen by cross-validation.",
            "`lvmzoo select` chooses a setting of one model, of its trainer, or data.inputs.",
            "Sweep model.latents, for instance; `lvmzoo train -m` compares models, data and seeds.",
        )
    smooths = () if issubclass(model, Reconstructs | Communicates) else SMOOTHING
    if group == "data" and key not in (*CHANGES_NOTHING, *smooths):
        raise UserError(
            f"{key} changes what is predicted, and scores of different data do not compare.",
            "A score per bin rises or falls with the bins, their smoothing and the units, whatever the model.",
            "Fix it, and choose a setting of the model; `lvmzoo train -m` shows what behavior decodes to with each.",
        )


def is_number(value: Any) -> bool:
    """Tell numbers, of which the smallest is the simplest, from words and switches."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def named(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _draws_other_pairs(key: str) -> bool:
    """Return whether a setting of a contrastive model says which bins belong together, by the fields that say so."""
    window = ("before", "after")
    named = {field.name for field in dataclasses.fields(PairSampling)} - {*window} | {"behavior_weights"}
    return key.removeprefix("model.") in named
