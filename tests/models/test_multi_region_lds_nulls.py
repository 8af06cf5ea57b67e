"""Of independent regions, multi_region_lds claims influence as often as a test at 5 % may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "emissions"),
    [
        ("autocorrelated", "gaussian"),
        ("conditions", "gaussian"),
        ("drift", "gaussian"),
        ("conditions", "poisson"),
    ],
)
def test_independent_regions_are_told_to_be(kind: str, emissions: str) -> None:
    """Of 200 simulations with fixed seeds, 2 to 20 are rejected at 5 % (both directions, or the pair, as one)."""
    command = [sys.executable, "-m", "tests.models.influence_rate", kind, emissions, "0", "200"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert 2 <= found["communication"] <= 20, found
    assert 2 <= found["direction"] <= 20, found
    assert found["dimensions"] <= found["direction"]
