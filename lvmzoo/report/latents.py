"""Figures of the latents of the test data: in the plane, in space, and over time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lvmzoo.batch import Kind, Variable
from lvmzoo.report.style import HALF, HAIRLINE, MUTED, THIRD, Picture, circular_map, palette, picture, scale_bar, value_map

from lvmzoo.report.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["condition_means", "latent_figures"]

_MOST_POINTS, _MOST_TRIALS = 6000, 96


def latent_figures(view: View) -> Iterator[Picture]:
    """Draw trajectories averaged by condition where there are conditions, else points colored by behavior or time."""
    if not len(view.projected):
        return
    if view.conditions is not None and view.aligned:
        yield from _by_condition(view)
    else:
        yield from _by_value(view)


def _labels(view: View) -> list[str]:
    share = view.axes[2]
    return [f"axis {k + 1} ({100 * share[k]:.0f} %)" for k in range(len(share))]


def _explain(view: View) -> str:
    dims = view.projected.shape[1]
    rotated = "Axes are the principal axes of the training latents, with their share of the variance; "
    return (rotated if dims > 1 else "") + f"{dims} latent{'s' if dims > 1 else ''} in all; test data only."


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


def _by_condition(view: View) -> Iterator[Picture]:
    conditions = view.conditions
    assert conditions is not None
    dims = view.projected.shape[1]
    grid = view.grid("test", view.projected)
    codes = conditions.codes(view.session.test.table)
    means, errors = condition_means(view, view.projected)
    labels = _labels(view)
    shown = np.random.default_rng(0).permutation(np.flatnonzero(codes >= 0))[:_MOST_TRIALS]
    counts = np.bincount(codes[codes >= 0], minlength=len(conditions.levels))
    about = (
        f"Thick: mean over the test trials of each {conditions.column}; thin: single trials; the dot is where trials "
        f"begin. {_explain(view)}"
    )
    named = f"{len(conditions.levels)} levels of {conditions.column}"

    def lines(axes: Axes, k: int) -> None:
        for trial in shown:
            axes.plot(*grid[trial, :, :k].T, color=conditions.colors[codes[trial]], alpha=0.22, linewidth=0.6)
        for code, mean in enumerate(means):
            if counts[code]:
                axes.plot(*mean[:, :k].T, color=conditions.colors[code], linewidth=2.0)
                axes.plot(*mean[:1, :k].T, "o", color=conditions.colors[code], markersize=4)

    if dims >= 2:

        def plane(figure: Figure) -> None:
            axes = figure.subplots()
            lines(axes, 2)
            for code, mean in enumerate(means):
                last = np.flatnonzero(np.isfinite(mean[:, 0]))
                if counts[code] and len(last) and len(conditions.levels) <= 12:
                    _tag(axes, mean[last[-1], :2], conditions.levels[code], conditions.colors[code])
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_xlabel(labels[0])
            axes.set_ylabel(labels[1])

        yield picture(
            plane,
            title=f"Latent trajectories by {conditions.column}",
            caption=about,
            alt=f"Trajectories of the first two latent axes, averaged over {named}.",
            height=4.3,
        )
    if dims >= 3:

        def space(figure: Figure) -> None:
            axes = _space(figure, labels)
            lines(axes, 3)

        yield picture(
            space,
            title="In three dimensions",
            caption="The same trajectories with the third axis.",
            alt=f"Three-dimensional trajectories of the first three latent axes, averaged over {named}.",
            height=4.3,
        )
    time = view.zero_s + (np.arange(grid.shape[1]) + 0.5) * view.bin_s
    for k in range(min(3, dims)):

        def course(figure: Figure, k: int = k) -> None:
            axes = figure.subplots()
            for code, color in enumerate(conditions.colors):
                axes.plot(time, means[code, :, k], color=color, label=conditions.levels[code])
                low, high = means[code, :, k] - errors[code, :, k], means[code, :, k] + errors[code, :, k]
                axes.fill_between(time, low, high, color=color, alpha=0.18, linewidth=0)
            axes.set_xlabel(view.trial_time_label)
            axes.set_ylabel(labels[k])

        yield picture(
            course,
            title=f"Axis {k + 1} over time",
            caption=f"Mean and SEM over the test trials of each {conditions.column} ({_range(counts)} trials).",
            alt=f"Latent axis {k + 1} against time for {named}.",
            width=THIRD,
            height=2.4,
        )


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low}-{high}"


def _tag(axes: Axes, point: np.ndarray, text: str, color: Any) -> None:
    """Write a condition's name just beyond the end of its trajectory."""
    outline = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    text = text if len(text) <= 14 else text[:13] + "…"
    axes.annotate(text, point, xytext=(4, 3), textcoords="offset points", color=color, weight="bold", bbox=outline)


def _space(figure: Figure, labels: list[str]) -> Any:
    """Return axes in three dimensions with quiet panes."""
    figure.set_layout_engine("none")
    axes: Any = figure.add_axes((0.0, 0.02, 0.97, 0.98), projection="3d")
    axes.set_xlabel(labels[0], labelpad=-8)
    axes.set_ylabel(labels[1], labelpad=-8)
    axes.set_zlabel(labels[2], labelpad=-8)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_ticklabels([])
        axis.set_pane_color((0.96, 0.97, 0.98, 0.6))
        axis.line.set_color(HAIRLINE)
        axis._axinfo["grid"].update(color=HAIRLINE, linewidth=0.5)
        axis._axinfo["tick"].update(inward_factor=0, outward_factor=0)
    axes.view_init(elev=24, azim=-58)
    axes.set_box_aspect(None, zoom=1.02)
    return axes


def _by_value(view: View) -> Iterator[Picture]:
    step = max(1, -(-len(view.projected) // _MOST_POINTS))
    points = view.projected[::step]
    colorings = [_Coloring.of_behavior(view, name, variable, step) for name, variable in view.variables.items()][:2]
    if not colorings:
        seconds = view.times("test")[::step]
        colorings = [_Coloring("time in the recording (s)", "time", seconds, Kind.CONTINUOUS, ())]
    labels = _labels(view)
    dims = points.shape[1]
    about = f"Each point is a bin of {1000 * view.bin_s:g} ms. {_explain(view)}"
    for number, coloring in enumerate(colorings):
        if dims >= 2:
            yield picture(
                lambda figure, c=coloring: c.plane(figure, points, labels),
                title=f"Latents colored by {coloring.short}",
                caption=about if number == 0 else f"The same points colored by {coloring.short}.",
                alt=f"Scatter of the first two latent axes, colored by {coloring.short}.",
                height=4.3,
            )
        if dims >= 3 and number == 0:
            yield picture(
                lambda figure, c=coloring: c.space(figure, points, labels),
                title="In three dimensions",
                caption=f"The first three axes, colored by {coloring.short}.",
                alt=f"Three-dimensional scatter of the first three latent axes, colored by {coloring.short}.",
                height=4.3,
            )
    if dims == 1:
        yield picture(
            lambda figure: _course(figure, view, labels[0]),
            title="The latent over time",
            caption=_explain(view),
            alt="The latent against time in the recording.",
            width=HALF,
        )


def _course(figure: Figure, view: View, label: str) -> None:
    axes = figure.subplots()
    axes.plot(view.times("test"), view.projected[:, 0], color=MUTED, linewidth=0.7, rasterized=True)
    axes.set_xlabel("time in the recording (s)")
    axes.set_ylabel(label)


class _Coloring:
    """Values that color points, and their key."""

    def __init__(self, label: str, short: str, values: np.ndarray, kind: Kind, levels: tuple[str, ...]) -> None:
        self.label, self.short, self.kind, self.levels = label, short, kind, levels
        self.known = np.isfinite(values)
        self.values = np.where(self.known, values, 0.0)

    @classmethod
    def of_behavior(cls, view: View, name: str, variable: Variable, step: int) -> _Coloring:
        """Color by a variable; of several channels by the first."""
        readable = name.replace("_", " ")
        short = readable if variable.channels == 1 else f"{readable} (channel 1)"
        return cls(short, short, view.behavior("test", name)[::step, 0], variable.kind, variable.levels)

    def colors(self) -> Any:
        """Return a color for each point with a value."""
        values = self.values[self.known]
        if self.kind is Kind.CIRCULAR:
            return circular_map()(np.mod(values, 2 * np.pi) / (2 * np.pi))
        if self.kind is Kind.CATEGORICAL:
            return np.array([*map(_rgb, palette(max(1, len(self.levels))))])[values.astype(int)]
        low, high = self.limits()
        return value_map()((values - low) / max(high - low, 1e-12))

    def limits(self) -> tuple[float, float]:
        """Return the range of the key: the middle 98 % of the values."""
        low, high = np.percentile(self.values[self.known], [1, 99])
        return float(low), float(high)

    def key(self, axes: Axes) -> None:
        """Draw the key beside the points."""
        if self.kind is Kind.CATEGORICAL:
            for level, color in zip(self.levels, palette(max(1, len(self.levels))), strict=False):
                axes.scatter([], [], s=14, color=[color], label=level)
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title=self.label)
            return
        circular = self.kind is Kind.CIRCULAR
        scale_bar(
            axes, self.label, (0, 1) if circular else self.limits(), circular_map() if circular else value_map(),
            circular=circular,
        )  # fmt: skip

    def plane(self, figure: Figure, points: np.ndarray, labels: list[str]) -> None:
        """Draw the first two axes."""
        axes = figure.subplots()
        self._scatter(axes, points[:, :2], 5)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        self.key(axes)

    def space(self, figure: Figure, points: np.ndarray, labels: list[str]) -> None:
        """Draw the first three axes."""
        axes = _space(figure, labels)
        self._scatter(axes, points[:, :3], 4)

    def _scatter(self, axes: Any, points: np.ndarray, size: float) -> None:
        if not self.known.all():
            axes.scatter(*points[~self.known].T, s=size * 0.6, color=HAIRLINE, linewidths=0, rasterized=True)
        axes.scatter(
            *points[self.known].T, s=size, color=self.colors(), linewidths=0, alpha=0.75, rasterized=True,
            **({"depthshade": False} if points.shape[1] == 3 else {}),
        )  # fmt: skip


def _rgb(color: Any) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(color)


