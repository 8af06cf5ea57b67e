"""Findings about made-up regions, as models give them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from lvmzoo.findings import Claim, Findings, Profile, Question

SHARED = "permutations of trials within condition, maximum over lags and pairs; interval by bootstrap of trials"


def made_up(regions: Sequence[str], edges: Sequence[tuple[str, str, float]] = (), short: bool = False) -> Findings:
    """Return claims and profiles in which ``edges`` (source, target, delay in ms) are there, and nothing else is.

    ``short``: the session is too short to tell of the last pair.
    """
    rng = np.random.default_rng(0)
    claims, profiles = [], []
    pairs = list(itertools.combinations(regions, 2))
    delays = {frozenset(edge[:2]): edge for edge in edges}
    for source, target in pairs:
        edge = delays.get(frozenset((source, target)))
        lost = short and (source, target) == pairs[-1]
        note = "too short to tell: 20 correlation times, and 100 are needed" if lost else SHARED
        value = 0.2 + 0.3 * rng.random() if edge else 0.03 * rng.random()
        evidence = None if lost else edge is not None
        claims.append(
            Claim(
                Question.COMMUNICATION, source, target, value, "cross-validated canonical correlation",
                interval=(value - 0.05, value + 0.04), p=None if lost else 0.005 if edge else 0.4, null=(0.02, 0.08),
                evidence=evidence, note=note,
            )
        )  # fmt: skip
        for ahead, behind in ((source, target), (target, source)):
            there = edge is not None and edge[:2] == (ahead, behind)
            value = 0.1 + 0.1 * rng.random() if there else 0.01 * rng.random()
            claims.append(
                Claim(
                    Question.DIRECTION, ahead, behind, value, "Granger causality", "nats/bin",
                    interval=(0.8 * value, 1.2 * value), p=None if lost else 0.005 if there else 0.6,
                    null=(0.004, 0.01), evidence=None if lost else there, note=note,
                )
            )  # fmt: skip
        value = 0.4 if edge is None else edge[2] * (1 if edge[0] == source else -1)
        claims.append(
            Claim(
                Question.DELAY, source, target, value, "peak of the lag map", "ms", interval=(value - 6, value + 7),
                p=None if lost else 0.01 if edge else 0.8, evidence=evidence, note=note,
            )
        )  # fmt: skip
        claims.append(
            Claim(
                Question.DIMENSIONS, source, target, 2.0 if edge else 1.0, "1-SE rank", interval=(1.0, 3.0),
                control=5.0, control_interval=(4.0, 6.0),
            )
        )  # fmt: skip
        profiles += _profiles(rng, source, target, value, edge is not None)
    return Findings(tuple(claims), tuple(profiles))


def _profiles(rng: np.random.Generator, source: str, target: str, delay: float, there: bool) -> list[Profile]:
    size = 0.4 if there else 0.02
    lags = np.arange(-10.0, 11) * 20
    lag = size * np.exp(-0.5 * ((lags - delay) / 40) ** 2) + 0.01 * rng.normal(size=21)
    time = np.arange(40) * 0.02
    apart = time[None] - time[:, None] - delay / 1000
    timed = size * np.exp(-0.5 * (apart / 0.06) ** 2) * np.sin(np.pi * time / 0.8)[:, None]
    timed += 0.02 * rng.normal(size=(40, 40))
    rank = np.arange(9.0)
    explained, within = 0.2 * (1 - np.exp(-rank)), 0.3 * (1 - np.exp(-rank / 2.5))
    hertz = np.linspace(0.5, 25, 50)
    return [
        Profile(
            "lag", source, target, "cross-validated canonical correlation", {"lag (ms)": lags}, lag, lag - 0.03,
            lag + 0.03, np.full(21, 0.08),
        ),
        Profile(
            "time", source, target, "canonical correlation", {"time (s)": time, "time (s) ": time}, timed,
            null=np.full((40, 40), 0.08),
        ),
        Profile(
            "rank", source, target, "1 - NSE", {"dimensions": rank}, explained, explained - 0.01, explained + 0.01,
            control=within, control_low=within - 0.02, control_high=within + 0.02, marks={"1-SE rank": 2.0},
        ),
        Profile(
            "frequency", source, target, "Granger causality (nats)", {"frequency (Hz)": hertz},
            np.exp(-((hertz - 8) ** 2) / 20), null=np.full(50, 0.1),
        ),
        Profile(
            "trace", source, target, "message (share of the target's variance)", {"time (s)": time},
            np.sin(time * 9), np.sin(time * 9) - 0.1, np.sin(time * 9) + 0.1, item="latent 1",
        ),
    ]  # fmt: skip
