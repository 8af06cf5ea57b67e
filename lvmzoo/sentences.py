"""Claims about regions in plain words: one sentence each, and together by question, evidence first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lvmzoo.findings import DIRECTLY, Claim, Question

__all__ = ["CAUTION", "Answers", "amount", "answers", "brief", "duration", "p_value", "pair", "sentence", "verdict"]

CAUTION = (
    "Direction is precedence, not cause: an unobserved region that drives both, or bins wider than the delay, can look "
    "the same."
)
HEADINGS: Mapping[Question, str] = {
    Question.COMMUNICATION: "Which regions share activity?",
    Question.DIRECTION: "Which region predicts the other?",
    Question.DELAY: "Who follows whom, and by how much?",
    Question.DIMENSIONS: "Through how many dimensions?",
}
VERDICTS = ("evidence", "estimate", "no evidence", "cannot be told")  # in the order in which they are shown
_MOST_STRONG, _MOST_WEAK = 8, 3  # claims with and without evidence that get a sentence each; others share one
_SHORT = 45  # characters of a statistic that is named before its value
_MOST_LISTED = 10  # claims without evidence that are named

_WEAK: Mapping[tuple[Question, str], str] = {
    (Question.COMMUNICATION, "no evidence"): "No evidence that these share activity",
    (Question.COMMUNICATION, "cannot be told"): "Whether these share activity cannot be told",
    (Question.DIRECTION, "no evidence"): "No evidence that the first predicts what the second does next",
    (Question.DIRECTION, "cannot be told"): "Whether the first predicts what the second does next cannot be told",
    (Question.DELAY, "no evidence"): "No evidence of a delay between these",
    (Question.DELAY, "cannot be told"): "A delay between these cannot be told",
    (Question.DIMENSIONS, "no evidence"): "No evidence of a shared dimension between these",
    (Question.DIMENSIONS, "cannot be told"): "The number of dimensions between these cannot be told",
}


@dataclass(frozen=True)
class Answers:
    """What was found about one question: a word on how it stands and a sentence, for each claim or for many at once."""

    question: Question
    lines: tuple[tuple[str, str], ...]
    note: str  # what is true of all of them: which null, which interval

    @property
    def heading(self) -> str:
        """The question as one would ask it."""
        return HEADINGS[self.question]


def answers(claims: Sequence[Claim]) -> list[Answers]:
    """Return claims by question, evidence first and of it the strongest; notes that all of them share are said once."""
    found = []
    for question in Question:
        asked = [claim for claim in claims if claim.question is question]
        if not asked:
            continue
        shared = _common([claim for claim in asked if verdict(claim) != "cannot be told"])
        lines: list[tuple[str, str]] = []
        for word in VERDICTS:
            group = [claim for claim in asked if verdict(claim) == word]
            if word == "evidence" and question in (Question.COMMUNICATION, Question.DIRECTION):
                group.sort(key=lambda claim: -abs(claim.value))
            lines += [(word, text) for text in _together(group, word, shared)]
        found.append(Answers(question, tuple(lines), _tail("; ".join(shared)).strip()))
    return found


def sentence(claim: Claim) -> str:
    """Return a claim in plain words, with its note."""
    return f"{brief(claim)}{_tail(claim.note)}"


def brief(claim: Claim) -> str:
    """Return a claim in plain words, without its note."""
    return f"{_SENTENCES[claim.question](claim)}."


def verdict(claim: Claim) -> str:
    """Return in a word or three how a claim stands."""
    if claim.question is Question.DIMENSIONS and claim.evidence is not False and math.isfinite(claim.value):
        return "estimate"  # a number, whatever says that it is not zero
    if claim.evidence is not None:
        return "evidence" if claim.evidence else "no evidence"
    return "cannot be told"


def pair(claim: Claim) -> str:
    """Return the two regions of a claim, with the latent where there are several."""
    item = f" ({claim.item})" if claim.item else ""
    if claim.question is Question.DIRECTION:
        return f"{claim.source} \N{RIGHTWARDS ARROW} {claim.target}{item}"
    if claim.question is Question.DIMENSIONS:
        return f"{claim.source} to {claim.target}{item}"
    return f"{claim.source} and {claim.target}{item}"


def amount(value: float, unit: str = "", digits: int = 3) -> str:
    """Return a number of so many digits with its unit, and a real minus."""
    if not math.isfinite(value):
        return "not known"
    text = f"{value:.{digits}g}" if abs(value) < 10**digits / 10 else f"{value:.0f}"
    return text.replace("-", "\N{MINUS SIGN}") + (f" {unit}" if unit else "")


def p_value(p: float) -> str:
    """Return a p value as people write it."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _clauses(claim: Claim) -> dict[str, None]:
    """Return the parts of a note, which semicolons separate."""
    return dict.fromkeys(claim.note.rstrip(".").split("; ")) if claim.note else {}


def _common(claims: Sequence[Claim]) -> dict[str, None]:
    """Return the parts that the notes of all claims have, in their order."""
    notes = [_clauses(claim) for claim in claims]
    return {clause: None for clause in (notes[0] if notes else {}) if all(clause in note for note in notes)}


def _together(claims: Sequence[Claim], word: str, shared: Mapping[str, None]) -> list[str]:
    """Return a sentence for each claim, and one for all that would be too many; without what is said of all of them."""
    strong = word in ("evidence", "estimate")
    single = claims[: _MOST_STRONG if strong else _MOST_WEAK]
    if strong or len(single) == len(claims):
        sentences = [f"{brief(claim)}{_noted(_clauses(claim), shared)}" for claim in single]
        rest = "; ".join(f"{pair(c)} {amount(c.value, c.unit)}" for c in claims[len(single) :])
        return [*sentences, f"The same is said of {rest}."] if rest else sentences
    ps = [claim.p for claim in claims if claim.p is not None]
    smallest = f" (smallest {p_value(min(ps))})" if ps else ""
    named = len(claims) <= _MOST_LISTED
    listed = "; ".join(map(pair, claims)) if named else f"{len(claims)} pairs that claims.csv names"
    return [f"{_WEAK[claims[0].question, word]}: {listed}{smallest}.{_noted(_common(claims), shared)}"]


def _noted(clauses: Mapping[str, None], said: Mapping[str, None]) -> str:
    return _tail("; ".join(clause for clause in clauses if clause not in said))


def _tail(note: str) -> str:
    """Return a note as a sentence; one that begins with the letter p means the p value."""
    start = note[:1] if note[:2] in ("p:", "p ") else note[:1].upper()
    return f" {start}{note[1:].rstrip('.')}." if note else ""


def _range(low: float, high: float) -> str:
    return f"{amount(low)} to {amount(high)}"


def _support(claim: Claim, interval: tuple[float, float] | None, null: bool = True) -> str:
    """Interval, null and p in brackets."""
    parts = []
    if interval is not None:
        parts.append(f"95 % interval {_range(*interval)}")
    if null and claim.null is not None:
        most = claim.null[1]
        parts.append(f"by chance {'up to' if most >= 0 else 'below zero,'} {amount(most)}")
    if claim.p is not None:
        parts.append(p_value(claim.p))
    return f" ({'; '.join(parts)})" if parts else ""


def _measured(claim: Claim) -> str:
    """Return what was measured, after a colon; nothing where there is no value."""
    if not math.isfinite(claim.value):
        return ""
    latent = claim.item.startswith("latent")
    what = f"{claim.statistic} of {claim.item}" if latent else claim.statistic
    beyond = f" {claim.item}" if claim.item and not latent and claim.item != DIRECTLY else ""
    value, support = f"{amount(claim.value, claim.unit)}{beyond}", f"{_support(claim, claim.interval)}{_control(claim)}"
    return f": {what} {value}{support}" if len(claim.statistic) <= _SHORT else f": {value}{support}, the {what}"


def _control(claim: Claim) -> str:
    if claim.control is None:
        return ""
    spread = f" ({_range(*claim.control_interval)})" if claim.control_interval is not None else ""
    return f"; within a region {amount(claim.control, claim.unit)}{spread}"


def _communication(claim: Claim) -> str:
    directly = f" {DIRECTLY}" if claim.item == DIRECTLY else ""
    what = f"{claim.source} and {claim.target} share activity{directly}"
    return f"{_start(claim, what)}{_measured(claim)}"


def _direction(claim: Claim) -> str:
    what = f"{claim.source} predicts what {claim.target} does next"
    return f"{_start(claim, what)}{_measured(claim)}"


def _start(claim: Claim, what: str) -> str:
    if claim.evidence is None:
        return f"Whether {what} cannot be told"
    return what if claim.evidence else f"No evidence that {what}"


def _delay(claim: Claim) -> str:
    between = f"between {claim.source} and {claim.target}"
    if claim.evidence is None:
        return f"A delay {between} cannot be told{_measured(claim)}"
    if not claim.evidence:
        return f"No evidence of a delay {between}{_measured(claim)}"
    first, second, interval = claim.source, claim.target, claim.interval
    if claim.value < 0:  # told the other way round, with its interval
        first, second = second, first
        interval = None if interval is None else (-interval[1], -interval[0])
    item = f" in {claim.item}" if claim.item else ""
    size = amount(abs(claim.value), claim.unit)
    return f"{second} follows {first} by {size}{item}{_support(claim, interval, null=False)}"


def _dimensions(claim: Claim) -> str:
    if not math.isfinite(claim.value):
        between = f"between {claim.source} and {claim.target}"
        if claim.evidence is False:
            return f"No evidence of a shared dimension {between}"
        return f"The number of dimensions {between} cannot be told"
    text = f"{claim.source} to {claim.target}: {claim.value:g} dimension{'s' * (claim.value != 1)}, {claim.statistic}"
    if claim.interval is not None:
        text += f" (95 % of resamples: {_range(*claim.interval)})"
    return f"{text}{_control(claim)}"


_SENTENCES: Mapping[Question, Callable[[Claim], str]] = {
    Question.COMMUNICATION: _communication,
    Question.DIRECTION: _direction,
    Question.DELAY: _delay,
    Question.DIMENSIONS: _dimensions,
}


def duration(seconds: float) -> str:
    """Return a duration in the unit that people would choose."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"
