"""Scores of several models in one figure: forecasts by how far ahead, and what is decoded of behavior."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lvmzoo.comparison import Column, Row
from lvmzoo.pooling import Value
from lvmzoo.report.style import CATEGORIES, HALF, INK, MAIN, MUTED, Picture, palette, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["decoding_figures", "forecast_figures", "shorten"]

_FORECAST = "forecast_r2_"
_READOUTS = {  # marker, color, meaning
    "linear": ("o", CATEGORIES[0], "linear readout"),
    "knn": ("s", CATEGORIES[1], "nearest neighbors"),
    "decoded": ("D", CATEGORIES[2], "by the model itself"),
}
_LABELS = {"r2": "R²", "error": "median error (°)", "accuracy": "share right"}
_MOST_TARGETS = 4
_MOST_ROWS = 16
_LONGEST = 30  # characters of a name in a figure


def forecast_figures(rows: Sequence[Row], bin_s: float) -> Iterator[Picture]:
    """Draw R2 of the activity that models expect against how far ahead it is, a line each.

    Parameters
    ----------
    rows : of the same data.
    bin_s : width of a bin in seconds.
    """
    curves = [(row.label, curve) for row in rows if len(curve := _curve(row)) > 1][:_MOST_ROWS]
    if not curves:
        return

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (label, curve), color in zip(curves, palette(len(curves)), strict=True):
            _line(axes, np.array([*curve]) * bin_s, [*curve.values()], color, shorten(label, _LONGEST))
        axes.axhline(0, color=INK, linewidth=0.5, zorder=0)
        axes.set(xlabel="time ahead (s)", ylabel="R² of activity")
        figure.legend(loc="outside lower left", ncols=3 if figure.get_figwidth() > HALF else 1, borderaxespad=0)

    first = "; ".join(f"{label} {next(iter(curve.values())).value:.3f}" for label, curve in curves)
    yield picture(
        draw,
        title=f"Activity, by time ahead{_of(rows)}",
        caption="R² around the test mean, averaged over units, of the activity that each model expects given what it "
        "saw up to so long before. 0 is what the mean alone says.",
        alt=f"R² of forecasts of activity against time ahead; at the shortest: {first}.",
        width=MAIN,
        height=3.1 + 0.2 * (-(-len(curves) // 3)),
        narrow_height=3.1 + 0.2 * len(curves),
    )


def decoding_figures(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[Picture]:
    """Draw how well behavior is decoded, a dot for each row and way to read it out, its spread, and chance.

    Parameters
    ----------
    rows : of the same data.
    columns : the metrics.
    """
    targets: dict[tuple[str, str], dict[str, Column]] = {}
    for column in columns:
        name, _, target = column.key.partition(" ")
        by, _, quantity = name.removesuffix("_knn").partition("_")
        if by in ("behavior", "decoded") and quantity in _LABELS:
            how = "decoded" if by == "decoded" else "knn" if name.endswith("_knn") else "linear"
            targets.setdefault((target, quantity), {})[how] = column
    angles = {target for target, quantity in targets if quantity == "error"}  # their R2 says the same less readably
    chosen = [key for key in targets if key[1] != "r2" or key[0] not in angles]
    for target, quantity in chosen[:_MOST_TARGETS]:
        found = targets[target, quantity]
        there = [row for row in rows if any(column.key in row.values for column in found.values())][:_MOST_ROWS]
        if there:
            yield _decoding(target, quantity, found, there)


def _decoding(target: str, quantity: str, found: Mapping[str, Column], rows: Sequence[Row]) -> Picture:
    readable, label = target.replace("_", " "), _LABELS[quantity]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        offsets = np.linspace(-0.18, 0.18, len(found)) if len(found) > 1 else [0.0]
        for (how, column), offset in zip(found.items(), offsets, strict=True):
            marker, color, meaning = _READOUTS[how]
            values = {place: row.values[column.key] for place, row in enumerate(rows) if column.key in row.values}
            y = np.array([*values]) + offset
            x = [value.value for value in values.values()]
            error = [value.spread or np.nan for value in values.values()]
            axes.errorbar(x, y, xerr=error, fmt=marker, color=color, markersize=5, elinewidth=1, label=meaning)
            chance = [np.nan if value.chance is None else value.chance for value in values.values()]
            if np.isfinite(chance).any():
                axes.plot(chance, y, "|", color=MUTED, markersize=9, markeredgewidth=1.4, label="_")
        axes.set_yticks(range(len(rows)), [shorten(row.label, _LONGEST) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#eef1f4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{label} of {readable}")
        if len(found) > 1:
            figure.legend(loc="outside upper left", ncols=len(found), borderaxespad=0, handletextpad=0.2)

    chances = any(row.values[c.key].chance is not None for row in rows for c in found.values() if c.key in row.values)
    lower = " Lower is better." if quantity == "error" else ""
    values = "; ".join(
        f"{row.label} {row.values[column.key].value:.3g}"
        for row in rows
        for column in list(found.values())[:1]
        if column.key in row.values
    )
    return picture(
        draw,
        title=readable[:1].upper() + readable[1:] + _of(rows),
        caption=f"{label[:1].upper()}{label[1:]} on test data.{lower}"
        + (" Gray ticks: what one in twenty readouts of shuffled labels reaches." if chances else ""),
        alt=f"{label} of {readable} by model: {values}.",
        width=HALF,
        height=1.1 + 0.36 * len(rows),
    )


def _of(rows: Sequence[Row]) -> str:
    """Return which data a figure is of, where there are others."""
    return f", {rows[0].data_label}" if rows[0].data_label else ""


def shorten(name: str, longest: int) -> str:
    """Return a name that a figure has room for."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _curve(row: Row) -> dict[int, Value]:
    """Return R2 by how many bins ahead."""
    found = {
        int(key.removeprefix(_FORECAST)): value
        for key, value in row.values.items()
        if key.startswith(_FORECAST) and key.removeprefix(_FORECAST).isdigit()
    }
    return dict(sorted(found.items()))


def _line(axes: Axes, x: np.ndarray, values: Sequence[Value], color: str, label: str) -> None:
    error = [value.spread or np.nan for value in values]
    axes.errorbar(x, [v.value for v in values], error, color=color, marker="o", markersize=4, elinewidth=1, label=label)
