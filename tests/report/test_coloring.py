"""Points that would shrink all others to a dot are left out, and counted."""

from __future__ import annotations

import numpy as np
import pytest

from lvmzoo.report.coloring import without_strays


def test_strays_are_left_out_and_counted() -> None:
    points = np.random.default_rng(0).normal(size=(5000, 3)) * [3.0, 1.5, 0.7]
    near, said = without_strays(points)
    np.testing.assert_array_equal(near, points)
    assert said == ""
    points[[3, 70], [0, 2]] = [60.0, -40.0]
    near, said = without_strays(points)
    assert np.flatnonzero(np.isnan(near).all(1)).tolist() == np.flatnonzero(np.isnan(near).any(1)).tolist() == [3, 70]
    assert said == " Not shown: 2 points far from most others."


@pytest.mark.parametrize("points", [np.zeros((10, 2)), np.ones((1, 3)), np.eye(4), np.eye(300)])
def test_few_and_equal_points_stay(points: np.ndarray) -> None:
    near, said = without_strays(points)
    np.testing.assert_array_equal(near, points)
    assert said == ""
