r"""Do trajectories of different conditions turn together? The statistic of jPCA, against shuffled conditions.

Averages by condition, less their mean over conditions, are reduced to their first principal components X; a
skew-symmetric matrix M, the same for all conditions and times, is fitted to their changes,

.. math:: \dot X = X M, \quad M = -M^\top,

by least squares. Its R2 is the share of all change that one pure rotation explains; without the constraint, M gives the
share that linear dynamics explain. Churchland et al. 2012, doi:10.1038/nature11129.

**Null.** Smooth trajectories of a few conditions always turn a little, and a plane fitted to them turns more. Here the
conditions are shuffled for each principal component by itself: condition 3 gets the first component's course of
condition 5 and the second component's of condition 1. Every single course stays as it is, with its smoothness, its
phases and its mean over conditions; lost is what makes a rotation one: that where a condition is along one component
says how it moves along another, in the same way for all conditions. Principal components are uncorrelated and shuffled
ones are not, so that the shuffled trajectories are brought back to the covariance of the components by the smallest
linear change that does so. Second moments are kept, and single courses nearly, as Elsayed and Cunningham 2017 ask,
doi:10.1038/nn.4617. Of smooth noise, patterns of two phases, decays and straight paths, 1 to 7 % had p <= .05.

Other shuffles are not sound. Shuffled bins are not smooth, and smoothness itself then passes for dynamics. When the
displacements from the first bin are dealt to other conditions, 97 % of smooth noise had p <= .05.

What the test cannot tell: a sequence in which all conditions run through the same directions passes for a rotation of
part of a turn (Lebedev et al. 2019, doi:10.1038/s41598-019-54760-4), and so do dynamics that shear.
Nor does it say that the conditions matter: averages of a few trials each, sorted by chance, turn if the trials do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvmzoo.errors import UserError

__all__ = ["MINIMUM_BINS", "MINIMUM_CONDITIONS", "Rotation", "rotation"]

MINIMUM_CONDITIONS = 3  # two conditions mirror each other about their mean: shuffling changes nothing
MINIMUM_BINS = 6
COMPONENTS = 6  # at most, as in Churchland et al. 2012
_FREEDOM = 2  # independent courses that there are, at least, a component: of fewer, any data fill the space


@dataclass(frozen=True)
class Rotation:
    """How far one rotation, shared by all conditions, explains how their trajectories move."""

    r2: float  # of the best skew-symmetric M
    r2_linear: float  # of the best M
    null: Float[np.ndarray, " shuffle"]  # r2 with shuffled conditions
    frequency_hz: float  # of the plane that explains most of the change; noise in the averages lowers it
    frequency_spread_hz: float  # its standard error, from leaving out one condition at a time
    plane: Float[np.ndarray, "latent 2"]  # orthonormal; turns from its first axis to its second
    trajectories: Float[np.ndarray, "condition bin 2"]  # on the plane, less their mean over conditions
    share: float  # of the variance between conditions that lies in the plane

    @property
    def p(self) -> float:
        """Chance that shuffled conditions reach this R2: (1 + number that do) / (1 + number of shuffles)."""
        return float((1 + self._reached) / (1 + len(self.null)))

    @property
    def p_interval(self) -> tuple[float, float]:
        """Where p would lie with endless shuffles: 95 % interval of Clopper and Pearson."""
        from scipy.stats import beta

        reached, total = self._reached, len(self.null)
        low = beta.ppf(0.025, reached, total - reached + 1) if reached else 0.0
        high = beta.ppf(0.975, reached + 1, total - reached) if reached < total else 1.0
        return float(low), float(high)

    @property
    def null_interval(self) -> tuple[float, float]:
        """The middle 95 % of what shuffled conditions give."""
        low, high = np.percentile(self.null, [2.5, 97.5])
        return float(low), float(high)

    @property
    def _reached(self) -> int:
        return int((self.null >= self.r2 * (1 - 1e-9)).sum())  # ties, but for rounding, count against the claim


def rotation(
    means: Float[np.ndarray, "condition bin latent"], bin_width_s: float, shuffles: int = 2000, seed: int = 0
) -> Rotation:
    """Fit one rotation to the averages by condition, and compare it with shuffled conditions.

    Parameters
    ----------
    means : latents averaged over the trials of each condition; all known.
    bin_width_s : in seconds, for the frequency.
    shuffles, seed : of the null.

    Raises
    ------
    UserError
        With fewer than three conditions, two latents or six bins, with values that are not finite, when all conditions
        are alike, and when they are too smooth to tell a rotation from chance.
    """
    _check(means)
    centered = means.astype(np.float64)
    centered = centered - centered.mean(0)
    conditions, _, latents = centered.shape
    if (centered**2).sum() <= 1e-20 * (means.astype(np.float64) ** 2).sum():
        raise UserError(
            "The averages of all conditions are alike.",
            "A rotation is looked for in how conditions differ.",
            "Sort the trials by a column that matters to the activity.",
        )
    flat = centered.reshape(-1, latents)
    axes = np.linalg.eigh(flat.T @ flat)[1][:, ::-1][:, : _components(centered)]
    courses = centered @ axes
    # A change between two bins goes with the state halfway: exact for a rotation, and blind to noise within bins.
    state = (courses[:, 1:] + courses[:, :-1]) / 2
    change = np.diff(courses, axis=1) / bin_width_s

    # Sums over bins for every pair of components and conditions: shuffles then need no bins.
    pairs = [(state, state), (state, change), (change, change)]
    sums = np.stack([np.einsum("ati,btj->ijab", a, b, optimize=True) for a, b in pairs])
    own = np.broadcast_to(np.arange(conditions), (1, axes.shape[1], conditions))
    kept = _dealt(sums, own)
    skew, r2 = _turn(kept)
    random = np.random.default_rng(seed)
    shuffled = _dealt(sums, random.permuted(np.broadcast_to(own, (shuffles, *own.shape[1:])), axis=2))
    _, null = _turn(_with_covariance(shuffled, kept[0, 0]))

    plane, speed = _leading_plane(skew[0], kept[0, 0])
    turning = courses @ plane
    plane = plane @ _facing(turning[:, 0])
    turning = courses @ plane
    return Rotation(
        r2=float(r2[0]),
        r2_linear=_linear(kept[:, 0]),
        null=null,
        frequency_hz=_frequency(speed, bin_width_s),
        frequency_spread_hz=_jackknife(state, change, bin_width_s),
        plane=axes @ plane,
        trajectories=turning,
        share=float((turning**2).sum() / (centered**2).sum()),
    )


def _check(means: Float[np.ndarray, "condition bin latent"]) -> None:
    smallest = {"condition": MINIMUM_CONDITIONS, "bin": MINIMUM_BINS, "latent": 2}
    for count, (noun, least) in zip(means.shape, smallest.items(), strict=True):
        if count < least:
            raise UserError(
                f"There is 1 {noun}." if count == 1 else f"There are {count} {noun}s.",
                f"A rotation shared by conditions can be told from chance with {least} {noun}s or more.",
                f"Use data with more {noun}s.",
            )
    if not np.isfinite(means).all():
        raise UserError(
            "The averages by condition hold values that are not finite.",
            "A rotation is fitted to whole trajectories.",
            "Keep only the bins that every condition has.",
        )


def _components(centered: Float[np.ndarray, "condition bin latent"]) -> int:
    """Return how many components the data can judge; raises UserError below two.

    Smooth courses are worth fewer than their bins: the squared trace of their covariance over time, over that of its
    square.
    """
    over_time = np.einsum("atk,auk->tu", centered, centered, optimize=True)
    freedom = (len(centered) - 1) * np.trace(over_time) ** 2 / (over_time**2).sum()
    found = min(COMPONENTS, centered.shape[2], int(freedom / _FREEDOM))
    if found < 2:
        raise UserError(
            f"{len(centered)} conditions hold about {freedom:.1f} independent courses.",
            f"A plane and a rotation in it can be told from chance with {2 * _FREEDOM} or more.",
            "Use more conditions, or longer trials.",
        )
    return found


def _dealt(
    sums: Float[np.ndarray, "three k k condition condition"], orders: Int[np.ndarray, "shuffle k condition"]
) -> Float[np.ndarray, "three shuffle k k"]:
    """Return X'X, X'dX and dX'dX where component i of condition c is that of condition ``orders[:, i, c]``."""
    k = sums.shape[1]
    i, j = np.arange(k)[:, None, None], np.arange(k)[None, :, None]
    first, second = orders[:, :, None, :], orders[:, None, :, :]
    return np.stack([table[i, j, first, second].sum(-1) for table in sums])


def _with_covariance(
    sums: Float[np.ndarray, "three shuffle k k"], wanted: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, "three shuffle k k"]:
    """Return the sums after the smallest linear change of X that makes X'X what is wanted."""
    root = _power(wanted, 0.5)
    change = root @ _power(root @ sums[0] @ root, -0.5) @ root
    return change @ sums @ change


def _power(square: Float[np.ndarray, "*many k k"], exponent: float) -> Float[np.ndarray, "*many k k"]:
    """Return a power of symmetric matrices, of their nonzero eigenvalues."""
    values, vectors = np.linalg.eigh(square)
    known = values > 1e-12 * values[..., -1:]
    powers = np.where(known, np.where(known, values, 1.0) ** exponent, 0.0)
    return (vectors * powers[..., None, :]) @ vectors.swapaxes(-1, -2)


def _turn(
    sums: Float[np.ndarray, "three shuffle k k"],
) -> tuple[Float[np.ndarray, "shuffle k k"], Float[np.ndarray, " shuffle"]]:
    """Return the best skew-symmetric M and its R2.

    Its normal equations, S M + M S = G - G' with S = X'X and G = X'dX, are diagonal among the eigenvectors of S.
    """
    square, move, moved = sums
    variance, basis = np.linalg.eigh(square)
    within = basis.swapaxes(1, 2) @ (move - move.swapaxes(1, 2)) @ basis
    scale = variance[:, :, None] + variance[:, None, :]
    known = scale > 1e-12 * variance[:, -1:, None]
    skew = basis @ np.divide(within, scale, out=np.zeros_like(within), where=known) @ basis.swapaxes(1, 2)
    total = np.trace(moved, axis1=1, axis2=2)
    explained = (skew * move).sum((1, 2))
    return skew, np.divide(explained, total, out=np.zeros_like(total), where=total > 0)


def _linear(sums: Float[np.ndarray, "three k k"]) -> float:
    """Return the R2 of the best M."""
    square, move, moved = sums
    explained = (move * (np.linalg.pinv(square, rcond=1e-12, hermitian=True) @ move)).sum()
    return float(explained / max(np.trace(moved), 1e-300))


def _leading_plane(
    skew: Float[np.ndarray, "k k"], square: Float[np.ndarray, "k k"]
) -> tuple[Float[np.ndarray, "k 2"], float]:
    """Return the invariant plane that explains most of the change, and its angular speed in radians per second.

    The planes of a skew-symmetric matrix are orthogonal, so that each explains speed^2 times the variance within it.
    """
    speeds, vectors = np.linalg.eig(skew)
    chosen, most = (np.eye(len(skew))[:, :2], 0.0), -1.0
    for speed, vector in zip(speeds.imag, vectors.T, strict=True):
        if speed <= 0:
            continue
        plane, _ = np.linalg.qr(np.stack([vector.real, vector.imag], 1))
        explained = speed**2 * np.trace(plane.T @ square @ plane)
        if explained > most:
            if plane[:, 0] @ skew @ plane[:, 1] < 0:  # x M e2 > 0 at x = e1: from the first axis to the second
                plane = plane * [1, -1]
            chosen, most = (plane, float(speed)), explained
    return chosen


def _facing(starts: Float[np.ndarray, "condition 2"]) -> Float[np.ndarray, "2 2"]:
    """Return the turn of the plane that lays the starts of the conditions along its first axis."""
    _, _, rows = np.linalg.svd(starts, full_matrices=True)
    cos, sin = rows[0]
    return np.array([[cos, -sin], [sin, cos]])


def _frequency(speed: float, bin_width_s: float) -> float:
    """Return turns per second; the chord from bin to bin is shorter than the arc."""
    return float(np.arctan(speed * bin_width_s / 2) / (np.pi * bin_width_s))


def _jackknife(
    state: Float[np.ndarray, "condition step k"], change: Float[np.ndarray, "condition step k"], bin_width_s: float
) -> float:
    """Return the standard error of the frequency, from leaving out one condition at a time."""
    pairs = [(state, state), (state, change), (change, change)]
    each = np.stack([np.einsum("ati,atj->aij", a, b) for a, b in pairs])
    without = each.sum(1, keepdims=True) - each
    skews, _ = _turn(without)
    found = [
        _frequency(_leading_plane(skew, square)[1], bin_width_s) for skew, square in zip(skews, without[0], strict=True)
    ]
    return float(np.sqrt((len(found) - 1) * np.var(found)))
