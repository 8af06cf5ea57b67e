"""Two processes give the parameters of one, with an odd number of trials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lvmzoo import registry
from lvmzoo.batch import TrialSampling
from lvmzoo.models.base import GradientModel
from tests.contract import world
from tests.contract.test_every_model import STATISTICS

ROOT = Path(__file__).resolve().parents[2]


def draws(name: str) -> bool:
    """Whether the loss of trials depends on the random state."""
    entry, session = registry.get(name), world.session()
    model = entry.model(entry.tiny(session.layout), [session.layout])
    if not isinstance(model, GradientModel) or not isinstance(model.sampling, TrialSampling):
        return False
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(float(model.loss(session.train.batch(), 0).total))
    return losses[0] != losses[1]


@pytest.mark.timeout(300)
def test_two_processes_give_the_parameters_of_one(tmp_path: Path) -> None:
    names = list(registry.entries())
    for devices in ("1", "2"):
        command = [sys.executable, "-m", "tests.learners.two_processes", str(tmp_path), devices, *names]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        one, two = (load_file(tmp_path / f"{name}-{devices}.safetensors") for devices in (1, 2))
        if draws(name):  # of its own for each process: equal in distribution only
            values, others = (torch.cat([v.flatten().double() for v in found.values()]) for found in (one, two))
            assert float((others - values).norm() / values.norm()) < 0.05
            continue
        tolerance = 1e-10 if name in STATISTICS else 1e-6
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=tolerance, atol=tolerance, equal_nan=True)
