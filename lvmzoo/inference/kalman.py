"""Kalman filter and smoother in information form: covariance recursions that the data do not enter.

The model is x_1 ~ N(mu, V), x_{t+1} = A x_t + w, w ~ N(0, Q), and bin t tells about x_t through the information matrix
J_t = C' R^-1 C of the units observed in it. Nothing of size (unit, unit) is formed, and every covariance is a Gram
matrix, positive semi-definite by construction, also where J is singular. As J does not depend on the activity, trials
with the same pattern of observation share one recursion, whatever their lengths; it stops when it has become steady.

Rauch, Tung, Striebel (1965) AIAA Journal 3, 1445, doi:10.2514/3.3166.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import lapack

__all__ = [
    "Covariances",
    "Piece",
    "SmoothedSums",
    "condition",
    "covariances",
    "smoothed_covariances",
    "smoothed_sums",
    "square_root",
]

STEADY = 1e-14  # largest relative change of a covariance between bins that counts as none


class Piece(NamedTuple):
    """Bins [start, stop), with the steps ``step, step + 1, …``, or all with ``step`` once the recursion is steady."""

    start: int
    stop: int
    step: int
    steady: bool


class Covariances(NamedTuple):
    """The filter's matrices at each step of the recursion; ``pieces`` says which bins a step stands for.

    A group is a set of trials that share the pattern of observation.
    """

    pieces: tuple[Piece, ...]
    filtered: Float[np.ndarray, "step group latent latent"]  # V_t: covariance given the bins up to t
    prior: Float[np.ndarray, "step group latent latent"]  # P_t: covariance given the bins before t
    predicted: Float[np.ndarray, "step group latent latent"]  # P_{t+1} = A V_t A' + Q
    update: Float[np.ndarray, "step group latent latent"]  # I - V_t J_t
    gain: Float[np.ndarray, "step group latent latent"]  # V_t A' P_{t+1}^-1, of the smoother
    log_determinant: Float[np.ndarray, "step group"]  # log |I + P_t J_t|

    def steps(self, bins: Int[np.ndarray, " bin"]) -> Int[np.ndarray, " bin"]:
        """Return the step of some bins."""
        start, _, step, steady = (np.array(values) for values in zip(*self.pieces, strict=True))
        piece = np.searchsorted(start, bins, side="right") - 1
        return step[piece] + np.where(steady[piece], 0, bins - start[piece])


def covariances(
    dynamics: Float[np.ndarray, "latent latent"],
    noise: Float[np.ndarray, "latent latent"],
    initial: Float[np.ndarray, "latent latent"],
    information: Iterable[tuple[int, int, Float[np.ndarray, "group latent latent"]]],
) -> Covariances:
    """Run the filter's covariance recursion over stretches (start, stop, J) of constant information."""
    identity = np.eye(len(dynamics))
    P = initial[None]
    pieces: list[Piece] = []
    filtered: list[np.ndarray] = []
    prior: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    update: list[np.ndarray] = []
    log_determinant: list[np.ndarray] = []
    for start, stop, J in information:
        first, t, steady = len(filtered), start, False
        while t < stop and not steady:
            V, log_det = condition(P, J)
            after = dynamics @ V @ dynamics.T + noise
            filtered.append(V)
            prior.append(np.broadcast_to(P, after.shape))
            predicted.append(after)
            update.append(identity - V @ J)
            log_determinant.append(log_det)
            steady = after.shape == P.shape and bool(np.abs(after - P).max() <= STEADY * np.abs(after).max())
            P, t = after, t + 1
        pieces.append(Piece(start, t, first, False))
        if t < stop:
            pieces.append(Piece(t, stop, len(filtered) - 1, True))
    V, P = np.stack(filtered), np.stack(predicted)
    gain = np.linalg.solve(P, dynamics @ V).swapaxes(-1, -2)
    return Covariances(tuple(pieces), V, np.stack(prior), P, np.stack(update), gain, np.stack(log_determinant))


def condition(
    P: Float[np.ndarray, "#group latent latent"], J: Float[np.ndarray, "#group latent latent"]
) -> tuple[Float[np.ndarray, "group latent latent"], Float[np.ndarray, " group"]]:
    """Return (P^-1 + J)^-1 as a Gram matrix, and log |I + P J|; either may be one for all."""
    identity = np.eye(P.shape[-1])
    if len(P) == len(J) == 1:  # LAPACK itself has a fraction of the overhead of NumPy's wrappers
        root, failed = lapack.dpotrf(P[0], lower=1, clean=1)
        if not failed:
            K, failed = lapack.dpotrf(identity + root.T @ J[0] @ root, lower=1, clean=1)
            if not failed:
                # dtrtrs would be the direct way, but OpenBLAS wakes its threads for it however small the matrix is.
                W = lapack.dtrtri(K, lower=1)[0] @ root.T
                return (W.T @ W)[None], 2 * np.log(np.diagonal(K)).sum(keepdims=True)
    root = square_root(P)
    K = np.linalg.cholesky(identity + root.swapaxes(-1, -2) @ J @ root)
    W = np.linalg.solve(K, root.swapaxes(-1, -2))
    return W.swapaxes(-1, -2) @ W, 2 * np.log(np.diagonal(K, axis1=-2, axis2=-1)).sum(-1)


def square_root(P: Float[np.ndarray, "*group latent latent"]) -> Float[np.ndarray, "*group latent latent"]:
    """Return L with L L' = P for covariances P, singular ones included."""
    try:
        return np.linalg.cholesky(P)
    except np.linalg.LinAlgError:  # singular to rounding: any square root will do
        values, vectors = np.linalg.eigh(P)
        return vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]


class SmoothedSums(NamedTuple):
    """Sums of the smoother's covariances over trials and bins."""

    total: Float[np.ndarray, "latent latent"]
    observed: Float[np.ndarray, "latent latent"]  # over the bins that were observed
    first: Float[np.ndarray, "latent latent"]
    last: Float[np.ndarray, "latent latent"]
    cross: Float[np.ndarray, "latent latent"]  # of x_{t+1} with x_t


def smoothed_sums(
    shared: Covariances, counts: Int[np.ndarray, " bin"], observed: Bool[np.ndarray, " bin"]
) -> SmoothedSums:
    """Return the sums over trials of any lengths that share one recursion.

    The smoother's recursion is affine in the covariance, and its gain does not depend on a trial's length, so the sum
    S_t over the trials that reach bin t obeys S_t = n_t V_t + G_t (S_{t+1} - n_{t+1} P_{t+1}) G_t'.

    Parameters
    ----------
    shared : the filter's matrices of the one group.
    counts : number of trials that reach each bin, never rising.
    observed : bins in which there was something to see.
    """
    V, P, G = shared.filtered[:, 0], shared.predicted[:, 0], shared.gain[:, 0]
    after = np.append(counts[1:], 0)
    S = np.zeros_like(V[0])
    total, seen, cross = np.zeros_like(S), np.zeros_like(S), np.zeros_like(S)
    for start, stop, step in reversed(list(_stretches(shared.pieces, counts, after, observed))):
        n, n_after, gain = float(counts[start]), float(after[start]), G[step]
        fresh = n * V[step] - n_after * (gain @ P[step] @ gain.T)
        left = stop - start
        stretch, stretch_cross = np.zeros_like(S), np.zeros_like(S)
        while left:
            carried = gain @ S
            following, S = S, fresh + carried @ gain.T
            stretch += S
            stretch_cross += carried.T
            left -= 1
            if left > 2 and np.abs(S - following).max() <= STEADY * np.abs(S).max():
                stretch += left * S
                stretch_cross += left * (S @ gain.T)
                left = 0
        total += stretch
        cross += stretch_cross
        if observed[start]:
            seen += stretch
    ends = np.flatnonzero(counts > after)
    last = np.einsum("t,tij->ij", (counts - after)[ends].astype(float), V[shared.steps(ends)])
    return SmoothedSums(total, seen, S, last, cross)


def _stretches(pieces: tuple[Piece, ...], *constant: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, step) of the longest stretches in which the step and every array are constant."""
    changes = np.zeros(len(constant[0]), bool)
    for array in constant:
        changes[1:] |= array[1:] != array[:-1]
    for start, stop, step, steady in pieces:
        if steady:
            edges = [start, *(start + 1 + np.flatnonzero(changes[start + 1 : stop])).tolist(), stop]
            yield from ((a, b, step) for a, b in itertools.pairwise(edges))
        else:
            yield from ((t, t + 1, step + t - start) for t in range(start, stop))


def smoothed_covariances(
    matrices: Covariances, lengths: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "row bin latent latent"]:
    """Return Cov(x_t | all bins) of trials of the given lengths; zero after their ends.

    The rows are the groups of ``matrices``, or share its only group.
    """
    V, P, G = matrices.filtered, matrices.predicted, matrices.gain
    bins, latents = matrices.pieces[-1].stop, V.shape[-1]
    result = np.zeros((len(lengths), bins, latents, latents))
    S = np.zeros_like(result[:, 0])
    ends = np.zeros(bins + 1, np.int64)
    np.add.at(ends, lengths, 1)
    reached = lengths[:, None, None]
    for start, stop, step, steady in reversed(matrices.pieces):
        t = stop - 1
        while t >= start:
            k = step if steady else step + t - start
            following = S
            S = V[k] + G[k] @ (following - P[k]) @ G[k].swapaxes(-1, -2)
            S = np.where(reached == t + 1, V[k], np.where(reached > t, S, 0.0))
            result[:, t] = S
            t -= 1
            if steady and t >= start and np.abs(S - following).max() <= STEADY * np.abs(S).max():
                previous_end = np.flatnonzero(ends[start + 1 : t + 2])
                until = start + int(previous_end[-1]) + 1 if len(previous_end) else start
                result[:, until : t + 1] = S[:, None]
                t = until - 1
    return result
