"""Few-shot co-smoothing: held-out units whose readout from the latents is fitted on a few trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.poisson import bits_of, information, true_bits
from lvmzoo.metrics.poisson_readout import PENALTIES, PoissonReadout, fit_readout, whitening
from lvmzoo.metrics.streamed import Piece

__all__ = ["FewShotCoBps", "draws_of"]

SHOTS = (4, 16, 64)  # training trials
DRAWS = 20
MOST_BINS = 10_000  # that the penalty is chosen on, evenly spread


@dataclass(frozen=True)
class FewShotCoBps:
    """Co-bps with a Poisson readout from the latents to held-out units that is fitted on K training trials.

    ``few_shot_co_bps_K`` is low where latents hold more than the activity needs: dimensions that the model invented
    have to be told from others by few trials (Dabholkar & Barak 2025). The mean over 20 draws of the trials, and its
    standard error over these; up to half of the trials are drawn at once. Recordings of fewer than ten trials count in
    twentieths of the training part. Latents are whitened on training bins, and one penalty for all draws is chosen on
    training trials that were not drawn. ``n`` counts spikes.
    """

    name: ClassVar[str] = "few_shot_co_bps"
    needs: ClassVar[type | None] = None
    shots: tuple[int, ...] = SHOTS

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for each K, for counts with held-out units."""
        layout = evaluation.layout
        units = layout.held_out
        if layout.observation is not Observation.COUNTS or not units:
            return []
        groups = evaluation.groups("train")
        if not len(groups) or not len(evaluation.bins("test")):
            return []
        ceiling, test = true_bits(evaluation, units), evaluation.regressors("test")
        what = (
            "trials" if len(np.unique(groups)) == len(evaluation.trials("train")) else "twentieths of the training part"
        )
        scores = []
        for shots in self.shots:
            draws = draws_of(groups, shots, evaluation.seed)
            bits = [
                bits_of(evaluation, "test", units, _said(readout, test)) for readout in _readouts(evaluation, draws)
            ]
            found = [each.value for each in bits if each is not None]
            if not found or not np.isfinite(found).all():
                continue
            score = Score(
                f"{self.name}_{shots}",
                float(np.mean(found)),
                layout.session,
                unit="bits/spike",
                spread=float(np.std(found, ddof=1) / len(found) ** 0.5),
                n=int(next(each.spikes.sum() for each in bits if each is not None)),
                note=f"Poisson readout of {shots} {what}; {len(found)} draws",
                ceiling=ceiling,
            )
            scores.append(score)
        return scores


def draws_of(groups: Int[np.ndarray, " bin"], shots: int, seed: int) -> list[Bool[np.ndarray, " bin"]]:
    """Return which bins each draw of ``shots`` trials has; none where that is more than half of the trials."""
    trials = np.unique(groups)
    if 2 * shots > len(trials):
        return []
    random = np.random.default_rng([seed, shots])
    return [np.isin(groups, random.choice(trials, shots, replace=False)) for _ in range(DRAWS)]


def _said(readout: PoissonReadout, regressors: Float[np.ndarray, "bin channel"]) -> Piece:
    return lambda rows: readout.rates(regressors[rows])


def _readouts(evaluation: Evaluation, draws: list[Bool[np.ndarray, " bin"]]) -> list[PoissonReadout]:
    """Return the readout of each draw, all with the penalty that suits training trials best that were not drawn.

    A penalty that is chosen within a few trials lets readouts of some draws explode. Penalties fall until the score has
    fallen twice.
    """
    latents, units = evaluation.regressors("train"), evaluation.layout.held_out
    coordinates = evaluation.kept("whitening", lambda: whitening(latents))

    def fit(bins: Bool[np.ndarray, " bin"], penalty: float) -> PoissonReadout:
        rows = np.flatnonzero(bins)
        activity, seen = evaluation.activity("train", units, rows), evaluation.recorded("train", units, rows)
        return fit_readout(latents[rows], activity, seen, coordinates, penalty)

    def judge(readout: PoissonReadout, bins: Bool[np.ndarray, " bin"]) -> float:
        rest = np.flatnonzero(~bins)[:: -(-np.count_nonzero(~bins) // MOST_BINS)]
        seen = evaluation.recorded("train", units, rest)
        counts = evaluation.activity("train", units, rest).numpy()
        return float(information(readout.rates(latents[rest]), counts, None if seen is None else seen.numpy()).sum())

    best, readouts, falls = -np.inf, [], 0
    for penalty in PENALTIES if draws else ():
        found = [fit(bins, penalty) for bins in draws]
        gain = sum(judge(readout, bins) for readout, bins in zip(found, draws, strict=True))
        if gain > best:
            best, readouts, falls = gain, found, 0
        else:
            falls += 1
        if falls == 2:
            break
    return readouts
