"""Figures of the whole run: learning curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from lvmzoo.models.base import GradientModel, StatisticsModel
from lvmzoo.report.style import HALF, MUTED, PARTS, THIRD, Picture, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lvmzoo.run import Run

__all__ = ["learning_curves"]

_CLOCK = ("epoch", "step", "seconds")
_NAMES = {
    "log_likelihood_per_bin": ("Log-likelihood", "nats per bin"),
    "loss": ("Loss", "loss"),
    "info_nce": ("InfoNCE", "nats"),
    "objective": ("Objective", "objective"),
}
_FIRST = ("log_likelihood_per_bin", "loss", "info_nce")


def learning_curves(run: Run) -> Iterator[Picture]:
    """Draw each logged quantity over training, training and validation data together; at most six.

    A model that is solved in closed form does not learn from pass to pass, and has none.
    """
    if isinstance(run.model, StatisticsModel) and run.model.passes is not None:
        return
    history = run.history
    quantities: dict[str, dict[str, str]] = {}
    for column in map(str, history.columns):
        if column in _CLOCK or not pd.api.types.is_numeric_dtype(history[column]):
            continue
        part, _, quantity = column.rpartition("/")
        quantities.setdefault(quantity, {})[part] = column
    order = sorted(quantities, key=lambda q: (_FIRST.index(q) if q in _FIRST else len(_FIRST), len(quantities[q]) < 2))
    clock = "step" if isinstance(run.model, GradientModel) and "step" in history else "epoch"
    drawn = []
    for quantity in order[:6]:
        lines = {
            part: history[[clock, column]].dropna().sort_values(clock) for part, column in quantities[quantity].items()
        }
        lines = {part: line for part, line in lines.items() if len(line) > 1}
        if lines:
            drawn.append((quantity, lines))
    for quantity, lines in drawn:
        yield _curve(quantity, clock, lines, THIRD if len(drawn) > 2 else HALF)


def _curve(quantity: str, clock: str, lines: dict[str, pd.DataFrame], width: float) -> Picture:
    title, label = _NAMES.get(quantity, (quantity.replace("_", " ").capitalize(), quantity.replace("_", " ")))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for part, line in lines.items():
            x, y = line.iloc[:, 0].to_numpy(float), line.iloc[:, 1].to_numpy(float)
            color = PARTS.get(part, MUTED)
            if len(y) > 300:  # single steps are noisy: show their running median
                axes.plot(x, y, color=color, alpha=0.2, linewidth=0.6, rasterized=True)
                y = pd.Series(y).rolling(len(y) // 60, center=True, min_periods=1).median().to_numpy()
            axes.plot(x, y, color=color, label=_part_label(part), marker="o" if len(y) < 12 else None, markersize=3.5)
        axes.set_xlabel("pass over the data (epoch)" if clock == "epoch" else "step")
        axes.set_ylabel(label)
        axes.locator_params(axis="x", integer=True)
        if len(lines) > 1 or next(iter(lines)):
            axes.legend(loc="best")

    ends = ", ".join(f"{_part_label(part)} ends at {float(line.to_numpy()[-1, 1]):.4g}" for part, line in lines.items())
    return picture(
        draw,
        title=title,
        caption=f"{ends[0].upper()}{ends[1:]} ({label}).",
        alt=f"Line chart of {label} over training: {ends}.",
        width=width,
        height=2.3 if width == THIRD else 2.6,
    )


def _part_label(part: str) -> str:
    return {"train": "training", "": "value"}.get(part, part)
