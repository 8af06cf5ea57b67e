"""Figures of the latents of the test data: in the plane, in space, and over time."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lvmzoo.batch import Kind
from lvmzoo.report.coloring import Coloring, without_strays
from lvmzoo.report.style import HALF, MUTED, THIRD, Picture, picture
from lvmzoo.report.trajectories import Trajectories
from lvmzoo.report.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["latent_figures"]

_MOST_POINTS = 6000


def latent_figures(view: View) -> Iterator[Picture]:
    """Draw trajectories averaged by condition where there are conditions, else points colored by behavior or time."""
    if not view.evaluation.latents("test").size:  # no test data, or no latents: of rank zero, say
        return
    if view.averages:
        yield from _by_condition(view)
    else:
        yield from _by_value(view)


def _labels(view: View) -> list[str]:
    return [f"axis {k + 1} ({100 * share:.0f} %)" for k, share in enumerate(view.axes.share)]


def _explain(view: View) -> str:
    dims = view.evaluation.latents("test").shape[1]
    if view.axes.of_activity:
        axes = "Axes are the principal axes of the activity that the latents predict, with their share of its variance"
    else:
        axes = "Axes are the principal axes of the training latents, with their share of the variance"
    first = int(np.searchsorted(np.cumsum(view.axes.share), 0.95)) + 1
    most = f" (the first {first} hold 95 % of it)" if 3 < first < dims else ""
    return (f"{axes}{most}; " if dims > 1 else "") + f"{dims} latent{'s' if dims > 1 else ''} in all; test data only."


def _by_condition(view: View) -> Iterator[Picture]:
    drawing = Trajectories(view, view.projected, _labels(view))
    column = drawing.conditions.column
    named = f"{len(drawing.conditions.levels)} levels of {column}"
    if drawing.dims >= 2:
        yield picture(
            drawing.plane,
            title=f"Latent trajectories by {column}",
            caption=f"Thick: mean over the test trials of each {column}; thin: single trials; the dot is where they "
            f"begin. {_explain(view)}",
            alt=f"Trajectories of the first two latent axes, averaged over {named}.",
            height=4.3,
        )
    if drawing.dims >= 3:
        yield picture(
            drawing.space,
            title="In three dimensions",
            caption="The same trajectories with the third axis.",
            alt=f"Three-dimensional trajectories of the first three latent axes, averaged over {named}.",
            height=4.3,
        )
    for axis in range(min(3, drawing.dims)):
        yield picture(
            functools.partial(drawing.course, axis=axis),
            title=f"Axis {axis + 1} over time",
            caption=f"Mean and SEM over the test trials of each {column} ({drawing.trial_count})." if axis == 0 else "",
            alt=f"Latent axis {axis + 1} against time for {named}.",
            width=THIRD,
            height=2.4,
        )


def _by_value(view: View) -> Iterator[Picture]:
    step = max(1, -(-len(view.projected) // _MOST_POINTS))
    points = view.projected[::step]
    shown = {name: view.variables[name] for name in view.variables if name in view.used} or view.variables
    colorings = [Coloring.of_behavior(view, name, variable, step) for name, variable in shown.items()][:2]
    if not colorings:
        seconds = view.times("test")[::step]
        colorings = [Coloring("time in the recording (s)", "time", seconds, Kind.CONTINUOUS, ())]
    labels = _labels(view)
    dims, center = points.shape[1], _center(view)
    about = f"Each point is a bin of {1000 * view.bin_s:.4g} ms. {_explain(view)}"
    for number, coloring in enumerate(colorings):
        if dims >= 2:
            plane, far = without_strays(points[:, :2])
            yield picture(
                functools.partial(coloring.plane, points=plane, labels=labels),
                title=f"Latents colored by {coloring.short}",
                caption=(about if number == 0 else f"The same points colored by {coloring.short}.") + far,
                alt=f"Scatter of the first two latent axes, colored by {coloring.short}.",
                height=4.3,
            )
        if dims >= 3 and number == 0:
            space, far = without_strays(points[:, :3])
            yield picture(
                functools.partial(coloring.space, points=space, labels=labels, center=center),
                title="In three dimensions" if center is None else "On the sphere",
                caption=(
                    f"The first three axes, colored by {coloring.short}."
                    if center is None
                    else f"The latents have length one and lie on a sphere; colored by {coloring.short}."
                )
                + far,
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


def _center(view: View) -> np.ndarray | None:
    """Return where the middle of the sphere is drawn on which three latents lie, or None where they do not."""
    latents = view.evaluation.latents("test")
    if latents.shape[1] != 3 or view.axes.of_activity or not np.allclose((latents**2).sum(1), 1, atol=1e-3):
        return None
    return view.axes.project(np.zeros((1, 3)))[0]


def _course(figure: Figure, view: View, label: str) -> None:
    axes = figure.subplots()
    axes.plot(view.times("test"), view.projected[:, 0], color=MUTED, linewidth=0.7, rasterized=True)
    axes.set_xlabel("time in the recording (s)")
    axes.set_ylabel(label)
