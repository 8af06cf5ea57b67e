"""Claims and curves about pairs of regions from their lag maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lvmzoo.claims.lag_draws import LagDraws
from lvmzoo.claims.lag_profile import Said, Verdict, around, dimensions, verdict
from lvmzoo.claims.nulls import band, interval, null_summary, outwards
from lvmzoo.claims.support import LEVEL, too_few
from lvmzoo.findings import Claim, Findings, Profile, Question
from lvmzoo.sentences import amount

__all__ = ["LagClaims"]

CORRELATION = "cross-validated canonical correlation"
ASYMMETRY = "asymmetry of the canonical correlation"
BETWEEN_BINS = 0.025  # bins that a delay may be off without noise, where activity forgets within a bin
FAMILY = "the maximum over lags, both sides of lag zero and pairs of regions"


@dataclass(frozen=True)
class LagClaims:
    """Puts what the lag maps of one session say into claims.

    Parameters
    ----------
    pairs : of regions.
    draws : their lag maps.
    bin_ms : width of a bin.
    null : what the null is, in words.
    unknown : why nothing can be told; empty where it can.
    control : canonical correlations within regions.
    limited : whether trials are too short for all lags that were asked for.
    """

    pairs: Sequence[tuple[str, str]]
    draws: LagDraws
    bin_ms: float
    null: str
    unknown: str
    control: Mapping[str, Tensor]
    limited: bool

    def findings(self) -> Findings:
        """Return every claim, and the curves behind them."""
        found = verdict(self.draws)
        claims, profiles = [], []
        for place, pair in enumerate(self.pairs):
            count, thresholds, counts = dimensions(found, place)
            claims.append(self._communication(found, place, pair))
            claims.append(self._direction(found.forward, place, pair))
            claims.append(self._direction(found.backward, place, (pair[1], pair[0])))
            claims.append(self._delay(found, place, pair))
            claims.append(self._dimensions(found, place, pair, count, counts))
            profiles.append(self._by_lag(found, place, pair))
            profiles.append(self._by_component(found, place, pair, thresholds, count))
        return Findings(tuple(claims), tuple(profiles))

    def _communication(self, found: Verdict, place: int, pair: tuple[str, str]) -> Claim:
        lag, center = self._peak(found, place)
        value = float(self.draws.observed[place, lag, 0])
        null = tuple(center + edge for edge in null_summary(found.height.null[:, place]))
        control, control_interval = self._control(pair)
        where = f"at the lag of {amount(self._ms(lag))} ms, the best of {self._reach()}"
        return Claim(
            Question.COMMUNICATION,
            *pair,
            value=value,
            statistic=CORRELATION,
            interval=self._interval(found.height.resampled[:, place] + center, value),
            p=self._p(found.height, place),
            null=(null[0], null[1]) if len(found.height.null) else None,
            evidence=self._evidence(found.height, place),
            control=control,
            control_interval=control_interval,
            note=self._note(f"{where}; {self._against()}, {FAMILY}"),
        )

    def _direction(self, said: Said, place: int, pair: tuple[str, str]) -> Claim:
        value = float(said.value[place])
        note = f"the best lag at which {pair[0]} leads less the best at which it follows; "
        return Claim(
            Question.DIRECTION,
            *pair,
            value=value,
            statistic=ASYMMETRY,
            interval=self._interval(said.resampled[:, place], value),
            p=self._p(said, place),
            null=null_summary(said.null[:, place]) if len(said.null) else None,
            evidence=self._evidence(said, place),
            note=self._note(f"{note}{self._against()}, {FAMILY}"),
        )

    def _delay(self, found: Verdict, place: int, pair: tuple[str, str]) -> Claim:
        value = float(found.delay.value[place]) * self.bin_ms
        evidence, bounds = self._evidence_of_delay(found, place), self._delay_interval(found, place)
        peak = "peak, between bins, of the correlation of one canonical pair"
        note = f"{peak}; one side of lag zero against the other, {self._against()}"
        if evidence is not None and found.height.p[place] > LEVEL:
            note = f"the profile is flat: its peak is no higher than chance; {note}"
        elif evidence is False:
            note = f"the profile has a peak that cannot be told from lag zero; {note}"
        elif self._at_edge(int(found.peak[place])):
            note = f"the peak is at the longest lag looked at, raise model.max_lag_bins; {note}"
        return Claim(
            Question.DELAY,
            *pair,
            value=value,
            statistic="lag of the peak",
            unit="ms",
            interval=bounds,
            p=self._p(found.delay, place),
            evidence=evidence,
            note=self._note(note),
        )

    def _dimensions(
        self, found: Verdict, place: int, pair: tuple[str, str], count: int, counts: Sequence[int]
    ) -> Claim:
        known = not too_few(len(found.height.null))
        return Claim(
            Question.DIMENSIONS,
            *pair,
            value=float(count) if known else math.nan,
            statistic="canonical pairs",
            interval=outwards(interval([float(number) for number in counts]), float(count))
            if known and counts
            else None,
            evidence=None if self.unknown else count > 0,
            note=self._note(f"pairs that survive {self.null} step by step, at the peak"),
        )

    def _by_lag(self, found: Verdict, place: int, pair: tuple[str, str]) -> Profile:
        observed = self.draws.observed[place, :, 0]
        resampled = self.draws.resampled[:, place, :, 0]
        columns = [around(column, float(value)) for column, value in zip(resampled.mT, observed, strict=True)]
        low, high = (edge.numpy() for edge in band(torch.stack(columns, 1)))
        null = found.excess.center[place, :, 0] + null_summary(found.height.null[:, place])[1]
        marks = {"peak": float(found.delay.value[place]) * self.bin_ms} if self._evidence_of_delay(found, place) else {}
        return Profile(
            "lag",
            *pair,
            statistic=CORRELATION,
            axes={"lag (ms)": self._lags()},
            value=observed.numpy(),
            low=low if len(resampled) else None,
            high=high if len(resampled) else None,
            null=null.numpy() if len(found.height.null) else None,
            marks=marks,
            note=self._note(f"positive lags: {pair[1]} follows {pair[0]}"),
        )

    def _by_component(
        self, found: Verdict, place: int, pair: tuple[str, str], thresholds: Tensor, count: int
    ) -> Profile:
        lag, _ = self._peak(found, place)
        excess = found.excess.observed[place, lag, : len(thresholds)]
        excess, order = excess.sort(descending=True)
        center = found.excess.center[place, lag][order]
        return Profile(
            "rank",
            *pair,
            statistic=CORRELATION,
            axes={"canonical pair": np.arange(1.0, len(thresholds) + 1)},
            value=(excess + center).numpy(),
            null=(thresholds + center).numpy() if len(found.height.null) else None,
            marks={"pairs that survive": float(count)} if count and not too_few(len(found.height.null)) else {},
            note=self._note(f"at the lag of {amount(self._ms(lag))} ms"),
        )

    def _peak(self, found: Verdict, place: int) -> tuple[int, float]:
        lag = int(found.peak[place])
        return lag, float(found.excess.center[place, lag, 0])

    def _lags(self) -> np.ndarray:
        count = self.draws.observed.shape[1]
        return (np.arange(count) - count // 2) * self.bin_ms

    def _ms(self, lag: int) -> float:
        return round(float(self._lags()[lag]), 3)

    def _reach(self) -> str:
        low, *_, high = self._lags() if self.draws.observed.shape[1] > 1 else (0.0, 0.0)
        less = ", half of the longest trial and less than model.max_lag_bins or max_lag_s" if self.limited else ""
        return f"{amount(low)} to {amount(high)} ms{less}"

    def _at_edge(self, lag: int) -> bool:
        return lag in (0, self.draws.observed.shape[1] - 1)

    def _control(self, pair: tuple[str, str]) -> tuple[float | None, tuple[float, float] | None]:
        """Return the median within the two regions, where they can be halved, and its spread over halvings."""
        parts = [self.control[name] for name in pair if name in self.control]
        if not parts:
            return None, None
        both = torch.cat(parts)
        return float(both.median()), interval(both)

    def _p(self, said: Said, place: int) -> float | None:
        p = float(said.p[place])
        return None if math.isnan(p) else p

    def _evidence(self, said: Said, place: int) -> bool | None:
        p = self._p(said, place)
        return None if p is None or self.unknown or not len(self.draws.resampled) else p <= LEVEL

    def _delay_interval(self, found: Verdict, place: int) -> tuple[float, float] | None:
        value = float(found.delay.value[place]) * self.bin_ms
        low, high = interval(found.delay.resampled[:, place] * self.bin_ms)
        beside = BETWEEN_BINS * self.bin_ms
        return None if math.isnan(low) else (min(low - beside, value), max(high + beside, value))

    def _evidence_of_delay(self, found: Verdict, place: int) -> bool | None:
        """Return whether the peak is on the side that survives, and not at lag zero.

        Regions may share most without a delay, and something else beside it with one: a side then survives, but the
        peak is not on it.
        """
        evidence, bounds = self._evidence(found.delay, place), self._delay_interval(found, place)
        return evidence if not evidence or bounds is None else not bounds[0] <= 0 <= bounds[1]

    def _interval(self, samples: Tensor, value: float) -> tuple[float, float] | None:
        low, high = interval(around(samples, value))
        return None if math.isnan(low) else (min(low, value), max(high, value))

    def _against(self) -> str:
        return f"against {self.null}"

    def _note(self, note: str) -> str:
        return self.unknown or note
