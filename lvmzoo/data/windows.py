"""Windows of one session: where whole ones lie, and cutting them out."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int

from lvmzoo.batch import Batch, PairSampling
from lvmzoo.data.trials import Trials
from lvmzoo.errors import UserError

__all__ = ["Windows"]


class Windows:
    """Windows around the bins of one session. A position counts the bins of its trials, laid end to end.

    Attributes
    ----------
    stored : where the bin of each position is stored.
    whole : positions whose whole window lies in one trial and holds valid bins only.

    Raises
    ------
    UserError : there is no such window.
    """

    def __init__(self, trials: Trials, sampling: PairSampling) -> None:
        self.trials, self._sampling = trials, sampling
        self.session = trials.layout.session
        self.stored = trials.flat
        self._trial = np.repeat(np.arange(len(trials)), trials.lengths)
        self._bin = np.arange(len(self._trial)) - np.repeat(np.cumsum(trials.lengths) - trials.lengths, trials.lengths)
        self.whole = self._whole_windows()

    def have_later(self, positions: Bool[np.ndarray, " position"]) -> Bool[np.ndarray, " position"]:
        """Return which of them have another of them ``time_offset_bins`` later in the same trial."""
        offset, found = self._sampling.time_offset_bins, np.zeros_like(positions)
        found[: max(len(found) - offset, 0)] = positions[offset:] & (self._trial[offset:] == self._trial[:-offset])
        return positions & found

    def batch(self, positions: Int[np.ndarray, " window"]) -> Batch:
        """Return the windows around positions; their behavior is left out, no loss reads it.

        The bins lie first in memory: encoders convolve over them without a copy.
        """
        trials, sampling = self.trials, self._sampling
        rows = torch.from_numpy(self.stored[positions] + np.arange(-sampling.before, sampling.after)[:, None])
        shape = tuple(rows.shape)
        activity = trials.activity.index_select(0, rows.view(-1)).unflatten(0, shape).transpose(0, 1)
        observed = torch.ones((1, 1, 1), dtype=torch.bool).expand(activity.shape)
        if trials.missing is not None:
            observed = ~trials.missing.index_select(0, rows.view(-1)).unflatten(0, shape).transpose(0, 1)
        return Batch(
            activity=activity,
            valid=torch.ones(activity.shape[:2], dtype=torch.bool),
            observed=observed,
            behavior={},
            inputs={},
            trial_index=torch.from_numpy(self._trial[positions]),
            start_bin=torch.from_numpy(self._bin[positions] - sampling.before),
            layout=trials.layout,
        )

    def none_later(self) -> UserError:
        """Return what to say where no two bins are far enough apart."""
        offset = self._sampling.time_offset_bins
        return UserError(
            f"Session '{self.session}' has no two bins {offset} bins apart in one trial.",
            f"model.time_offset_bins={offset} is the distance of a positive in time, and of changes of a label.",
            f"Set model.time_offset_bins below {int(self.trials.lengths.max(initial=0))}, the longest trial.",
        )

    def _whole_windows(self) -> Bool[np.ndarray, " position"]:
        sampling, length = self._sampling, self.trials.lengths
        inside = (self._bin >= sampling.before) & (self._bin + sampling.after <= length[self._trial])
        usable = np.concatenate([[0], np.cumsum(self.trials.valid.numpy()[self.stored])])
        positions = np.flatnonzero(inside)
        inside[positions] = (
            usable[positions + sampling.after] - usable[positions - sampling.before] == sampling.window_bins
        )
        if not inside.any():
            raise UserError(
                f"Session '{self.session}' has no window of {sampling.window_bins} bins: "
                f"its longest trial has {int(length.max(initial=0))}.",
                "Windows lie in one trial, between gaps of the recording.",
                "Set a smaller model.receptive_field_bins or data.bin_width_s, or use longer trials.",
            )
        return inside
