"""Claims about pairs of regions from a fitted linear dynamical system, its refits by chance, and its resamples."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvmzoo.batch import Batch
from lvmzoo.claims.influence_measures import Influence
from lvmzoo.claims.nulls import interval, null_summary, outwards
from lvmzoo.claims.support import LEVEL, Measured, largest_of_all
from lvmzoo.findings import DIRECTLY, Claim, Question
from lvmzoo.inference.regional_structure import Structure

__all__ = ["Study", "shifted_interval"]

Edge = tuple[str, str]  # source, target


@dataclass(frozen=True)
class Study:
    """The numbers behind the claims about the regions of one session."""

    structure: Structure
    names: tuple[str, ...]  # of the regions, in the order of the session
    batch: Batch
    frequencies: Float[Tensor, " frequency"]  # cycles per bin
    observed: Influence  # one case: the observed trials, fitted by the protocol of the null
    null: Influence  # regions rearranged by chance; no case where there is no null
    boot: Influence | None  # resampled trials
    against: str  # what the null is made of
    why: str  # why nothing can be told; empty: it can

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Connections (source, target)."""
        return tuple(edge for edge in itertools.permutations(self.names, 2) if edge in self.structure.connections)

    @cached_property
    def pairs(self) -> tuple[Edge, ...]:
        """Pairs of regions that have a connection, in the order of the session."""
        pairs = itertools.combinations(self.names, 2)
        return tuple((one, other) for one, other in pairs if {(one, other), (other, one)} & set(self.edges))

    @cached_property
    def lags(self) -> np.ndarray:
        """Lags in bins, from one region's latest word to the other's."""
        forward = np.arange(1.0, self.structure.max_lag + 1)
        return np.concatenate([-forward[::-1], forward])

    def at(self, source: str, target: str) -> tuple[int, int]:
        """Row and column of a connection."""
        return self.names.index(target), self.names.index(source)

    def by_lag(self, cases: Influence, one: str, other: str) -> Float[Tensor, "case lag"]:
        """Return what each lag tells; above zero the second region follows the first.

        Of fits that begin with regions apart: after many passes, latents that the units hardly show may come to store
        what other regions did, and then tell of it at lags of their own.
        """
        i, j = self.at(one, other)
        return torch.cat([cases.lagged[:, j, i].flip(-1), cases.lagged[:, i, j]], -1)

    def communication(self, one: str, other: str) -> Claim:
        """Whether the blocks between two regions are needed."""
        transitions = max(1, int((self.batch.valid.sum(1) - 1).clamp(min=0).sum()))
        mine = self.pairs.index((one, other))
        value = float(self._both(self.observed.likelihood_ratio)[0, mine]) / transitions
        null = self._both(self.null.likelihood_ratio)[:, mine] / transitions
        p = self._communication_p[mine] if len(null) else None
        note = (
            f"chance: {self.against}, the largest pair; directly: not by way of the others; p is the larger of those "
            "of the likelihood ratio and of what the blocks add to Granger causality; no control within a region"
        )
        boot = None if self.boot is None else self._both(self.boot.likelihood_ratio)[:, mine] / transitions
        return Claim(
            Question.COMMUNICATION,
            one,
            other,
            value,
            "likelihood ratio of the blocks between them",
            "nats/bin",
            interval=shifted_interval(value, boot),
            p=p,
            null=null_summary(null) if len(null) else None,
            evidence=self._evidence(p),
            item=DIRECTLY,
            note=self.why or note,
        )

    def direction(self, source: str, target: str) -> Claim:
        """Whether the past of a source says more of what a target does next than the past of all other regions."""
        i, j = self.at(source, target)
        value, null = float(self.observed.granger[0, i, j]), self.null.granger[:, i, j]
        p = self._direction_p[self.edges.index((source, target))] if len(null) else None
        note = (
            f"chance: {self.against}, the largest pair; fitted anew from regions apart, as chance "
            "is; p is the larger of those of what the block adds to Granger causality and of its likelihood ratio, for "
            "where noise hides a region's own past, another predicts it a little without driving it; no control within "
            "a region"
        )
        return Claim(
            Question.DIRECTION,
            source,
            target,
            value,
            "Granger causality",
            "nats/bin",
            interval=shifted_interval(value, None if self.boot is None else self.boot.granger[:, i, j]),
            p=p,
            null=null_summary(null) if len(null) else None,
            evidence=self._evidence(p),
            note=self.why or note,
        )

    def delay(self, one: str, other: str) -> Claim:
        """By how much the second region follows the first: the lag at which one tells most of the other."""
        width = 1000 * self.batch.layout.bin_width_s
        # What conditions share is in the null, too: its lag is not that of communication.
        null = self.by_lag(self.null, one, other)
        common = null.mean(0) if len(null) else 0.0
        told = self.by_lag(self.observed, one, other)[0] - common
        untold = self.why
        if self.structure.max_lag == 1 and not untold:
            untold = "the model has one lag; set model.max_lag to the longest delay to look for, in bins"
        if self.structure.max_lag == 1 or not bool((told > 0).any()):
            evidence = None if untold else False
            return Claim(Question.DELAY, one, other, math.nan, "lag", "ms", evidence=evidence, note=untold)
        lag = float(self.lags[int(told.argmax())])
        edge, back = ((one, other), (other, one)) if lag > 0 else ((other, one), (one, other))
        p = self._direction_p[self.edges.index(edge)] if len(self.null.granger) and edge in self.edges else None
        low = high = lag
        if self.boot is not None:
            found = interval(torch.from_numpy(self.lags)[(self.by_lag(self.boot, one, other) - common).argmax(-1)])
            low, high = outwards(found, lag)
        evidence = self._evidence(p)
        note = "the lag at which one region tells most of the other beyond the mean of the null, in whole bins; "
        note += "p of that direction"
        if evidence:
            evidence = low * high > 0
            if back in self.edges and self._direction_p[self.edges.index(back)] <= LEVEL:
                if abs(lag) == 1:
                    evidence = False
                    note = "each region tells of the other one bin later, the shortest lag: as if there were no delay"
                elif self.boot is not None and not self._leads(told, self.by_lag(self.boot, one, other) - common):
                    evidence = False
                    note = "each region tells of the other, and which one tells more cannot be told"
        return Claim(
            Question.DELAY,
            one,
            other,
            lag * width,
            "lag",
            "ms",
            interval=None if self.boot is None else (low * width, high * width),
            p=p,
            evidence=evidence,
            note=self.why or note,
        )

    def _leads(self, told: Float[Tensor, " lag"], resampled: Float[Tensor, "resample lag"]) -> bool:
        """Return whether one region tells more at its best lag than the other at its own, over resamples as well.

        What regions share at once is spread over lags of either sign: the model has no simultaneous term.
        """
        ahead = torch.from_numpy(self.lags > 0)

        def lean(profile: Tensor) -> Tensor:
            return profile[..., ahead].amax(-1) - profile[..., ~ahead].amax(-1)

        bounds = shifted_interval(abs(float(lean(told))), lean(resampled) * lean(told).sign())
        return bounds is None or bounds[0] > 0

    def dimensions(self, source: str, target: str) -> Claim:
        """Through how many dimensions a source acts on a target; no more than the model lets it."""
        i, j = self.at(source, target)
        most = self.structure.latents if self.structure.rank is None else self.structure.rank
        value, spread, evidence = math.nan, None, None
        if not self.why:
            evidence = self._evidence(self._direction_p[self.edges.index((source, target))])
            limit = null_summary(self.null.correlations[:, i, j, 0])[1]
            beyond = int((self.observed.correlations[0, i, j] > limit).sum())
            value = float(min(most, max(1, beyond))) if evidence else 0.0
            if self.boot is not None:
                moved = self.boot.correlations[:, i, j] - self.boot.correlations[:, i, j].median(0).values
                counts = (self.observed.correlations[0, i, j] + moved > limit).sum(-1).clamp(max=most)
                spread = outwards(interval(counts.double()), value)
        return Claim(
            Question.DIMENSIONS,
            source,
            target,
            value,
            "partial canonical correlations of latents above chance",
            interval=spread,
            evidence=evidence,
            note=self.why or f"chance: the 95th percentile of the largest one with {self.against}",
        )

    def _both(self, cases: Float[Tensor, "case region region"]) -> Float[Tensor, "case pair"]:
        """Return what is said of both ways between two regions together."""
        one, other = (list(places) for places in zip(*(self.at(*pair) for pair in self.pairs), strict=True))
        return cases[:, one, other] + cases[:, other, one]

    @cached_property
    def _communication_p(self) -> list[float]:
        """Both must be larger than by chance.

        Where noise hides what a region does, another that only goes along with it seems to be needed, too.
        """
        ratio = largest_of_all(self._both(self.observed.likelihood_ratio)[0], self._both(self.null.likelihood_ratio))
        granger = largest_of_all(self._both(self.observed.added)[0], self._both(self.null.added))
        return [max(each) for each in zip(ratio, granger, strict=True)]

    @cached_property
    def _direction_p(self) -> list[float]:
        i, j = (list(places) for places in zip(*(self.at(*edge) for edge in self.edges), strict=True))
        granger = largest_of_all(self.observed.added[0, i, j], self.null.added[:, i, j])
        ratio = largest_of_all(self.observed.likelihood_ratio[0, i, j], self.null.likelihood_ratio[:, i, j])
        return [max(each) for each in zip(granger, ratio, strict=True)]

    def _evidence(self, p: float | None) -> bool | None:
        return None if self.why or p is None else p <= LEVEL


def shifted_interval(value: float, samples: Float[Tensor, " resample"] | None) -> tuple[float, float] | None:
    """Return the 95 % interval of resamples, moved so that their median is the value; nothing below zero.

    What cannot be negative is larger in resamples than in the data, by about as much as in the data than in truth.
    """
    found = None if samples is None else Measured(value, resamples=samples.tolist()).interval
    return None if found is None else (max(0.0, found[0]), found[1])
