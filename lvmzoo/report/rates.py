"""Figures of predicted rates against data: by condition, or over a stretch of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter1d

from lvmzoo.report.style import (
    INK,
    MUTED,
    PREDICTED,
    RECORDED,
    THIRD,
    WIDE,
    Picture,
    heat_map,
    picture,
)  # fmt: skip
from lvmzoo.report.trajectories import condition_means
from lvmzoo.report.view import View, colors_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["broken", "rate_figures", "stretch", "stretch_label"]

_UNITS, _STRETCH_S, _MOST_CONDITIONS, _SMOOTHING_S = 6, 20.0, 5, 0.04


def rate_figures(view: View) -> Iterator[Picture]:
    """Draw PSTHs where there are trials by condition, else a stretch of rates against activity."""
    if view.averages:
        yield from _psths(view)
    else:
        yield from _stretch(view)


def _chosen_units(view: View, count: int) -> list[int]:
    """Return units to show: the most active in the training data, regions and held-out units taking turns."""
    activity = view.activity("train")
    level = np.nanmean(activity, 0) if view.counts else np.nanstd(activity, 0)
    held_out = set(view.layout.held_out)
    groups: dict[tuple[bool, str], list[int]] = {}
    for unit in np.argsort(-level, kind="stable").tolist():
        groups.setdefault((unit not in held_out, view.regions[unit]), []).append(unit)
    queues = [groups[key] for key in sorted(groups)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return chosen[:count]


def _unit_title(view: View, unit: int) -> str:
    held_out = ", held out" if unit in view.layout.held_out else ""
    name, region = view.layout.unit_ids[unit], view.regions[unit]
    return f"unit {name}{held_out}" if region == "all" else f"{name} · {region}{held_out}"


def _psths(view: View) -> Iterator[Picture]:
    conditions = view.conditions
    assert conditions is not None
    units = _chosen_units(view, _UNITS)
    sigma_s = max(_SMOOTHING_S, view.bin_s) if view.counts else 0.0
    smooth = _smooth(view, view.activity("test")[:, units], sigma_s)
    means, errors = condition_means(view, smooth * view.scale)
    predicted, _ = condition_means(view, view.evaluation.rates("test")[:, units] * view.scale)
    levels = range(0, len(conditions.levels), -(-len(conditions.levels) // _MOST_CONDITIONS))
    shown = "" if len(levels) == len(conditions.levels) else f" ({len(levels)} of {len(conditions.levels)} are shown)"
    time = view.zero_s + (np.arange(means.shape[1]) + 0.5) * view.bin_s
    stated = f", smoothed by a Gaussian of {1000 * sigma_s:.4g} ms" if sigma_s else ""
    about = f"Mean over the test trials of each {conditions.column}{shown}; data with SEM{stated}; model unsmoothed."
    for place, unit in enumerate(units):

        def draw(figure: Figure, place: int = place) -> None:
            left, right = figure.subplots(1, 2, sharey=True)
            for code in levels:
                color = colors_of(conditions)[code]
                mean, error = means[code, :, place], errors[code, :, place]
                left.plot(time, mean, color=color, linewidth=1.2)
                left.fill_between(time, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
                right.plot(time, predicted[code, :, place], color=color, linewidth=1.2)
            if view.counts:
                left.set_ylim(bottom=min(0.0, float(np.nanmin(predicted[list(levels), :, place]))))
            left.set_ylabel("rate (Hz)" if view.counts else "signal")
            left.set_title("data", weight="normal", color=MUTED)
            right.set_title("model", weight="normal", color=MUTED)
            figure.supxlabel(view.trial_time_label, fontsize=8.5, color=MUTED)

        yield picture(
            draw,
            title=_unit_title(view, unit),
            caption=about if place == 0 else "",
            alt=f"Peri-stimulus time histograms of unit {_unit_title(view, unit)}, data beside model.",
            width=THIRD,
            height=2.1,
        )


def _smooth(view: View, values: Float[np.ndarray, "bin k"], sigma_s: float) -> Float[np.ndarray, "bin k"]:
    """Smooth within the trials of the test data; edges and missing samples are left out of the average, not zero."""
    if not sigma_s:
        return values
    grid = view.grid("test", values)
    known = np.isfinite(grid)
    sigma = sigma_s / view.bin_s
    total = gaussian_filter1d(np.where(known, grid, 0.0), sigma, axis=1, mode="constant")
    weight = gaussian_filter1d(known.astype(np.float32), sigma, axis=1, mode="constant")
    smooth = np.divide(total, weight, out=np.full(grid.shape, np.nan), where=known)
    return smooth[view.index("test")]


def stretch(view: View, seconds: float = _STRETCH_S) -> tuple[Int[np.ndarray, " shown"], Float[np.ndarray, " shown"]]:
    """Return test bins to show over time, as rows of the flat arrays, and their times in seconds.

    They begin a tenth into the test data, where nothing was chosen by looking; trials follow each other with a gap,
    on a clock that only counts shown time, unless the test data are one stretch.
    """
    times = view.times("test")
    trial, inside = view.index("test")
    if len(view.session.test) == 1:
        first = times[0] + 0.1 * (times[-1] - times[0])
        rows = np.flatnonzero((times >= first) & (times < first + seconds))
        return rows, times[rows]
    lengths = view.session.test.lengths * view.bin_s
    first = len(lengths) // 10
    many = int(np.searchsorted(np.cumsum(lengths[first:]), seconds)) + 1
    many = min(many, 40)
    gap = max(2 * view.bin_s, 0.02 * seconds)
    offset = np.concatenate([[0.0], np.cumsum(lengths[first : first + many] + gap)])
    rows = np.flatnonzero((trial >= first) & (trial < first + many))
    shown = offset[trial[rows] - first] + (inside[rows] + 0.5) * view.bin_s
    kept = shown < seconds + offset[1]
    return rows[kept], shown[kept]


def broken(times: np.ndarray, *columns: np.ndarray, step: float) -> tuple[np.ndarray, ...]:
    """Insert NaN where time jumps, so that lines do not cross what was not recorded."""
    jumps = np.flatnonzero(np.diff(times) > 1.5 * step) + 1
    return tuple(np.insert(column.astype(float), jumps, np.nan, axis=0) for column in (times, *columns))


def stretch_label(view: View) -> str:
    """Say what the times of a stretch count."""
    return "time in the recording (s)" if len(view.session.test) == 1 else "time (s), trials one after the other"


def _stretch(view: View) -> Iterator[Picture]:
    rows, times = stretch(view)
    if not len(rows):
        return
    units = _chosen_units(view, _UNITS)
    rates = view.evaluation.rates("test")
    recorded, model = view.activity("test")[rows], rates[rows]
    label = stretch_label(view)
    name = "rate" if view.counts else "signal"
    clock, data, line = broken(times, recorded[:, units] * view.scale, model[:, units] * view.scale, step=view.bin_s)

    def traces(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(len(units), 1, sharex=True))
        for place, (axes, unit) in enumerate(zip(panels, units, strict=True)):
            if view.counts:
                axes.fill_between(clock, 0, data[:, place], step="mid", color=RECORDED, alpha=0.45, linewidth=0)
                axes.set_ylim(bottom=min(0.0, float(np.nanmin(line[:, place]))))
            else:
                axes.plot(clock, data[:, place], color=RECORDED, linewidth=1)
            axes.plot(clock, line[:, place], color=PREDICTED, linewidth=1.3)
            axes.set_title(_unit_title(view, unit), fontsize=8, weight="normal", color=INK, pad=2)
            axes.locator_params(axis="y", nbins=3)
        panels[-1].set_xlabel(label)
        figure.supylabel(f"{name} ({view.unit})" if view.counts else name, fontsize=8.5, color=MUTED)

    yield picture(
        traces,
        title="Predicted rates and data" if view.counts else "Predicted signal and data",
        caption=(
            f"Gray: {'spikes of each bin, as a rate' if view.counts else 'recorded'}; orange: predicted. A stretch of "
            "test data; the units are the most active in the training data, regions and held-out units taking turns."
        ),
        alt=f"Predicted against recorded activity of {len(units)} units over a stretch of test data.",
        width=WIDE,
        height=0.95 * len(units) + 0.6,
    )
    if view.layout.n_units < 4:
        return
    spread = np.nanstd(view.activity("train"), 0)
    mean = np.nanmean(view.activity("train"), 0)
    shown = recorded if not view.counts else _smooth_stretch(recorded, 2.0)
    pair = [(value - mean) / np.where(spread > 0, spread, 1) for value in (shown, model)]
    limit = float(np.nanpercentile(np.abs(np.concatenate(pair)), 98)) or 1.0

    def heat(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True)
        edges = (0, (len(times)) * view.bin_s, view.layout.n_units, 0)
        for axes, values, title in zip(panels, pair, ("data", "model"), strict=True):
            image = axes.imshow(
                values.T, aspect="auto", cmap=heat_map(), vmin=0 if view.counts else -limit, vmax=limit, extent=edges,
                interpolation="nearest", rasterized=True,
            )  # fmt: skip
            axes.set_title(title, weight="normal", color=MUTED)
            _region_ticks(axes, view)
        panels[-1].set_xlabel("time in this stretch (s)")
        bar = figure.colorbar(image, ax=panels, shrink=0.5, aspect=30, pad=0.01)
        bar.outline.set_visible(False)
        bar.set_label("SD from the mean")

    yield picture(
        heat,
        title="All units",
        caption="The same stretch, each unit in standard deviations of its training data"
        + (" (counts smoothed by a Gaussian of two bins)." if view.counts else "."),
        alt="Heat maps of recorded and predicted activity of all units.",
        width=WIDE,
        height=4.2,
    )


def _region_ticks(axes: Any, view: View) -> None:
    """Name the regions beside a heat map of all units, and part them."""
    stops = np.cumsum(list(view.layout.units.values()))
    starts = stops - list(view.layout.units.values())
    if len(stops) == 1:
        axes.set_ylabel("unit")
        axes.set_yticks([0.5, stops[-1] - 0.5], ["1", str(stops[-1])])
        return
    axes.set_yticks((starts + stops) / 2, list(view.layout.units))
    axes.tick_params(axis="y", length=0)
    for stop in stops[:-1]:
        axes.axhline(stop, color=INK, linewidth=0.6)


def _smooth_stretch(values: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter1d(np.nan_to_num(values), sigma, axis=0, mode="nearest")
