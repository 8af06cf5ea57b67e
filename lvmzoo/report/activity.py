"""Figures of activity: predicted rates against data, and drift over the session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter1d

from lvmzoo.report.latents import condition_means
from lvmzoo.report.style import (
    HAIRLINE, INK, MUTED, PARTS, PREDICTED, RECORDED, WIDE, Picture, heat_map, palette, picture,
)  # fmt: skip
from lvmzoo.report.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drift_figures", "rate_figures"]

_UNITS, _STRETCH_S, _MOST_CONDITIONS = 6, 20.0, 8


def rate_figures(view: View) -> Iterator[Picture]:
    """Draw PSTHs where there are trials by condition, else a stretch of rates against activity."""
    if view.conditions is not None and view.aligned:
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
    return f"{view.layout.unit_ids[unit]} · {view.regions[unit]}{held_out}"


def _psths(view: View) -> Iterator[Picture]:
    conditions = view.conditions
    assert conditions is not None
    units = _chosen_units(view, _UNITS)
    sigma_s = max(0.025, view.bin_s) if view.counts else 0.0
    smooth = _smooth(view, view.activity("test")[:, units], sigma_s)
    means, errors = condition_means(view, smooth * view.scale)
    predicted, _ = condition_means(view, view.evaluation.rates("test")[:, units] * view.scale)
    levels = np.linspace(0, len(conditions.levels) - 1, min(len(conditions.levels), _MOST_CONDITIONS)).round()
    time = view.zero_s + (np.arange(means.shape[1]) + 0.5) * view.bin_s
    stated = f", smoothed by a Gaussian of {1000 * sigma_s:g} ms" if sigma_s else ""
    for place, unit in enumerate(units):

        def draw(figure: Figure, place: int = place) -> None:
            left, right = figure.subplots(1, 2, sharey=True)
            for code in levels.astype(int):
                color = conditions.colors[code]
                mean, error = means[code, :, place], errors[code, :, place]
                left.plot(time, mean, color=color, linewidth=1.2)
                left.fill_between(time, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
                right.plot(time, predicted[code, :, place], color=color, linewidth=1.2)
            if view.counts:
                left.set_ylim(bottom=0)
            left.set_ylabel("rate (Hz)" if view.counts else "signal")
            left.set_title("data", weight="normal", color=MUTED)
            right.set_title("model", weight="normal", color=MUTED)
            figure.supxlabel(view.trial_time_label, fontsize=8.5, color=MUTED)

        yield picture(
            draw,
            title=_unit_title(view, unit),
            caption=f"Mean over the test trials of each {conditions.column}; data with SEM{stated}; model unsmoothed."
            if place == 0
            else "",
            alt=f"Peri-stimulus time histograms of unit {_unit_title(view, unit)}, data beside model.",
            width=3.6,
            height=2.35,
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

    They begin a tenth into the test data, where nothing was chosen by looking; trials follow each other with a gap, on a
    clock that only counts shown time, unless the test data are one stretch.
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
    """What the times of a stretch count."""
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
                axes.set_ylim(bottom=0)
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
            f"Gray: {'spikes of each bin, as a rate' if view.counts else 'recorded'}; orange: predicted. A stretch of test "
            "data; the units are the most active in the training data, regions and held-out units taking turns."
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
            axes.set_ylabel("unit")
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


def _smooth_stretch(values: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter1d(np.nan_to_num(values), sigma, axis=0, mode="nearest")


def drift_figures(view: View) -> Iterator[Picture]:
    """Draw the mean activity of each region over the session, with the blocks of the split."""
    parts = [part for part in PARTS if len(view.part(part)) and len(view.index(part)[0])]
    times = np.concatenate([view.times(part) for part in parts])
    if not len(times) or not np.isfinite(times).all():
        return
    first, last = times.min() - view.bin_s / 2, times.max() + view.bin_s / 2
    edges = np.linspace(first, last, int(np.clip(len(times) // 50, 10, 160)) + 1)
    slot = np.clip(np.digitize(times, edges) - 1, 0, len(edges) - 2)
    middle = (edges[1:] + edges[:-1]) / 2
    levels: dict[str, Any] = {}
    for region in view.layout.units:
        mean = np.concatenate([_region_mean(view.activity(part)[:, view.layout.region(region)]) for part in parts])
        known = np.isfinite(mean)
        total = np.bincount(slot[known], mean[known], minlength=len(middle))
        n = np.bincount(slot[known], minlength=len(middle))
        levels[region] = np.divide(total, n, out=np.full(len(middle), np.nan), where=n > 0) * view.scale
    spans = [(part, *span) for part in parts for span in _spans(view, part)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for part, start, stop in spans:
            axes.axvspan(start, stop, color=PARTS[part], alpha=0.10, linewidth=0)
            axes.axvspan(start, stop, ymin=0, ymax=0.025, color=PARTS[part], alpha=0.9, linewidth=0)
        for (region, level), color in zip(levels.items(), palette(len(levels)), strict=True):
            shown = np.isfinite(level)
            axes.plot(middle[shown], level[shown], color=color, label=region, linewidth=1.6)
        if view.counts:
            axes.set_ylim(bottom=0)
        axes.margins(x=0)
        axes.set_xlabel("time in the recording (s)")
        axes.set_ylabel("mean rate (Hz)" if view.counts else "mean signal")
        from matplotlib.patches import Patch

        handles = axes.get_legend_handles_labels()[0] + [Patch(color=PARTS[part], alpha=0.6) for part in parts]
        names = list(levels) + [{"train": "training"}.get(part, part) for part in parts]
        figure.legend(handles, names, loc="outside upper left", ncols=min(6, len(names)))
        axes.tick_params(color=HAIRLINE)

    trend = "; ".join(f"{region} {_change(level)}" for region, level in levels.items())
    yield picture(
        draw,
        title="Rate drift over the session" if view.counts else "Drift of the signal over the session",
        caption=f"Mean over the units of each region in slots of {edges[1] - edges[0]:.3g} s. From the first tenth of the "
        f"slots to the last: {trend}. What drifts slowly is shared by neighboring bins: blocks with a gap keep it apart.",
        alt=f"Mean activity of each region over the session; {trend}.",
        width=WIDE,
        height=2.9,
        narrow_height=3.4,
    )


def _region_mean(values: Float[np.ndarray, "bin k"]) -> Float[np.ndarray, " bin"]:
    known = np.isfinite(values)
    n = known.sum(1)
    return np.divide(np.where(known, values, 0).sum(1), n, out=np.full(len(n), np.nan), where=n > 0)


def _change(level: np.ndarray) -> str:
    known = level[np.isfinite(level)]
    tenth = max(1, len(known) // 10)
    return f"{known[:tenth].mean():.3g} to {known[-tenth:].mean():.3g}"


def _spans(view: View, part: str) -> list[tuple[float, float]]:
    """Return the stretches of time of a part, trials that follow each other closely taken together."""
    trials = view.part(part)
    start = trials.table["start_s"].to_numpy(float)
    stop = start + trials.lengths * view.bin_s
    everything = np.sort(np.concatenate([view.part(other).table["start_s"].to_numpy(float) for other in PARTS]))
    spans: list[list[float]] = []
    for a, b in sorted(zip(start.tolist(), stop.tolist(), strict=True)):
        foreign = spans and np.searchsorted(everything, a) != np.searchsorted(everything, spans[-1][2], side="right")
        if spans and not foreign:
            spans[-1][1:] = [b, a]
        else:
            spans.append([a, b, a])
    return [(a, b) for a, b, _ in spans]


