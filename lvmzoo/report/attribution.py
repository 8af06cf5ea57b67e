"""Figures of which units carry which behavior variable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lvmzoo.metrics.attribution import unit_attribution
from lvmzoo.report.style import MUTED, WIDE, Picture, palette, picture
from lvmzoo.report.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attribution_figures"]

_MOST_VARIABLES, _MOST_UNITS = 3, 30


def attribution_figures(view: View) -> Iterator[Picture | str]:
    """Draw the units that carry each variable most, and how many units carry it."""
    yield (
        "How much of each behavior variable each unit carries: the pseudo-inverse of the Jacobian of its linear "
        "readout by the standardized activity, in the mean over training bins. What a unit carries, others may as well."
    )
    for name, shares in list(unit_attribution(view.evaluation).items())[:_MOST_VARIABLES]:
        yield _ranked(view, name, shares)


def _ranked(view: View, name: str, shares: Float[np.ndarray, " unit"]) -> Picture:
    order = np.argsort(-shares)
    order = order[shares[order] > 0]
    top = order[:_MOST_UNITS]
    regions = list(view.layout.units)
    colors = dict(zip(regions, palette(len(regions)), strict=True))
    ids = [str(view.layout.unit_ids[unit]) for unit in top]
    half = 1 + int(np.searchsorted(np.cumsum(shares[order]), 0.5))

    def draw(figure: Figure) -> None:
        bars, curve = figure.subplots(1, 2, width_ratios=(2.6, 1))
        bars.bar(np.arange(len(top)), 100 * shares[top], color=[colors[view.regions[unit]] for unit in top])
        bars.axhline(100 / len(order), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        bars.set_xticks(np.arange(len(top)), ids, rotation=90, fontsize=6.5)
        bars.set_xlabel("unit")
        bars.set_ylabel("share (%)")
        bars.margins(x=0.01)
        curve.plot(np.arange(len(order) + 1), 100 * np.concatenate([[0], np.cumsum(shares[order])]), color="#24709c")
        curve.plot([0, len(order)], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        curve.set_xlabel("strongest units")
        curve.set_ylabel("together (%)")
        curve.set_ylim(0, 101)
        curve.margins(x=0)
        if len(regions) > 1:
            from matplotlib.patches import Patch

            handles = [Patch(color=color) for color in colors.values()]
            figure.legend(handles, regions, loc="outside upper left", ncols=min(6, len(regions)))

    readable = name.replace("_", " ")
    which = f"The {len(top)} strongest of {len(order)} units" if len(top) < len(order) else "Units"
    return picture(
        draw,
        title=f"Units that carry {readable}",
        caption=f"{which}, ranked, and what the strongest carry together: {half} of {len(order)} units carry half. "
        "Dashed: if all carried as much.",
        alt=f"Ranked bars of how much of {readable} units carry; {half} of {len(order)} carry half.",
        width=WIDE,
        height=3.0,
        narrow_height=3.2,
    )
