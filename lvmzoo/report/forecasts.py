"""Figures of how far ahead a model predicts activity and behavior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lvmzoo.metrics import METRICS, Score
from lvmzoo.report.style import CATEGORIES, INK, MUTED, PREDICTED, Picture, picture
from lvmzoo.report.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["forecast_figures"]

_LABELS = {"r2": "R²", "error": "median error (°)", "accuracy": "share right"}
_MOST_BINS = 200_000  # training bins that the baseline is fitted to


def forecast_figures(view: View) -> Iterator[Picture]:
    """Draw R2 of activity, and scores of behavior, against how far ahead they are predicted."""
    activity = _scores(view, "forecast_r2")
    if activity:
        horizons = [_horizon(score) for score in activity]
        baseline = [_own_past(view, horizon) for horizon in horizons]
        yield _activity(view, horizons, activity, baseline)
    for quantity, label in _LABELS.items():
        found = _scores(view, "forecast_behavior")
        found = [score for score in found if score.metric.startswith(f"forecast_behavior_{quantity}_")]
        if quantity == "r2":  # of angles the error in degrees is drawn
            angles = {score.target for score in _scores(view, "forecast_behavior") if "_error_" in score.metric}
            found = [score for score in found if score.target not in angles]
        if found:
            yield _behavior(view, found, label)


def _scores(view: View, name: str) -> list[Score]:
    """Return the scores of a metric, those of the run where it has them."""
    session, metric = view.layout.session, METRICS[name]
    if metric.needs is None or not isinstance(view.run.model, metric.needs):
        return []
    kept = [score for score in view.run.scores if score.session == session and score.metric.startswith(f"{name}_")]
    return kept or view.evaluation.kept(("scores", name), lambda: metric(view.evaluation))


def _horizon(score: Score) -> int:
    return int(score.metric.rpartition("_")[2])


def _own_past(view: View, horizon: int) -> float:
    """Return the R2 on test bins of each unit's own activity that many bins earlier, scaled as on training bins."""
    now, past = _pairs(view, "train", horizon)
    step = max(1, len(now) // _MOST_BINS)
    now, past = now[::step], past[::step]
    known = np.isfinite(now) & np.isfinite(past)
    count = np.maximum(known.sum(0), 1)
    mean_now, mean_past = (np.where(known, values, 0.0).sum(0) / count for values in (now, past))
    centered_now, centered_past = (
        np.where(known, values - mean, 0.0) for values, mean in ((now, mean_now), (past, mean_past))
    )
    slope = (centered_now * centered_past).sum(0) / np.maximum((centered_past**2).sum(0), 1e-300)
    now, past = _pairs(view, "test", horizon)
    known = np.isfinite(now) & np.isfinite(past)
    error = np.where(known, now - mean_now - slope * (past - mean_past), 0.0)
    center = np.where(known, now, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    total = (np.where(known, now - center, 0.0) ** 2).sum(0)
    varies = total > 0
    return float((1 - (error**2).sum(0)[varies] / total[varies]).mean()) if varies.any() else np.nan


def _pairs(
    view: View, part: str, horizon: int
) -> tuple[Float[np.ndarray, "pair unit"], Float[np.ndarray, "pair unit"]]:
    """Return the activity of bins, and that of the same trial so many bins earlier."""
    trial, inside = view.index(part)
    together = (trial[horizon:] == trial[:-horizon]) & (inside[horizon:] - inside[:-horizon] == horizon)
    activity = view.activity(part)[:, list(view.layout.held_in)].astype(np.float64)
    return activity[horizon:][together], activity[:-horizon][together]


def _activity(view: View, horizons: Sequence[int], scores: Sequence[Score], baseline: Sequence[float]) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        x = np.array(horizons) * view.bin_s
        axes.plot(x, baseline, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="each unit's own past")
        _line(axes, x, scores, PREDICTED, "model")
        axes.axhline(0, color=INK, linewidth=0.5, zorder=0)
        axes.set(xlabel="time ahead (s)", ylabel="R² of activity")
        axes.legend(loc="upper right")

    values = ", ".join(f"{score.value:.3f} at {_ahead(view, score)}" for score in scores)
    return picture(
        draw,
        title="Activity, by time ahead",
        caption="R² around the test mean, averaged over units, with its standard error, of the activity that the model "
        "expects given what it saw up to so long before. Dashed: each unit's own activity at that time, scaled as on "
        "training data. 0 is what the mean alone says.",
        alt=f"R² of forecasts of activity: {values}.",
        height=3.0,
    )


def _behavior(view: View, scores: Sequence[Score], label: str) -> Picture:
    names = list(dict.fromkeys(score.target for score in scores))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for name, color in zip(names[: len(CATEGORIES)], CATEGORIES, strict=False):
            own = [score for score in scores if score.target == name]
            x = np.array([_horizon(score) for score in own]) * view.bin_s
            _line(axes, x, own, color if len(names) > 1 else PREDICTED, name.replace("_", " "))
        if label == _LABELS["r2"]:
            axes.axhline(0, color=INK, linewidth=0.5, zorder=0)
        axes.set(xlabel="time ahead (s)", ylabel=f"{label} of behavior")
        axes.legend(loc="upper right" if label == _LABELS["r2"] else "best")

    values = ", ".join(f"{score.target} {score.value:.3g} at {_ahead(view, score)}" for score in scores)
    return picture(
        draw,
        title="Behavior, by time ahead",
        caption=f"{label[:1].upper()}{label[1:]} of the behavior that the model expects given the activity up to so "
        "long before, on test data, with its standard error.",
        alt=f"{label} of forecasts of behavior: {values}.",
        height=3.0,
    )


def _line(axes: Axes, x: Float[np.ndarray, " horizon"], scores: Sequence[Score], color: str, label: str) -> None:
    error = [np.nan if score.spread is None else score.spread for score in scores]
    values = [score.value for score in scores]
    axes.errorbar(x, values, error, color=color, marker="o", markersize=4, elinewidth=1, label=label)


def _ahead(view: View, score: Score) -> str:
    return f"{1000 * _horizon(score) * view.bin_s:.4g} ms"
