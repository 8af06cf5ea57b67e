"""What a split alone lets a readout decode: drifts that have nothing to do with each other, and white noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy.signal import lfilter

from lvmzoo.batch import Kind, Variable
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.metrics.decode import fit_decoder
from lvmzoo.metrics.spread import r2

__all__ = ["SplitCanary", "drifts"]

DRAWS = 20
TIMESCALES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the session: slower than trials
EACH = 4  # drifts of each timescale among those that are read out from
CELLS = 2048  # of the session, in which drifts are drawn; straight lines lie between
MOST_BINS = {"train": 4000, "test": 2000}  # longer recordings are thinned evenly: drifts are slow
CANARIES = ("slow drifts", "white noise")


@dataclass(frozen=True)
class SplitCanary:
    """R2 on test bins of a slow drift read out from sixteen others, independent of it: of the split, not of the model.

    The drifts are Ornstein-Uhlenbeck processes in the time of the session, four of each of four timescales from an
    eighth of it to all of it; the one that is read out is of each timescale in turn. The readout is that of behavior
    (ridge). There is nothing to be decoded. Where trials for the test lie between training trials, drifts at nearby
    times are alike, the readout learns them by heart and R2 is high: recordings drift too, and what is decoded there
    may be no more than that. The same is done with white noise; the value is the larger of the two medians over 20
    draws, about zero for blocks. The spread is its standard error, from quantiles of the draws. ``n`` counts bins.
    """

    name: ClassVar[str] = "split_canary"
    needs: ClassVar[type | None] = None
    draws: int = DRAWS  # each of the timescales in turn

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row where there are training and test bins; a baseline of the same session has none."""
        if evaluation.model is None or any(len(evaluation.bins(part)) < 2 for part in MOST_BINS):
            return []
        times = {part: _times_s(evaluation, part)[:: _stride(evaluation, part)] for part in MOST_BINS}
        groups = evaluation.groups("test")[:: _stride(evaluation, "test")]
        found = np.empty((len(CANARIES), self.draws))
        for draw in range(self.draws):
            random = np.random.default_rng([evaluation.seed, draw])
            for i, (features, target) in enumerate(_canaries(times, draw, random)):
                decoder = fit_decoder(features["train"], target["train"], Variable(Kind.CONTINUOUS))
                found[i, draw], _ = r2(target["test"], decoder.predict(features["test"]), groups)
        medians = np.median(found, axis=1)
        if not np.isfinite(medians).all():
            return []
        most = int(np.argmax(medians))
        low, high = np.quantile(found[most], 0.5 + 0.5 * np.array([-1, 1]) / self.draws**0.5)
        said = ", ".join(f"{name} {median:.2g}" for name, median in zip(CANARIES, medians, strict=True))
        return [
            Score(
                self.name,
                float(medians[most]),
                evaluation.layout.session,
                better="lower",
                spread=float(high - low) / 2,
                n=len(evaluation.bins("test")),
                note=f"what the split alone lets decode: {said}",
            )
        ]


def drifts(
    times_s: Float[np.ndarray, " bin"], timescales_s: Float[np.ndarray, " drift"], random: np.random.Generator
) -> Float[np.ndarray, "bin drift"]:
    """Return stationary Ornstein-Uhlenbeck processes of unit variance, independent of each other, at some times.

    Parameters
    ----------
    times_s : in any order.
    timescales_s : of each process, after which its autocorrelation has fallen to 1/e.
    random : what they are drawn from.
    """
    grid = np.linspace(times_s.min(), times_s.max(), CELLS)
    noise = random.normal(size=(len(timescales_s), CELLS))
    found = []
    for timescale, one in zip(timescales_s, noise, strict=True):
        kept = np.exp(-(grid[1] - grid[0]) / timescale)
        one[1:] *= np.sqrt(1 - kept**2)
        found.append(np.interp(times_s, grid, lfilter([1.0], [1.0, -kept], one)))
    return np.stack(found, 1)


Parts = dict[str, np.ndarray]


def _canaries(times_s: Parts, draw: int, random: np.random.Generator) -> list[tuple[Parts, Parts]]:
    """Return of each canary the features and what is read out from them, part -> array."""
    everywhere = np.concatenate(list(times_s.values()))
    span = max(float(np.ptp(everywhere)), 1e-9)
    timescales = span * np.array([*TIMESCALES * EACH, TIMESCALES[draw % len(TIMESCALES)]])
    cut = [len(times_s["train"])]

    def split(values: Float[np.ndarray, "bin channel"]) -> tuple[Parts, Parts]:
        features, target = np.split(values[:, :-1], cut), np.split(values[:, -1:], cut)
        return dict(zip(times_s, features, strict=True)), dict(zip(times_s, target, strict=True))

    slow, white = drifts(everywhere, timescales, random), random.normal(size=(len(everywhere), len(timescales)))
    return [split(slow), split(white)]


def _times_s(evaluation: Evaluation, part: str) -> Float[np.ndarray, " bin"]:
    """Return when each valid bin of a part begins."""
    trials = evaluation.trials(part)
    start = np.repeat(trials.table["start_s"].to_numpy(np.float64), trials.lengths)
    valid = trials.valid.numpy()[trials.flat]
    return start[valid] + evaluation.since_start(part) * evaluation.layout.bin_width_s


def _stride(evaluation: Evaluation, part: str) -> int:
    return -(-len(evaluation.bins(part)) // MOST_BINS[part])
