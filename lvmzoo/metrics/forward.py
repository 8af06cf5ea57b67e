"""Views of a model that does not see the last bins of each trial."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.data.trials import Session, Trials
from lvmzoo.metrics.base import BLOCKS, MINIMUM_TRIALS, Evaluation
from lvmzoo.metrics.moments import moments
from lvmzoo.models.base import Reconstructs

__all__ = ["Forward", "cut_long", "hidden_ends", "hide_ends"]

AHEAD_S = 0.2  # of each trial, as in the Neural Latents Benchmark
SHARE = 4  # at most one bin in so many: there, trials of 0.8 s and more
LEAST_S, MOST_S = 2.0, 10.0  # of pieces of a few long trials: longer than latents remember, and yet many


def hidden_ends(batch: Batch) -> Bool[Tensor, "trial bin"]:
    """Return the last 200 ms of each trial, at most a quarter of it; at least a bin of trials of four bins or more."""
    bins = torch.arange(batch.n_bins, device=batch.valid.device)
    length = torch.where(batch.valid, bins + 1, 0).amax(1)
    ahead = max(1, round(AHEAD_S / batch.layout.bin_width_s))
    first = length - (length // SHARE).clamp(max=ahead)
    return (bins >= first[:, None]) & (bins < length[:, None])


def hide_ends(batch: Batch) -> Batch:
    """Return the batch with the last bins of each trial not observed."""
    return replace(batch, observed=batch.observed & ~hidden_ends(batch).unsqueeze(-1))


def cut_long(trials: Trials) -> Trials:
    """Cut trials, where there are fewer than ten, into about twenty pieces of two to ten seconds."""
    if not len(trials) or len(trials) >= MINIMUM_TRIALS:
        return trials
    bin_s = trials.layout.bin_width_s
    length = max(1, round(min(max(trials.n_bins * bin_s / BLOCKS, LEAST_S), MOST_S) / bin_s))
    pieces = [
        (row, first, min(first + length, stop))
        for row, (start, stop) in enumerate(zip(trials.start, trials.stop, strict=True))
        for first in range(int(start), int(stop), length)
    ]
    rows, start, stop = (np.array(column, dtype=np.int64) for column in zip(*pieces, strict=True))
    return replace(trials.select(rows), start=start, stop=stop)


class Forward:
    """The ends of the trials of each part, as a model expects them from what comes before."""

    def __init__(self, evaluation: Evaluation) -> None:
        session = evaluation.session
        cut = Session(cut_long(session.train), cut_long(session.validation), cut_long(session.test))
        self.of = Evaluation(evaluation.model, cut, evaluation.seed)

    def ends(self, part: str) -> Bool[np.ndarray, " bin"]:
        """Return which of the valid bins are hidden."""

        def as_channel(batch: Batch) -> Float[Tensor, "trial bin one"]:
            return hidden_ends(batch).unsqueeze(-1).double()

        return self.of.kept(("ends", part), lambda: self.of.view(part, as_channel).reshape(-1) > 0)

    def latents(self, part: str) -> Float[np.ndarray, "bin latent"]:
        """Return the latents expected in all bins."""
        model = self.of.model
        assert model is not None
        return self.of.kept(
            ("forward", part), lambda: self.of.view(part, lambda batch: model.latents(hide_ends(batch)), torch.float64)
        )

    def rates(self, part: str) -> Float[np.ndarray, "bin unit"]:
        """Return the activity expected in all bins."""
        model = cast("Reconstructs", self.of.model)
        return self.of.view(part, lambda batch: model.rates(hide_ends(batch)))

    def regressors(self, part: str) -> Float[np.ndarray, "bin channel"]:
        """Return the latents, and the known inputs that the model itself uses."""
        return self.of.with_inputs(part, self.latents(part))

    def predicts(self) -> bool:
        """Whether latents of hidden bins depend on what the model saw: they differ where the bins do."""
        latents, ends = self.latents("test"), self.ends("test")
        if not ends.any() or not all(np.isfinite(latents[rows]).all() for rows in self.of.pieces("test")):
            return False

        def most(which: Bool[np.ndarray, " bin"]) -> float:
            stretches = [rows for rows in self.of.pieces("test") if which[rows].any()]
            if not stretches:
                return 0.0
            varies = np.diag(moments(latents[rows][which[rows]] for rows in stretches).covariance)
            return float(varies.max(initial=0.0))

        return most(ends) > 1e-12 * max(most(~ends), 1e-300)
