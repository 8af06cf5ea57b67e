"""Modes say what eigenvalues say, without the step."""

from __future__ import annotations

import numpy as np
import pytest

from lvmzoo.simulate.dissociation import OTHER, RELEVANT, dissociation
from lvmzoo.simulate.lds import lds
from lvmzoo.simulate.modes import modes_of


@pytest.mark.parametrize("step_s", [0.01, 0.5])
def test_a_decay_and_a_turn(step_s):
    turn = 0.9 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    dynamics = np.zeros((4, 4))
    dynamics[0, 0], dynamics[1:3, 1:3] = 0.5, turn  # and a direction that is forgotten at once
    found = modes_of(dynamics, step_s)
    assert list(found.columns) == ["timescale_s", "frequency_hz"]
    np.testing.assert_allclose(found["timescale_s"], [-step_s / np.log(0.9), -step_s / np.log(0.5), 0.0])
    np.testing.assert_allclose(found["frequency_hz"], [0.3 / (2 * np.pi * step_s), 0.0, 0.0], atol=1e-12)


def test_simulations_of_linear_dynamics_carry_theirs():
    assert len(lds(trials=2, bins=5, latents=5).modes) == 3
    found = dissociation(trials=2, bins=5, bin_width_s=0.05).modes
    values = np.exp((-1 / found["timescale_s"] + 2j * np.pi * found["frequency_hz"]) * 0.05)
    np.testing.assert_allclose(sorted(values, key=abs), sorted([RELEVANT, OTHER], key=abs), atol=1e-12)
