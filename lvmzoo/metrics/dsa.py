"""Dynamical similarity: whether the latents of two models, or of two data sets, follow the same law of motion.

Ostrow, Eisen, Kozachkov & Fiete (2023), doi:10.48550/arXiv.2306.10168. Latents of some successive bins are put together
(delay embedding); their principal components, whitened, follow nearly linear dynamics even where the latents do not
(HAVOK), and these are fitted by ridge regression. Two operators are then compared up to an orthogonal change of
coordinates. How the latents are rotated and scaled as a whole does not matter, only how they go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lvmzoo.errors import UserError
from lvmzoo.metrics.similarity import likeness, refined

__all__ = ["Similarity", "dsa", "embedding_moments", "operator"]

RIDGE = 1e-6  # of the variance of the whitened components
EXPLAINED = 0.99  # of the variance of the delay embedding, by the components that are kept
MOST_COMPONENTS = 10
GROUPS = 10  # of trials, each left out once for the spread


class Similarity(NamedTuple):
    """How far the dynamics of two sets of trajectories are apart."""

    distance: float  # Frobenius, of the operators in their best common coordinates; 0: the same dynamics
    spread: float | None  # standard error of the distance over trials; None of a single trial
    angle: float  # between the operators, in radians; 0: the same up to a factor
    components: int  # size of the operators
    n: int  # transitions behind the operators of both


class Moments(NamedTuple):
    """Sums over the transitions of a delay embedding h[t] of one trial."""

    total: Float[np.ndarray, " d"]  # sum of h over all its bins
    square: Float[np.ndarray, "d d"]  # of h h', over all its bins
    before: Float[np.ndarray, "d d"]  # of h[t] h[t]', over bins with a successor
    across: Float[np.ndarray, "d d"]  # of h[t] h[t+1]'
    first: Float[np.ndarray, " d"]  # of h over bins with a successor
    last: Float[np.ndarray, " d"]  # of h over bins with a predecessor
    bins: int
    transitions: int


def dsa(
    one: Sequence[Float[np.ndarray, "_bin _latent"]],
    other: Sequence[Float[np.ndarray, "_bin _latent"]],
    delays: int = 5,
    components: int | None = None,
    seed: int = 0,
) -> Similarity:
    """Compare the dynamics of two sets of trajectories.

    They need not have as many latents, trials or bins as each other; the bin width must be the same.

    Parameters
    ----------
    one, other : latents of each trial; trials of ``delays`` bins or fewer do not count.
    delays : successive bins that are put together.
    components : size of the operators; None: what explains 99 % of the variance of both embeddings, 10 at most. Where
        an embedding has fewer, its operator has zeros for the rest: what it lacks is forgotten at once.
    seed : of the starts of the comparison.

    Raises
    ------
    UserError : without a trial that is longer than ``delays``, or where latents do not vary.
    """
    if delays < 1 or (components is not None and components < 1):
        raise UserError(
            f"delays={delays}, components={components}.",
            "Both are whole numbers, 1 or more.",
            "Write delays=5, and leave components out.",
        )
    sides = [[embedding_moments(trial, delays) for trial in side if len(trial) > delays] for side in (one, other)]
    for side in sides:
        if not side:
            raise UserError(
                f"No trial is longer than {delays} bins.",
                "Dynamics are seen in trials of more bins than are put together (delays).",
                "Lower delays, or use longer trials.",
            )
    whole = [_sum(side) for side in sides]
    bases = [_whitening(moments) for moments in whole]
    size = components or max(_enough(moments) for moments in whole)
    a, b = (operator(moments, white[:, :size], size) for moments, white in zip(whole, bases, strict=True))
    found = likeness(a, b, seed)
    spread = None
    if min(len(side) for side in sides) > 1:
        # Sides of as many trials lose them in pairs: right for the same trials, and for any others.
        together = len(sides[0]) == len(sides[1])
        variance = 0.0
        for left_out in ((True, True),) if together else ((True, False), (False, True)):
            without = []
            for k in range(min(GROUPS, *(len(side) for side, out in zip(sides, left_out, strict=True) if out))):
                rest = (
                    _less(moments, _sum(side[k::GROUPS])) if out else moments
                    for moments, side, out in zip(whole, sides, left_out, strict=True)
                )
                left, right = (operator(part, white[:, :size], size) for part, white in zip(rest, bases, strict=True))
                without.append(refined(left, right, found.turn).distance)
            variance += (len(without) - 1) * float(np.var(without))
        spread = float(np.sqrt(variance))
    return Similarity(found.distance, spread, found.angle, size, sum(moments.transitions for moments in whole))


def embedding_moments(trial: Float[np.ndarray, "bin latent"], delays: int) -> Moments:
    """Return the moments of a trial, whose bins are put together with the ``delays - 1`` before them."""
    bins = len(trial) - delays + 1
    h = np.concatenate([trial[delay : delay + bins] for delay in range(delays)], 1).astype(np.float64)
    return Moments(h.sum(0), h.T @ h, h[:-1].T @ h[:-1], h[:-1].T @ h[1:], h[:-1].sum(0), h[1:].sum(0), bins, bins - 1)


def operator(moments: Moments, white: Float[np.ndarray, "d component"], size: int) -> Float[np.ndarray, "size size"]:
    """Return A of v[t+1] = A v[t] by ridge regression, zero beyond the components that there are.

    Parameters
    ----------
    moments : of an embedding h.
    white : map from h to its whitened components v.
    size : of A.
    """
    mean, n = moments.total / moments.bins, moments.transitions
    before = moments.before - np.outer(moments.first, mean) - np.outer(mean, moments.first) + n * np.outer(mean, mean)
    across = moments.across - np.outer(moments.first, mean) - np.outer(mean, moments.last) + n * np.outer(mean, mean)
    count = white.shape[1]
    square = white.T @ before @ white + n * RIDGE * np.eye(count)
    found = np.zeros((size, size))
    found[:count, :count] = np.linalg.solve(square, white.T @ across @ white).T
    return found


def _principal(moments: Moments) -> tuple[Float[np.ndarray, " component"], Float[np.ndarray, "d component"]]:
    """Return variances and directions of the principal components that vary, largest first."""
    mean = moments.total / moments.bins
    values, vectors = np.linalg.eigh(moments.square / moments.bins - np.outer(mean, mean))
    there = values[::-1] > 1e-12 * max(float(np.trace(moments.square)) / moments.bins, 1e-300)
    if not there.any():
        raise UserError("The latents do not vary.", "Dynamics are seen in latents that change.", "Leave them out.")
    return values[::-1][there], vectors[:, ::-1][:, there]


def _whitening(moments: Moments) -> Float[np.ndarray, "d component"]:
    values, vectors = _principal(moments)
    return vectors / np.sqrt(values)


def _enough(moments: Moments) -> int:
    values, _ = _principal(moments)
    share = np.cumsum(values) / values.sum()
    return min(int(np.searchsorted(share, EXPLAINED)) + 1, MOST_COMPONENTS)


def _sum(parts: Sequence[Moments]) -> Moments:
    whole: list[Any] = [sum(leaves[1:], start=leaves[0]) for leaves in zip(*parts, strict=True)]
    return Moments(*whole)


def _less(whole: Moments, part: Moments) -> Moments:
    pairs: Any = zip(whole, part, strict=True)
    return Moments(*(a - b for a, b in pairs))
