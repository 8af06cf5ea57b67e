"""The curves and maps behind what is said of regions: by lag, time, rank and frequency, with null and control."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lvmzoo.findings import Findings, Profile, Question
from lvmzoo.report.style import (
    CATEGORIES,
    HALF,
    INK,
    MUTED,
    PARTS,
    PREDICTED,
    RECORDED,
    THIRD,
    Picture,
    heat_map,
    picture,
    scale_bar,
)  # fmt: skip
from lvmzoo.sentences import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["profile_figures"]

_MOST = 6  # figures of a kind
_CONTROL = PARTS["test"]
_KINDS = ("lag", "time", "rank", "frequency", "trace")


def profile_figures(findings: Findings) -> Iterator[str | Picture]:
    """Draw the profiles of each kind, those of regions with evidence first, at most six of a kind."""
    found = [claim for claim in findings.claims if claim.evidence]
    directed = {(claim.source, claim.target) for claim in found if claim.question is Question.DIRECTION}
    together = {frozenset((claim.source, claim.target)) for claim in found}

    def order(profile: Profile) -> tuple[bool, bool, bool]:
        way = profile.source, profile.target
        return way not in directed, frozenset(way) not in together, profile.item != ""

    cut = []
    for kind in _KINDS:
        every = [p for p in findings.profiles if p.kind == kind and p.value.size and np.isfinite(p.value).any()]
        every.sort(key=order)
        if len(every) > _MOST:
            cut.append(f"{_MOST} of {len(every)} by {kind}")
        for profile in every[:_MOST]:
            yield _picture(profile, THIRD if min(len(every), _MOST) > 2 else HALF)
    if cut:
        yield f"Drawn are {', '.join(cut)}, those with evidence first; findings.json in the run folder holds all."


def _picture(profile: Profile, width: float) -> Picture:
    draw, caption = (_map, _map_caption(profile)) if profile.value.ndim == 2 else (_curve, _caption(profile))
    title = _title(profile)
    return picture(
        lambda figure: draw(figure, profile),
        title=title,
        caption=caption + (f" {profile.note[0].upper()}{profile.note[1:].rstrip('.')}." if profile.note else ""),
        alt=f"{title}: {profile.statistic}. {caption}",
        width=width,
        height=(2.7 if width == THIRD else 3.9) if profile.value.ndim == 2 else (2.6 if width == THIRD else 3.0),
    )


def _title(profile: Profile) -> str:
    source, target = profile.source, profile.target
    arrow = f"{source} \N{RIGHTWARDS ARROW} {target}"
    titles: Mapping[str, str] = {
        "lag": f"{source} and {target} by lag",
        "time": f"{source} and {target}, each time against each",
        "rank": f"{source} to {target} by number of dimensions",
        "frequency": f"{arrow} by frequency",
        "trace": f"{arrow} over the trial",
    }
    title = titles.get(profile.kind, f"{arrow} by {profile.kind}")
    return f"{title}, {profile.item}" if profile.item else title


def _curve(figure: Figure, profile: Profile) -> None:
    axes = figure.subplots()
    ((label, x),) = profile.axes.items()
    if profile.kind == "rank":
        error = _error(profile.value, profile.low, profile.high)
        axes.errorbar(x, profile.value, error, color=PARTS["train"], marker="o", markersize=3.5, elinewidth=1)
        if profile.control is not None:
            error = _error(profile.control, profile.control_low, profile.control_high)
            axes.errorbar(x, profile.control, error, color=_CONTROL, marker="s", markersize=3, elinewidth=1)
    else:
        _banded(axes, x, profile.value, profile.low, profile.high, CATEGORIES[0])
        if profile.control is not None:
            _banded(axes, x, profile.control, profile.control_low, profile.control_high, _CONTROL)
    bottom, top = axes.get_ylim()
    if profile.null is not None and np.isfinite(profile.null).any():
        null = np.broadcast_to(profile.null, x.shape)
        bottom, top = min(bottom, 0.0), max(top, 1.08 * float(np.nanmax(null)))
        axes.fill_between(x, bottom, null, color=RECORDED, alpha=0.16, linewidth=0)
        axes.plot(x, null, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.set_ylim(bottom, top + 0.1 * (top - bottom))
    if bottom < 0 < top:
        axes.axhline(0, color=INK, linewidth=0.5, zorder=0)
    if x.min() < 0 < x.max():
        axes.axvline(0, color=INK, linewidth=0.5, zorder=0)
    for name, place in _marks(profile).items():
        _mark(axes, profile, name, place, label)
    axes.set(xlabel=label, ylabel=_axis_name(profile.statistic))
    if profile.kind == "rank":
        axes.locator_params(axis="x", integer=True)
    _key(axes, profile)


def _banded(
    axes: Axes, x: np.ndarray, value: np.ndarray, low: np.ndarray | None, high: np.ndarray | None, color: str
) -> None:
    if low is not None and high is not None:
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(x, value, color=color, marker="o" if len(x) < 4 else None, markersize=3.5)


def _error(value: np.ndarray, low: np.ndarray | None, high: np.ndarray | None) -> np.ndarray | None:
    if low is None or high is None:
        return None
    return np.nan_to_num(np.stack([value - low, high - value])).clip(min=0)


def _axis_name(statistic: str) -> str:
    """Return a statistic as the label of an axis, in a few lines."""
    return "\n".join(textwrap.wrap(statistic, 30, max_lines=3, placeholder="…"))


def _marks(profile: Profile) -> Mapping[str, float]:
    """Return the places to mark: those of the model, else the peak by lag where it is above chance."""
    if profile.marks:
        return {name: place for name, place in profile.marks.items() if np.isfinite(place)}
    if profile.kind != "lag" or profile.null is None:
        return {}
    (x,) = profile.axes.values()
    best = int(np.nanargmax(profile.value))
    return {"peak": float(x[best])} if profile.value[best] > np.broadcast_to(profile.null, x.shape)[best] else {}


def _mark(axes: Axes, profile: Profile, name: str, place: float, label: str) -> None:
    """Put a dot on the curve at a place, and write what it is."""
    (x,) = profile.axes.values()
    known = np.isfinite(profile.value)
    height = float(np.interp(place, x[known], profile.value[known]))
    axes.plot(place, height, "o", color=PREDICTED, markersize=6.5, zorder=5)
    right = place > x.min() + 0.7 * (x.max() - x.min())
    bottom, top = axes.get_ylim()
    below = profile.kind == "rank" and height > bottom + 0.25 * (top - bottom)
    axes.annotate(
        f"{name.removesuffix(f' ({_unit(label)})')} {amount(place, _unit(label))}",
        (place, height),
        xytext=(-8 if right else 8, -13 if below else 5),
        textcoords="offset points",
        ha="right" if right else "left",
        color=PREDICTED,
        fontweight="bold",
        zorder=6,
    )


def _unit(label: str) -> str:
    return label.rpartition("(")[2].rstrip(")") if label.endswith(")") else ""


def _key(axes: Axes, profile: Profile) -> None:
    """Name the lines where there are several."""
    from matplotlib.lines import Line2D

    main = PARTS["train"] if profile.kind == "rank" else CATEGORIES[0]
    lines = [Line2D([], [], color=main, label="between regions")]
    if profile.control is not None:
        lines.append(Line2D([], [], color=_CONTROL, label="within a region"))
    if profile.null is not None:
        lines.append(Line2D([], [], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)), label="chance, 95th percentile"))
    if len(lines) > 1:
        axes.figure.legend(handles=lines, loc="outside lower left", ncols=2)


def _caption(profile: Profile) -> str:
    ((label, x),) = profile.axes.items()
    unit, best = _unit(label), int(np.nanargmax(profile.value))
    said: list[str] = []
    chosen: list[float] = []
    if profile.kind == "lag" and "ositive" not in profile.note:
        said.append(f"At lags above zero {profile.target} follows {profile.source}.")
    if profile.kind == "rank":
        chosen = [place for name, place in profile.marks.items() if name.startswith("1-SE")]
        if chosen:
            rule = f"{chosen[0]:g} is the least within one standard error of it"
            said.append(f"Best with {amount(x[best])} ({amount(profile.value[best])}); {rule}.")
    if not chosen:
        said.append(f"Largest at {amount(x[best], unit)} ({amount(profile.value[best])}).")
    if profile.low is not None and "standard error" not in profile.note:
        bars = "Bars are standard errors." if chosen else "Bars are 95 % intervals."
        said.append(bars if profile.kind == "rank" else "The band is the 95 % interval.")
    if profile.null is not None:
        above = np.flatnonzero(profile.value > np.broadcast_to(profile.null, x.shape))
        if not len(above):
            said.append("Nowhere above chance.")
        elif len(above) == len(x):
            said.append("Above chance everywhere.")
        elif len(above) == 1:
            said.append(f"Above chance at {amount(x[above[0]], unit)} only.")
        else:
            inside = "" if len(above) == above[-1] - above[0] + 1 else ", not throughout"
            said.append(f"Above chance from {amount(x[above[0]])} to {amount(x[above[-1]], unit)}{inside}.")
    return " ".join(said)


def _map(figure: Figure, profile: Profile) -> None:
    axes = figure.subplots()
    (row_label, rows), (column_label, columns) = profile.axes.items()
    # A map of nothing must look pale, not like noise blown up to the full range of colors.
    least = 0.0 if profile.null is None else 1.5 * float(np.nanmax(profile.null))
    top = max(float(np.nanmax(profile.value)), least)
    top = top if top > 0 else 1.0
    top = min(top, 1.0) if "correlation" in profile.statistic else top
    axes.pcolormesh(
        rows, columns, profile.value.T, cmap=heat_map(), vmin=0, vmax=top, shading="nearest", rasterized=True
    )
    over = _over(profile)
    if over is not None and over.any() and not over.all() and min(over.shape) > 1:
        axes.contour(rows, columns, over.T.astype(float), levels=[0.5], colors=[PREDICTED], linewidths=0.9)
    low, high = max(rows.min(), columns.min()), min(rows.max(), columns.max())
    if high > low:
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_aspect("equal", adjustable="box", anchor="NW")
    named = f" in {profile.source} " in row_label and f" in {profile.target} " in column_label
    axes.set(
        xlabel=row_label if named else f"{profile.source}: {row_label}",
        ylabel=column_label if named else f"{profile.target}: {column_label}",
    )
    scale_bar(axes, _axis_name(profile.statistic), (0.0, top), heat_map(), circular=False)


def _over(profile: Profile) -> np.ndarray | None:
    """Return where a map is above chance."""
    return (
        None if profile.null is None else np.asarray(profile.value > np.broadcast_to(profile.null, profile.value.shape))
    )


def _map_caption(profile: Profile) -> str:
    rows, columns = profile.axes.values()
    said = f"On the dashed line both regions are at the same time; above it {profile.target} is later."
    over = _over(profile)
    if over is None:
        return said
    if not over.any():
        return f"{said} Nowhere above chance."
    later = int((over & (columns[None, :] > rows[:, None])).sum())
    earlier = int((over & (columns[None, :] < rows[:, None])).sum())
    return (
        f"{said} Outlined: above chance (95th percentile), {100 * over.mean():.0f} % of the map, in {later} "
        f"pair{'' if later == 1 else 's'} of times with {profile.target} later and in {earlier} with {profile.source} "
        "later."
    )
