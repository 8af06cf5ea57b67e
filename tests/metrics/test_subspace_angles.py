"""Principal angles are those of scipy, with the precision of scipy, and what is planted."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from lvmzoo.errors import UserError
from lvmzoo.metrics.subspace_angles import subspace_angles

RANDOM = np.random.default_rng(0)
TRIAL = np.repeat(np.arange(30), 20)
COURSES = RANDOM.normal(size=(600, 6))


def dense(one, other):
    return np.degrees(scipy.linalg.subspace_angles(one - one.mean(0), other - other.mean(0)))[::-1]


@pytest.mark.parametrize("columns", [(3, 3), (2, 4), (4, 1)])
def test_they_are_those_of_scipy(columns):
    one = COURSES @ RANDOM.normal(size=(6, columns[0])) + 5
    other = one[:, :1] @ RANDOM.normal(size=(1, columns[1])) + COURSES @ RANDOM.normal(size=(6, columns[1]))
    found = subspace_angles(one, other, TRIAL)
    np.testing.assert_allclose(found.degrees, dense(one, other), atol=1e-9)
    assert found.n == 600


def test_tiny_angles_are_precise():
    one = COURSES[:, :3]
    other = one + 1e-9 * COURSES[:, 3:]
    found = subspace_angles(one, other, TRIAL).degrees
    np.testing.assert_allclose(found, dense(one, other), rtol=1e-5)
    assert 0 < found[0] < 1e-6


def test_affine_maps_do_not_matter():
    one, other = COURSES[:, :3], COURSES[:, 2:5]
    mixed = other @ (RANDOM.normal(size=(3, 3)) * [1e3, 1, 1e-2]) - 8
    found = subspace_angles(one, mixed, TRIAL).degrees
    np.testing.assert_allclose(found, subspace_angles(one, other, TRIAL).degrees, atol=1e-6)


def test_what_is_shared_and_what_is_not():
    found = subspace_angles(COURSES[:, :3], COURSES[:, 1:4], TRIAL).degrees
    np.testing.assert_allclose(found[:2], 0, atol=1e-6)
    assert found[2] > 80
    doubled = np.c_[COURSES[:, :2], COURSES[:, :1]]  # three latents, two dimensions
    assert len(subspace_angles(doubled, COURSES[:, :3], TRIAL).degrees) == 2


def test_the_spread_is_how_far_angles_vary():
    def angle(seed):
        x = np.random.default_rng(seed).normal(size=(600, 2))
        return subspace_angles(x[:, :1], x[:, :1] + 0.5 * x[:, 1:], TRIAL)

    found = [angle(seed) for seed in range(60)]
    varied = np.std([each.degrees[0] for each in found], ddof=1)
    assert np.mean([each.spread[0] for each in found]) == pytest.approx(varied, rel=0.3)
    assert subspace_angles(COURSES[:, :1], COURSES[:, 1:2], np.zeros(600, int)).spread is None


def test_mistakes_are_told():
    with pytest.raises(UserError, match="600 and 599 bins"):
        subspace_angles(COURSES, COURSES[1:], TRIAL)
    with pytest.raises(UserError, match="do not vary"):
        subspace_angles(COURSES, np.ones((600, 2)), TRIAL)
