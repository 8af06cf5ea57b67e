"""The law of motion that a model learned: its eigenvalues, its fixed points, and where it moves the latents."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.metrics.base import evaluating
from lvmzoo.models.base import HasDynamics, Model
from lvmzoo.report.eigenvalues import (
    MARKERS,
    Linearization,
    Place,
    eigenvalue_plane,
    frequency_hz,
    linearize,
    mode_table,
    timescale_s,
)
from lvmzoo.report.style import CATEGORIES, INK, Picture, Table, picture
from lvmzoo.report.text import number
from lvmzoo.report.trajectories import condition_means
from lvmzoo.report.view import View, colors_of
from lvmzoo.sentences import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Flow", "Motion", "dynamics_figures"]

_MOST_BINS = 20_000  # test bins whose motion is averaged into the flow
_CELLS, _BLUR = 36, 2.5  # of the flow: along each side, and over how many cells the motion of bins is averaged
_MOST_TRIALS, _STRETCH_BINS = 12, 200  # test trials drawn where there are no conditions, and how much of each


@dataclass(frozen=True)
class Motion:
    """What a model's law of motion does to the latents of the test data."""

    visited: Float[np.ndarray, "bin latent"]
    moved: Float[np.ndarray, "bin latent"]  # the same one bin later, by the law
    predicted: float  # share of the change from bin to bin that the law predicts; 0: latents that stay
    near: Linearization

    @classmethod
    def of(cls, view: View) -> Motion:
        """Apply the law of the view's model to its test latents, all or evenly chosen ones."""
        model = view.run.model
        assert isinstance(model, HasDynamics)
        latents = view.evaluation.latents("test")
        trial, inside = view.index("test")
        chosen = np.arange(0, len(latents), max(1, -(-len(latents) // _MOST_BINS)))
        tensor = _as_the_model(model, latents[chosen])
        with evaluating(model):
            law = functools.partial(model.advance_in, view.layout.session)
            moved = law(tensor).double().cpu().numpy()
            near = linearize(law, tensor)
        after = np.minimum(chosen + 1, len(latents) - 1)
        follows = (trial[after] == trial[chosen]) & (inside[after] == inside[chosen] + 1)
        wrong = (view.axes.project(latents[after]) - view.axes.project(moved))[follows]
        stays = (view.axes.project(latents[after]) - view.axes.project(latents[chosen]))[follows]
        predicted = 1 - (wrong**2).sum() / max((stays**2).sum(), 1e-300) if follows.any() else np.nan
        return cls(latents[chosen], moved, float(predicted), near)


def dynamics_figures(view: View) -> Iterator[Picture | Table | str]:
    """Say and draw where the model moves its latents, and how fast its modes fade and turn."""
    motion = Motion.of(view)
    yield _lead(view, motion)
    if view.axes.forward.shape[1] >= 2:
        yield picture(
            Flow(view, motion).draw,
            title="Flow field",
            caption=_flow_caption(view, motion),
            alt="Where the model moves its latents, over their first two axes, with test trajectories.",
            height=4.3,
        )
    near = motion.near
    where = "" if near.linear else " at its fixed points" if near.found else " at the mean of the latents"
    yield picture(
        functools.partial(eigenvalue_plane, found=near, bin_width_s=view.bin_s),
        title="Eigenvalues",
        caption=f"Eigenvalues of the map from bin to bin{where}. The nearer to the unit circle (black), the longer a "
        "mode lasts (gray arcs); the larger its angle, the faster it turns (gray rays). By chance, that is were bins "
        "unrelated to each other, all would lie near 0, with timescales below one bin.",
        alt=f"Eigenvalues in the complex plane: {sum(len(place.eigenvalues) for place in near.places)} of them.",
        height=4.3,
    )
    yield mode_table(near, view.bin_s)


def _lead(view: View, motion: Motion) -> str:
    """Say in words what the law of motion is like."""
    near = motion.near
    if near.linear:
        what = "The law of motion is linear"
    elif not near.found:
        what = "The law of motion is nonlinear and stands still nowhere near the data; it is linearized at their mean"
    else:
        kinds = [place.kind for place in near.places]
        counts = [f"{kinds.count(kind)} {kind}" for kind in MARKERS if kind in kinds]
        more = f", the first {len(kinds)} of {near.found}" if near.found > len(kinds) else ""
        points = "fixed point" if near.found == 1 else "fixed points"
        what = f"The law of motion is nonlinear, with {' and '.join(counts)} {points} near the data{more}"
    first = near.places[0].eigenvalues[0]
    lasts = timescale_s(first, view.bin_s)
    if not np.isfinite(lasts):
        mode, course = "slowest", "neither fades nor grows"
    elif lasts > 0:
        mode, course = "slowest", f"fades by a factor e in {duration(lasts)}"
    else:
        mode, course = "fastest growing", f"grows by a factor e in {duration(-lasts)}"
    turning = frequency_hz(first, view.bin_s)
    turns = f" and turns at {number(turning)} Hz" if turning else ""
    longest = float(view.session.test.lengths.max()) * view.bin_s
    beyond = " (longer than any test trial: the data cannot tell it from endless)" if abs(lasts) > longest else ""
    where = "" if len(near.places) == 1 else f" at {near.places[0].name}"
    known = ""
    if np.isfinite(motion.predicted):
        share = f"{100 * motion.predicted:.0f}".replace("-", "\N{MINUS SIGN}")
        known = (
            f" From one bin of the test data to the next it predicts {share} % of the change of the latents; "
            "latents that stayed where they are would be 0 %."
        )
    inputs = " Known inputs are taken as zero." if view.layout.inputs else ""
    return f"{what}. The {mode} mode{where} {course}{beyond}{turns}.{known}{inputs}"


def _flow_caption(view: View, motion: Motion) -> str:
    dims = view.axes.forward.shape[1]
    averaged = ", averaged over the test bins around each place" if dims > 2 else ""
    lines = f"the mean of each {view.legend[0]}" if view.legend else "single test trials"
    points = [place for place in motion.near.places if place.fixed]
    marks = {"stable": "circle: stable", "saddle": "cross: saddle", "unstable": "diamond: unstable"}
    kinds = dict.fromkeys(place.kind for place in points)
    fixed = f" Fixed point{'s' * (len(points) > 1)} ({', '.join(marks[kind] for kind in kinds)})." if points else ""
    return (
        f"Gray: where the model moves the latents{averaged}; thicker is faster; only where test data have been. "
        f"Colored: {lines}; dots are beginnings.{fixed} By chance, that is were bins unrelated, every line would run "
        "straight to the mean."
    )


class Flow:
    """The flow over the first two axes, where test data have been, and test trajectories in it."""

    def __init__(self, view: View, motion: Motion) -> None:
        self.view, self.near = view, motion.near
        at = view.axes.project(motion.visited)[:, :2]
        low, high = np.percentile(at, [0.5, 99.5], axis=0)
        self.middle, self.half = (low + high) / 2, 0.58 * float((high - low).max())
        edges = [np.linspace(c - self.half, c + self.half, _CELLS + 1) for c in self.middle]
        self.x, self.y = ((edge[1:] + edge[:-1]) / 2 for edge in edges)
        count = _blurred(at, edges)
        self.visited = count > 0.02 * np.percentile(count[count > 1e-9], 90)
        velocity = (view.axes.project(motion.moved)[:, :2] - at) / view.bin_s
        self.velocity = np.stack([_blurred(at, edges, v) for v in velocity.T], -1) / np.maximum(count, 1e-12)[..., None]
        if view.axes.forward.shape[1] == 2 and motion.visited.shape[1] == 2:
            self.velocity = self._exact()
        self.velocity[~self.visited] = np.nan

    def _exact(self) -> Float[np.ndarray, "x y 2"]:
        """Return the flow of two latents, where nothing else matters, at the grid itself."""
        model, axes = self.view.run.model, self.view.axes
        assert isinstance(model, HasDynamics)
        places = np.stack(np.meshgrid(self.x, self.y, indexing="ij"), -1).reshape(-1, 2)
        latents = places @ axes.back + axes.mean
        with evaluating(model):
            moved = model.advance_in(self.view.layout.session, _as_the_model(model, latents)).double().cpu().numpy()
        return ((axes.project(moved) - places) / self.view.bin_s).reshape(_CELLS, _CELLS, 2)

    def draw(self, figure: Figure) -> None:
        """Draw streamlines, trajectories and fixed points."""
        axes = figure.subplots()
        speed = np.linalg.norm(self.velocity, axis=-1)
        fastest = float(np.nanpercentile(speed, 95)) or 1.0
        width = 0.35 + 1.5 * np.minimum(np.nan_to_num(speed) / fastest, 1.0)
        flow = np.ma.masked_invalid(self.velocity)
        axes.streamplot(
            self.x, self.y, flow[..., 0].T, flow[..., 1].T, color="#9aa5b1", linewidth=width.T, density=1.15,
            arrowsize=0.75, zorder=1,
        )  # fmt: skip
        self._trajectories(axes)
        for place in self.near.places:
            if place.fixed:
                self._mark(axes, place)
        axes.set_xlim(self.middle[0] - self.half, self.middle[0] + self.half)
        axes.set_ylim(self.middle[1] - self.half, self.middle[1] + self.half)
        axes.set_aspect("equal", adjustable="box", anchor="W")
        axes.set_xlabel(f"axis 1 ({100 * self.view.axes.share[0]:.0f} %)")
        axes.set_ylabel(f"axis 2 ({100 * self.view.axes.share[1]:.0f} %)")

    def _trajectories(self, axes: Axes) -> None:
        if self.view.legend:
            conditions = self.view.conditions
            assert conditions is not None
            means, _ = condition_means(self.view, self.view.projected[:, :2])
            for mean, color in zip(means, colors_of(conditions), strict=True):
                axes.plot(*mean.T, color=color, linewidth=1.8, zorder=2)
                axes.plot(*mean[:1].T, "o", color=color, markersize=4, zorder=2)
            return
        grid = self.view.grid("test", self.view.projected[:, :2])
        shown = np.random.default_rng(0).permutation(len(grid))[:_MOST_TRIALS]
        alpha = 0.6
        for trial in shown:
            path = grid[trial, :_STRETCH_BINS]
            axes.plot(*path.T, color=CATEGORIES[0], linewidth=0.8, alpha=alpha, zorder=2)
            axes.plot(*path[:1].T, "o", color=CATEGORIES[0], markersize=2.5, alpha=alpha, zorder=2)

    def _mark(self, axes: Axes, place: Place) -> None:
        x, y = self.view.axes.project(place.point[None])[0, :2].tolist()
        axes.scatter(x, y, marker=MARKERS[place.kind], s=70, color=INK, edgecolor="white", linewidth=1.1, zorder=4)
        if place.name:
            axes.annotate(place.name, (x, y), xytext=(7, 4), textcoords="offset points", weight="bold", zorder=5)


def _as_the_model(model: Model, latents: Float[np.ndarray, "point latent"]) -> Float[Tensor, "point latent"]:
    """Return latents in the precision and on the device of the model."""
    held = itertools.chain(model.parameters(), model.buffers())
    return torch.from_numpy(latents).to(next(values for values in held if values.is_floating_point()))


def _blurred(
    at: Float[np.ndarray, "bin 2"], edges: list[np.ndarray], values: Float[np.ndarray, " bin"] | None = None
) -> Float[np.ndarray, "x y"]:
    """Return the number of bins, or the sum of their values, around each cell of a grid."""
    from scipy.ndimage import gaussian_filter

    total, _, _ = np.histogram2d(at[:, 0], at[:, 1], bins=edges, weights=values)
    return np.asarray(gaussian_filter(total, _BLUR, mode="constant"))
