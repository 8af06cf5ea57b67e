"""Labels shifted against the activity: a control in which nothing is left to learn but the labels' own course."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

__all__ = ["shift_labels"]

LEAST, MOST = 0.25, 0.75  # share of the session by which labels move


def shift_labels(
    values: Mapping[str, Float[np.ndarray, "bin _"]],
    lengths: Int[np.ndarray, " trial"],
    seed: int,
    *,
    within_trials: bool,
) -> dict[str, Float[np.ndarray, "bin _"]]:
    """Return labels rolled along the bins that have one, all variables by the same share of the session.

    Labels keep their distribution and, but for the seams, their course over time; what is missing stays where it is.
    Trials are rolled each by a share of its own besides: labels that repeat in every trial (the frame of a movie)
    would otherwise still fit the activity of another trial.

    Parameters
    ----------
    values : of the bins of all trials, trial after trial; NaN where there is no label.
    lengths : bins of each trial.
    seed : of the shares.
    within_trials : whether to roll trials, too; False where the bins are one stretch that was cut.
    """
    random = np.random.default_rng(seed)
    share, own = random.uniform(LEAST, MOST), random.uniform(0.1, 0.9, len(lengths))
    edges = np.concatenate([[0], np.cumsum(lengths)])
    found = {}
    for name, series in values.items():
        known = np.flatnonzero(np.isfinite(series).all(1))
        moved = np.roll(series[known], round(share * len(known)), axis=0)
        if within_trials:
            for trial, (low, high) in enumerate(np.searchsorted(known, [edges[:-1], edges[1:]]).T):
                moved[low:high] = np.roll(moved[low:high], round(own[trial] * (high - low)), axis=0)
        found[name] = series.copy()
        found[name][known] = moved
    return found
