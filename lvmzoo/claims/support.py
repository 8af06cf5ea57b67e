"""How sure a measured value is: its null, its interval, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.claims.nulls import interval, null_summary, p_value
from lvmzoo.findings import Claim, Question

__all__ = ["LEVEL", "WIDER", "Measured", "Questions", "claimed", "corrected", "judged", "largest_of_all", "too_few"]

LEVEL = 0.05  # of tests
WIDER = "chance: the source is independent of all others, which is more than is asked: the interval must exclude zero"


@dataclass(frozen=True)
class Questions:
    """What is asked, and how often chance is tried."""

    history: int
    permutations: int
    resamples: int
    control: str | None


@dataclass
class Measured:
    """A value, the same under the null, and the same of resamples."""

    value: float
    null: list[float] = field(default_factory=list)
    resamples: list[float] = field(default_factory=list)

    @property
    def p(self) -> float | None:
        """The p-value, uncorrected; None without a null."""
        return p_value(self.value, self.null) if self.null else None

    @property
    def summary(self) -> tuple[float, float] | None:
        """Median and 95th percentile of the null."""
        return null_summary(self.null) if self.null else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, around the value.

        A resample holds fewer different trials than the data, and all values are lower for it: their spread counts,
        not their place.
        """
        if not self.resamples:
            return None
        draws = torch.tensor(self.resamples, dtype=torch.float64)
        low, high = interval(draws - null_summary(draws)[0] + self.value)
        return (min(low, self.value), max(high, self.value)) if math.isfinite(low) else None


def too_few(permutations: int, corrections: int = 1) -> str:
    """Return why so many permutations can tell nothing at ``LEVEL``, as a part of a note; nothing where they can.

    Parameters
    ----------
    permutations : draws of the null.
    corrections : number of p-values that Holm's or Bonferroni's procedure corrects; 1 for the maximum statistic.
    """
    least = corrections / (permutations + 1)
    if least <= LEVEL:
        return ""
    needed = math.ceil(round(corrections / LEVEL, 6)) - 1
    return (
        f"too few permutations to tell: {permutations} give p of {least:.2g} at least; "
        f"set model.permutations={needed} or more"
    )


def corrected(measured: Sequence[Measured]) -> list[float | None]:
    """Return p-values corrected for the number of values by :func:`largest_of_all`; None for those without a null."""
    told = [found for found in measured if found.null]
    if len(told) < 2 or len(told[0].null) < 2:
        return [found.p for found in measured]
    observed = torch.tensor([found.value for found in told], dtype=torch.float64)
    null = torch.tensor([found.null for found in told], dtype=torch.float64)
    ps = iter(largest_of_all(observed, null.mT))
    return [next(ps) if found.null else None for found in measured]


def largest_of_all(observed: Float[Tensor, " value"], null: Float[Tensor, "draw value"]) -> list[float]:
    """Return p-values corrected for the number of values, by the largest of all under the null.

    Each counts in standard deviations from the mean of its own null and itself, as exchangeability asks for. Unlike
    with a correction for each p-value, as many draws do for many values as for one.
    """
    every = torch.cat([observed[None], null])
    scaled = (every - every.mean(0)) / every.std(0).clamp(min=1e-300)
    largest = scaled[1:].amax(1)
    return [p_value(value, largest) for value in scaled[0].tolist()]


def judged(value: float, p: float | None, bounds: tuple[float, float] | None) -> bool | None:
    """Return whether there is evidence; None where there is no null or no interval to tell from.

    What is predicted worse than without is no evidence, even where chance would be worse still.
    """
    return None if p is None or bounds is None else p <= LEVEL and value > 0


def claimed(
    question: Question,
    source: str,
    target: str,
    found: Measured,
    p: float | None,
    statistic: str,
    note: str,
    item: str = "",
    why: str = "",
    wider: bool = False,
) -> Claim:
    """Return a claim about two regions: the value, how sure it is by its corrected p-value, and what it is.

    Parameters
    ----------
    question, source, target, item, statistic, note : of the claim.
    found : the value with its null and interval.
    p : corrected.
    why : why nothing can be told; empty: it can.
    wider : the null holds more than what is asked, so that evidence needs an interval above zero, too.
    """
    evidence = None if why else judged(found.value, p, found.interval)
    if wider and evidence and found.interval is not None:
        evidence = found.interval[0] > 0
    return Claim(
        question,
        source,
        target,
        found.value,
        statistic,
        interval=found.interval,
        p=p,
        null=found.summary,
        evidence=evidence,
        item=item,
        note=why or note,
    )
