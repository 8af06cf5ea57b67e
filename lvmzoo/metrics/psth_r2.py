"""How well predicted rates give the part of the activity that trials of a condition share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.condition_means import SMOOTHING_S, ByCondition, by_condition, predicted, smoothed
from lvmzoo.metrics.spread import r2
from lvmzoo.models.base import Reconstructs

__all__ = ["PsthR2"]


class PsthR2:
    """R2 of condition averages of the rates against those of smoothed counts on test trials, the mean over units.

    The stimulus-locked part, as in the Neural Latents Benchmark (Pei et al. 2021, doi:10.48550/arXiv.2109.04463): means
    over five trials or more, trials aligned at their beginnings, counts smoothed by 70 ms and rates left as they are.
    ``psth_r2`` is of units that the model saw, ``co_psth_r2`` of held-out units. The ceiling is what the true averages
    would reach: 1 - (variance of the measured means over trials) / TSS, which is what halves of the trials say of each
    other, averaged over all halves. Units for which that is not above zero, whose measured averages are noise, are left
    out for every model alike. The spread is a jackknife over groups of trials. ``n`` counts bins of conditions.
    """

    name = "psth_r2"
    needs: type | None = Reconstructs

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for the units that the model saw, and one for held-out units, where trials have conditions."""
        layout, cells = evaluation.layout, by_condition(evaluation)
        if cells is None:
            return []
        rows = (("psth_r2", layout.held_in, True), ("co_psth_r2", layout.held_out, False))
        found = [_score(evaluation, cells, name, units, seen) for name, units, seen in rows if units]
        return [score for score in found if np.isfinite(score.value)]


def _score(evaluation: Evaluation, cells: ByCondition, name: str, units: tuple[int, ...], seen: bool) -> Score:
    activity, rates = smoothed(evaluation, units), evaluation.rates("test")
    averages = cells.averages(activity)
    measured, said = averages.means, cells.averages(predicted(evaluation, units, lambda rows: rates[rows]))
    ceilings = _ceilings(measured, cells.noise(measured, activity))
    told = ceilings > 0
    value = _r2(measured[:, told], said.means[:, told])
    pairs = zip(averages.without_groups(), said.without_groups(), strict=True)
    without = np.array([_r2(left[:, told], right[:, told]) for left, right in pairs])
    spread = float(np.sqrt((cells.groups - 1) * np.mean((without - without.mean()) ** 2)))
    few, many = cells.trials
    number = f"{few}" if few == many else f"{few} to {many}"
    note = f"{cells.conditions} condition{'s' * (cells.conditions > 1)}, {number} test trials each"
    note += f"; {told.sum()} of {len(units)} units"
    if evaluation.layout.observation is Observation.COUNTS:
        note += f"; counts smoothed by {1000 * SMOOTHING_S:.0f} ms"
    ceiling = float(ceilings[told].mean()) if told.any() else None
    session, n = evaluation.layout.session, int(np.isfinite(measured).any(1).sum())
    return Score(name, value, session, spread=spread, n=n, note=note, seen=seen, ceiling=ceiling)


def _r2(measured: Float[np.ndarray, "cell unit"], predicted: Float[np.ndarray, "cell unit"]) -> float:
    return r2(measured, predicted, np.zeros(len(measured), dtype=np.int64))[0] if measured.shape[1] else float("nan")


def _ceilings(
    measured: Float[np.ndarray, "cell unit"], noise: Float[np.ndarray, "cell unit"]
) -> Float[np.ndarray, " unit"]:
    """Return for each unit the R2 of the true means; 0 where nothing varies."""
    known = np.isfinite(measured)
    center = np.where(known, measured, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    total = np.where(known, (measured - center) ** 2, 0.0).sum(0)
    varies = total > 1e-20 * np.where(known, measured**2, 0.0).sum()
    return np.where(varies, 1 - np.where(known, noise, 0.0).sum(0) / np.where(varies, total, 1.0), 0.0)
