r"""How far two linear maps are from being one map in different coordinates.

The least

.. math:: \| C A C^\top - B \|_F

over all orthogonal C, rotations and reflections, which is a metric between maps up to a change of orthonormal
coordinates (Ostrow, Eisen, Kozachkov & Fiete 2023, doi:10.48550/arXiv.2306.10168). With M = C A C', a further turn
exp(W), W skew-symmetric, changes -<C A C', B> by

.. math:: -\langle [W, M], B \rangle + \tfrac12 \langle [W, M], [W, B] \rangle + O(W^3),

so that gradient and Hessian are closed forms, and Newton's method converges in a few steps. The problem has local
minima; starts come from the eigenvectors of symmetric matrices that turn with the maps (A + A', A'A, A A', (A - A')^2),
with the best signs, and from random turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["Likeness", "likeness", "refined"]

RANDOM_STARTS = 24  # half of them reflections
STEPS = 200
PRECISION = 1e-10  # of the gradient, relative to the sizes of the maps


class Likeness(NamedTuple):
    """How two maps compare in the coordinates in which they are most alike."""

    distance: float  # ||C A C' - B||, Frobenius
    angle: float  # between them as vectors, in radians: 0 for maps alike up to a factor
    turn: Float[np.ndarray, "n n"]  # C


def likeness(one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"], seed: int = 0) -> Likeness:
    """Compare two maps of equal size in the coordinates in which they are most alike.

    Parameters
    ----------
    one, other : A and B.
    seed : of the random starts.
    """
    if len(one) < 1:
        return Likeness(0.0, 0.0, np.eye(0))
    best: Likeness | None = None
    for start in _starts(one, other, seed):
        found = refined(one, other, start)
        if best is None or found.distance < best.distance:
            best = found
        if best.distance <= 1e-9 * (np.linalg.norm(one) + np.linalg.norm(other)):
            break  # nothing is nearer than the same
    assert best is not None
    return best


def refined(
    one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"], start: Float[np.ndarray, "n n"]
) -> Likeness:
    """Compare two maps in the best coordinates near some: Newton's method, damped where it does not improve."""
    from scipy.linalg import expm

    n, turn = len(one), start
    rows, columns = np.triu_indices(n, 1)
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    basis = np.zeros((len(rows), n, n))
    basis[np.arange(len(rows)), rows, columns], basis[np.arange(len(rows)), columns, rows] = 1.0, -1.0
    moved = turn @ one @ turn.T
    # Beside what the maps have in common, the little by which equal ones still differ would be lost to rounding.
    squared, damping = float(((moved - other) ** 2).sum()), 0.0
    for _ in range(STEPS if len(rows) and scale else 0):
        of_one, of_other = (np.reshape(basis @ m - m @ basis, (len(rows), -1)) for m in (moved, other))
        slope = of_one @ other.ravel()
        if np.abs(slope).max() <= PRECISION * scale:
            break
        curvature = of_one @ of_other.T
        values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
        uphill = vectors.T @ slope
        for _ in range(60):
            # Directions that curve the wrong way are taken downhill as well, by the size of their curvature.
            step = vectors @ (uphill / (np.abs(values) + damping + 1e-12 * scale))
            step *= 1.0 / np.maximum(1.0, np.abs(step).max())
            further = expm(np.tensordot(step, basis, 1)) @ turn
            candidate = further @ one @ further.T
            less = float(((candidate - other) ** 2).sum())
            if less < squared:
                break
            damping = max(4 * damping, 1e-3 * scale)
        else:
            break  # rounding errors are larger than what there is to gain
        turn, moved, squared = further, candidate, less
        damping = damping / 16 if damping > 1e-6 * scale else 0.0
    turn = np.asarray(turn)
    cosine = np.clip((moved * other).sum() / scale if scale else 1.0, -1, 1)
    return Likeness(float(np.linalg.norm(moved - other)), float(np.arccos(cosine)), turn)


def _starts(
    one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"], seed: int
) -> Iterator[Float[np.ndarray, "n n"]]:
    random, n = np.random.default_rng(seed), len(one)
    yield np.eye(n)
    for symmetric in (lambda m: m + m.T, lambda m: m @ m.T, lambda m: m.T @ m, lambda m: (m - m.T) @ (m - m.T)):
        from_one, to_other = (np.linalg.eigh(symmetric(m))[1] for m in (one, other))
        a, b = from_one.T @ one @ from_one, to_other.T @ other @ to_other
        for sign in _signs(a * b, random):
            yield (to_other * sign) @ from_one.T
    for reflected in np.arange(RANDOM_STARTS) % 2 == 0:
        turn, upper = np.linalg.qr(random.normal(size=(n, n)))
        turn = turn * np.sign(np.diag(upper))
        if (np.linalg.det(turn) < 0) != reflected:
            turn[:, 0] *= -1
        yield turn


def _signs(agreement: Float[np.ndarray, "n n"], random: np.random.Generator) -> Iterator[Float[np.ndarray, " n"]]:
    """Give signs s that make s' (agreement) s large: from some random ones, flipped while that helps."""
    both = agreement + agreement.T
    np.fill_diagonal(both, 0.0)
    for sign in np.where(random.random((3, len(agreement))) < 0.5, -1.0, 1.0):
        while (gain := -sign * (both @ sign)).max() > 1e-12 * np.abs(both).max(initial=1e-300):
            sign[gain.argmax()] *= -1
        yield sign
