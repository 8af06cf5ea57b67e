"""The least distance between maps up to orthonormal coordinates: closed forms, and an independent optimization."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.optimize import minimize

from lvmzoo.metrics.similarity import likeness


def orthogonal(n, random, reflected=False):
    turn = np.linalg.qr(random.normal(size=(n, n)))[0]
    if (np.linalg.det(turn) < 0) != reflected:
        turn[:, 0] *= -1
    return turn


@pytest.mark.parametrize("reflected", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_conjugate_maps_are_the_same(n, reflected):
    random = np.random.default_rng(n)
    a, turn = random.normal(size=(n, n)), orthogonal(n, random, reflected)
    found = likeness(a, turn @ a @ turn.T)
    assert found.distance < 1e-9
    assert found.angle < 1e-6
    np.testing.assert_allclose(found.turn @ a @ found.turn.T, turn @ a @ turn.T, atol=1e-9)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_symmetric_maps_differ_by_their_sorted_eigenvalues(n):
    a, b = np.random.default_rng(n).normal(size=(2, n, n))
    a, b = a + a.T, b + b.T
    expected = np.linalg.norm(np.linalg.eigvalsh(a) - np.linalg.eigvalsh(b))  # Hoffman and Wielandt
    assert likeness(a, b).distance == pytest.approx(expected, abs=1e-9)


def test_turns_in_a_plane_differ_by_their_eigenvalues():
    def plane(value):
        return np.array([[value.real, -value.imag], [value.imag, value.real]])

    one, other = 0.9 * np.exp(0.3j), 0.8 * np.exp(-0.5j)  # a reflection turns the other way
    assert likeness(plane(one), plane(other)).distance == pytest.approx(np.sqrt(2) * abs(one - other.conjugate()))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_an_independent_optimization_finds_nothing_nearer(n):
    random = np.random.default_rng(10 + n)
    a, b = random.normal(size=(2, n, n))
    rows, columns = np.triu_indices(n, 1)

    def turned(angles, start):
        skew = np.zeros((n, n))
        skew[rows, columns] = angles
        return expm(skew - skew.T) @ start

    def distance(angles, start):
        turn = turned(angles, start)
        return ((turn @ a @ turn.T - b) ** 2).sum()

    starts = [orthogonal(n, random, reflected) for reflected in (False, True) for _ in range(12)]
    best = min(minimize(distance, np.zeros(len(rows)), (start,), tol=1e-12).fun for start in starts)
    assert likeness(a, b).distance == pytest.approx(np.sqrt(best), abs=1e-6)


def test_the_order_and_the_coordinates_do_not_matter():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 5, 5))
    turn = orthogonal(5, random)
    distance = likeness(a, b).distance
    assert likeness(b, a).distance == pytest.approx(distance, abs=1e-8)
    assert likeness(turn @ a @ turn.T, b).distance == pytest.approx(distance, abs=1e-8)


def test_the_angle_does_not_see_a_factor():
    random = np.random.default_rng(0)
    a, turn = random.normal(size=(4, 4)), orthogonal(4, random)
    found = likeness(a, 3 * turn @ a @ turn.T)
    assert found.angle < 1e-6
    assert found.distance == pytest.approx(2 * np.linalg.norm(a))
    assert likeness(np.zeros((3, 3)), np.zeros((3, 3))).distance == 0
