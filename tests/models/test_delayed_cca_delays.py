"""Delays between bins of 20 ms, planted in latents drawn every millisecond: no bias, and intervals that hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmzoo.batch import Batch
from lvmzoo.claims.lag_draws import Beyond, LagDraws
from lvmzoo.claims.lag_profile import dimensions, verdict
from lvmzoo.claims.nulls import p_value
from lvmzoo.claims.support import LEVEL
from lvmzoo.findings import Claim, Question
from lvmzoo.models.multi_region.delayed_cca import DelayedCCA, DelayedCCAConfig
from lvmzoo.simulate.spikes import smooth_noise
from tests.models import regions_world

BIN_MS = 20


def planted(kind: str, delay_ms: int, seed: int) -> Batch:
    """Return 100 trials of 1 s in which B sees the two latents of A later; each has another one of its own.

    "smooth" latents have a timescale of 60 ms, "rough" ones are new every millisecond.
    """
    random = np.random.default_rng([7, seed])
    steps = 100 * 50 * BIN_MS

    def make(length: int, count: int) -> np.ndarray:
        if kind == "smooth":
            return smooth_noise(length, count, 60.0, random)
        return BIN_MS**0.5 * random.normal(size=(length, count))

    shared, own = make(steps + delay_ms, 2), make(steps, 2)
    parts = [
        np.concatenate([latents, own[:, [region]]], 1).reshape(100, 50, BIN_MS, 3).mean(2)
        for region, latents in enumerate((shared[delay_ms:], shared[:steps]))
    ]
    return regions_world.observe(random, parts, (15, 15), None, counts=False, ragged=False)


def found(batch: Batch) -> Claim:
    config = DelayedCCAConfig(max_lag_bins=8, shrinkage=[0.1], permutations=19, resamples=60, time_points=0)
    model = DelayedCCA(config, [batch.layout])
    model.prepare([batch])
    (delay,) = [claim for claim in model.findings(batch, 0).claims if claim.question == Question.DELAY]
    return delay


@pytest.mark.parametrize("kind", ["smooth", "rough"])
def test_a_delay_between_bins(kind: str) -> None:
    delay = found(planted(kind, 35, 0))
    assert delay.evidence
    assert delay.value == pytest.approx(35, abs=3)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("delay_ms", [30, 35, 40, 47])
@pytest.mark.parametrize("kind", ["smooth", "rough"])
def test_delays_between_bins_are_not_biased_and_covered(kind: str, delay_ms: int) -> None:
    """A parabola through three lags is 3 ms off where activity is rough, 35 ms being planted."""
    claims = [found(planted(kind, delay_ms, seed)) for seed in range(20)]
    errors = np.array([claim.value - delay_ms for claim in claims])
    covered = [claim.interval[0] <= delay_ms <= claim.interval[1] for claim in claims if claim.interval is not None]
    print(kind, delay_ms, f"bias {errors.mean():.2f}, spread {errors.std():.2f} ms, covered {np.mean(covered):.2f}")
    assert abs(errors.mean()) < 3
    assert np.mean(covered) >= 0.9


def test_most_at_once_and_a_little_later_is_a_direction_without_a_delay() -> None:
    random = np.random.default_rng(0)
    at_once, later = random.normal(size=(2, 80, 44, 1))
    parts = [np.concatenate([at_once[:, 4:], 0.5 * late], 2) for late in (later[:, 4:], later[:, :-4])]
    batch = regions_world.observe(random, parts, (8, 8), None, counts=False, ragged=False)
    config = DelayedCCAConfig(max_lag_bins=6, shrinkage=[0.1], permutations=39, resamples=30, time_points=0)
    model = DelayedCCA(config, [batch.layout])
    model.prepare([batch])
    claims = {(claim.question, claim.source): claim for claim in model.findings(batch, 0).claims}
    assert claims[Question.DIRECTION, "A"].evidence
    delay = claims[Question.DELAY, "A"]
    assert delay.evidence is False
    assert delay.interval is not None
    assert delay.interval[0] <= 0 <= delay.interval[1]


@pytest.mark.parametrize("seed", range(3))
def test_a_course_that_every_trial_repeats_has_neither_direction_nor_delay(seed: int) -> None:
    """B repeats the course of A three bins later in every trial; what differs between trials comes at once."""
    random = np.random.default_rng(seed)
    course = np.convolve(random.normal(size=50), np.exp(-0.5 * (np.arange(-6, 7) / 2) ** 2), "same")
    at_once = regions_world.autoregressive(random, 80, 30, 1, 0.6)
    parts = [
        np.concatenate([at_once, np.broadcast_to(4 * course[start : start + 30, None], (80, 30, 1))], 2)
        for start in (6, 3)
    ]
    batch = regions_world.observe(random, parts, (6, 6), None, counts=False, ragged=False)
    config = DelayedCCAConfig(max_lag_bins=4, shrinkage=[0.1], permutations=39, resamples=10, time_points=0)
    model = DelayedCCA(config, [batch.layout])
    model.prepare([batch])
    claims = model.findings(batch, 0).claims
    assert all(c.evidence for c in claims if c.question is Question.COMMUNICATION)
    assert not any(c.evidence for c in claims if c.question in (Question.DIRECTION, Question.DELAY))
    (delay,) = (c for c in claims if c.question is Question.DELAY)
    assert delay.value == pytest.approx(0, abs=3)


@pytest.mark.parametrize(("draws", "reached"), [(19, 0), (39, 1), (200, 9)])
def test_as_many_draws_reach_the_threshold_of_a_pair_as_a_p_value_lets_them(draws: int, reached: int) -> None:
    generator = torch.Generator().manual_seed(0)
    null = torch.rand(draws, 1, 1, 4, generator=generator, dtype=torch.float64)
    observed = torch.tensor([[[5.0, 4.0, 0.5, 0.1]]], dtype=torch.float64)
    nothing = torch.zeros(0, 1, 1, 4, dtype=torch.float64)
    none = torch.zeros(1, dtype=torch.float64)
    beyond = Beyond(observed[..., 0], null[..., 0], nothing[..., 0])
    found = verdict(LagDraws(observed, null, nothing, beyond, torch.zeros(1, 1), none, none[None]))
    _, thresholds, _ = dimensions(found, 0)
    left = (found.excess.null[:, 0, 0, :3]).amax(-1)
    assert int((left > thresholds[1]).sum()) == reached
    assert p_value(float(thresholds[1]) + 1e-9, left) <= LEVEL < p_value(float(thresholds[1]), left)
