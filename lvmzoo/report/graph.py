"""The graph of regions: what survives its null drawn in full, the rest faintly."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lvmzoo.findings import Claim, Findings, Question
from lvmzoo.report.style import CATEGORIES, HALF, INK, MAIN, MUTED, NARROW, Picture, picture
from lvmzoo.sentences import amount, brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

__all__ = ["Edge", "edges", "graph"]

_FAINT = "#8592a0"
_BEND = 0.17  # of two edges between the same regions, so that they do not cover each other
_CHARACTER, _LINE = 0.073, 0.165  # of a label of 8.5 points, in inches; generous
_KEY_LINE = 0.19  # of the legend, in inches
_PLACES = (0.5, 0.42, 0.58, 0.35, 0.65, 0.28, 0.72)  # along an edge, where a label may go
_KEYS = {
    "predicts": "arrow: the first predicts what the second does next",
    "shares": "line: they share activity",
    "follows": "gray arrow: the second follows the first",
    "nothing": "dotted: no evidence",
    "unknown": "dashed: cannot be told",
}


@dataclass
class Edge:
    """What is drawn between two regions."""

    source: str
    target: str
    kind: str  # of _KEYS
    weight: float = 0.0  # of the strongest of its kind; 0 to 1
    label: str = ""
    bend: float = 0.0
    value: float = math.nan

    @property
    def survives(self) -> bool:
        """Whether it is drawn in full."""
        return self.kind not in ("nothing", "unknown")


def edges(regions: Sequence[str], findings: Findings) -> list[Edge]:
    """Return what is drawn between each two regions.

    What survives its null comes in full: an arrow for each direction, a line for shared activity, with their delay
    where there is evidence of one. Of a pair of which nothing survives there is one faint line.
    """
    by_pair: dict[frozenset[str], list[Claim]] = {}
    for claim in findings.claims:
        by_pair.setdefault(frozenset((claim.source, claim.target)), []).append(claim)
    found = []
    for first, second in itertools.combinations(regions, 2):
        claims = by_pair.get(frozenset((first, second)), [])
        between = list(_between(claims))
        _name_delay(between, [c for c in claims if c.question is Question.DELAY and c.evidence])
        found += _bent(between)
    for kind in ("predicts", "shares"):
        values = [abs(edge.value) for edge in found if edge.kind == kind and math.isfinite(edge.value)]
        for edge in found:
            if edge.kind == kind and math.isfinite(edge.value):
                edge.weight = abs(edge.value) / max(max(values), 1e-300)
    return found


def _between(claims: Sequence[Claim]) -> Iterator[Edge]:
    """Give the edges between two regions, without what is said of their delay."""
    shared = [c for c in claims if c.question is Question.COMMUNICATION]
    directed: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        if claim.question is Question.DIRECTION:
            directed.setdefault((claim.source, claim.target), []).append(claim)
    asked = [*([("shares", shared)] if shared else []), *(("predicts", ways) for ways in directed.values())]
    surviving = [(kind, strongest) for kind, group in asked if (strongest := _strongest(group)).evidence]
    for kind, claim in surviving:
        yield Edge(claim.source, claim.target, kind, label=amount(claim.value, digits=2), value=claim.value)
    if not surviving:
        asked = asked or [("shares", [c]) for c in claims if c.question is Question.DELAY]
        known = [_strongest(group).evidence is not None for _, group in asked]
        if known:
            yield Edge(claims[0].source, claims[0].target, "nothing" if any(known) else "unknown")
        return
    for kind, group in asked:  # the way back, of which there is no evidence, or that cannot be told
        claim = _strongest(group)
        if kind == "predicts" and not claim.evidence:
            yield Edge(claim.source, claim.target, "unknown" if claim.evidence is None else "nothing")


def _strongest(claims: Sequence[Claim]) -> Claim:
    """Return the claim that says most: with evidence, of everything rather than of a part, large."""

    def strength(claim: Claim) -> tuple[bool, bool, bool, float]:
        size = abs(claim.value) if math.isfinite(claim.value) else 0.0
        return bool(claim.evidence), claim.evidence is not None, not claim.item, size

    return max(claims, key=strength)


def _name_delay(between: list[Edge], delays: Sequence[Claim]) -> None:
    """Write the delays of which there is evidence on the arrow that points their way, else on the line, else alone."""
    for claim in delays:
        size = amount(abs(claim.value), claim.unit, digits=2)
        leader, follower = (claim.source, claim.target) if claim.value >= 0 else (claim.target, claim.source)
        arrows = [
            e for e in between if e.kind in ("predicts", "follows") and (e.source, e.target) == (leader, follower)
        ]
        lines = [e for e in between if e.kind == "shares"]
        text = size if arrows else f"{follower} after {leader}: {size}"
        if not arrows and not lines:
            between[:] = [edge for edge in between if edge.survives]
            between.append(Edge(leader, follower, "follows", label=size, weight=0.2))
        else:
            edge = (arrows or lines)[0]
            edge.label += f", {text}" if edge.label else text


def _bent(between: list[Edge]) -> list[Edge]:
    """Bend edges between the same two regions apart; each arrow keeps to the left of its way."""
    arrows = [edge for edge in between if edge.kind != "shares"]
    if len(between) > 1:
        for edge in arrows:
            edge.bend = _BEND
    return between


def graph(units: Mapping[str, int], findings: Findings) -> Picture | None:
    """Draw the graph of regions; None where no claim is about two of them."""
    regions = list(units)
    found = edges(regions, findings)
    if not found:
        return None
    kinds = [kind for kind in _KEYS if any(edge.kind == kind for edge in found)]
    height = 1.6 if len(regions) == 2 else 2.9 if len(regions) < 5 else 4.2 if len(regions) < 8 else 5.3
    height += _KEY_LINE * len(kinds)
    unlabeled: list[int] = []

    def draw(figure: Figure) -> None:
        unlabeled.append(_draw(figure, units, found, kinds))

    labeled = any(edge.survives for edge in found)
    said = [brief(claim) for claim in findings.claims if claim.evidence]
    drawn = picture(
        draw,
        title="What survives its null",
        caption="",
        alt=f"Graph of the regions {', '.join(regions)}. {' '.join(said[:12]) or 'Nothing survives its null.'}",
        width=HALF if len(regions) < 5 else MAIN,
        height=height,
        narrow_height=4.4 if len(regions) < 8 else 5.2,
    )
    caption = (
        f"Labels are values{_statistics(findings)}, and delays where there is evidence of one; the wider, the larger. "
        if labeled
        else "Nothing survives its null. "
    )
    if unlabeled[0]:
        one = unlabeled[0] == 1
        caption += f"For {unlabeled[0]} label{'' if one else 's'} there is no room: the table has all values. "
    if any(edge.kind == "nothing" for edge in found):
        caption += "No evidence is not evidence of absence."
    return Picture(drawn.svgs, drawn.title, caption.strip(), drawn.alt, drawn.span)


def _statistics(findings: Findings) -> str:
    """Say what the values at lines and at arrows are."""
    said = []
    for question, thing in ((Question.COMMUNICATION, "lines"), (Question.DIRECTION, "arrows")):
        found = [claim for claim in findings.claims if claim.question is question and claim.evidence]
        names = {f"{claim.statistic}{f' in {claim.unit}' if claim.unit else ''}" for claim in found}
        if len(names) == 1:
            said.append(f"{names.pop()} at {thing}")
    return f" ({', '.join(said)})" if said else ""


def _draw(figure: Figure, units: Mapping[str, int], found: Sequence[Edge], kinds: Sequence[str]) -> int:
    """Draw nodes, edges and their labels; return how many labels had no room."""
    width, height = (float(v) for v in figure.get_size_inches())
    narrow = width <= NARROW
    key = _KEY_LINE * len(kinds) + 0.06
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    names = {region: _short(region, 12 if narrow or len(units) > 6 else 20) for region in units}
    boxes = _places(names, units, width, height, key)
    patches = {region: _node(axes, boxes[region], names[region], units[region]) for region in units}
    taken = [(x, y, half_width, half_height) for x, y, half_width, half_height in boxes.values()]
    missed = 0
    for edge in sorted(found, key=lambda edge: -edge.weight):
        _line(axes, edge, boxes, patches)
        missed += not _label(axes, edge, boxes, taken, width)
    for place, kind in enumerate(kinds):
        axes.text(0.04, key - _KEY_LINE * (place + 1) + 0.04, _KEYS[kind], fontsize=8, color=MUTED)
    return missed


def _short(name: str, most: int) -> str:
    """Return a name in at most two lines of so many characters."""
    lines = textwrap.wrap(name, most, max_lines=2, placeholder="…", break_long_words=True) or [name]
    return "\n".join(lines)


Box = tuple[float, float, float, float]  # middle, half width and half height, in inches


def _places(
    names: Mapping[str, str], units: Mapping[str, int], width: float, height: float, key: float
) -> dict[str, Box]:
    """Place regions on an ellipse: two side by side, else clockwise from the top left."""
    sizes = {}
    for region, name in names.items():
        lines = [*name.split("\n"), _units(units[region])]
        sizes[region] = (0.5 * _CHARACTER * max(map(len, lines)) + 0.12, 0.5 * _LINE * len(lines) + 0.07)
    count = len(names)
    first = np.pi if count == 2 else np.pi / 2 + (np.pi / count if count % 2 == 0 else 0.0)
    across = width / 2 - max(w for w, _ in sizes.values()) - (0.05 if count == 2 else 0.35)
    up = (height - key) / 2 - max(h for _, h in sizes.values()) - 0.12
    across = min(across, 2.0 * up) if count > 2 else across
    angles = first - 2 * np.pi * np.arange(count) / count
    xs, ys = (_filling(v) for v in (np.cos(angles), np.sin(angles)))
    return {
        region: (float(width / 2 + across * x), float(key + (height - key) / 2 + up * y), *size)
        for (region, size), x, y in zip(sizes.items(), xs, ys, strict=True)
    }


def _filling(values: Float[np.ndarray, " region"]) -> Float[np.ndarray, " region"]:
    """Return coordinates from -1 to 1; all in the middle where they are equal."""
    low, high = values.min(), values.max()
    return np.zeros_like(values) if high - low < 1e-9 else 2 * (values - low) / (high - low) - 1


def _units(count: int) -> str:
    return f"{count} unit{'' if count == 1 else 's'}"


def _node(axes: Axes, box: Box, name: str, count: int) -> FancyBboxPatch:
    from matplotlib.patches import FancyBboxPatch

    x, y, half_width, half_height = box
    patch = FancyBboxPatch(
        (x - half_width, y - half_height), 2 * half_width, 2 * half_height,
        boxstyle="round,pad=0,rounding_size=0.09", facecolor="#f5f7f9", edgecolor="#9aa5b1", linewidth=0.8, zorder=3,
    )  # fmt: skip
    axes.add_patch(patch)
    lines = name.count("\n") + 1
    axes.text(
        x, y + 0.5 * _LINE, name, ha="center", va="center", ma="center", weight="bold", zorder=4, linespacing=1.15
    )
    axes.text(x, y - 0.5 * _LINE * lines, _units(count), ha="center", va="center", fontsize=7.5, color=MUTED, zorder=4)
    return patch


def _line(axes: Axes, edge: Edge, boxes: Mapping[str, Box], patches: Mapping[str, FancyBboxPatch]) -> None:
    from matplotlib.patches import FancyArrowPatch

    crowd = 1.0 if len(boxes) < 7 else 0.6
    width = crowd * (1.0 + 3.2 * edge.weight)
    looks: dict[str, dict[str, Any]] = {
        "predicts": {"color": CATEGORIES[0], "linewidth": width},
        "shares": {"color": INK, "linewidth": width},
        "follows": {"color": MUTED, "linewidth": 1.2},
        "nothing": {"color": _FAINT, "linewidth": 1.2 * crowd, "linestyle": (0, (1, 2.2))},
        "unknown": {"color": _FAINT, "linewidth": crowd, "linestyle": (0, (5, 3))},
    }
    ends = boxes[edge.source][:2], boxes[edge.target][:2]
    look = looks[edge.kind] | {"zorder": 2 if edge.survives else 1}
    if edge.kind == "shares" or (not edge.survives and edge.bend == 0):
        axes.plot(*zip(*ends, strict=True), solid_capstyle="butt", **look)  # the boxes cover its ends
        return
    axes.add_patch(
        FancyArrowPatch(
            *ends, arrowstyle="-|>", connectionstyle=f"arc3,rad={-edge.bend}",
            mutation_scale=(9 + 2.2 * width) if edge.survives else 7, joinstyle="miter", capstyle="butt",
            patchA=patches[edge.source], patchB=patches[edge.target], shrinkA=2, shrinkB=2, **look,
        )
    )  # fmt: skip


def _label(axes: Axes, edge: Edge, boxes: Mapping[str, Box], taken: list[Box], width: float) -> bool:
    """Write a label where nothing else is; return whether there was room, or nothing to write."""
    if not edge.label:
        return True
    start, end = np.array(boxes[edge.source][:2]), np.array(boxes[edge.target][:2])
    along = end - start
    control = (start + end) / 2 + edge.bend * np.array([-along[1], along[0]])  # of matplotlib's arc3
    text = "\n".join(textwrap.wrap(edge.label, 26))
    lines = text.split("\n")
    half_width, half_height = 0.5 * _CHARACTER * max(map(len, lines)) + 0.03, 0.5 * _LINE * len(lines) + 0.01
    for t in _PLACES:
        x, y = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        x = min(max(x, half_width), width - half_width)
        if all(abs(x - u) > half_width + w or abs(y - v) > half_height + h for u, v, w, h in taken):
            taken.append((float(x), float(y), half_width, half_height))
            axes.text(
                x, y, text, ha="center", va="center", fontsize=8.5, zorder=5, color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.92},
            )  # fmt: skip
            return True
    return False
