"""The mean activity of each region over the session: what drifts slowly, and where the split cut it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lvmzoo.report.style import HAIRLINE, PARTS, WIDE, Picture, palette, picture
from lvmzoo.report.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drift_figures"]


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
        caption=f"Mean over the units of each region in slots of {edges[1] - edges[0]:.3g} s. From the first tenth of "
        f"the slots to the last: {trend}. Neighboring bins share slow drift: blocks with a gap keep it apart.",
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
