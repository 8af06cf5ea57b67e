"""Latents of several models side by side, turned onto each other, and how consistent they are."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lvmzoo.batch import Kind, Variable
from lvmzoo.comparison import Row
from lvmzoo.report.coloring import Coloring, space_axes, without_strays
from lvmzoo.report.matrix import draw_matrix, keyed
from lvmzoo.report.style import HAIRLINE, HALF, MAIN, THIRD, WIDE, Picture, picture
from lvmzoo.sweep_runs import SavedRun, between

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["consistency_figures", "latent_figures", "onto"]

Shown = Sequence[tuple[Row, list[SavedRun]]]

_MOST_SEEDS = 5
_MOST_POINTS = 3000


def _label(run: SavedRun, session: str) -> tuple[str, Variable] | None:
    """Return the variable to color and align by: an angle, a category or a number of one channel, in this order."""
    behavior = run.layouts[session].behavior
    order = (Kind.CIRCULAR, Kind.CATEGORICAL, Kind.CONTINUOUS)
    ranked = sorted(behavior.items(), key=lambda item: (order.index(item[1].kind), item[1].channels))
    return ranked[0] if ranked else None


def latent_figures(shown: Shown) -> Iterator[Picture]:
    """Draw the latents of one run of each row on test data, those of the same bins as the first turned onto it."""
    first: dict[tuple[str, str], tuple[np.ndarray, str]] = {}  # of each recording: points, and what they are called
    for row, members in shown:
        run = members[0]
        session = next(iter(run.layouts))
        latents = run.latents(session).get("test")
        if latents is None or latents.shape[1] < 2:
            continue
        points, how = _principal(latents), "Principal axes."
        key = run.fingerprint, session
        if run.fingerprint and key in first:
            points, how = onto(latents, first[key][0]), f"Turned onto the latents of {first[key][1]}."
        first.setdefault(key, (points, row.label))
        step = max(1, -(-len(latents) // _MOST_POINTS))
        found = _label(run, session)
        if found is None:
            coloring = Coloring("bin of the test data", "time", np.arange(len(latents))[::step], Kind.CONTINUOUS, ())
        else:
            values = run.labels(session, found[0])
            assert values is not None
            readable = found[0].replace("_", " ")
            values = values[:: -(-len(values) // len(latents)) or 1]
            coloring = Coloring(readable, readable, values[::step, 0], found[1].kind, found[1].levels)
        name = row.whole_label
        near, strays = without_strays(points[::step])
        yield picture(
            functools.partial(_points, points=near, coloring=coloring),
            title=name,
            caption=f"Test data of one run, colored by {coloring.short}"
            + (", which is shifted against the activity. " if run.shifted else ". ")
            + how
            + strays,
            alt=f"Scatter of the latents of {name}, colored by {coloring.short}.",
            width=THIRD,
            height=3.0,
        )


def _principal(latents: np.ndarray) -> np.ndarray:
    """Return the latents on their principal axes, three at most."""
    centered = latents - latents.mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    return centered @ axes[:3].T


def onto(
    latents: Float[np.ndarray, "bin latent"], target: Float[np.ndarray, "bin axis"]
) -> Float[np.ndarray, "bin axis"]:
    """Return the latents turned, mirrored and scaled as a whole onto a target of the same bins, without its mean.

    The orthogonal Procrustes problem (Schönemann 1966, doi:10.1007/BF02289451), the smaller of the two filled up with
    zeros: no direction is stretched against another, so what one model lacks is not made up from noise of another.
    """
    centered, wanted = latents - latents.mean(0), target - target.mean(0)
    left, strength, right = np.linalg.svd(centered.T @ wanted, full_matrices=False)
    turned = centered @ (left @ right)
    return turned * (strength.sum() / max(float((turned**2).sum()), 1e-300))


def _points(figure: Figure, points: np.ndarray, coloring: Coloring) -> None:
    axes: Any
    if points.shape[1] < 3:
        axes = figure.subplots()
        axes.set_aspect("equal", adjustable="datalim")
    else:
        axes = space_axes(figure, ["", "", ""])
    known = coloring.known
    axes.scatter(*points[~known].T, s=2, color=HAIRLINE, linewidths=0, rasterized=True)
    depth = {"depthshade": False} if points.shape[1] > 2 else {}
    axes.scatter(*points[known].T, s=3, color=coloring.colors(), linewidths=0, rasterized=True, **depth)
    if points.shape[1] > 2:
        axes.set_aspect("equal")


def consistency_figures(shown: Shown) -> Iterator[Picture]:
    """Draw the mean consistency of every setting with every other, over pairs of runs with different seeds."""
    labels = {found[0] for _, (run, *_) in shown for session in run.layouts if (found := _label(run, session))}
    label = next(iter(labels)) if len(labels) == 1 else None
    size = len(shown)
    values, spreads, nulls = np.full((size, size), np.nan), np.full((size, size), np.nan), []
    counts = np.zeros((size, size), int)
    for i, (_, sources) in enumerate(shown):
        for j, (_, targets) in enumerate(shown):
            pairs = [
                between(a, b, label) for a in sources[:_MOST_SEEDS] for b in targets[:_MOST_SEEDS] if a.job != b.job
            ]
            known = [pair for pair in pairs if pair is not None]
            if known:
                values[i, j], counts[i, j] = np.mean([pair.value for pair in known]), len(known)
                spreads[i, j] = np.std([pair.value for pair in known], ddof=1) if len(known) > 1 else np.nan
                nulls += [value for pair in known for value in pair.null]
    if not np.isfinite(values).any():
        return
    names = [row.whole_label for row, _ in shown]
    least, most = counts[counts > 0].min(), counts.max()
    pairs_said = f"over {most}" if least == most else f"over {least} to {most}"
    many = f", ± their standard deviation ({pairs_said} maps)" if most > 1 else ""
    null = ""
    if nulls:
        null = (
            f" Different recordings are aligned on {label}; with the labels of one shifted it is "
            f"{np.nanmedian(nulls):.2f} in the median and {np.nanquantile(nulls, 0.95):.2f} in one of twenty."
        )
    texts = [[_with_spread(value, spread) for value, spread in zip(*both, strict=True)]
             for both in zip(values, spreads, strict=True)]  # fmt: skip
    yield picture(
        functools.partial(draw_matrix, values=values, texts=texts, names=names, most=1.0),
        title="Consistency of settings and seeds",
        caption="R² of an affine map from the latents of one run (rows) to those of another (columns), fitted on "
        f"training bins and scored on test bins: the mean over pairs of runs{many}. On the diagonal are different "
        "seeds of a setting." + null,
        alt="Matrix of consistency between the settings of the sweep: "
        + "; ".join(f"{name} with itself {values[i, i]:.2f}" for i, name in enumerate(names)),
        width=HALF if size <= 3 and not keyed(names) else MAIN if size <= 6 else WIDE,
        height=(0.7 if keyed(names) else 1.6) + 0.55 * size,
    )


def _with_spread(value: float, spread: float) -> str:
    return f"{value:.2f}\n± {spread:.2g}" if np.isfinite(spread) and spread >= 0.0005 else f"{value:.2f}"
