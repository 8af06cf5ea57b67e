"""Metrics, one a file: each runs where a model has the capability and a session the data that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lvmzoo.data.trials import Session
from lvmzoo.metrics.activity_r2 import ActivityR2
from lvmzoo.metrics.base import Evaluation, Metric, Score
from lvmzoo.metrics.behavior_knn import BehaviorKnn
from lvmzoo.metrics.behavior_r2 import BehaviorR2
from lvmzoo.metrics.bits_per_spike import BitsPerSpike
from lvmzoo.metrics.calibration import Calibration
from lvmzoo.metrics.co_bps import CoBps
from lvmzoo.metrics.connections import Connections
from lvmzoo.metrics.consistency import between_sessions
from lvmzoo.metrics.cycle_consistency import CycleConsistency
from lvmzoo.metrics.decoded_behavior import DecodedBehavior
from lvmzoo.metrics.eigenvalue_error import EigenvalueError
from lvmzoo.metrics.few_shot_co_bps import FewShotCoBps
from lvmzoo.metrics.forecast_behavior import ForecastBehavior
from lvmzoo.metrics.forecast_r2 import ForecastR2
from lvmzoo.metrics.fp_bps import FpBps
from lvmzoo.metrics.generation import Generation
from lvmzoo.metrics.goodness_of_fit import GoodnessOfFit
from lvmzoo.metrics.input_share import InputShare
from lvmzoo.metrics.latent_r2 import LatentR2
from lvmzoo.metrics.log_likelihood import LogLikelihood
from lvmzoo.metrics.psth_r2 import PsthR2
from lvmzoo.metrics.rate_r2 import RateR2
from lvmzoo.metrics.residual_r2 import ResidualR2
from lvmzoo.metrics.shared_variance import SharedVarianceOfUnits
from lvmzoo.metrics.split_canary import SplitCanary
from lvmzoo.metrics.variance_explained import VarianceExplained
from lvmzoo.metrics.within_a_second import WithinASecond
from lvmzoo.models.base import Model

__all__ = ["METRICS", "Evaluation", "Metric", "Score", "evaluate", "score", "score_all"]

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            LogLikelihood(),
            BitsPerSpike(),
            CoBps(),
            FewShotCoBps(),
            FpBps(),
            VarianceExplained(),
            ActivityR2(),
            LatentR2(),
            RateR2(),
            PsthR2(),
            ResidualR2(),
            BehaviorR2(),
            BehaviorKnn(),
            WithinASecond(),
            GoodnessOfFit(),
            DecodedBehavior(),
            ForecastR2(),
            ForecastBehavior(),
            SharedVarianceOfUnits(),
            Connections(),
            EigenvalueError(),
            CycleConsistency(),
            Generation(),
            Calibration(),
            InputShare(),
            SplitCanary(),
        )
    }
)


def evaluate(model: Model, sessions: Sequence[Session], seed: int = 0) -> list[Score]:
    """Return every score that the model's capabilities and the data of each session allow.

    Parameters
    ----------
    model : fitted on these sessions; its mode and its parameters are left as they are.
    sessions : split as for training.
    seed : of the bootstrap behind some spreads.
    """
    return score_all([Evaluation(model, session, seed) for session in sessions])


def score_all(evaluations: Sequence[Evaluation]) -> list[Score]:
    """Return every score of the sessions of one model, and how consistent its latents are between them."""
    rows = [row for evaluation in evaluations for row in score(evaluation)]
    if not evaluations or evaluations[0].model is None:
        return rows
    named = tuple(getattr(evaluations[0].model.config, "behavior", None) or ())
    return rows + between_sessions(evaluations, named)


def score(evaluation: Evaluation) -> list[Score]:
    """Return every score of one session."""
    return [
        row
        for metric in METRICS.values()
        if metric.needs is None or isinstance(evaluation.model, metric.needs)
        for row in metric(evaluation)
    ]
