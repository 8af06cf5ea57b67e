"""What a model says of the regions of a session: the graph, a sentence for each claim, delays, and a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lvmzoo.findings import Claim, Findings, Question
from lvmzoo.report.blocks import block_tables
from lvmzoo.report.graph import graph
from lvmzoo.report.style import CATEGORIES, HAIRLINE, HALF, INK, MUTED, THIRD, Picture, Statements, Table, picture
from lvmzoo.sentences import CAUTION, HEADINGS, amount, answers, pair, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["connection_figures"]

_MOST_DELAYS = 24  # rows of the figure of delays
_GAIN = (
    "The mean course of each condition was subtracted; gain that both regions share and that varies from trial to "
    "trial is still in the data, and can look like communication."
)


def connection_figures(
    units: Mapping[str, int], findings: Findings, residuals: bool = False
) -> Iterator[str | Picture | Statements | Table]:
    """Draw the graph and the delays, and give every claim as a sentence and as a row of a table.

    Parameters
    ----------
    units : number of units of each region.
    findings : about these regions.
    residuals : whether the model subtracted the mean course of each condition.
    """
    claims = findings.claims
    if not claims:
        yield "The model makes no claim about the regions of this session."
        return
    yield (
        "Of the training trials. Evidence means that a value is beyond its null, which is what chance alone gives, at "
        "the 5\u00a0% level, corrected for all that was looked at. No evidence is an answer, too, and so is that the "
        "data are too few to tell."
    )
    drawn = graph(units, findings)
    if drawn is not None:
        yield drawn
    delays = [c for c in claims if c.question is Question.DELAY and math.isfinite(c.value)]
    if delays:
        yield _delays(delays, HALF if len(units) < 5 else THIRD)
    for answer in answers(claims):
        cautions = [answer.note] if answer.note else []
        if answer.question is Question.DIRECTION:
            cautions.append(CAUTION)
        if answer.question is Question.COMMUNICATION and residuals:
            cautions.append(_GAIN)
        yield Statements(answer.heading, answer.lines, " ".join(cautions))
    for question in Question:
        asked = [claim for claim in claims if claim.question is question]
        if asked:
            yield _table(question, asked)
    yield from block_tables(findings)


def _delays(claims: Sequence[Claim], width: float) -> Picture:
    """Draw delays with their intervals around zero."""
    ordered = sorted(claims, key=lambda claim: not claim.evidence)[:_MOST_DELAYS]
    unit = ordered[0].unit or "ms"
    known = [v for claim in ordered for v in (claim.value, *(claim.interval or ())) if math.isfinite(v)]
    low, high = min(0.0, *known), max(0.0, *known)
    room = 0.06 * max(high - low, 1e-9)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
        for row, claim in enumerate(ordered):
            color = CATEGORIES[0] if claim.evidence else MUTED
            if claim.interval is not None and np.isfinite(claim.interval).all():
                axes.plot(claim.interval, [row, row], color=color, linewidth=1.6)
            face = color if claim.evidence else "white"
            axes.plot(claim.value, row, "o", color=color, markerfacecolor=face, markersize=6, zorder=3)
        for row in range(len(ordered)):
            axes.axhline(row, color=HAIRLINE, linewidth=0.5, zorder=0)
        axes.set_yticks(range(len(ordered)), [_row(claim, shortened=True) for claim in ordered])
        axes.set(ylim=(len(ordered) - 0.4, -0.6), xlim=(low - room, high + room), xlabel=f"delay ({unit})")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    first = ordered[0]
    cut = f" The {_MOST_DELAYS} of {len(claims)} with most evidence." if len(claims) > _MOST_DELAYS else ""
    others = "; the other rows alike" if len(ordered) > 1 else ""
    values = "; ".join(f"{_row(c)} {amount(c.value, unit)} ({_both(c.interval, ' to ')})" for c in ordered)
    return picture(
        draw,
        title="Delays",
        caption=f"With 95 % intervals; filled where there is evidence of a delay, open where not. Right of zero "
        f"{first.target} follows {first.source}, left of it {first.source} follows {first.target}{others}.{cut}",
        alt=f"Delays with 95 % intervals: {values}.",
        width=width,
        height=1.0 + 0.3 * len(ordered),
    )


def _row(claim: Claim, shortened: bool = False) -> str:
    names = [f"{name[:11]}…" if shortened and len(name) > 12 else name for name in (claim.target, claim.source)]
    item = f", {claim.item}" if claim.item else ""
    return f"{names[0]} after {names[1]}{item}"


def _table(question: Question, claims: Sequence[Claim]) -> Table:
    """Return all claims about a question with everything that stands behind them."""
    controlled = any(claim.control is not None for claim in claims)
    statistics = {claim.statistic for claim in claims}
    header = ["Regions", "Value", "95 % interval", "Chance: median, 95th percentile", "p", "Verdict"]
    rows = []
    for claim in claims:
        name = _row(claim) if question is Question.DELAY else pair(claim)
        name = name if len(statistics) == 1 else f"{name}: {claim.statistic}"
        row = [
            name,
            amount(claim.value, claim.unit),
            _both(claim.interval, " to "),
            _both(claim.null, ", "),
            "" if claim.p is None else f"{claim.p:.2g}",
            verdict(claim),
        ]
        if controlled:
            within = "" if claim.control is None else amount(claim.control, claim.unit)
            spread = f" ({_both(claim.control_interval, ' to ')})" if claim.control_interval is not None else ""
            row.insert(3, within + spread)
        rows.append(row)
    if controlled:
        header.insert(3, "Within a region")
    empty = [place for place in range(2, len(header)) if not any(row[place] for row in rows)]
    keep = [place for place in range(len(header)) if place not in empty]
    statistic = statistics.pop() if len(statistics) == 1 else ""
    return Table(
        f"{HEADINGS[question]} {statistic[:1].upper()}{statistic[1:]}".strip(),
        [header[place] for place in keep],
        [[row[place] for place in keep] for row in rows],
        folded=True,
    )


def _both(values: tuple[float, float] | None, between: str) -> str:
    return "" if values is None else f"{amount(values[0])}{between}{amount(values[1])}"
