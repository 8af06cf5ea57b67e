"""What a model says of the regions of a simulation, beside what is true."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np

from lvmzoo.findings import DIRECTLY, Claim, Question
from lvmzoo.metrics.base import Evaluation, Score
from lvmzoo.models.base import Connects

__all__ = ["Connections"]

Pair = tuple[str, str]
COLUMNS = ("source", "target", "delay_s", "dimensions")


@dataclass(frozen=True)
class _Edge:
    delay_s: float
    dimensions: int


class Connections:
    """Whether claims about regions agree with the true connections of a simulation, for each question that is answered.

    ``communication_correct`` is the share of pairs of which it is rightly said that they share activity, or that there
    is no evidence of it: pairs share activity where one drives the other, by way of others too, or a third drives both,
    whether that one is among the data or not. Of claims that regions communicate directly, one drives the other.
    ``direction_correct`` is the share of ordered pairs of which it is rightly said that the first drives the second, or
    that there is no evidence of it. Pairs that cannot be told, or of which nothing is said, count as wrong.
    ``edges_found`` is the share of the true connections that are claimed; ``edges_invented`` is the number of those
    claimed that are not there, indirect ones (A -> C where A -> B -> C) among them. ``delay_found`` is the share of
    connections for which there is evidence of a delay in the true sense; ``delay_error`` (ms) and ``dimensions_error``
    are medians over the connections of how far the value claimed is from the truth, whether there is evidence or not
    (of several latents with delays of their own, those with evidence where there are any).
    ``n`` counts the pairs, or the connections, behind the value; the spread is the standard error over them.
    """

    name, needs = "connections", Connects

    def __call__(self, evaluation: Evaluation) -> list[Score]:
        """Return a row for each question that the model answers; none where the truth is not known."""
        connections = evaluation.session.connections
        if connections is None or not len(evaluation.bins("test")):  # nothing is evaluated
            return []
        regions = list(evaluation.layout.units)
        every = {
            (source, target): _Edge(float(delay_s), int(dimensions))
            for source, target, delay_s, dimensions in connections[list(COLUMNS)].to_numpy().tolist()
        }
        edges = {pair: edge for pair, edge in every.items() if set(pair) <= set(regions)}
        claims = evaluation.findings().claims
        session = evaluation.layout.session
        return [
            *_communication(_of(claims, Question.COMMUNICATION), regions, every, session),
            *_direction(_of(claims, Question.DIRECTION), regions, edges, every, session),
            *_delay(_of(claims, Question.DELAY), edges, session),
            *_dimensions(_of(claims, Question.DIMENSIONS), edges, session),
        ]


def _of(claims: Sequence[Claim], question: Question) -> list[Claim]:
    return [claim for claim in claims if claim.question is question]


def _communication(
    claims: Sequence[Claim], regions: Sequence[str], every: Collection[Pair], session: str
) -> Iterator[Score]:
    if not claims:
        return
    origins = {*regions, *(source for source, _ in every)}  # a region that was not recorded drives others, too
    reached = {region: _reached(region, every) for region in origins}
    right: list[bool] = []
    wrong: list[str] = []
    for first, second in combinations(regions, 2):
        told = [c for c in claims if {c.source, c.target} == {first, second}]
        direct = bool({(first, second), (second, first)} & set(every))
        directly = bool(told) and all(c.item == DIRECTLY for c in told)
        truth = direct if directly else any({first, second} <= found for found in reached.values())
        said = _evidence(told)
        right.append(said is truth)
        if said is not truth:
            wrong.append(f"{first} and {second} {_WRONG[said]}")
    yield _share("communication_correct", right, session, ", ".join(wrong))


def _direction(
    claims: Sequence[Claim], regions: Sequence[str], edges: Collection[Pair], every: Collection[Pair], session: str
) -> Iterator[Score]:
    if not claims:
        return
    said = {pair: _evidence([c for c in claims if (c.source, c.target) == pair]) for pair in permutations(regions, 2)}
    wrong = {pair: evidence for pair, evidence in said.items() if evidence is not (pair in edges)}
    yield _share(
        "direction_correct",
        [pair not in wrong for pair in said],
        session,
        ", ".join(f"{_arrow(pair)} {_WRONG[evidence]}" for pair, evidence in wrong.items()),
    )
    if edges:
        found = [said[pair] is True for pair in edges]
        missed = ", ".join(_arrow(pair) for pair in edges if said[pair] is not True)
        yield _share("edges_found", found, session, f"{missed} missed" if missed else "")
    absent = [pair for pair in said if pair not in edges]
    invented = [pair for pair in absent if said[pair]]
    indirect = {pair: " (indirect)" if pair[1] in _reached(pair[0], every) else "" for pair in invented}
    if absent:
        yield Score(
            "edges_invented",
            float(len(invented)),
            session,
            better="lower",
            spread=0.0,
            n=len(absent),
            note=", ".join(f"{_arrow(pair)}{indirect[pair]}" for pair in invented),
        )


def _delay(claims: Sequence[Claim], edges: dict[Pair, _Edge], session: str) -> Iterator[Score]:
    errors: list[float] = []
    found: list[bool] = []
    missed: list[str] = []
    claims = [claim for claim in claims if any(_about(claim, pair) for pair in edges)]
    if not claims:
        return
    for pair, edge in edges.items():
        # A claim about the pair the other way round has the opposite sign.
        own = [(c, c.value if (c.source, c.target) == pair else -c.value) for c in claims if _about(c, pair)]
        finite = [value for claim, value in own if np.isfinite(value) and claim.evidence]
        finite = finite or [value for _, value in own if np.isfinite(value)]
        if finite:
            errors.append(float(np.median([abs(value - 1000 * edge.delay_s) for value in finite])))
        found.append(any(claim.evidence is True and value * edge.delay_s > 0 for claim, value in own))
        if not found[-1]:
            missed.append(_arrow(pair))
    if errors:
        yield _median("delay_error", errors, session, "ms")
    yield _share("delay_found", found, session, f"{', '.join(missed)} missed" if missed else "")


def _dimensions(claims: Sequence[Claim], edges: dict[Pair, _Edge], session: str) -> Iterator[Score]:
    errors: list[float] = []
    said: list[str] = []
    for pair, edge in edges.items():
        about = [c for c in claims if (c.source, c.target) == pair] or [c for c in claims if _about(c, pair)]
        values = [c.value for c in about if np.isfinite(c.value)]
        if values:
            errors.append(float(np.median([abs(value - edge.dimensions) for value in values])))
            said.append(f"{_arrow(pair)} {np.median(values):g} of {edge.dimensions}")
    if errors:
        yield _median("dimensions_error", errors, session, note=", ".join(said))


_WRONG = {True: "invented", False: "missed", None: "not told"}


def _evidence(claims: Sequence[Claim]) -> bool | None:
    """Return what claims say together: that there is evidence if one does, that there is none if all do."""
    if any(claim.evidence for claim in claims):
        return True
    return False if claims and all(claim.evidence is False for claim in claims) else None


def _about(claim: Claim, pair: Pair) -> bool:
    return {claim.source, claim.target} == set(pair)


def _reached(origin: str, edges: Collection[Pair]) -> set[str]:
    """Return a region and all that it drives, by way of others too."""
    found, frontier = {origin}, {origin}
    while frontier:
        frontier = {target for source, target in edges if source in frontier} - found
        found |= frontier
    return found


def _arrow(pair: Pair) -> str:
    return f"{pair[0]} \N{RIGHTWARDS ARROW} {pair[1]}"


def _share(metric: str, right: Sequence[bool], session: str, note: str = "") -> Score:
    return Score(
        metric, float(np.mean(right)), session, spread=_error([float(one) for one in right]), n=len(right), note=note
    )


def _median(metric: str, errors: Sequence[float], session: str, unit: str = "", note: str = "") -> Score:
    value = float(np.median(errors))
    return Score(metric, value, session, unit=unit, better="lower", spread=_error(errors), n=len(errors), note=note)


def _error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0 of a single value."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
