"""The number of latents by cross-validation over trials, with the error of predicting each unit from the others.

A reconstruction of units from themselves improves with every latent that is added; the prediction of a unit from the
others, in trials that were not fitted, does not (Yu et al. 2009, doi:10.1152/jn.90941.2008, figure 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.errors import UserError

__all__ = ["Dimensions", "choose_dimension", "fewest_within_one_error"]

PASSES = 60  # of each fit at most
GAIN = 1e-5  # of the log-likelihood per bin, relative, below which a fit is over


@runtime_checkable
class Candidate(Protocol):
    """What a model must have to be chosen."""

    @property
    def settled(self) -> bool:
        """Whether the gain of the objective tells convergence."""
        ...

    def prepare(self, batches: Sequence[Batch]) -> None:
        """Set starting values."""
        ...

    def statistics(self, batch: Batch) -> Any:
        """Return sums over a batch."""
        ...

    def update(self, statistics: Any) -> Tensor:
        """Set parameters, return the objective."""
        ...

    def finish(self) -> None:
        """End the fit."""
        ...

    def leave_unit_out(self, batch: Batch) -> Tensor:
        """Return the expected (modeled) activity of each unit given the others."""
        ...

    def modeled(self, batch: Batch) -> Tensor:
        """Return the activity as it is modeled."""
        ...

    def log_likelihood(self, batch: Batch) -> Tensor:
        """Return the log-likelihood of each trial."""
        ...


class Dimensions(NamedTuple):
    """The number of latents that was chosen, and what each candidate scored on held-out trials."""

    latents: int  # the fewest whose error is within one standard error of the least
    candidates: tuple[int, ...]
    errors: Float[np.ndarray, "fold candidate"]  # of units from the others, in their variance: 1 for their means
    log_likelihoods: Float[np.ndarray, "fold candidate"]  # nats per bin


def choose_dimension(
    build: Callable[[int], Candidate], batch: Batch, candidates: Sequence[int], folds: int
) -> Dimensions:
    """Fit every candidate to all folds of trials but one, and score it on that one; raises UserError for too few."""
    bins = batch.valid.any(1).nonzero()[:, 0]
    if not 2 <= folds <= len(bins) or not candidates:
        raise UserError(
            f"{folds} folds of {len(bins)} trials and {len(candidates)} numbers of latents cannot be compared.",
            "Cross-validation needs at least two folds, a trial for each, and a candidate.",
            "Give more trials (data.segment_s cuts long ones), or fewer folds.",
        )
    errors, likelihoods = np.zeros((2, folds, len(candidates)))
    for fold, test_rows in enumerate(np.array_split(bins.cpu().numpy(), folds)):
        held = torch.zeros(batch.n_trials, dtype=torch.bool, device=batch.valid.device)
        held[torch.from_numpy(test_rows).to(held.device)] = True
        kept = ~held & batch.valid.any(1)
        train, test = (batch.map(lambda tensor, rows=rows: tensor[rows]) for rows in (kept, held))
        for column, latents in enumerate(candidates):
            model = build(latents)
            _fit(model, train)
            errors[fold, column] = _error(model, train, test)
            likelihoods[fold, column] = float(model.log_likelihood(test).sum() / test.valid.sum())
    chosen = fewest_within_one_error(errors, candidates)
    return Dimensions(chosen, tuple(candidates), errors, likelihoods)


def fewest_within_one_error(errors: Float[np.ndarray, "fold candidate"], candidates: Sequence[int]) -> int:
    """Return the fewest latents whose error is not above the least by more than the standard error of the difference.

    The difference is taken fold by fold: what makes one fold harder than another is the same for all candidates.
    """
    above = errors - errors[:, [int(errors.mean(0).argmin())]]
    spread = above.std(0, ddof=1) / np.sqrt(len(errors))
    return min(latents for latents, mean, sem in zip(candidates, above.mean(0), spread, strict=True) if mean <= sem)


def _fit(model: Candidate, batch: Batch) -> None:
    model.prepare([batch])
    before = -np.inf
    for _ in range(PASSES):
        reached = float(model.update(model.statistics(batch)))
        if model.settled:
            if reached - before < GAIN * abs(reached):
                break
            before = reached
    model.finish()


def _error(model: Candidate, train: Batch, test: Batch) -> float:
    """Return the squared error of units in units of their training variance, averaged over the units that vary."""
    known, seen = model.modeled(train), train.observed & train.valid[..., None]
    samples = seen.sum((0, 1)).clamp(min=1)
    mean = torch.where(seen, known, 0.0).sum((0, 1)) / samples
    variance = torch.where(seen, (known - mean).square(), 0.0).sum((0, 1)) / samples
    shown = test.observed & test.valid[..., None]
    error = torch.where(shown, (model.modeled(test) - model.leave_unit_out(test)).square(), 0.0).sum((0, 1))
    varies = (variance > 0) & shown.any(0).any(0)
    return float((error / shown.sum((0, 1)).clamp(min=1) / variance)[varies].mean()) if bool(varies.any()) else 1.0
