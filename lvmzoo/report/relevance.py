"""Figures of models that find first what behavior shares: which modes those are, and how few of them suffice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Complex

from lvmzoo.batch import Batch
from lvmzoo.report.eigenvalues import frequency_hz, plane, timescale_s
from lvmzoo.report.style import INK, MUTED, PREDICTED, RECORDED, Picture, picture
from lvmzoo.report.text import number
from lvmzoo.report.view import View
from lvmzoo.sentences import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PrefersBehavior", "relevance_figures"]

_TRIALS = 64  # of a batch


@runtime_checkable
class PrefersBehavior(Protocol):
    """Has states that behavior shares, and others."""

    def eigenvalues(self, session: str | None = None) -> Mapping[str, Complex[np.ndarray, " _"]]:
        """Return the eigenvalues of the "relevant" states, and of the "other" ones."""
        ...

    def by_dimension(self, session: str, batches: Iterable[Batch]) -> Mapping[str, Mapping[str, Any]]:
        """Return how well behavior is predicted by how many states: "preferential" ones, and "plain" ones."""
        ...


def relevance_figures(view: View) -> Iterator[Picture | str]:
    """Say and draw which modes behavior shares, and how well few states predict it."""
    model = view.run.model
    assert isinstance(model, PrefersBehavior)
    found = model.eigenvalues(view.layout.session)
    yield _lead(view, found)
    if sum(map(len, found.values())):
        yield _eigenvalues(view, found)
    trials = view.part("train")
    batches = (trials.batch(rows) for rows in np.array_split(np.arange(len(trials)), -(-len(trials) // _TRIALS)))
    curves = model.by_dimension(view.layout.session, batches)
    if curves:
        yield _dimensions(curves)


def _lead(view: View, found: Mapping[str, np.ndarray]) -> str:
    relevant, other = len(found["relevant"]), len(found["other"])
    if not relevant:
        return f"None of the {other} states was chosen by behavior: this is plain subspace identification."
    slowest = max(found["relevant"], key=abs)
    lasts, turns = timescale_s(slowest, view.bin_s), frequency_hz(slowest, view.bin_s)
    course = f"fades by a factor e in {duration(lasts)}" if 0 < lasts < np.inf else "does not fade"
    turning = f" and turns at {number(turns)} Hz" if turns else ""
    return (
        f"Of {relevant + other} states {relevant} were chosen by how well the activity predicts behavior through them, "
        f"{'the others' if other else 'none'} by what they leave of it. The slowest mode that behavior shares "
        f"{course}{turning}."
    )


def _eigenvalues(view: View, found: Mapping[str, np.ndarray]) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        plane(axes, np.concatenate(list(found.values())), view.bin_s)
        for name, color, marker in (("other", RECORDED, "s"), ("relevant", PREDICTED, "o")):
            values, label = found[name], {"relevant": "shared with behavior", "other": "other"}[name]
            if len(values):
                axes.scatter(
                    values.real, values.imag, s=46, color=color, marker=marker, edgecolor="white", linewidth=0.7,
                    zorder=4, label=label,
                )  # fmt: skip
        axes.legend(loc="upper right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)

    return picture(
        draw,
        title="Modes that behavior shares, and others",
        caption="Eigenvalues of the map from bin to bin, of the states that behavior chose (orange) and of the others "
        "(gray). The nearer to the unit circle (black), the longer a mode lasts (gray arcs); the larger its angle, the "
        "faster it turns (gray rays).",
        alt=f"Eigenvalues in the complex plane: {len(found['relevant'])} shared with behavior, "
        f"{len(found['other'])} others.",
        height=4.3,
    )


def _dimensions(curves: Mapping[str, Mapping[str, Any]]) -> Picture:
    chosen = int(curves["preferential"]["chosen"])
    styles = {
        "plain": ("plain subspace identification", MUTED, "s"),
        "preferential": ("behavior first", PREDICTED, "o"),
    }

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name, (label, color, marker) in styles.items():
            curve = curves[name]
            axes.errorbar(
                curve["candidates"], curve["explained"], curve["standard_error"], color=color, marker=marker,
                markersize=4, elinewidth=1, label=label,
            )  # fmt: skip
        axes.axvline(chosen, color=INK, linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)
        low = min(min(curve["explained"]) for curve in curves.values())
        axes.set(xlabel="states", ylabel="behavior's variance predicted", ylim=(max(-0.1, min(0.0, low)) - 0.02, None))
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="lower right")

    ends = {name: f"{curve['explained'][0]:.3f} to {curve['explained'][-1]:.3f}" for name, curve in curves.items()}
    return picture(
        draw,
        title="Behavior, by number of states",
        caption="Share of behavior's variance that is predicted from the activity up to the bin before, by models of "
        "so many states: chosen by behavior first (orange; those beyond the dashed line by the activity), or all by "
        "the activity (gray). Cross-validated on training data; bars: standard error of the difference from the best. "
        "Behavior first needs fewer states where much of the activity has nothing to do with behavior.",
        alt=f"Behavior predicted by number of states: behavior first {ends['preferential']}, plain {ends['plain']}.",
        height=3.4,
    )
