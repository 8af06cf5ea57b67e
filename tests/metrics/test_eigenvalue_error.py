"""The error of eigenvalues is that of the best of all assignments, and does not depend on coordinates or bins."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch

from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.eigenvalue_error import EigenvalueError, eigenvalues_of, matched
from lvmzoo.models.base import HasDynamics
from lvmzoo.simulate.modes import modes_of

from .toy import Base, make_session

BIN_S = 0.02


def turning(modulus, angle):
    return modulus * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def planted(*blocks):
    dynamics, place = np.zeros((sum(map(len, blocks)),) * 2), 0
    for block in blocks:
        dynamics[place : place + len(block), place : place + len(block)] = block
        place += len(block)
    return dynamics


TRUE = planted(turning(0.95, 0.2), turning(0.8, 0.6), np.array([[0.7]]))


class Law(Base, HasDynamics):
    """Latents that are random mixtures, and the law that it is given; ``curved`` adds what vanishes at the mean."""

    def __init__(self, session, dynamics, curved=0.0):
        super().__init__(session)
        size = len(dynamics)
        generator = torch.Generator().manual_seed(1)
        shape = (session.layout.n_units, size)
        self.projection.data = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.dynamics, self.curved = torch.from_numpy(dynamics), curved
        self.rest = torch.from_numpy(Evaluation(self, session).latents("train").mean(0))

    def advance(self, latents):
        off = latents - self.rest
        return off @ self.dynamics.T + self.curved * off**2


def score(dynamics, true=TRUE, **settings):
    session = replace(make_session(), modes=modes_of(true, BIN_S))
    (row,) = EigenvalueError()(Evaluation(Law(session, dynamics, **settings), session))
    return row


def test_the_assignment_is_the_best_of_all():
    random = np.random.default_rng(0)
    for _ in range(20):
        found, true = (random.normal(size=4) + 1j * random.normal(size=4) for _ in range(2))
        every = [(np.abs(found[list(order)] - true) ** 2).sum() for order in permutations(range(4))]
        assert (np.abs(matched(found, true) - true) ** 2).sum() == pytest.approx(min(every))


def test_coordinates_do_not_matter():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(5, 5))
    row = score(mixing @ TRUE @ np.linalg.inv(mixing))
    assert row.value == pytest.approx(0, abs=1e-9)
    assert (row.better, row.n, row.note) == ("lower", 5, "")


def test_it_is_the_distance_over_the_size():
    off = planted(turning(0.9, 0.2), turning(0.8, 0.7), np.array([[0.6]]))
    true = np.array([0.95 * np.exp(0.2j), 0.8 * np.exp(0.6j)])
    found = np.array([0.9 * np.exp(0.2j), 0.8 * np.exp(0.7j)])
    square = 2 * (np.abs(true - found) ** 2).sum() + 0.01
    row = score(off)
    assert row.value == pytest.approx(np.sqrt(square / (2 * (0.95**2 + 0.8**2) + 0.7**2)))
    # The delta method, by hand: modes are what varies, and the root halves the relative error.
    errors = np.array([2 * 0.05**2, 2 * np.abs(true[1] - found[1]) ** 2, 0.01])
    sizes = np.array([2 * 0.95**2, 2 * 0.8**2, 0.49])
    residual = (errors - errors.sum() / sizes.sum() * sizes) / sizes.sum()
    assert row.spread == pytest.approx(np.sqrt(1.5 * (residual**2).sum()) / (2 * row.value))


def test_missing_eigenvalues_are_at_zero_and_others_are_told():
    row = score(TRUE[:4, :4])
    assert row.value == pytest.approx(0.7 / np.sqrt(2 * (0.95**2 + 0.8**2) + 0.7**2))
    assert row.note == "1 too few"
    row = score(planted(TRUE, np.array([[0.3]])))
    assert (row.value, row.note) == (pytest.approx(0, abs=1e-9), "1 more that are not in the truth")


def test_a_nonlinear_law_is_judged_at_the_mean():
    assert score(TRUE, curved=0.5).value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("wrong", [0.05, 0.2, 0.6])
def test_the_wrong_frequency_is_found_out(wrong):
    row = score(turning(0.95, 0.2 + wrong), true=turning(0.95, 0.2))
    assert row.value == pytest.approx(2 * np.sin(wrong / 2))


def test_wider_bins_have_powers_of_the_eigenvalues():
    values, mode = eigenvalues_of(modes_of(TRUE, BIN_S), 3 * BIN_S)
    np.testing.assert_allclose(np.sort_complex(values), np.sort_complex(np.linalg.eigvals(TRUE) ** 3), atol=1e-12)
    assert list(mode) == [0, 0, 1, 1, 2]
    assert eigenvalues_of(pd.DataFrame({"timescale_s": [0.0], "frequency_hz": [0.0]}), BIN_S)[0] == [0]


def test_without_known_modes_there_is_no_row():
    session = replace(make_session(), modes=None)
    assert EigenvalueError()(Evaluation(Law(session, TRUE), session)) == []
