"""Of independent regions, multi_region_lds claims influence as often as a test at 5 % may, by its own protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

ROOT = Path(__file__).parents[2]


def claimed(world: str, emissions: str, simulations: int) -> dict[str, int]:
    """Return in how many simulations there was evidence, by question and by direction."""
    command = [sys.executable, "-m", "tests.models.influence_rate", world, emissions, "0", str(simulations)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(run.stdout)
    print(world, emissions, found)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("emissions", ["gaussian", "poisson"])
@pytest.mark.parametrize("kind", ["autocorrelated", "conditions", "drift"])
def test_independent_regions_are_told_to_be(kind: str, emissions: str) -> None:
    """Of 200 simulations with fixed seeds, 2 to 20 are rejected at 5 % (both directions, or the pair, as one)."""
    found = claimed(kind, emissions, 200)
    assert 2 <= found["communication"] <= 20, found
    assert 2 <= found["direction"] <= 20, found
    assert found["dimensions"] <= found["direction"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", ["three regions", "one long trial"])
def test_pairs_are_tested_together_and_long_trials_shifted(world: str) -> None:
    """The largest of six directions, over two lags; and one session without trials, by circular shifts."""
    found = claimed(world, "gaussian", 200)
    assert 2 <= found["communication"] <= 20, found
    assert 2 <= found["direction"] <= 20, found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", ["driven", "driven noisy"])
def test_the_way_back_is_rarely_claimed_beside_a_true_one(world: str) -> None:
    """A drives B: B drives A in one of twenty simulations, or so few that chance makes it of that."""
    simulations = 80
    found = claimed(world, "gaussian", simulations)
    assert found["A -> B"] >= 0.9 * simulations, found
    assert found.get("B -> A", 0) <= binom.ppf(0.99, simulations, 0.05), found
