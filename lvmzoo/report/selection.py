"""The page of a setting that was chosen by cross-validation: its curve, fold by fold, and a table."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lvmzoo.report import text
from lvmzoo.report.page import Section, write_page
from lvmzoo.report.style import HAIRLINE, HALF, INK, MUTED, PARTS, PREDICTED, Picture, Table, picture
from lvmzoo.selection_metric import is_number, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lvmzoo.config import Experiment
    from lvmzoo.selection import Selection

__all__ = ["write_selection_page"]

_NEAR = 6  # standard errors below the best that the second figure shows, at least
_FEWEST = 3  # values within that: fewer are told by the first figure


def write_selection_page(
    folder: Path, found: Selection, experiment: Experiment, seconds: float, run: str | None = None
) -> None:
    """Write selection.html.

    Parameters
    ----------
    folder : of the selection.
    found : at least one value was compared.
    experiment : that the values were put into.
    seconds : that the comparison took.
    run : folder, within ``folder``, of the fit with the chosen value; None: there is none yet.
    """
    untouched = experiment.data.split.untouched or experiment.data.split.test
    sections = [
        Section("curve", "Score by value").draw(lambda: _figures(found)),
        Section("table", "Table").draw(lambda: _table(found)),
    ]
    facts = [
        ("Setting", found.key),
        ("Score", found.metric + (f" ({found.unit})" if found.unit else "")),
        ("Folds", f"{found.folds}, contiguous, before the last {100 * untouched:g} % of the recording"),
        ("Fits", "one, whose moments tell all values" if found.one_pass else "one for each value and fold"),
        ("Time", f"{seconds:.0f} s"),
    ]
    content = {
        "title": f"{found.key}={named(found.chosen)} for {experiment.model.name}",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "model": experiment.model.name,
        "setting": found.key,
        "chosen": named(found.chosen),
        "summary": _summary(found) + (f" {found.key}={found.chosen} {found.remark}" if found.remark else ""),
        "run": run,
        "sections": sections,
        "left_out": [(named(found.values[place]), reason) for place, reason in found.failed.items()],
        "facts": facts,
        "config": text.config_text({"experiment": experiment})[len("experiment:\n") :],
    }
    write_page(folder / "selection.html", "selection.html", content)


def _summary(found: Selection) -> str:
    if found.folds < 2 or not all(is_number(found.values[place]) for place in found.compared):
        return f"The best of {len(found.compared)} values by {found.metric}."
    if found.chosen == found.best:
        return (
            f"The best of {len(found.compared)} values by {found.metric}; every smaller one is worse by more than one "
            "standard error of the difference."
        )
    return (
        f"The smallest of {len(found.compared)} values that is within one standard error of the best, {found.best}, "
        f"by {found.metric}."
    )


def _figures(found: Selection) -> Iterator[Picture]:
    rows = list(found.compared)
    means, errors = found.means[rows], np.nan_to_num(found.errors[rows])
    best, chosen = means.max(), means[[found.values[row] for row in rows].index(found.chosen)]
    label = found.unit or "score"
    yield picture(
        functools.partial(_curve, found=found),
        title="Cross-validated score",
        caption=f"Mean over folds of the {found.metric}. The band is one standard error of the difference from the "
        "best, fold by fold: a value whose band reaches the line of the best is as good as that, as far as these data "
        "tell.",
        alt=f"Line chart of the score by {found.key}: best {best:.4g} at {found.best}, chosen {found.chosen} with "
        f"{chosen:.4g} {label}.",
        width=HALF,
    )
    if len(rows) > 2 and found.folds > 1:
        near = max(_NEAR * float(errors.max(initial=0.0, where=means >= np.median(means))), 1.5 * float(best - chosen))
        if np.count_nonzero(means >= best - near) < _FEWEST:
            return
        yield picture(
            functools.partial(_by_fold, found=found, lowest=-near),
            title="Difference from the best, near the best",
            caption=f"Gray: each fold's score less that of {found.key}={found.best} in the same fold. Orange: their "
            "mean, with its standard error.",
            alt=f"Line chart of the difference from the best value by {found.key}, a line a fold.",
            width=HALF,
        )


def _curve(figure: Figure, found: Selection) -> None:
    axes, places, means, errors = _axes(figure, found)
    axes.axhline(means.max(), color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.fill_between(places, means - errors, means + errors, color=PREDICTED, alpha=0.18, linewidth=0)
    axes.plot(places, means, color=PREDICTED, marker="o", markersize=3.5)
    _mark(axes, found, places, means)
    axes.set_ylabel(found.unit or "score")


def _by_fold(figure: Figure, found: Selection, lowest: float) -> None:
    axes, places, means, errors = _axes(figure, found)
    rows = list(found.compared)
    scores = found.scores[rows][:, np.isfinite(found.scores[rows]).all(0)]
    behind = scores - scores[means.argmax()]
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(places, behind, color=HAIRLINE, linewidth=1.1)
    axes.errorbar(places, means - means.max(), errors, color=PREDICTED, marker="o", markersize=3.5, elinewidth=1.2)
    _mark(axes, found, places, means - means.max())
    axes.set_ylim(lowest, max(float(behind.max()), -lowest / 8) * 1.15)
    axes.set_ylabel(f"difference{f' ({found.unit})' if found.unit else ''}")


def _axes(figure: Figure, found: Selection) -> tuple[Axes, np.ndarray, np.ndarray, np.ndarray]:
    """Return axes with the values below, where they lie, their means and the standard errors."""
    axes, rows = figure.subplots(), list(found.compared)
    values = [found.values[row] for row in rows]
    if all(map(is_number, values)):
        places = np.asarray(values, dtype=np.float64)
        axes.locator_params(axis="x", integer=all(isinstance(value, int) for value in values))
    else:
        places = np.arange(len(values), dtype=np.float64)
        axes.set_xticks(places, [named(value) for value in values])
    axes.set_xlabel(found.key)
    return axes, places, found.means[rows], np.nan_to_num(found.errors[rows])


def _mark(axes: Axes, found: Selection, places: np.ndarray, heights: np.ndarray) -> None:
    """Ring the chosen value and name it."""
    at = [found.values[row] for row in found.compared].index(found.chosen)
    axes.plot(places[at], heights[at], "o", markersize=9, markerfacecolor="none", color=PARTS["test"], mew=1.8)
    axes.annotate(
        named(found.chosen),
        (places[at], heights[at]),
        xytext=(0, -15),
        textcoords="offset points",
        ha="center",
        color=INK,
        weight="bold",
    )


def _table(found: Selection) -> Iterator[Table]:
    unit = f" ({found.unit})" if found.unit else ""
    header = [found.key, f"score{unit}", "± difference", *(f"fold {fold + 1}" for fold in range(found.scores.shape[1]))]
    lines = []
    for place, value in enumerate(found.values):
        mark = "chosen" if value == found.chosen else "best" if value == found.best else ""
        numbers = [found.means[place], found.errors[place], *found.scores[place]]
        name = f"{named(value)} ({mark})" if mark and place in found.compared else named(value)
        lines.append([name, *(number or "\N{EN DASH}" for number in found.shown(numbers))])
    note = "± difference: standard error over folds of the difference from the best. Higher scores are better."
    yield Table("What each value scored on the folds left out", header, lines, note)
