"""Stretches of training data in memory, evenly spread over it, for choices by cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvmzoo.batch import Batch

__all__ = ["Piece", "joined", "mean_of_seen", "pieces", "rounded"]

LONGEST = 2000  # bins of a piece
SMALLEST_NUMBER = 20  # of pieces that a recording is cut into, if it has so many bins
ENTRIES = 10_000_000  # bins x units that are held; of more data, evenly spread pieces


class Piece(NamedTuple):
    """A stretch of one trial."""

    activity: Float[Tensor, "bin unit"]  # in float64, zero where not seen
    seen: Bool[Tensor, "bin unit"]


def pieces(batches: Iterable[Batch], folds: int) -> tuple[list[Piece], Int[Tensor, " piece"]]:
    """Return pieces in the order of the trials, and the fold that each belongs to: in turn, so that drift is in all.

    Parameters
    ----------
    batches : of one session.
    folds : number of folds.
    """
    total = sum(int(batch.valid.sum()) for batch in batches)
    longest = max(1, min(LONGEST, total // SMALLEST_NUMBER))
    found: list[tuple[int, int, Piece]] = []
    for batch in batches:
        stride = max(1, -(-total * batch.layout.n_units // ENTRIES))
        for row in range(batch.n_trials):
            bins = batch.valid[row].nonzero()[:, 0]
            if not len(bins):
                continue
            for number, first in enumerate(range(0, int(bins[-1]) + 1, longest)):
                trial = int(batch.trial_index[row])
                if (trial + number) % stride:
                    continue
                here = slice(first, min(first + longest, int(bins[-1]) + 1))
                seen = batch.observed[row, here] & batch.valid[row, here, None]
                activity = torch.where(seen, batch.activity[row, here].to(torch.float64), 0.0)
                found.append((trial, int(batch.start_bin[row]) + first, Piece(activity, seen)))
    found.sort(key=lambda item: item[:2])
    kept = [piece for _, _, piece in found]
    return kept, torch.arange(len(kept)) % folds


def joined(
    found: Sequence[Piece], fold: Int[Tensor, " piece"]
) -> tuple[Float[Tensor, "bin unit"], Bool[Tensor, "bin unit"], Int[Tensor, " bin"]]:
    """Return activity, what is seen of it, and the fold, of the bins of all pieces one after the other."""
    lengths = torch.tensor([len(piece.activity) for piece in found])
    activity, seen = (torch.cat(values) for values in zip(*found, strict=True))
    return activity, seen, fold.repeat_interleave(lengths)


def mean_of_seen(values: Float[Tensor, "bin unit"], seen: Bool[Tensor, "bin unit"]) -> Float[Tensor, " unit"]:
    """Return the mean of each unit over the bins that show it; 0 where none does."""
    return torch.where(seen, values, 0.0).sum(0) / seen.sum(0).clamp(min=1)


def rounded(mean: Float[Tensor, " unit"]) -> Float[Tensor, " unit"]:
    """Return a shift near the mean: sums around it lose no digits, and are not rounding errors themselves."""
    scale = 2.0 ** torch.floor(torch.log2(mean.abs().mean().clamp(min=1e-30)) - 3)
    return torch.round(mean / scale) * scale
