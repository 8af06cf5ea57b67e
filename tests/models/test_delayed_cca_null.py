"""Of 200 simulations of independent regions, 2 to 20 are rejected at 5 %: by every null, whatever regions share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvmzoo.batch import Batch
from lvmzoo.findings import Findings, Question
from lvmzoo.models.multi_region.delayed_cca import DelayedCCA, DelayedCCAConfig
from tests.models import regions_world

SIMULATIONS = 200
CONFIG = DelayedCCAConfig(
    max_lag_bins=5, folds=4, shrinkage=[0.1], permutations=99, resamples=2, time_points=0
)  # intervals do not bear on the tests


def findings(batch: Batch, config: DelayedCCAConfig = CONFIG) -> Findings:
    # Nothing that is fitted beforehand bears on findings but the mean.
    model = DelayedCCA(config, [batch.layout])
    model.prepare([batch])
    return model.findings(batch, 0)


def rejected(found: list[Findings]) -> dict[str, int]:
    """Return of how many sessions each question was answered with yes, for any pair or direction."""
    return {
        question: sum(any(c.evidence for c in one.claims if c.question == question) for one in found)
        for question in (Question.COMMUNICATION, Question.DIRECTION, Question.DELAY)
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", regions_world.KINDS)
def test_permuted_trials_reject_independent_regions_at_their_level(kind: str) -> None:
    counts = rejected([findings(regions_world.independent(kind, seed)) for seed in range(SIMULATIONS)])
    assert all(2 <= count <= 20 for count in counts.values()), counts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autocorrelated", "drift"])
def test_circular_shifts_reject_independent_regions_at_their_level(kind: str) -> None:
    """Shared conditions have no counterpart in one session without trials: what is shared there is shared."""
    counts = rejected(
        [
            findings(regions_world.independent(kind, seed, trials=1, bins=4000, units=(4, 4)))
            for seed in range(SIMULATIONS)
        ]
    )
    assert all(2 <= count <= 20 for count in counts.values()), counts


@pytest.mark.slow
def test_three_regions_are_rejected_together() -> None:
    """The maximum over pairs: of sessions, not of pairs, one in twenty is rejected."""
    found = [findings(regions_world.independent("drift", seed, units=(4, 4, 4))) for seed in range(SIMULATIONS)]
    counts = rejected(found)
    assert 2 <= counts[Question.COMMUNICATION] <= 20, counts


@pytest.mark.slow
def test_activity_shared_without_delay_has_none() -> None:
    found = [findings(regions_world.coupled(seed, 0)) for seed in range(60)]
    counts = rejected(found)
    assert counts[Question.COMMUNICATION] == 60
    assert counts[Question.DELAY] <= 6, counts


def test_permutations_that_forget_conditions_are_fooled() -> None:
    """What the null is for: without the conditions, regions that follow the same courses seem to communicate."""
    few = replace(CONFIG, permutations=39)
    batches = [regions_world.independent("conditions", seed) for seed in range(6)]
    fooled = rejected([findings(replace(batch, condition=None), few) for batch in batches])
    kept = rejected([findings(batch, few) for batch in batches])
    assert fooled[Question.COMMUNICATION] >= 5
    assert kept[Question.COMMUNICATION] <= 2
