"""How alike what models found is: the laws of motion of their latents, and what these span over time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lvmzoo.comparison import Row
from lvmzoo.errors import UserError
from lvmzoo.metrics.dsa import dsa
from lvmzoo.metrics.subspace_angles import subspace_angles
from lvmzoo.report.matrix import draw_matrix, keyed
from lvmzoo.report.style import HALF, MAIN, Picture, picture
from lvmzoo.sweep_runs import SavedRun

__all__ = ["likeness_figures"]

_MOST_ROWS = 8  # a pair takes about half a second
_MOST_BINS, _MOST_AXES = 10_000, 10  # of the test data that are compared

Pair = tuple[float, float | None]  # a value and its standard error


def likeness_figures(shown: Sequence[tuple[Row, list[SavedRun]]]) -> Iterator[Picture]:
    """Draw how far apart the dynamics of one run of each row are, and the angles between what latents span."""
    first = [(row.whole_label, _trials(members[0]), members[0]) for row, members in shown]
    there = [each for each in first if each[1]][:_MOST_ROWS]
    if len(there) < 2:
        return
    names = [label for label, _, _ in there]
    yield from _matrix(
        names,
        _of_pairs(there, _distance),
        "Distance of dynamics",
        "Dynamical similarity analysis (Ostrow et al. 2023) of the latents of one run of each setting on test data: "
        "how far the linear maps that carry a stretch of latents on by one bin are from each other, in the coordinates "
        "in which they are most alike; 0: the same law of motion. Latents that are smoothed alike move alike.",
        lambda value: f"{value:.2f}",
    )
    yield from _matrix(
        names,
        _of_pairs(there, _angle),
        "Angles between latents",
        "Mean principal angle between what the latents of both span over the same test bins: 0°, the smaller set lies "
        "within the larger; 90°, they have nothing in common. No affine map of the latents changes it.",
        lambda value: f"{value:.0f}°",
    )


def _trials(run: SavedRun) -> list[np.ndarray]:
    """Return the latents of each test trial of the first session, on their principal axes; none where they are none."""
    trials = run.trials(next(iter(run.layouts)))
    ends = np.cumsum([len(trial) for trial in trials])
    trials = trials[: int(np.searchsorted(ends, _MOST_BINS)) + 1]
    every = np.concatenate([*trials, np.zeros((0, 0 if not trials else trials[0].shape[1]))])
    if len(every) < 2 or not every.shape[1] or not np.isfinite(every).all():
        return []
    _, axes = np.linalg.eigh(np.cov(every, rowvar=False).reshape(every.shape[1], -1))
    return [trial @ axes[:, ::-1][:, :_MOST_AXES] for trial in trials]


Found = tuple[str, list[np.ndarray], SavedRun]


def _of_pairs(there: Sequence[Found], compare: Callable[[Found, Found], Pair | None]) -> dict[tuple[int, int], Pair]:
    found = {}
    for i, one in enumerate(there):
        for j, other in enumerate(there[:i]):
            try:
                pair = compare(one, other)
            except UserError:  # too short trials, or latents that do not vary
                continue
            if pair is not None:
                found[i, j] = found[j, i] = pair
    return found


def _distance(one: Found, other: Found) -> Pair | None:
    if _bin_s(one) != _bin_s(other):
        return None
    found = dsa(one[1], other[1])
    return found.distance, found.spread


def _angle(one: Found, other: Found) -> Pair | None:
    lengths = [[len(trial) for trial in trials] for _, trials, _ in (one, other)]
    if not one[2].fingerprint or one[2].fingerprint != other[2].fingerprint or lengths[0] != lengths[1]:
        return None
    trial = np.repeat(np.arange(len(lengths[0])), lengths[0])
    found = subspace_angles(np.concatenate(one[1]), np.concatenate(other[1]), trial)
    return float(found.degrees.mean()), None if found.spread is None else float(found.spread.mean())


def _bin_s(found: Found) -> float:
    return next(iter(found[2].layouts.values())).bin_width_s


def _matrix(
    names: Sequence[str], pairs: dict[tuple[int, int], Pair], title: str, caption: str, text: Callable[[float], str]
) -> Iterator[Picture]:
    if not pairs:
        return
    values = np.full((len(names), len(names)), np.nan)
    for place, (value, _) in pairs.items():
        values[place] = value
    texts = [[text(value) for value in row] for row in values]
    spreads = [spread for _, spread in pairs.values() if spread is not None]
    if spreads:
        caption += f" Standard errors over trials are {text(float(np.median(spreads)))} in the median and "
        caption += f"{text(max(spreads))} at most."
    yield picture(
        functools.partial(draw_matrix, values=values, texts=texts, names=names, most=float(np.nanmax(values)) or 1.0),
        title=title,
        caption=caption,
        alt=f"{title}: "
        + "; ".join(f"{names[i]} and {names[j]} {text(value)}" for (i, j), (value, _) in pairs.items() if i > j),
        width=HALF if len(names) <= 4 and not keyed(names) else MAIN,
        height=(0.6 if keyed(names) else 1.4) + 0.45 * len(names),
    )
