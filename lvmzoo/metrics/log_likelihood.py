"""Log-likelihood of test data, for models whose likelihood is tractable."""

from __future__ import annotations

from typing import cast

import numpy as np

from lvmzoo.data.trials import Session, Trials
from lvmzoo.metrics.base import BLOCKS, MINIMUM_TRIALS, Evaluation, Score, evaluating
from lvmzoo.metrics.spread import ratio_sem
from lvmzoo.models.base import Scores

__all__ = ["LogLikelihood"]


class LogLikelihood:
    """Log-likelihood of the test activity of all units, in nats per valid bin.

    Comparable only between models of the same units, bins and observation. ``n`` counts bins. With fewer than ten
    trials the spread is over blocks that are scored as if each were a trial.
    """

    name = "log_likelihood"
    needs: type | None = Scores

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return one row where there is a test part."""
        trials = evaluation.trials("test")
        nats, bins = _by_trial(evaluation)
        if not bins.sum():
            return []
        value = float(nats.sum() / bins.sum())
        if (bins > 0).sum() < MINIMUM_TRIALS:
            session = evaluation.session
            blocks = Session(session.train, session.validation, _blocks(trials))
            nats, bins = _by_trial(Evaluation(evaluation.model, blocks))
        seen = bins > 0
        return [
            Score(
                self.name,
                value,
                evaluation.layout.session,
                unit="nats/bin",
                spread=ratio_sem(nats[seen, None], bins[seen, None]),
                n=len(evaluation.bins("test")),
            )
        ]


def _by_trial(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    model = evaluation.model
    assert model is not None
    nats, bins = [], []
    with evaluating(model):
        for batch in evaluation.batches("test", hidden=False):
            nats.append(cast("Scores", model).log_likelihood(batch).double().cpu().numpy())
            bins.append(batch.valid.sum(1).double().cpu().numpy())
    return np.concatenate([np.zeros(0), *nats]), np.concatenate([np.zeros(0), *bins])


def _blocks(trials: Trials) -> Trials:
    """Cut trials into about ``BLOCKS`` stretches of similar length."""
    length = max(1, -(-trials.n_bins // BLOCKS))
    pieces = [
        (row, first, min(first + length, stop))
        for row, (start, stop) in enumerate(zip(trials.start, trials.stop, strict=True))
        for first in range(int(start), int(stop), length)
    ]
    rows, start, stop = (np.array(column, dtype=np.int64) for column in zip(*pieces, strict=True))
    cut = trials.select(rows)
    return type(cut)(**{**vars(cut), "start": start, "stop": stop})
