"""How sure a measured value is: its null, its interval, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lvmzoo.inference.nulls import holm, interval, null_summary, p_value

__all__ = ["LEVEL", "Measured", "Questions", "corrected", "judged"]

LEVEL = 0.05


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
        low, high = interval(draws - draws.nanmedian() + self.value)
        return (min(low, self.value), max(high, self.value)) if math.isfinite(low) else None


def corrected(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number by Holm's procedure; None stays."""
    known = iter(holm([p for p in ps if p is not None]))
    return [None if p is None else next(known) for p in ps]


def judged(p: float | None, bounds: tuple[float, float] | None) -> bool | None:
    """Return whether there is evidence; None where there is no null or no interval to tell from."""
    return None if p is None or bounds is None else p <= LEVEL
