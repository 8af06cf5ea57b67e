"""A matrix of what every two settings have in common, with names that have room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lvmzoo.report.style import INK, heat_map
from lvmzoo.sweep_table import in_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LONG", "draw_matrix", "keyed"]

LONG = 12  # characters of a name that still fits below a column
_LINE, _LINES = (28, 15), 3  # characters in a line beside a row, on wide and narrow screens, and lines at most
_NARROW = 4.5  # inches
_CHARACTER = 0.058  # inches that a digit of the numbers in the cells takes


def keyed(names: Sequence[str]) -> bool:
    """Return whether names are so long, or so many, that rows are numbered and columns have the numbers alone."""
    return max(map(len, names)) > LONG or len(names) > 6


def draw_matrix(
    figure: Figure,
    values: Float[np.ndarray, "row row"],
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    most: float,
) -> None:
    """Draw a square matrix.

    Parameters
    ----------
    figure : an empty one.
    values : between 0 and ``most``, by which cells are colored; NaN where there is none.
    texts : what stands in each cell.
    names : of the rows, which are those of the columns.
    most : the largest value of the colors.
    """
    axes, numbered, size = figure.subplots(), keyed(names), len(names)
    axes.imshow(np.clip(values, 0, most), vmin=0, vmax=most, cmap=heat_map(), aspect="auto" if numbered else "equal")
    line = _LINE[int(figure.get_figwidth() < _NARROW)]
    shown = [_wrapped(f"{i + 1} {name}" if numbered else name, line) for i, name in enumerate(names)]
    taken = 0.075 * max(len(line) for name in shown for line in name.split("\n"))
    widest = max(len(line) for row in texts for text in row for line in text.split("\n"))
    fits = 8.5 * (figure.get_figwidth() - taken - 0.3) / size / (_CHARACTER * 1.25 * max(widest, 1))
    for i, j in np.argwhere(np.isfinite(values)):
        color = "w" if values[i, j] > 0.6 * most else INK
        axes.text(j, i, texts[i][j], ha="center", va="center", color=color, fontsize=min(8.5, max(4.5, fits)))
    if numbered:
        axes.set_xticks(range(size), [str(i + 1) for i in range(size)])
    else:
        axes.set_xticks(range(size), names, rotation=35, ha="right")
    axes.set_yticks(range(size), shown, ma="right")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _wrapped(name: str, width: int) -> str:
    lines = in_lines(name, width).split("\n")
    return "\n".join([*lines[: _LINES - 1], lines[_LINES - 1] + " …"] if len(lines) > _LINES else lines)
