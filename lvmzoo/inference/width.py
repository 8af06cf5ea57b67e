"""The width of a Gaussian with which smoothed activity predicts best, by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvmzoo.inference.kernel_smoothing import smooth
from lvmzoo.inference.pieces import Piece, joined, mean_of_seen

__all__ = ["choose_width"]

RIDGES = (0.03, 0.3, 3.0)  # times the mean variance of the smoothed units


def choose_width(
    found: Sequence[Piece], fold: Int[Tensor, " piece"], widths: Sequence[float]
) -> tuple[float, Float[Tensor, " width"]]:
    """Return the best width in bins, and the cross-validated R2 of each, weighted by the units' variance.

    In the folds left out, each unit's activity, not smoothed, is predicted by ridge regression from the smoothed
    activity of the other units: co-smoothing among them. A single unit is predicted from its own bins around the one
    that is left out. What was not observed is the unit's mean here.

    Parameters
    ----------
    found : pieces of the training data.
    fold : that each piece belongs to.
    widths : standard deviations of the Gaussian to choose from, in bins.
    """
    raw, seen, of_bin = joined(found, fold)
    mean = mean_of_seen(raw, seen)
    truth = torch.where(seen, raw - mean, 0.0)
    single = raw.shape[1] == 1
    quality = raw.new_zeros(len(widths))
    for index, width in enumerate(widths):
        smoothed = [smooth(piece.activity[None] - mean, piece.seen[None], width, leave_out=single) for piece in found]
        values = torch.cat([value[0] for value, _ in smoothed])
        there = torch.cat([where[0] for _, where in smoothed])
        if single:
            error = torch.where(there, truth - values, truth).square().sum()
        else:
            error = _errors(values, truth, seen, of_bin).min()
        quality[index] = 1 - error / truth.square().sum().clamp(min=1e-30)
    return widths[int(quality.argmax())], quality


def _errors(values: Tensor, truth: Tensor, seen: Tensor, of_bin: Tensor) -> Float[Tensor, " ridge"]:
    """Return the squared errors of all units in the folds left out, for each ridge."""
    errors = values.new_zeros(len(RIDGES))
    for number in of_bin.unique():
        rest, held = of_bin != number, of_bin == number
        if not bool(rest.any()):
            return values.new_full((len(RIDGES),), float(truth.square().sum()))
        gram, cross = values[rest].T @ values[rest], values[rest].T @ truth[rest]
        eye = torch.eye(len(gram), dtype=gram.dtype)
        for index, ridge in enumerate(RIDGES):
            inverse = torch.linalg.inv(gram + (ridge * gram.diagonal().mean()).clamp(min=1e-12) * eye)
            weights = inverse @ cross
            # Without its own row and column: the inverse of a matrix less a row and column, for all units at once.
            weights = weights - inverse * (weights.diagonal() / inverse.diagonal())
            error = torch.where(seen[held], truth[held] - values[held] @ weights, 0.0)
            errors[index] += error.square().sum()
    return errors
