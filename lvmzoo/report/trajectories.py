"""Latents as trajectories, averaged over the trials of each condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lvmzoo.report.coloring import space_axes
from lvmzoo.report.view import View, colors_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Trajectories", "condition_means"]

_MOST_TRIALS, _MOST_TAGS = 96, 12


def condition_means(
    view: View, values: Float[np.ndarray, "bin k"], part: str = "test"
) -> tuple[Float[np.ndarray, "condition inside k"], Float[np.ndarray, "condition inside k"]]:
    """Return mean and SEM over the trials of each condition; NaN where fewer than half of them last that long."""
    assert view.conditions is not None
    grid = view.grid(part, values)
    codes = view.conditions.codes(view.part(part).table)
    shape = (len(view.conditions.levels), *grid.shape[1:])
    means, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    for code in range(len(view.conditions.levels)):
        trials = grid[codes == code]
        if not len(trials):
            continue
        n = np.isfinite(trials).sum(0)
        kept = n >= max(1, len(trials) / 2)
        total = np.nansum(trials, 0, dtype=np.float64)
        mean = np.divide(total, n, out=np.full(n.shape, np.nan), where=kept)
        squares = np.nansum((trials - mean) ** 2, 0, dtype=np.float64)
        means[code] = mean
        errors[code] = np.sqrt(np.divide(squares, n * (n - 1.0), out=np.full(n.shape, np.nan), where=kept & (n > 1)))
    return means, errors


class Trajectories:
    """Test trials and their averages by condition, on the axes of ``values``."""

    def __init__(self, view: View, values: Float[np.ndarray, "bin axis"], labels: list[str]) -> None:
        assert view.conditions is not None
        self.conditions, self.labels, self.dims = view.conditions, labels, values.shape[1]
        self.trials = view.grid("test", values)
        self.codes = self.conditions.codes(view.session.test.table)
        self.counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.conditions.levels))
        self.means, self.errors = condition_means(view, values)
        self.time = view.zero_s + (np.arange(self.trials.shape[1]) + 0.5) * view.bin_s
        self.time_label = view.trial_time_label

    @property
    def trial_count(self) -> str:
        """How many trials are behind an average."""
        low, high = int(self.counts.min()), int(self.counts.max())
        return f"{low} trials" if low == high else f"{low} to {high} trials"

    def plane(self, figure: Figure) -> None:
        """Draw the first two axes."""
        axes = figure.subplots()
        self._lines(axes, 2)
        center = np.nanmean(self.means[..., :2], (0, 1))
        for code, mean in enumerate(self.means[..., :2]):
            if self.counts[code] and len(self.conditions.levels) <= _MOST_TAGS:
                farthest = int(np.nanargmax(((mean - center) ** 2).sum(1)))
                self._tag(axes, mean[farthest], code)
        limits = [self._limits(axis) for axis in (0, 1)]
        reach = max(high - low for low, high in limits) / 2
        middle = [(low + high) / 2 for low, high in limits]
        axes.set_xlim(middle[0] - reach, middle[0] + reach)
        axes.set_ylim(middle[1] - reach, middle[1] + reach)
        axes.set_aspect("equal", adjustable="box", anchor="W")
        axes.set_xlabel(self.labels[0])
        axes.set_ylabel(self.labels[1])

    def space(self, figure: Figure) -> None:
        """Draw the first three axes."""
        axes = space_axes(figure, self.labels)
        limits = np.array([self._limits(axis) for axis in range(3)])
        axes.set(xlim=limits[0], ylim=limits[1], zlim=limits[2])
        self._lines(axes, 3, limits)

    def course(self, figure: Figure, axis: int) -> None:
        """Draw mean and SEM of one axis over time."""
        axes = figure.subplots()
        for mean, error, color in zip(
            self.means[..., axis], self.errors[..., axis], colors_of(self.conditions), strict=True
        ):
            axes.plot(self.time, mean, color=color)
            axes.fill_between(self.time, mean - error, mean + error, color=color, alpha=0.18, linewidth=0)
        axes.set_xlabel(self.time_label)
        axes.set_ylabel(self.labels[axis])

    def _lines(self, axes: Any, dims: int, limits: Float[np.ndarray, "axis 2"] | None = None) -> None:
        """Draw all trajectories; axes in space do not cut at their limits by themselves."""
        trials, means = self.trials[..., :dims], self.means[..., :dims]
        if limits is not None:
            trials, means = (
                np.where(((lines >= limits[:, 0]) & (lines <= limits[:, 1])).all(-1, keepdims=True), lines, np.nan)
                for lines in (trials, means)
            )
        known = np.flatnonzero(self.codes >= 0)
        for trial in np.random.default_rng(0).permutation(known)[:_MOST_TRIALS]:
            color = colors_of(self.conditions)[self.codes[trial]]
            axes.plot(*trials[trial].T, color=color, alpha=0.22, linewidth=0.6)
        for code in np.flatnonzero(self.counts):
            mean, color = means[code], colors_of(self.conditions)[code]
            axes.plot(*mean.T, color=color, linewidth=2.0)
            axes.plot(*mean[:1].T, "o", color=color, markersize=4)

    def _limits(self, axis: int) -> tuple[float, float]:
        """Return limits that hold the averages and nearly all of the single trials."""
        low, high = np.nanpercentile(self.trials[..., axis], [1.5, 98.5])
        margin = max(high - low, 1e-12)  # a single absurd trial must not hide the others
        low = max(min(low, np.nanmin(self.means[..., axis])), low - margin)
        high = min(max(high, np.nanmax(self.means[..., axis])), high + margin)
        return float(low - 0.05 * margin), float(high + 0.05 * margin)

    def _tag(self, axes: Axes, point: np.ndarray, code: int) -> None:
        """Write a condition's name where its trajectory is farthest out."""
        outline = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        name = self.conditions.levels[code]
        axes.annotate(
            name if len(name) <= 14 else f"{name[:13]}…",
            (float(point[0]), float(point[1])),
            xytext=(4, 3),
            textcoords="offset points",
            color=colors_of(self.conditions)[code],
            weight="bold",
            bbox=outline,
        )
