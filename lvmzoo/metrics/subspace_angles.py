"""Angles between what the latents of two models span over time: which of it they share, however they are mixed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lvmzoo.errors import UserError

__all__ = ["Angles", "subspace_angles"]

GROUPS = 20  # of trials, each left out once for the spread


class Angles(NamedTuple):
    """Principal angles, as many as the smaller of both has dimensions."""

    degrees: Float[np.ndarray, " angle"]  # smallest first; 0: the direction is in both, 90: it is in one alone
    spread: Float[np.ndarray, " angle"] | None  # standard errors over trials; None of a single trial
    n: int  # bins


def subspace_angles(
    one: Float[np.ndarray, "_bin one_latent"],
    other: Float[np.ndarray, "_bin other_latent"],
    trial: Int[np.ndarray, " _bin"],
) -> Angles:
    """Return the principal angles between the courses over time of two sets of latents, each less its mean.

    Of Björck & Golub (1973), doi:10.1090/S0025-5718-1973-0348991-3; their cosines are the canonical correlations. No
    affine map of the latents changes them. A trial's bins matter only by their products, so that triangular factors of
    groups of trials stand for them, without loss of precision.

    Parameters
    ----------
    one, other : latents of the same bins, as inferred by two models.
    trial : of each bin, for the spread; never decreasing.

    Raises
    ------
    UserError : where the bins differ in number, or latents do not vary.
    """
    if not len(one) == len(other) == len(trial):
        raise UserError(
            f"There are {len(one)} and {len(other)} bins of latents, and {len(trial)} of trials.",
            "Angles are between latents of the same bins.",
            "Infer both from the same trials.",
        )
    both = np.concatenate([values - values.mean(0) for values in (one, other)], 1).astype(np.float64)
    number = np.unique(trial, return_inverse=True)[1]
    groups = number * GROUPS // max(int(number.max()) + 1, GROUPS)
    factors = [np.linalg.qr(both[groups == group], mode="r") for group in np.unique(groups)]
    angles = _angles(np.concatenate(factors), one.shape[1])
    spread = None
    if len(factors) > 1:
        without = [_angles(np.concatenate(factors[:k] + factors[k + 1 :]), one.shape[1]) for k in range(len(factors))]
        if all(len(found) == len(angles) for found in without):
            spread = np.sqrt((len(factors) - 1) * np.var(without, axis=0))
    return Angles(angles, spread, len(one))


def _angles(factor: Float[np.ndarray, "row latent"], first: int) -> Float[np.ndarray, " angle"]:
    """Return the angles in degrees between the columns before ``first`` and the others."""
    spans = [_span(side) for side in (factor[:, :first], factor[:, first:])]
    wide, narrow = sorted(spans, key=lambda span: -span.shape[1])
    inside = wide.T @ narrow
    cosines = np.linalg.svd(inside, compute_uv=False)
    sines = np.linalg.svd(narrow - wide @ inside, compute_uv=False)[::-1]
    # Of small angles the sine is precise, of large ones the cosine.
    angles = np.where(cosines**2 > 0.5, np.arcsin(np.clip(sines, 0, 1)), np.arccos(np.clip(cosines, 0, 1)))
    return np.degrees(angles)


def _span(columns: Float[np.ndarray, "row latent"]) -> Float[np.ndarray, "row dimension"]:
    """Return an orthonormal basis of the columns."""
    size = np.linalg.norm(columns, axis=0)
    columns = columns / np.where(size > 0, size, 1.0)
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    left = left[:, sizes > 1e-10 * max(sizes.max(initial=0.0), 1e-300)]
    if not left.shape[1] or not size.any():
        raise UserError("The latents do not vary.", "Angles are between directions that vary.", "Leave this model out.")
    return np.asarray(left)
