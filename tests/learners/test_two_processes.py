"""Two processes give the parameters of one, with an odd number of trials, of one session and of two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lvmzoo import registry
from tests.contract.test_every_model import STATISTICS

ROOT = Path(__file__).resolve().parents[2]
# What sessions share, and what is of each, is fitted in both ways.
SEVERAL = ("lds", "lfads", "neural_ode", "contrastive")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("sessions", "names"), [(1, tuple(registry.entries())), (2, SEVERAL)])
def test_two_processes_give_the_parameters_of_one(sessions: int, names: tuple[str, ...], tmp_path: Path) -> None:
    for devices in ("1", "2"):
        command = [sys.executable, "-m", "tests.learners.two_processes", str(tmp_path), devices, str(sessions), *names]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        one, two = (load_file(tmp_path / f"{name}-{devices}.safetensors") for devices in (1, 2))
        tolerance = 1e-10 if name in STATISTICS else 1e-6
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=tolerance, atol=tolerance, equal_nan=True)
