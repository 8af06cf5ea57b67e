"""Latents as points, colored by a behavior variable or by time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lvmzoo.batch import Kind, Variable
from lvmzoo.report.style import HAIRLINE, circular_map, palette, scale_bar, value_map
from lvmzoo.report.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Coloring", "space_axes", "without_strays"]


def space_axes(figure: Figure, labels: list[str]) -> Any:
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
    axes.set_box_aspect(None, zoom=1.1)
    return axes


def without_strays(points: Float[np.ndarray, "point axis"]) -> tuple[Float[np.ndarray, "point axis"], str]:
    """Return points with NaN for those that would shrink all others to a dot, and a sentence that says how many.

    These are farther out, on any of the axes that are drawn, than the middle 98 % of the points reach, by more than the
    largest range of these, which all axes are scaled by.
    """
    low, high = np.percentile(points, [1, 99], axis=0)
    reach = float((high - low).max())
    far = (np.maximum(low - points, points - high) > reach).any(1) if reach else np.zeros(len(points), bool)
    count = int(far.sum())
    said = f" Not shown: {count} point{'s' * (count > 1)} far from most others." if count else ""
    return np.where(far[:, None], np.nan, points), said


class Coloring:
    """Values that color points, and their key."""

    def __init__(self, label: str, short: str, values: np.ndarray, kind: Kind, levels: tuple[str, ...]) -> None:
        self.label, self.short, self.kind, self.levels = label, short, kind, levels
        self.known = np.isfinite(values)
        self.values = np.where(self.known, values, 0.0)

    @classmethod
    def of_behavior(cls, view: View, name: str, variable: Variable, step: int) -> Coloring:
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
            axes, self.label, (0.0, 1.0) if circular else self.limits(), circular_map() if circular else value_map(),
            circular=circular,
        )  # fmt: skip

    def plane(self, figure: Figure, points: np.ndarray, labels: list[str]) -> None:
        """Draw the first two axes."""
        axes = figure.subplots()
        self._scatter(axes, points[:, :2], 5.0)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        self.key(axes)

    def space(self, figure: Figure, points: np.ndarray, labels: list[str], center: np.ndarray | None = None) -> None:
        """Draw the first three axes, and the unit sphere around ``center``."""
        axes = space_axes(figure, labels)
        if center is not None:
            around, up = np.meshgrid(np.linspace(0, 2 * np.pi, 49), np.linspace(0, np.pi, 13))
            ball = np.stack([np.cos(around) * np.sin(up), np.sin(around) * np.sin(up), np.cos(up)])
            x, y, z = ball + center[:, None, None]
            axes.plot_wireframe(x, y, z, rstride=2, cstride=4, color=HAIRLINE, linewidth=0.4)
        self._scatter(axes, points[:, :3], 4.0)
        axes.set_aspect("equal")

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
