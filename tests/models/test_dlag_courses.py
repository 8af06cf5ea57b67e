"""What dlag says of courses that every trial repeats, when residuals are not taken."""

from __future__ import annotations

import numpy as np
import pytest

from lvmzoo.batch import Batch
from lvmzoo.findings import Claim, Question
from lvmzoo.models.multi_region.dlag import DLAGConfig
from tests.models.dlag_world import fit
from tests.models.regions_world import observe

TRIALS, BINS, LAG = 40, 20, 3


def world(seed: int, of_course: int, of_trials: int) -> Batch:
    """Return regions of which B sees the course of all trials, and what differs between trials, so many bins later."""
    random = np.random.default_rng(seed)
    bell = np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2)
    noise = random.normal(size=(1 + TRIALS, BINS + 20)) / np.linalg.norm(bell)
    course, *rest = (np.convolve(one, bell, "same") for one in noise)
    trials = np.stack(rest)

    def seen(later: bool) -> np.ndarray:
        own, its = 10 - of_trials * later, 10 - of_course * later
        repeated = np.broadcast_to(4 * course[its : its + BINS], (TRIALS, BINS))
        return np.stack([trials[:, own : own + BINS], repeated], 2)

    return observe(random, [seen(False), seen(True)], (5, 5), None, counts=False, ragged=False)


def evidence(data: Batch, seed: int) -> dict[Question, list[Claim]]:
    """Return the claims of a fit with a latent for each."""
    model = fit([data], DLAGConfig(across=2, within=0, resamples=2, permutations=39, folds=3), 40, 1e-5)
    claims = model.findings(data, seed).claims
    return {question: [claim for claim in claims if claim.question is question] for question in Question}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_a_course_that_every_trial_repeats_has_neither_direction_nor_delay(seed: int) -> None:
    """Its latent has a delay beyond doubt, and the regions exchange another one, at once."""
    claims = evidence(world(seed, LAG, 0), seed)
    assert claims[Question.COMMUNICATION][0].evidence
    course, at_once = sorted(claims[Question.DELAY], key=lambda claim: -abs(claim.value))
    assert abs(course.value) > 40
    assert at_once.value == pytest.approx(0, abs=6)
    assert not any(claim.evidence for claim in claims[Question.DELAY] + claims[Question.DIRECTION])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_a_delay_beside_a_course_is_found(seed: int) -> None:
    claims = evidence(world(seed, 0, LAG), seed)
    later, course = sorted(claims[Question.DELAY], key=lambda claim: -abs(claim.value))
    assert later.value == pytest.approx(60, abs=8)
    assert later.evidence
    assert not course.evidence
    assert [claim.evidence for claim in claims[Question.DIRECTION]] == [True, False]
