"""How every figure of a report looks, and how it becomes a piece of the page."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

__all__ = [
    "HALF", "INK", "MUTED", "PARTS", "PREDICTED", "RECORDED", "THIRD", "Picture", "Statements", "Table", "palette",
    "picture",
]  # fmt: skip

INK, MUTED, HAIRLINE = "#1c2733", "#5f6b78", "#d5dbe1"
RECORDED, PREDICTED = "#8592a0", "#c2532d"  # what was measured recedes, what the model says stands out
PARTS = {"train": "#3d5a80", "validation": "#d9a441", "test": "#2a9d8f"}
CATEGORIES = ("#24709c", "#d1603d", "#5a9a52", "#8a5ea8", "#d9a441", "#b0446e", "#3aa6a0", "#7d6b57")

THIRD, HALF, MAIN, WIDE = 3.2, 4.8, 6.5, 9.9  # widths in inches: a third, a half, two thirds, all of the page
NARROW = 3.9  # width in inches of the second drawing of a wide figure, for telephones
PIXELS_PER_POINT = 1.62  # at most, on the page: text of equal size in every figure

_STYLE: dict[str, Any] = {
    "axes.edgecolor": "#9aa5b1",
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlepad": 7,
    "axes.xmargin": 0.02,
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.useoffset": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.3,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "lvmzoo",  # the same figure gives the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a session or unit named "$x" is not mathematics
    "xtick.color": "#9aa5b1",
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "xtick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.color": "#9aa5b1",
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8,
    "ytick.major.size": 3,
    "ytick.major.width": 0.7,
}


@dataclass(frozen=True)
class Picture:
    """A figure on the page: the same drawing for wide and, where it spans the page, for narrow screens."""

    svgs: tuple[str, ...]
    title: str
    caption: str
    alt: str
    span: str  # "third", "half", "main" or "wide"


@dataclass(frozen=True)
class Table:
    """A small table on the page; all but its first column are numbers."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    folded: bool = False  # shown on a click


@dataclass(frozen=True)
class Statements:
    """Sentences under a heading, each after a word that says how it stands."""

    heading: str
    lines: tuple[tuple[str, str], ...]
    note: str = ""


def picture(
    draw: Callable[[Figure], None],
    *,
    title: str,
    caption: str,
    alt: str,
    width: float = HALF,
    height: float = 3.4,
    narrow_height: float | None = None,
) -> Picture:
    """Draw a figure into the report's style.

    ``draw`` fills an empty matplotlib figure of ``width`` x ``height`` inches. Figures wider than half the page are
    drawn a second time for telephones, ``narrow_height`` inches high, so that their text stays readable.
    """
    sizes = [(width, height)] if width <= HALF else [(width, height), (NARROW, narrow_height or height)]
    span = {THIRD: "third", HALF: "half", MAIN: "main", WIDE: "wide"}[width]
    return Picture(tuple(_svg(draw, size) for size in sizes), title, caption, alt, span)


def _svg(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Return a figure as an SVG element whose ids no other figure of the page has."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):  # type: ignore[arg-type, unused-ignore] # its stubs want a literal of every name
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", dpi=170, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = f"f{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}-"
    text = re.sub(r'(?<=[ \n])id="', f'id="{prefix}', text)
    text = re.sub(r'((?:xlink:)?href=")#|(url\()#', lambda match: f"{match[1] or match[2]}#{prefix}", text)
    limit = round(size[0] * 72 * PIXELS_PER_POINT)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)  # the page decides, from the viewBox
    return text.replace("<svg", f'<svg aria-hidden="true" focusable="false" style="max-width:{limit}px"', 1)


def hue_circle(count: int = 256) -> Float[np.ndarray, "color rgb"]:
    """Return colors once around the hue circle, of nearly equal lightness (OKLCH, L 0.66, C 0.13)."""
    hue = np.linspace(0, 2 * np.pi, count, endpoint=False) + 0.5
    lightness, a, b = np.full(count, 0.66), 0.13 * np.cos(hue), 0.13 * np.sin(hue)
    # OKLab to linear sRGB: https://bottosson.github.io/posts/oklab/
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    matrix = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(matrix @ cones**3, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T


def circular_map() -> ListedColormap:
    """Return the color map of angles: it ends where it begins."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(hue_circle(), name="angle")


def value_map() -> ListedColormap:
    """Return the color map of values: viridis without its palest end, which is lost on white."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    return ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.92, 256)), name="value")


def heat_map() -> Any:
    """Return the color map of heat maps: white for nothing."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", ["#ffffff", "#cfe0ea", "#7fb0c9", "#2f7299", "#14344f"])


def palette(count: int) -> list[Any]:
    """Return one color a category; more than eight go around the hue circle."""
    if count <= len(CATEGORIES):
        return list(CATEGORIES[:count])
    return [tuple(color) for color in hue_circle(count)]


def scale_bar(axes: Axes, label: str, values: tuple[float, float], cmap: Any, *, circular: bool) -> None:
    """Draw the key of a color map beside an axes: a ring for angles, else a thin bar."""
    if not circular:
        import matplotlib as mpl

        low, high = values
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(low, high if high > low else low + 1), cmap)
        bar = axes.figure.colorbar(scale, ax=axes, shrink=0.6, aspect=28, pad=0.03)
        bar.outline.set_visible(False)  # type: ignore[operator] # missing in matplotlib's stubs
        bar.set_label(label)
        bar.solids.set_rasterized(True)  # type: ignore[union-attr] # never None here
        return
    key = axes.inset_axes((1.06, 0.79, 0.19, 0.19), projection="polar")
    angles = np.linspace(0, 2 * np.pi, 97)
    key.pcolormesh(angles, [0.62, 1.0], angles[None, :-1] + angles[1] / 2, cmap=cmap, rasterized=True)
    key.set_ylim(0, 1)
    key.set_yticks([])
    key.set_xticks(np.arange(4) * np.pi / 2, ["0°", "90°", "180°", "270°"], fontsize=6.5)
    key.tick_params(pad=-4)
    key.grid(False)
    key.spines["polar"].set_visible(False)
