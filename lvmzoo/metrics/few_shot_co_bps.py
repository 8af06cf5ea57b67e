"""Few-shot co-smoothing: held-out units whose readout from the latents is fitted on a few trials."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int

from lvmzoo.batch import Observation
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.poisson import bits_per_spike, information, true_bits
from lvmzoo.metrics.poisson_readout import PENALTIES, PoissonReadout, fit_readout, whitening

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
        counts, recorded = evaluation.activity("test", units).numpy(), evaluation.recorded("test", units)
        there = None if recorded is None else recorded.numpy()
        spikes = int((counts if there is None else counts[there]).sum(dtype=np.int64))
        groups = evaluation.groups("train")
        if not spikes or not len(groups):
            return []
        what = (
            "trials" if len(np.unique(groups)) == len(evaluation.trials("train")) else "twentieths of the training part"
        )
        scores = []
        for shots in self.shots:
            found = [
                bits_per_spike(readout.rates(evaluation.regressors("test")), counts, there)
                for readout in _readouts(evaluation, draws_of(groups, shots, evaluation.seed))
            ]
            if not found or not np.isfinite(found).all():
                continue
            score = Score(
                f"{self.name}_{shots}",
                float(np.mean(found)),
                layout.session,
                unit="bits/spike",
                spread=float(np.std(found, ddof=1) / len(found) ** 0.5),
                n=spikes,
                note=f"Poisson readout of {shots} {what}; {len(found)} draws",
            )
            scores.append(replace(score, ceiling=true_bits(evaluation, units, counts, there)))
        return scores


def draws_of(groups: Int[np.ndarray, " bin"], shots: int, seed: int) -> list[Bool[np.ndarray, " bin"]]:
    """Return which bins each draw of ``shots`` trials has; none where that is more than half of the trials."""
    trials = np.unique(groups)
    if 2 * shots > len(trials):
        return []
    random = np.random.default_rng([seed, shots])
    return [np.isin(groups, random.choice(trials, shots, replace=False)) for _ in range(DRAWS)]


def _readouts(evaluation: Evaluation, draws: list[Bool[np.ndarray, " bin"]]) -> list[PoissonReadout]:
    """Return the readout of each draw, all with the penalty that suits training trials best that were not drawn.

    A penalty that is chosen within a few trials lets readouts of some draws explode. Penalties fall until the score has
    fallen twice.
    """
    latents, units = evaluation.regressors("train"), evaluation.layout.held_out
    activity, recorded = evaluation.activity("train", units), evaluation.recorded("train", units)
    coordinates = evaluation.kept("whitening", lambda: whitening(latents))

    def fit(bins: Bool[np.ndarray, " bin"], penalty: float) -> PoissonReadout:
        which = torch.from_numpy(bins)
        seen = None if recorded is None else recorded[which]
        return fit_readout(latents[bins], activity[which], seen, coordinates, penalty)

    def judge(readout: PoissonReadout, bins: Bool[np.ndarray, " bin"]) -> float:
        rest = np.flatnonzero(~bins)[:: -(-np.count_nonzero(~bins) // MOST_BINS)]
        seen = None if recorded is None else recorded.numpy()[rest]
        return float(information(readout.rates(latents[rest]), activity.numpy()[rest], seen).sum())

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
