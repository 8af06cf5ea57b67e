"""Whether the latents of all conditions turn together, against conditions that were shuffled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lvmzoo.errors import UserError
from lvmzoo.metrics.rotation import MINIMUM_BINS, MINIMUM_CONDITIONS, Rotation, rotation
from lvmzoo.report.style import HAIRLINE, MUTED, PREDICTED, RECORDED, Picture, picture
from lvmzoo.report.text import number
from lvmzoo.report.trajectories import condition_means
from lvmzoo.report.view import View, colors_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Averages", "averages", "rotation_figures"]

_LEAST_TRIALS = 2  # behind an average
_LEVEL = 0.05
_SMOOTHING_S = 0.04  # of counts; as in the figures of rates
_SOFT_HZ = 5.0


@dataclass(frozen=True)
class Averages:
    """Latents, and recorded activity, averaged by condition over the longest time that all of them have."""

    means: Float[np.ndarray, "condition bin latent"]
    activity: Float[np.ndarray, "condition bin unit"]  # smoothed, softly normalized; units that were recorded
    colors: list[Any]
    trials: str  # which were averaged, in words
    levels: str  # how many
    seconds: float


def rotation_figures(view: View) -> Iterator[Picture | str]:
    """Say whether there is evidence of a rotation, and draw its plane and the null; or say why that cannot be told."""
    found = averages(view)
    if isinstance(found, str):
        yield f"Not tested: {found}"
        return
    try:
        turn = rotation(found.means, view.bin_s, seed=view.evaluation.seed)
    except UserError as error:
        yield f"Not tested: {error.what} {error.why}"
        return
    assert view.conditions is not None
    column = view.conditions.column
    yield _lead(turn, found, column) + _of_activity(view, found)
    low, high = turn.null_interval
    yield picture(
        functools.partial(_plane, turn=turn, colors=found.colors),
        title=f"The plane that turns most: {number(turn.frequency_hz, 2)} Hz",
        caption=f"Averages over {found.trials} of each {column}, less their mean over all; dots are beginnings, "
        f"arrows ends. The plane holds {100 * turn.share:.0f} % of the variance between them. Its frequency is "
        f"{number(turn.frequency_hz, 2)} ± {number(turn.frequency_spread_hz, 2)} Hz (SEM, leaving out one {column} at "
        f"a time): {number(turn.frequency_hz * found.seconds, 2)} turns in the {found.seconds:.3g} s shown. By chance, "
        "trajectories would turn in either sense.",
        alt=f"Trajectories of {len(found.means)} conditions on the plane of the fitted rotation.",
        height=4.3,
    )
    interval = turn.p_interval
    yield picture(
        functools.partial(_null, turn=turn, column=column),
        title=f"R² {turn.r2:.2f}, by chance {low:.2f} to {high:.2f}",
        caption="How much of the change over time one rotation explains (orange), and how much it explains in "
        f"{len(turn.null)} data sets whose {column}s were shuffled for each principal component by itself (gray): "
        "that is what chance gives with courses as smooth and as large. p = (1 + shuffles that reach it) / "
        f"(1 + shuffles) = {_p(turn)}; with endless shuffles it would lie between {number(interval[0], 2)} and "
        f"{number(interval[1], 2)}. A sequence of directions that all {column}s run through passes for a rotation of "
        "part of a turn.",
        alt=f"Histogram of R² of shuffled conditions, and the R² of the data, {turn.r2:.2f}.",
        height=4.3,
    )


def _p(turn: Rotation) -> str:
    return number(turn.p, 1 if turn.p < 0.001 else 2)


def _lead(turn: Rotation, found: Averages, column: str) -> str:
    low, high = turn.null_interval
    verdict = "Evidence of rotation" if turn.p <= _LEVEL else "No evidence of rotation"
    return (
        f"{verdict} (p = {_p(turn)}): one rotation shared by {found.levels} levels of {column} explains "
        f"{100 * turn.r2:.0f} % of how the latents change, where any linear dynamics explain "
        f"{100 * turn.r2_linear:.0f} %; with shuffled {column}s it explains {100 * low:.0f} to {100 * high:.0f} % "
        "(95 % of shuffles)."
    )


def _of_activity(view: View, found: Averages) -> str:
    """Say what the same test finds in the recorded activity, where no model can have put a rotation."""
    try:
        turn = rotation(found.activity, view.bin_s, seed=view.evaluation.seed)
    except UserError:  # a unit or two, say: the latents may still tell
        return ""
    low, high = turn.null_interval
    smoothed = f", smoothed by a Gaussian of {1000 * _sigma_s(view):.4g} ms" if view.counts else ""
    return (
        f" In the recorded activity, averaged alike{smoothed}, it is {100 * turn.r2:.0f} %, and {100 * low:.0f} to "
        f"{100 * high:.0f} % when shuffled (p = {_p(turn)})."
    )


def _sigma_s(view: View) -> float:
    return max(_SMOOTHING_S, view.bin_s)


def averages(view: View) -> Averages | str:
    """Return the averages to look for rotation in, or why there are none.

    Of test trials, where three conditions or more have two of them each; else of all trials.
    """
    conditions = view.conditions
    if conditions is None:
        return (
            "rotation is looked for in averages by condition, and no column of the trial table sorts the trials into "
            "conditions."
        )
    every = [name for name in ("train", "validation", "test") if len(view.part(name))]
    parts, words = ["test"], "the test trials"
    if (_trials(view, parts) >= _LEAST_TRIALS).sum() < MINIMUM_CONDITIONS:
        parts, words = every, "all trials, as there are few test trials,"
    kept = np.flatnonzero(_trials(view, parts) >= _LEAST_TRIALS)
    if len(kept) < MINIMUM_CONDITIONS:
        return (
            f"{MINIMUM_CONDITIONS} levels of {conditions.column} or more need {_LEAST_TRIALS} trials each, and "
            f"{len(kept)} have them. Of two, one is the mirror image of the other about their mean."
        )
    means = _pooled(view, parts, view.evaluation.latents)[kept]
    first, stop = _longest(np.isfinite(means).all((0, 2)))
    if stop - first < MINIMUM_BINS:
        return (
            f"the trials share {stop - first} bins of {1000 * view.bin_s:.4g} ms, and {MINIMUM_BINS} or more are "
            "needed to see a rotation."
        )
    return Averages(
        means[:, first:stop],
        _normalized(view, _pooled(view, parts, view.activity)[kept, first:stop]),
        [colors_of(conditions)[code] for code in kept],
        words,
        f"all {len(kept)}" if len(kept) == len(conditions.levels) else f"{len(kept)} of {len(conditions.levels)}",
        float((stop - first) * view.bin_s),
    )


def _trials(view: View, parts: list[str]) -> Int[np.ndarray, " condition"]:
    """Return the number of trials of each condition."""
    assert view.conditions is not None
    codes = np.concatenate([view.conditions.codes(view.part(part).table) for part in parts])
    return np.bincount(codes[codes >= 0], minlength=len(view.conditions.levels))


def _normalized(
    view: View, means: Float[np.ndarray, "condition bin unit"]
) -> Float[np.ndarray, "condition bin recorded"]:
    """Return averages of activity as in Churchland et al. 2012: strong units count more, but not by all they are."""
    from scipy.ndimage import gaussian_filter1d

    means = means[..., np.isfinite(means).all((0, 1))].astype(np.float64) * view.scale
    if view.counts:
        means = gaussian_filter1d(means, _sigma_s(view) / view.bin_s, axis=1, mode="nearest")
    span = np.ptp(means, axis=(0, 1))
    soft = _SOFT_HZ if view.counts else float(np.median(span)) if len(span) else 0.0
    return means / np.where(span + soft > 0, span + soft, 1.0)


def _pooled(
    view: View, parts: list[str], values: Callable[[str], Float[np.ndarray, "bin k"]]
) -> Float[np.ndarray, "condition inside k"]:
    """Return averages over the trials of several parts; NaN where a part has too few that last as long."""
    found = [condition_means(view, values(part), part)[0] for part in parts]
    weights = [_trials(view, [part])[:, None, None] for part in parts]
    bins = min(means.shape[1] for means in found)
    total = sum(np.where(w > 0, w * means[:, :bins], 0.0) for w, means in zip(weights, found, strict=True))
    return np.asarray(total / np.maximum(sum(weights), 1))


def _longest(known: np.ndarray) -> tuple[int, int]:
    """Return where the longest run of True lies."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]])))
    runs = edges.reshape(-1, 2)
    if not len(runs):
        return 0, 0
    first, stop = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    return int(first), int(stop)


def _plane(figure: Figure, turn: Rotation, colors: list[Any]) -> None:
    axes = figure.subplots()
    axes.axhline(0, color=HAIRLINE, linewidth=0.7, zorder=0)
    axes.axvline(0, color=HAIRLINE, linewidth=0.7, zorder=0)
    for path, color in zip(turn.trajectories, colors, strict=True):
        axes.plot(*path.T, color=color, linewidth=1.8)
        axes.plot(*path[:1].T, "o", color=color, markersize=4)
        _arrow(axes, path, color)
    reach = 1.08 * float(np.abs(turn.trajectories).max())
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="rotation axis 1", ylabel="rotation axis 2")
    axes.set_aspect("equal", adjustable="box", anchor="W")


def _arrow(axes: Axes, path: Float[np.ndarray, "bin 2"], color: Any) -> None:
    """Put an arrowhead at the end of a trajectory, along its last visible stretch."""
    size = np.abs(path).max()
    before = np.flatnonzero(np.linalg.norm(path - path[-1], axis=1) > 0.03 * size)
    if len(before):
        axes.annotate(
            "", path[-1], path[before[-1]],
            arrowprops=dict.fromkeys(("shrinkA", "shrinkB"), 0)
            | {"arrowstyle": "-|>", "color": color, "linewidth": 1.8, "mutation_scale": 11},
        )  # fmt: skip


def _null(figure: Figure, turn: Rotation, column: str) -> None:
    axes = figure.subplots()
    low, high = turn.null_interval
    top = max(float(turn.null.max()), turn.r2)
    edges = np.linspace(0, max(1.05 * top, 0.05), 41)
    counts, _, _ = axes.hist(turn.null, bins=list(edges), color=RECORDED, alpha=0.55, linewidth=0)
    peak = float(np.max(counts))
    axes.plot([low, high], [1.06 * peak] * 2, color=MUTED, linewidth=1.4)
    axes.annotate(
        f"95 % of shuffled {column}s", ((low + high) / 2, 1.06 * peak), xytext=(0, 4), textcoords="offset points",
        ha="center", fontsize=8, color=MUTED,
    )  # fmt: skip
    axes.axvline(turn.r2, color=PREDICTED, linewidth=2, ymax=0.86)
    right = turn.r2 > 0.5 * edges[-1]
    axes.annotate(
        "the latents", (turn.r2, 0.93 * peak), xytext=(-5 if right else 5, 0), textcoords="offset points",
        ha="right" if right else "left", color=PREDICTED, weight="bold",
    )  # fmt: skip
    axes.set(xlim=(0, edges[-1]), ylim=(0, 1.25 * peak), xlabel="R² of one rotation", ylabel="shuffles")
