"""Figures of what can be predicted from the latents: behavior, or the activity of another region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lvmzoo.batch import Kind, Variable
from lvmzoo.models.base import Communicates, Decodes
from lvmzoo.report.rates import broken, stretch, stretch_label
from lvmzoo.report.style import HAIRLINE, INK, MAIN, MUTED, PREDICTED, RECORDED, THIRD, WIDE, Picture, heat_map, picture
from lvmzoo.report.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["communication_figures", "decoding_figures"]

_MOST_VARIABLES, _MOST_TARGETS, _STRETCH_S, _UNITS = 3, 3, 40.0, 5
_MOST_POINTS = 2000  # drawn one by one


def decoding_figures(view: View) -> Iterator[Picture]:
    """Draw true against decoded behavior over a stretch of test data, and for all of it.

    What the model decodes by itself is drawn where it does, else what a readout of its latents says.
    """
    own = view.evaluation.decoded("test") if isinstance(view.run.model, Decodes) else {}
    shown = [name for name in view.variables if name in own or (view.layout.session, name) in view.run.decoders]
    for name in shown[:_MOST_VARIABLES]:
        variable = view.variables[name]
        true = view.behavior("test", name)
        if name in own:
            decoded, how = own[name], "by the model itself"
        else:
            decoder = view.run.decoders[view.layout.session, name]
            decoded = np.asarray(decoder.predict(view.evaluation.latents("test")), dtype=np.float64)
            by = {"knn": " by k nearest neighbors", "ridge": " by ridge regression"}.get(decoder.kind, "")
            how = f"from the latents{by} fitted on training data"
        decoded = decoded.reshape(true.shape)
        if variable.kind is Kind.CIRCULAR:
            true, decoded = np.degrees(np.mod(true, 2 * np.pi)), np.degrees(np.mod(decoded, 2 * np.pi))
        quality = _quality(true, decoded, variable, view.behavior("train", name))
        yield _over_time(view, name, variable, true, decoded, quality, how)
        if variable.kind is not Kind.CATEGORICAL:
            for channel in range(min(2, variable.channels)):
                yield _against(name, variable, channel, true[:, channel], decoded[:, channel])


def _channel_name(name: str, variable: Variable, channel: int) -> str:
    readable = name.replace("_", " ")
    return readable if variable.channels == 1 else f"{readable}, channel {channel + 1}"


def _quality(true: np.ndarray, decoded: np.ndarray, variable: Variable, train: np.ndarray) -> str:
    """Say how well all test bins are decoded; angles are in degrees, those of the training data in radians."""
    known = np.isfinite(true).all(1) & np.isfinite(decoded).all(1)
    true, decoded = true[known], decoded[known]
    if not len(true):
        return "no labeled test bins"
    if variable.kind is Kind.CATEGORICAL:
        return f"{100 * (true.round() == decoded.round()).mean():.0f} % of test bins correct"
    if variable.kind is Kind.CIRCULAR:
        guess = np.degrees(np.angle(np.nanmean(np.exp(1j * train))))
        error, blind = (np.median(np.abs((found - true + 180) % 360 - 180)) for found in (decoded, guess))
        return f"median error {error:.1f}° (always guessing the mean: {blind:.0f}°)"
    spread = ((true - true.mean(0)) ** 2).sum(0)
    r2 = 1 - ((true - decoded) ** 2).sum(0) / np.where(spread > 0, spread, np.nan)
    return f"R² {np.nanmean(r2):.3f}"


def _over_time(
    view: View, name: str, variable: Variable, true: np.ndarray, decoded: np.ndarray, quality: str, how: str
) -> Picture:
    rows, times = stretch(view, _STRETCH_S)
    channels = min(3, variable.channels)
    circular = variable.kind is Kind.CIRCULAR
    clock, lines, guesses = broken(times, true[rows], decoded[rows], step=view.bin_s)
    lines = _unwrapped_gaps(lines) if circular else lines

    def draw(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(channels, 1, sharex=True))
        for channel, axes in enumerate(panels):
            axes.plot(clock, lines[:, channel], color=RECORDED, linewidth=2.2, label="true")
            if circular:
                axes.plot(clock, guesses[:, channel], "o", color=PREDICTED, markersize=2.2, mew=0, label="decoded")
                axes.set_yticks([0, 90, 180, 270, 360], ["0°", "90°", "180°", "270°", "360°"])
                axes.set_ylim(0, 360)
            else:
                axes.plot(clock, guesses[:, channel], color=PREDICTED, linewidth=1.2, label="decoded")
            if variable.kind is Kind.CATEGORICAL:
                axes.set_yticks(range(len(variable.levels)), list(variable.levels))
            axes.set_ylabel(_channel_name(name, variable, channel))
        panels[-1].set_xlabel(stretch_label(view))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)

    readable = name.replace("_", " ")
    return picture(
        draw,
        title=f"{readable[:1].upper()}{readable[1:]}: {quality}",
        caption=f"A stretch of test data, decoded {how}; the number above is of all test bins.",
        alt=f"True and decoded {readable} over a stretch of test data; {quality}.",
        width=WIDE if variable.channels > 1 or variable.kind is Kind.CATEGORICAL else MAIN,
        height=1.1 + 1.35 * channels if variable.channels > 1 else 3.1,
        narrow_height=1.1 + 1.35 * channels,
    )


def _unwrapped_gaps(degrees: np.ndarray) -> np.ndarray:
    """Break lines where an angle passes from 360 to 0 degrees."""
    out = degrees.copy()
    out[1:][np.abs(np.diff(degrees, axis=0)) > 180] = np.nan
    return out


def _against(name: str, variable: Variable, channel: int, true: np.ndarray, decoded: np.ndarray) -> Picture:
    """Draw decoded against true values of all test bins: points where they are few, else their density."""
    known = np.isfinite(true) & np.isfinite(decoded)
    true, decoded = true[known], decoded[known]
    circular = variable.kind is Kind.CIRCULAR
    if circular:
        low, high = 0.0, 360.0
    else:
        low, high = (float(v) for v in np.percentile(np.concatenate([true, decoded]), [0.5, 99.5]))
        high = max(high, low + 1e-9)
    counts, edges, _ = np.histogram2d(true, decoded, bins=60, range=[[low, high], [low, high]])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if len(true) > _MOST_POINTS:
            axes.pcolormesh(edges, edges, np.sqrt(counts.T), cmap=heat_map(), rasterized=True)
        else:
            axes.plot(true, decoded, "o", color=PREDICTED, markersize=2.2, mew=0, alpha=0.5, rasterized=True)
            axes.set(xlim=(low, high), ylim=(low, high))
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_aspect("equal")
        if circular:
            ticks = [0, 90, 180, 270, 360]
            axes.set_xticks(ticks, [f"{t}°" for t in ticks])
            axes.set_yticks(ticks, [f"{t}°" for t in ticks])
        axes.set_xlabel("true")
        axes.set_ylabel("decoded")

    label = _channel_name(name, variable, channel)
    what = "Density of decoded" if len(true) > _MOST_POINTS else "Decoded"
    error = np.abs(decoded - true)
    off = f" Median absolute error {np.median(error):.2g}" if len(true) and not circular else ""
    if off and name.endswith("_s"):
        off += f" s; {100 * (error <= 1).mean():.0f} % are within one second"
    return picture(
        draw,
        title=f"{label[:1].upper()}{label[1:]}, all test bins",
        caption=f"{what} against true values; on the dashed line they are equal.{off}{'.' if off else ''}",
        alt=f"{what} against true {label}.",
        width=THIRD,
        height=3.1,
    )


def communication_figures(view: View) -> Iterator[Picture]:
    """Draw what a model that communicates predicts of the target region."""
    model = cast("Communicates", view.run.model)
    for target, sources in list(model.routes.items())[:_MOST_TARGETS]:
        yield from _predicted(view, sources, target)


def _predicted(view: View, sources: Sequence[str], target: str) -> Iterator[Picture]:
    actual = view.activity("test")[:, view.layout.region(target)]
    predicted = view.evaluation.predictions("test", target)
    mean = np.nanmean(view.activity("train")[:, view.layout.region(target)], 0)
    known = np.isfinite(actual)
    error = np.where(known, actual - predicted, 0.0)
    total = np.where(known, actual - mean, 0.0)
    explained = 1 - (error**2).sum(0) / np.maximum((total**2).sum(0), 1e-300)
    pooled = 1 - (error**2).sum() / max((total**2).sum(), 1e-300)

    def units(figure: Figure) -> None:
        axes = figure.subplots()
        order = np.argsort(-explained)
        axes.bar(np.arange(len(order)), explained[order], color=PREDICTED, width=0.75)
        axes.axhline(pooled, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.axhline(0, color=HAIRLINE, linewidth=0.8)
        axes.set_ylim(bottom=max(-0.5, min(0.0, float(explained.min()))))
        axes.set_xlabel(f"unit of {target}, sorted")
        axes.set_ylabel("1 - NSE")
        axes.locator_params(axis="x", integer=True)

    yield picture(
        units,
        title=f"{' and '.join(sources)} predict{'s' if len(sources) == 1 else ''} {target}",
        caption=f"1 - NSE of each unit of {target} on test data, around its training mean; dashed: all units together "
        f"({pooled:.3f}).",
        alt=f"Bar chart of 1 - NSE of each unit of {target}; {pooled:.3f} for all together.",
        height=3.0,
    )
    rows, times = stretch(view, _STRETCH_S / 4)
    chosen = np.argsort(-np.nanvar(view.activity("train")[:, view.layout.region(target)], 0))[:_UNITS]
    clock, data, line = broken(times, actual[rows][:, chosen], predicted[rows][:, chosen], step=view.bin_s)
    ids: list[Any] = list(view.layout.unit_ids[view.layout.region(target)])

    def traces(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(len(chosen), 1, sharex=True))
        for place, axes in enumerate(panels):
            axes.plot(clock, data[:, place] * view.scale, color=RECORDED, linewidth=1)
            axes.plot(clock, line[:, place] * view.scale, color=PREDICTED, linewidth=1.4)
            axes.set_title(f"{ids[chosen[place]]} · {target}", fontsize=8, weight="normal", pad=2)
            axes.locator_params(axis="y", nbins=3)
        panels[-1].set_xlabel(stretch_label(view))
        figure.supylabel("rate (Hz)" if view.counts else "signal", fontsize=8.5, color=MUTED)

    yield picture(
        traces,
        title=f"Predicted and actual activity of {target}",
        caption=f"Gray: recorded; orange: predicted from {' and '.join(sources)}. A stretch of test data; the units "
        "that vary most in the training data.",
        alt=f"Predicted against recorded activity of {len(chosen)} units of {target}.",
        width=WIDE,
        height=0.95 * len(chosen) + 0.6,
    )
