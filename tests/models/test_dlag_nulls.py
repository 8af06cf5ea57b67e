"""What chance does: of 200 simulations with fixed seeds, in ragged trials, 2 to 20 are rejected at 5 %."""

from __future__ import annotations

import pytest

from lvmzoo.batch import Batch
from lvmzoo.findings import Question
from lvmzoo.models.multi_region.dlag import DLAGConfig
from tests.models.dlag_world import fit
from tests.models.regions_world import KINDS, coupled, independent

SIMULATIONS = 200
SIZE = {"trials": 40, "bins": 12, "units": (4, 4)}
CONFIG = DLAGConfig(across=1, within=1, resamples=1, permutations=39, folds=2)


def rejected(data: Batch, seed: int) -> set[Question]:
    """Return the questions that any claim answers with evidence."""
    found = fit([data], CONFIG, 60, 1e-5).findings(data, seed)
    return {claim.question for claim in found.claims if claim.evidence and claim.question is not Question.DIMENSIONS}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_independent_regions_rarely_communicate(kind: str) -> None:
    """A delay and a direction are claimed only where something is shared: no more often than that."""
    cases = [rejected(independent(kind, seed, latents=1, ragged=True, **SIZE), seed) for seed in range(SIMULATIONS)]
    counts = {question: sum(question in case for case in cases) for question in Question}
    print(kind, counts)
    assert 2 <= counts[Question.COMMUNICATION] <= 20
    assert counts[Question.DELAY] <= counts[Question.COMMUNICATION]
    assert counts[Question.DIRECTION] <= counts[Question.COMMUNICATION]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_is_shared_at_once_rarely_has_a_delay() -> None:
    """The regions do communicate, and the latents are not those of the model: autoregressive, not smooth."""
    cases = [rejected(coupled(seed, 0, shared=1, own=1, ragged=True, **SIZE), seed) for seed in range(SIMULATIONS)]
    counts = {question: sum(question in case for case in cases) for question in Question}
    print("no delay", counts)
    assert counts[Question.COMMUNICATION] >= 0.9 * SIMULATIONS
    assert 2 <= counts[Question.DELAY] <= 20
    assert counts[Question.DIRECTION] == counts[Question.DELAY]
