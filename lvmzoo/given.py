"""Data as people hand them over, arrays, lists of trials, recordings or files, and answers in the same form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.config import DataConfig
from lvmzoo.data.arrays import from_arrays
from lvmzoo.data.load import load
from lvmzoo.data.recording import Recording
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError

__all__ = ["Activity", "Behavior", "check_units", "each_trial", "is_stored", "like", "one", "read"]

Stored = Recording | str | Path
Activity = ArrayLike | Sequence[ArrayLike] | Stored | Sequence[Stored]
Behavior = ArrayLike | Mapping[str, Any] | Sequence[ArrayLike]


def read(
    X: Activity, y: Behavior | None, config: DataConfig, bin_width_s: float, regions: Sequence[str] | None
) -> list[Recording]:
    """Return the recordings that were given.

    Parameters
    ----------
    X, y : as for ``Estimator.fit``.
    config : how files are read.
    bin_width_s, regions : of arrays: the width of their bins, and the region of each unit.

    Raises
    ------
    UserError
        For behavior beside what holds its own, or data that cannot be read.
    """
    if not is_stored(X):
        return [from_arrays(X, y, bin_width_s=bin_width_s, regions=regions)]
    sessions: list[Any] = list(X) if isinstance(X, list | tuple) else [X]
    recordings = [session for session in sessions if isinstance(session, Recording)]
    if not (len(recordings) == len(sessions) or all(isinstance(session, str | Path) for session in sessions)):
        kinds = dict.fromkeys(type(session).__name__ for session in sessions)
        raise UserError(
            f"The list holds items of several kinds: {', '.join(kinds)}.",
            "It is one of sessions, recordings alone or paths alone, or one of trials, each an array.",
            "Give items of one kind.",
        )
    if y is not None:
        raise UserError(
            f"y was given beside a {'Recording' if recordings else 'file'}.",
            "Recordings and files hold their behavior themselves.",
            "Put y into the recording (Recording.behavior), or give X as arrays.",
        )
    return recordings or load(dataclasses.replace(config, path=[str(session) for session in sessions]))


def is_stored(X: Activity) -> bool:
    """Return whether data come as recordings or files, which name their session and hold their behavior."""
    items = X if isinstance(X, list | tuple) else [X]
    return any(isinstance(item, Recording | str | Path) for item in items)


def one(recordings: Sequence[Recording]) -> Recording:
    """Return the only recording; raises UserError where there are several."""
    recording, *others = recordings
    if others:
        raise UserError(
            f"There are {len(others) + 1} recordings.",
            "New data are looked at one session at a time.",
            "Give one of them, or call this once for each.",
        )
    return recording


def check_units(X: Activity, regions: Sequence[str] | None) -> None:
    """Raise UserError for arrays of more or fewer units than there are regions of units."""
    if regions is None or is_stored(X):
        return
    first: Any = X[0] if isinstance(X, list | tuple) and X else X
    if np.ndim(first) == 0:
        return  # no array of units; reading it says so
    units = np.shape(first)[-1]
    if units != len(regions):
        raise UserError(
            f"The activity has {units} units.",
            f"The model was fitted to {len(regions)} units, of known regions.",
            "Give the same units in the same order, NaN where one was not recorded.",
        )


def like(X: Activity, trials: Trials, function: Callable[[Batch], Tensor]) -> Any:
    """Return what the model says of each trial, in the form in which the trials were given."""
    with torch.no_grad():
        values = function(trials.batch()).numpy()
    cut = [values[i, :length] for i, length in enumerate(trials.lengths)]
    if isinstance(X, list | tuple) and not is_stored(X):
        return cut
    if not is_stored(X) and np.asarray(X).ndim == 2:
        return cut[0]
    return np.stack(cut) if len(set(map(len, cut))) == 1 else cut


def each_trial(latents: Any, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return what a function makes of the latents of each trial, in their form."""
    if isinstance(latents, list):
        return [function(trial) for trial in latents]
    if latents.ndim == 2:
        return function(latents)
    return np.stack([function(trial) for trial in latents])
