"""A table of what each connection does: numbers about the connections of a model, with their intervals."""

from __future__ import annotations

from collections.abc import Iterator

from lvmzoo.findings import Findings, Profile
from lvmzoo.report.style import Table
from lvmzoo.sentences import amount

__all__ = ["block_tables"]


def block_tables(findings: Findings) -> Iterator[Table]:
    """Return one table, a row for each connection and a column for each number; nothing where there are none."""
    found = {(p.source, p.target, p.statistic): p for p in findings.profiles if p.kind == "block"}
    statistics = list(dict.fromkeys(statistic for *_, statistic in found))
    edges = list(dict.fromkeys((source, target) for source, target, _ in found))
    if not found:
        return
    yield Table(
        "What does each connection do? Over all its lags, with 95 % intervals",
        ["Connection", *(f"{text[:1].upper()}{text[1:]}" for text in statistics)],
        [
            [f"{source} \N{RIGHTWARDS ARROW} {target}", *(_cell(found.get((source, target, s))) for s in statistics)]
            for source, target in edges
        ],
        note="After the slash: the 95th percentile by chance.",
        folded=True,
    )


def _cell(profile: Profile | None) -> str:
    if profile is None:
        return ""
    text = amount(float(profile.value[0]))
    if profile.low is not None and profile.high is not None:
        text += f" ({amount(float(profile.low[0]))} to {amount(float(profile.high[0]))})"
    return text if profile.null is None else f"{text} / {amount(float(profile.null[0]))}"
